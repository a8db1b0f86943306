"""An origin of one file, to be mounted into a container: `python3 origin.py PORT`.

`/` answers with the name of the host, `/big` with 4 MiB, `/slow?SECONDS` with the name after that time.
POST answers with the SHA-256 of the body.
"""

from __future__ import annotations

import hashlib
import http.server
import socket
import sys
import time

BIG = bytes(range(256)) * (4 << 12)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/slow":
            print("slow", flush=True)
            time.sleep(float(query))
        self.answer(BIG if path == "/big" else socket.gethostname().encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(hashlib.sha256(body).hexdigest().encode())

    def log_message(self, *arguments: object) -> None:
        """Nothing for each request."""


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256


if __name__ == "__main__":
    Server(("", int(sys.argv[1])), Handler).serve_forever()
