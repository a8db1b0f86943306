"""A new snapshot is adopted between two turns: what runs goes on with what it began with."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from fastmesh.model import Balance, Endpoint, Listener, Respond, Route, Timeouts
from support.stage import (
    CLOSE_GONE,
    CLOSE_IDLE,
    CLOSE_SOCKET,
    DRAINING,
    MOVE_SOCKET,
    OK,
    OPEN_SOCKET,
    End,
    Stage,
    get,
)

SetStage = Callable[..., Stage]


def test_an_exchange_keeps_its_endpoint(set_stage: SetStage) -> None:
    stage = set_stage(origins=2)
    client = stage.client()
    client.send(get())
    upstream = stage.origins[0].accept()
    upstream.head()
    remove_first(stage)
    upstream.send(OK)
    assert client.until(b"ok").startswith(b"HTTP/1.1 200 ")
    assert upstream.end() == "eof", "nobody may be given this connection any more"
    stage.exchange(client, origin=1)


def remove_first(stage: Stage) -> None:
    """As the engine does it: another snapshot, then the slot is marked and its idle connections close."""
    service = msgspec.structs.replace(stage.service, endpoints=stage.service.endpoints[1:])
    stage.publish(stage.listener, {"s": service}, slots={"s": [1]})
    stage.turn()
    stage.worker.mark_slot(0, DRAINING)
    stage.worker.post(CLOSE_GONE, -1, 0, 0)
    stage.turn()


def test_idle_connections_of_a_removed_endpoint_close_at_once(set_stage: SetStage) -> None:
    stage = set_stage(origins=2)
    client = stage.client()
    gone, kept = stage.exchange(client), stage.exchange(client, origin=1)
    remove_first(stage)
    assert gone.end() == "eof"
    assert kept.is_open()
    stage.exchange(client, kept)


def test_a_retry_picks_of_the_newest_block(set_stage: SetStage) -> None:
    """An endpoint that has left the configuration is no place to go to, one that has joined is."""
    stage = set_stage(origins=2)
    client = stage.client()
    client.send(get())
    upstream = stage.origins[0].accept()
    upstream.head()
    remove_first(stage)
    upstream.close()
    second = stage.origins[1].accept()
    second.head()
    second.send(OK)
    client.until(b"ok")
    assert stage.worker.references()[1] == [0, 1], "the old one is let go"


def test_changes_leave_no_block_behind(set_stage: SetStage) -> None:
    stage = set_stage()
    client = stage.client()
    upstream = stage.exchange(client)
    for number in range(20):
        stage.change_service(timeouts=Timeouts(connect=1.0 + number))
        stage.exchange(client, upstream)
    listeners, services = stage.worker.references()
    assert sum(services) == services[-1] == 1
    assert sum(listeners) == listeners[-1] == 1, "the socket's"


def test_skipped_snapshots_are_never_looked_at(set_stage: SetStage) -> None:
    stage = set_stage()
    client = stage.client()
    upstream = stage.exchange(client)
    for number in range(5):
        service = msgspec.structs.replace(stage.service, timeouts=Timeouts(connect=1.0 + number))
        stage.publish(stage.listener, {"s": service})
    stage.turn()
    assert stage.worker.adopted() == 6
    stage.exchange(client, upstream)
    assert stage.worker.references()[1] == [0, 0, 0, 0, 0, 1]


def test_turns_go_on_where_they_stood(set_stage: SetStage) -> None:
    """Three endpoints in turn, a change after each request: all get their share."""
    stage = set_stage(origins=3)
    client = stage.client()
    upstreams = [stage.exchange(client, origin=number) for number in range(3)]
    for number in range(9):
        stage.change_service(timeouts=Timeouts(connect=1.0 + number))
        stage.exchange(client, upstreams[number % 3])


def test_another_policy(set_stage: SetStage) -> None:
    stage = set_stage(origins=2)
    client = stage.client()
    upstreams = [stage.exchange(client, origin=number) for number in range(2)]
    stage.change_service(balance=Balance("ring_hash"))
    client.send(get())
    stage.settle()
    chosen = next(u for u in upstreams if (u.look(), u.received)[1])
    chosen.received = b""
    chosen.send(OK)
    client.until(b"ok")
    for _ in range(5):
        stage.exchange(client, chosen)


def test_a_service_that_is_gone_is_503(set_stage: SetStage) -> None:
    stage = set_stage()
    client = stage.client()
    stage.exchange(client)
    stage.worker.publish([0], [None])
    stage.turn()
    client.send(get())
    assert client.head().startswith(b"HTTP/1.1 503 ")
    assert stage.worker.errors() == {"no_endpoint": 1}


def test_a_connection_serves_the_newest_routes(set_stage: SetStage) -> None:
    stage = set_stage()
    client = stage.client()
    stage.exchange(client)
    answer = Listener("l", (), routes=(Route(Respond(200, b"new")),))
    stage.publish(answer, {"s": stage.service})
    stage.turn()
    client.send(get())
    assert client.until(b"new")


# ---------------------------------------------------------------- listening sockets


def test_a_closed_socket_takes_who_waits(set_stage: SetStage) -> None:
    """Clients in the queue are accepted before the socket goes, and told to close with their answer."""
    stage = set_stage()
    before = stage.client()
    stage.worker.post(CLOSE_SOCKET, -1, 0, 1)
    late = End(stage, stage.front.connect())
    stage.turn()
    assert stage.of_kind("listener") == []
    upstream = None
    for client in (before, late):
        client.send(get())
        upstream = upstream or stage.origins[0].accept()
        upstream.head()
        upstream.send(OK)
        assert b"connection: close" in client.until(b"ok").lower()
        assert client.end() == "eof"


def test_a_long_queue_is_taken_whole_before_the_socket_goes(set_stage: SetStage) -> None:
    """More than the budgets of a turn allow: what is left in the queue would be reset."""
    stage = set_stage(connection_limit=1000)
    waiting = [End(stage, stage.front.connect()) for _ in range(200)]
    stage.worker.post(CLOSE_SOCKET, -1, 0, 1)
    stage.turn()
    assert len(stage.of_kind("client")) == len(waiting)


def test_a_socket_that_is_handed_on_keeps_its_queue(set_stage: SetStage) -> None:
    """Another process serves it: whoever still waits is its, who is here goes after the next answer."""
    stage = set_stage(connection_limit=1000)
    before = stage.client()
    waiting = [End(stage, stage.front.connect()) for _ in range(200)]
    stage.worker.post(CLOSE_SOCKET, -1, 0, 1, handed_on=True)
    stage.turn()
    taken = len(stage.of_kind("client")) - 1
    assert taken < len(waiting), "more than the budget of a turn"
    stage.front.accept().sock.sendall(b"of another process")
    stage.turn()
    assert stage.of_kind("listener") == []
    assert waiting[taken].until(b"process") == b"of another process"
    before.send(get())
    upstream = stage.origins[0].accept()
    upstream.head()
    upstream.send(OK)
    assert b"connection: close" in before.until(b"ok").lower()


def test_a_shared_socket_that_is_handed_on_leaves_nobody_unseen(set_stage: SetStage) -> None:
    """Of its watchers one is woken for a client. That may have been this worker, which had no time yet."""
    stage = set_stage(connection_limit=1000)
    stage.worker.post(CLOSE_SOCKET, -1, 0, 1)
    stage.worker.post(OPEN_SOCKET, stage.front.sock.fileno(), 0, 2, shared=True)
    stage.turn()
    waiting = [End(stage, stage.front.connect()) for _ in range(200)]
    stage.worker.post(CLOSE_SOCKET, -1, 0, 2, handed_on=True)
    stage.turn()
    assert len(stage.of_kind("client")) == len(waiting)
    stage.turn()
    assert stage.of_kind("listener") == []


def test_a_closed_socket_lets_go_of_its_block_with_its_last_client(set_stage: SetStage) -> None:
    stage = set_stage()
    client = stage.client()
    stage.worker.post(CLOSE_SOCKET, -1, 0, 1)
    stage.worker.publish([None], [0])
    stage.settle()
    assert stage.worker.references()[0] == [1]
    client.close()
    stage.settle()
    stage.worker.post(CLOSE_IDLE, -1, 0, 0)  # any letter makes the worker look
    stage.turn()
    assert stage.worker.references()[0] == [0]


def test_a_socket_moves_to_another_listener(set_stage: SetStage) -> None:
    stage = set_stage()
    client = stage.client()
    assert stage.worker.references()[0] == [1]
    other = Listener("other", (), routes=(Route(Respond(200, b"moved")),))
    stage.publish(other, {"s": stage.service})
    stage.worker.publish([None, 1], [1])
    stage.turn()
    stage.worker.post(MOVE_SOCKET, -1, 1, 1)
    stage.turn()
    assert stage.worker.references()[0] == [0, 1]
    client.send(get())
    assert client.until(b"moved")


def test_a_socket_of_a_listener_that_is_gone_is_not_opened(set_stage: SetStage) -> None:
    stage = set_stage()
    stage.worker.post(OPEN_SOCKET, stage.origins[0].sock.fileno(), 7, 2)
    stage.turn()
    assert len(stage.of_kind("listener")) == 1


@pytest.mark.parametrize("kind", [MOVE_SOCKET, CLOSE_SOCKET])
def test_a_letter_for_a_socket_that_is_gone(set_stage: SetStage, kind: int) -> None:
    stage = set_stage()
    stage.worker.post(kind, -1, 0, 99)
    stage.turn()
    stage.exchange(stage.client())


def test_letters_are_read_in_order(set_stage: SetStage) -> None:
    stage = set_stage()
    for _ in range(10):
        stage.worker.post(OPEN_SOCKET, stage.origins[0].sock.fileno(), 0, 2)
        stage.worker.post(CLOSE_SOCKET, -1, 0, 2)
    stage.turn()
    assert len(stage.of_kind("listener")) == 1


def test_weight_zero_gets_no_requests(set_stage: SetStage) -> None:
    stage = set_stage(origins=2)
    first, second = stage.service.endpoints
    endpoints = (Endpoint(first.address, 0), Endpoint(second.address, 1))
    stage.change_service(endpoints=endpoints)
    client = stage.client()
    upstream = stage.exchange(client, origin=1)
    for _ in range(5):
        stage.exchange(client, upstream)
