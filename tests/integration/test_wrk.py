"""wrk for two seconds: no error, and the counters agree with what it counted."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.ports import free_port
from support.proxy import Proxy
from support.real import Nginx, wrk


@pytest.mark.parametrize("policy", ["least_request", "round_robin", "maglev"])
def test_no_error_at_64_connections(start: Callable[..., Proxy], nginx: Nginx, policy: str) -> None:
    port = free_port()
    proxy = start(
        {
            "listeners": {"web": {"bind": f"127.0.0.1:{port}", "routes": {"/": "nginx"}}},
            "services": {"nginx": {"endpoints": [nginx.text], "balance": policy}},
        }
    )
    measured = wrk(f"http://127.0.0.1:{port}/small.txt", connections=64, seconds=2)
    assert measured.socket_errors == 0, measured.output
    assert measured.bad_statuses == 0, measured.output
    assert measured.requests > 500, measured.output
    counted = proxy.metric("fastmesh_requests_total", listener="web", service="nginx", code="200")
    # wrk leaves up to one request a connection unread at its end.
    assert measured.requests <= counted <= measured.requests + 128
    assert proxy.metric("fastmesh_errors_total") <= 64


def test_a_connection_for_each_request(start: Callable[..., Proxy], nginx: Nginx) -> None:
    port = free_port()
    start(
        {
            "listeners": {"web": {"bind": f"127.0.0.1:{port}", "routes": {"/": "nginx"}}},
            "services": {"nginx": {"endpoints": [nginx.text]}},
        }
    )
    measured = wrk(
        f"http://127.0.0.1:{port}/small.txt", connections=16, seconds=2, arguments=("-H", "Connection: close")
    )
    assert measured.socket_errors == 0, measured.output
    assert measured.bad_statuses == 0, measured.output
    assert measured.requests > 100, measured.output
