"""Random traffic: against a proxy whose configuration changes, against a worker that runs out of memory.

`FASTMESH_CHAOS_SECONDS` makes it longer than a CI run, `FASTMESH_CHAOS_SEED` repeats one.
"""

from __future__ import annotations

import os
import random
import resource
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.chaos import ChaosClient, ChaosOrigin, Findings
from support.ports import free_port
from support.proxy import Proxy
from support.waiting import eventually

SECONDS = float(os.environ.get("FASTMESH_CHAOS_SECONDS", "3"))
SEED = os.environ.get("FASTMESH_CHAOS_SEED") or str(random.SystemRandom().randrange(1 << 32))
CLIENTS = int(os.environ.get("FASTMESH_CHAOS_CLIENTS", "10"))
PATIENCE = 15.0  # all time-outs are below a second: a client that waits longer has been forgotten
WAITS = {"connect": "500ms", "response": "600ms", "idle": "600ms", "header": "500ms"}


def configuration(
    rng: random.Random, ports: list[int], path: str, origins: list[ChaosOrigin], log: str
) -> dict[str, Any]:
    """A random one; the first listener always has the first port, so that clients find it."""

    def service() -> dict[str, Any]:
        some = rng.sample(origins, rng.randrange(1, len(origins) + 1))
        key = {"key": [{"header": "x-rid"}]}
        balance = rng.choice(["round_robin", "random", "least_request", {"policy": "ring_hash", **key}])
        return {
            "endpoints": [{"address": origin.text, "weight": rng.randrange(1, 5)} for origin in some],
            "balance": balance,
            "upstream": {"keepalive": rng.choice([0, 1, 16]), "idle": rng.choice(["100ms", "10s"])},
        }

    routes = [
        {"path": "/moved", "redirect": {"to": "/elsewhere"}},
        {"path": "/r", "service": rng.choice(["s", "t", {"s": 1, "t": 1}])},
    ]
    listener = {"routes": routes, "upgrade": ["websocket"]}
    listeners = {rng.choice(["web", "shop"]): {"bind": [f"127.0.0.1:{ports[0]}", f"unix:{path}"], **listener}}
    if rng.random() < 0.5:
        listeners["second"] = {"bind": f"127.0.0.1:{ports[1]}", **listener}
    return {
        "workers": 2,
        "drain": {"timeout": "5s"},
        "access_log": {"to": log, "format": rng.choice(["json", "combined"])},
        "limits": {"body": rng.choice(["250KiB", "none"])},
        "defaults": {"timeouts": {**WAITS, **({"total": "2s"} if rng.random() < 0.2 else {})}},
        "listeners": listeners,
        "services": {"s": service(), "t": service()},
    }


def run_clients(
    seed: str,
    addresses: list[Any],
    findings: Findings,
    meanwhile: Callable[[], None],
    at_the_end: Callable[[], None] = lambda: None,
) -> None:
    """Random clients, and `meanwhile` again and again; then `at_the_end`, and what the clients have begun."""
    deadline = time.monotonic() + SECONDS
    clients = [
        ChaosClient(number, seed, addresses, deadline, findings, PATIENCE) for number in range(CLIENTS)
    ]
    for client in clients:
        client.start()
    while time.monotonic() < deadline and not findings.wrong:
        meanwhile()
    at_the_end()
    for client in clients:
        client.deadline = 0
    for client in clients:
        client.join(PATIENCE * 3)
        assert not client.is_alive(), f"client {client.number} hangs"


def report(findings: Findings) -> None:
    print("seed", SEED, dict(sorted(findings.counts.items(), key=lambda item: -item[1])))
    assert not findings.wrong, "\n".join([f"seed {SEED}", *findings.wrong[:10]])


