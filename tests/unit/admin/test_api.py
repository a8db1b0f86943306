"""Each endpoint, its methods and what it shows."""

import json

import pytest
import trio

from fastmesh.admin.control import DrainRefused, ReloadOutcome
from fastmesh.errors import Problem
from fastmesh.health import EndpointHealth, Past, Result, ServiceHealth
from fastmesh.model import Admin
from support.admin_api import AT, FakeControl, running_api

READABLE = (
    "/api/v1/config",
    "/api/v1/listeners",
    "/api/v1/services",
    "/api/v1/latency",
    "/api/v1/workers",
    "/api/v1/overload",
    "/api/v1/process",
)


@pytest.mark.trio
async def test_the_list_names_every_endpoint():
    async with running_api() as api:
        status, headers, body = await api.ask("GET", "/")
        assert status == 200
        assert headers["content-type"].startswith("text/plain")
        for path in ("/healthz", "/readyz", "/metrics", "/api/v1/reload", "/api/v1/drain", *READABLE):
            assert path in body.decode()


@pytest.mark.trio
async def test_health_and_readiness():
    async with running_api() as api:
        assert (await api.ask("GET", "/healthz"))[::2] == (200, b"ok\n")
        assert (await api.ask("GET", "/readyz"))[::2] == (200, b"ready\n")
        api.control.reasons = ("draining",)
        assert (await api.ask("GET", "/readyz"))[::2] == (503, b"draining\n")
        assert (await api.ask("GET", "/healthz"))[0] == 200


@pytest.mark.trio
async def test_metrics_are_prometheus_text():
    async with running_api() as api:
        status, headers, body = await api.ask("GET", "/metrics?name=x")
        assert status == 200
        assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert b'fastmesh_requests_total{listener="web",service="user",code="200"} 1\n' in body
        assert b'fastmesh_dns_lookups_total{name="api"} 3\n' in body
        assert b'fastmesh_dns_lookup_failures_total{name="api"} 1\n' in body


@pytest.mark.trio
@pytest.mark.parametrize("path", READABLE)
async def test_views_are_json(path):
    async with running_api() as api:
        status, headers, body = await api.ask("GET", path)
        assert status == 200
        assert headers["content-type"] == "application/json"
        json.loads(body)


@pytest.mark.trio
async def test_what_checks_found_is_shown_without_secrets():
    async with running_api() as api:
        past = Past(0.5, 0.25, Result(False, "the body does not hold 's3cret-value'"))
        found = EndpointHealth("unhealthy", 0.5, past.result.text, (past,))
        api.control.checks = {"user": ServiceHealth(False, 0, {"failed": 3}, {"10.0.0.1:80": found})}
        _, _, body = await api.ask("GET", "/api/v1/services")
        health = json.loads(body)["services"][0]["endpoints"][0]["health"]
        assert health["last_error"] == health["history"][0]["result"] == "the body does not hold '***'"
        _, _, metrics = await api.ask("GET", "/metrics")
        assert b'fastmesh_health_checks_total{service="user",result="failed"} 3\n' in metrics


@pytest.mark.trio
async def test_head_has_the_length_and_no_body():
    async with running_api() as api:
        client = await api.connect()
        async with client.stream:
            _, _, body = await client.ask("GET", "/healthz")
            status, headers, nothing = await client.ask("HEAD", "/healthz")
            assert (status, headers["content-length"], nothing) == (200, str(len(body)), b"")
            assert (await client.ask("GET", "/readyz"))[0] == 200  # nothing of a body is in between


@pytest.mark.trio
@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/healthz", "get, head"),
        ("PUT", "/metrics", "get, head"),
        ("GET", "/api/v1/reload", "post"),
        ("HEAD", "/api/v1/undrain", "post"),
        ("DELETE", "/api/v1/drain", "get, head, post"),
    ],
)
async def test_wrong_methods(method, path, allow):
    async with running_api() as api:
        status, headers, body = await api.ask(method, path)
        assert (status, headers["allow"]) == (405, allow)
        if method != "HEAD":
            assert "hint" in json.loads(body)
        assert api.control.asked_to_end == api.control.reloads == 0


@pytest.mark.trio
async def test_unknown_paths():
    async with running_api() as api:
        status, _, body = await api.ask("GET", "/api/v2/config")
        assert status == 404
        assert json.loads(body)["hint"] == "GET / lists what there is"


@pytest.mark.trio
async def test_reload_says_what_became_of_it():
    control = FakeControl()
    async with running_api(control=control) as api:
        control.outcome = ReloadOutcome("applied", AT, 2, ("a route changed",))
        status, _, body = await api.ask("POST", "/api/v1/reload")
        assert status == 200
        assert json.loads(body) == {
            "result": "applied",
            "at": AT,
            "generation": 2,
            "changes": ["a route changed"],
        }
        problem = Problem(file="f.yaml", line=3, column=4, message="no", source_line="x")
        control.outcome = ReloadOutcome("refused", AT, problems=(problem,))
        status, _, body = await api.ask("POST", "/api/v1/reload")
        assert status == 409
        assert json.loads(body)["problems"][0]["line"] == 3
        assert control.reloads == 2


