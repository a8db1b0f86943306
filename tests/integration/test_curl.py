"""curl against the proxy: versions, methods, bodies, IPv6, Unix sockets."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from support.origin import Exchange, Origin
from support.ports import free_port
from support.proxy import Proxy
from support.real import curl
from support.rig import Rig, unique


def _url(rig: Rig, path: str) -> str:
    return f"http://127.0.0.1:{rig.address[1]}{path}"


def test_http_1_1(rig: Rig) -> None:
    path = unique()
    got = curl(_url(rig, path + "?a=b"), "-H", "X-Test: yes")
    assert (got.code, got.status) == (0, 200)
    shown = json.loads(got.body)
    assert shown["target"] == path + "?a=b"
    assert ["X-Test", "yes"] in shown["fields"]
    assert ["Host", f"127.0.0.1:{rig.address[1]}"] in shown["fields"]


def test_http_1_0(rig: Rig) -> None:
    got = curl("--http1.0", _url(rig, unique()))
    assert (got.code, got.status) == (0, 200)
    assert json.loads(got.body)["method"] == "GET"


def test_two_requests_on_one_connection(rig: Rig) -> None:
    got = curl("-v", _url(rig, unique()), _url(rig, unique()))
    assert got.code == 0
    assert "Re-using existing connection" in got.stderr


def test_head(rig: Rig) -> None:
    got = curl("--head", _url(rig, unique()))
    assert (got.code, got.status) == (0, 200)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "PURGE"])
def test_methods(rig: Rig, method: str) -> None:
    got = curl("-X", method, "--data", "x=1", _url(rig, unique()))
    assert got.code == 0
    assert (json.loads(got.body)["method"], json.loads(got.body)["body"]) == (method, "x=1")


def test_large_post_with_expect(rig: Rig, tmp_path: Path) -> None:
    path = unique()
    body = hashlib.sha256(b"seed").digest() * (256 * 1024)
    file = tmp_path / "body"
    file.write_bytes(body)

    def handler(exchange: Exchange) -> None:
        assert exchange.request.get("expect") == "100-continue"
        exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        exchange.read_body()
        exchange.reply_echo()

    with rig.origin.answering(path, handler):
        got = curl("-H", "Expect: 100-continue", "--data-binary", f"@{file}", _url(rig, path))
    assert got.code == 0
    assert "100 Continue" in got.head
    shown = json.loads(got.body)
    assert shown["body_size"] == len(body)
    assert shown["body_sha256"] == hashlib.sha256(body).hexdigest()


def test_chunked_upload_from_standard_input(rig: Rig) -> None:
    body = b"line\n" * 200_000
    got = curl("-X", "POST", "-T", "-", "-H", "Expect:", _url(rig, unique()), stdin=body)
    assert got.code == 0
    assert json.loads(got.body)["body_sha256"] == hashlib.sha256(body).hexdigest()


def test_large_download(rig: Rig) -> None:
    path = unique()
    body = hashlib.sha256(b"seed").digest() * (512 * 1024)

    def handler(exchange: Exchange) -> None:
        exchange.reply(200, body)

    with rig.origin.answering(path, handler):
        got = curl(_url(rig, path))
    assert got.code == 0
    assert got.body == body


def test_large_chunked_download(rig: Rig) -> None:
    path = unique()
    piece = b"p" * 100_000

    def handler(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(100):
            exchange.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        exchange.send(b"0\r\n\r\n")

    with rig.origin.answering(path, handler):
        got = curl(_url(rig, path))
    assert got.code == 0
    assert len(got.body) == 100 * len(piece)


def test_truncation_is_seen(rig: Rig) -> None:
    path = unique()

    def handler(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        exchange.close()

    with rig.origin.answering(path, handler):
        got = curl(_url(rig, path))
    assert got.code in (18, 56), "curl takes a cut response for a whole one"


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6 loopback")
def test_ipv6_on_both_sides(start: Callable[..., Proxy], origins: Callable[..., Origin]) -> None:
    origin = origins(host="::1")
    port = free_port()
    listener = {"bind": f"[::1]:{port}", "routes": {"/": "o"}}
    start({"listeners": {"web": listener}, "services": {"o": {"endpoints": [origin.text]}}})
    got = curl(f"http://[::1]:{port}/six")
    assert got.code == 0
    shown = json.loads(got.body)
    assert shown["target"] == "/six"
    assert ["x-forwarded-for", "::1"] in [[name.lower(), value] for name, value in shown["fields"]]


def test_unix_sockets_on_both_sides(
    start: Callable[..., Proxy], origins: Callable[..., Origin], tmp_path: Path
) -> None:
    origin = origins(path=tmp_path / "origin.sock")
    listening = tmp_path / "web.sock"
    listener = {"bind": f"unix:{listening}", "routes": {"/": "o"}}
    proxy = start({"listeners": {"web": listener}, "services": {"o": {"endpoints": [origin.text]}}})
    for _ in range(3):
        got = curl("--unix-socket", str(listening), "http://any.example/unix")
        assert got.code == 0
        assert json.loads(got.body)["target"] == "/unix"
    proxy.stop()
    assert not listening.exists(), "the socket's file stays behind"


def test_unix_socket_left_behind_by_a_dead_process_is_taken_over(
    start: Callable[..., Proxy], origins: Callable[..., Origin], tmp_path: Path
) -> None:
    origin = origins()
    listening = tmp_path / "web.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(listening))
    listener = {"bind": f"unix:{listening}", "routes": {"/": "o"}}
    start({"listeners": {"web": listener}, "services": {"o": {"endpoints": [origin.text]}}})
    assert curl("--unix-socket", str(listening), "http://any.example/").status == 200


def test_error_answers_are_readable(rig: Rig) -> None:
    got = curl("-X", "TRACE", _url(rig, "/"))
    assert got.status == 405
    assert "x-fastmesh-error: method_unsupported" in got.head.lower()
    assert got.body.endswith(b"\n")
    assert got.body.count(b"\n") == 1
