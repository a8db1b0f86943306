"""Sizes at the edge of the proxy's buffers, with the largest limits that a configuration may ask for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.rig import Rig, unique
from support.wire import get, request


@pytest.fixture(scope="module")
def wide() -> Iterator[Rig]:
    rig = Rig(limits={"header_bytes": "64KiB", "target_bytes": "64KiB"}).start()
    yield rig
    rig.stop()


@pytest.mark.parametrize("first", [1, 1000, 40_000, 59_000])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_large_head_and_large_body_in_pieces(wide: Rig, first: int, framing: str) -> None:
    """A head of 60 kB whose first piece comes alone, and whose rest comes with 100 kB of body."""
    body = b"b" * 100_000
    fields = [b"X-%d: " % number + b"v" * 5970 for number in range(10)]
    if framing == "length":
        data = request("PUT", unique(), b"Content-Length: 100000", *fields, body=body)
    else:
        chunks = b"".join(
            b"2710\r\n" + body[at : at + 10_000] + b"\r\n" for at in range(0, len(body), 10_000)
        )
        data = request("PUT", unique(), b"Transfer-Encoding: chunked", *fields, body=chunks + b"0\r\n\r\n")
    with wide.client(unix=True) as client:
        client.send_pieces([data[:first], data[first:]])
        response = client.read_response("PUT")
        assert response.status == 200, response.body
        assert response.json()["body_size"] == 100_000
        wide.sentinel(client)


def test_largest_target(wide: Rig) -> None:
    path = unique() + "?" + "q" * 64_000
    with wide.client() as client:
        response = client.request(get(path))
        assert response.status == 200
        assert response.json()["target"] == path


@pytest.mark.parametrize("size", [0, 1000, 65_536])
def test_fixed_answers_of_any_size(size: int) -> None:
    routes = [{"path": "/fixed", "respond": {"body": "x" * size}}, {"path": "/", "service": "origin"}]
    rig = Rig(listener={"routes": routes}).start()
    try:
        with rig.client() as client:
            assert client.request(get("/fixed")).body == b"x" * size
            rig.sentinel(client)
    finally:
        rig.stop()
