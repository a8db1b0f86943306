"""The PROXY protocol: the header that a trusted peer sends, and the one that an endpoint is sent."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Literal

import pytest

from fastmesh.model import Balance, HashKey, Timeouts
from support.stage import OK, End, Stage, get

SetStage = Callable[..., Stage]
LOOPBACK = ("127.0.0.0/8",)
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.9 4321 8080\r\n"
V1_IPV6 = b"PROXY TCP6 2001:db8::7 2001:db8::9 4321 8080\r\n"
V2 = (
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"
    + bytes([192, 0, 2, 7])
    + bytes([198, 51, 100, 9])
    + struct.pack("!HH", 4321, 8080)
)


def forwarded_for(upstream: End) -> bytes:
    head = upstream.head()
    (line,) = [line for line in head.split(b"\r\n") if line.lower().startswith(b"x-forwarded-for: ")]
    return line[17:]


def behind_a_proxy(set_stage: SetStage, **settings: Any) -> Stage:
    return set_stage(tcp=True, accept_proxy=True, **{"trusted": LOOPBACK, **settings})


@pytest.mark.parametrize(
    ("header", "client_ip"),
    [(V1, b"192.0.2.7"), (V2, b"192.0.2.7"), (V1_IPV6, b"2001:db8::7"), (b"PROXY UNKNOWN\r\n", b"127.0.0.1")],
    ids=["v1", "v2", "v1 ipv6", "unknown"],
)
@pytest.mark.parametrize("bytewise", [False, True])
def test_the_header_of_a_trusted_peer_is_believed(
    set_stage: SetStage, header: bytes, client_ip: bytes, bytewise: bool
) -> None:
    stage = behind_a_proxy(set_stage)
    client = stage.client()
    raw = header + get()
    for at in range(0, len(raw), 1 if bytewise else len(raw)):
        client.send(raw[at : at + (1 if bytewise else len(raw))])
        stage.turn()
    upstream = stage.origins[0].accept()
    assert forwarded_for(upstream) == client_ip
    upstream.send(OK)
    client.until(b"ok")
    stage.exchange(client, upstream)


def test_whom_a_header_names_is_not_trusted_for_the_peers_sake(set_stage: SetStage) -> None:
    """The peer may tell whose connection it is; what that client says of others is its own."""
    stage = behind_a_proxy(set_stage)
    client = stage.client()
    client.send(V1 + get("/", b"X-Forwarded-For: 203.0.113.1"))
    assert forwarded_for(stage.origins[0].accept()) == b"192.0.2.7"


def test_a_header_may_name_a_trusted_client(set_stage: SetStage) -> None:
    stage = behind_a_proxy(set_stage, trusted=(*LOOPBACK, "192.0.2.0/24"))
    client = stage.client()
    client.send(V1 + get("/", b"X-Forwarded-For: 203.0.113.1"))
    assert forwarded_for(stage.origins[0].accept()) == b"203.0.113.1, 192.0.2.7"


def test_a_peer_that_is_not_trusted_sends_no_header(set_stage: SetStage) -> None:
    stage = behind_a_proxy(set_stage, trusted=("192.0.2.0/24",))
    client = stage.client()
    client.send(get())
    assert forwarded_for(stage.origins[0].accept()) == b"127.0.0.1"
    client = stage.client()
    client.send(V1 + get())
    assert client.head().startswith(b"HTTP/1.1 400 ")


def test_a_trusted_peer_without_a_header_is_refused(set_stage: SetStage) -> None:
    stage = behind_a_proxy(set_stage)
    client = stage.client()
    client.send(get())
    assert client.head().startswith(b"HTTP/1.1 400 ")
    assert stage.worker.errors() == {"bad_proxy_header": 1}


def test_a_header_that_does_not_come_in_time(set_stage: SetStage) -> None:
    stage = behind_a_proxy(set_stage, timeouts=Timeouts(header=0.04))
    client = stage.client()
    client.send(V1[:10])
    stage.wait(lambda: not stage.of_kind("client"), "the client to be closed")
    assert client.end() in ("eof", "reset")


def test_the_header_counts_for_hashing(set_stage: SetStage) -> None:
    """Two clients behind one proxy are two."""
    stage = behind_a_proxy(set_stage, origins=4, balance=Balance("ring_hash", (HashKey("source_ip"),)))
    chosen = set()
    for number in range(24):
        client = stage.client()
        client.send(b"PROXY TCP4 192.0.2.%d 198.51.100.9 4321 8080\r\n" % number + get())
        stage.settle()
        for index, origin in enumerate(stage.origins):
            upstream = origin.waiting()
            if upstream is not None:
                chosen.add(index)
    assert len(chosen) > 1


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("protocol", ["http", "tcp"])
def test_the_header_to_the_endpoint(set_stage: SetStage, version: Literal["v1", "v2"], protocol: str) -> None:
    stage = set_stage(tcp=True, send_proxy=version, protocol=protocol)
    client = stage.client()
    client.send(get())
    upstream = stage.origins[0].accept()
    (source, source_port), (target, target_port) = client.sock.getsockname(), client.sock.getpeername()
    if version == "v1":
        expected = f"PROXY TCP4 {source} {target} {source_port} {target_port}\r\n".encode()
    else:
        ips = bytes(map(int, source.split("."))) + bytes(map(int, target.split(".")))
        expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + ips + struct.pack("!HH", source_port, target_port)
    assert upstream.exactly(len(expected)) == expected
    assert upstream.head().startswith(b"GET / HTTP/1.1\r\n")
    upstream.send(OK)
    client.until(b"ok")
    if protocol == "http":
        assert upstream.end() == "eof", "the connection speaks for one client and cannot be another's"
        client.send(get())
        assert stage.origins[0].accept().exactly(len(expected)) == expected


def test_a_unix_client_has_no_address_to_tell(set_stage: SetStage) -> None:
    stage = set_stage(send_proxy="v1", protocol="tcp")
    client = stage.client()
    client.send(b"hello")
    assert stage.origins[0].accept().exactly(20) == b"PROXY UNKNOWN\r\nhello"


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_relay_passes_on_what_came_with_a_header(set_stage: SetStage, version: Literal["v1", "v2"]) -> None:
    stage = behind_a_proxy(set_stage, protocol="tcp", send_proxy=version)
    client = stage.client()
    client.send((V1 if version == "v2" else V2) + b"hello")
    expected = (V1 if version == "v1" else V2) + b"hello"
    assert stage.origins[0].accept().exactly(len(expected)) == expected
