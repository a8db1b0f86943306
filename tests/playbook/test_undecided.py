"""Listeners where whoever speaks first decides the protocol: the endpoint is connected before anybody has."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from fastmesh.model import Balance, HashKey, OutlierDetection, Retries, ServiceLimits, Timeouts, Upstream
from support.stage import CLOSE_IDLE, OK, UNHEALTHY, End, Stage, answer, get

SetStage = Callable[..., Stage]


def undecided(set_stage: SetStage, **settings: object) -> tuple[Stage, End, End]:
    """Connected, and nobody has spoken."""
    stage = set_stage(protocol="auto", **settings)
    client = stage.client()
    upstream = stage.origins[0].accept()
    stage.settle()
    assert stage.of_kind("undecided") == ["relay_open", "relay_open"]
    return stage, client, upstream


# ---------------------------------------------------------------- who speaks first


def test_the_endpoint_speaks_first(set_stage: SetStage) -> None:
    stage, client, upstream = undecided(set_stage)
    upstream.send(b"220 ready\r\n")
    assert client.until(b"\n") == b"220 ready\r\n"
    assert stage.of_kind("relay") == ["relay_open", "relay_open"]
    client.send(b"GET / HTTP/1.1\r\n\r\n")  # from here on nobody cares
    assert upstream.until(b"\r\n\r\n") == b"GET / HTTP/1.1\r\n\r\n"
    client.finish()
    upstream.finish()
    assert client.end() == "eof"
    stage.settle()
    assert stage.worker.pair(1) == {200: 1}
    assert stage.requests() == [1]


def test_half_a_method_is_decided_by_the_endpoint(set_stage: SetStage) -> None:
    stage, client, upstream = undecided(set_stage)
    client.send(b"POS")
    stage.settle()
    assert stage.of_kind("undecided") == ["relay_open", "relay_open"]
    upstream.send(b"hello")
    assert client.exactly(5) == b"hello"
    assert upstream.exactly(3) == b"POS"
    assert stage.of_kind("relay") == ["relay_open", "relay_open"]


@pytest.mark.parametrize(
    "said", [b"\x16\x03\x01\x02\x00", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"EHLO me\r\n", b"\0"]
)
def test_what_is_not_http_goes_on_as_it_is(set_stage: SetStage, said: bytes) -> None:
    stage, client, upstream = undecided(set_stage)
    client.send(said)
    assert upstream.exactly(len(said)) == said
    upstream.send(b"answer")
    assert client.exactly(6) == b"answer"
    client.send(b"more")
    assert upstream.exactly(4) == b"more"
    assert stage.of_kind("client") == []


@pytest.mark.parametrize("pieces", [1, 3, 100])
def test_a_request_is_answered_over_the_connection_that_is_there(set_stage: SetStage, pieces: int) -> None:
    stage, client, upstream = undecided(set_stage)
    request = get("/")
    for at in range(0, len(request), size := max(1, len(request) // pieces)):
        client.send(request[at : at + size])
        stage.turn(2)
    assert upstream.head().startswith(b"GET / HTTP/1.1\r\n")
    upstream.send(OK)
    assert client.response() == (200, "", b"ok")
    stage.exchange(client, upstream)  # and the next one
    assert stage.requests() == [2]
    assert stage.worker.pair(1) == {200: 2}
    assert stage.of_kind("client") == ["head"]
    assert stage.of_kind("upstream") == ["idle"]
    assert stage.worker.ledger()["busy"] == 0


def test_both_at_once_and_before_the_endpoint_is_connected(set_stage: SetStage) -> None:
    """All of it may be there when the worker looks for the first time."""
    stage = set_stage(protocol="auto")
    client = End(stage, stage.front.connect())
    client.send(get("/"))
    upstream = stage.origins[0].accept()
    assert upstream.head().startswith(b"GET / HTTP/1.1\r\n")
    upstream.send(OK)
    assert client.response() == (200, "", b"ok")
    assert stage.requests() == [1]


def test_a_fin_is_no_request(set_stage: SetStage) -> None:
    stage, client, upstream = undecided(set_stage)
    client.send(b"GE")
    client.finish()
    assert upstream.exactly(2) == b"GE"
    assert upstream.end() == "eof"
    upstream.send(b"late")
    assert client.exactly(4) == b"late"
    upstream.finish()
    assert client.end() == "eof"
    stage.settle()
    assert stage.worker.errors() == {}


def test_an_endpoint_that_ends_ends_the_relay(set_stage: SetStage) -> None:
    stage, client, upstream = undecided(set_stage)
    upstream.finish()
    assert client.end() == "eof"
    assert stage.of_kind("relay") == ["relay_open", "relay_open"]


def test_a_client_that_breaks_is_counted(set_stage: SetStage) -> None:
    stage, client, upstream = undecided(set_stage)
    client.close()
    stage.settle()
    assert upstream.end() == "eof"
    assert stage.of_kind("undecided") == []


# ---------------------------------------------------------------- which endpoint


def test_turns_are_as_without(set_stage: SetStage) -> None:
    """The pick for the connection is the pick for the first request."""
    stage = set_stage(origins=3, protocol="auto")
    order = []
    for _ in range(6):
        client = stage.client()
        number, upstream = stage.asked()
        order.append(number)
        client.send(get("/"))
        assert upstream.head().startswith(b"GET")
        upstream.send(OK)
        assert client.response()[0] == 200
    assert order == [0, 1, 2, 0, 1, 2]
    assert stage.requests() == [2, 2, 2]


def test_another_endpoint_when_the_first_refuses(set_stage: SetStage) -> None:
    stage = set_stage(origins=2, protocol="auto")
    stage.origins[0].refuse()
    client = stage.client()
    upstream = stage.origins[1].accept()
    client.send(get("/"))
    assert upstream.head().startswith(b"GET")
    upstream.send(OK)
    assert client.response()[0] == 200
    assert stage.requests() == [1, 1]


@pytest.mark.parametrize("when", ["before", "after"])
def test_without_an_endpoint_http_gets_an_answer(set_stage: SetStage, when: str) -> None:
    stage = set_stage(protocol="auto")
    stage.worker.mark_slot(0, UNHEALTHY)
    client = End(stage, stage.front.connect())
    if when == "before":
        client.send(get("/"))
    stage.turn(3)
    if when == "after":
        client.send(get("/"))
    assert client.response()[:2] == (503, "no_endpoint")


def test_without_an_endpoint_silence_ends_soon(set_stage: SetStage) -> None:
    stage = set_stage(protocol="auto")
    stage.origins[0].refuse()
    client = stage.client()
    stage.wait(lambda: (client.look(), client.ended)[1], "the end")
    assert stage.worker.errors() == {"connect_refused": 1}
    assert stage.requests() == [1]


def test_a_limit_has_room_for_the_connection_that_is_there(set_stage: SetStage) -> None:
    rules = {"limits": ServiceLimits(connections=1, endpoint_connections=1, requests=1)}
    _stage, client, upstream = undecided(set_stage, rules=rules)
    client.send(get("/"))
    assert upstream.head().startswith(b"GET")
    upstream.send(OK)
    assert client.response()[0] == 200


@pytest.mark.parametrize("settings", [{"upstream": Upstream(keepalive=0)}, {"send_proxy": "v1"}])
def test_where_nothing_is_pooled_the_request_gets_a_new_connection(
    set_stage: SetStage, settings: dict[str, object]
) -> None:
    stage, client, upstream = undecided(set_stage, **settings)
    client.send(get("/"))
    again = stage.origins[0].accept()
    assert b"GET / HTTP/1.1\r\n" in again.head()
    again.send(OK)
    assert client.response()[0] == 200
    assert upstream.end() in ("eof", "reset")


def test_a_proxy_header_goes_to_a_relay_first(set_stage: SetStage) -> None:
    _stage, client, upstream = undecided(set_stage, send_proxy="v1")
    client.send(b"\0hello")
    assert upstream.until(b"hello") == b"PROXY UNKNOWN\r\n\0hello"


def test_the_key_of_a_request_decides_where_it_goes(set_stage: SetStage) -> None:
    balance = Balance("maglev", (HashKey("header", "user"),), table_size=251)
    stage = set_stage(origins=5, protocol="auto", balance=balance)
    for _ in range(8):
        client = stage.client()
        stage.asked()
        client.send(get("/", b"User: me"))
        stage.settle()
    found = [number for number, count in enumerate(stage.requests()) if count]
    assert (len(found), sum(stage.requests())) == (1, 8)


# ---------------------------------------------------------------- what it says of the endpoint


NO_RETRIES = Retries(attempts=0, codes=())


def left_out(stage: Stage) -> bool:
    return stage.worker.left_out_ms(0) is not None


def half_open(set_stage: SetStage) -> tuple[Stage, End, End]:
    """A client whose connection is the first to an endpoint that was left out, and nobody has spoken."""
    stage = set_stage(
        protocol="auto",
        rules={"retries": NO_RETRIES, "outlier_detection": OutlierDetection(max_ejected=1.0)},
    )
    stage.worker.eject_slot(0, 1000)
    stage.worker.pass_ejection(0)
    client = stage.client()
    upstream = stage.origins[0].accept()
    stage.settle()
    assert left_out(stage)
    return stage, client, upstream


def test_a_connect_does_not_break_a_row_of_bad_answers(set_stage: SetStage) -> None:
    rules = {"retries": NO_RETRIES, "outlier_detection": OutlierDetection(consecutive_5xx=3)}
    stage = set_stage(origins=2, protocol="auto", rules=rules)
    for _ in range(3):
        assert not left_out(stage)
        for _ in range(2):  # they come, say nothing, and go
            client = stage.client()
            _, upstream = stage.asked()
            client.close()
            assert upstream.end() == "eof"
            upstream.close()
            stage.settle()
        for _ in range(2):
            client = stage.client()
            number, upstream = stage.asked()
            status = 500 if number == 0 else 200
            client.send(get("/"))
            upstream.head()
            upstream.send(answer(status, b"Connection: close"))
            assert client.response()[0] == status
    assert left_out(stage)


@pytest.mark.parametrize(("status", "is_back"), [(200, True), (500, False)])
def test_a_request_finds_out_whether_the_endpoint_is_back(
    set_stage: SetStage, status: int, is_back: bool
) -> None:
    stage, client, upstream = half_open(set_stage)
    client.send(get("/"))
    upstream.head()
    assert left_out(stage)
    upstream.send(answer(status))
    assert client.response()[0] == status
    assert left_out(stage) is not is_back
    assert stage.requests() == [1]


@pytest.mark.parametrize("who", ["client", "endpoint"])
def test_a_relay_finds_out_as_soon_as_somebody_speaks(set_stage: SetStage, who: str) -> None:
    stage, client, upstream = half_open(set_stage)
    if who == "client":
        client.send(b"\0")
        assert upstream.exactly(1) == b"\0"
    else:
        upstream.send(b"\0")
        assert client.exactly(1) == b"\0"
    assert not left_out(stage)


def test_who_says_nothing_finds_out_nothing(set_stage: SetStage) -> None:
    stage, client, upstream = half_open(set_stage)
    client.finish()
    assert upstream.end() == "eof"
    upstream.finish()
    assert client.end() == "eof"
    stage.settle()
    assert left_out(stage)
    stage.client()
    stage.origins[0].accept()  # and the next one may
    stage.settle()
    assert stage.of_kind("undecided") == ["relay_open", "relay_open"]


# ---------------------------------------------------------------- time, changes, the end


@pytest.mark.parametrize("when", ["before", "after"])
def test_who_waits_for_an_answer_to_half_a_method_gets_it(set_stage: SetStage, when: str) -> None:
    """Some protocols begin with letters and no space. A relay then has the time of relays again."""
    stage = set_stage(protocol="auto", timeouts=Timeouts(header=0.05))
    client = End(stage, stage.front.connect())
    if when == "before":
        client.send(b"HELLO")
    stage.turn(2)
    upstream = stage.origins[0].accept()
    stage.settle()
    if when == "after":
        client.send(b"HELLO")
        stage.settle()
    assert stage.of_kind("undecided") == ["relay_open", "relay_open"]
    stage.wait(lambda: (upstream.look(), upstream.received)[1], "what the client said")
    assert upstream.exactly(5) == b"HELLO"
    later = time.monotonic() + 1.2
    stage.until(lambda: time.monotonic() > later, "as long again")
    upstream.send(b"HELLO YOU")
    assert client.exactly(9) == b"HELLO YOU"


def test_silence_has_the_time_of_relays(set_stage: SetStage) -> None:
    timeouts = Timeouts(idle=0.05, idle_tcp=0.3, header=0.05)
    stage, client, upstream = undecided(set_stage, timeouts=timeouts)
    stage.wait(lambda: (client.look(), client.ended)[1], "the end")
    assert upstream.end() == "eof"
    assert stage.worker.errors() == {}


def test_a_begun_head_has_the_time_of_heads(set_stage: SetStage) -> None:
    stage, client, _ = undecided(set_stage, timeouts=Timeouts(header=0.1))
    client.send(b"GET / HTTP/1.1\r\n")
    stage.wait(lambda: (client.look(), client.received)[1], "the answer")
    assert client.response()[:2] == (408, "header_timeout")


def test_silence_holds_no_configuration(set_stage: SetStage) -> None:
    stage, client, upstream = undecided(set_stage)
    stage.change_service(timeouts=Timeouts(connect=2.0))
    stage.settle()
    held = [oldest for oldest, _ in stage.worker.references()]
    client.send(get("/"))
    assert upstream.head().startswith(b"GET")
    upstream.send(OK)
    assert client.response()[0] == 200
    assert held == [0, 0]


def test_a_drain_lets_silence_go_and_serves_what_has_come(set_stage: SetStage) -> None:
    stage, silent, upstream = undecided(set_stage)
    speaking = stage.client()
    other = stage.origins[0].accept()
    stage.settle()
    speaking.send(get("/"))
    stage.worker.post(CLOSE_IDLE, -1, 0, 0)
    assert silent.end() == "eof"
    assert upstream.end() == "eof"
    assert other.head().startswith(b"GET")
    other.send(OK)
    assert speaking.response()[0] == 200


def test_the_worker_stops_with_all_of_them(set_stage: SetStage) -> None:
    stage, client, _ = undecided(set_stage)
    client.send(b"GET / HT")
    stage.client()
    stage.settle()
    assert len(stage.of_kind("undecided")) == 2
    stage.worker.stop()
    assert set(stage.worker.ledger().values()) == {0}
