"""A client of fastmesh's admin API, for benchmarks that change the configuration or read metrics."""

from __future__ import annotations

import http.client
import json
import re
from typing import Any

_SERIES = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*(?:\{.*\})?) (\S+)$", re.MULTILINE)


class Admin:
    """One connection a call, to 127.0.0.1; raises OSError or http.client.HTTPException."""

    def __init__(self, port: int) -> None:
        self._port = port

    def call(self, method: str, path: str) -> tuple[int, str]:
        """Status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def ready(self) -> bool:
        try:
            return self.call("GET", "/readyz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def json(self, path: str) -> Any:
        return json.loads(self.call("GET", path)[1])

    def metrics(self) -> dict[str, float]:
        """Value by series name with its labels, as `/metrics` writes them."""
        return {name: float(value) for name, value in _SERIES.findall(self.call("GET", "/metrics")[1])}

    def reloads(self, result: str) -> int:
        """`applied`, `unchanged` or `refused` reloads so far."""
        return int(self.metrics().get(f'fastmesh_config_reloads_total{{result="{result}"}}', 0))

    def reload(self) -> tuple[str, str]:
        """Its result (`applied`, `unchanged`, `refused`) and the whole answer."""
        text = self.call("POST", "/api/v1/reload")[1]
        return json.loads(text)["result"], text
