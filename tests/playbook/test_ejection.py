"""Why an endpoint is left out: no connections, bad answers, clients that give up; and for how long."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from fastmesh.model import Balance, OutlierDetection, Retries, Timeouts
from support.stage import OK, UNHEALTHY, End, Stage, answer, get, post

SetStage = Callable[..., Stage]
REFUSED, TIMED_OUT, STATUS, SLOW = 30, 34, 1000, 2001
NO_RETRIES = {"retries": Retries(attempts=0, codes=())}


def rules(**detection: Any) -> dict[str, Any]:
    return {**NO_RETRIES, "outlier_detection": OutlierDetection(**detection)}


def passed(stage: Stage, seconds: float) -> None:
    later = time.monotonic() + seconds
    stage.until(lambda: time.monotonic() > later, "time to pass")


def ask(stage: Stage, number: int, status: int = 200, *, request: bytes | None = None) -> None:
    """A request to that endpoint, whoever's turn it is, and its answer on a connection of its own."""
    others = [other for other in range(len(stage.origins)) if other != number and not is_out(stage, other)]
    for other in others:
        stage.worker.mark_slot(other, UNHEALTHY)
    client = stage.client()
    client.send(request or get())
    upstream = stage.origins[number].accept()
    upstream.head()
    upstream.send(answer(status, b"Connection: close"))
    assert client.response()[0] == status
    for other in others:
        stage.worker.mark_slot(other, 0)


def is_out(stage: Stage, number: int) -> bool:
    return stage.worker.left_out_ms(number) is not None


# ---------------------------------------------------------------- bad answers


@pytest.mark.parametrize(("status", "count"), [(500, 5), (599, 5), (507, 5), (502, 3), (503, 3), (504, 3)])
def test_so_many_in_a_row(set_stage: SetStage, status: int, count: int) -> None:
    stage = set_stage(origins=2, rules=NO_RETRIES)
    for number in range(count):
        assert not is_out(stage, 0), f"after {number}"
        ask(stage, 0, status)
    assert 900 < stage.worker.left_out_ms(0) <= 1000
    endpoint = stage.worker.endpoint(0)
    assert (endpoint["ejections"], endpoint["reason"]) == (1, STATUS + status)
    assert endpoint["answers_5xx"] == count


@pytest.mark.parametrize("status", [200, 301, 404, 429, 501, 505])
def test_what_says_nothing_about_the_endpoint(set_stage: SetStage, status: int) -> None:
    stage = set_stage(origins=2, rules=rules(consecutive_5xx=1, consecutive_gateway_errors=1))
    for _ in range(3):
        ask(stage, 0, status)
    assert not is_out(stage, 0)
    assert stage.worker.endpoint(0)["answers_5xx"] == 0


def test_a_success_breaks_the_row(set_stage: SetStage) -> None:
    stage = set_stage(origins=2, rules=NO_RETRIES)
    for _ in range(3):
        for status in (500, 502, 500, 502, 200):
            ask(stage, 0, status)
    assert not is_out(stage, 0)
    ask(stage, 0, 500)
    assert (stage.worker.endpoint(0)["bad_5xx"], stage.worker.endpoint(0)["bad_gateway"]) == (1, 0)


