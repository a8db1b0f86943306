"""What the origin's delays are drawn from, and the order in which they fall due: its C, in a program."""

import heapq
import math
import os
import shutil
import statistics
import subprocess
from collections.abc import Callable

import pytest

from bench.harness.place import BENCH

DRAWS = 20_000
PROGRAM = r"""
#include <stdio.h>
#include <string.h>
#include "origin_delay.h"

int main(int argc, char **argv)
{
    struct delay delay = {.shape = (enum delay_shape)atoi(argv[1])};
    uint64_t state = 7;
    struct due_heap heap = {0};
    if (argc > 3) {
        delay.first = atof(argv[2]);
        delay.second = atof(argv[3]);
        for (int i = 0; i < 20000; i++)
            printf("%.17g\n", (double)draw_delay(&delay, &state));
    } else if (strcmp(argv[1], "functions") == 0) {
        for (double x = 1e-30; x < 1e30; x *= 1.37)
            printf("%.17g %.17g\n", x, natural_log(x));
        for (double x = -690; x < 700; x += 1.37)
            printf("%.17g %.17g\n", exponential(x), x);
    } else {
        for (int i = 0; i < 30000 || heap.count; i++) {
            uint64_t at = next_random(&state) % 5000;
            if (i < 30000 && due_push(&heap, at, NULL))
                printf("push %llu\n", (unsigned long long)at);
            if (i >= 30000 || i % 3 == 2)
                printf("pop %llu\n", (unsigned long long)due_pop(&heap).at);
        }
        free(heap.entries);
    }
    return 0;
}
"""
FIXED, EXPONENTIAL, LOGNORMAL, UNIFORM = range(1, 5)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """Lines that the program prints, by its arguments."""
    folder = tmp_path_factory.mktemp("delay")
    source = folder / "draw.c"
    source.write_text(PROGRAM)
    compiler = os.environ.get("CC") or shutil.which("cc") or "gcc"
    flags = ["-O1", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", f"-I{BENCH}"]
    subprocess.run([compiler, *flags, str(source), "-o", str(folder / "draw")], check=True)

    def run(*arguments: object) -> list[str]:
        argv = [str(folder / "draw"), *map(str, arguments)]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()

    return run


def normal_share(x: float) -> float:
    return statistics.NormalDist().cdf(x)


@pytest.mark.parametrize(
    ("shape", "first", "second", "mean", "share_below"),
    [
        (EXPONENTIAL, 5e6, 0, 5e6, lambda x: 1 - math.exp(-x / 5e6)),
        (UNIFORM, 1e6, 9e6, 5e6, lambda x: (x - 1e6) / 8e6),
        (LOGNORMAL, 5e6, 0.5, 5e6 * math.exp(0.125), lambda x: normal_share(math.log(x / 5e6) / 0.5)),
        (LOGNORMAL, 1e3, 2, None, lambda x: normal_share(math.log(x / 1e3) / 2)),
    ],
)
def test_distributions(
    run: Callable[..., list[str]],
    shape: int,
    first: float,
    second: float,
    mean: float | None,
    share_below: Callable[[float], float],
) -> None:
    """Kolmogorov and Smirnov: the shares differ by 1.95 / sqrt(n) once in a thousand times."""
    drawn = sorted(map(float, run(shape, first, second)))
    assert len(drawn) == DRAWS
    assert mean is None or statistics.fmean(drawn) == pytest.approx(mean, rel=0.03)
    farthest = max(abs(share_below(max(x, 1)) - (i + 0.5) / DRAWS) for i, x in enumerate(drawn))
    assert farthest < 1.95 / math.sqrt(DRAWS)


def test_the_same_is_drawn_each_time_but_not_twice(run: Callable[..., list[str]]) -> None:
    first = run(UNIFORM, 0, 1e9)
    assert first == run(UNIFORM, 0, 1e9)
    assert len(set(first)) > DRAWS * 0.99


def test_bounds(run: Callable[..., list[str]]) -> None:
    assert set(run(FIXED, 5e6, 0)) == {"5000000"}
    assert set(run(EXPONENTIAL, 0, 0)) == set(run(LOGNORMAL, 0, 10)) == {"0"}
    assert max(map(float, run(LOGNORMAL, 3600e9, 10))) == 3600e9


def test_functions(run: Callable[..., list[str]]) -> None:
    pairs = [tuple(map(float, line.split())) for line in run("functions")]
    assert len(pairs) > 1000
    for x, log in pairs:
        assert math.isclose(log, math.log(x), rel_tol=1e-12, abs_tol=1e-12), x


def test_due_in_order(run: Callable[..., list[str]]) -> None:
    heap: list[int] = []
    lines = run("heap")
    assert len(lines) == 60_000
    for line in lines:
        action, _, at = line.partition(" ")
        if action == "push":
            heapq.heappush(heap, int(at))
        else:
            assert heapq.heappop(heap) == int(at)
    assert not heap