@pytest.mark.timeout(int(SECONDS) + 120)
def test_random_traffic_during_changes(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    findings = Findings()
    origins = [ChaosOrigin(findings) for _ in range(3)]
    ports = [free_port(), free_port()]
    path = str(tmp_path / "web.sock")
    log = str(tmp_path / "access.log")

    def fresh() -> dict[str, Any]:
        return configuration(rng, ports, path, origins, log)

    proxy = Proxy(tmp_path, fresh())
    proxy.start()

    def change() -> None:
        time.sleep(0.12)
        proxy.replace(fresh())

    try:
        run_clients(
            SEED,
            [("127.0.0.1", ports[0]), ("127.0.0.1", ports[0]), ("127.0.0.1", ports[1]), path],
            findings,
            change,
        )
        print(proxy.stderr[-3000:])
        report(findings)

        def settled() -> bool:
            listeners = proxy.api("listeners")["listeners"]
            endpoints = [row for service in proxy.api("services")["services"] for row in service["endpoints"]]
            return not any(row["connections_active"] for row in listeners) and not any(
                row["in_flight"] or row["connections_active"] for row in endpoints
            )

        eventually(settled, "everything to end", within=10)
        proxy.stop()
    finally:
        proxy.kill()
        for origin in origins:
            origin.close()


@pytest.mark.timeout(int(SECONDS) + 120)
def test_random_traffic_with_few_descriptors(tmp_path: Path) -> None:
    """accept, connect and pipe2 fail again and again with EMFILE."""
    rng = random.Random(SEED)
    findings = Findings()
    origins = [ChaosOrigin(findings) for _ in range(3)]
    ports = [free_port(), free_port()]
    path = str(tmp_path / "web.sock")
    config = configuration(rng, ports, path, origins, str(tmp_path / "access.log"))
    proxy = Proxy(tmp_path, {**config, "limits": {"connections": 200}})
    proxy.start()

    def squeeze() -> None:
        used = len(list(Path(f"/proc/{proxy.pid}/fd").iterdir()))
        _, hard = resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (used + rng.choice([-20, 0, 1, 3, 200]), hard))
        time.sleep(0.1)

    try:
        before = resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE)
        # With the last squeeze left in force, a client that cannot be accepted would wait for ever.
        loosen = partial(resource.prlimit, proxy.pid, resource.RLIMIT_NOFILE, before)
        run_clients(SEED, [("127.0.0.1", ports[0]), path], findings, squeeze, loosen)
        report(findings)
        proxy.stop()
    finally:
        proxy.kill()
        for origin in origins:
            origin.close()


@pytest.mark.timeout(int(SECONDS) + 120)
def test_random_traffic_without_memory() -> None:
    """Buffers and exchanges cannot be had at random moments; nothing leaks, nobody gets another's bytes."""
    stage = pytest.importorskip("support.stage")
    model = pytest.importorskip("fastmesh.model")
    rng = random.Random(SEED)
    findings = Findings()
    timeouts = model.Timeouts(connect=0.5, response=0.6, idle=0.6, idle_tcp=0.6, header=0.5)
    routes = (
        model.Route(model.Redirect("/elsewhere", 308), path="/moved"),
        model.Route(model.Forward((("s", 1),))),
    )
    it = stage.Stage(2, timeouts=timeouts, connection_limit=200, upgrade=("websocket",), routes=routes)
    origins = [ChaosOrigin(findings, origin.sock) for origin in it.origins]
    stop = threading.Event()

    def turns() -> None:
        while not stop.is_set():
            it.worker.turn_waiting()
            if rng.random() < 0.05:
                it.worker.fail_buffers_after(rng.choice([-1, -1, 0, 1, 2, 5, 20]))
                it.worker.fail_exchanges_after(rng.choice([-1, -1, -1, 0, 3]))

    thread = threading.Thread(target=turns)
    thread.start()
    try:
        run_clients(SEED, [str(it.front.path)], findings, lambda: time.sleep(0.05))
        report(findings)
    finally:
        stop.set()
        it.worker.post(stage.CLOSE_IDLE, -1, 0, 0)
        with socket.socket(socket.AF_UNIX) as waker:
            waker.connect(str(it.front.path))
        thread.join()
        for origin in origins:
            origin.close()
    it.worker.stop()
    assert set(it.worker.ledger().values()) == {0}, it.worker.ledger()
    for slot in range(len(origins)):
        ep = it.worker.endpoint(slot)
        assert ep is None or (ep["connections"], ep["idle"], ep["in_flight"], ep["slot_in_flight"]) == (
            0,
            0,
            0,
            0,
        )
    it.abandon()


def test_chaos_finds_bytes_of_others() -> None:
    """The traffic can fail: an origin that mixes up its answers is seen."""
    findings = Findings()
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def mixed_up() -> None:
            while not stop.is_set():
                try:
                    sock, _ = server.accept()
                except OSError:
                    return
                with sock:
                    sock.recv(65536)
                    sock.sendall(b"HTTP/1.1 200 OK\r\nX-Id: other\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=mixed_up, daemon=True).start()
        client = ChaosClient(0, "1", [server.getsockname()], time.monotonic() + 1, findings, 5)
        client.run()
        stop.set()
    assert any("got" in line for line in findings.wrong)
