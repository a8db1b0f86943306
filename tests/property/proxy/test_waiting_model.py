"""Whatever clients and endpoints do in whatever order: nobody waits for ever, and nothing stays counted.

Each answer goes to the request that asked for it, and what must not be sent twice is not.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter

import pytest

from fastmesh.model import Balance, OutlierDetection, Retries, ServiceLimits, Timeouts
from support.stage import End, Stage, answer, get, post

SEED = int(os.environ.get("FASTMESH_WAITING_SEED") or random.SystemRandom().randrange(1 << 32))
RUNS = int(os.environ.get("FASTMESH_WAITING_RUNS", "20"))
STEPS = 150
GAUGES = ("in_flight", "retrying", "queued", "in_queue", "for_budget")


def random_rules(chance: random.Random) -> dict[str, object]:
    maybe = chance.choice
    return {
        "retries": Retries(
            attempts=maybe([0, 1, 2, 10]),
            budget=maybe([0.0, 0.2, None]),
            on=maybe([("connect-failure", "reset"), ("connect-failure", "reset", "timeout"), ()]),
            codes=maybe([(), (503,), (500, 503)]),
            per_try=maybe([None, None, 0.02]),
        ),
        "limits": ServiceLimits(
            requests=maybe([None, None, 1, 4]),
            connections=maybe([None, None, 3]),
            endpoint_requests=maybe([None, None, 1, 2]),
            endpoint_connections=maybe([None, None, 2]),
            queue=maybe([0, 1, 20]),
            queue_timeout=maybe([0.02, 0.2]),
        ),
        "outlier_detection": maybe(
            [
                None,
                OutlierDetection(
                    consecutive_5xx=maybe([1, 5]),
                    consecutive_gateway_errors=maybe([None, 1, 3]),
                    base_ejection_time=0.02,
                    max_ejection_time=0.1,
                    max_ejected=maybe([0.3, 1.0]),
                ),
            ]
        ),
        "slow_start": maybe([None, 0.05]),
    }


class Play:
    """Clients with one request each at a time, endpoints that answer, fail or are silent."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.count = chance.randrange(1, 5)
        policy = chance.choice(["round_robin", "random", "least_request", "ring_hash", "maglev"])
        self.rules = random_rules(chance)
        self.stage = Stage(
            self.count,
            balance=Balance(policy, ring_size=64, table_size=251),
            timeouts=Timeouts(
                connect=0.05, response=chance.choice([0.05, 5.0]), total=chance.choice([None, None, 0.1])
            ),
            rules=self.rules,
            seed=chance.randrange(1, 1 << 60),
        )
        self.clients: dict[End, int] = {}  # and the number of what each asks for
        self.upstreams: list[End] = []
        self.refusing: set[int] = set()
        self.asked = 0
        self.once: set[int] = set()  # must not be sent twice
        self.sends: Counter[int] = Counter()  # whole requests that an endpoint has read
        self.held: list[tuple[End, int]] = []  # read and not answered

    # what may happen

    def ask(self) -> None:
        if len(self.clients) > 30:
            return
        self.asked += 1
        number = self.asked
        client = End(self.stage, self.stage.front.connect())
        if self.chance.random() < 0.3:
            self.once.add(number)
            client.send(post(b"%d" % number, b"X-Number: %d" % number))
        else:
            client.send(get(f"/{number}", b"X-Number: %d" % number))
        self.clients[client] = number

    def leave(self) -> None:
        if self.clients:
            client = self.chance.choice(list(self.clients))
            del self.clients[client]
            client.close()

    def read(self) -> None:
        """Endpoints take what has come."""
        for number, origin in enumerate(self.stage.origins):
            while number not in self.refusing and (upstream := origin.waiting()) is not None:
                self.upstreams.append(upstream)
        for upstream in self.upstreams:
            upstream.look()
            if b"\r\n\r\n" in upstream.received:
                data = upstream.received.lower()
                number = int(data.partition(b"x-number: ")[2].partition(b"\r\n")[0])
                upstream.received = b""
                self.sends[number] += 1
                self.held.append((upstream, number))
        self.upstreams = [upstream for upstream in self.upstreams if upstream.ended is None]
        self.held = [one for one in self.held if one[0].ended is None]

    def reply(self) -> None:
        self.read()
        if not self.held:
            return
        upstream, number = self.held.pop(self.chance.randrange(len(self.held)))
        how = self.chance.random()
        if how < 0.6:
            upstream.sock.send(answer(200, body=b"%d" % number))
        elif how < 0.8:
            upstream.sock.send(answer(self.chance.choice([500, 503, 404]), body=b"%d" % number))
        elif how < 0.9:
            upstream.sock.send(
                answer(200, b"Connection: close", body=b"%d" % number)[: 10 + 40 * number % 90]
            )
            self.drop(upstream)
        else:
            self.drop(upstream)

    def drop(self, upstream: End) -> None:
        upstream.close()
        upstream.ended = "closed"

    def break_idle(self) -> None:
        busy = {id(one) for one, _ in self.held}
        idle = [one for one in self.upstreams if one.ended is None and id(one) not in busy]
        if idle:
            self.drop(self.chance.choice(idle))

    def crash(self) -> None:
        """Many requests fail in one turn."""
        for _ in range(self.chance.randrange(4, 16)):
            self.ask()
        self.stage.turn(3)
        self.read()
        for upstream, _ in self.held:
            self.drop(upstream)
        self.held.clear()

    def refuse(self) -> None:
        number = self.chance.randrange(self.count)
        if number in self.refusing:
            self.refusing.discard(number)
            self.stage.listen_again(number)
        elif len(self.refusing) + 1 < self.count or self.chance.random() < 0.3:
            self.refusing.add(number)
            self.stage.origins[number].refuse()

    def wait(self) -> None:
        later = time.monotonic() + self.chance.random() * 0.01
        self.stage.until(lambda: time.monotonic() > later, "time to pass")

    def change(self) -> None:
        self.rules = random_rules(self.chance)
        self.stage.change_service(**self.rules)

    def step(self) -> None:
        (action,) = self.chance.choices(
            [
                self.ask,
                self.leave,
                self.reply,
                self.break_idle,
                self.crash,
                self.refuse,
                self.wait,
                self.change,
            ],
            [10, 2, 12, 1, 0.5, 1, 2, 0.5],
        )
        action()
        if self.chance.random() < 0.7:
            self.stage.turn()
        self.collect()

    # what must hold

    def collect(self) -> None:
        """Answers that have come: each to the request that asked for it."""
        for client, number in list(self.clients.items()):
            client.look()
            head, separator, rest = client.received.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
            if client.ended is None and (not separator or len(rest) < length):
                continue
            del self.clients[client]
            if separator and len(rest) == length and b"x-fastmesh-error" not in head.lower():
                assert rest == b"%d" % number, "an answer to another request"
            client.close()

    def end(self) -> None:
        """All endpoints answer all from now on: then nobody waits any more."""
        for number in sorted(self.refusing):
            self.stage.listen_again(number)
        self.refusing.clear()

        def over() -> bool:
            self.read()
            for upstream, number in self.held:
                upstream.sock.send(answer(200, body=b"%d" % number))
            self.held.clear()
            self.collect()
            return not self.clients and self.stage.worker.ledger()["exchanges"] == 0

        self.stage.until(over, "an answer to every client")
        use = self.stage.worker.service(0) or {}
        assert not any(use.get(name) for name in GAUGES), use
        twice = [number for number in self.once if self.sends[number] > 1]
        assert not twice, "sent twice"
        most = max(self.sends.values(), default=0)
        assert most <= 12


@pytest.mark.parametrize("run", range(RUNS))
def test_whatever_happens(run: int) -> None:
    seed = SEED + run
    print("FASTMESH_WAITING_SEED", seed)
    play = Play(random.Random(seed))
    try:
        for _ in range(STEPS):
            play.step()
        play.end()
    except BaseException:
        play.stage.abandon()
        raise
    play.stage.finish()
