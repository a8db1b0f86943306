"""PROXY protocol, versions 1 and 2, from clients and towards endpoints, for HTTP and TCP."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.client import Client
from support.origin import Origin
from support.ports import free_port
from support.proxy import Proxy
from support.tcp import TcpServer, echo, receive_exactly
from support.wire import get

Start = Callable[..., Proxy]
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def v2(command: int, family: int, addresses: bytes, extra: bytes = b"") -> bytes:
    return (
        SIGNATURE
        + bytes([0x20 | command, family])
        + struct.pack("!H", len(addresses) + len(extra))
        + addresses
        + extra
    )


def v2_tcp4(source: str, port: int, extra: bytes = b"") -> bytes:
    addresses = socket.inet_aton(source) + socket.inet_aton("10.0.0.9") + struct.pack("!HH", port, 80)
    return v2(1, 0x11, addresses, extra)


def v2_tcp6(source: str, port: int) -> bytes:
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, "::9")
    return v2(1, 0x21, addresses + struct.pack("!HH", port, 80))


@pytest.fixture(scope="module")
def accepting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[tuple[str, int], Origin]]:
    """An HTTP listener that takes PROXY headers from 127.0.0.1 (trusted), not from 127.0.0.2."""
    origin = Origin()
    address = ("127.0.0.1", free_port())
    config = {
        "workers": 1,
        "trusted_proxies": ["127.0.0.1/32"],
        "defaults": {"timeouts": {"header": "500ms"}},
        "listeners": {"web": {"bind": f"127.0.0.1:{address[1]}", "accept_proxy": True, "routes": {"/": "o"}}},
        "services": {"o": {"endpoints": [origin.text]}},
    }
    proxy = Proxy(tmp_path_factory.mktemp("proxy"), config).start()
    yield address, origin
    print(proxy.new_stderr())
    proxy.stop()
    origin.close()


Accepting = tuple[tuple[str, int], Origin]

GOOD = {
    "v1-tcp4": (b"PROXY TCP4 203.0.113.7 10.0.0.9 5555 80\r\n", "203.0.113.7"),
    "v1-tcp6": (b"PROXY TCP6 2001:db8::7 ::9 5555 80\r\n", "2001:db8::7"),
    "v1-unknown": (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    "v1-unknown-with-addresses": (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", "127.0.0.1"),
    "v2-tcp4": (v2_tcp4("203.0.113.7", 5555), "203.0.113.7"),
    "v2-tcp6": (v2_tcp6("2001:db8::7", 5555), "2001:db8::7"),
    "v2-local": (v2(0, 0, b""), "127.0.0.1"),
    "v2-tlv": (v2_tcp4("203.0.113.7", 5555, b"\x04\x00\x03abc" + b"\x05\x00\x00"), "203.0.113.7"),
}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("fragmented", [False, True], ids=["whole", "bytewise"])
def test_source_address_is_taken_over(accepting: Accepting, name: str, fragmented: bool) -> None:
    address, _ = accepting
    header, source = GOOD[name]
    with Client(address) as client:
        if fragmented:
            client.send_pieces(header[index : index + 1] for index in range(len(header)))
        else:
            client.send(header)
        fields = {name.lower(): value for name, value in client.request(get("/a")).json()["fields"]}
        assert [part.strip() for part in fields["x-forwarded-for"].split(",")][-1] == source
        assert client.request(get("/b")).status == 200


BAD = {
    "none": b"",
    "v1-lower": b"proxy TCP4 1.2.3.4 10.0.0.9 5555 80\r\n",
    "v1-bad-address": b"PROXY TCP4 1.2.3.999 10.0.0.9 5555 80\r\n",
    "v1-family-mismatch": b"PROXY TCP4 2001:db8::7 ::9 5555 80\r\n",
    "v1-port": b"PROXY TCP4 1.2.3.4 10.0.0.9 99999 80\r\n",
    "v1-few-parts": b"PROXY TCP4 1.2.3.4 10.0.0.9 5555\r\n",
    "v1-lf": b"PROXY TCP4 1.2.3.4 10.0.0.9 5555 80\n",
    "v1-too-long": b"PROXY UNKNOWN " + b"x" * 200 + b"\r\n",
    "v1-other-family": b"PROXY UDP4 1.2.3.4 10.0.0.9 5555 80\r\n",
    "v2-version": SIGNATURE + b"\x11\x11\x00\x0c" + b"\0" * 12,
    "v2-command": SIGNATURE + b"\x2f\x11\x00\x0c" + b"\0" * 12,
    "v2-short-addresses": SIGNATURE + b"\x21\x11\x00\x04" + b"\0" * 4,
    "v2-bad-signature": b"\r\n\r\n\0\r\nQUIT\r" + b"\x21\x11\x00\x0c" + b"\0" * 12,
}


@pytest.mark.parametrize("name", BAD)
def test_malformed_or_missing_header_ends_the_connection(accepting: Accepting, name: str) -> None:
    address, origin = accepting
    mark = origin.mark()
    with Client(address) as client:
        client.send(BAD[name] + get("/smuggled"))
        answer = client.read_to_end()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400 "), answer
    assert origin.since(mark).requests == []


def test_header_that_does_not_come_is_timed_out(accepting: Accepting) -> None:
    address, _ = accepting
    for part in (b"PROXY TCP4", SIGNATURE[:7], SIGNATURE + b"\x21\x11\x00\x0c\0"):
        with Client(address) as client:
            client.send(part)
            answer = client.read_to_end()
            assert answer == b"" or answer.startswith((b"HTTP/1.1 408 ", b"HTTP/1.1 400 ")), answer


def test_header_from_a_peer_that_is_not_trusted(accepting: Accepting) -> None:
    """It is refused, or read as HTTP (and then it is none): its address is never believed."""
    address, origin = accepting
    mark = origin.mark()
    with Client(address, source="127.0.0.2") as client:
        client.send(GOOD["v1-tcp4"][0] + get("/untrusted"))
        answer = client.read_to_end()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400 "), answer
    for request in origin.since(mark).requests:
        assert "203.0.113.7" not in str(request.fields)


def _read_header(sock: socket.socket, version: str) -> tuple[str, int]:
    """(source address, source port) of the PROXY header that a connection begins with."""
    if version == "v1":
        line = b""
        while not line.endswith(b"\r\n"):
            line += receive_exactly(sock, 1)
            assert len(line) <= 107
        words = line.decode().split(" ")
        assert words[0] == "PROXY"
        assert words[1] in ("TCP4", "TCP6")
        return words[2], int(words[4])
    start = receive_exactly(sock, 16)
    assert start[:12] == SIGNATURE
    assert start[12] == 0x21
    rest = receive_exactly(sock, struct.unpack("!H", start[14:16])[0])
    if start[13] == 0x11:
        return socket.inet_ntoa(rest[:4]), struct.unpack("!H", rest[8:10])[0]
    assert start[13] == 0x21
    return socket.inet_ntop(socket.AF_INET6, rest[:16]), struct.unpack("!H", rest[32:34])[0]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_header_towards_the_endpoint_of_a_tcp_relay(start: Start, version: str) -> None:
    seen: list[tuple[str, int]] = []

    def handler(sock: socket.socket) -> None:
        seen.append(_read_header(sock, version))
        echo(sock)

    with TcpServer(handler) as server:
        port = free_port()
        listener = {"bind": f"127.0.0.1:{port}", "protocol": "tcp", "service": "db"}
        start(
            {
                "listeners": {"db": listener},
                "services": {"db": {"endpoints": [server.text], "send_proxy": version}},
            }
        )
        with socket.create_connection(("127.0.0.1", port), 10) as sock:
            sock.sendall(b"payload")
            assert receive_exactly(sock, 7) == b"payload"
            assert seen == [sock.getsockname()]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_header_is_passed_on_through_a_tcp_relay(start: Start, version: str) -> None:
    seen: list[tuple[str, int]] = []

    def handler(sock: socket.socket) -> None:
        seen.append(_read_header(sock, version))
        echo(sock)

    with TcpServer(handler) as server:
        port = free_port()
        listener = {"bind": f"127.0.0.1:{port}", "protocol": "tcp", "service": "db", "accept_proxy": True}
        start(
            {
                "trusted_proxies": ["127.0.0.0/8"],
                "listeners": {"db": listener},
                "services": {"db": {"endpoints": [server.text], "send_proxy": version}},
            }
        )
        with socket.create_connection(("127.0.0.1", port), 10) as sock:
            sock.sendall(v2_tcp4("203.0.113.7", 5555) + b"payload")
            assert receive_exactly(sock, 7) == b"payload"
        assert seen == [("203.0.113.7", 5555)]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_header_towards_an_http_endpoint(start: Start, version: str) -> None:
    """It names one client, so a connection that begins with it may serve no other client."""
    seen: list[tuple[str, int]] = []

    def handler(sock: socket.socket) -> None:
        source = _read_header(sock, version)
        seen.append(source)
        while True:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                data = sock.recv(1)
                if not data:
                    return
                head += data
            body = f"{source[0]}:{source[1]}".encode()
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    with TcpServer(handler) as server:
        port = free_port()
        service: dict[str, Any] = {"endpoints": [server.text], "send_proxy": version}
        start(
            {
                "listeners": {"web": {"bind": f"127.0.0.1:{port}", "routes": {"/": "o"}}},
                "services": {"o": service},
            }
        )
        for _ in range(3):
            with Client(("127.0.0.1", port)) as client:
                host, source_port = client.sock.getsockname()
                for _ in range(3):
                    assert client.request(get("/")).body.decode() == f"{host}:{source_port}"
