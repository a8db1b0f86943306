"""An origin that writes down what reaches it: `recording_origin.py PORTS FOLDER`, run as a program.

It listens on so many free ports and puts their numbers into FOLDER/ports. Each request becomes a line of JSON
in FOLDER/requests before it is answered: port, number of the connection, method, path, headers by name in
small letters, and the body's length. The answer's body is that of the request; `/1m` has `MEBIBYTE`, and
`/hold` is answered once SIGUSR1 has come.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import sys
from pathlib import Path

MEBIBYTE = bytes(range(256)) * 4096


class Origin:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.numbers = itertools.count()
        self.release = asyncio.Event()

    async def serve(self, ports: int) -> None:
        servers = [await asyncio.start_server(self.connection, "127.0.0.1", 0) for _ in range(ports)]
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self.release.set)
        fresh = self.folder / "ports.new"
        fresh.write_text(" ".join(str(server.sockets[0].getsockname()[1]) for server in servers))
        fresh.rename(self.folder / "ports")
        await asyncio.gather(*(server.serve_forever() for server in servers))

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, port = next(self.numbers), writer.get_extra_info("sockname")[1]
        try:
            while await self.exchange(reader, writer, number, port):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int, port: int
    ) -> bool:
        """One request and its answer; whether another one may follow."""
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
        method, path, _ = lines[0].split(" ")
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        body = await read_body(reader, headers)
        line = {
            "port": port,
            "connection": number,
            "method": method,
            "path": path,
            "headers": headers,
            "body": len(body),
        }
        with (self.folder / "requests").open("a") as file:
            file.write(json.dumps(line) + "\n")
        if path == "/hold":
            await self.release.wait()
        answer = MEBIBYTE if path == "/1m" else body
        keep = headers.get("connection", "").lower() != "close"
        closing = "" if keep else "Connection: close\r\n"
        writer.write(f"HTTP/1.1 200 OK\r\n{closing}Content-Length: {len(answer)}\r\n\r\n".encode() + answer)
        await writer.drain()
        return keep


async def read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return await reader.readexactly(int(headers.get("content-length", 0)))
    body = b""
    while size := int((await reader.readline()).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readuntil(b"\r\n")
    return body


if __name__ == "__main__":
    asyncio.run(Origin(Path(sys.argv[2])).serve(int(sys.argv[1])))
