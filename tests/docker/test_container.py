"""fastmesh in a container: the demo, a read-only file system, limits, changes, the end, time to ready."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.containers import Container
from support.engine import Engine
from support.native_source import ROOT
from support.waiting import eventually

ORIGIN = ROOT / "tests" / "support" / "container_origin.py"
ADMIN, WEB = 9400, 8080
# No write anywhere, no capability, none to be had.
LOCKED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges")
PUBLISH = ("--publish", f"127.0.0.1::{WEB}", "--publish", f"127.0.0.1::{ADMIN}")
RESPOND = """\
admin: 0.0.0.0:9400
listeners:
  web: {bind: ":8080", routes: [{path: /, respond: {status: 200, body: %s}}]}
"""
RELAY = """\
admin: 0.0.0.0:9400
listeners:
  web: {bind: ":8080", service: origin}
  raw: {bind: ":8081", protocol: tcp, service: origin}
services:
  origin: {endpoints: ["origin:8000"]}
"""
READY_AT_MOST = 3.0  # times `python -c 'import trio'`
MEASURE = """
import json, socket, statistics, subprocess, sys, time
def trio():
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", "import trio"], check=True)
    return time.monotonic() - begun
def is_ready():
    try:
        with socket.create_connection(("127.0.0.1", 9400), 1) as asking:
            asking.sendall(b"GET /readyz HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n")
            return asking.recv(100).startswith(b"HTTP/1.1 200")
    except OSError:
        return False
def ready():
    begun = time.monotonic()
    with subprocess.Popen(["fastmesh", "run", "fastmesh.yaml"], stderr=subprocess.DEVNULL) as process:
        while not is_ready():
            assert process.poll() is None and time.monotonic() - begun < 30
            time.sleep(0.002)
        taken = time.monotonic() - begun
        process.terminate()
    return taken
print(json.dumps([(trio(), ready()) for _ in range(9)]))
"""

Start = Callable[..., Container]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that the image's user can read when it is mounted."""
    made = tmp_path / "configuration"
    made.mkdir(mode=0o755)
    return made


@pytest.fixture
def start(engine: Engine, image: str, folder: Path) -> Iterator[Start]:
    """`start(text, *options)`: a ready container with this configuration; its log is shown after the test."""
    started: list[Container] = []

    def start(text: str, *options: str, ready: bool = True) -> Container:
        (folder / "fastmesh.yaml").write_text(text)
        mount = ("--volume", f"{folder}:/etc/fastmesh:ro")
        started.append(engine.run(*PUBLISH, *mount, *options, image, "run", "fastmesh.yaml"))
        if ready:
            eventually(lambda: is_ready(started[-1]), "readiness", within=20)
        return started[-1]

    yield start
    for container in started:
        print(container.logs())


@pytest.fixture
def network(engine: Engine, base: str) -> str:
    """A network with an origin of the name `origin` on port 8000."""
    name = engine.network()
    origin = engine.run(
        *("--network", name, "--network-alias", "origin", "--volume", f"{ORIGIN}:/origin.py:ro"),
        *(base, "python3", "/origin.py", "8000"),
        name="origin",
    )
    fetch = "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/')"
    eventually(
        lambda: origin.exec("sh", "-c", f'python3 -c "{fetch}" 2>&1 || true') == "", "the origin", within=20
    )
    return name


