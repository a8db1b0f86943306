"""TCP relays and tunnels: from the choice of an endpoint to the end of both directions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastmesh.model import Forward, Route, Timeouts
from support.stage import UNHEALTHY, End, Listening, Stage, get

SetStage = Callable[..., Stage]
ROUTE = (Route(Forward((("s", 1),))),)
UPGRADE = get("/chat", b"Upgrade: websocket", b"Connection: Upgrade")
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


def relay(set_stage: SetStage, **settings: object) -> tuple[Stage, End, End]:
    stage = set_stage(protocol="tcp", routes=ROUTE, **settings)
    client = stage.client()
    return stage, client, stage.origins[0].accept()


def test_the_server_may_speak_first(set_stage: SetStage) -> None:
    _, client, upstream = relay(set_stage)
    upstream.send(b"220 ready\r\n")
    assert client.until(b"\n") == b"220 ready\r\n"


def test_each_direction_ends_by_itself(set_stage: SetStage) -> None:
    stage, client, upstream = relay(set_stage)
    client.send(b"question")
    client.finish()
    assert upstream.exactly(8) == b"question"
    assert upstream.end() == "eof"
    upstream.send(b"answer")
    assert client.exactly(6) == b"answer"
    assert stage.of_kind("relay") == ["relay_open", "relay_open"]
    upstream.finish()
    assert client.end() == "eof"
    stage.settle()
    assert stage.of_kind("relay") == []
    assert stage.worker.pair(1) == {200: 1}
    assert stage.worker.errors() == {}
    assert stage.worker.listener(0)[2:] == (8, 6)


@pytest.mark.parametrize("by_client", [True, False])
def test_a_reset_is_passed_on(set_stage: SetStage, by_client: bool) -> None:
    """Here by what is left unread: Unix sockets know no other."""
    stage, client, upstream = relay(set_stage)
    stage.settle()
    (one, other) = (client, upstream) if by_client else (upstream, client)
    other.send(b"unread")
    stage.settle()
    one.close()
    other.send(b"more")
    stage.until(lambda: stage.worker.ledger()["busy"] == 0, "the relay to end")
    other.look()
    assert other.ended is not None
    assert stage.worker.errors() == {"client_aborted" if by_client else "upstream_reset": 1}


def test_another_endpoint_when_the_first_refuses(set_stage: SetStage) -> None:
    stage = set_stage(origins=2, protocol="tcp", routes=ROUTE)
    stage.origins[0].refuse()
    client = stage.client()
    upstream = stage.origins[1].accept()
    client.send(b"hello")
    assert upstream.exactly(5) == b"hello"
    assert stage.worker.endpoint(0)["ejections"] == 1


def test_no_fourth_endpoint(set_stage: SetStage) -> None:
    stage = set_stage(origins=4, protocol="tcp", routes=ROUTE)
    for origin in stage.origins[:3]:
        origin.refuse()
    client = stage.client()
    assert client.end() in ("eof", "reset")
    assert stage.origins[3].waiting() is None
    assert stage.worker.errors() == {"connect_refused": 1}


def test_no_usable_endpoint(set_stage: SetStage) -> None:
    stage = set_stage(protocol="tcp", routes=ROUTE)
    stage.worker.mark_slot(0, UNHEALTHY)
    client = stage.client()
    assert client.end() in ("eof", "reset")
    assert stage.worker.errors() == {"no_endpoint": 1}


def test_an_idle_relay_ends(set_stage: SetStage) -> None:
    stage, client, upstream = relay(set_stage, timeouts=Timeouts(idle_tcp=0.04))
    stage.wait(lambda: not stage.of_kind("relay"), "the idle relay to end")
    assert (client.end(), upstream.end()) == ("eof", "eof")
    assert stage.worker.errors() == {}


def test_a_relay_in_use_is_not_idle(set_stage: SetStage) -> None:
    stage, client, upstream = relay(set_stage, timeouts=Timeouts(idle_tcp=0.04))
    stage.settle()
    for _ in range(12):  # far longer than the time-out, in steps of about a tick
        client.send(b"x")
        upstream.exactly(1)
        armed = stage.worker.connections()
        stage.worker.turn_waiting()
        assert armed
    assert stage.of_kind("relay") == ["relay_open", "relay_open"]


def test_a_relay_holds_no_configuration(set_stage: SetStage) -> None:
    stage, client, upstream = relay(set_stage)
    stage.settle()
    stage.change_service(timeouts=Timeouts(connect=3.0))
    assert stage.worker.references()[1][0] == 0
    client.send(b"still")
    assert upstream.exactly(5) == b"still"


# ---------------------------------------------------------------- tunnels


def tunnel(set_stage: SetStage, ahead: bytes = b"", behind: bytes = b"") -> tuple[Stage, End, End]:
    """``ahead``: sent by the client with the request; ``behind``: by the endpoint with the 101."""
    stage = set_stage()
    client = stage.client()
    client.send(UPGRADE + ahead)
    upstream = stage.origins[0].accept()
    assert b"upgrade: websocket" in upstream.head().lower()
    upstream.send(SWITCHED + behind)
    assert client.head().startswith(b"HTTP/1.1 101 ")
    return stage, client, upstream


def test_what_came_early_passes_on_both_sides(set_stage: SetStage) -> None:
    _, client, upstream = tunnel(set_stage, b"ahead", b"behind")
    assert upstream.exactly(5) == b"ahead"
    assert client.exactly(6) == b"behind"
    client.send(b"ping")
    assert upstream.exactly(4) == b"ping"


def test_a_tunnel_holds_no_configuration_and_stays_through_a_change(set_stage: SetStage) -> None:
    stage, client, upstream = tunnel(set_stage)
    stage.change_service(timeouts=Timeouts(connect=3.0))
    listeners, services = stage.worker.references()
    assert (listeners[0], services[0]) == (0, 0)
    client.send(b"ping")
    assert upstream.exactly(4) == b"ping"
    assert stage.worker.endpoint(0)["in_flight"] == 1
    client.finish()
    assert upstream.end() == "eof"
    upstream.finish()
    assert client.end() == "eof"
    assert stage.worker.pair(1) == {101: 1}


def test_without_101_it_stays_http(set_stage: SetStage) -> None:
    stage = set_stage()
    client = stage.client()
    client.send(UPGRADE)
    upstream = stage.origins[0].accept()
    upstream.head()
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    client.until(b"ok")
    stage.exchange(client, upstream)


def test_101_that_nobody_asked_for_is_refused(set_stage: SetStage) -> None:
    stage = set_stage()
    client = stage.client()
    client.send(get())
    for _ in range(3):  # makes no sense, as if it had been cut short
        upstream = stage.origins[0].accept()
        upstream.head()
        upstream.send(SWITCHED)
    assert client.response()[:2] == (502, "upstream_malformed")
    assert stage.of_kind("relay") == []


def test_two_relays_do_not_meet(set_stage: SetStage) -> None:
    stage, client, upstream = relay(set_stage)
    second = stage.client()
    other = stage.origins[0].accept()
    client.send(b"one")
    second.send(b"two")
    assert (upstream.exactly(3), other.exactly(3)) == (b"one", b"two")
    other.send(b"to two")
    assert second.exactly(6) == b"to two"
    assert client.is_open()


def test_stop_ends_relays_and_tunnels(set_stage: SetStage) -> None:
    stage, client, upstream = relay(set_stage)
    stage.settle()
    stage.worker.stop()
    for end in (client, upstream):
        end.look()
        assert end.ended is not None


def test_a_listening_socket_may_appear_late(set_stage: SetStage) -> None:
    """The endpoint is down when the relay is made and up at the next."""
    stage = set_stage(protocol="tcp", routes=ROUTE)
    stage.origins[0].refuse()
    assert stage.client().end() in ("eof", "reset")
    stage.origins[0].path.unlink()
    stage.origins[0] = Listening(stage, stage.origins[0].path)
    client = stage.client()
    client.send(b"hello")
    assert stage.origins[0].accept().exactly(5) == b"hello"
