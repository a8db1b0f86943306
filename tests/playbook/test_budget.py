"""The budget of retries: so many at once of those in flight. What is over it waits or gets the error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fastmesh.model import Retries
from support.stage import OK, UNHEALTHY, End, Stage, get, post

SetStage = Callable[..., Stage]
PATIENT = {"outlier_detection": None}  # answers are no reason to leave an endpoint out


def rules(**retries: Any) -> dict[str, Any]:
    return {"retries": Retries(**retries), **PATIENT}


def held(stage: Stage, count: int, at: int, *, request: bytes | None = None) -> list[tuple[End, End]]:
    """So many requests in flight at an endpoint: client and endpoint of each."""
    others = [number for number in range(len(stage.origins)) if number != at]
    for number in others:
        stage.worker.mark_slot(number, UNHEALTHY)
    pairs = []
    for _ in range(count):
        client = stage.client()
        client.send(request or get())
        pairs.append((client, stage.origins[at].accept()))
    stage.settle()
    for number in others:
        stage.worker.mark_slot(number, 0)
    return pairs


def break_all(stage: Stage, pairs: list[tuple[End, End]]) -> None:
    """All in one turn."""
    for _, upstream in pairs:
        upstream.reset()
    stage.turn()


def retried_at_once(failing: int, in_flight: int, permille: int | None) -> int:
    """How many of ``failing`` requests that fail one after the other are retried, of ``in_flight`` in all."""
    retrying = 0
    for _ in range(failing):
        others = in_flight - 1
        if permille is None or retrying + 1 <= 3 or (retrying + 1) * 1000 <= others * permille:
            retrying += 1
        else:
            in_flight = others
    return retrying


def answer_at(stage: Stage, number: int) -> int:
    """Answers what waits at the endpoint now; how many requests these were."""
    count = 0
    while (upstream := stage.origins[number].waiting()) is not None:
        upstream.head()
        upstream.send(OK)
        count += 1
    return count


@pytest.mark.parametrize("budget", [0.2, 0.5, None])
@pytest.mark.parametrize(("failing", "others"), [(1, 0), (3, 0), (12, 0), (12, 48), (40, 10)])
def test_so_many_at_once(set_stage: SetStage, failing: int, others: int, budget: float | None) -> None:
    stage = set_stage(origins=2, rules=rules(budget=budget))
    stage.origins[1].sock.listen(failing)
    good = held(stage, others, 1)
    bad = held(stage, failing, 0)
    assert stage.use()["in_flight"] == failing + others
    break_all(stage, bad)
    expected = retried_at_once(failing, failing + others, None if budget is None else round(budget * 1000))
    use = stage.use()
    assert (use["retrying"], use["for_budget"]) == (expected, failing - expected)
    assert use["in_flight"] == others + expected
    assert stage.worker.endpoint(1)["requests"] == others + expected
    for _, upstream in good:
        upstream.send(OK)
    done: list[int] = []
    stage.until(lambda: done.append(answer_at(stage, 1)) or sum(done) == failing, "all retries")
    assert {client.response() for client, _ in [*bad, *good]} == {(200, "", b"ok")}
    assert stage.use()["retries"] == failing
    assert stage.use()["retries_refused"] == 0


def test_whose_turn_does_not_come_gets_the_error(set_stage: SetStage) -> None:
    """It waits a quarter of a second while another endpoint is left; the retries do not end."""
    stage = set_stage(origins=2, rules=rules())
    bad = held(stage, 8, 0)
    break_all(stage, bad)
    assert (stage.use()["retrying"], stage.use()["for_budget"]) == (3, 5)
    stage.wait(lambda: stage.use()["for_budget"] == 0, "the time of waiting to be over")
    assert stage.use()["retries_refused"] == 5
    assert stage.use()["retries"] == 3
    answered = [client for client, _ in bad if not client.is_open()]
    assert [client.response()[:2] for client in answered] == [(502, "upstream_reset")] * 5
    assert stage.worker.endpoint(1)["requests"] == 3


def test_they_go_on_in_the_order_in_which_they_came(set_stage: SetStage) -> None:
    stage = set_stage(origins=2, rules=rules())
    bad = []
    for number in range(8):
        bad += held(stage, 1, 0, request=get(f"/{number}"))
    break_all(stage, bad)
    seen = []
    while len(seen) < 8:
        upstream = stage.origins[1].accept()
        seen.append(int(upstream.head()[5:6]))
        upstream.send(OK)
        stage.settle()
    assert seen == list(range(8))


def test_when_nobody_is_left_nobody_waits(set_stage: SetStage) -> None:
    """When all endpoints fail, more load helps none of them."""
    stage = set_stage(rules=rules())
    bad = held(stage, 20, 0)
    break_all(stage, bad)
    expected = retried_at_once(20, 20, 200)
    use = stage.use()
    assert (use["retrying"], use["for_budget"], use["retries_refused"]) == (expected, 0, 20 - expected)
    refused = [client for client, _ in bad if not client.is_open()]
    assert [client.response()[:2] for client in refused] == [(502, "upstream_reset")] * (20 - expected)


def test_an_endpoint_that_is_left_out_is_nobody_to_wait_for(set_stage: SetStage) -> None:
    stage = set_stage(origins=2, rules=rules())
    bad = held(stage, 8, 0)
    stage.worker.eject_slot(1, 60_000)
    break_all(stage, bad)
    assert (stage.use()["for_budget"], stage.use()["retries_refused"]) == (0, 5)


def test_it_is_looked_for_anew_when_the_waiting_ends(set_stage: SetStage) -> None:
    """The endpoint that it waited for is gone by then: the other gets it."""
    stage = set_stage(origins=3, rules=rules())
    bad = held(stage, 8, 0)
    break_all(stage, bad)
    assert stage.use()["for_budget"] == 5
    before = stage.requests()
    assert sum(before[1:]) == 3
    stage.worker.mark_slot(1, UNHEALTHY)
    for number in (1, 2):
        answer_at(stage, number)
    done: list[int] = []
    stage.until(lambda: done.append(answer_at(stage, 2)) or stage.use()["retrying"] == 0, "all retries")
    assert stage.requests()[1] == before[1]
    assert {client.response() for client, _ in bad} == {(200, "", b"ok")}


def test_a_retried_status_is_passed_on_when_the_budget_is_spent(set_stage: SetStage) -> None:
    """The client gets that answer at once."""
    stage = set_stage(origins=2, rules=rules())
    bad = held(stage, 5, 0)
    for _, upstream in bad:
        upstream.head()
        upstream.send(OK.replace(b"200 OK", b"503 No"))
    stage.turn()
    assert stage.use()["retrying"] == 3
    assert stage.use()["for_budget"] == 0
    assert [client.response()[0] for client, _ in bad[3:]] == [503, 503]
    answer_at(stage, 1)
    assert [client.response()[0] for client, _ in bad[:3]] == [200, 200, 200]


@pytest.mark.parametrize("how", ["answered", "failed", "aborted", "tunnel"])
def test_the_budget_is_given_back(set_stage: SetStage, how: str) -> None:
    stage = set_stage(origins=2, rules=rules(attempts=1))
    request = get("/", b"Upgrade: websocket", b"Connection: Upgrade") if how == "tunnel" else get()
    bad = held(stage, 3, 0, request=request)
    break_all(stage, bad)
    assert stage.use()["retrying"] == 3
    for client, _ in bad:
        upstream = stage.origins[1].accept()
        upstream.head()
        if how == "answered":
            upstream.send(OK)
        elif how == "failed":
            upstream.close()
        elif how == "aborted":
            client.close()
        else:
            upstream.send(b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    stage.settle()
    assert stage.use()["retrying"] == 0
    assert stage.use()["in_flight"] == 0, "a tunnel is no request in flight"


def test_requests_that_may_not_be_repeated_take_no_budget(set_stage: SetStage) -> None:
    stage = set_stage(origins=2, rules=rules())
    bad = held(stage, 5, 0, request=post(b"once"))
    break_all(stage, bad)
    assert (stage.use()["retrying"], stage.use()["for_budget"], stage.use()["retries_refused"]) == (0, 0, 0)
    assert {client.response()[:2] for client, _ in bad} == {(502, "upstream_reset")}


def test_a_change_of_the_budget_holds_for_what_is_sent_again(set_stage: SetStage) -> None:
    stage = set_stage(origins=2, rules=rules())
    bad = held(stage, 8, 0)
    stage.change_service(retries=Retries(budget=None))
    break_all(stage, bad)
    assert stage.use()["retrying"] == 8
