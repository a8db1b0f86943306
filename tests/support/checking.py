"""A checker over endpoints whose answers a test sets, on a clock that jumps."""

import random
import threading
import time
from collections import Counter
from math import inf

import trio
import trio.testing

from fastmesh.health.checker import Checker
from fastmesh.health.checks import Result
from fastmesh.model import Address, Config, Endpoint, Health, Service

GOOD, BAD, UNKNOWN = (
    Result(True, "answered 200"),
    Result(False, "answered 500"),
    Result(None, "no descriptors"),
)
CHECKED = Health(interval=2.0, timeout=1.0)


def address(number):
    return Address("inet", f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", 80)


def text(number):
    return address(number).text


def service(name, numbers, health=CHECKED):
    return Service(name, tuple(Endpoint(address(number)) for number in numbers), health=health)


def config(*services):
    return Config({}, {one.name: one for one in services})


class Rig:
    """A checker over endpoints whose answers a test sets; ``s`` is the service unless it says otherwise."""

    def __init__(self, *, parallel=256, cpu_time=lambda: 0.0):
        self.checker = Checker(
            check=self.check, parallel=parallel, cpu_time=cpu_time, chance=random.Random(11)
        )
        self.answers = {}  # by address; GOOD for the others
        self.takes = 0.01
        self.hangs = set()
        self.log = []  # (time, address) of each check
        self.answered = Counter()  # by address: a check that has begun is not counted yet
        self.running = 0
        self.most = 0
        self.told = {}
        self.batches = []
        self.clock = trio.testing.MockClock(autojump_threshold=0)

    async def check(self, where, health):
        self.log.append((trio.current_time(), where.text))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await trio.sleep(inf if where.text in self.hangs else self.takes)
        finally:
            self.running -= 1
        answer = self.answers.get(where.text, GOOD)
        if isinstance(answer, Exception):
            raise answer
        self.answered[where.text] += 1
        return answer

    def tell(self, verdicts):
        assert threading.current_thread() is not threading.main_thread()
        self.batches.append(dict(verdicts))
        self.told.update(verdicts)

    async def change(self, *services, resolved=None):
        """What the keeper does; gives what `prepare` said."""
        wanted = config(*services)
        verdicts = await self.checker.prepare(wanted, resolved or {})
        self.checker.follow(wanted, resolved or {})
        return verdicts

    async def passed(self, seconds):
        """Lets so much time go by, and then what is to be told be told, while the clock stands still."""
        await trio.sleep(seconds)
        self.clock.autojump_threshold = inf
        deadline = time.monotonic() + 10
        while any(self.told.get(one.key) is not one.told for one in self._followed()):
            assert time.monotonic() < deadline, "verdicts that nobody was told"
            await trio.to_thread.run_sync(time.sleep, 0.001)
        self.clock.autojump_threshold = 0

    def _followed(self):
        return [one for service in self.checker._services.values() for one in service.endpoints.values()]

    def times(self, number):
        return [at for at, where in self.log if where == text(number)]

    def state(self, number, name="s"):
        return self.checker.view()[name].endpoints[text(number)].state


def scenario(test, **settings):
    """Runs ``test(rig)`` while the checker runs."""
    rig = Rig(**settings)

    async def main():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.checker.run, rig.tell)
            await test(rig)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=rig.clock)
    return rig
