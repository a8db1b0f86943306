"""How an endpoint that was left out comes back: one request probes it, and its answer decides."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from fastmesh.model import Forward, Limits, OutlierDetection, Retries, Route, ServiceLimits, Timeouts
from support.stage import OK, UNHEALTHY, End, Stage, answer, get, post

SetStage = Callable[..., Stage]
SECOND = 1000  # ms
NO_RETRIES = {"retries": Retries(attempts=0, codes=())}


def passed(stage: Stage, seconds: float) -> None:
    later = time.monotonic() + seconds
    stage.until(lambda: time.monotonic() > later, "time to pass")


def half_open(stage: Stage, *numbers: int, ago_ms: int = 0) -> None:
    """They were left out for a second, which was over so long ago."""
    for number in numbers:
        stage.worker.eject_slot(number, SECOND)
        stage.worker.pass_ejection(number, ago_ms)


def asking(stage: Stage, count: int, request: bytes | None = None) -> list[End]:
    clients = [stage.client() for _ in range(count)]
    for client in clients:
        client.send(request or get())
    stage.settle()
    return clients


def state(stage: Stage, number: int = 0) -> str:
    left_out_ms = stage.worker.left_out_ms(number)
    if left_out_ms is None:
        return "up"
    return "down" if left_out_ms > 0 else "half open"


def come(stage: Stage, number: int) -> End | None:
    """A request that is at the endpoint by now."""
    stage.settle()
    upstream = stage.origins[number].waiting()
    if upstream is not None:
        upstream.head()
    return upstream


def here(upstream: End | None) -> End:
    assert upstream is not None
    return upstream


# ---------------------------------------------------------------- one probe


def test_one_of_many_is_the_probe(set_stage: SetStage) -> None:
    stage = set_stage(origins=2)
    half_open(stage, 0)
    asking(stage, 10)
    assert stage.requests() == [1, 9]
    assert state(stage) == "down", "for all others"
    here(come(stage, 0)).send(OK)
    stage.settle()
    assert state(stage) == "up"
    asking(stage, 10)
    assert stage.requests() == [6, 14]


def test_each_half_open_endpoint_gets_one(set_stage: SetStage) -> None:
    stage = set_stage(origins=4)
    half_open(stage, 0, 1, 2)
    asking(stage, 12)
    assert stage.requests() == [1, 1, 1, 9]


def test_when_all_are_half_open_nobody_waits(set_stage: SetStage) -> None:
    """What is no probe goes to them all the same."""
    stage = set_stage(origins=2)
    half_open(stage, 0, 1)
    asking(stage, 8)
    assert sum(stage.requests()) == 8
    assert stage.worker.errors() == {}


def test_an_unhealthy_one_is_not_probed(set_stage: SetStage) -> None:
    """Active checks say when it is back."""
    stage = set_stage(origins=2)
    now_ms = time.monotonic_ns() // 1_000_000
    stage.worker.mark_slot(0, UNHEALTHY | (now_ms - 100) & 0xFFFFFFFF)
    asking(stage, 6)
    assert stage.requests() == [0, 6]


@pytest.mark.parametrize(("ago_ms", "probes"), [(0, 0), (900, 0), (1000, 1), (60_000, 1)])
def test_what_cannot_be_repeated_probes_only_when_nothing_else_came(
    set_stage: SetStage, ago_ms: int, probes: int
) -> None:
    stage = set_stage(origins=2)
    half_open(stage, 0, ago_ms=ago_ms)
    stage.turn()
    asking(stage, 4, post(b"once"))
    assert stage.requests() == [probes, 4 - probes]


def test_what_may_be_repeated_by_express_wish_probes(set_stage: SetStage) -> None:
    stage = set_stage(origins=2, rules={"retries": Retries(retry_unsafe=True)})
    half_open(stage, 0)
    asking(stage, 4, post(b"once"))
    assert stage.requests() == [1, 3]


# ---------------------------------------------------------------- its result


@pytest.mark.parametrize("status", [200, 404, 501])
def test_an_answer_brings_it_back(set_stage: SetStage, status: int) -> None:
    stage = set_stage(origins=2)
    half_open(stage, 0)
    (client,) = asking(stage, 1)
    here(come(stage, 0)).send(answer(status))
    assert client.response()[0] == status
    assert state(stage) == "up"


@pytest.mark.parametrize("how", ["refused", "reset", "closed", "malformed"])
def test_a_probe_that_fails_goes_elsewhere(set_stage: SetStage, how: str) -> None:
    """The client does not notice; the endpoint is left out for twice as long."""
    stage = set_stage(origins=2)
    half_open(stage, 0)
    if how == "refused":
        stage.origins[0].refuse()
    (client,) = asking(stage, 1)
    if how != "refused":
        probe = stage.origins[0].accept()
        if how != "reset":
            probe.head()
        if how == "malformed":
            probe.send(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
        probe.close()
    upstream = stage.origins[1].accept()
    upstream.head()
    upstream.send(OK)
    assert client.response() == (200, "", b"ok")
    endpoint = stage.worker.endpoint(0)
    assert (endpoint["ejections"], endpoint["ejected_for_ms"]) == (2, 2 * SECOND)
    assert state(stage) == "down"


@pytest.mark.parametrize("ends", ["500", "reset", "malformed"])
def test_without_outlier_detection_an_answer_is_an_answer(set_stage: SetStage, ends: str) -> None:
    """It takes connections again, which is all that is asked of it."""
    stage = set_stage(origins=2, rules={"outlier_detection": None})
    half_open(stage, 0)
    (client,) = asking(stage, 1)
    upstream = here(come(stage, 0))
    if ends == "500":
        upstream.send(answer(500))
        assert client.response()[0] == 500
    else:
        if ends == "malformed":
            upstream.send(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
        upstream.close()
        stage.settle()
    assert state(stage) == "up"


@pytest.mark.parametrize("status", [500, 503])
def test_one_bad_answer_to_the_probe_is_enough(set_stage: SetStage, status: int) -> None:
    stage = set_stage(origins=2)
    half_open(stage, 0)
    (client,) = asking(stage, 1)
    here(come(stage, 0)).send(answer(status))
    if status == 503:
        upstream = stage.origins[1].accept()
        upstream.head()
        upstream.send(OK)
    assert client.response()[0] == (500 if status == 500 else 200)
    assert stage.worker.endpoint(0)["ejected_for_ms"] == 2 * SECOND
    assert stage.worker.endpoint(0)["reason"] == 1000 + status


def test_a_silent_probe_goes_elsewhere_soon(set_stage: SetStage) -> None:
    """Long before `response` would end it: a tenth of a second and 8 times the usual time."""
    stage = set_stage(origins=2)
    half_open(stage, 0)
    began = time.monotonic()
    (client,) = asking(stage, 1)
    probe = here(come(stage, 0))
    stage.wait(lambda: stage.requests()[1] == 1, "another attempt")
    assert 0.1 <= time.monotonic() - began < 5
    assert probe.end() == "eof"
    here(come(stage, 1)).send(OK)
    assert client.response() == (200, "", b"ok")
    assert stage.worker.endpoint(0)["ejected_for_ms"] == 2 * SECOND


@pytest.mark.parametrize("why", ["nobody else", "not to be repeated", "no retries"])
def test_a_probe_that_cannot_go_elsewhere_has_its_time(set_stage: SetStage, why: str) -> None:
    origins = 1 if why == "nobody else" else 2
    rules = {"retries": Retries(attempts=0)} if why == "no retries" else {}
    stage = set_stage(origins=origins, rules=rules)
    half_open(stage, 0, ago_ms=2000)
    (client,) = asking(stage, 1, post(b"x") if why == "not to be repeated" else None)
    probe = here(come(stage, 0))
    passed(stage, 0.25)
    probe.send(OK)
    assert client.response() == (200, "", b"ok")
    assert state(stage) == "up"


@pytest.mark.parametrize("gone", [False, True])
def test_after_its_lease_another_request_is_the_probe(set_stage: SetStage, gone: bool) -> None:
    """The first one's client has gone, or it takes its time."""
    stage = set_stage(origins=2, timeouts=Timeouts(connect=0.05), rules={"retries": Retries(attempts=0)})
    half_open(stage, 0)
    (first,) = asking(stage, 1)
    assert stage.requests() == [1, 0]
    if gone:
        first.close()
        asking(stage, 3)
        assert stage.requests() == [2, 2], "it was given back"
        return
    asking(stage, 3)
    assert stage.requests() == [1, 3], "its lease runs"
    stage.until(lambda: state(stage) == "half open", "its lease to be over")
    asking(stage, 4)
    assert stage.requests() == [2, 6]