@pytest.mark.parametrize("how", ["closed", "reset", "cut", "malformed", "silent"])
def test_failures_on_the_way_count(set_stage: SetStage, how: str) -> None:
    stage = set_stage(origins=2, rules=NO_RETRIES, timeouts=Timeouts(response=0.02))
    for number in range(3):
        assert not is_out(stage, 0)
        stage.worker.mark_slot(1, UNHEALTHY)
        client = stage.client()
        client.send(get())
        upstream = stage.origins[0].accept()
        stage.settle()
        if how == "reset":
            upstream.reset()
        elif how != "silent":
            upstream.head()
            if how == "cut":
                upstream.send(b"HTTP/1.1 20")
            elif how == "malformed":
                upstream.send(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
            upstream.close()
        stage.wait(
            lambda number=number: sum(stage.worker.errors().values()) > number, "an answer of the proxy's own"
        )
        stage.worker.mark_slot(1, 0)
        assert client.response()[0] in (502, 504)
    assert is_out(stage, 0)
    assert stage.worker.endpoint(0)["failures"] == 3


def test_idle_connections_that_break_do_not_count(set_stage: SetStage) -> None:
    """Each is replaced; the endpoint may close them when it likes."""
    stage = set_stage(origins=2, rules=rules(consecutive_gateway_errors=1))
    stage.worker.mark_slot(1, UNHEALTHY)
    client = stage.client()
    upstream = stage.exchange(client)
    for _ in range(3):
        client.send(get())
        stage.settle()
        upstream.reset()
        upstream = stage.origins[0].accept()
        upstream.head()
        upstream.send(OK)
        client.response()
    stage.worker.mark_slot(1, 0)
    assert stage.worker.endpoint(0)["ejections"] == 0, "nor was it left out until the next answer"


def test_silence_counts_on_any_connection(set_stage: SetStage) -> None:
    """A pooled one that answers nothing was not closed while it was idle."""
    retries = Retries(attempts=0, per_try=0.02)
    stage = set_stage(rules={**rules(consecutive_gateway_errors=9), "retries": retries})
    client = stage.client()
    upstream = stage.exchange(client)
    client.send(get())
    upstream.head()
    stage.wait(lambda: stage.worker.errors(), "the time-out")
    assert client.response()[:2] == (504, "upstream_timeout")
    assert stage.worker.endpoint(0)["bad_gateway"] == 1


def test_what_is_the_clients_does_not_count(set_stage: SetStage) -> None:
    stage = set_stage(origins=2, rules=rules(consecutive_gateway_errors=1))
    for how in ("half a body", "aborted"):
        client = stage.client()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhalf")
        _, upstream = stage.asked()
        upstream.head()
        if how == "aborted":
            client.close()
        else:
            client.finish()
        stage.settle()
    assert not is_out(stage, 0)
    assert not is_out(stage, 1)


@pytest.mark.parametrize("status", [500, 502])
@pytest.mark.parametrize("switched_off", ["5xx", "gateway", "both", "all"])
def test_rules_that_are_off(set_stage: SetStage, switched_off: str, status: int) -> None:
    detection = OutlierDetection(
        consecutive_5xx=None if switched_off in ("5xx", "both") else 2,
        consecutive_gateway_errors=None if switched_off in ("gateway", "both") else 2,
    )
    off: dict[str, Any] = {**NO_RETRIES, "outlier_detection": None if switched_off == "all" else detection}
    stage = set_stage(origins=2, rules=off)
    for _ in range(4):
        if not is_out(stage, 0):
            ask(stage, 0, status)
    counted = switched_off == "gateway" or (switched_off == "5xx" and status == 502)
    assert is_out(stage, 0) == counted


# ---------------------------------------------------------------- how many


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
@pytest.mark.parametrize(("endpoints", "halves"), [(1, 0), (2, 1), (3, 2), (11, 6)])
def test_never_more_than_a_share_and_never_all(
    set_stage: SetStage, endpoints: int, halves: int, share: float
) -> None:
    stage = set_stage(origins=endpoints, rules=rules(consecutive_5xx=1, max_ejected=share))
    for number in range(endpoints):
        ask(stage, number, 500)
    most = {0.1: min(-(-endpoints // 10), endpoints - 1), 0.5: halves, 1.0: endpoints - 1}[share]
    assert sum(is_out(stage, number) for number in range(endpoints)) == most


def test_all_may_refuse(set_stage: SetStage) -> None:
    """And are asked all the same: one of them may just have come back."""
    stage = set_stage(origins=3, rules=rules(max_ejected=0.1))
    for origin in stage.origins:
        origin.refuse()
    client = stage.client()
    for _ in range(3):
        client.send(get())
        assert client.response()[:2] == (502, "connect_refused")
    assert [is_out(stage, number) for number in range(3)] == [True] * 3
    client.send(get())
    assert client.response()[:2] == (502, "connect_refused")
    assert sum(stage.requests()) == 4


def test_one_that_is_left_out_gets_no_requests(set_stage: SetStage) -> None:
    stage = set_stage(origins=2)
    stage.origins[0].refuse()
    client = stage.client()
    upstream = None
    for _ in range(10):
        upstream = stage.exchange(client, upstream, origin=1)
    assert stage.requests() == [1, 10]


# ---------------------------------------------------------------- how long


def test_each_time_in_a_row_it_is_twice_as_long(set_stage: SetStage) -> None:
    """1 s, 2 s, 4 s … 30 s."""
    stage = set_stage(rules=NO_RETRIES)
    stage.origins[0].refuse()
    client = stage.client()
    seen = []
    for _ in range(8):
        client.send(get())
        assert client.response()[:2] == (502, "connect_refused")
        seen.append(stage.worker.left_out_ms(0))
        stage.worker.pass_ejection(0)
    for down, expected in zip(seen, [1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000], strict=True):
        assert expected - 100 <= down <= expected
    assert stage.worker.endpoint(0)["ejections"] == 8


def test_the_times_are_those_of_the_configuration(set_stage: SetStage) -> None:
    stage = set_stage(rules=rules(base_ejection_time=3.0, max_ejection_time=7.0))
    stage.origins[0].refuse()
    client = stage.client()
    seen = []
    for _ in range(3):
        client.send(get())
        client.response()
        seen.append(stage.worker.endpoint(0)["ejected_for_ms"])
        stage.worker.pass_ejection(0)
    assert seen == [3000, 6000, 7000]


@pytest.mark.parametrize(("in_for_ms", "expected"), [(500, 2000), (1500, 1000)])
def test_it_begins_anew_after_as_long_in_as_out(set_stage: SetStage, in_for_ms: int, expected: int) -> None:
    stage = set_stage(origins=2, rules=rules(consecutive_5xx=1))
    stage.worker.eject_slot(0, 1000)
    stage.worker.pass_ejection(0, in_for_ms)
    ask(stage, 0, 200)
    assert not is_out(stage, 0)
    ask(stage, 0, 500)
    assert stage.worker.endpoint(0)["ejected_for_ms"] == expected


def test_many_failures_at_once_are_one(set_stage: SetStage) -> None:
    """As many requests as meet an endpoint that dies, of which each fails."""
    stage = set_stage(tcp=False, rules=NO_RETRIES)
    clients = [stage.client() for _ in range(20)]
    stage.origins[0].refuse()
    for client in clients:
        client.send(get())
    assert {client.response()[:2] for client in clients} == {(502, "connect_refused")}
    endpoint = stage.worker.endpoint(0)
    assert (endpoint["failures"], endpoint["ejections"]) == (20, 1)
    assert 900 < stage.worker.left_out_ms(0) <= 1000


def test_what_was_under_way_does_not_make_it_longer(set_stage: SetStage) -> None:
    """10 requests are at an endpoint that begins to reset them: it is left out once."""
    stage = set_stage(origins=2, rules=NO_RETRIES)
    stage.worker.mark_slot(1, UNHEALTHY)
    clients, upstreams = [], []
    for _ in range(10):
        clients.append(stage.client())
        clients[-1].send(get())
        upstreams.append(stage.origins[0].accept())
    stage.settle()
    stage.worker.mark_slot(1, 0)
    for upstream in upstreams:
        upstream.reset()
        stage.turn(2)
    for client in clients:
        client.response()
    assert stage.worker.endpoint(0)["ejections"] == 1
    assert stage.worker.endpoint(0)["ejected_for_ms"] == 1000


# ---------------------------------------------------------------- what does not bring it back


def held(stage: Stage, request: bytes) -> tuple[End, End]:
    client = stage.client()
    client.send(request)
    return client, stage.origins[0].accept()


def test_an_answer_to_what_was_sent_before_proves_nothing(set_stage: SetStage) -> None:
    stage = set_stage(rules=NO_RETRIES)
    client, upstream = held(stage, get())
    passed(stage, 0.003)
    stage.worker.eject_slot(0, 60_000)
    upstream.head()
    upstream.send(OK)
    assert client.response()[0] == 200
    assert is_out(stage, 0)


def test_an_answer_to_what_was_sent_afterwards_does(set_stage: SetStage) -> None:
    """It was asked because there is nobody else."""
    stage = set_stage(rules=NO_RETRIES)
    stage.worker.eject_slot(0, 60_000)
    passed(stage, 0.003)
    client, upstream = held(stage, post(b"x"))
    upstream.head()
    upstream.send(OK)
    assert client.response()[0] == 200
    assert not is_out(stage, 0)


# ---------------------------------------------------------------- clients that give up


def quick(stage: Stage) -> None:
    """Its usual time is far below a tenth of a second."""
    client = stage.client()
    upstream = None
    for _ in range(4):
        upstream = stage.exchange(client, upstream)
    assert 0 < stage.use()["typical_us"] < 10_000


@pytest.mark.parametrize("how", ["RST", "FIN"])
@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("count", [2, 3])
def test_giving_up_in_a_row_leaves_a_slow_one_out(
    set_stage: SetStage, how: str, slow: bool, count: int
) -> None:
    """8 times the usual time and a tenth of a second at least: nobody else would notice one that is slow."""
    stage = set_stage(tcp=True, origins=2, rules=NO_RETRIES)
    stage.worker.mark_slot(1, UNHEALTHY)
    quick(stage)
    clients = [stage.client() for _ in range(count)]
    for client in clients:
        client.send(get())
    stage.settle()
    if slow:
        passed(stage, 0.11)
    stage.worker.mark_slot(1, 0)
    for client in clients:
        if how == "RST":
            client.reset()
        else:
            client.finish()
    stage.settle()
    endpoint = stage.worker.endpoint(0)
    assert endpoint["ejections"] == (slow and count == 3)
    if endpoint["ejections"]:
        assert endpoint["reason"] == SLOW


def test_giving_up_on_all_endpoints_alike_leaves_none_out(set_stage: SetStage) -> None:
    """Then it is the request that takes long."""
    stage = set_stage(tcp=True, origins=2, balance=Balance("round_robin"), rules=NO_RETRIES)
    stage.worker.mark_slot(1, UNHEALTHY)
    quick(stage)
    stage.worker.mark_slot(1, 0)
    clients = [stage.client() for _ in range(12)]
    for client in clients:
        client.send(get())
    stage.settle()
    passed(stage, 0.11)
    for client in clients:
        client.reset()
        stage.settle()
    assert [stage.worker.endpoint(number)["ejections"] for number in (0, 1)] == [0, 0]


def test_giving_up_soon_is_no_wonder_when_it_always_takes_long(set_stage: SetStage) -> None:
    stage = set_stage(origins=2, rules=NO_RETRIES)
    stage.worker.mark_slot(1, UNHEALTHY)
    client = stage.client()
    upstream = None
    while stage.use()["typical_us"] < 30_000 if upstream else True:
        client.send(get())
        upstream = upstream or stage.origins[0].accept()
        upstream.head()
        passed(stage, 0.06)
        upstream.send(OK)
        client.response()
    clients = [client, *(stage.client() for _ in range(4))]
    for client in clients:
        client.send(get())
    stage.settle()
    passed(stage, 0.12)
    stage.worker.mark_slot(1, 0)
    for client in clients:
        client.close()
    stage.settle()
    assert stage.worker.endpoint(0)["ejections"] == 0


def test_one_that_half_closes_at_once_has_not_given_up(set_stage: SetStage) -> None:
    """It waits for its answer all the same, and gets it."""
    stage = set_stage(tcp=True, rules=NO_RETRIES)
    quick(stage)
    client = stage.client()
    client.send(get())
    client.finish()
    stage.settle()
    passed(stage, 0.11)
    upstream = next(end for end in stage.ends if end.sock.family == stage.origins[0].sock.family)
    upstream.head()
    upstream.send(OK)
    assert client.response() == (200, "", b"ok")
    assert stage.worker.endpoint(0)["bad_gateway"] == 0


def test_giving_up_in_the_middle_of_an_upload_says_nothing(set_stage: SetStage) -> None:
    stage = set_stage(rules=NO_RETRIES)
    quick(stage)
    client = stage.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhalf")
    stage.settle()
    passed(stage, 0.11)
    client.close()
    stage.settle()
    assert stage.worker.endpoint(0)["bad_gateway"] == 0


# ---------------------------------------------------------------- slow start


def test_one_that_is_back_begins_with_a_small_share(set_stage: SetStage) -> None:
    stage = set_stage(origins=2, balance=Balance("round_robin"), rules={**NO_RETRIES, "slow_start": 60.0})
    stage.worker.eject_slot(0, 60_000)
    stage.worker.pass_ejection(0)
    ask(stage, 0, 200)
    assert not is_out(stage, 0)
    assert stage.worker.endpoint(0)["share"] == 26
    before = stage.requests()
    client = stage.client()
    upstreams: dict[int, End | None] = {0: None, 1: None}
    for _ in range(120):
        client.send(get())
        stage.settle()
        for number in upstreams:
            upstream = upstreams[number] = upstreams[number] or stage.origins[number].waiting()
            if upstream is not None:
                upstream.look()
                if upstream.received:
                    upstream.head()
                    upstream.send(OK)
        client.response()
    first, second = (after - earlier for after, earlier in zip(stage.requests(), before, strict=True))
    assert first + second == 120
    assert 0 < first < 30, "a tenth of a half is 6"


def test_the_share_grows(set_stage: SetStage) -> None:
    stage = set_stage(rules={**NO_RETRIES, "slow_start": 1.0})
    stage.worker.eject_slot(0, 60_000)
    stage.worker.pass_ejection(0)
    client = stage.client()
    upstream = stage.exchange(client)
    shares = [stage.worker.endpoint(0)["share"]]
    while shares[-1]:
        passed(stage, 0.05)
        stage.exchange(client, upstream)
        shares.append(stage.worker.endpoint(0)["share"])
    assert shares[0] == 26
    assert len(set(shares)) > 3
    assert shares[:-1] == sorted(shares[:-1])