@pytest.mark.trio
async def test_drain_answers_at_once():
    async with running_api() as api:
        assert (await api.ask("POST", "/api/v1/drain"))[0] == 202
        assert (api.control.asked_to_end, api.control.watched) == (1, 0)
        assert (await api.ask("POST", "/api/v1/drain?watch"))[0] == 202
        assert (api.control.asked_to_end, api.control.watched) == (2, 1)


@pytest.mark.trio
async def test_quit_answers_at_once():
    async with running_api() as api:
        status, _, body = await api.ask("POST", "/api/v1/quit")
        assert (status, json.loads(body)) == (202, {"result": "draining"})
        assert (api.control.asked_to_quit, api.control.asked_to_end) == (1, 0)
        assert (await api.ask("GET", "/api/v1/quit"))[0] == 405


@pytest.mark.trio
async def test_what_readiness_waits_for_has_a_line_each():
    async with running_api() as api:
        api.control.reasons = ("no answer yet for the name a", "no check of b")
        assert (await api.ask("GET", "/readyz"))[::2] == (
            503,
            b"no answer yet for the name a\nno check of b\n",
        )


@pytest.mark.trio
async def test_a_part_drains_and_serves_again():
    target = {"kind": "service", "service": "user"}
    async with running_api() as api:
        status, _, body = await api.ask("POST", "/api/v1/drain?service=user")
        assert status == 200
        answer = json.loads(body)
        assert answer.pop("note").startswith("asked for by the API, it lasts until")
        assert answer == {"result": "draining", "message": "service user drains", "target": target}
        status, _, body = await api.ask("POST", "/api/v1/drain?service=user")
        assert (status, json.loads(body)["result"]) == (200, "unchanged")
        status, _, body = await api.ask("GET", "/api/v1/drain")
        assert status == 200
        assert json.loads(body)["process"]["state"] == "serving"
        assert json.loads(body)["drains"] == [
            {**target, "by": "api", "in_flight": 0, "connections": 0, "done": True}
        ]
        status, _, body = await api.ask("GET", "/api/v1/drain?listener=web")
        assert (status, json.loads(body)["drains"]) == (200, [])
        status, _, body = await api.ask("POST", "/api/v1/undrain?service=user")
        assert (status, json.loads(body)["result"]) == (200, "serving")
        assert json.loads((await api.ask("GET", "/api/v1/drain"))[2])["drains"] == []
        assert api.control.asked_to_end == 0


@pytest.mark.trio
@pytest.mark.parametrize(
    ("path", "status"),
    [("drain?service=usr", 404), ("undrain?listener=nope", 404), ("undrain", 400), ("drain?all", 400)],
)
async def test_what_cannot_drain(path, status):
    async with running_api() as api:
        assert (await api.ask("POST", f"/api/v1/{path}"))[0] == status
        assert api.control.draining == {}
        assert api.control.asked_to_end == 0


@pytest.mark.trio
async def test_a_refused_drain_says_what_to_do():
    control = FakeControl()
    control.refuse_drain = DrainRefused("the file says so", "change the file")
    async with running_api(control=control) as api:
        status, _, body = await api.ask("POST", "/api/v1/undrain?listener=web")
        assert status == 409
        assert json.loads(body) == {
            "error": "Conflict",
            "message": "the file says so",
            "hint": "change the file",
        }


@pytest.mark.trio
async def test_who_watches_the_drain_is_answered_after_a_moment():
    async with running_api() as api:
        assert (await api.ask("GET", "/api/v1/drain"))[0] == 200
        assert api.control.watched == 0
        assert (await api.ask("GET", "/api/v1/drain?watch"))[0] == 200
        assert api.control.watched == 1


@pytest.mark.trio
async def test_the_rules_apply():
    async with running_api(Admin("0.0.0.0:9400")) as api:
        status, _, body = await api.ask("POST", "/api/v1/drain")
        assert status == 403
        assert "token" in json.loads(body)["hint"]
        assert (await api.ask("GET", "/metrics", "origin: http://evil.example"))[0] == 403
    async with running_api(Admin("0.0.0.0:9400", "secret")) as api:
        assert (await api.ask("POST", "/api/v1/drain"))[0] == 401
        assert (await api.ask("POST", "/api/v1/drain", "authorization: Bearer secret"))[0] == 202
    async with running_api() as api:
        assert (await api.ask("POST", "/api/v1/drain", "host: evil.example"))[0] == 403
        assert api.control.asked_to_end == 0


@pytest.mark.trio
async def test_a_slow_scrape_does_not_keep_health_waiting(monkeypatch):
    import threading

    release = threading.Event()
    control = FakeControl()
    quick = control.stats
    monkeypatch.setattr(control, "stats", lambda: (release.wait(10), quick())[1])
    async with running_api(control=control) as api:
        scrape = await api.connect()
        await scrape.send(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
        try:
            with trio.fail_after(2):
                assert (await api.ask("GET", "/healthz"))[0] == 200
        finally:
            release.set()
        async with scrape.stream:
            assert (await scrape.answer())[0] == 200
