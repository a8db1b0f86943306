"""What the rules of a service say about retries: after what, how often, when, and what is sent again."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from fastmesh.model import Retries, Timeouts
from support.stage import OK, End, Stage, answer, get, post

SetStage = Callable[..., Stage]
REPLAY_BYTES = 65_536


def retrying(**changes: Any) -> dict[str, Any]:
    return {"retries": Retries(**changes)}


# ---------------------------------------------------------------- after what

CONDITIONS = ("connect-failure", "reset", "timeout")
ERRORS = {
    "connect-failure": (502, "connect_refused"),
    "reset": (502, "upstream_reset"),
    "timeout": (504, "upstream_timeout"),
}


@pytest.mark.parametrize("on", [(), *((one,) for one in CONDITIONS), CONDITIONS], ids="+".join)
@pytest.mark.parametrize("what", CONDITIONS)
def test_conditions(set_stage: SetStage, on: tuple[str, ...], what: str) -> None:
    stage = set_stage(origins=2, timeouts=Timeouts(response=0.02), rules=retrying(on=on))
    if what == "connect-failure":
        stage.origins[0].refuse()
    client = stage.client()
    client.send(get())
    if what != "connect-failure":
        first = stage.origins[0].accept()
        stage.settle()
        if what == "reset":
            first.reset()
        else:
            stage.wait(lambda: stage.worker.endpoint(0)["failures"], "the time-out")
    if what in on:
        second = stage.origins[1].accept()
        second.head()
        second.send(OK)
        assert client.response() == (200, "", b"ok")
        assert stage.use()["retries"] == 1
    else:
        assert client.response()[:2] == ERRORS[what]
        assert stage.nobody_is_asked()
        assert stage.use()["retries"] == 0


@pytest.mark.parametrize("codes", [(503,), (429, 500, 502, 599)])
@pytest.mark.parametrize("status", [400, 404, 429, 499, 500, 502, 503, 504, 599])
def test_codes(set_stage: SetStage, codes: tuple[int, ...], status: int) -> None:
    """Other answers go to the client as they are."""
    stage = set_stage(origins=2, rules=retrying(codes=codes, on=()))
    client = stage.client()
    client.send(get())
    first = stage.origins[0].accept()
    first.head()
    first.send(answer(status, body=b"mine"))
    if status in codes:
        second = stage.origins[1].accept()
        assert second.head().startswith(b"GET / ")
        second.send(OK)
        assert client.response() == (200, "", b"ok")
        assert first.end() == "eof", "half an answer is on it"
    else:
        assert client.response() == (status, "", b"mine")
        assert stage.nobody_is_asked()
    assert stage.use()["retries"] == (status in codes)


def test_the_last_answer_of_a_retried_status_goes_to_the_client(set_stage: SetStage) -> None:
    stage = set_stage(origins=4)
    client = stage.client()
    client.send(get())
    for number in range(3):
        _, upstream = stage.asked()
        upstream.head()
        upstream.send(answer(503, b"X-Number: %d" % number, body=b"no %d" % number))
    assert client.response() == (503, "", b"no 2")
    assert sorted(stage.requests()) == [0, 1, 1, 1]


def test_an_answer_is_better_than_asking_the_same_endpoint_again(set_stage: SetStage) -> None:
    """A 503 says that there is too much to do."""
    stage = set_stage()
    client = stage.client()
    client.send(get())
    upstream = stage.origins[0].accept()
    upstream.head()
    upstream.send(answer(503))
    assert client.response() == (503, "", b"it")
    assert stage.nobody_is_asked()
    assert upstream.is_open()
    assert stage.use()["retries"] == 0


@pytest.mark.parametrize("unsafe", [False, True])
@pytest.mark.parametrize("how", ["closed", "reset", "503"])
def test_retry_unsafe(set_stage: SetStage, how: str, unsafe: bool) -> None:
    """Once a byte of a POST was handed to the kernel it is sent again only by express wish."""
    stage = set_stage(origins=2, rules=retrying(retry_unsafe=unsafe))
    client = stage.client()
    client.send(post(b"once"))
    first = stage.origins[0].accept()
    if how == "reset":
        stage.settle()
        first.reset()
    else:
        first.until(b"once")
        if how == "closed":
            first.close()
        else:
            first.send(answer(503))
    if unsafe:
        second = stage.origins[1].accept()
        second.until(b"once")
        second.send(OK)
        assert client.response() == (200, "", b"ok")
    else:
        expected = (503, "") if how == "503" else (502, f"upstream_{how}")
        assert client.response()[:2] == expected
        assert stage.nobody_is_asked()


def test_a_status_before_the_request_was_whole_is_final(set_stage: SetStage) -> None:
    """The rest of it is still to come; the endpoint has said what it thinks of the beginning."""
    stage = set_stage(origins=2)
    client = stage.client()
    client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
    first = stage.origins[0].accept()
    first.until(b"half")
    first.send(answer(503))
    assert client.response() == (503, "", b"it")
    assert stage.nobody_is_asked()


@pytest.mark.parametrize("minor", [0, 1])
def test_an_informational_answer_that_was_passed_on(set_stage: SetStage, minor: int) -> None:
    """The client has seen a part of the answer, but for one of HTTP/1.0."""
    stage = set_stage(origins=2)
    client = stage.client()
    client.send(b"GET / HTTP/1.%d\r\nHost: a\r\n\r\n" % minor)
    first = stage.origins[0].accept()
    first.head()
    first.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
    if minor:
        assert client.head().startswith(b"HTTP/1.1 103 ")
    stage.settle()
    first.close()
    if minor:
        assert client.response()[:2] == (502, "upstream_malformed")
        assert stage.nobody_is_asked()
    else:
        second = stage.origins[1].accept()
        second.head()
        second.send(OK)
        assert client.until(b"ok").startswith(b"HTTP/1.1 200 ")


# ---------------------------------------------------------------- how often, and where


@pytest.mark.parametrize("attempts", [0, 1, 2, 4, 10])
def test_so_many_attempts(set_stage: SetStage, attempts: int) -> None:
    """No endpoint twice while another is left."""
    stage = set_stage(origins=attempts + 2, rules=retrying(attempts=attempts))
    client = stage.client()
    client.send(get())
    for _ in range(attempts + 1):
        _, upstream = stage.asked()
        stage.settle()
        upstream.reset()
    assert client.response()[:2] == (502, "upstream_reset")
    assert stage.nobody_is_asked()
    assert sorted(stage.requests()) == [0, *[1] * (attempts + 1)]
    assert stage.use()["retries"] == attempts


def test_when_all_were_tried_they_are_tried_again(set_stage: SetStage) -> None:
    stage = set_stage(origins=3, rules=retrying(attempts=5) | {"outlier_detection": None})
    client = stage.client()
    client.send(get())
    asked = []
    for _ in range(6):
        number, upstream = stage.asked()
        asked.append(number)
        stage.settle()
        upstream.reset()
    assert client.response()[:2] == (502, "upstream_reset")
    assert sorted(asked[:3]) == [0, 1, 2]


@pytest.mark.parametrize("attempts", [0, 1])
def test_replacing_a_pooled_connection_is_no_retry(set_stage: SetStage, attempts: int) -> None:
    """It closed while it was idle, which says nothing about the endpoint; but it does so only once."""
    stage = set_stage(rules=retrying(attempts=attempts))
    client = stage.client()
    pooled = stage.exchange(client)
    client.send(get("/again"))
    stage.settle()
    pooled.reset()
    for _ in range(attempts + 1):
        fresh = stage.origins[0].accept()
        stage.settle()
        fresh.reset()
    assert client.response()[:2] == (502, "upstream_reset")
    assert stage.nobody_is_asked()
    assert stage.worker.endpoint(0)["bad_gateway"] == attempts + 1


# ---------------------------------------------------------------- when


@pytest.mark.parametrize("silent", [1, 3])
def test_per_try(set_stage: SetStage, silent: int) -> None:
    """One that does not begin its answer in time is left for another, whatever `on` says."""
    stage = set_stage(origins=3, rules=retrying(per_try=0.02, on=()))
    client = stage.client()
    client.send(get())
    for _ in range(silent):
        _, upstream = stage.asked()
        upstream.head()
        failed = stage.use()["retries"]
        stage.wait(
            lambda failed=failed: stage.use()["retries"] > failed or stage.worker.errors(), "the time-out"
        )
        assert upstream.end() == "eof"
    if silent < 3:
        _, upstream = stage.asked()
        upstream.head()
        upstream.send(OK)
        assert client.response() == (200, "", b"ok")
    else:
        assert client.response()[:2] == (504, "upstream_timeout")


def test_per_try_ends_with_the_head(set_stage: SetStage) -> None:
    """A body may take longer."""
    stage = set_stage(origins=2, rules=retrying(per_try=0.02))
    client = stage.client()
    client.send(get())
    upstream = stage.origins[0].accept()
    upstream.head()
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
    client.head()
    later = time.monotonic() + 0.06
    stage.until(lambda: time.monotonic() > later, "three times as long")
    upstream.send(b"ok")
    assert client.exactly(2) == b"ok"


def test_a_shorter_time_for_responses_stays(set_stage: SetStage) -> None:
    stage = set_stage(
        origins=2, timeouts=Timeouts(response=0.02), rules=retrying(per_try=5.0, on=("connect-failure",))
    )
    client = stage.client()
    client.send(get())
    stage.wait(lambda: stage.worker.errors(), "the time-out")
    assert client.response()[:2] == (504, "upstream_timeout")


def gaps(stage: Stage, sends: int) -> list[float]:
    """Seconds between the attempts at one endpoint, which resets each."""
    client = stage.client()
    client.send(get())
    times = []
    for _ in range(sends):
        upstream = stage.origins[0].accept()
        stage.settle()
        upstream.reset()
        stage.turn()
        times.append(time.monotonic())
    client.response()
    return [after - before for before, after in pairwise(times)]


def test_back_off_is_jittered_and_grows(set_stage: SetStage) -> None:
    """Anything up to 25 ms, then up to 50, 100, 200, 250: at most what it says, and not always the same."""
    # One stage for all: each begins with the same seed
    stage = set_stage(rules=retrying(attempts=5) | {"outlier_detection": None})
    found = [gaps(stage, 6) for _ in range(6)]
    sums = [sum(one) for one in found]
    assert max(sums) - min(sums) > 0.01, sums
    assert min(sums) < 0.625
    assert sum(one[4] for one in found) > sum(one[0] for one in found)


def test_the_first_retry_to_another_endpoint_goes_at_once(set_stage: SetStage) -> None:
    stage = set_stage(origins=2)
    client = stage.client()
    client.send(get())
    first = stage.origins[0].accept()
    stage.settle()
    first.reset()
    stage.turn(2)
    assert stage.requests() == [1, 1]


@pytest.mark.parametrize("origins", [1, 2])
def test_back_off_never_overruns_the_total(set_stage: SetStage, origins: int) -> None:
    """When it is over the client gets its answer, and no attempt follows."""
    rules = retrying(attempts=10) | {"outlier_detection": None}
    stage = set_stage(origins=origins, timeouts=Timeouts(total=0.15), rules=rules)
    client = stage.client()
    began = time.monotonic()
    client.send(get())
    sends = 0

    def reset_what_comes() -> bool:
        nonlocal sends
        for origin in stage.origins:
            upstream = origin.waiting()
            if upstream is not None:
                sends += 1
                stage.settle()
                upstream.reset()
        client.look()
        return bool(client.received)

    stage.wait(reset_what_comes, "an answer")
    assert time.monotonic() - began < 1.5  # without the total: 10 back-offs
    assert client.response()[:2] in [(504, "upstream_timeout"), (502, "upstream_reset")]
    assert sends < 11
    asked = sum(stage.requests())
    later = time.monotonic() + 0.3
    stage.until(lambda: time.monotonic() > later, "longer than any back-off")
    assert sum(stage.requests()) == asked


# ---------------------------------------------------------------- bodies


def upstream_head_bytes(stage: Stage, size: int) -> int:
    """How long the head of a PUT with so long a body is on its way to the endpoint."""
    client = stage.client()
    client.send_turning(post(b"x" * size, method=b"PUT"))
    upstream = stage.origins[0].accept()
    length = len(upstream.head())
    upstream.exactly(size)
    upstream.send(answer(200, b"Connection: close"))
    client.response()
    return length


@pytest.mark.parametrize("over", [0, 100_000])
def test_64_kib_are_kept_for_another_attempt(set_stage: SetStage, over: int) -> None:
    stage = set_stage(origins=2)
    head = upstream_head_bytes(stage, 60_000)
    body = (bytes(range(256)) * 1000)[: REPLAY_BYTES - head + over]
    client = stage.client()
    client.send_turning(post(body, method=b"PUT"))
    _, first = stage.asked()
    assert abs(len(first.head()) - head) <= 1, "the length has a digit more"
    assert first.exactly(len(body)) == body
    first.close()
    if over:
        assert client.response()[:2] == (502, "upstream_closed")
        assert stage.nobody_is_asked()
    else:
        _, second = stage.asked()
        second.head()
        assert second.exactly(len(body)) == body
        second.send(OK)
        assert client.response() == (200, "", b"ok")


def test_a_chunked_body_is_sent_again_byte_for_byte(set_stage: SetStage) -> None:
    stage = set_stage(origins=2)
    client = stage.client()
    head = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    client.send(head + b"4\r\nwiki\r\n")
    first = stage.origins[0].accept()
    first.until(b"wiki\r\n")
    client.send(b"5;ext\r\npedia\r\n0\r\n\r\n")
    sent = first.until(b"0\r\n\r\n")
    assert sent == b"5\r\npedia\r\n0\r\n\r\n"
    first.close()
    second = stage.origins[1].accept()
    second.head()
    assert second.until(b"0\r\n\r\n") == b"4\r\nwiki\r\n" + sent
    second.send(OK)
    assert client.response() == (200, "", b"ok")


def half_sent(stage: Stage) -> tuple[End, End]:
    """A PUT of 10 bytes, half of which are there: the client and the endpoint."""
    client = stage.client()
    client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf:")
    _, upstream = stage.asked()
    upstream.until(b"half:")
    return client, upstream


def test_a_body_goes_on_at_the_next_endpoint(set_stage: SetStage) -> None:
    stage = set_stage(origins=2)
    client, first = half_sent(stage)
    first.close()
    _, second = stage.asked()
    second.until(b"half:")
    client.send(b"there")
    assert second.exactly(5) == b"there"
    second.send(OK)
    assert client.response() == (200, "", b"ok")


def test_a_body_that_arrives_between_two_attempts(set_stage: SetStage) -> None:
    """The rest comes while the request waits out a back-off."""
    stage = set_stage()
    client, first = half_sent(stage)
    first.close()
    stage.until(lambda: stage.worker.endpoint(0)["failures"], "the failure")
    client.send(b"there")
    second = stage.origins[0].accept()
    assert second.until(b"half:there").endswith(b"\r\n\r\nhalf:there")
    second.send(OK)
    assert client.response() == (200, "", b"ok")
