"""Requests that wait: out a back-off, for the budget of retries, in the queue; and what happens meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from fastmesh.model import Endpoint, Retries, ServiceLimits
from support.stage import OK, UNHEALTHY, End, Stage, get

SetStage = Callable[..., Stage]
KINDS = ("back-off", "budget", "queue")
EACH = pytest.mark.parametrize("kind", KINDS)


def passed(stage: Stage, seconds: float) -> None:
    """Turns until so much time has passed."""
    later = time.monotonic() + seconds
    stage.until(lambda: time.monotonic() > later, "time to pass")


class Waiting:
    """A request that waits, as `kind` says; others that hold what it waits for."""

    def __init__(self, set_stage: SetStage, kind: str, *, tcp: bool = False, **settings: Any) -> None:
        limits = ServiceLimits(requests=1, queue=9, queue_timeout=2) if kind == "queue" else ServiceLimits()
        rules = {"limits": limits, "retries": Retries(attempts=10), "outlier_detection": None}
        origins = 2 if kind == "budget" else 1
        self.stage = stage = set_stage(origins=origins, tcp=tcp, rules=rules, **settings)
        self.kind = kind
        self.others: list[End] = []
        if kind == "back-off":
            self._in_back_off()
        elif kind == "budget":
            self._for_budget()
        else:
            self.others = [stage.client()]
            self.others[0].send(get("/first"))
            stage.settle()
            self.client = stage.client()
            self.client.send(get("/waiting"))
            stage.settle()
            assert stage.use()["in_queue"] == 1
        self.before = sum(stage.requests())

    def _in_back_off(self) -> None:
        stage = self.stage
        self.client = stage.client()
        self.client.send(get("/waiting"))
        for _ in range(8):  # a back-off may be 0, but not always
            upstream = stage.origins[0].accept()
            upstream.head()
            upstream.close()
            stage.turn(2)
            if stage.use()["in_flight"] == 0:
                return
        raise AssertionError("no back-off was above 0")

    def _for_budget(self) -> None:
        stage = self.stage
        stage.worker.mark_slot(1, UNHEALTHY)
        clients, upstreams = [], []
        for number in range(4):
            clients.append(stage.client())
            clients[-1].send(get("/waiting" if number == 3 else "/other"))
            upstreams.append(stage.origins[0].accept())
        stage.settle()
        stage.worker.mark_slot(1, 0)
        for upstream in upstreams:
            upstream.reset()
        stage.turn()
        *self.others, self.client = clients
        assert (stage.use()["retrying"], stage.use()["for_budget"]) == (3, 1)

    def release(self) -> None:
        """What it waits for is given back."""
        if self.kind == "back-off":
            return
        number = 1 if self.kind == "budget" else 0
        for _ in self.others:
            upstream = self.stage.origins[number].accept()
            assert b"/waiting" not in upstream.head()
            upstream.send(OK)
        self.stage.settle()

    def ends_well(self) -> None:
        """Its turn comes, and its answer."""
        stage = self.stage
        self.release()
        found: list[End] = []

        def served() -> bool:
            for origin in stage.origins:
                end = origin.waiting()
                if end is not None:
                    found.append(end)
            for end in (*found, *stage.ends):
                if end.sock.fileno() >= 0:
                    end.look()
                if end.received.startswith(b"GET /waiting"):
                    end.received = b""
                    end.send(OK)
                    return True
            return False

        stage.until(served, "its turn")
        assert self.client.response() == (200, "", b"ok")

    def nothing_follows(self) -> None:
        """Nothing is sent of it, and it is counted nowhere any more."""
        stage = self.stage
        stage.settle()
        self.release()
        passed(stage, 0.3)
        use = stage.use()
        assert (use["in_flight"], use["retrying"], use["queued"]) == (0, 0, 0)
        assert (use["in_queue"], use["for_budget"]) == (0, 0)
        assert stage.worker.ledger()["exchanges"] == 0
        assert sum(stage.requests()) == self.before
        assert self.stage.nobody_is_asked()


@EACH
def test_its_turn_comes(set_stage: SetStage, kind: str) -> None:
    Waiting(set_stage, kind).ends_well()


@EACH
def test_the_client_closes(set_stage: SetStage, kind: str) -> None:
    it = Waiting(set_stage, kind)
    it.client.close()
    it.nothing_follows()
    assert it.stage.worker.errors()["client_aborted"] == 1


@EACH
def test_the_client_resets(set_stage: SetStage, kind: str) -> None:
    it = Waiting(set_stage, kind, tcp=True)
    it.client.reset()
    it.nothing_follows()
    assert it.stage.worker.errors()["client_aborted"] == 1


@EACH
def test_the_client_says_that_nothing_more_comes(set_stage: SetStage, kind: str) -> None:
    """It still wants its answer."""
    it = Waiting(set_stage, kind, tcp=True)
    it.client.finish()
    it.ends_well()
    assert it.client.end() == "eof"


@EACH
def test_the_client_sends_its_next_request(set_stage: SetStage, kind: str) -> None:
    it = Waiting(set_stage, kind)
    it.client.send(get("/next"))
    it.stage.settle()
    it.ends_well()
    seen: list[bytes] = []

    def asked() -> bool:
        for end in [*it.stage.ends, *filter(None, (origin.waiting() for origin in it.stage.origins))]:
            if end.sock.fileno() >= 0:
                end.look()
                if end.received.startswith(b"GET /next"):
                    seen.append(end.received)
                    end.received = b""
                    end.send(OK)
        return bool(seen)

    it.stage.until(asked, "the next request")
    assert it.client.response() == (200, "", b"ok")
    assert len(seen) == 1


@EACH
def test_the_worker_stops(set_stage: SetStage, kind: str) -> None:
    it = Waiting(set_stage, kind)
    it.stage.worker.stop()
    assert set(it.stage.worker.ledger().values()) == {0}
    use = it.stage.use()
    assert (use["in_flight"], use["retrying"], use["queued"], use["in_queue"], use["for_budget"]) == (0,) * 5


@EACH
def test_all_endpoints_leave_the_configuration(set_stage: SetStage, kind: str) -> None:
    """Nobody is left to ask: what was sent already gets the error that it had."""
    it = Waiting(set_stage, kind)
    it.stage.change_service(endpoints=())
    it.release()
    code = {"back-off": "upstream_closed", "budget": "upstream_reset", "queue": "no_endpoint"}[kind]
    assert it.client.response()[:2] == (503 if kind == "queue" else 502, code)


@EACH
def test_the_service_leaves_the_configuration(set_stage: SetStage, kind: str) -> None:
    it = Waiting(set_stage, kind)
    it.stage.publish(None, {})
    it.stage.turn()
    it.ends_well()


@EACH
def test_another_endpoint_joins(set_stage: SetStage, kind: str) -> None:
    it = Waiting(set_stage, kind)
    stage = it.stage
    more = tuple(Endpoint(origin.address) for origin in stage.origins)
    stage.define_slot(7, stage.origins[0].address)
    stage.service = stage.service.__class__("s", (*more, *more[:1]), stage.service.balance)
    stage.publish(stage.listener, {"s": stage.service}, {"s": [*range(len(more)), 7]})
    stage.turn()
    it.ends_well()


@EACH
def test_nobody_is_left_when_its_turn_comes(set_stage: SetStage, kind: str) -> None:
    """It gets the error that it had; one that was never sent, that there is nobody."""
    it = Waiting(set_stage, kind)
    for number in range(len(it.stage.origins)):
        it.stage.worker.mark_slot(number, UNHEALTHY)
    it.release()
    code = {"back-off": "upstream_closed", "budget": "upstream_reset", "queue": "no_endpoint"}[kind]
    assert it.client.response()[:2] == (503 if kind == "queue" else 502, code)


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("kind", ["budget", "queue"])
def test_one_leaves_the_middle_of_a_queue(set_stage: SetStage, kind: str, which: int) -> None:
    """First, middle and last; the others keep their order."""
    it = Waiting(set_stage, kind)
    stage = it.stage
    if kind == "queue":
        clients = [it.client]
        for number in range(2):
            clients.append(stage.client())
            clients[-1].send(get(f"/{number}"))
            stage.settle()
        name = "in_queue"
    else:
        stage.worker.mark_slot(1, UNHEALTHY)
        more, upstreams = [], []
        for number in range(2):
            more.append(stage.client())
            more[-1].send(get(f"/{number}"))
            upstreams.append(stage.origins[0].accept())
        stage.settle()
        stage.worker.mark_slot(1, 0)
        for upstream in upstreams:
            upstream.reset()
        stage.turn()
        clients = [it.client, *more]
        name = "for_budget"
    assert stage.use()[name] == 3
    clients.pop(which).close()
    stage.turn()
    assert stage.use()[name] == 2
    names = [b"/waiting", b"/0", b"/1"]
    names.pop(which)
    it.release()
    seen: list[bytes] = []

    def served() -> bool:
        for origin in stage.origins:
            origin.waiting()
        for end in list(stage.ends):
            if end.sock.fileno() >= 0:
                end.look()
                if end.received.startswith(b"GET "):
                    seen.append(end.received.split(b" ")[1])
                    end.received = b""
                    end.send(OK)
        return len(seen) == 2

    stage.until(served, "the other two")
    assert seen == names
    assert [client.response() for client in clients] == [(200, "", b"ok")] * 2


@EACH
def test_a_worker_sleeps_while_requests_wait(set_stage: SetStage, kind: str) -> None:
    """It does not turn and turn: what they wait for wakes it, or a timer."""
    it = Waiting(set_stage, kind)
    stage = it.stage
    stage.settle()
    name = {"back-off": "retrying", "budget": "for_budget", "queue": "in_queue"}[kind]
    if kind == "back-off":
        stage.origins[0].refuse()
    turns = 0
    while stage.use()[name]:
        stage.worker.turn_waiting()
        turns += 1
        assert turns < 100
    assert not it.client.is_open(), "it has its answer"
