"""nginx as the origin."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.client import Client
from support.ports import free_port
from support.proxy import Proxy
from support.real import Nginx, curl
from support.wire import chunked, get, post, request

MIB = bytes(range(256)) * 4096


@pytest.fixture(scope="module")
def web(nginx: Nginx, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of a proxy in front of nginx."""
    port = free_port()
    config = {
        "workers": 2,
        "listeners": {"web": {"bind": f"127.0.0.1:{port}", "routes": {"/": "nginx"}}},
        "services": {"nginx": {"endpoints": [nginx.text]}},
    }
    proxy = Proxy(tmp_path_factory.mktemp("proxy"), config).start()
    yield port
    proxy.stop()


def test_files(web: int) -> None:
    with Client(("127.0.0.1", web)) as client:
        for path, body in (("/small.txt", b"small file\n"), ("/empty.txt", b""), ("/1MiB.bin", MIB)):
            response = client.request(get(path))
            assert (response.status, response.body) == (200, body)
            head = client.request(request("HEAD", path))
            assert (head.status, head.body) == (200, b"")
            assert head.get("content-length") == b"%d" % len(body)


def test_statuses(web: int) -> None:
    with Client(("127.0.0.1", web)) as client:
        assert client.request(get("/gone")).body == b"gone\n"
        assert client.request(get("/redirect")).status == 302
        assert client.request(get("/nothing")).status == 204
        assert client.request(get("/missing")).status == 404


def test_conditional_and_range_requests(web: int) -> None:
    with Client(("127.0.0.1", web)) as client:
        etag = client.request(get("/1MiB.bin")).get("etag")
        assert etag is not None
        not_modified = client.request(get("/1MiB.bin", b"If-None-Match: " + etag))
        assert (not_modified.status, not_modified.body) == (304, b"")
        part = client.request(get("/1MiB.bin", b"Range: bytes=1000-1999"))
        assert (part.status, part.body) == (206, MIB[1000:2000])


def test_uploads(web: int, nginx: Nginx) -> None:
    whole = request("PUT", "/put/whole", b"Content-Length: %d" % len(MIB), body=MIB)
    pieces = request("PUT", "/put/pieces", b"Transfer-Encoding: chunked", body=chunked(MIB, b"x" * 10))
    with Client(("127.0.0.1", web)) as client:
        assert client.request(whole).status == 201
        assert client.request(pieces).status == 201
        assert client.request(get("/small.txt")).body == b"small file\n"
    assert (nginx.root / "put" / "whole").read_bytes() == MIB
    assert (nginx.root / "put" / "pieces").read_bytes() == MIB + b"x" * 10


def test_refused_upload(web: int) -> None:
    """nginx answers before it has read: the answer arrives, whatever becomes of the connection."""
    for _ in range(5):
        with Client(("127.0.0.1", web)) as client:
            assert client.request(post("/gone", MIB)).status == 404


def test_forwarding_fields_arrive(web: int) -> None:
    with Client(("127.0.0.1", web)) as client:
        response = client.request(get("/head"))
        assert response.get("x-seen-host") == b"test"
        assert response.get("x-seen-for") == b"127.0.0.1"


def test_pipelining(web: int) -> None:
    with Client(("127.0.0.1", web)) as client:
        client.send((get("/small.txt") + get("/1MiB.bin") + get("/gone")) * 10)
        for _ in range(10):
            assert client.read_response().body == b"small file\n"
            assert client.read_response().body == MIB
            assert client.read_response().status == 404


def test_many_clients_at_once(web: int) -> None:
    def work(_: int) -> int:
        with Client(("127.0.0.1", web), timeout=20) as client:
            return sum(len(client.request(get("/1MiB.bin")).body) for _ in range(10))

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(work, range(16))) == [10 * len(MIB)] * 16


def test_curl_downloads_a_file_whole(web: int, tmp_path: Path) -> None:
    target = tmp_path / "file"
    assert curl("-o", str(target), f"http://127.0.0.1:{web}/1MiB.bin").code == 0
    assert target.read_bytes() == MIB
