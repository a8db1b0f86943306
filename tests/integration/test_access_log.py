"""The access log: a line for each exchange, true in each field, and reopened on USR1."""

from __future__ import annotations

import json
import re
import signal
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from support.client import Client
from support.origin import Exchange, Origin
from support.ports import free_port
from support.proxy import Proxy
from support.tcp import TcpServer, echo, receive_exactly
from support.waiting import eventually
from support.wire import get, post, request

Start = Callable[..., Proxy]
Origins = Callable[..., Origin]


class Logged:
    """A proxy with an access log in a file."""

    def __init__(self, start: Start, origin: Origin, folder: Path, form: str = "json") -> None:
        self.file = folder / "access.log"
        self.port = free_port()
        self.origin = origin
        self.proxy = start(
            {
                "access_log": {"to": str(self.file), "format": form},
                "listeners": {"web": {"bind": f"127.0.0.1:{self.port}", "routes": {"/": "o"}}},
                "services": {"o": {"endpoints": [origin.text]}},
            }
        )

    def client(self) -> Client:
        return Client(("127.0.0.1", self.port))

    def lines(self, count: int) -> list[str]:
        """Exactly so many lines, once they are there."""

        def enough() -> list[str] | None:
            lines = self.file.read_text().splitlines() if self.file.exists() else []
            return lines if len(lines) >= count else None

        lines = eventually(enough, f"{count} lines in the log")
        assert len(lines) == count, lines
        return lines

    def records(self, count: int) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines(count)]


@pytest.fixture
def logged(start: Start, origins: Origins, tmp_path: Path) -> Logged:
    return Logged(start, origins(), tmp_path)


def test_fields_of_a_json_line(logged: Logged) -> None:
    before = datetime.now(UTC)
    with logged.client() as client:
        raw = request(
            "POST",
            "/a?b=c",
            b"Content-Length: 5",
            b"User-Agent: tester/1",
            b"Referer: http://x/",
            host=b"h.test",
            body=b"hello",
        )
        response = client.request(raw)
        seen = logged.origin.requests_for("/a")[0]
    (record,) = logged.records(1)
    assert record["listener"] == "web"
    assert record["service"] == "o"
    assert record["endpoint"] == logged.origin.text
    assert record["client"].startswith("127.0.0.1")
    assert record["method"] == "POST"
    assert record["host"] == "h.test"
    assert record["target"] == "/a?b=c"
    assert record["protocol"] == "HTTP/1.1"
    assert record["status"] == 200
    assert record["error"] is None
    assert record["bytes_received"] == len(raw)
    assert record["bytes_sent"] == len(response.raw_head) + len(response.body)
    assert 0 <= record["upstream_ms"] <= record["duration_ms"] < 5000
    assert record["request_id"] == seen.get("x-request-id")
    assert record["user_agent"] == "tester/1"
    assert record["referer"] == "http://x/"
    moment = datetime.fromisoformat(record["time"])
    assert abs((moment - before).total_seconds()) < 5


def test_one_line_for_each_exchange_in_order(logged: Logged) -> None:
    with logged.client() as client:
        client.send(b"".join(get(f"/{number}") for number in range(50)))
        for _ in range(50):
            client.read_response()
    assert [record["target"] for record in logged.records(50)] == [f"/{number}" for number in range(50)]


def test_errors_are_named(logged: Logged) -> None:
    def broken(exchange: Exchange) -> None:
        exchange.send(b"garbage\r\n\r\n")
        exchange.close()

    with logged.client() as client:
        client.send(get("/", b"A : b"))
        refused = client.read_to_end()
    (bad,) = logged.records(1)
    assert (bad["status"], bad["error"], bad["service"]) == (400, "bad_request", None)
    assert bad["bytes_sent"] == len(refused)
    with logged.origin.answering("/broken", broken), logged.client() as client:
        client.request(get("/broken"))
    record = logged.records(2)[1]
    assert (record["status"], record["error"], record["service"]) == (502, "upstream_malformed", "o")


