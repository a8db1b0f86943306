"""A data plane that serves from the sockets of another one, and begins with what that one knew."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastmesh.engine import DataPlane
from fastmesh.errors import StartError
from fastmesh.model import (
    Address,
    Balance,
    Bind,
    Config,
    Endpoint,
    Forward,
    Given,
    Listener,
    OutlierDetection,
    Respond,
    Route,
    Service,
)
from fastmesh.model.told import Passive, Told
from support.client import Client
from support.origin import Origin
from support.stage import get
from support.waiting import eventually

WEB = Bind("inet", "127.0.0.1", 0)
Run = Callable[..., DataPlane]


def answering(text: bytes, *binds: Bind) -> Config:
    route = Route(Respond(200, text))
    return Config({"web": Listener("web", binds or (WEB,), routes=(route,))}, {})


def taken(plane: DataPlane) -> dict[str, Given]:
    """The sockets of a data plane as another process would get them."""
    return {
        text: Given(tuple(sock.dup() for sock in held.sockets), ours=False)
        for text, held in plane.held_sockets().items()
    }


@pytest.fixture
def run() -> Iterator[Run]:
    """Start a data plane; it is stopped at the end, and must have let go of all."""
    planes: list[DataPlane] = []

    def run(config: Config, workers: int = 1, *, start: bool = True, **more: Any) -> DataPlane:
        plane = DataPlane(workers=workers, connection_limit=1000, **more)
        planes.append(plane)
        plane.apply(config, {})
        if start:
            plane.start()
        return plane

    yield run
    for plane in planes:
        plane.stop()
        assert not any(plane.ledger().values()), plane.ledger()


def where(plane: DataPlane) -> tuple[str, int]:
    (listener,) = plane.stats().listeners
    host, _, port = listener.binds[0].rpartition(":")
    return host, int(port)


def answer(address: tuple[str, int] | str) -> bytes:
    with Client(address) as client:
        body: bytes = client.request(get()).body
        return body


@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 3), (3, 1), (2, 3)])
def test_all_new_clients_are_the_new_ones(run: Run, before: int, after: int) -> None:
    """None is lost on the way, and the old one accepts none of them any more."""
    old = run(answering(b"old"), before)
    address = where(old)
    new = run(answering(b"new"), after, given=taken(old))
    assert where(new) == address
    for _ in range(20):
        assert answer(address) in (b"old", b"new")
    with Client(address) as waiting:  # which nobody has looked at yet, or just accepted
        old.leave_listeners(["127.0.0.1:0"])
        assert waiting.request(get()).status == 200
    assert {answer(address) for _ in range(50)} == {b"new"}
    assert old.held_sockets() == {}
    assert old.stats().listeners[0].connections_total + new.stats().listeners[0].connections_total == 71


def test_one_that_is_never_started_takes_no_client(run: Run) -> None:
    """Although it has more workers: what it would join does not listen before they run."""
    old = run(answering(b"old"))
    address = where(old)
    run(answering(b"new"), 4, start=False, given=taken(old))
    assert {answer(address) for _ in range(100)} == {b"old"}


def test_the_file_of_a_unix_socket(run: Run, tmp_path: Path) -> None:
    path = str(tmp_path / "s.sock")
    bind = Bind("unix", path=path)
    old = run(answering(b"old", bind))
    failed = run(answering(b"failed", bind), start=False, given=taken(old))
    failed.stop()
    assert answer(path) == b"old", "one that never served removes nothing"
    new = run(answering(b"new", bind), 2, given=taken(old))
    old.leave_listeners([bind.text])
    old.stop()
    new.own_listeners([bind.text, "unix:/no/such"])
    assert {answer(path) for _ in range(20)} == {b"new"}
    new.stop()
    assert not Path(path).exists()


def test_whoever_is_woken_for_a_shared_socket_answers(run: Run, tmp_path: Path) -> None:
    """Only one watcher is woken for a client of a Unix socket, and that may be the one that lets go of it."""
    path = str(tmp_path / "s.sock")
    bind = Bind("unix", path=path)
    old = run(answering(b"old", bind), 2)
    for _ in range(30):
        new = run(answering(b"new", bind), 2, given=taken(old))
        failures: list[object] = []

        def ask(failures: list[object] = failures) -> None:
            try:
                for _ in range(10):
                    with Client(path, timeout=3) as client:
                        client.request(get())
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        old.leave_listeners([bind.text])
        for thread in threads:
            thread.join()
        assert not failures
        old.stop()
        new.own_listeners([bind.text])
        old = new


def test_a_socket_that_nobody_wants_any_more_is_the_old_ones(run: Run) -> None:
    """It takes who waits there, and then nobody is let in."""
    more = Bind("inet", "127.0.0.2", 0)
    old = run(answering(b"old", WEB, more))
    given = taken(old)
    address = given[more.text].sockets[0].getsockname()
    new = run(answering(b"new"), given=given)
    assert new.release_given([WEB.text, more.text]) == (more.text,)
    assert new.release_given([more.text]) == ()
    old.leave_listeners([WEB.text])
    with Client(address) as client:
        old.close_listeners()
        assert client.request(get()).body == b"old"
    with pytest.raises(ConnectionRefusedError):
        Client(address)


def test_what_is_held_for_others_is_handed_on(run: Run) -> None:
    """systemd's sockets that no listener has just now, and whose they are."""
    held = socket.create_server(("127.0.0.1", 0))
    plane = run(answering(b"x"), given={"127.0.0.2:81": Given((held,), ours=False)})
    found = plane.held_sockets()
    assert found["127.0.0.2:81"].sockets == (held,)
    assert (found["127.0.0.2:81"].ours, found[WEB.text].ours) == (False, True)
    plane.leave_listeners(["127.0.0.2:81"])
    assert held.fileno() == -1


