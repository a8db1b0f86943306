"""``fastmesh run`` with the real data plane: draining, exit codes, logs, metrics, and the commands that ask
it."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from hdrh.histogram import HdrHistogram

from support.client import Client
from support.origin import Origin
from support.ports import free_port
from support.proxy import ROOT, Proxy
from support.waiting import eventually

GET = b"GET %s HTTP/1.1\r\nHost: test\r\n\r\n"


@pytest.fixture
def origin():
    origin = Origin()
    yield origin
    origin.close()


class Gate:
    """A handler of an origin that answers when the test opens it."""

    def __init__(self):
        self.reached = threading.Event()
        self.open = threading.Event()

    def __call__(self, exchange):
        self.reached.set()
        assert self.open.wait(20)
        exchange.reply(200, b"late\n")


@pytest.fixture
def start(tmp_path, origin):
    """Starts a proxy in front of the origin; gives (proxy, address). What is left is killed."""
    started = []

    def begin(**settings):
        port = free_port()
        config = {
            "workers": 2,
            "listeners": {"web": {"bind": f"127.0.0.1:{port}", "routes": {"/": "a"}}},
            "services": {"a": {"endpoints": [origin.text]}},
            **settings,
        }
        proxy = Proxy(tmp_path, config)
        proxy.config = config
        started.append(proxy)
        return proxy.start(), ("127.0.0.1", port)

    yield begin
    for proxy in started:
        proxy.kill()


def fastmesh(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "fastmesh", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=ROOT,
        check=False,
        **options,
    )


def refused(address):
    try:
        socket.create_connection(address, 5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_request_in_flight_finishes_during_the_drain(start, origin):
    proxy, address = start()
    gate = Gate()
    with origin.answering("/slow", gate), Client(address) as busy, Client(address) as idle:
        assert idle.request(GET % b"/first").status == 200
        busy.send(GET % b"/slow")
        assert gate.reached.wait(5)
        proxy.signal(signal.SIGTERM)
        # A client that asks all the while is answered, and learns when it is the last time.
        answer = idle.request(GET % b"/second")
        while not answer.says_close:
            answer = idle.request(GET % b"/second")
        assert answer.status == 200
        eventually(lambda: refused(address), "the listener closes")
        gate.open.set()
        answer = busy.read_response()
        assert (answer.status, answer.body, answer.says_close) == (200, b"late\n", True)
        assert proxy.wait_exit() == 0
    proxy.check_output()


def test_idle_clients_are_closed_at_the_end(start):
    proxy, address = start()
    with Client(address) as idle:
        assert idle.request(GET % b"/").status == 200
        proxy.signal(signal.SIGTERM)
        assert idle.how_it_ended() == "eof"
        assert proxy.wait_exit() == 0
    proxy.check_output()


def test_the_delay_still_accepts_while_readiness_fails(start):
    proxy, address = start(drain={"delay": "1500ms", "timeout": "10s"})
    proxy.signal(signal.SIGTERM)
    eventually(lambda: proxy.get("/readyz") == (503, b"draining\n"), "readiness fails")
    with Client(address) as client:
        answer = client.request(GET % b"/")
        assert (answer.status, answer.says_close) == (200, False)
    assert fastmesh("healthcheck", "--admin", f"127.0.0.1:{proxy.admin_port}").returncode == 1
    assert proxy.wait_exit() == 0
    proxy.check_output()


def test_the_deadline_cuts_off_and_exits_4(start, origin):
    proxy, address = start(drain={"timeout": "300ms"})
    gate = Gate()
    with origin.answering("/slow", gate), Client(address) as busy:
        busy.send(GET % b"/slow")
        assert gate.reached.wait(5)
        proxy.signal(signal.SIGTERM)
        assert proxy.wait_exit() == 4
        gate.open.set()
        assert busy.read_to_end() == b""
    assert "1 in progress are cut off" in proxy.stderr
    proxy.check_output()


def test_a_second_signal_cuts_off_and_exits_3(start, origin):
    proxy, address = start()
    gate = Gate()
    with origin.answering("/slow", gate), Client(address) as busy:
        busy.send(GET % b"/slow")
        assert gate.reached.wait(5)
        proxy.signal(signal.SIGTERM)
        proxy.wait_log("listeners are closed")
        proxy.signal(signal.SIGTERM)
        assert proxy.wait_exit() == 3
        gate.open.set()
        assert busy.read_to_end() == b""
    proxy.check_output()


def test_a_second_one_on_the_port_says_so(start, tmp_path):
    proxy, address = start()
    other = tmp_path / "other.yaml"
    other.write_text(proxy.file.read_text().replace(f"127.0.0.1:{proxy.admin_port}", "off"))
    result = fastmesh("run", other)
    assert result.returncode == 1
    assert f"127.0.0.1:{address[1]} is in use" in result.stderr
    assert "Traceback" not in result.stderr
    assert "leak" not in result.stderr
    proxy.stop()


def test_an_invalid_file_never_starts(tmp_path, origin):
    file = tmp_path / "fastmesh.yaml"
    file.write_text(
        "listeners:\n  web: {bind: ':0', routs: {/: a}}\nservices: {a: {endpoints: [1.2.3.4:5]}}\n"
    )
    ran, validated = fastmesh("run", file), fastmesh("validate", file)
    assert ran.returncode == validated.returncode == 1
    assert f"{file}:2:" in ran.stderr
    assert ran.stderr == validated.stdout
    assert "did you mean `routes`?" in ran.stderr


def test_ten_mistakes_are_ten_errors(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text(
        """\
