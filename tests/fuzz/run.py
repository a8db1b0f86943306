"""Fuzzes the protocol cores for a while: `run.py --seconds 60 [--seed N] [target …]`.

Mutates known inputs without coverage feedback: bytes flipped, inserted, removed, repeated, spliced between
inputs, and words of the protocol put in. Prints the seed, and for a failure the input. Exit 1 on failure.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "fuzz")]

WORDS = (
    b"\r\n", b"\r", b"\n", b"\0", b" ", b"\t", b":", b",", b";", b"\r\n ", b"\r\n\r\n", b"\x7f", b"\x80",
    b"\xff",
    b"Host: b\r\n", b"Content-Length: 5\r\n", b"Content-Length: 05\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Connection: close, X-A\r\n", b"X-A: b\r\n", b"Upgrade: websocket\r\n", b"Expect: 100-continue\r\n",
    b"X-Forwarded-For: 9.9.9.9\r\n", b"HTTP/1.1", b"HTTP/1.0", b"http://", b"chunked", b"0\r\n",
    b"ffffffffffffffff",
    b'"', b"\\", b"?", b"#", b"%41", b"[::1]", b"18446744073709551616", b"A: b\r\n" * 13, b"x" * 130,
    b"x" * 700,
)  # fmt: skip


def mutate(rng: random.Random, corpus: list[bytes]) -> bytes:
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5, 8))):
        at = rng.randrange(len(data) + 1)
        what = rng.randrange(7)
        if what == 0 and data:
            data[at % len(data)] = rng.randrange(256)
        elif what == 1:
            data[at:at] = bytes([rng.randrange(256)])
        elif what == 2:
            del data[at : at + rng.choice((1, 1, 2, 4, 16))]
        elif what == 3:
            data[at:at] = rng.choice(WORDS)
        elif what == 4:
            other = rng.choice(corpus)
            data[at:] = other[rng.randrange(len(other) + 1) :]
        elif what == 5:
            piece = data[at : at + rng.choice((1, 2, 8, 32))]
            data[at:at] = piece * rng.choice((1, 2, 20))
        elif data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
    return bytes(data[:4096])


def run(name: str, check: Callable[[bytes], None], seeds: list[bytes], seconds: float, seed: int) -> bool:
    rng = random.Random(seed)
    corpus = list(seeds)
    rounds = 0
    deadline = time.monotonic() + seconds
    data = b""
    try:
        for data in seeds:
            check(data)
        while time.monotonic() < deadline:
            for _ in range(100):
                data = mutate(rng, corpus)
                check(data)
                rounds += 1
            if len(corpus) < 400 and rng.random() < 0.3:
                corpus.append(data)  # walks away from the seeds
    except Exception:
        traceback.print_exc()
        print(f"{name}: FAILED after {rounds} inputs with seed {seed}: {data!r}")
        return False
    print(f"{name}: {rounds} inputs in {seconds:g} s, seed {seed}")
    return True


def main() -> int:
    # Imported late: the native modules are needed only here, and run.py may be asked for help without them.
    from proto_targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10, help="for each target")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("targets", nargs="*", metavar="target", help=", ".join(TARGETS))
    options = parser.parse_args()
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    results = [run(name, *TARGETS[name], options.seconds, seed) for name in options.targets or TARGETS]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