def test_a_failed_start_leaves_the_sockets_to_the_other(run: Run) -> None:
    old = run(answering(b"old"), 2)
    with socket.create_server(("127.0.0.1", 0)) as used:
        busy = Bind("inet", "127.0.0.1", used.getsockname()[1])
        plane = DataPlane(workers=4, connection_limit=10, given=taken(old))
        with pytest.raises(StartError, match="in use"):
            plane.apply(answering(b"new", WEB, busy), {})
        plane.stop()
    assert {answer(where(old)) for _ in range(30)} == {b"old"}


def test_a_worker_that_is_slow_to_let_go_keeps_its_descriptor(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would look for clients at whatever gets that number next."""
    old = run(answering(b"old"))
    new = run(answering(b"new"), given=taken(old))
    held = old.held_sockets()[WEB.text].sockets
    with monkeypatch.context() as patch:
        patch.setattr(old, "_wait_for_letters", lambda: False)
        old.leave_listeners([WEB.text])
    assert all(sock.fileno() >= 0 for sock in held)
    assert old.held_sockets() == {}
    eventually(lambda: answer(where(new)) == b"new", "the new one")
    old.stop()
    assert all(sock.fileno() == -1 for sock in held)


# ---------------------------------------------------------------- what is known of endpoints


@pytest.fixture
def origin() -> Iterator[Origin]:
    origin = Origin(name="a")
    yield origin
    origin.close()


def served(*endpoints: Endpoint, **settings: Any) -> Config:
    service = Service("s", endpoints, balance=Balance("round_robin"), **settings)
    return Config({"web": Listener("web", (WEB,), routes=(Route(Forward((("s", 1),))),))}, {"s": service})


def at(port: int) -> Endpoint:
    return Endpoint(Address("inet", "127.0.0.1", port))


def states(plane: DataPlane) -> dict[str, str]:
    return {one.address: one.state for one in plane.stats().endpoints}


def test_it_begins_with_what_was_told(run: Run, origin: Origin) -> None:
    """A slow start, one that is out and one that has failed before, each in its place."""
    port = origin.address[1]
    assert isinstance(port, int)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        dead = closed.getsockname()[1]
        rules = OutlierDetection(base_ejection_time=30.0, max_ejection_time=60.0)
        old = run(served(at(port), at(dead), outlier_detection=rules))
        for _ in range(4):
            assert b"200" in answer_head(where(old))
        assert states(old)[f"127.0.0.1:{dead}"] == "down"
        told = {item.address: item for item in old.tell()}
        assert told.keys() == {f"127.0.0.1:{dead}"}
        past = told[f"127.0.0.1:{dead}"].passive
        assert past is not None
        assert (past.out, past.ejections, past.ejected_for_ms) == (1, 1, 30_000)
        assert 25_000 < past.out_ms <= 30_000
        new = run(served(at(port), at(dead), outlier_detection=rules), told=old.tell())
        assert states(new) == states(old)
        assert not [line for line in new.tend() if "left out" in line], "that is no news"
        again = new.tell()[0].passive
        assert again is not None
        assert again.out_ms <= past.out_ms
        assert again.ejected_ago_ms >= past.ejected_ago_ms


def answer_head(address: tuple[str, int]) -> bytes:
    with Client(address) as client:
        head: bytes = client.request(get()).raw_head
        return head


def test_it_is_news_when_it_comes_back(run: Run, origin: Origin) -> None:
    port = origin.address[1]
    told = Told(
        "s", f"127.0.0.1:{port}", Passive(out=1, ejections=1, ejected_ago_ms=1000, ejected_for_ms=1000)
    )
    plane = run(served(at(int(port))), told=[told])
    assert states(plane) == {f"127.0.0.1:{port}": "half_open"}
    answer_head(where(plane))
    assert states(plane) == {f"127.0.0.1:{port}": "up"}
    assert plane.tend() == (f"service s: endpoint 127.0.0.1:{port} is back",)


def test_a_slow_start_goes_on(run: Run, origin: Origin) -> None:
    port = int(origin.address[1])
    told = Told("s", f"127.0.0.1:{port}", Passive(ramp_ms=60_000, ramp_ago_ms=30_000))
    plane = run(served(at(port), slow_start=60.0), told=[told])
    (again,) = plane.tell()
    assert again.passive is not None
    assert again.passive.ramp_ms == 60_000
    assert 30_000 <= again.passive.ramp_ago_ms < 35_000
    assert (plane._engine.slot_health(0) >> 40) & 0xFF == pytest.approx(127, abs=12)


def test_what_was_told_is_for_the_first_configuration(run: Run, origin: Origin) -> None:
    """An endpoint that comes later is a new one."""
    port = int(origin.address[1])
    told = Told("s", "127.0.0.1:9", Passive(out=1, out_ms=60_000, ejections=1))
    plane = run(served(at(port)), told=[told])
    plane.apply(served(at(port), at(9)), {})
    assert states(plane)["127.0.0.1:9"] == "up"
