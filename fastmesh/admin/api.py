"""The endpoints of the admin API: `Api.respond` turns a request into an answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import trio

from fastmesh import __version__
from fastmesh.admin import drains, views
from fastmesh.admin.control import ControlPlane, DrainRefused, DrainTarget
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
            Endpoint("GET", "/api/v1/overload", "what is used of what may be", self._overload),
            Endpoint("GET", "/api/v1/process", "this process, and whom it took over from", self._process),
            Endpoint("POST", "/api/v1/reload", "read the configuration again, now", self._reload),
            Endpoint("GET", "/api/v1/drain", "what drains, and how far it is", self._drains),
            Endpoint(
                "POST",
                "/api/v1/drain",
                "finish what is in progress and exit; ?listener=, ?service=, ?service=&endpoint= drain those",
                self._drain,
            ),
            Endpoint("POST", "/api/v1/undrain", "the same names take new requests again", self._undrain),
            Endpoint("POST", "/api/v1/quit", "as drain, when the application is done with it", self._quit),
        )
        self._list = endpoints
        self._endpoints: dict[str, dict[str, Endpoint]] = {}
        for endpoint in endpoints:
            self._endpoints.setdefault(endpoint.path, {})[endpoint.method] = endpoint

    async def respond(self, request: Request) -> Response:
        refused = refusal(request, self._admin)
        if refused is not None:
            return refused
        by_method = self._endpoints.get(request.path)
        if by_method is None:
            return error_response(404, f"there is no {request.path}", "GET / lists what there is")
        endpoint = by_method.get("GET" if request.method == "HEAD" else request.method)
        if endpoint is None:
            allowed = [method for one in by_method for method in ((one, "HEAD") if one == "GET" else (one,))]
            return error_response(
                405,
                f"{request.path} takes {' and '.join(allowed)}, not {request.method}",
                f"use {' or '.join(by_method)}",
                (("allow", ", ".join(allowed)),),
            )
        return await endpoint.handler(request)

    async def _index(self, request: Request) -> Response:
        lines = [f"fastmesh {__version__}", ""]
        lines += [f"{item.method:<5} {item.path:<18} {item.does}" for item in self._list]
        return text_response("\n".join(lines) + "\n")

    async def _healthz(self, request: Request) -> Response:
        return text_response("ok\n")

    async def _readyz(self, request: Request) -> Response:
        reasons = self._control.not_ready()
        return text_response("\n".join((*reasons, "")), 503) if reasons else text_response("ready\n")

    async def _in_thread(self, make: Callable[[], Response]) -> Response:
        return await trio.to_thread.run_sync(make, limiter=self._reading)

    async def _render_metrics(self, request: Request) -> Response:
        reloads = self._control.reload_counts()
        lookups = self._control.lookups()

        def make() -> Response:
            text = self._metrics.render(self._control.stats(), reloads, self._control.health(), lookups)
            return text_response(text, content_type=exposition.CONTENT_TYPE)

        return await self._in_thread(make)

    async def _config(self, request: Request) -> Response:
        return await self._in_thread(lambda: json_response(views.config_view(self._control)))

    async def _listeners(self, request: Request) -> Response:
        return await self._in_thread(lambda: json_response(views.listeners_view(self._control.stats())))

    async def _services(self, request: Request) -> Response:
        resolved, names = self._control.resolved(), self._control.names()
        secrets = self._control.config().secrets.texts

        def make() -> Response:
            view = views.services_view(self._control.stats(), resolved, self._control.health(), names)
            return json_response(views.mask(view, secrets) if secrets else view)

        return await self._in_thread(make)

    async def _workers(self, request: Request) -> Response:
        return await self._in_thread(lambda: json_response(views.workers_view(self._control.stats())))

    async def _overload(self, request: Request) -> Response:
        return await self._in_thread(lambda: json_response(views.overload_view(self._control.stats())))

    async def _process(self, request: Request) -> Response:
        return json_response(dict(self._control.process()))

    async def _latency(self, request: Request) -> Response:
        def make() -> Response:
            from fastmesh.observability import latency

            return json_response(latency.report(self._control.stats()))

        return await self._in_thread(make)

    async def _reload(self, request: Request) -> Response:
        outcome = await self._control.reload()
        return json_response(outcome, 409 if outcome.result == "refused" else 200)

    async def _drains(self, request: Request) -> Response:
        wish = drains.parse(request.query, self._control.config())
        if isinstance(wish, Response):
            return wish
        if wish.watch:
            await self._control.watch_drain()
        process = self._control.process_drain()
        listed = {
            target: by
            for target, by in self._control.drains().items()
            if wish.target is None or target == wish.target
        }
        resolved = self._control.resolved()
        secrets = self._control.config().secrets.texts

        def make() -> Response:
            found = drains.entries(listed, self._control.stats(), resolved) if listed else []
            view = {"process": msgspec.to_builtins(process), "drains": found}
            return json_response(views.mask(view, secrets) if secrets else view)

        return await self._in_thread(make)

    async def _drain(self, request: Request) -> Response:
        wish = drains.parse(request.query, self._control.config())
        if isinstance(wish, Response):
            return wish
        if wish.target is not None:
            return await self._set_drain(wish.target, True)
        self._control.start_drain(watched=wish.watch)
        return json_response({"result": "draining"}, 202)

    async def _quit(self, request: Request) -> Response:
        self._control.quit()
        return json_response({"result": "draining"}, 202)

    async def _undrain(self, request: Request) -> Response:
        wish = drains.parse(request.query, self._control.config())
        if isinstance(wish, Response):
            return wish
        if wish.target is None:
            return error_response(
                400,
                "the drain of the process cannot be taken back",
                "name what drains: ?listener=NAME, ?service=NAME or ?service=NAME&endpoint=ADDRESS",
            )
        return await self._set_drain(wish.target, False)

    async def _set_drain(self, target: DrainTarget, on: bool) -> Response:
        try:
            outcome = await self._control.set_drain(target, on)
        except DrainRefused as refused:
            return error_response(409, str(refused), refused.hint)
        value: dict[str, Any] = {
            "result": ("draining" if on else "serving") if outcome.changed else "unchanged",
            "message": outcome.message,
            "target": drains.named(target),
        }
        if on and outcome.changed:
            value["note"] = drains.NOTE
        return json_response(value)
