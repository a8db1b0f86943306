"""The limits of a service: what is over them waits in its queue, in turn, or is refused at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from fastmesh.model import Forward, Retries, Route, ServiceLimits, Timeouts, Upstream
from support.stage import OK, UNHEALTHY, End, Stage, answer, get

SetStage = Callable[..., Stage]


def limits(**some: Any) -> dict[str, Any]:
    return {"limits": ServiceLimits(**some)}


def asking(stage: Stage, count: int, first: int = 0) -> list[End]:
    """So many clients, each with a request of its own number."""
    clients = []
    for number in range(first, first + count):
        clients.append(stage.client())
        clients[-1].send(get(f"/{number}"))
        stage.settle()
    return clients


def serve(stage: Stage, upstream: End) -> int:
    """Answers a request; its number."""
    target = upstream.head().split(b" ")[1]
    upstream.send(answer(200, body=target))
    stage.settle()
    return int(target[1:])


# ---------------------------------------------------------------- requests


@pytest.mark.parametrize("most", [1, 3])
def test_so_many_requests(set_stage: SetStage, most: int) -> None:
    """The rest is told at once, and when to come again."""
    stage = set_stage(origins=2, rules=limits(requests=most))
    asking(stage, most)
    (client,) = asking(stage, 1)
    head = client.head().lower()
    assert head.startswith(b"http/1.1 503 ")
    assert b"\r\nretry-after: 1\r\n" in head
    assert b"\r\nx-fastmesh-error: too_many_requests\r\n" in head
    assert sum(stage.requests()) == most
    assert (stage.use()["limited"], stage.use()["in_flight"]) == (1, most)
    assert stage.worker.errors() == {"too_many_requests": 1}


def test_room_again_when_one_ends(set_stage: SetStage) -> None:
    stage = set_stage(rules=limits(requests=1))
    (client,) = asking(stage, 1)
    upstream = stage.origins[0].accept()
    serve(stage, upstream)
    assert client.response() == (200, "", b"/0")
    for number in range(5):
        stage.exchange(client, upstream, target=f"/{number}")
    assert stage.use()["limited"] == 0


def test_a_refused_client_may_ask_again(set_stage: SetStage) -> None:
    stage = set_stage(rules=limits(requests=1))
    asking(stage, 1)
    upstream = stage.origins[0].accept()
    (client,) = asking(stage, 1)
    assert client.response()[:2] == (503, "too_many_requests")
    serve(stage, upstream)
    stage.exchange(client, upstream)


# ---------------------------------------------------------------- the queue


def test_the_queue_is_served_in_turn(set_stage: SetStage) -> None:
    stage = set_stage(rules=limits(requests=2, queue=5))
    clients = asking(stage, 7)
    upstreams = [stage.origins[0].accept(), stage.origins[0].accept()]
    assert (stage.use()["in_flight"], stage.use()["queued"], stage.use()["in_queue"]) == (2, 5, 5)
    served = [serve(stage, upstreams[number % 2]) for number in range(7)]
    assert served == list(range(7))
    assert [client.response() for client in clients] == [(200, "", b"/%d" % n) for n in range(7)]
    assert (stage.use()["limited"], stage.use()["queued"]) == (0, 0)


def test_a_full_queue_refuses(set_stage: SetStage) -> None:
    stage = set_stage(rules=limits(requests=1, queue=2))
    clients = asking(stage, 4)
    assert clients[3].response()[:2] == (503, "too_many_requests")
    assert (stage.use()["queued"], stage.use()["limited"]) == (2, 1)
    upstream = stage.origins[0].accept()
    assert [serve(stage, upstream) for _ in range(3)] == [0, 1, 2]


def test_newcomers_do_not_overtake(set_stage: SetStage) -> None:
    """In the turn in which room is made, a new request is dispatched before the queue is looked at."""
    stage = set_stage(rules=limits(requests=1, queue=5))
    asking(stage, 2)
    upstream = stage.origins[0].accept()
    upstream.head()
    newcomer = stage.client()
    upstream.send(OK)
    newcomer.send(get("/2"))
    stage.turn()
    assert stage.use()["queued"] == 1
    assert [serve(stage, upstream), serve(stage, upstream)] == [1, 2]


def test_waiting_in_vain(set_stage: SetStage) -> None:
    stage = set_stage(rules=limits(requests=1, queue=5, queue_timeout=0.05))
    began = time.monotonic()
    clients = asking(stage, 3)
    stage.wait(lambda: stage.use()["limited"] == 2, "the time in the queue to be over")
    assert time.monotonic() - began >= 0.05
    assert [client.response()[:2] for client in clients[1:]] == [(503, "queue_timeout")] * 2
    assert stage.use()["queued"] == 0
    upstream = stage.origins[0].accept()
    assert serve(stage, upstream) == 0
    assert upstream.is_open()
    stage.exchange(clients[1], upstream)


def test_the_time_in_the_queue_counts_for_the_total(set_stage: SetStage) -> None:
    stage = set_stage(timeouts=Timeouts(total=0.05), rules=limits(requests=1, queue=5))
    clients = asking(stage, 2)
    stage.wait(lambda: stage.worker.errors(), "the total to be over")
    assert clients[1].response()[:2] == (504, "upstream_timeout")
    assert stage.use()["queued"] == 0


def test_the_time_in_the_queue_does_not_count_for_the_response(set_stage: SetStage) -> None:
    stage = set_stage(timeouts=Timeouts(response=0.5), rules=limits(requests=1, queue=5))
    clients = asking(stage, 2)
    upstream = stage.origins[0].accept()
    for client in clients:
        later = time.monotonic() + 0.3
        stage.until(lambda later=later: time.monotonic() > later, "more than half of the time")
        serve(stage, upstream)
        assert client.response()[0] == 200


def test_nobody_is_left_for_what_waits(set_stage: SetStage) -> None:
    stage = set_stage(rules=limits(requests=1, queue=5))
    clients = asking(stage, 3)
    stage.worker.mark_slot(0, UNHEALTHY)
    serve(stage, stage.origins[0].accept())
    assert [client.response()[:2] for client in clients[1:]] == [(503, "no_endpoint")] * 2


def test_a_large_queue_goes_on_at_once(set_stage: SetStage) -> None:
    """When all that runs ends in one turn, as many begin in the next."""
    stage = set_stage(rules=limits(requests=10, queue=30))
    stage.origins[0].sock.listen(64)
    clients = asking(stage, 40)
    upstreams = [stage.origins[0].accept() for _ in range(10)]
    for _ in range(4):
        for upstream in upstreams:
            upstream.head()
            upstream.send(OK)
        stage.settle()
    assert {client.response() for client in clients} == {(200, "", b"ok")}


def test_a_body_waits_with_its_request(set_stage: SetStage) -> None:
    """What comes meanwhile is not read beyond what is kept, and nothing is lost."""
    stage = set_stage(rules=limits(requests=1, queue=5))
    asking(stage, 1)
    body = bytes(range(256)) * 2000
    client = stage.client()
    head = b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    client.send(head)
    sent = 0
    for _ in range(20):
        sent += client.send_what_fits(body[sent:])
        stage.settle()
    assert stage.held() < 200_000
    upstream = stage.origins[0].accept()
    serve(stage, upstream)
    upstream.head()
    while sent < len(body):
        sent += client.send_what_fits(body[sent:])
        stage.turn()
        upstream.look()
    assert upstream.exactly(len(body)) == body
    upstream.send(OK)
    assert client.response() == (200, "", b"ok")


def test_retries_are_within_the_limit(set_stage: SetStage) -> None:
    """One that failed gives its place to none while it is tried again at once."""
    stage = set_stage(origins=2, rules=limits(requests=1, queue=5))
    clients = asking(stage, 2)
    first = stage.origins[0].accept()
    first.reset()
    second = stage.origins[1].accept()
    assert serve(stage, second) == 0
    assert clients[0].response() == (200, "", b"/0")
    assert stage.use()["in_flight"] <= 1
    assert serve(stage, stage.origins[0].waiting() or second) == 1


# ---------------------------------------------------------------- per endpoint


def test_so_many_requests_at_each_endpoint(set_stage: SetStage) -> None:
    """Whatever the policy would choose, the others get what one has no room for."""
    stage = set_stage(origins=3, rules=limits(endpoint_requests=2))
    asking(stage, 6)
    assert stage.requests() == [2, 2, 2]
    (client,) = asking(stage, 1)
    assert client.response()[:2] == (503, "too_many_requests")


def test_another_endpoint_is_chosen_while_one_has_room(set_stage: SetStage) -> None:
    """Round robin would go on to one that is full."""
    stage = set_stage(origins=3, rules=limits(endpoint_requests=1))
    asking(stage, 3)
    upstream = stage.origins[1].accept()
    for number in range(1, 5):
        assert serve(stage, upstream) == (1 if number == 1 else number + 1)
        asking(stage, 1, first=number + 2)
        assert stage.requests() == [1, number + 1, 1]
    assert stage.use()["limited"] == 0


def test_queued_for_any_endpoint(set_stage: SetStage) -> None:
    stage = set_stage(origins=2, rules=limits(endpoint_requests=1, queue=4))
    asking(stage, 4)
    upstreams = [origin.accept() for origin in stage.origins]
    assert stage.use()["queued"] == 2
    assert serve(stage, upstreams[1]) == 1
    assert serve(stage, upstreams[1]) == 2, "the one that waited first goes where there is room"
    assert stage.use()["queued"] == 0
    assert {serve(stage, upstreams[0]), serve(stage, upstreams[1])} == {0, 3}


# ---------------------------------------------------------------- connections


def test_so_many_connections(set_stage: SetStage) -> None:
    stage = set_stage(origins=2, rules=limits(connections=2))
    asking(stage, 2)
    (client,) = asking(stage, 1)
    assert client.response()[:2] == (503, "too_many_connections")
    assert stage.use()["connections"] == 2


def test_an_idle_connection_is_used_rather_than_refused(set_stage: SetStage) -> None:
    stage = set_stage(rules=limits(connections=1))
    client = stage.client()
    upstream = stage.exchange(client)
    for _ in range(3):
        stage.exchange(client, upstream)


def test_the_oldest_idle_connection_makes_room(set_stage: SetStage) -> None:
    """It is at another endpoint, whose turn it is not."""
    stage = set_stage(origins=3, rules=limits(connections=2))
    client = stage.client()
    first = stage.exchange(client, origin=0)
    later = time.monotonic() + 0.01
    stage.until(lambda: time.monotonic() > later, "a tick")
    second = stage.exchange(client, origin=1)
    third = stage.exchange(client, origin=2)
    assert first.end() == "eof"
    assert second.is_open()
    assert third.is_open()
    assert stage.use()["connections"] == 2
    assert stage.use()["limited"] == 0


def test_queued_for_a_connection(set_stage: SetStage) -> None:
    stage = set_stage(rules=limits(connections=1, queue=3), upstream=Upstream(keepalive=0))
    clients = asking(stage, 3)
    assert stage.use()["queued"] == 2
    for number, client in enumerate(clients):
        assert serve(stage, stage.origins[0].accept()) == number
        assert client.response() == (200, "", b"/%d" % number)


@pytest.mark.parametrize("origins", [1, 2])
def test_so_many_connections_to_each_endpoint(set_stage: SetStage, origins: int) -> None:
    stage = set_stage(origins=origins, rules=limits(endpoint_connections=2))
    asking(stage, 2 * origins)
    (client,) = asking(stage, 1)
    assert client.response()[:2] == (503, "too_many_requests")
    assert [stage.worker.endpoint(number)["connections"] for number in range(origins)] == [2] * origins


# ---------------------------------------------------------------- what else


def test_a_service_without_limits_has_none(set_stage: SetStage) -> None:
    stage = set_stage()
    stage.origins[0].sock.listen(64)
    asking(stage, 50)
    assert (stage.use()["in_flight"], stage.use()["limited"]) == (50, 0)


def test_relays_are_refused_at_the_limit_of_connections(set_stage: SetStage) -> None:
    route = (Route(Forward((("s", 1),))),)
    stage = set_stage(protocol="tcp", routes=route, rules=limits(connections=1, queue=5))
    client = stage.client()
    upstream = stage.origins[0].accept()
    refused = stage.client()
    assert refused.end() in ("eof", "reset")
    assert stage.use()["limited"] == 1
    client.send(b"still")
    assert upstream.exactly(5) == b"still"


def test_the_limits_of_a_change_hold_for_what_comes_then(set_stage: SetStage) -> None:
    stage = set_stage(rules=limits(requests=1))
    asking(stage, 1)
    stage.change_service(limits=ServiceLimits(requests=2), retries=Retries(attempts=0))
    asking(stage, 1)
    assert stage.use()["in_flight"] == 2
    (client,) = asking(stage, 1)
    assert client.response()[:2] == (503, "too_many_requests")


def test_what_waits_profits_from_a_change(set_stage: SetStage) -> None:
    """An operator who raises a limit wants it to hold at once."""
    stage = set_stage(rules=limits(requests=1, queue=5))
    asking(stage, 3)
    stage.change_service(limits=ServiceLimits(requests=3, queue=5))
    stage.settle()
    assert (stage.use()["in_flight"], stage.use()["queued"]) == (3, 0)
