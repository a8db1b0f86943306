"""What a peer can do to the admin server: nothing that keeps others out."""

import json

import pytest
import trio
import trio.testing

from fastmesh.admin import server
from support.admin_api import running_api

GET = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"


@pytest.mark.trio
async def test_keep_alive_and_pipelining():
    async with running_api() as api:
        client = await api.connect()
        async with client.stream:
            await client.send(GET + GET)
            assert (await client.answer())[0] == 200
            assert (await client.answer())[0] == 200
            assert (await client.ask("GET", "/readyz"))[0] == 200


@pytest.mark.trio
@pytest.mark.parametrize(
    "request_bytes", [b"GET /healthz HTTP/1.0\r\n\r\n", GET[:-2] + b"connection: close\r\n\r\n"]
)
async def test_the_connection_ends_when_the_peer_wants_it(request_bytes):
    async with running_api() as api:
        client = await api.connect()
        async with client.stream:
            await client.send(request_bytes)
            assert (await client.answer())[0] == 200
            assert await client.ended()


@pytest.mark.trio
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 40_000, 431),
        (
            b"POST /api/v1/reload HTTP/1.1\r\nhost: localhost\r\ncontent-length: 70000\r\n\r\n"
            + b"a" * 70_000,
            413,
        ),
    ],
)
async def test_bad_requests_are_answered_and_end(data, expected):
    async with running_api() as api:
        client = await api.connect()
        async with client.stream:
            await client.send(data)
            status, headers, body = await client.answer()
            assert (status, headers["connection"]) == (expected, "close")
            assert "message" in json.loads(body)
            assert await client.ended()
        assert api.control.reloads == 0
        assert (await api.ask("GET", "/healthz"))[0] == 200


@pytest.mark.trio
async def test_a_body_is_read_and_the_connection_goes_on():
    async with running_api() as api:
        client = await api.connect()
        async with client.stream:
            await client.send(
                b"POST /api/v1/reload HTTP/1.1\r\nhost: localhost\r\n"
                b"expect: 100-continue\r\ncontent-length: 4\r\n\r\n"
            )
            assert (await client.stream.receive_some()).startswith(b"HTTP/1.1 100 ")
            await client.send(b"body" + GET)
            assert (await client.answer())[0] == 200
            assert (await client.answer())[0] == 200
        assert api.control.reloads == 1


@pytest.mark.trio
@pytest.mark.parametrize(
    "sent", [GET[:20], b"POST /api/v1/reload HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nabc"]
)
async def test_a_request_that_does_not_arrive_is_timed_out(monkeypatch, sent):
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.1)
    async with running_api() as api:
        client = await api.connect()
        async with client.stream:
            await client.send(sent)
            assert (await client.answer())[0] == 408
            assert await client.ended()
        assert api.control.reloads == 0


@pytest.mark.trio
async def test_a_silent_connection_is_closed(monkeypatch):
    monkeypatch.setattr(server, "IDLE_SECONDS", 0.05)
    async with running_api() as api:
        client = await api.connect()
        async with client.stream:
            assert await client.ended()


@pytest.mark.trio
async def test_stuck_clients_do_not_keep_a_health_check_out():
    async with running_api(connections=2) as api:
        stuck = [await api.connect() for _ in range(2)]
        for client in stuck:
            await client.send(GET[:10])
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert (await api.ask("GET", "/healthz"))[0] == 200
        assert await stuck[0].ended()  # the one that waited longest made room
        for client in stuck:
            await client.stream.aclose()


@pytest.mark.trio
async def test_when_all_are_busy_the_next_one_is_told(monkeypatch):
    started, release = trio.Event(), trio.Event()
    async with running_api(connections=1) as api:

        async def slow_reload():
            started.set()
            await release.wait()
            return api.control.outcome

        monkeypatch.setattr(api.control, "reload", slow_reload)
        busy = await api.connect()
        await busy.send(b"POST /api/v1/reload HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await started.wait()
        other = await api.connect()
        async with other.stream:
            assert (await other.answer())[0] == 503
            assert await other.ended()
        release.set()
        async with busy.stream:
            assert (await busy.answer())[0] == 200


@pytest.mark.trio
async def test_a_failing_endpoint_is_a_500_and_a_log_line(monkeypatch, caplog):
    async with running_api() as api:
        monkeypatch.setattr(api.control, "not_ready", lambda: 1 / 0)
        client = await api.connect()
        async with client.stream:
            assert (await client.ask("GET", "/readyz"))[0] == 500
            assert (await client.ask("GET", "/healthz"))[0] == 200
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.trio
async def test_a_peer_that_resets_does_no_harm():
    import socket
    import struct

    async with running_api() as api:
        for data in (b"", GET[:9], GET):
            client = await api.connect()
            await client.send(data)
            client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await client.stream.aclose()
        assert (await api.ask("GET", "/healthz"))[0] == 200


@pytest.mark.trio
async def test_unix_peers_may_post(tmp_path):
    async with running_api(bind=f"unix:{tmp_path / 'fm.sock'}") as api:
        assert (await api.ask("POST", "/api/v1/reload", "host: anything"))[0] == 200
        assert api.control.reloads == 1


@pytest.mark.trio
async def test_leaving_lets_those_who_are_here_have_one_more_answer():
    """And whoever comes is another process's, which holds the socket too."""
    async with running_api() as api:
        here = await api.connect()
        async with here.stream:
            assert (await here.ask("GET", "/healthz"))[0] == 200
            api.server.leave()
            await trio.testing.wait_all_tasks_blocked()
            late = await api.connect()
            async with late.stream:
                await here.send(GET)
                status, headers, _ = await here.answer()
                assert (status, headers["connection"]) == (200, "close")
                assert await here.ended()
                await late.send(GET)
                await trio.testing.wait_all_tasks_blocked()
                with trio.move_on_after(0.05) as nobody:
                    await late.answer()
                assert nobody.cancelled_caught, "it was accepted"
