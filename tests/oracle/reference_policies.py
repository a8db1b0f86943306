"""Slow references of the balancing policies: plain Python, no tables, written from the rules in the headers.

They draw from the same generator in the same order as the native ones, so that both agree pick for pick.
"""

import bisect
import math
from dataclasses import dataclass, field

ROUND_ROBIN, RANDOM, LEAST_REQUEST, RING_HASH, MAGLEV = range(5)
WORD = 2**64 - 1
USABLE, DOWN, OUT = range(3)
DRAWS, TURNS, STEPS, SCAN, SURVIVORS_MS = 16, 128, 128, 256, 16


def mix(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & WORD
    return z ^ (z >> 31)


class Rng:
    def __init__(self, state: int) -> None:
        self.state = state & WORD

    def next(self) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) & WORD
        return mix(self.state)

    def below(self, limit: int) -> int:
        return ((self.next() >> 32) * limit) >> 32


def rotated(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (64 - bits))) & WORD


P1, P2, P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
P4, P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5


def xxh64(data: bytes, seed: int = 0) -> int:
    def lane(acc: int, word: bytes) -> int:
        return rotated((acc + int.from_bytes(word, "little") * P2) & WORD, 31) * P1 & WORD

    rest = data
    if len(data) >= 32:
        lanes = [(seed + P1 + P2) & WORD, (seed + P2) & WORD, seed, (seed - P1) & WORD]
        while len(rest) >= 32:
            lanes = [lane(acc, rest[8 * k : 8 * k + 8]) for k, acc in enumerate(lanes)]
            rest = rest[32:]
        h = sum(rotated(acc, bits) for acc, bits in zip(lanes, (1, 7, 12, 18), strict=True)) & WORD
        for acc in lanes:
            h = ((h ^ lane(0, acc.to_bytes(8, "little"))) * P1 + P4) & WORD
    else:
        h = (seed + P5) & WORD
    h = (h + len(data)) & WORD
    while len(rest) >= 8:
        h = (rotated(h ^ lane(0, rest[:8]), 27) * P1 + P4) & WORD
        rest = rest[8:]
    if len(rest) >= 4:
        h = (rotated(h ^ (int.from_bytes(rest[:4], "little") * P1 & WORD), 23) * P2 + P3) & WORD
        rest = rest[4:]
    for byte in rest:
        h = rotated(h ^ (byte * P5 & WORD), 11) * P1 & WORD
    h = (h ^ (h >> 33)) * P2 & WORD
    h = (h ^ (h >> 29)) * P3 & WORD
    return h ^ (h >> 32)


@dataclass
class World:
    """What the slots say, by slot index."""

    names: list[str]
    health: list[int] = field(default_factory=list)
    in_flight: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.health = [0] * len(self.names)
        self.in_flight = [0] * len(self.names)


@dataclass
class Ask:
    now_ms: int = 0
    key: int | None = None
    tried: tuple[int, ...] = ()
    total_in_flight: int = 0


