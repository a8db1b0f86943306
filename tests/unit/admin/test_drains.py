"""What a request to `/api/v1/drain` names, and what the answer shows."""

import json

import msgspec
import pytest

from fastmesh.admin import drains
from fastmesh.admin.control import DrainTarget
from fastmesh.admin.http import Response
from fastmesh.model import Address, Config, Endpoint, Listener, Service
from fastmesh.model.stats import EndpointStats, Histogram, ListenerStats, ServiceStats, Stats

ENDPOINTS = (Endpoint(Address("inet", "10.0.0.1", 80)), Endpoint(Address("name", "api.internal", 80)))
CONFIG = Config(
    {"web": Listener("web", ()), "admin-web": Listener("admin-web", ())},
    {"user": Service("user", ENDPOINTS), "empty": Service("empty")},
)


@pytest.mark.parametrize(
    ("query", "wish"),
    [
        ("", drains.Wish()),
        ("watch", drains.Wish(watch=True)),
        ("listener=web", drains.Wish(DrainTarget("listener", "web"))),
        ("service=user", drains.Wish(DrainTarget("service", "user"))),
        ("service=user&endpoint=10.0.0.1:80", drains.Wish(DrainTarget("endpoint", "user", "10.0.0.1:80"))),
        ("service=user&endpoint=10.0.0.1%3A80", drains.Wish(DrainTarget("endpoint", "user", "10.0.0.1:80"))),
        (
            "endpoint=API.internal:80&service=user&watch",
            drains.Wish(DrainTarget("endpoint", "user", "api.internal:80"), True),
        ),
    ],
)
def test_what_is_named(query, wish):
    assert drains.parse(query, CONFIG) == wish


@pytest.mark.parametrize(
    ("query", "status", "message", "hint"),
    [
        ("listener=wbe", 404, "there is no listener `wbe`", "did you mean `web`?"),
        ("listener=zzz", 404, "there is no listener `zzz`", "the listeners: `web`, `admin-web`"),
        ("listener=", 404, "there is no listener ``", "the listeners: `web`, `admin-web`"),
        ("service=users", 404, "there is no service `users`", "did you mean `user`?"),
        (
            "service=user&endpoint=10.0.0.1:81",
            404,
            "service `user` has no endpoint `10.0.0.1:81`",
            "did you mean `10.0.0.1:80`?",
        ),
        (
            "service=empty&endpoint=what",
            404,
            "service `empty` has no endpoint `what`",
            "there are no endpoints, as the file has them",
        ),
        ("service=nope&endpoint=10.0.0.1:80", 404, "there is no service `nope`", None),
        ("endpoint=10.0.0.1:80", 400, "an endpoint needs its service", "add `service=NAME`"),
        ("listener=web&service=user", 400, "a listener and a service are named", None),
        ("listener=web&listener=web", 400, "a parameter is given twice", None),
        ("lisener=web", 400, "there is no parameter `lisener`", "did you mean `listener`?"),
        ("force=1", 400, "there is no parameter `force`", None),
    ],
)
def test_what_cannot_be_meant(query, status, message, hint):
    answer = drains.parse(query, CONFIG)
    assert isinstance(answer, Response)
    assert answer.status == status
    said = json.loads(answer.body)
    assert said["message"] == message
    assert hint in (None, said["hint"])


def test_a_long_list_of_names_is_cut():
    services = {f"s{number}": Service(f"s{number}") for number in range(1000)}
    answer = drains.parse("service=unlike", Config({}, services))
    assert json.loads(answer.body)["hint"].endswith("`s5` and 994 more")


SMALL = Histogram("small", b"")


def endpoint(address, in_flight, active, service="user"):
    return EndpointStats(service, address, "draining", 1, in_flight, active, 9, 0, 0, SMALL)


STATS = Stats(
    pairs=(),
    services=(ServiceStats("user", SMALL, queued=4), ServiceStats("other", SMALL)),
    endpoints=(
        endpoint("10.0.0.1:80", 0, 0),
        endpoint("10.1.0.1:80", 2, 3),
        endpoint("10.1.0.2:80", 0, 1),
        endpoint("10.0.0.1:80", 50, 50, "other"),
    ),
    listeners=(ListenerStats("web", (), "http", 12, 0, 0, 0), ListenerStats("tcp", (), "tcp", 0, 0, 0, 0)),
    workers=(),
    errors={},
    access_lines_dropped=0,
    generation=1,
)
RESOLVED = {"api.internal:80": ("10.1.0.1:80", "10.1.0.2:80")}


@pytest.mark.parametrize(
    ("target", "entry"),
    [
        (
            DrainTarget("listener", "web"),
            {"kind": "listener", "listener": "web", "in_flight": None, "connections": 12, "done": False},
        ),
        (
            DrainTarget("listener", "tcp"),
            {"kind": "listener", "listener": "tcp", "in_flight": None, "connections": 0, "done": True},
        ),
        (
            DrainTarget("service", "user"),
            {"kind": "service", "service": "user", "in_flight": 6, "connections": 4, "done": False},
        ),
        (
            DrainTarget("endpoint", "user", "10.0.0.1:80"),
            {
                "kind": "endpoint",
                "service": "user",
                "endpoint": "10.0.0.1:80",
                "in_flight": 0,
                "connections": 0,
                "done": True,
            },
        ),
        (
            DrainTarget("endpoint", "user", "api.internal:80"),
            {
                "kind": "endpoint",
                "service": "user",
                "endpoint": "api.internal:80",
                "in_flight": 2,
                "connections": 4,
                "done": False,
            },
        ),
    ],
    ids=["listener", "listener-done", "service", "endpoint-done", "name"],
)
def test_how_far_it_is(target, entry):
    assert drains.entries({target: "api"}, STATS, RESOLVED) == [{**entry, "by": "api"}]


def test_requests_that_wait_in_the_queue_of_a_service_are_not_done():
    waiting = msgspec.structs.replace(STATS, endpoints=())
    (entry,) = drains.entries({DrainTarget("service", "user"): "file"}, waiting, {})
    assert (entry["in_flight"], entry["done"]) == (4, False)
