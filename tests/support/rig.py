"""A proxy between a scripted origin and raw clients, and the three observers that every case is judged by.

1. the client: status, fields, body, connection kept or closed;
2. the origin: exact bytes, number of requests, number of connections;
3. sentinels: afterwards a GET on the same client connection, if it is open, and one on a second client
   connection that may be given the same upstream one: each must get its own answer, which an origin gave once

Whatever reached the origin is also given to three other parsers, which must read it the same way.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.client import Client, Response
from support.differential import read_alike
from support.origin import Mark, Origin, Request, Seen
from support.ports import free_port
from support.proxy import Proxy
from support.waiting import eventually

_numbers = itertools.count(1)

# Behind each refused request: whoever goes on reading where nothing may be read any more, forwards this.
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: smuggled\r\n\r\n"


def unique(prefix: str = "/t") -> str:
    """A path that no other test uses."""
    return f"{prefix}-{next(_numbers)}"


@dataclass
class Forwarded:
    """A request that went through: what the client got and what the origin saw."""

    response: Response
    request: Request
    raw: bytes  # what the origin received for it
    client: Client


class Rig:
    """One proxy process with one HTTP listener on TCP and on a Unix socket, and one origin behind it."""

    def __init__(
        self,
        *,
        timeouts: dict[str, str] | None = None,
        upstream: dict[str, Any] | None = None,
        listener: dict[str, Any] | None = None,
        origins: int = 1,
        service: dict[str, Any] | None = None,
        under: tuple[str, ...] = (),
        **top: Any,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fastmesh-rig-")
        self.folder = Path(self._folder.name)
        self.origins = [Origin(name=f"origin{index}") for index in range(origins)]
        self.origin = self.origins[0]
        self.address = ("127.0.0.1", free_port())
        self.unix_address = str(self.folder / "web.sock")
        waits = {"connect": "1s", "response": "5s", "idle": "10s", "header": "5s", **(timeouts or {})}
        self.config: dict[str, Any] = {
            # One pool: a second client is then given the upstream connection that the first one left.
            "workers": 1,
            "drain": {"timeout": "2s"},
            "defaults": {"timeouts": waits, "upstream": {"keepalive": 16, **(upstream or {})}},
            "listeners": {
                "web": {
                    "bind": [f"127.0.0.1:{self.address[1]}", f"unix:{self.unix_address}"],
                    "routes": [{"path": "/", "service": "origin"}],
                    **(listener or {}),
                }
            },
            "services": {
                "origin": {"endpoints": [origin.text for origin in self.origins], **(service or {})}
            },
            **top,
        }
        self.proxy = Proxy(self.folder, self.config, under=under)
        self._second: Client | None = None

    def start(self) -> Rig:
        self.proxy.start()
        return self

    def stop(self) -> None:
        """Stop the proxy with its verdict; everything else is given back in any case."""
        try:
            self._drop_second()
            if self.proxy.is_alive():
                eventually(lambda: self._exchanges() == 0, "no exchange to be left in the workers")
            self.proxy.stop()
        finally:
            self.proxy.kill()
            for origin in self.origins:
                origin.close()
            self._folder.cleanup()

    def _exchanges(self) -> int:
        return sum(worker["ledger"]["exchanges"] for worker in self.proxy.api("workers")["workers"])

    def _drop_second(self) -> None:
        if self._second is not None:
            self._second.close()
            self._second = None

    def client(self, *, unix: bool = False, **settings: Any) -> Client:
        return Client(self.unix_address if unix else self.address, **settings)

    # Observers

    def sentinel(self, client: Client) -> None:
        """A GET on this connection gets its own answer, and an origin sees it exactly once."""
        path = unique("/sentinel")
        response = client.request(f"GET {path} HTTP/1.1\r\nHost: sentinel\r\n\r\n".encode())
        assert response.status == 200, f"sentinel: {response}"
        assert response.json()["target"] == path, (
            f"the sentinel for {path} got another's answer: {response.body!r}"
        )
        assert client.is_open(), "the sentinel's connection was closed behind its answer"
        times = sum(len(origin.requests_for(path)) for origin in self.origins)
        assert times == 1, f"an origin saw the sentinel {times} times"

    def sentinels(self, client: Client | None = None) -> None:
        """On `client` if it is open, and on a second connection."""
        if client is not None and client.sock.fileno() >= 0 and client.is_open():
            self.sentinel(client)
        if self._second is not None and not self._second.is_open():
            self._drop_second()  # its keep-alive time was over
        if self._second is None:
            self._second = self.client()
        try:
            self.sentinel(self._second)
        except BaseException:
            self._drop_second()
            raise

    def seen(self, mark: Mark, origin: Origin | None = None) -> Seen:
        """What reached the origin since, without sentinels; all of it read alike by the other parsers."""
        seen = (origin or self.origin).since(mark)
        assert not seen.malformed, f"the origin could not read what it was sent: {seen.malformed}"
        for data in seen.data.values():
            read_alike(data)
        seen.requests = [request for request in seen.requests if not request.path.startswith("/sentinel-")]
        return seen

    def untouched(self, mark: Mark) -> None:
        """Nothing but sentinels reached the origin since the mark."""
        for data in self.origin.since(mark).data.values():
            for request in read_alike(data):
                assert request.target.startswith(b"/sentinel-"), f"reached the origin: {data!r}"

    # Verdicts

    def refuse(
        self,
        raw: bytes,
        status: int | Collection[int] = 400,
        *,
        tail: bytes = SMUGGLED,
        code: str | None = None,
        unix: bool = False,
        bytewise: bool = False,
    ) -> Response:
        """The rule "R4": this status with the proxy's own answer, then closed; nothing at the origin."""
        statuses = (status,) if isinstance(status, int) else tuple(status)
        mark = self.origin.mark()
        with self.client(unix=unix) as client:
            data = raw + tail
            if bytewise:
                client.send_pieces(data[index : index + 1] for index in range(len(data)))
            else:
                client.send(data)
            response = client.read_response("HEAD" if raw.startswith(b"HEAD ") else "GET")
            assert response.status in statuses, f"{response.status} for {raw[:600]!r}"
            assert response.error_code, f"no x-fastmesh-error: {response.raw_head!r}"
            if code is not None:
                assert response.error_code == code
            assert response.says_close, f"no Connection: close: {response.raw_head!r}"
            assert client.how_it_ended() == "eof", "the answer may be lost: reset instead of a staged close"
        self.sentinels()
        self.untouched(mark)
        return response

    def forward(
        self,
        raw: bytes,
        *,
        status: int = 200,
        kept: bool | None = True,
        unix: bool = False,
        method: str | None = None,
    ) -> Forwarded:
        """The request goes through once; the connection is kept or closed as said (None: either)."""
        mark = self.origin.mark()
        with self.client(unix=unix) as client:
            response = client.request(raw, method)
            assert response.status == status, f"{response.status} ({response.body[:200]!r}) for {raw[:600]!r}"
            assert response.truncated is None
            seen = self.seen(mark)
            assert len(seen.requests) == 1, (
                f"{len(seen.requests)} requests at the origin for {raw[:600]!r}: {seen.raw!r}"
            )
            assert seen.requests[0].complete
            if kept:
                assert not response.says_close, f"asked to close: {response.raw_head!r}"
                self.sentinel(client)
            elif kept is False:
                assert client.how_it_ended() == "eof"
            self.sentinels(client if kept is None else None)
            return Forwarded(response, seen.requests[0], seen.raw, client)
