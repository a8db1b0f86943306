"""Listening sockets that somebody else opened and keeps: systemd-socket-activate, and a holder of ours where
the sockets have to outlive the process."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.client import Client
from support.origin import Origin
from support.ports import free_port
from support.proxy import Proxy
from support.real import program
from support.waiting import eventually
from support.wire import get

Make = Callable[..., Proxy]
Origins = Callable[..., Origin]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """A proxy that is not started yet; it is stopped, with its verdict, when the test ends."""
    made: list[Proxy] = []

    def make(config: dict[str, Any], **settings: Any) -> Proxy:
        made.append(Proxy(tmp_path, {"workers": 2, "drain": {"timeout": "5s"}, **config}, **settings))
        return made[-1]

    yield make
    for proxy in made:
        print(proxy.new_stderr())
    try:
        for proxy in made:
            proxy.stop()
    finally:
        for proxy in made:
            proxy.kill()


def to(origin: Origin, *binds: str) -> dict[str, Any]:
    listeners = {f"l{number}": {"bind": bind, "routes": {"/": "o"}} for number, bind in enumerate(binds)}
    return {"listeners": listeners, "services": {"o": {"endpoints": [origin.text]}}}


def activated(*listen: str, names: str = "") -> tuple[str, ...]:
    """It listens, waits for the first client, and becomes fastmesh."""
    passed = ("PYTHONPATH", "PYTHONUNBUFFERED", "LD_PRELOAD", "ASAN_OPTIONS", "UBSAN_OPTIONS", "LC_ALL")
    return (
        program("systemd-socket-activate"),
        *(f"--listen={address}" for address in listen),
        *(f"--setenv={name}" for name in passed),
        *([f"--fdname={names}"] if names else []),
    )


def served(*addresses: tuple[str, int] | str) -> None:
    for address in addresses:
        with Client(address) as client:
            assert client.request(get("/")).status == 200, address


def first_client(address: tuple[str, int]) -> Client:
    """As soon as somebody listens."""

    def connected() -> Client | None:
        try:
            return Client(address)
        except ConnectionRefusedError:
            return None

    return eventually(connected, "systemd-socket-activate to listen")  # type: ignore[return-value]


def test_every_kind_of_address(make: Make, origins: Origins, tmp_path: Path) -> None:
    ports = [free_port() for _ in range(3)]
    path = str(tmp_path / "web.sock")
    listen = (f"127.0.0.1:{ports[0]}", f"[::1]:{ports[1]}", str(ports[2]), path)
    binds = (f"127.0.0.1:{ports[0]}", f"[::1]:{ports[1]}", f":{ports[2]}", f"unix:{path}")
    proxy = make(to(origins(), *binds), under=activated(*listen, names="a:b:c:d")).start(ready=False)
    with first_client(("127.0.0.1", ports[0])) as waited:
        assert waited.request(get("/")).status == 200
    proxy.wait_ready()
    served(("127.0.0.1", ports[0]), ("::1", ports[1]), ("127.0.0.1", ports[2]), ("::1", ports[2]), path)
    assert f"systemd handed in {', '.join(binds)}" in proxy.stderr
    assert "warning" not in proxy.stderr
    shown = {item["binds"][0] for item in proxy.api("listeners")["listeners"]}
    assert shown == set(binds)
    proxy.stop()
    # Its file is systemd's, which goes on listening; here it has ended with the process.
    assert Path(path).is_socket()


def test_the_admin_api(make: Make, origins: Origins) -> None:
    proxy = make(to(origins(), "127.0.0.1:0"))
    proxy.under = activated(f"127.0.0.1:{proxy.admin_port}")
    proxy.start(ready=False)
    first_client(("127.0.0.1", proxy.admin_port)).close()
    proxy.wait_ready()
    assert f"systemd handed in 127.0.0.1:{proxy.admin_port}" in proxy.stderr
    assert "warning" not in proxy.stderr


def test_an_address_that_nothing_binds_is_named(make: Make, origins: Origins) -> None:
    used, unused = free_port(), free_port()
    listen = (f"127.0.0.1:{used}", f"127.0.0.1:{unused}")
    origin = origins()
    proxy = make(to(origin, f"127.0.0.1:{used}"), under=activated(*listen)).start(ready=False)
    with first_client(("127.0.0.1", unused)) as waiting:
        proxy.wait_ready()
        assert proxy.stderr.count("which no listener binds") == 1
        assert f"systemd handed in 127.0.0.1:{unused}, which no listener binds" in proxy.stderr
        served(("127.0.0.1", used))
        # A change brings the listener, and whoever has waited is served.
        proxy.write(to(origin, f"127.0.0.1:{used}", f"127.0.0.1:{unused}"))
        assert waiting.request(get("/")).status == 200


class Holder:
    """Listening sockets that stay open, as those of a .socket unit do, while fastmesh comes and goes."""

    def __init__(self, *sockets: socket.socket) -> None:
        self.sockets = sockets

    def under(self) -> dict[str, Any]:
        """How fastmesh is started: the descriptors come to 3, 4, … and the variables are set."""
        descriptors = tuple(sock.fileno() for sock in self.sockets)
        script = "".join(f"exec {100 + n}<&{fd};" for n, fd in enumerate(descriptors))
        script += "".join(f"exec {3 + n}<&{100 + n} {100 + n}<&-;" for n in range(len(descriptors)))
        script += 'export LISTEN_PID=$$; exec "$@"'
        return {
            "under": ("bash", "-c", script, "bash"),
            "descriptors": descriptors,
            "environment": {"LISTEN_FDS": str(len(descriptors))},
        }


@contextmanager
def held(*, reuse_port: bool = False, path: str | None = None) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX if path else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, reuse_port) if not path else None
        sock.bind(path or ("127.0.0.1", 0))
        sock.listen(128)
        yield sock


def test_who_connects_while_nothing_runs_is_served_by_the_next(
    make: Make, origins: Origins, tmp_path: Path
) -> None:
    """Three processes, one after the other; clients come all the time."""
    path = str(tmp_path / "web.sock")
    with ExitStack() as stack:
        tcp, unix = stack.enter_context(held()), stack.enter_context(held(path=path))
        port = tcp.getsockname()[1]
        config = to(origins(), f"127.0.0.1:{port}", f"unix:{path}")
        ended, results = threading.Event(), []

        def connect_on(address: tuple[str, int] | str) -> None:
            while not ended.is_set():
                with Client(address, timeout=20) as client:
                    results.append(client.request(get("/", b"Connection: close")).status)

        clients = [threading.Thread(target=connect_on, args=(a,)) for a in (("127.0.0.1", port), path)]
        proxy = make(config, **Holder(tcp, unix).under()).start()
        for client in clients:
            client.start()
        try:
            for _ in range(3):
                before = len(results)
                eventually(lambda least=before + 20: len(results) > least, "clients to be served")
                proxy.signal(signal.SIGTERM)
                assert proxy.wait_exit() == 0
                with Client(("127.0.0.1", port)) as one, Client(path) as other:
                    proxy.start()
                    assert one.request(get("/")).status == other.request(get("/")).status == 200
        finally:
            ended.set()
            for client in clients:
                client.join()
        assert set(results) == {200}
        assert Path(path).is_socket()


@pytest.mark.parametrize("reuse_port", [False, True])
def test_a_listener_that_goes_and_comes_back(make: Make, origins: Origins, reuse_port: bool) -> None:
    with held(reuse_port=reuse_port) as sock:
        address = sock.getsockname()
        bind, other, origin = f"127.0.0.1:{address[1]}", f"127.0.0.1:{free_port()}", origins()
        proxy = make(to(origin, bind, other), **Holder(sock).under()).start()
        served(address)
        for _ in range(2):
            proxy.write(to(origin, other))
            eventually(lambda: len(proxy.api("listeners")["listeners"]) == 1, "the listener to go")
            with Client(address) as waiting:
                proxy.write(to(origin, bind, other))
                assert waiting.request(get("/")).status == 200


def test_descriptors_and_variables_stay_with_the_process(make: Make, origins: Origins) -> None:
    with held() as sock:
        port = sock.getsockname()[1]
        proxy = make(to(origins(), f"127.0.0.1:{port}"), **Holder(sock).under()).start()
        flags = Path(f"/proc/{proxy.pid}/fdinfo/3").read_text().split("flags:\t")[1].split()[0]
        assert int(flags, 8) & os.O_CLOEXEC


def test_a_descriptor_that_is_not_there(make: Make, origins: Origins) -> None:
    proxy = make(
        to(origins(), "127.0.0.1:0"),
        under=("bash", "-c", 'export LISTEN_PID=$$; exec "$@"', "bash"),
        environment={"LISTEN_FDS": "1"},
    )
    proxy.start(ready=False)
    assert proxy.wait_exit() == 1
    assert "descriptor 3 (unknown)" in proxy.stderr
    assert "Traceback" not in proxy.stderr