def test_client_that_left(logged: Logged) -> None:
    def wait(exchange: Exchange) -> None:
        exchange.wait_peer_end()

    with logged.origin.answering("/left", wait):
        client = logged.client()
        client.send(get("/left"))
        logged.origin.wait_request("/left")
        client.reset()
        (record,) = logged.records(1)
    assert (record["status"], record["error"]) == (499, "client_aborted")


def test_strange_bytes_stay_one_valid_line(logged: Logged) -> None:
    with logged.client() as client:
        client.request(get('/"quoted"\\', b'User-Agent: "a\\b"\t\x80\xff\xc3\xa9', b"Referer: </script>"))
        client.request(get("/next"))
    first, second = logged.records(2)
    assert first["target"] == '/"quoted"\\'
    assert first["user_agent"].startswith('"a\\b"\t')
    assert second["target"] == "/next"


COMBINED = re.compile(
    r'(?P<client>\S+) - - \[(?P<time>[^\]]+)\] "(?P<line>(?:[^"\\]|\\.)*)" (?P<status>\d{3}) (?P<size>\d+|-) '
    r'"(?P<referer>(?:[^"\\]|\\.)*)" "(?P<agent>(?:[^"\\]|\\.)*)"'
)


def test_combined_format(start: Start, origins: Origins, tmp_path: Path) -> None:
    logged = Logged(start, origins(), tmp_path, "combined")
    with logged.client() as client:
        client.request(get("/a?b", b'User-Agent: say "hi"', b"Referer: http://x/"))
    match = COMBINED.fullmatch(logged.lines(1)[0])
    assert match is not None
    assert match["client"] == "127.0.0.1"
    assert match["line"] == "GET /a?b HTTP/1.1"
    assert match["status"] == "200"
    assert match["referer"] == "http://x/"
    assert "hi" in match["agent"]
    datetime.strptime(match["time"], "%d/%b/%Y:%H:%M:%S %z")


def test_log_is_reopened_on_usr1(logged: Logged) -> None:
    with logged.client() as client:
        client.request(get("/one"))
        logged.lines(1)
        old = logged.file.rename(logged.file.with_suffix(".1"))
        client.request(get("/two"))
        eventually(lambda: len(old.read_text().splitlines()) == 2, "the line in the renamed file")
        logged.proxy.signal(signal.SIGUSR1)
        eventually(logged.file.exists, "a new file")
        client.request(get("/three"))
    (record,) = logged.records(1)
    assert record["target"] == "/three"
    assert len(old.read_text().splitlines()) == 2


def test_nothing_is_lost_at_the_end(logged: Logged) -> None:
    with logged.client() as client:
        for number in range(500):
            client.request(post(f"/{number}", b"x"))
    logged.proxy.stop()
    assert len(logged.file.read_text().splitlines()) == 500


def test_standard_output(start: Start, origins: Origins) -> None:
    origin, port = origins(), free_port()
    proxy = start(
        {
            "access_log": {"to": "stdout", "format": "json"},
            "listeners": {"web": {"bind": f"127.0.0.1:{port}", "routes": {"/": "o"}}},
            "services": {"o": {"endpoints": [origin.text]}},
        }
    )
    with Client(("127.0.0.1", port)) as client:
        client.request(get("/out"))
    eventually(lambda: '"/out"' in proxy.stdout, "the line on standard output")
    assert json.loads(proxy.stdout.splitlines()[0])["target"] == "/out"


def test_tcp_connections_are_logged(start: Start, tmp_path: Path) -> None:
    port = free_port()
    file = tmp_path / "access.log"
    with TcpServer(echo) as server:
        start(
            {
                "access_log": {"to": str(file), "format": "json"},
                "listeners": {"db": {"bind": f"127.0.0.1:{port}", "protocol": "tcp", "service": "db"}},
                "services": {"db": {"endpoints": [server.text]}},
            }
        )
        with socket.create_connection(("127.0.0.1", port), 10) as sock:
            sock.sendall(b"hello")
            assert receive_exactly(sock, 5) == b"hello"
        eventually(lambda: file.exists() and file.read_text().endswith("\n"), "the line")
    record = json.loads(file.read_text())
    assert (record["listener"], record["service"], record["protocol"]) == ("db", "db", "TCP")
    assert (record["bytes_received"], record["bytes_sent"]) == (5, 5)
