"""Serving the admin API: HTTP/1.1 by h11 over trio, with a bound on everything a peer may send or hold.

A connection that waits for a request can be closed at any time, so when there are too many the one that has
waited longest makes room: a few stuck clients never keep a health check out.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from http import HTTPStatus

import h11
import trio

from fastmesh.admin.http import Peer, Request, Response, error_response

log = logging.getLogger("fastmesh.admin")

Respond = Callable[[Request], Awaitable[Response]]

HEAD_BYTES = 16 * 1024
BODY_BYTES = 64 * 1024
READ_BYTES = 16 * 1024
HEAD_SECONDS = 10.0  # from the first byte of a request to the end of its head, and again for its body
IDLE_SECONDS = 75.0  # between requests
WRITE_SECONDS = 30.0
FINISH_SECONDS = 1.0
CONNECTIONS = 64


class _Connection:
    """One client: its stream, its protocol state and what may be done to it from outside."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self.cancel = trio.CancelScope()
        self.waiting_since: float | None = trio.current_time()
        self.peer = _peer_of(stream)


def _peer_of(stream: trio.SocketStream) -> Peer:
    if stream.socket.family == trio.socket.AF_UNIX:
        return Peer(unix=True)
    try:
        return Peer(unix=False, host=stream.socket.getpeername()[0])
    except OSError:  # gone already: treated as a stranger
        return Peer(unix=False)


class AdminServer:
    """Answers every request by ``respond``. Run `serve` in a nursery; cancel it to stop."""

    def __init__(self, respond: Respond, connections: int = CONNECTIONS) -> None:
        self._respond = respond
        self._limit = connections
        self._open: dict[int, _Connection] = {}
        self._accepting = trio.CancelScope()

    async def serve(self, sockets: Iterable[socket.socket]) -> None:
        """Accepts until cancelled; returns when there is no socket. The sockets stay open: whoever bound them
        closes them."""
        listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(item.dup())) for item in sockets]
        if not listeners:
            return
        async with trio.open_nursery() as clients:
            with self._accepting:
                await trio.serve_listeners(self._handle, listeners, handler_nursery=clients)

    def leave(self) -> None:
        """Another process answers new clients from now on; those that are here get one more answer."""
        self._accepting.cancel()

    async def finish(self) -> None:
        """Waits a moment for answers in progress to be sent."""
        with trio.move_on_after(FINISH_SECONDS):
            while True:
                if all(item.waiting_since is not None for item in self._open.values()):
                    return
                await trio.sleep(0.01)

    async def _handle(self, stream: trio.SocketStream) -> None:
        connection = _Connection(stream)
        key = id(connection)
        if len(self._open) >= self._limit and not self._make_room():
            await self._turn_away(connection)
            return
        self._open[key] = connection
        try:
            with connection.cancel:
                await self._converse(connection)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the peer is gone
        except Exception:
            # One request must not end the process; what went wrong is in the log.
            log.exception("the admin API failed on a request")
        finally:
            del self._open[key]
            await _close(stream)

    def _make_room(self) -> bool:
        idle = [item for item in self._open.values() if item.waiting_since is not None]
        if not idle:
            return False
        oldest = min(idle, key=lambda item: item.waiting_since or 0.0)
        oldest.waiting_since = None
        oldest.cancel.cancel()
        return True

    async def _turn_away(self, connection: _Connection) -> None:
        answer = error_response(503, "the admin API serves too many connections", "try again")
        with suppress(trio.BrokenResourceError), trio.move_on_after(1):
            await _send(connection, answer, head_only=False, close=True)
        await _close(connection.stream)

    async def _converse(self, connection: _Connection) -> None:
        """Requests one after another until either side ends it."""
        while True:
            connection.waiting_since = trio.current_time()
            try:
                request = await _receive(connection)
            except h11.RemoteProtocolError as error:
                await _reject(connection, error)
                return
            if request is None:
                return
            if isinstance(request, Response):
                await _send(connection, request, head_only=False, close=True)
                return
            connection.waiting_since = None
            response = await self._answer(request)
            last = self._accepting.cancel_called
            await _send(connection, response, head_only=request.method == "HEAD", close=last)
            if connection.protocol.our_state is not h11.DONE:
                return
            connection.protocol.start_next_cycle()

    async def _answer(self, request: Request) -> Response:
        try:
            return await self._respond(request)
        except Exception:
            log.exception("the admin API failed on %s %s", request.method, request.path)
            return error_response(500, "the admin API failed on this request", "the log says why")