def test_a_slow_probe_that_answers_after_its_lease_brings_it_back(set_stage: SetStage) -> None:
    stage = set_stage(origins=2, timeouts=Timeouts(connect=0.05), rules={"retries": Retries(attempts=0)})
    half_open(stage, 0)
    (client,) = asking(stage, 1)
    probe = here(come(stage, 0))
    stage.until(lambda: state(stage) == "half open", "its lease to be over")
    probe.send(OK)
    assert client.response() == (200, "", b"ok")
    assert state(stage) == "up"


def test_the_failure_of_an_older_request_is_not_the_probes(set_stage: SetStage) -> None:
    """It began before the endpoint was left out, and says nothing that is not known."""
    stage = set_stage(origins=2, rules={"outlier_detection": OutlierDetection(consecutive_gateway_errors=9)})
    asking(stage, 1)
    older = here(come(stage, 0))
    half_open(stage, 0)
    while stage.requests()[0] < 2:
        asking(stage, 1)
    probe = here(come(stage, 0))
    older.close()
    stage.settle()
    assert stage.worker.endpoint(0)["ejections"] == 1
    probe.send(OK)
    stage.settle()
    assert state(stage) == "up"


# ---------------------------------------------------------------- probes that are not made


def test_one_that_the_limits_refuse_leaves_it_to_another(set_stage: SetStage) -> None:
    stage = set_stage(origins=2, rules={"limits": ServiceLimits(requests=1)})
    asking(stage, 1)
    assert stage.requests() == [1, 0]
    half_open(stage, 1)
    for _ in range(4):
        (refused,) = asking(stage, 1)
        assert refused.response()[:2] == (503, "too_many_requests")
        assert state(stage, 1) == "half open"


