"""Changes under load and the endurance run, against a stand-in for fastmesh: floors and an admin API."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.changes import change_under_load
from bench.contenders import Command, Contender, Job
from bench.endurance import drain, endure, exchanges_left, hold_tunnel, judge
from bench.harness.native import built
from bench.harness.origin import Origin
from bench.harness.place import BenchError, Pinning, free_ports
from bench.measure import Bench

STAND_IN = """
import http.server, json, os, signal, subprocess, sys
floor, http_port, tcp_port, origin, admin_port, config, fault = sys.argv[1:]
relays = [subprocess.Popen([floor, port, origin]) for port in (http_port, tcp_port)]
before, applied = open(config).read(), 0

class Api(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        global before, applied
        now = open(config).read()
        result = "applied" if now != before and not (fault == "refuses" and applied == 5) else "refused"
        before, applied = now, applied + 1
        if fault == "drops" and applied == 5:
            relays[0].kill()
        self.answer(json.dumps({"result": result}))

    def do_GET(self):
        self.answer({
            "/metrics": f'fastmesh_config_reloads_total{{result="applied"}} {applied}\\n'
                        'fastmesh_connections_active{listener="web"} 0\\n',
            "/api/v1/workers": json.dumps({"workers": [{"exchanges": int(fault == "leaks")}]}),
        }[self.path])

    def answer(self, text):
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments):
        pass

def end(*_):
    for relay in relays:
        relay.kill()
        relay.wait()
    if fault == "leaks":
        print("native objects leaked: {'exchange': 1}", flush=True)
    os._exit(4 if fault == "leaks" else 0)

signal.signal(signal.SIGTERM, end)
http.server.ThreadingHTTPServer(("127.0.0.1", int(admin_port)), Api).serve_forever()
"""


def stand_in(fault: str) -> Contender:
    def command(job: Job) -> Command:
        config = job.folder / "fastmesh.yaml"
        config.write_text("workers: 1\nlisteners:\n")
        ports = (job.http_port, job.tcp_port, job.origin_port, job.admin_port)
        script = [sys.executable, "-c", STAND_IN, str(built("relay_floor"))]
        return Command([*script, *map(str, ports), str(config), fault])

    return Contender("fastmesh", command, lambda: "stand-in", has_admin=True)


@pytest.fixture
def bench_with(tmp_path: Path) -> Iterator[Callable[[str], Bench]]:
    """Makes a bench whose fastmesh is a stand-in with the given fault."""
    cpus = sorted(os.sched_getaffinity(0))
    origin = Origin(free_ports(4), cpu=cpus[0], folder=tmp_path)

    def make(fault: str) -> Bench:
        return Bench(
            pinning=Pinning(cpus[0], cpus[-1]),
            folder=tmp_path,
            origin=origin,
            contenders={"fastmesh": stand_in(fault)},
            absent={},
        )

    yield make
    origin.stop()


def test_changes_under_load(bench_with: Callable[[str], Bench]) -> None:
    changes = change_under_load(bench_with(""), 20)
    assert (changes.applied, changes.failed, changes.errors) == (20, 0, "")
    assert changes.requests > 0
    assert len(changes.seconds_each) == 20


def test_a_refused_change_is_an_error(bench_with: Callable[[str], Bench]) -> None:
    with pytest.raises(BenchError, match=r"change 6 \(.*\) was not applied: .*refused"):
        change_under_load(bench_with("refuses"), 20)


def test_requests_that_fail_during_changes_are_counted(bench_with: Callable[[str], Bench]) -> None:
    assert change_under_load(bench_with("drops"), 20).failed > 0


@pytest.mark.slow
def test_an_endurance_run_holds(bench_with: Callable[[str], Bench]) -> None:
    bench = bench_with("")
    running = bench.start("fastmesh")
    try:
        account = endure(bench, running, requests=20_000, leg_seconds=1)
        problems = judge(account, 1.0, exchanges_left(running), drain(running))
    finally:
        running.stop()
    assert problems == []
    assert account.requests >= 20_000
    assert account.changes > 0


def test_a_tunnel_and_a_leak(bench_with: Callable[[str], Bench]) -> None:
    bench = bench_with("leaks")
    running = bench.start("fastmesh")
    try:
        account = hold_tunnel(bench, running, changes=20)
        problems = judge(account, 1.0, exchanges_left(running), drain(running))
    finally:
        running.stop()
    assert (account.changes, account.requests, account.failed) == (20, 20, 0)
    assert problems == [
        "the drain ended with 4",
        "native objects leaked: {'exchange': 1}",
        "1 exchanges are left though no client is",
    ]