class ReferenceBlock:
    """One service. Endpoints are positions in ``members``, which holds slot indices."""

    def __init__(
        self,
        policy: int,
        world: World,
        members: list[int],
        weights: list[int],
        ring_size: int = 1024,
        table_size: int = 65537,
        bounded_load: int = 0,
    ) -> None:
        self.policy, self.world, self.members = policy, world, members
        self.weights = [min(weight, 2**20) for weight in weights]
        self.total = sum(self.weights)
        self.n = len(members)
        self.bounded_load = bounded_load
        self.groups: list[tuple[int, list[int]]] = []  # (weight, endpoints), heaviest first
        if policy in (ROUND_ROBIN, LEAST_REQUEST):
            for weight in sorted({weight for weight in self.weights if weight}, reverse=True):
                self.groups.append((weight, [i for i in range(self.n) if self.weights[i] == weight]))
        if policy <= LEAST_REQUEST and self.total:
            self.alias = self.make_alias()
        if policy == RING_HASH and self.total:
            self.ring = self.make_ring(ring_size)
        if policy == MAGLEV and self.total:
            self.table = self.make_maglev(table_size)

    def stride(self, g: int) -> int:
        weight, endpoints = self.groups[g]
        return (self.total << self.tick_bits()) // (weight * len(endpoints))

    def tick_bits(self) -> int:
        group_bits = ((len(self.groups) - 1).bit_length() + 1) // 2 * 2
        return min(28, 62 - group_bits - self.total.bit_length())

    def by_name(self) -> list[int]:
        used = [i for i in range(self.n) if self.weights[i]]
        return sorted(used, key=lambda i: self.world.names[self.members[i]].encode())

    def name(self, i: int) -> str:
        return self.world.names[self.members[i]]

    def make_alias(self) -> list[tuple[int, int]] | None:
        if len(set(self.weights)) == 1:
            return None
        scaled = [weight * self.n / self.total for weight in self.weights]
        cells = [(2**32 - 1, i) for i in range(self.n)]
        small = [i for i in range(self.n) if scaled[i] < 1.0]
        large = [i for i in range(self.n) if scaled[i] >= 1.0]
        while small and large:
            low, high = small.pop(), large[-1]
            cells[low] = (int(scaled[low] * 2**32), high)
            scaled[high] -= 1.0 - scaled[low]
            if scaled[high] < 1.0:
                small.append(large.pop())
        return cells

    def make_ring(self, ring_size: int) -> list[tuple[int, int]]:
        order = self.by_name()
        shares = {i: self.weights[i] / self.total for i in order}
        size = min(max(ring_size, 16 * len(order)), 2**20)
        smallest = min(shares.values())
        lightest = 2 ** math.ceil(math.log2(math.ceil(smallest * size)))
        scale = min(lightest / smallest, 2**20)
        points: list[tuple[int, int]] = []
        target = 0.0
        for i in order:
            target += scale * shares[i]
            number = 0
            while len(points) < target:
                points.append((xxh64(f"{self.name(i)}_{number}".encode()), i))
                number += 1
        return sorted(points, key=lambda point: point[0])

    def make_maglev(self, size: int) -> list[int]:
        order = self.by_name()
        shares = {i: self.weights[i] / self.total for i in order}
        largest = max(shares.values())
        target = dict.fromkeys(order, 0.0)
        visited = dict.fromkeys(order, 0)
        offset = {i: xxh64(self.name(i).encode(), 0) % size for i in order}
        skip = {i: xxh64(self.name(i).encode(), 1) % (size - 1) + 1 for i in order}
        table: dict[int, int] = {}
        turn = 1
        while len(table) < size:
            for i in order:
                if turn * shares[i] < target[i] or len(table) == size:
                    continue
                target[i] += largest
                while (entry := (offset[i] + skip[i] * visited[i]) % size) in table:
                    visited[i] += 1
                table[entry] = i
            turn += 1
        return [table[entry] for entry in range(size)]

    def condition(self, i: int, now_ms: int) -> int:
        word = self.world.health[self.members[i]]
        if self.weights[i] == 0 or word & (3 << 32):
            return OUT
        left = ((word & 0xFFFFFFFF) - now_ms) & 0xFFFFFFFF
        return DOWN if word & 0xFFFFFFFF and 0 < left < 2**31 else USABLE

    def share(self, i: int) -> int:
        return (self.world.health[self.members[i]] >> 40) & 0xFF

    def fresh(self, i: int, ask: Ask, rng: Rng) -> bool:
        if self.condition(i, ask.now_ms) != USABLE and self.weights[i]:
            return False
        if self.share(i) and rng.below(255) >= self.share(i):
            return False
        return self.members[i] not in ask.tried