wrokers: 2
drain: {delay: 5, timeout: soon}
limits: {header_bytes: 32}
access_log: {to: stdout, format: xml}
listeners:
  web:
    bind: 0.0.0.0:99999
    routes:
      - {path: user, service: user}
      - {path: /x, service: nobody}
services:
  user:
    endpoints: [10.0.0.1]
    balance: ring_hsah
"""
    )
    result = fastmesh("validate", file)
    assert result.returncode == 1
    places = [line for line in result.stdout.splitlines() if line.startswith(f"{file}:")]
    assert len(places) == 10
    assert all(line.removeprefix(f"{file}:").split(":")[:2] for line in places)
    as_json = json.loads(fastmesh("validate", "--format", "json", file).stdout)
    assert len(as_json["problems"]) == 10
    assert all(problem["line"] and problem["column"] for problem in as_json["problems"])


def test_metrics_and_latency_after_traffic(start, origin):
    proxy, address = start()
    with Client(address) as client:
        for _ in range(20):
            assert client.request(GET % b"/").status == 200
        eventually(
            lambda: proxy.metric("fastmesh_requests_total", service="a", code="200") == 20, "20 requests"
        )
        assert proxy.metric("fastmesh_connections_active", listener="web") == 1
    assert proxy.metric("fastmesh_connections_total", listener="web") == 1
    assert proxy.metric("fastmesh_request_duration_seconds_count", service="a") == 20
    assert proxy.metric("fastmesh_request_duration_seconds_bucket", service="a", le="60") == 20
    assert proxy.metric("fastmesh_endpoint_requests_total", endpoint=origin.text) == 20
    assert proxy.metric("fastmesh_endpoint_up", endpoint=origin.text) == 1
    assert proxy.metric("fastmesh_bytes_total", direction="received") == 20 * len(GET % b"/")
    assert proxy.metric("fastmesh_workers") == 2
    promtool = subprocess.run(
        ["promtool", "check", "metrics"], input=proxy.metrics(), text=True, capture_output=True, check=False
    )
    assert (promtool.returncode, promtool.stdout, promtool.stderr) == (0, "", "")
    latency = proxy.api("latency")
    [listener] = latency["listeners"]
    assert listener["count"] == 20
    assert 0 < listener["p50"] <= listener["p99"] <= listener["max"]
    merged = HdrHistogram(1, 2**26 - 1, 2)
    for _ in range(2):
        merged.decode_and_add(listener["encoded"])
    assert merged.get_total_count() == 40
    [endpoint] = latency["endpoints"]
    assert (endpoint["endpoint"], endpoint["count"]) == (origin.text, 20)
    [service] = proxy.api("services")["services"]
    assert service["endpoints"][0]["requests"] == 20
    assert [worker["index"] for worker in proxy.api("workers")["workers"]] == [0, 1]
    assert proxy.api("listeners")["listeners"][0]["binds"] == [f"127.0.0.1:{address[1]}"]
    proxy.stop()


def test_the_access_log_is_rotated_under_traffic(start, tmp_path):
    log = tmp_path / "access.log"
    proxy, address = start(access_log={"to": str(log), "format": "json"})
    moved = tmp_path / "access.log.1"
    with Client(address) as client:
        assert client.request(GET % b"/one").status == 200
        eventually(lambda: "/one" in log.read_text(), "the first line")
        log.rename(moved)
        proxy.signal(signal.SIGUSR1)
        proxy.wait_log(f"reopened {log}")
        assert client.request(GET % b"/two").status == 200
        eventually(lambda: "/two" in log.read_text(), "the second line")
    assert "/two" not in moved.read_text()
    assert "/one" not in log.read_text()
    proxy.stop()


def test_a_change_is_in_effect_within_a_second_and_a_bad_one_is_refused(start, origin):
    proxy, address = start()
    other = Origin(name="other")
    try:
        changed = {**proxy.config, "services": {"a": {"endpoints": [other.text]}}}
        proxy.replace(changed)
        began = time.monotonic()
        eventually(lambda: proxy.metric("fastmesh_config_reloads_total", result="applied") == 1, "the change")
        assert time.monotonic() - began < 1.5
        with Client(address) as client:
            assert client.request(GET % b"/").status == 200
        assert len(other.connections) == 1
        proxy.write({**changed, "listners": {}})
        eventually(
            lambda: proxy.metric("fastmesh_config_reloads_total", result="refused") == 1, "the refusal"
        )
        assert "did you mean `listeners`?" in proxy.stderr
        with Client(address) as client:
            assert client.request(GET % b"/").status == 200
    finally:
        other.close()
    proxy.stop()


def test_the_commands_that_ask_a_running_one(start):
    proxy, _ = start()
    admin = f"127.0.0.1:{proxy.admin_port}"
    ready = fastmesh("healthcheck", "--admin", admin)
    assert (ready.returncode, ready.stdout) == (0, "ready\n")
    unchanged = fastmesh("reload", "--admin", admin)
    assert (unchanged.returncode, unchanged.stdout) == (0, "unchanged\n")
    proxy.write("nonsense: [")
    bad = fastmesh("reload", "--admin", admin)
    assert bad.returncode == 1
    assert "refused" in bad.stderr
    assert f"{proxy.file}:1:" in bad.stderr
    ended = fastmesh("drain", "--wait", "--admin", admin)
    assert ended.returncode == 0
    assert (ended.stdout.splitlines()[0], ended.stdout.splitlines()[-1]) == ("draining", "ended")
    assert proxy.wait_exit() == 0
    gone = fastmesh("healthcheck", "--admin", admin)
    assert gone.returncode == 1
    assert "is fastmesh running" in gone.stderr


def test_admin_on_a_unix_socket_and_off(start, tmp_path):
    path = tmp_path / "fm.sock"
    proxy, address = None, None
    port = free_port()
    file = tmp_path / "unix.yaml"
    text = (
        f"admin: unix:{path}\nlisteners:\n  web: {{bind: '127.0.0.1:{port}', routes: {{/: a}}}}\n"
        "services: {a: {endpoints: [127.0.0.1:1]}}\n"
    )
    proxy, address = Proxy(tmp_path, text), ("127.0.0.1", port)
    try:
        proxy.start(ready=False)
        proxy.wait_log("serves")
        assert fastmesh("healthcheck", "--admin", f"unix:{path}").returncode == 0
        assert fastmesh("drain", "--wait", "--admin", f"unix:{path}").returncode == 0
        assert proxy.wait_exit() == 0
        assert not path.exists()
        proxy.write(text.replace(f"unix:{path}", "off"))
        proxy.start(ready=False)
        proxy.wait_log("admin off")
        with Client(address) as client:
            assert client.request(GET % b"/").status in (502, 503)
    finally:
        file.unlink(missing_ok=True)
        proxy.stop()


def test_idle_memory_is_within_the_budget(start, sanitized):
    if sanitized:
        pytest.skip("a sanitizer build takes more")
    proxy, _ = start()
    resident = proxy.resident_bytes()
    assert resident <= 36 * 1024 * 1024, f"{resident / 1024:.0f} KiB"
    proxy.stop()
