"""What the JSON endpoints show, and what they must not."""

import json

from msgspec import structs

from fastmesh.admin import views
from fastmesh.admin.control import ReloadOutcome
from fastmesh.errors import Problem
from fastmesh.health import EndpointHealth, Past, Result, ServiceHealth
from fastmesh.model import Admin, Config
from fastmesh.model.stats import OverloadStats, ResourceStats
from support.admin_api import AT, FakeControl, example_config


def test_secrets_and_the_token_are_masked():
    config = example_config()
    control = FakeControl(
        Config(config.listeners, config.services, admin=Admin(":1", "tok"), secrets=config.secrets)
    )
    problem = Problem(file="f", line=1, column=1, message="bad s3cret-value", source_line="k: s3cret-value")
    control.outcome = ReloadOutcome("refused", AT, problems=(problem,))
    text = json.dumps(views.config_view(control))
    assert "s3cret-value" not in text
    shown = json.loads(text)
    assert shown["config"]["admin"]["token"] == "***"
    assert shown["config"]["listeners"]["web"]["routes"][1]["headers"] == {"x-key": "***"}
    assert shown["last_reload"]["problems"][0]["message"] == "bad ***"
    assert shown["file"] == "fastmesh.yaml"


def test_a_secret_within_a_secret_is_masked_whole():
    assert views.mask(["xabcdefx", 3], ("cdef", "abcdef", "")) == ["x***x", 3]


def test_what_is_used_and_what_may_be():
    stats = structs.replace(
        FakeControl().stats(),
        overload=OverloadStats(
            (
                ResourceStats("connections", 93, 100, 1, 4),
                ResourceStats("descriptors", 7, 0),
                ResourceStats("memory", 1, 3, 0),
            ),
            closed_clients=5,
            closed_endpoints=6,
        ),
    )
    assert views.overload_view(stats) == {
        "level": 1,
        "resources": {
            "connections": {"used": 93, "limit": 100, "share": 0.93, "level": 1},
            "descriptors": {"used": 7, "limit": None, "share": None, "level": 0},
            "memory": {"used": 1, "limit": 3, "share": 0.3333, "level": 0},
        },
        "closed": {"clients": 5, "endpoints": 6},
    }


def test_services_show_their_endpoints_and_resolved_names():
    control = FakeControl()
    view = views.services_view(control.stats(), control.resolved(), {}, control.names())
    endpoint = view["services"][0]["endpoints"][0]
    assert endpoint["address"] == "10.0.0.1:80"
    assert (endpoint["ejections"], endpoint["reason"], endpoint["health"]) == (0, "", None)
    assert view["services"][0]["health"] is None
    assert view["resolved"] == {"api:80": ["10.1.1.1:80"]}
    assert view["names"] == [
        {
            "name": "api",
            "type": "host",
            "addresses": ["10.1.1.1"],
            "ttl": 30.0,
            "last_lookup": "1970-01-01T00:00:01.000Z",
            "next_lookup": None,
            "last_error": None,
        }
    ]


def test_services_show_what_checks_found():
    control = FakeControl()
    past = (Past(0.5, 0.25, Result(True, "answered 200")), Past(2.5, 0.125, Result(False, "answered 500")))
    found = EndpointHealth("unhealthy", 1.5, "answered 500", past)
    checks = {"user": ServiceHealth(True, 0, {"passed": 1}, {"10.0.0.1:80": found})}
    service = views.services_view(control.stats(), {}, checks)["services"][0]
    assert service["health"] == {"healthy": 0, "checked": 1, "panic": True}
    assert service["endpoints"][0]["health"] == {
        "state": "unhealthy",
        "since": "1970-01-01T00:00:01.500Z",
        "last_check": "1970-01-01T00:00:02.500Z",
        "last_duration_ms": 125.0,
        "last_error": "answered 500",
        "history": [
            {
                "at": "1970-01-01T00:00:00.500Z",
                "passed": True,
                "duration_ms": 250.0,
                "result": "answered 200",
            },
            {
                "at": "1970-01-01T00:00:02.500Z",
                "passed": False,
                "duration_ms": 125.0,
                "result": "answered 500",
            },
        ],
    }


def test_an_endpoint_that_was_not_checked_yet():
    control = FakeControl()
    pending = EndpointHealth("pending", 1.5, "", ())
    for endpoints, state in (({"10.0.0.1:80": pending}, "pending"), ({}, None)):
        checks = {"user": ServiceHealth(False, 0, {}, endpoints)}
        shown = views.services_view(control.stats(), {}, checks)["services"][0]["endpoints"][0]["health"]
        assert (shown and shown["state"]) == state
        assert not shown or (shown["last_check"], shown["last_error"], shown["history"]) == (None, None, [])


def test_listeners_and_workers():
    stats = FakeControl().stats()
    assert views.listeners_view(stats)["listeners"][0]["listener"] == "web"
    assert [worker["index"] for worker in views.workers_view(stats)["workers"]] == [0, 1]
