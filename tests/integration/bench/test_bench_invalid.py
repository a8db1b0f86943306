"""What goes wrong in mid-run makes the run invalid: it is seen, told and kept out of the figures."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench import report, rows
from bench.contenders import CONTENDERS, HTTP, Command, Contender, Job, Running
from bench.faults import CASES, Case, run_case
from bench.harness.origin import Origin
from bench.harness.place import Pinning, free_ports
from bench.latency import run_latency
from bench.measure import Bench, run_scenario
from bench.progress import Progress
from bench.scenarios import ALL, LATENCY, SMALL, LatencyScenario, Scenario

NAMES = ("floor", "nginx")


class OnRound(Progress):
    """Calls `act` once, when the given contender has had its first round."""

    def __init__(self, contender: str, act: Callable[[], None]) -> None:
        super().__init__(quiet=True)
        self._after = f" 1/2 {contender}:"
        self._act = act

    def say(self, text: str) -> None:
        if self._after in text:
            self._act()


class Started:
    """Bench.start, remembered: what a test does to a contender that the suite has started."""

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        self.running: dict[str, Running] = {}
        start = bench.start

        def remembered(name: str, *arguments: object, **named: object) -> Running:
            self.running[name] = start(name, *arguments, **named)  # type: ignore[arg-type]
            return self.running[name]

        monkeypatch.setattr(Bench, "start", lambda _self, name, *a, **n: remembered(name, *a, **n))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    cpus = sorted(os.sched_getaffinity(0))
    origin = Origin(free_ports(1), cpu=cpus[0], folder=tmp_path)
    chosen: dict[str, Contender] = {name: CONTENDERS[name] for name in ("direct", *NAMES)}
    absent = {name: "left out" for name in ALL if name not in chosen}
    yield Bench(Pinning(cpus[0], cpus[-1]), tmp_path, origin, chosen, absent)
    origin.stop()


def small() -> Scenario:
    return Scenario("small", "small", NAMES, rounds=2, seconds=1, connections=8)


def told(outcome: object) -> list[str]:
    return report.failures(rows.Results(outcomes={"small": outcome}))  # type: ignore[dict-item]


@pytest.mark.slow
def test_a_run_in_which_nothing_goes_wrong(bench: Bench) -> None:
    outcome = run_scenario(bench, small(), Progress(quiet=True))
    assert [outcome.failure(name) for name in NAMES] == ["", ""]
    assert told(outcome) == []


@pytest.mark.slow
def test_a_peer_that_is_killed_in_mid_run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    started = Started(bench, monkeypatch)
    progress = OnRound("nginx", lambda: os.kill(started.running["nginx"].child.pid, signal.SIGKILL))
    outcome = run_scenario(bench, small(), progress)
    assert "exit code -9" in outcome.failure("nginx")
    assert len(outcome.of("floor")) == 2, "the others go on"
    (line,) = told(outcome)
    assert line.startswith("small nginx: nginx ended with exit code -9")


@pytest.mark.slow
def test_a_worker_that_is_killed_and_started_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """nginx's master replaces it at once: few requests fail, but the figures would be of two processes."""
    started = Started(bench, monkeypatch)

    def kill_worker() -> None:
        os.kill(started.running["nginx"].tree()[-1], signal.SIGKILL)

    monkeypatch.setattr("bench.measure.load_on", _killing_load(kill_worker, "nginx"))
    outcome = run_scenario(bench, small(), Progress(quiet=True))
    assert "nginx" in outcome.failure("nginx")
    assert outcome.failure("floor") == ""


def _killing_load(kill: Callable[[], None], victim: str) -> Callable[..., object]:
    from bench.measure import load_on

    calls = {"left": 2}  # the warm-up, then the first round

    def load(bench: Bench, running: Running, scenario: Scenario, seconds: float | None = None) -> object:
        started = load_on(bench, running, scenario, seconds)
        if running.contender.name == victim:
            calls["left"] -= 1
            if calls["left"] == 0:
                started.wait_started()
                kill()
        return started

    return load


@pytest.mark.slow
def test_a_contender_that_does_not_start(bench: Bench) -> None:
    """`true` ends at once; the others go on."""
    broken = replace(CONTENDERS["floor"], command=lambda job: Command(["/bin/true"]))
    chosen = replace(bench, contenders={**bench.contenders, "floor": broken})
    outcome = run_scenario(chosen, replace(small(), rounds=1), Progress(quiet=True))
    assert "floor ended with exit code 0" in outcome.failure("floor")
    assert len(outcome.of("nginx")) == 1
    assert told(outcome)[0].startswith("small floor: floor ended with exit code 0")


