"""Draining: the worker, a listener's clients, a service, an endpoint. Nobody who is served is cut off, and
nobody who is let go sees a reset."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from fastmesh.model import Balance, Endpoint, HashKey, Respond, Retries, Route, ServiceLimits
from support.stage import CLOSE_GONE, CLOSE_IDLE, CLOSE_SOCKET, DRAINING, OK, UNHEALTHY, End, Stage, get

SetStage = Callable[..., Stage]


def test_the_answer_of_a_draining_worker_closes(set_stage: SetStage) -> None:
    stage = set_stage()
    client = stage.client()
    client.send(get())
    upstream = stage.origins[0].accept()
    upstream.head()
    stage.worker.drain()
    upstream.send(OK)
    assert b"connection: close" in client.until(b"ok").lower()
    assert client.end() == "eof"
    assert upstream.is_open(), "the endpoint has nothing to do with it"


def test_the_own_answer_of_a_draining_worker_closes(set_stage: SetStage) -> None:
    stage = set_stage(routes=(Route(Respond(200, b"ok")),))
    client = stage.client()
    client.send(get())
    assert b"connection: close" not in client.until(b"ok").lower()
    stage.worker.drain()
    client.send(get())
    assert b"connection: close" in client.until(b"ok").lower()
    assert client.end() == "eof"


def test_idle_clients_are_closed_on_request_and_busy_ones_not(set_stage: SetStage) -> None:
    stage = set_stage()
    idle, fresh, busy, begun = (stage.client() for _ in range(4))
    upstream = stage.exchange(idle)
    busy.send(get())
    stage.settle()
    begun.send(b"GET / HT")
    stage.settle()
    stage.worker.post(CLOSE_IDLE, -1, 0, 0)
    stage.settle()
    for client, open_ in ((idle, False), (fresh, False), (busy, True), (begun, True)):
        client.look()
        assert (client.ended is None) == open_
    upstream.head()
    upstream.send(OK)
    busy.until(b"ok")


# ---------------------------------------------------------------- idle clients


def let_go(stage: Stage, least_idle_ms: int = 0, *, leaving: bool = False) -> None:
    stage.worker.post(CLOSE_IDLE, -1, 0, 0, least_idle_ms=least_idle_ms, leaving=leaving)
    stage.settle()


def test_who_was_idle_for_less_stays(set_stage: SetStage) -> None:
    stage = set_stage()
    client, fresh = stage.client(), stage.client()
    upstream = stage.exchange(client)
    let_go(stage, 60_000)
    assert client.is_open()
    assert fresh.is_open()
    assert stage.worker.clients_left() == 2
    time.sleep(0.06)
    stage.exchange(client, upstream)
    let_go(stage, 50)
    assert client.is_open(), "its time began anew with its last answer"
    assert fresh.end() == "eof", "since the accept"
    stage.exchange(client, upstream)


def test_a_request_that_has_just_arrived_is_served(set_stage: SetStage) -> None:
    """It is in the kernel, and no event has told of it yet when the letter is read."""
    stage = set_stage()
    client = stage.client()
    upstream = stage.exchange(client)
    stage.worker.drain()
    stage.worker.post(CLOSE_IDLE, -1, 0, 0)
    client.send(get())
    stage.worker.read_letters()
    upstream.head()
    upstream.send(OK)
    assert b"connection: close" in client.until(b"ok").lower()
    assert client.end() == "eof"


def test_a_head_that_has_begun_may_go_on(set_stage: SetStage) -> None:
    stage = set_stage()
    client = stage.client()
    stage.worker.post(CLOSE_IDLE, -1, 0, 0)
    client.send(b"GET / HT")
    stage.worker.read_letters()
    assert client.is_open()
    client.send(b"TP/1.1\r\nHost: a\r\n\r\n")
    upstream = stage.origins[0].accept()
    upstream.head()
    upstream.send(OK)
    client.until(b"ok")


def test_what_crosses_the_fin_is_read_and_dropped(set_stage: SetStage) -> None:
    """Closing over unread bytes would reset the client, which may not have read its last answer yet."""
    stage = set_stage()
    client = stage.client()
    stage.exchange(client)
    let_go(stage)
    assert stage.of_kind("client") == ["linger"]
    client.send(get())
    stage.settle()
    assert stage.nobody_is_asked()
    assert client.end() == "eof"
    assert stage.worker.clients_left() == 1
    client.close()
    stage.settle()
    assert stage.of_kind("client") == []


def test_a_client_that_does_not_take_the_fin_is_not_waited_for_for_ever(set_stage: SetStage) -> None:
    stage = set_stage()
    client = stage.client()
    let_go(stage)
    stage.wait(lambda: stage.of_kind("client") == [], "the time to linger to pass")
    assert client.end() == "eof"


def test_a_client_that_has_not_taken_its_last_answer_is_not_idle(set_stage: SetStage) -> None:
    stage = set_stage(routes=(Route(Respond(200, b"x" * 60_000)),))
    client = stage.client()
    for _ in range(40):
        client.send(get())
        stage.turn()
    assert stage.held() > 0
    let_go(stage)
    assert stage.of_kind("client") == ["head"]
    stage.worker.drain()
    whole = 0
    while client.ended is None:
        stage.settle()
        client.look()
        whole += client.received.count(b"HTTP/1.1 200 OK")
        client.received = b""
    assert client.ended == "eof"
    assert whole > 1


def test_only_clients_of_closed_sockets_leave(set_stage: SetStage) -> None:
    stage = set_stage()
    client = stage.client()
    let_go(stage, leaving=True)
    assert client.is_open()
    assert stage.worker.clients_left() == 0
    stage.worker.post(CLOSE_SOCKET, -1, 0, 1)
    let_go(stage, leaving=True)
    assert client.end() == "eof"


def test_tunnels_and_relays_are_no_idle_clients(set_stage: SetStage) -> None:
    stage = set_stage(protocol="tcp")
    client = stage.client()
    upstream = stage.origins[0].accept()
    stage.worker.post(CLOSE_SOCKET, -1, 0, 1)
    let_go(stage, leaving=True)
    let_go(stage)
    assert stage.worker.clients_left() == 0
    upstream.send(b"still here")
    assert client.until(b"here")


# ---------------------------------------------------------------- services


def test_a_service_that_drains_takes_no_new_requests(set_stage: SetStage) -> None:
    stage = set_stage()
    busy, client = stage.client(), stage.client()
    busy.send(get())
    upstream = stage.origins[0].accept()
    upstream.head()
    stage.change_service(drain=True)
    client.send(get())
    head = client.head().lower()
    assert head.startswith(b"http/1.1 503 ")
    assert b"x-fastmesh-error: draining\r\n" in head
    assert b"retry-after: 1\r\n" in head
    assert b"connection: close" not in head, "the client has done nothing wrong, and other services serve it"
    assert stage.nobody_is_asked()
    upstream.send(OK)
    busy.until(b"ok")
    assert stage.worker.errors() == {"draining": 1}
    stage.change_service(drain=False)
    client.received = b""
    stage.exchange(busy, upstream)


def test_what_a_draining_service_has_begun_is_still_sent_again(set_stage: SetStage) -> None:
    stage = set_stage(origins=2)
    client = stage.client()
    client.send(get())
    upstream = stage.origins[0].accept()
    upstream.head()
    stage.change_service(drain=True)
    upstream.close()
    second = stage.origins[1].accept()
    second.head()
    second.send(OK)
    client.until(b"ok")


def test_a_new_connection_to_a_draining_service_is_closed(set_stage: SetStage) -> None:
    stage = set_stage(protocol="tcp")
    before = stage.client()
    upstream = stage.origins[0].accept()
    stage.change_service(drain=True)
    client = stage.client()
    assert client.end() in ("eof", "reset")
    assert stage.nobody_is_asked()
    upstream.send(b"still here")
    assert before.until(b"here")


# ---------------------------------------------------------------- endpoints


def drain_endpoint(stage: Stage, number: int) -> None:
    """As the engine does it."""
    stage.worker.mark_slot(number, DRAINING)
    stage.worker.post(CLOSE_GONE, -1, 0, 0)
    stage.turn()


def test_an_endpoint_that_drains_finishes_and_gets_nothing_new(set_stage: SetStage) -> None:
    stage = set_stage(origins=2)
    busy, client = stage.client(), stage.client()
    busy.send(get())
    upstream = stage.origins[0].accept()
    upstream.head()
    drain_endpoint(stage, 0)
    other = stage.exchange(client, origin=1)
    for _ in range(4):
        stage.exchange(client, other)
    upstream.send(OK)
    busy.until(b"ok")
    assert upstream.end() == "eof", "it is of no use any more"
    stage.worker.mark_slot(0, 0)
    stage.exchange(client, origin=0)


@pytest.mark.parametrize("policy", ["ring_hash", "maglev"])
def test_a_key_does_not_lead_to_an_endpoint_that_drains(set_stage: SetStage, policy: str) -> None:
    balance = Balance(policy, (HashKey("path"),), table_size=251)  # type: ignore[arg-type]
    stage = set_stage(origins=2, balance=balance)
    drain_endpoint(stage, 0)
    client = stage.client()
    upstream: End | None = None
    for number in range(12):
        upstream = stage.exchange(client, upstream, origin=1, target=f"/{number}")
    assert stage.requests() == [0, 12]


def test_a_retry_does_not_go_to_an_endpoint_that_drains(set_stage: SetStage) -> None:
    stage = set_stage(origins=2)
    client = stage.client()
    client.send(get())
    upstream = stage.origins[0].accept()
    upstream.head()
    drain_endpoint(stage, 1)
    upstream.close()
    again = stage.origins[0].accept()
    again.head()
    again.send(OK)
    client.until(b"ok")
    assert stage.requests()[1] == 0


ALL_DRAIN = [
    ([DRAINING, DRAINING], [1, 1], "draining"),
    ([DRAINING, DRAINING | UNHEALTHY], [1, 1], "draining"),
    ([DRAINING, UNHEALTHY], [1, 1], "no_endpoint"),
    ([DRAINING, 0], [1, 0], "draining"),
    ([DRAINING, 0], [0, 0], "no_endpoint"),
]


@pytest.mark.parametrize(("marks", "weights", "code"), ALL_DRAIN)
def test_when_all_endpoints_drain_the_answer_says_so(
    set_stage: SetStage, marks: list[int], weights: list[int], code: str
) -> None:
    stage = set_stage(origins=2)
    pairs = zip(stage.service.endpoints, weights, strict=True)
    stage.change_service(endpoints=tuple(Endpoint(one.address, weight) for one, weight in pairs))
    for number, mark in enumerate(marks):
        stage.worker.mark_slot(number, mark)
    client = stage.client()
    client.send(get())
    assert client.response()[:2] == (503, code)


def test_who_waits_in_the_queue_is_told_the_same(set_stage: SetStage) -> None:
    stage = set_stage(rules={"limits": ServiceLimits(requests=1, queue=5), "retries": Retries(attempts=0)})
    first, second = stage.client(), stage.client()
    first.send(get())
    upstream = stage.origins[0].accept()
    upstream.head()
    second.send(get())
    stage.settle()
    assert stage.use()["in_queue"] == 1
    drain_endpoint(stage, 0)
    upstream.send(OK)
    first.until(b"ok")
    assert second.response()[:2] == (503, "draining")


def test_who_waits_in_the_queue_of_a_draining_service_is_served(set_stage: SetStage) -> None:
    stage = set_stage(rules={"limits": ServiceLimits(requests=1, queue=5)})
    first, second = stage.client(), stage.client()
    first.send(get())
    upstream = stage.origins[0].accept()
    upstream.head()
    second.send(get())
    stage.settle()
    stage.change_service(drain=True)
    upstream.send(OK)
    first.until(b"ok")
    upstream.head()
    upstream.send(OK)
    second.until(b"ok")
