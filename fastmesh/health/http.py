"""The HTTP side of a check, without I/O: the request's bytes, and a judgement of what comes back.

What a peer may send is bounded in bytes, and in the number of chunks and interim answers.
"""

from __future__ import annotations

import re

import h11

from fastmesh.health.checks import Result, failed, passed
from fastmesh.model import Address, Health

HEAD_BYTES = 16 * 1024
BODY_BYTES = 64 * 1024
# Chunked framing may be longer than what it frames.
ALL_BYTES = HEAD_BYTES + 2 * BODY_BYTES
# Small ones take far more time than bytes.
CHUNKS = 2000
INTERIM_ANSWERS = 10
USER_AGENT = "fastmesh-health"
_METHODS_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


class Conversation:
    """One request and its answer. ``request`` is to be sent; then `receive` takes what comes."""

    def __init__(self, address: Address, health: Health) -> None:
        self._health = health
        self._protocol = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES)
        self._received = 0
        self._interim = 0
        self._chunks = 0
        self._status = 0
        self._body = bytearray()
        self.request = self._build(address)

    @property
    def in_body(self) -> bool:
        """Whether the head of the answer has come."""
        return self._status != 0

    def receive(self, data: bytes) -> Result | None:
        """The verdict, or None while more is needed; ``b""`` is the end of the connection."""
        self._received += len(data)
        try:
            self._protocol.receive_data(data)
            while True:
                event = self._protocol.next_event()
                if event is h11.NEED_DATA:
                    return self._judge_length()
                result = self._take(event)
                if result is not None:
                    return result
        except h11.RemoteProtocolError as error:
            return failed(self._protocol_fault(error, ended=not data))

    def _build(self, address: Address) -> bytes:
        health = self._health
        headers = {"host": health.host or host_of(address), "user-agent": USER_AGENT, "connection": "close"}
        if health.method in _METHODS_WITH_BODY:
            headers["content-length"] = "0"
        own = {name.lower() for name, _ in health.headers}
        fields = [(name, value) for name, value in headers.items() if name not in own]
        fields += health.headers
        request = h11.Request(method=health.method, target=health.path, headers=fields)
        return (self._protocol.send(request) or b"") + (self._protocol.send(h11.EndOfMessage()) or b"")

    def _take(self, event: object) -> Result | None:
        if isinstance(event, h11.InformationalResponse):
            self._interim += 1
            if self._interim > INTERIM_ANSWERS:
                return failed(f"sent more than {INTERIM_ANSWERS} interim answers")
        elif isinstance(event, h11.Response):
            self._status = event.status_code
            if not any(low <= self._status <= high for low, high in self._health.expect):
                return failed(f"answered {self._status}, expected {expectation(self._health)}")
        elif isinstance(event, h11.Data):
            self._body += event.data[: BODY_BYTES - len(self._body)]
            self._chunks += 1
            if len(self._body) >= BODY_BYTES:
                return self._judge_body("the first 64 KiB of the body do")
            if self._chunks >= CHUNKS:
                return self._judge_body("the beginning of the body does")
        elif isinstance(event, h11.EndOfMessage):
            return self._judge_body("the body does")
        else:
            return failed("closed the connection without an answer")
        return None

    def _judge_length(self) -> Result | None:
        if not self.in_body and self._received > HEAD_BYTES:
            return failed(_LONG_HEAD)
        if self._received > ALL_BYTES:
            return self._judge_body("the beginning of the body does")
        return None

    def _judge_body(self, what: str) -> Result:
        match = self._health.body
        if match is not None:
            text = self._body.decode("utf-8", "replace")
            if match.regex and re.search(match.text, text) is None:
                return failed(f"{what} not match {match.text!r}")
            if not match.regex and match.text not in text:
                return failed(f"{what} not hold {match.text!r}")
        return passed(f"answered {self._status}")

    def _protocol_fault(self, error: h11.RemoteProtocolError, *, ended: bool) -> str:
        if ended and self.in_body:
            return "closed the connection before its answer was complete"
        if ended:
            return "closed the connection without an answer"
        if error.error_status_hint == 431:
            return _LONG_HEAD
        # The rest of the message may quote the peer at length.
        return f"its answer is not valid HTTP/1.1: {str(error).partition(':')[0][:80]}"


_LONG_HEAD = f"the head of its answer is longer than {HEAD_BYTES // 1024} KiB"


def host_of(address: Address) -> str:
    """The Host header for an endpoint; the zone of a link-local address stays at home."""
    if address.kind == "unix":
        return "localhost"
    host, zone, _ = address.host.partition("%")
    return address.text.replace(address.host, host, 1) if zone else address.text


def expectation(health: Health) -> str:
    """`200-399`, `200-299 or 404`."""
    return " or ".join(str(low) if low == high else f"{low}-{high}" for low, high in health.expect)