def test_one_that_waits_in_the_queue_leaves_it_to_another(set_stage: SetStage) -> None:
    stage = set_stage(origins=2, rules={"limits": ServiceLimits(requests=1, queue=5)})
    asking(stage, 1)
    upstream = here(come(stage, 0))
    half_open(stage, 1)
    for queued in range(1, 4):
        asking(stage, 1)
        assert stage.use()["queued"] == queued
        assert state(stage, 1) == "half open"
    for _ in range(3):
        upstream.send(OK)
        stage.settle()
        if stage.requests()[1]:
            break
        upstream.head()
    assert stage.requests()[1] == 1, "whose turn comes is the probe"
    assert state(stage, 1) == "down"


def test_one_that_waits_for_a_connection_leaves_it_to_another(set_stage: SetStage) -> None:
    stage = set_stage(origins=2, rules={"limits": ServiceLimits(connections=1, queue=5)})
    asking(stage, 1)
    upstream = here(come(stage, 0))
    half_open(stage, 1)
    for queued in range(1, 4):
        asking(stage, 1)
        assert stage.use()["queued"] == queued
        assert state(stage, 1) == "half open"
    upstream.send(answer(200, b"Connection: close"))
    stage.settle()
    assert sum(stage.requests()) == 2


def test_a_full_endpoint_is_not_probed_and_the_next_is_no_probe(set_stage: SetStage) -> None:
    """The half-open one still has a request from before. What goes to the other endpoint probes nobody."""
    stage = set_stage(origins=2, rules={"limits": ServiceLimits(endpoint_requests=1), **NO_RETRIES})
    asking(stage, 1)
    here(come(stage, 0))
    half_open(stage, 0)
    asking(stage, 1)
    other = here(come(stage, 1))
    assert stage.requests() == [1, 1]
    other.send(answer(500))
    stage.settle()
    assert state(stage, 1) == "up", "one bad answer is only enough of a probe"
    asking(stage, 1)
    here(come_again(stage, other)).send(answer(500))
    stage.settle()
    assert state(stage, 1) == "up"
    assert state(stage, 0) == "half open"


def come_again(stage: Stage, upstream: End) -> End | None:
    """A further request on that connection."""
    stage.settle()
    upstream.look()
    if not upstream.received:
        return None
    upstream.head()
    return upstream


def test_a_request_that_cannot_be_sent_leaves_it_to_another(set_stage: SetStage) -> None:
    """Its body is too large, which is seen after the endpoint was chosen."""
    stage = set_stage(origins=2, limits=Limits(body=4))
    half_open(stage, 0)
    client = stage.client()
    client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nlarge\r\n0\r\n\r\n")
    assert client.response()[:2] == (413, "body_too_large")
    asking(stage, 2)
    assert stage.requests()[0] == 1


def test_a_retry_that_waits_leaves_it_to_another(set_stage: SetStage) -> None:
    """What waits out a back-off has no lease on anybody."""
    stage = set_stage(origins=3, rules={"retries": Retries(attempts=10), "outlier_detection": None})
    (client,) = asking(stage, 1)
    here(come(stage, 0)).close()
    upstream = stage.origins[1].accept()
    half_open(stage, 2)
    upstream.head()
    upstream.close()
    stage.turn(2)
    assert stage.use()["in_flight"] == 0, "it waits"
    assert state(stage, 2) == "half open"
    probe = stage.origins[2].accept()
    assert state(stage, 2) == "down"
    probe.head()
    probe.send(OK)
    assert client.response() == (200, "", b"ok")
    assert state(stage, 2) == "up"


# ---------------------------------------------------------------- relays


def test_a_relay_probes_too(set_stage: SetStage) -> None:
    """That it is connected is all that can be seen of it."""
    stage = set_stage(origins=2, protocol="tcp", routes=(Route(Forward((("s", 1),))),))
    half_open(stage, 0)
    for _ in range(4):
        stage.client()
    stage.settle()
    assert stage.requests()[0] >= 1
    assert state(stage) == "up"
    stage.origins[0].refuse()
    half_open(stage, 0)
    clients = [stage.client() for _ in range(4)]
    stage.settle()
    assert state(stage) == "down"
    assert stage.worker.endpoint(0)["failures"] == 1
    assert all(client.is_open() for client in clients)