@pytest.mark.slow
def test_workers_whose_master_was_killed_are_ended(bench: Bench) -> None:
    running = bench.start("nginx")
    workers = running.tree()[1:]
    os.kill(running.child.pid, signal.SIGKILL)
    running.stop()
    assert workers
    deadline = time.monotonic() + 10
    while (left := [pid for pid in workers if is_running(pid)]) and time.monotonic() < deadline:
        time.sleep(0.01)  # a killed process takes a moment to go
    assert left == []


def is_running(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


STRANGER = r"""
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), reuse_port=True)
while True:
    connection, _ = listener.accept()
    try:
        while data := connection.recv(65536):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 160\r\n\r\n" + b"x" * 160)
    except ConnectionError:
        pass  # a client that ends with answers unread resets: the next one is served all the same
    connection.close()
"""


@pytest.mark.slow
def test_answers_that_the_origin_did_not_send(bench: Bench) -> None:
    def command(job: Job) -> Command:
        return Command([sys.executable, "-c", STRANGER, str(job.http_port)])

    stranger = Contender("stranger", command, lambda: "x", listeners=frozenset({HTTP}))
    chosen = replace(bench, contenders={"stranger": stranger})
    scenario = Scenario("small", "small", ("stranger",), rounds=1, seconds=1, connections=1)
    outcome = run_scenario(chosen, scenario, Progress(quiet=True))
    assert "did not come from the origin" in outcome.failure("stranger")


@pytest.mark.slow
def test_an_origin_that_answers_500(bench: Bench) -> None:
    port = bench.origin.ports[0]
    progress = OnRound("nginx", lambda: bench.origin.behave(port, "fail status 500"))
    outcome = run_scenario(bench, small(), progress)
    for name in NAMES:
        assert outcome.failure(name).startswith("failed requests: "), name
    judged = [row for row in rows.ROWS if row.name == "small-floor"]
    verdict = rows.judge_all(rows.Results(outcomes={"small": outcome}), judged)[0]
    assert verdict.verdict in ("INVALID", "NONE")
    assert "THIS RUN IS INVALID" in report.as_text(rows.Results(outcomes={"small": outcome}), [])


@pytest.mark.slow
def test_latency_of_an_origin_that_fails_is_invalid(bench: Bench) -> None:
    capacity = run_scenario(bench, small(), Progress(quiet=True))
    scenario = LatencyScenario("latency-25", "x", ("direct", *NAMES), rounds=2, share=0.05, seconds=1)
    progress = OnRound("nginx", lambda: bench.origin.behave(bench.origin.ports[0], "fail reset"))
    outcome = run_latency(bench, scenario, capacity, progress)
    assert outcome.rate % 100 == 0
    assert "failed requests" in outcome.failure("nginx")
    assert outcome.of("direct")[0].result.failed == 0


@pytest.mark.slow
def test_latency_is_told_by_percentile(bench: Bench, tmp_path: Path) -> None:
    capacity = run_scenario(bench, small(), Progress(quiet=True))
    scenario = LatencyScenario("latency-50", "x", ("direct", "floor"), rounds=2, share=0.05, seconds=1)
    outcome = run_latency(bench, scenario, capacity, Progress(quiet=True))
    found = outcome.quantiles("floor")
    assert 0 < found["50"]["value"] <= found["99"]["value"]  # type: ignore[operator]
    assert outcome.failure("floor") == ""
    outcome.write_hgrm(tmp_path / "hgrm")
    assert "TotalCount" in (tmp_path / "hgrm/latency-50-floor.hgrm").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_fault_happens_and_is_counted(bench: Bench, case: Case) -> None:
    """nginx rides out an endpoint that is killed; one that fails fast is seen by its clients."""
    short = Case(**{**vars(case), "rounds": 1, "contenders": ("nginx",)})
    outcome = run_case(bench, short, Progress(quiet=True))
    assert outcome.absent == {}
    summary = outcome.summary("nginx")
    assert summary["requests"], summary
    if case.name == "failing":
        assert outcome.failed_requests("nginx") > 0
    if case.name == "drain":
        assert summary["errors"]["connect"] > 0, "refused, once it has gone"  # type: ignore[index]
    if case.name == "slow":
        assert summary["max_us"] > 400_000  # type: ignore[operator]


def test_the_suite_knows_all_its_contenders() -> None:
    assert SMALL.contenders[0] == "floor"
    assert all(scenario.contenders == ALL for scenario in LATENCY)
