"""The endpoints of the admin API: `Api.respond` turns a request into an answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from fastmesh import __version__
from fastmesh.admin import views
from fastmesh.admin.control import ControlPlane
from fastmesh.admin.http import Request, Response, error_response, json_response, text_response
from fastmesh.admin.rules import refusal
from fastmesh.model import Admin
from fastmesh.observability import exposition
from fastmesh.observability.metrics import MetricsRenderer

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    method: str
    path: str
    does: str
    handler: Handler


class Api:
    """``admin`` is the address that the API was started with: it decides who may POST."""

    def __init__(self, control: ControlPlane, admin: Admin) -> None:
        self._control = control
        self._admin = admin
        self._metrics = MetricsRenderer()
        # Reading 10,000 endpoints takes longer than a health check may wait: it is done in a thread, one at a
        # time.
        self._reading = trio.CapacityLimiter(1)
        endpoints = (
            Endpoint("GET", "/", "this list", self._index),
            Endpoint("GET", "/healthz", "200 while the process works", self._healthz),
            Endpoint("GET", "/readyz", "200 while traffic is welcome, else 503", self._readyz),
            Endpoint("GET", "/metrics", "Prometheus metrics", self._render_metrics),
            Endpoint("GET", "/api/v1/config", "configuration in force, last reload", self._config),
            Endpoint("GET", "/api/v1/listeners", "listeners, their connections and bytes", self._listeners),
            Endpoint("GET", "/api/v1/services", "services, their endpoints and states", self._services),
            Endpoint("GET", "/api/v1/latency", "percentiles and HdrHistogram encodings", self._latency),
            Endpoint("GET", "/api/v1/workers", "worker threads", self._workers),
            Endpoint("POST", "/api/v1/reload", "read the configuration again, now", self._reload),
            Endpoint("POST", "/api/v1/drain", "finish what is in progress and exit", self._drain),
        )
        self._endpoints = {endpoint.path: endpoint for endpoint in endpoints}

    async def respond(self, request: Request) -> Response:
        refused = refusal(request, self._admin)
        if refused is not None:
            return refused
        endpoint = self._endpoints.get(request.path)
        if endpoint is None:
            return error_response(404, f"there is no {request.path}", "GET / lists what there is")
        allowed = ("GET", "HEAD") if endpoint.method == "GET" else (endpoint.method,)
        if request.method not in allowed:
            return error_response(
                405,
                f"{request.path} takes {' and '.join(allowed)}, not {request.method}",
                f"use {endpoint.method}",
                (("allow", ", ".join(allowed)),),
            )
        return await endpoint.handler(request)

    async def _index(self, request: Request) -> Response:
        lines = [f"fastmesh {__version__}", ""]
        lines += [f"{item.method:<5} {item.path:<18} {item.does}" for item in self._endpoints.values()]
        return text_response("\n".join(lines) + "\n")

    async def _healthz(self, request: Request) -> Response:
        return text_response("ok\n")

    async def _readyz(self, request: Request) -> Response:
        reason = self._control.not_ready()
        return text_response("ready\n") if reason is None else text_response(f"{reason}\n", 503)

    async def _in_thread(self, make: Callable[[], Response]) -> Response:
        return await trio.to_thread.run_sync(make, limiter=self._reading)

    async def _render_metrics(self, request: Request) -> Response:
        reloads = self._control.reload_counts()

        def make() -> Response:
            text = self._metrics.render(self._control.stats(), reloads, self._control.health())
            return text_response(text, content_type=exposition.CONTENT_TYPE)

        return await self._in_thread(make)

    async def _config(self, request: Request) -> Response:
        return await self._in_thread(lambda: json_response(views.config_view(self._control)))

    async def _listeners(self, request: Request) -> Response:
        return await self._in_thread(lambda: json_response(views.listeners_view(self._control.stats())))

    async def _services(self, request: Request) -> Response:
        resolved = self._control.resolved()
        secrets = self._control.config().secrets.texts

        def make() -> Response:
            view = views.services_view(self._control.stats(), resolved, self._control.health())
            return json_response(views.mask(view, secrets) if secrets else view)

        return await self._in_thread(make)

    async def _workers(self, request: Request) -> Response:
        return await self._in_thread(lambda: json_response(views.workers_view(self._control.stats())))

    async def _latency(self, request: Request) -> Response:
        def make() -> Response:
            from fastmesh.observability import latency

            return json_response(latency.report(self._control.stats()))

        return await self._in_thread(make)

    async def _reload(self, request: Request) -> Response:
        outcome = await self._control.reload()
        return json_response(outcome, 409 if outcome.result == "refused" else 200)

    async def _drain(self, request: Request) -> Response:
        self._control.start_drain()
        return json_response({"result": "draining"}, 202)
