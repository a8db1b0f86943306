"""The compose example: a chain through three sidecars and an edge, a canary, and a load that loses nothing
while a service is scaled and its replicas are killed and paused."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.compose import EXAMPLE, Compose
from support.containers import Container
from support.engine import Engine
from support.ports import free_port
from support.real import program
from support.waiting import eventually

FOLLOWED_WITHIN = 2.0  # seconds from a container's start or end to its requests
LOAD_SECONDS = 200  # at most: it ends when the changes are done
CONNECTIONS = 64
# A request that hit a paused replica waits for its two seconds, and a small machine makes all wait.
TIMEOUT_SECONDS = 15
FETCH = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9400/%s').read().decode())"

Up = Callable[..., "Project"]


class Project:
    """The example, up."""

    def __init__(self, compose: Compose, port: int, admin_port: int) -> None:
        self.compose = compose
        self.port = port
        self.admin_port = admin_port

    def ask(self, port: int | None = None, path: str = "/") -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=20)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
            return response.status, json.loads(body) if body.startswith(b"{") else body
        finally:
            connection.close()

    def answers(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.ask()[0] == 200
        return False

    def is_left_out(self, replica: Container) -> bool:
        """Whether stock's proxy gives this replica no requests."""
        (network,) = replica.inspect()["NetworkSettings"]["Networks"]
        address = f"{replica.address(network)}:8000"
        (proxy,) = self.compose.containers("stock-proxy")
        (service,) = json.loads(proxy.exec("python3", "-c", FETCH % "api/v1/services"))["services"]
        states = {item["address"]: item["state"] for item in service["endpoints"]}
        return states[address] != "up"

    def who_answers(self, requests: int = 30) -> Counter[str]:
        """The last of the chain, as `name@container`, of so many requests."""
        answers = Counter[str]()
        for _ in range(requests):
            status, body = self.ask()
            assert status == 200, body
            answers[body["chain"][0]] += 1
        return answers

    def canary_answers(self) -> bool:
        """Whether one more request went to a canary that listens; until it does, a tenth is refused."""
        status, body = self.ask()
        return status == 200 and body["chain"][0].startswith("stock-canary@")


@pytest.fixture
def up(engine: Engine, image: str, base: str) -> Iterator[Up]:
    """Start the example with these files and options of `compose up`."""
    projects: list[Compose] = []

    def up(*options: str, files: tuple[str, ...] = ("compose.yaml",)) -> Project:
        port, admin_port = free_port(), free_port()
        compose = Compose(
            engine,
            [EXAMPLE / name for name in files],
            FASTMESH_IMAGE=image,
            APP_IMAGE=base,
            PORT=str(port),
            ADMIN_PORT=str(admin_port),
        )
        projects.append(compose)
        compose("up", "--detach", *options)
        project = Project(compose, port, admin_port)
        eventually(project.answers, "an answer through the whole chain", within=60, every=0.2)
        return project

    yield up
    for compose in projects:
        print(compose("logs", "--no-color")[-20_000:])
        compose.down()


def test_a_request_goes_through_all_of_them(up: Up) -> None:
    project = up()
    status, body = project.ask()
    assert status == 200
    assert [name.partition("@")[0] for name in body["chain"]] == ["stock", "orders", "shop"]
    (edge,) = project.compose.containers("edge")
    assert project.ask(project.admin_port, "/readyz")[0] == 200
    edge.healthy()
    # Each proxy has counted it, on its way in and out.
    for service, counted in (
        ("edge", ["shop"]),
        ("shop-sidecar", ["app", "orders"]),
        ("orders-sidecar", ["app", "stock"]),
        ("stock-proxy", ["stock"]),
    ):
        (container,) = project.compose.containers(service)
        metrics = container.exec("python3", "-c", FETCH % "metrics")
        for name in counted:
            counter = rf'^fastmesh_requests_total{{[^}}]*service="{name}"[^}}]*}} (\d+)'
            found = re.findall(counter, metrics, re.MULTILINE)
            assert sum(map(int, found)) > 0, (service, name, metrics)


def test_a_canary_gets_its_share(up: Up) -> None:
    project = up(files=("compose.yaml", "compose.canary.yaml"))
    eventually(project.canary_answers, "an answer of the canary", within=60)
    seen = Counter(name.partition("@")[0] for name in project.who_answers(300).elements())
    assert set(seen) == {"stock", "stock-canary"}
    assert 5 <= seen["stock-canary"] <= 75, seen  # 10 % of 300; beyond 5 sigma on either side it is no tenth


def test_scaling_is_followed_within_two_seconds(up: Up) -> None:
    project = up()
    for replicas in (3, 2):
        project.compose("up", "--detach", "--no-recreate", "--scale", f"stock={replicas}")
        expected = {container.exec("hostname").strip() for container in project.compose.containers("stock")}
        assert len(expected) == replicas

        def all_answer(expected: set[str] = expected) -> bool:
            return {name.partition("@")[2] for name in project.who_answers(12)} == expected

        eventually(all_answer, f"answers of {replicas} replicas", within=FOLLOWED_WITHIN + 1)


@pytest.mark.slow
@pytest.mark.timeout(300, func_only=True)
def test_no_request_fails_while_replicas_come_and_go(up: Up, tmp_path: Path) -> None:
    project = up()
    compose = project.compose
    wrk = subprocess.Popen(
        [
            *(program("wrk"), "--threads", "2", "--connections", str(CONNECTIONS)),
            *("--duration", f"{LOAD_SECONDS}s", "--timeout", f"{TIMEOUT_SECONDS}s", "--latency"),
            f"http://127.0.0.1:{project.port}/",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        compose("up", "--detach", "--no-recreate", "--scale", "stock=3")
        eventually(lambda: len(project.who_answers(12)) == 3, "answers of three replicas", within=20)
        first, second, _third = compose.containers("stock")
        first.docker("kill")
        eventually(lambda: len(project.who_answers(12)) == 2, "answers of two replicas", within=20)
        second.docker("pause")
        eventually(lambda: project.is_left_out(second), "the paused one to be left out", within=30, every=0.2)
        assert len(project.who_answers(12)) == 1
        second.docker("unpause")
        eventually(lambda: len(project.who_answers(12)) == 2, "answers of two replicas again", within=30)
        compose("up", "--detach", "--no-recreate", "--scale", "stock=2")
        eventually(lambda: len(project.who_answers(12)) == 2, "answers of both replicas", within=20)
        assert wrk.poll() is None, "the load ended before the changes did"
        wrk.send_signal(signal.SIGINT)  # it ends, and prints what it saw
        output, _ = wrk.communicate(timeout=TIMEOUT_SECONDS + 20)
    finally:
        wrk.kill()
        wrk.wait()
    print(output)
    done = re.search(r"(\d+) requests in", output)
    assert done is not None
    assert int(done[1]) > 10 * CONNECTIONS, output
    assert "Non-2xx" not in output, output
    assert "Socket errors" not in output, output