class ReferenceState:
    def __init__(self, seed: int, worker_index: int = 0, workers: int = 1) -> None:
        self.rng = Rng(mix(seed) ^ mix(worker_index))
        self.worker_index, self.workers = worker_index, workers
        self.block: ReferenceBlock | None = None
        self.cursor: list[int] = []
        self.due: list[int] = []
        self.turn = 0
        self.survivors: list[int] | None = None
        self.listed_ms = 0
        self.wanted = USABLE

    def adopt(self, block: ReferenceBlock) -> None:
        old, old_cursor, old_due = self.block, self.cursor, self.due
        self.block, self.survivors = block, None
        self.cursor, self.due = [], []
        for g, (weight, endpoints) in enumerate(block.groups):
            cursor, due = self.start(block, g)
            for o, (old_weight, old_endpoints) in enumerate(old.groups if old is not None else []):
                if old is not None and old_weight == weight:
                    cursor = self.cursor_after(old, old_endpoints, old_cursor[o], block, endpoints)
                    if len(old.groups) > 1:
                        due = int((old_due[o] - min(old_due)) / old.stride(o) * block.stride(g))
            self.cursor.append(cursor)
            self.due.append(due)

    def start(self, block: ReferenceBlock, g: int) -> tuple[int, int]:
        stride = block.stride(g)
        now = (block.total << block.tick_bits()) // self.workers * self.worker_index
        turns = max(0, -((stride // 2 - now) // stride))
        return turns % len(block.groups[g][1]), stride // 2 + turns * stride - now

    @staticmethod
    def cursor_after(
        old: ReferenceBlock, old_endpoints: list[int], cursor: int, new: ReferenceBlock, endpoints: list[int]
    ) -> int:
        slots = [new.members[i] for i in endpoints]
        for i in (old_endpoints[cursor:] + old_endpoints[:cursor])[:1024]:
            if old.members[i] in slots:
                return slots.index(old.members[i])
        return 0

    def pick(self, block: ReferenceBlock, ask: Ask) -> int:
        """The slot index, or -1."""
        pick = {
            ROUND_ROBIN: self.round_robin,
            RANDOM: self.random,
            LEAST_REQUEST: self.least_request,
            RING_HASH: self.ring_hash,
            MAGLEV: self.maglev,
        }[block.policy]
        i = pick(block, ask)
        return block.members[i] if i >= 0 else -1

    # The policies

    def sample(self, block: ReferenceBlock) -> int:
        draw = self.rng.next()
        cell = ((draw >> 32) * block.n) >> 32
        if block.alias is None:
            return cell
        threshold, other = block.alias[cell]
        return cell if (draw & 0xFFFFFFFF) < threshold else other

    def next_turn(self, block: ReferenceBlock) -> int:
        g = min(range(len(block.groups)), key=lambda g: (self.due[g], g))
        endpoints = block.groups[g][1]
        i = endpoints[self.cursor[g]]
        self.cursor[g] = (self.cursor[g] + 1) % len(endpoints)
        self.due[g] += block.stride(g)
        return i

    def random(self, block: ReferenceBlock, ask: Ask) -> int:
        for _ in range(DRAWS if block.total else 0):
            i = self.sample(block)
            if block.fresh(i, ask, self.rng):
                return i
        return self.last_resort(block, ask, self.rng.next())

    def round_robin(self, block: ReferenceBlock, ask: Ask) -> int:
        if block is not self.block:
            return self.random(block, ask)
        for _ in range(TURNS if block.total else 0):
            i = self.next_turn(block)
            if block.fresh(i, ask, self.rng):
                return i
        return self.last_resort(block, ask, self.rng.next())

    def least_request(self, block: ReferenceBlock, ask: Ask) -> int:
        adopted = block is self.block
        for _ in range(0 if not block.total else TURNS if adopted else DRAWS):
            first = self.next_turn(block) if adopted else self.sample(block)
            if block.fresh(first, ask, self.rng):
                break
        else:
            return self.last_resort(block, ask, self.rng.next())
        load = block.world.in_flight[block.members[first]]
        if load == 0 or block.n == 1:
            return first
        for _ in range(DRAWS):
            second = self.rng.below(block.n - 1)
            second += second >= first
            if block.weights[second] and block.fresh(second, ask, self.rng):
                other = block.world.in_flight[block.members[second]]
                better = (other + 1) * block.weights[first] < (load + 1) * block.weights[second]
                return second if better else first
        return first

    def ring_hash(self, block: ReferenceBlock, ask: Ask) -> int:
        key = ask.key if ask.key is not None else self.rng.next()
        if not block.total:
            return -1
        start = bisect.bisect_left(block.ring, (key, -1)) % len(block.ring)
        return self.walk(block, ask, key, [owner for _, owner in block.ring], start)

    def maglev(self, block: ReferenceBlock, ask: Ask) -> int:
        key = ask.key if ask.key is not None else self.rng.next()
        if not block.total:
            return -1
        return self.walk(block, ask, key, block.table, key % len(block.table))

    def walk(self, block: ReferenceBlock, ask: Ask, key: int, owners: list[int], start: int) -> int:
        full: list[tuple[float, int, int]] = []
        last = -1
        for step in range(min(STEPS, len(owners))):
            i = owners[(start + step) % len(owners)]
            if i == last:
                continue
            last = i
            if not block.fresh(i, ask, Rng(key ^ block.members[i])):
                continue
            load = float(block.world.in_flight[block.members[i]]) * (1000.0 * block.total) / block.weights[i]
            if not block.bounded_load or load < float(block.bounded_load) * (ask.total_in_flight + 1.0):
                return i
            full.append((load, step, i))
        return min(full)[2] if full else self.last_resort(block, ask, mix(key))

    # When few are left

    def list_survivors(self, block: ReferenceBlock, now_ms: int) -> list[int]:
        self.listed_ms = now_ms
        for self.wanted in (USABLE, DOWN):
            self.survivors = [i for i in range(block.n) if block.condition(i, now_ms) == self.wanted]
            if self.survivors:
                break
        return self.survivors or []

    def survivor(self, block: ReferenceBlock, ask: Ask, draw: int) -> tuple[int, int, bool]:
        """(untried one or -1, tried one or -1, whether the list is out of date)."""
        listed = self.survivors or []
        if not listed:
            return -1, -1, False
        if block.policy == ROUND_ROBIN and len(block.groups) == 1:
            at = self.turn % len(listed)
            self.turn += 1
        else:
            parts = self.parts
            draw %= sum(parts)
            at = 0
            while draw >= parts[at]:
                draw -= parts[at]
                at += 1
        tried, stale = -1, False
        for i in (listed[at:] + listed[:at])[:SCAN]:
            if block.condition(i, ask.now_ms) > self.wanted:
                stale = True
            elif block.members[i] not in ask.tried:
                return i, tried, stale
            elif tried < 0:
                tried = i
        return -1, tried, stale

    def relist(self, block: ReferenceBlock, now_ms: int) -> None:
        listed = self.list_survivors(block, now_ms)
        self.parts = [block.weights[i] * (block.share(i) or 255) for i in listed]

    def last_resort(self, block: ReferenceBlock, ask: Ask, draw: int) -> int:
        if block.n == 0:
            return -1
        start = ((draw >> 32) * block.n) >> 32
        around = [*range(start, block.n), *range(start)]
        if block is not self.block:
            ranks = {
                i: block.condition(i, ask.now_ms) + 2 * (block.members[i] in ask.tried)
                for i in around
                if block.condition(i, ask.now_ms) != OUT
            }
            return min(ranks, key=lambda i: ranks[i], default=-1)
        relisted = (
            self.survivors is None or block.n <= SCAN or (ask.now_ms - self.listed_ms) % 2**32 >= SURVIVORS_MS
        )
        if relisted:
            self.relist(block, ask.now_ms)
        chosen, tried, stale = self.survivor(block, ask, draw)
        if chosen < 0 and stale and not relisted:
            self.relist(block, ask.now_ms)
            chosen, tried, stale = self.survivor(block, ask, draw)
        if chosen >= 0 or not self.survivors:
            return chosen
        if self.wanted == USABLE:
            for i in around[:SCAN]:
                if block.condition(i, ask.now_ms) == DOWN and block.members[i] not in ask.tried:
                    return i
        return tried if tried >= 0 else self.survivors[0]