Event = h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]


async def _next_event(connection: _Connection, seconds: float) -> Event | None:
    """The next event of the peer; None when ``seconds`` went by without one."""
    with trio.move_on_after(seconds):
        while True:
            event = connection.protocol.next_event()
            if event is not h11.NEED_DATA:
                return event
            if connection.protocol.they_are_waiting_for_100_continue:
                proceed = h11.InformationalResponse(status_code=100, headers=[])
                await connection.stream.send_all(connection.protocol.send(proceed) or b"")
            connection.protocol.receive_data(await connection.stream.receive_some(READ_BYTES))
    return None


async def _receive(connection: _Connection) -> Request | Response | None:
    """The next request with its body read and dropped; a Response if it must be refused; None at the end."""
    if not await _wait_for_bytes(connection):
        return None
    event = await _next_event(connection, HEAD_SECONDS)
    if event is None:
        return error_response(408, "the request did not arrive in time")
    if not isinstance(event, h11.Request):
        return None
    size = 0
    deadline = trio.current_time() + HEAD_SECONDS
    while True:
        part = await _next_event(connection, deadline - trio.current_time())
        if part is None:
            return error_response(408, "the request did not arrive in time")
        if not isinstance(part, h11.Data):
            break
        size += len(part.data)
        if size > BODY_BYTES:
            return error_response(413, "the request body is too large", "no endpoint needs a body")
    return _as_request(event, connection.peer)


async def _wait_for_bytes(connection: _Connection) -> bool:
    """Waits for the first byte of a request; False when the peer stays silent or ends."""
    if connection.protocol.trailing_data[0]:
        return True
    with trio.move_on_after(IDLE_SECONDS):
        data = await connection.stream.receive_some(READ_BYTES)
        connection.protocol.receive_data(data)
        return bool(data)
    return False


def _as_request(event: h11.Request, peer: Peer) -> Request:
    headers: dict[str, str] = {}
    for raw_name, raw_value in event.headers:
        name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    path, _, query = event.target.decode("latin-1").partition("?")
    if path.startswith(("http://", "https://")):  # absolute form
        path = "/" + path.partition("://")[2].partition("/")[2]
    return Request(event.method.decode("ascii"), path, query, headers, peer)


async def _reject(connection: _Connection, error: h11.RemoteProtocolError) -> None:
    if connection.protocol.our_state in (h11.IDLE, h11.SEND_RESPONSE):
        status = error.error_status_hint or 400
        answer = error_response(status, f"the request is malformed: {error}")
        await _send(connection, answer, head_only=False, close=True)


async def _send(connection: _Connection, response: Response, *, head_only: bool, close: bool) -> None:
    headers = [
        ("date", time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())),
        ("server", "fastmesh"),
        ("content-type", response.content_type),
        ("content-length", str(len(response.body))),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        *response.headers,
    ]
    if close:
        headers.append(("connection", "close"))
    protocol = connection.protocol
    reason = HTTPStatus(response.status).phrase.encode()
    parts = [protocol.send(h11.Response(status_code=response.status, headers=headers, reason=reason)) or b""]
    if not head_only:
        parts.append(protocol.send(h11.Data(data=response.body)) or b"")
    parts.append(protocol.send(h11.EndOfMessage()) or b"")
    with trio.move_on_after(WRITE_SECONDS) as scope:
        await connection.stream.send_all(b"".join(parts))
    if scope.cancelled_caught:
        raise trio.BrokenResourceError("the peer does not read its answer")


async def _close(stream: trio.SocketStream) -> None:
    """Ends our side first and reads what is still coming, so that a refused peer gets to see its answer."""
    with trio.move_on_after(0.5, shield=True), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await stream.send_eof()
        while await stream.receive_some(READ_BYTES):
            pass
    with trio.CancelScope(shield=True) as scope:
        scope.cancel()
        with suppress(trio.Cancelled):
            await stream.aclose()
