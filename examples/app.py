"""The application of the examples: an HTTP service that knows nothing of a proxy.

    python3 app.py NAME [URL]        listens on port 8000; asks URL, if there is one, for each request

GET answers with who has answered, from the last of the chain to the first; POST likewise, with its body read.
"""

import http.client
import http.server
import json
import socket
import sys
import threading
from urllib.parse import urlsplit

NAME = sys.argv[1]
NEXT = urlsplit(sys.argv[2]) if len(sys.argv) > 2 else None
kept = threading.local()


def ask_next(headers: dict[str, str]) -> list[str]:
    """Who answered behind us. Raises OSError, HTTPException, ValueError."""
    connection = getattr(kept, "connection", None)
    if connection is None:
        connection = kept.connection = http.client.HTTPConnection(NEXT.hostname, NEXT.port or 80, timeout=20)
    try:
        connection.request("GET", NEXT.path or "/", headers=headers)
        response = connection.getresponse()
        body = response.read()
    except BaseException:
        connection.close()
        raise
    if response.status != 200:
        raise ValueError(f"{NEXT.netloc} answered {response.status}: {body!r}")
    return json.loads(body)["chain"]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        # The id of a request is the same all along the chain, so that logs can be put side by side.
        passed_on = {name: self.headers[name] for name in ["x-request-id"] if name in self.headers}
        status, chain = 200, []
        try:
            if NEXT:
                chain = ask_next(passed_on)
        except (OSError, ValueError, http.client.HTTPException) as error:
            status = 502
            print(f"{NAME}: {NEXT.netloc}: {error}", file=sys.stderr, flush=True)
        body = json.dumps({"chain": [*chain, f"{NAME}@{socket.gethostname()}"]}).encode() + b"\n"
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *arguments):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 512

    def handle_error(self, request, client_address):
        # Who asked may have stopped waiting.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


if __name__ == "__main__":
    Server(("", 8000), Handler).serve_forever()