def ask(port: int, method: str = "GET", path: str = "/", body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def is_ready(container: Container) -> bool:
    try:
        return ask(container.published(ADMIN), path="/readyz")[0] == 200
    except (KeyError, IndexError):
        raise AssertionError(f"{container.name} has ended:\n{container.logs()}") from None
    except (OSError, http.client.HTTPException):  # docker-proxy accepts before anybody serves
        return False


def view(container: Container, name: str) -> Any:
    return json.loads(ask(container.published(ADMIN), path=f"/api/v1/{name}")[1])


def test_the_demo_answers_without_any_argument(engine: Engine, image: str) -> None:
    container = engine.run(*PUBLISH, "--health-interval=1s", image)
    eventually(lambda: is_ready(container), "readiness", within=20)
    names = {ask(container.published(WEB))[1].split()[2] for _ in range(6)}
    assert names == {b"origin-1", b"origin-2", b"origin-3"}
    container.healthy()
    container.docker("stop", "--time=20")
    assert container.state["ExitCode"] == 0


def test_the_demo_needs_no_place_to_write_to(engine: Engine, image: str) -> None:
    container = engine.run(*PUBLISH, *LOCKED, image)
    eventually(lambda: is_ready(container), "readiness", within=20)
    assert ask(container.published(WEB))[0] == 200


def test_a_container_that_does_not_serve_is_unhealthy(engine: Engine, image: str) -> None:
    """Its admin API listens elsewhere, so the check finds nobody."""
    check = ("--health-interval=200ms", "--health-retries=2", "--health-start-period=1ms")
    container = engine.run(*check, image, "demo", "--admin-port", "9499")
    eventually(
        lambda: container.state["Health"]["Status"] == "unhealthy", "the verdict", within=30, every=0.1
    )
    told = engine.run(*check, "--env", "FASTMESH_ADMIN=127.0.0.1:9499", image, "demo", "--admin-port", "9499")
    told.healthy()


def test_traffic_under_the_default_seccomp_profile(start: Start, network: str) -> None:
    """HTTP and TCP, bodies that are spliced, and the watchdog's signals; nothing of it is denied."""
    container = start(RELAY, "--network", network, "--publish", "127.0.0.1::8081", *LOCKED)
    assert "Seccomp:\t2" in container.exec("cat", "/proc/1/status")
    assert "CapBnd:\t0000000000000000" in container.exec("cat", "/proc/1/status")
    sent = os.urandom(3 << 20)
    for port in (container.published(WEB), container.published(8081)):
        for _ in range(3):
            status, body = ask(port, path="/big")
            assert (status, len(body)) == (200, 4 << 20)
            assert ask(port, "POST", body=sent) == (200, hashlib.sha256(sent).hexdigest().encode())
    assert [line for line in container.logs().splitlines() if " info " not in line] == []


def test_a_quota_of_one_cpu_makes_one_worker(start: Start) -> None:
    container = start(RESPOND % "x", "--cpus=1")
    assert len(view(container, "workers")["workers"]) == 1


def test_without_a_quota_there_is_a_worker_for_each_cpu(start: Start) -> None:
    container = start(RESPOND % "x")
    assert len(view(container, "workers")["workers"]) == len(os.sched_getaffinity(0))


def test_the_limit_of_memory_is_the_containers(start: Start) -> None:
    container = start(RESPOND % "x", "--memory=192m")
    memory = view(container, "overload")["resources"]["memory"]
    assert memory["limit"] == 192 << 20
    assert 0 < memory["used"] < 128 << 20


def test_term_lets_a_request_end_and_exits_with_0(start: Start, network: str) -> None:
    container = start(RELAY, "--network", network)
    answers = []
    asking = threading.Thread(target=lambda: answers.append(ask(container.published(WEB), path="/slow?3")))
    asking.start()
    eventually(
        lambda: view(container, "services")["services"][0]["endpoints"][0]["in_flight"] == 1,
        "the request to be on its way",
    )
    begun = time.monotonic()
    container.docker("stop", "--time=20")
    taken = time.monotonic() - begun
    asking.join(20)
    assert [status for status, _ in answers] == [200]
    assert container.state["ExitCode"] == 0
    assert 1 < taken < 10, taken


def test_term_without_traffic_ends_at_once(start: Start) -> None:
    container = start(RESPOND % "x")
    begun = time.monotonic()
    container.docker("stop", "--time=20")
    assert time.monotonic() - begun < 5
    assert container.state["ExitCode"] == 0


def test_a_swapped_config_map_is_picked_up(engine: Engine, image: str, folder: Path) -> None:
    """As the kubelet does it: `fastmesh.yaml` leads through `..data`, which is renamed over in one step."""

    def version(number: int) -> str:
        name = f"..2026_01_0{number}"
        (folder / name).mkdir(mode=0o755)
        (folder / name / "fastmesh.yaml").write_text(RESPOND % f"v{number}")
        return name

    (folder / "..data").symlink_to(version(1))
    (folder / "fastmesh.yaml").symlink_to("..data/fastmesh.yaml")
    mount = ("--volume", f"{folder}:/etc/fastmesh:ro")
    container = engine.run(*PUBLISH, *LOCKED, *mount, image, "run", "/etc/fastmesh/fastmesh.yaml")
    eventually(lambda: is_ready(container), "readiness", within=20)
    assert ask(container.published(WEB)) == (200, b"v1")
    for number in (2, 3):
        old = folder / (folder / "..data").readlink()
        (folder / "..data_tmp").symlink_to(version(number))
        (folder / "..data_tmp").rename(folder / "..data")
        (old / "fastmesh.yaml").unlink()
        old.rmdir()
        expected = f"v{number}".encode()
        eventually(lambda: ask(container.published(WEB))[1] == expected, expected.decode(), within=3)  # noqa: B023


def test_time_to_ready_beside_the_import_of_trio(engine: Engine, image: str, folder: Path) -> None:
    (folder / "fastmesh.yaml").write_text(RESPOND % "x")
    mount = ("--volume", f"{folder}:/etc/fastmesh:ro")
    run = ("run", "--rm", *LOCKED, *mount, "--entrypoint", "/opt/fastmesh/bin/python3", image)
    pairs = json.loads(engine.docker(*run, "-c", MEASURE))
    trio, ready = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(ready / trio for trio, ready in pairs)
    print(f"import trio {trio * 1000:.0f} ms, ready {ready * 1000:.0f} ms, ratio {ratio:.2f}")
    assert ratio <= READY_AT_MOST
