"""One origin of ``fastmesh demo``: an HTTP/1.1 server that answers with its name, its pid and what it was
asked.

``python -m fastmesh.cli.demo_origin NAME FD SECONDS`` serves the listening socket ``FD``, each request after
``SECONDS``, a thread a connection. It ends when its standard input does: an origin never outlives its demo.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time

import h11

READ_BYTES = 64 * 1024
IDLE_SECONDS = 120.0


class Origin:
    def __init__(self, name: str, delay: float) -> None:
        self.name = name
        self.delay = delay
        self.pid = os.getpid()

    def answer(self, request: h11.Request, body_bytes: int) -> bytes:
        """The text of a response: who answered, then the request as it arrived."""
        lines = [
            f"hello from {self.name} (pid {self.pid})",
            "",
            f"{request.method.decode()} {request.target.decode('latin-1')}",
        ]
        lines += [f"{name.decode('latin-1')}: {value.decode('latin-1')}" for name, value in request.headers]
        if body_bytes:
            lines.append(f"and a body of {body_bytes} bytes")
        return "\n".join([*lines, ""]).encode("latin-1")

    def serve(self, listening: socket.socket) -> None:
        """Accepts until the process ends."""
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(IDLE_SECONDS)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            protocol = h11.Connection(h11.SERVER)
            try:
                while self._exchange(connection, protocol):
                    protocol.start_next_cycle()
            except (OSError, h11.RemoteProtocolError):
                pass  # the proxy went away, or said something that is not HTTP: this connection ends

    def _exchange(self, connection: socket.socket, protocol: h11.Connection) -> bool:
        """One request and its response; False when the connection is at its end."""
        request = _next_event(connection, protocol)
        if not isinstance(request, h11.Request):
            return False
        body_bytes = 0
        while isinstance(part := _next_event(connection, protocol), h11.Data):
            body_bytes += len(part.data)
        if self.delay:
            time.sleep(self.delay)
        body = self.answer(request, body_bytes)
        headers = [
            ("content-type", "text/plain; charset=utf-8"),
            ("content-length", str(len(body))),
            ("x-origin", self.name),
        ]
        message = protocol.send(h11.Response(status_code=200, headers=headers)) or b""
        if request.method != b"HEAD":
            message += protocol.send(h11.Data(data=body)) or b""
        message += protocol.send(h11.EndOfMessage()) or b""
        connection.sendall(message)
        return protocol.our_state is h11.DONE and protocol.their_state is h11.DONE


def _next_event(
    connection: socket.socket, protocol: h11.Connection
) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
    while True:
        event = protocol.next_event()
        if event is not h11.NEED_DATA:
            return event
        if protocol.they_are_waiting_for_100_continue:
            proceed = h11.InformationalResponse(status_code=100, headers=[])
            connection.sendall(protocol.send(proceed) or b"")
        protocol.receive_data(connection.recv(READ_BYTES))


def main(arguments: list[str]) -> None:
    name, descriptor, delay = arguments
    # Ctrl-C reaches the whole terminal; origins end after the proxy has drained, not with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listening = socket.socket(fileno=int(descriptor))
    threading.Thread(target=Origin(name, float(delay)).serve, args=(listening,), daemon=True).start()
    sys.stdin.buffer.read()  # until the demo is gone


if __name__ == "__main__":
    main(sys.argv[1:])
