"""A slow reference of priorities, over the one of the policies: each priority is a service of its own.

Written from the rules in ``tiers.pxd``: exact fractions of the load, no early end, no state but when it was
measured. It draws from the same generators in the same order as the native side.
"""

import math
from fractions import Fraction

from reference_policies import (
    MAGLEV,
    OUT,
    RING_HASH,
    USABLE,
    WORD,
    Ask,
    ReferenceBlock,
    ReferenceState,
    Rng,
    World,
    mix,
)

SHARES_MS, PARTS = 16, 2**16


class TieredBlock:
    """A service; ``tiers`` are its endpoints by priority."""

    def __init__(
        self,
        policy: int,
        world: World,
        members: list[int],
        weights: list[int],
        priorities: list[int] | None = None,
        **options: int,
    ) -> None:
        levels = priorities if priorities is not None else [0] * len(members)
        self.policy = policy
        self.tiers: dict[int, ReferenceBlock] = {}
        for level in sorted(set(levels)) or [0]:
            of_it = [i for i, priority in enumerate(levels) if priority == level]
            self.tiers[level] = ReferenceBlock(
                policy, world, [members[i] for i in of_it], [weights[i] for i in of_it], **options
            )
        self.bounded_load = options.get("bounded_load", 0) if policy in (RING_HASH, MAGLEV) else 0

    def shares(self, now_ms: int) -> dict[int, int]:
        """What each tier is given of the load, in parts of 2**16."""
        left, shares = PARTS, {}
        for level, tier in self.tiers.items():
            usable = sum(tier.weights[i] for i in range(tier.n) if tier.condition(i, now_ms) == USABLE)
            carries = Fraction(7 * usable, 5 * tier.total) if tier.total else Fraction(0)
            shares[level] = min(left, math.ceil(min(carries, Fraction(1)) * PARTS))
            left -= shares[level]
        return shares


class TieredState:
    """What one worker knows of a service over its changes."""

    def __init__(self, seed: int, worker_index: int = 0, workers: int = 1) -> None:
        self.rng = Rng(mix(seed) ^ mix(worker_index))
        self.place = (worker_index, workers)
        self.block: TieredBlock | None = None
        self.parts: dict[int, ReferenceState] = {}
        self.shares: dict[int, int] | None = None
        self.measured_ms = 0

    def adopt(self, block: TieredBlock) -> None:
        if block is self.block:
            return
        before, self.parts = self.parts, {}
        for level, tier in block.tiers.items():
            part = before.get(level) or ReferenceState(0, *self.place)
            part.rng = Rng(self.rng.next()) if len(block.tiers) > 1 else self.rng
            part.adopt(tier)
            self.parts[level] = part
        self.block, self.shares = block, None

    def part(self, block: TieredBlock, level: int) -> ReferenceState:
        """The state of a tier; of a block that was not adopted, one that knows no block."""
        if block is self.block:
            return self.parts[level]
        stranger = ReferenceState(0, *self.place)
        stranger.rng = self.rng
        return stranger

    def pick(self, block: TieredBlock, ask: Ask) -> int:
        """The slot index, or -1."""
        if len(block.tiers) == 1:
            ((level, tier),) = block.tiers.items()
            return self.part(block, level).pick(tier, ask)
        keyed = ask.key is not None and block.policy in (RING_HASH, MAGLEV)
        draw = mix(ask.key ^ WORD) if keyed and ask.key is not None else self.rng.next()
        shares = self.shares if block is self.block else None
        if shares is None or (ask.now_ms - self.measured_ms) % 2**32 >= SHARES_MS:
            shares = self.measure(block, ask.now_ms)
        order = [self.level_at(shares, draw)]
        answers = [self.answer(block, order[0], shares, ask)]
        if answers[0][0] != 0 and block is self.block and self.measured_ms != ask.now_ms:
            shares = self.measure(block, ask.now_ms)
            order.append(self.level_at(shares, draw))
        order += sorted(block.tiers)
        for level in list(dict.fromkeys(order))[1:]:
            if answers[-1][0] == 0:
                break
            answers.append(self.answer(block, level, shares, ask))
        return min(answers, key=lambda answer: answer[0])[1]

    def measure(self, block: TieredBlock, now_ms: int) -> dict[int, int]:
        shares = block.shares(now_ms)
        if block is self.block:
            self.shares, self.measured_ms = shares, now_ms
        return shares

    @staticmethod
    def level_at(shares: dict[int, int], draw: int) -> int:
        at = ((draw >> 32) * sum(shares.values())) >> 32
        for level, share in shares.items():
            if at < share:
                return level
            at -= share
        return min(shares)

    def answer(self, block: TieredBlock, level: int, shares: dict[int, int], ask: Ask) -> tuple[int, int]:
        """(place in the rule of a pick, slot index); the place is 4 when there is none."""
        tier = block.tiers[level]
        if block.bounded_load and shares[level]:
            total = -(-ask.total_in_flight * shares[level] // sum(shares.values()))
            ask = Ask(ask.now_ms, ask.key, ask.tried, total)
        slot = self.part(block, level).pick(tier, ask)
        if slot < 0:
            return 4, -1
        condition = tier.condition(tier.members.index(slot), ask.now_ms)
        assert condition != OUT
        return condition + 2 * (slot in ask.tried), slot
