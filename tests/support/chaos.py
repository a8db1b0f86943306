"""Random traffic: an origin that misbehaves as its requests tell it to, and clients that do so by themselves.

Every request has an id that its body repeats and that the origin repeats in its answer, so that bytes which
end up in another exchange are seen on either side.
"""

from __future__ import annotations

import contextlib
import random
import re
import select
import socket
import struct
import threading
import time
from dataclasses import dataclass, field

from support.client import BadResponse, Client, ConnectionEnded, Response

_HEAD_FIELD = re.compile(rb"\r\n(content-length|transfer-encoding|x-rid|upgrade): *([^\r]*)", re.IGNORECASE)


def pattern(rid: bytes, size: int) -> bytes:
    """The body that belongs to an id."""
    line = rid + b"."
    return (line * (size // len(line) + 1))[:size]


def reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class _Ended(Exception):
    pass


class _Reader:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.data = b""

    def more(self) -> None:
        try:
            piece = self.sock.recv(65536)
        except OSError as error:
            raise _Ended from error
        if not piece:
            raise _Ended
        self.data += piece

    def until(self, end: bytes) -> bytes:
        while end not in self.data:
            self.more()
        found, _, self.data = self.data.partition(end)
        return found

    def exactly(self, size: int) -> bytes:
        while len(self.data) < size:
            self.more()
        found, self.data = self.data[:size], self.data[size:]
        return found


@dataclass
class Findings:
    """What went wrong, from any thread."""

    wrong: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def say(self, text: str) -> None:
        with self.lock:
            self.wrong.append(text)

    def count(self, what: str) -> None:
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1


class ChaosOrigin:
    """Answers as the query says: `k` kind of framing, `n` size, `i` interim responses, `c` cut after so many
    bytes, `h` how the cut is made, `w` wait (ms), `e` early (before the body is read)."""

    def __init__(self, findings: Findings, listener: socket.socket | None = None) -> None:
        self.findings = findings
        if listener is None:
            listener = socket.create_server(("127.0.0.1", 0), backlog=512)
            self.text = f"127.0.0.1:{listener.getsockname()[1]}"
        self.listener = listener
        self.listener.setblocking(True)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(20)
        reader = _Reader(sock)
        try:
            while self._one(sock, reader):
                pass
        except (_Ended, OSError):
            pass
        except Exception as error:
            self.findings.say(f"origin: {error!r} with {reader.data[:300]!r}")
        finally:
            sock.close()

    def _body(self, reader: _Reader, fields: dict[bytes, bytes]) -> bytes:
        if b"transfer-encoding" in fields:
            parts = []
            while size := int(reader.until(b"\r\n"), 16):
                parts.append(reader.exactly(size))
                if reader.exactly(2) != b"\r\n":
                    raise ValueError("chunk without its end")
            reader.until(b"\r\n")
            return b"".join(parts)
        return reader.exactly(int(fields.get(b"content-length", b"0")))

    def _one(self, sock: socket.socket, reader: _Reader) -> bool:
        head = reader.until(b"\r\n\r\n")
        line = head.split(b"\r\n", 1)[0]
        fields = {name.lower(): value for name, value in _HEAD_FIELD.findall(head)}
        method, target, _ = line.split(b" ")
        rid = fields[b"x-rid"]
        if not target.startswith(b"/r/" + rid + b"?"):
            self.findings.say(f"origin: {line!r} carries the id {rid!r}")
        how = dict(item.split(b"=") for item in target.partition(b"?")[2].split(b"&"))
        if b"upgrade" in fields and how[b"k"] == b"tunnel":
            sock.sendall(
                b"HTTP/1.1 101 Up\r\nConnection: upgrade\r\nUpgrade: websocket\r\nX-Id: " + rid + b"\r\n\r\n"
            )
            sock.sendall(reader.data)
            while piece := sock.recv(65536):
                sock.sendall(piece)
            return False
        early = how[b"e"] == b"1"
        if not early:
            self._check(rid, self._body(reader, fields))
        time.sleep(int(how[b"w"]) / 1000)
        answer, keep = self._answer(method, rid, how)
        cut = int(how[b"c"])
        if 0 <= cut < len(answer):
            sock.sendall(answer[:cut])
            if how[b"h"] == b"rst":
                reset(sock)
            elif how[b"h"] == b"stall":
                with contextlib.suppress(OSError):
                    while sock.recv(65536):
                        pass
            return False
        sock.sendall(answer)
        if early and keep:
            self._check(rid, self._body(reader, fields))
        return keep

    def _check(self, rid: bytes, body: bytes) -> None:
        if body != pattern(rid, len(body)):
            self.findings.say(f"origin: the body of {rid!r} is another's: {body[:120]!r}")

    def _answer(self, method: bytes, rid: bytes, how: dict[bytes, bytes]) -> tuple[bytes, bool]:
        kind, size = how[b"k"], int(how[b"n"])
        body = pattern(rid, size) if method != b"HEAD" else b""
        head = b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" * int(how[b"i"])
        head += b"HTTP/1.1 200 OK\r\nX-Id: " + rid + b"\r\n"
        if kind == b"chunked":
            step = max(1, size // 7)
            chunks = b"".join(
                b"%x\r\n" % len(body[at : at + step]) + body[at : at + step] + b"\r\n"
                for at in range(0, len(body), step)
            )
            tail = chunks + b"0\r\n\r\n" if method != b"HEAD" else b""
            return head + b"Transfer-Encoding: chunked\r\n\r\n" + tail, True
        if kind == b"close":
            return head + b"\r\n" + body, False
        if kind == b"garbage":
            return b"HTTP/1.1 2x0 \0 garbage " + rid + b"\r\n\r\n", False
        if kind == b"stray":
            return (
                head
                + b"Content-Length: %d\r\n\r\n" % size
                + body
                + b"HTTP/1.1 200 OK\r\nX-Id: stray\r\n\r\n",
                True,
            )
        if kind == b"leave":
            return head + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % size + body, False
        return head + b"Content-Length: %d\r\n\r\n" % size + body, True


@dataclass
class _Ask:
    method: str
    rid: bytes
    data: bytes
    kind: str
    size: int
    last: bool = False


class ChaosClient(threading.Thread):
    """One thread that opens connection after connection until `deadline`."""

    def __init__(
        self, number: int, seed: str, addresses: list, deadline: float, findings: Findings, patience: float
    ) -> None:  # type: ignore[type-arg]
        super().__init__(name=f"chaos-{number}", daemon=True)
        self.number, self.rng, self.addresses = number, random.Random(f"{seed}-{number}"), addresses
        self.deadline, self.findings, self.patience = deadline, findings, patience
        self.made = 0
        self.done = threading.Event()
        self.cut_short = False  # only a part of what was asked is sent

    def run(self) -> None:
        while time.monotonic() < self.deadline:
            try:
                self.connection()
            except (OSError, ConnectionEnded) as error:
                self.findings.count(type(error).__name__)
            except Exception as error:
                self.findings.say(f"client {self.number}: {type(error).__name__}: {str(error)[:1500]}")

    def ask(self) -> _Ask:
        rng = self.rng
        self.made += 1
        rid = b"%d-%d" % (self.number, self.made)
        kind = rng.choice(
            ["length"] * 6
            + ["chunked"] * 4
            + ["close", "garbage", "stray", "leave", "tunnel", "moved", "bad"]
        )
        size = rng.choice([0, 1, 100, 1000, 20_000, 65_536, 150_000, 700_000]) + rng.randrange(3)
        cut = rng.randrange(size + 200) if rng.random() < 0.12 else -1
        method = rng.choice(["GET", "GET", "GET", "PUT", "POST", "HEAD", "DELETE"])
        how = rng.choice(["fin", "rst", "stall"])
        wait = rng.choice([0] * 8 + [20, 100])
        early = int(rng.random() < 0.1)
        query = (
            f"k={kind}&n={size}&i={rng.choice([0] * 6 + [1, 3])}&c={cut}&h={how}&w={wait}&e={early}".encode()
        )
        lines = [b"Host: chaos", b"X-Rid: " + rid]
        body = b""
        if kind == "tunnel":
            method = "GET"
            lines += [b"Connection: upgrade", b"Upgrade: websocket"]
        elif method in ("PUT", "POST"):
            body = pattern(rid, rng.choice([0, 1, 500, 30_000, 66_000, 300_000]))
            if rng.random() < 0.5:
                lines.append(b"Content-Length: %d" % len(body))
            else:
                lines.append(b"Transfer-Encoding: chunked")
                step = rng.choice([7, 1000, 50_000]) if len(body) < 1000 else rng.choice([1000, 50_000])
                pieces = [body[at : at + step] for at in range(0, len(body), step)]
                body = b"".join(b"%x\r\n" % len(piece) + piece + b"\r\n" for piece in pieces) + b"0\r\n\r\n"
        if rng.random() < 0.1:
            lines.append(b"X-Long: " + b"v" * rng.randrange(20_000))
        if kind == "bad":
            lines.append(
                rng.choice([b"no colon", b"Content-Length: x", b"Bad : x", b"Transfer-Encoding: gzip"])
            )
        path = b"/moved" if kind == "moved" else b"/r/" + rid
        version = b"HTTP/1.0" if rng.random() < 0.05 else b"HTTP/1.1"
        if version == b"HTTP/1.0" and (kind == "tunnel" or b"Transfer-Encoding: chunked" in lines):
            version = b"HTTP/1.1"
        head = b"%s %s?%s %s\r\n" % (method.encode(), path, query if kind != "moved" else rid, version)
        return _Ask(method, rid, head + b"\r\n".join(lines) + b"\r\n\r\n" + body, kind, size)

    def connection(self) -> None:
        rng = self.rng
        asks = [self.ask()]
        while asks[-1].kind not in ("tunnel", "bad") and rng.random() < 0.6 and len(asks) < 8:
            asks.append(self.ask())
        address = rng.choice(self.addresses)
        buffer = rng.choice([None, None, None, 4096])
        style = rng.random()
        self.cut_short = style >= 0.95
        self.done = threading.Event()
        with Client(address, timeout=self.patience, receive_buffer=buffer) as client:
            sender = threading.Thread(
                target=self.send, args=(client, b"".join(ask.data for ask in asks), style)
            )
            sender.start()
            try:
                if rng.random() < 0.15:  # leaves at some point without reading to the end
                    time.sleep(rng.random() * 0.05)
                    with contextlib.suppress(OSError):
                        client.sock.recv(rng.randrange(1, 100_000))
                    if rng.random() < 0.5:
                        client.reset()
                    self.findings.count("left")
                    return
                for ask in asks:
                    if rng.random() < 0.03:
                        time.sleep(rng.random() * 0.3)
                    if not self.read(client, ask):
                        return
            finally:
                self.done.set()
                with contextlib.suppress(OSError):
                    client.sock.shutdown(socket.SHUT_RDWR)
                client.close()
                sender.join()

    def push(self, client: Client, data: bytes) -> None:
        """All of it, unless the reading side gives the connection up."""
        view = memoryview(data)
        while view:
            if self.done.is_set():
                raise BrokenPipeError
            if select.select([], [client.sock], [], 0.1)[1]:
                with contextlib.suppress(BlockingIOError):
                    view = view[client.sock.send(view, socket.MSG_DONTWAIT) :]

    def send(self, client: Client, data: bytes, style: float) -> None:
        rng = random.Random(style)
        with contextlib.suppress(OSError, ValueError):  # ValueError: it was closed meanwhile
            if style < 0.5:
                self.push(client, data)
            elif style < 0.95:
                at = 0
                while at < len(data):
                    step = rng.choice([1, 10, 200, 5000, 100_000])
                    self.push(client, data[at : at + step])
                    at += step
                    if rng.random() < 0.2:
                        time.sleep(0.001)
            else:  # only a part, then FIN
                self.push(client, data[: rng.randrange(len(data))])
            if rng.random() < 0.3:
                client.sock.shutdown(socket.SHUT_WR)

    def read(self, client: Client, ask: _Ask) -> bool:
        """False when no further answer is to be expected on this connection."""
        response = client.read_response(ask.method)
        self.judge(response, ask)
        if response.status == 101:
            self.tunnel(client, ask)
            return False
        return not response.says_close and response.framing != "close" and response.truncated is None

    def judge(self, response: Response, ask: _Ask) -> None:
        self.findings.count(f"{response.status} {response.error_code or ''}")
        if response.error_code is not None:
            if response.error_code == "method_unsupported":  # which would be a piece of a body
                raise BadResponse(f"other bytes were read as the head of {ask.rid!r}")
            if response.error_code == "bad_request" and ask.kind != "bad" and not self.cut_short:
                raise BadResponse(f"{ask.rid!r} ({ask.method} {ask.kind}) was called malformed")
            return
        if response.status == 308:
            if (response.get("location") or b"").partition(b"?")[2] != ask.rid:
                raise BadResponse(f"{ask.rid!r} got another's redirect: {response.raw_head!r}")
            return
        if response.get("x-id") != ask.rid:
            raise BadResponse(f"{ask.rid!r} ({ask.method} {ask.kind}) got {response.raw_head!r}")
        if response.status == 101 or ask.method == "HEAD":
            return
        if response.body != pattern(ask.rid, len(response.body)):
            raise BadResponse(f"the body of {ask.rid!r} is another's: {response.body[:200]!r}")
        if ask.kind == "close":  # its FIN may come too early, which nobody can tell
            return
        if response.truncated is None and len(response.body) != ask.size and response.framing != "close":
            raise BadResponse(f"the body of {ask.rid!r} has {len(response.body)} bytes, not {ask.size}")

    def tunnel(self, client: Client, ask: _Ask) -> None:
        rng = self.rng
        for _ in range(rng.randrange(4)):
            data = pattern(ask.rid, rng.choice([1, 1000, 100_000]))
            sender = threading.Thread(target=self.send, args=(client, data, 0.1), daemon=True)
            client.timeout = self.patience
            with contextlib.suppress(OSError):
                client.sock.sendall(data) if len(data) < 2000 else sender.start()
            got = client.read_exactly(len(data))
            if got != data:
                raise BadResponse(f"the tunnel of {ask.rid!r} carries {got[:200]!r}")
