"""Answers and tunnels that take their time: their origin, and clients that see whether all of them came."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import trio

BLOCK = bytes(number * 7 % 251 for number in range(1 << 18))
"""A download is this again and again: 256 KiB, in a period that no buffer's size divides."""
_READ = 1 << 16
_ECHO_SECONDS = 0.05
_HEAD_END = b"\r\n\r\n"


async def _head(stream: trio.SocketStream) -> tuple[str, bytearray]:
    """A head and what came behind it; an empty one if the stream ended before."""
    received = bytearray()
    while _HEAD_END not in received:
        some = await stream.receive_some(_READ)
        if not some:
            return "", received
        received += some
    head, _, rest = bytes(received).partition(_HEAD_END)
    return head.decode("latin-1"), bytearray(rest)


class StreamOrigin:
    """Serves `/stream/SIZE` with so many bytes of `BLOCK`, and echoes what is sent behind an upgrade."""

    async def serve(self, port: int, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        await trio.serve_tcp(self._connection, port, host="127.0.0.1", task_status=task_status)

    async def _connection(self, stream: trio.SocketStream) -> None:
        try:
            while True:
                head, rest = await _head(stream)
                if not head:
                    return
                if "upgrade: " in head.lower():
                    await self._echo(stream, rest)
                    return
                await self._send(stream, int(head.split()[1].rpartition("/")[2]))
        except trio.BrokenResourceError:
            return  # whoever is at the other end says so

    async def _echo(self, stream: trio.SocketStream, rest: bytearray) -> None:
        head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        await stream.send_all(head + bytes(rest))
        async for some in stream:
            await stream.send_all(some)

    async def _send(self, stream: trio.SocketStream, size: int) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // len(BLOCK)):
            await stream.send_all(BLOCK)
        await stream.send_all(BLOCK[: size % len(BLOCK)])


@dataclass
class Download:
    """One answer of `size` bytes, read at `pace` bytes a second. `end` is how it ended: `whole`, `wrong`,
    `short`, `reset`, or a status; empty as long as it goes on."""

    port: int
    size: int
    pace: float
    received: int = 0
    end: str = ""

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tells that it has started when its body has begun."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream:
            await stream.send_all(b"GET /stream/%d HTTP/1.1\r\nHost: chaos\r\n\r\n" % self.size)
            try:
                head, rest = await _head(stream)
                task_status.started()
                status = head.split()[1] if head else "short"
                self.end = await self._read(stream, bytes(rest)) if status == "200" else status
            except trio.BrokenResourceError:
                self.end = "reset"

    async def _read(self, stream: trio.SocketStream, some: bytes) -> str:
        begin = trio.current_time()
        while self.received < self.size:
            at = self.received % len(BLOCK)
            if some != (BLOCK + BLOCK[:_READ])[at : at + len(some)]:
                return "wrong"
            self.received += len(some)
            await trio.sleep_until(begin + self.received / self.pace)
            if self.received < self.size:
                some = await stream.receive_some(_READ)
                if not some:
                    return "short"
        return "whole"


@dataclass
class Tunnel:
    """Something is sent and echoed all the while, until `finish`. `end` is `whole` if all came back and both
    sides ended; `cut` if the other side ended; `reset`, `wrong`, `refused`; empty as long as it goes on."""

    port: int
    echoes: int = 0
    end: str = ""
    _finish: trio.Event = field(default_factory=trio.Event)

    def finish(self) -> None:
        self._finish.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tells that it has started when it stands."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream:
            await stream.send_all(
                b"GET /stream/tunnel HTTP/1.1\r\nHost: chaos\r\nConnection: upgrade\r\n"
                b"Upgrade: websocket\r\n\r\n"
            )
            try:
                head, _ = await _head(stream)
                task_status.started()
                self.end = await self._talk(stream) if " 101 " in head else "refused"
            except trio.BrokenResourceError:
                self.end = "reset"

    async def _talk(self, stream: trio.SocketStream) -> str:
        for number in itertools.count():
            if self._finish.is_set():
                await stream.send_eof()
                return "wrong" if await stream.receive_some(1) else "whole"
            text = b"%08d\n" % number * 50
            await stream.send_all(text)
            received = b""
            while len(received) < len(text):
                some = await stream.receive_some(len(text) - len(received))
                if not some:
                    return "cut"
                received += some
            if received != text:
                return "wrong"
            self.echoes += 1
            with trio.move_on_after(_ECHO_SECONDS):
                await self._finish.wait()
        raise AssertionError("unreachable")
