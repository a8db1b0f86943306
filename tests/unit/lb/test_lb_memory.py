"""When memory is short: building and adopting fail whole, leave nothing behind, and picking goes on.

A child runs with a `malloc` of which the n-th call from the module of balancing fails.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.balancing import POLICIES

MALLOC = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void __libc_free(void *memory);

static int watching;
static long left = -1, living;
static void *ours[4096];

void watch(void) { watching = 1; }
void fail_after(long calls) { left = calls; }
long held(void) { return living; }

static int from_balancing(void *caller)
{
    Dl_info where;
    return watching && dladdr(caller, &where) && where.dli_fname && strstr(where.dli_fname, "/lb/lb.");
}

static void *allocate(void *caller, size_t count, size_t size)
{
    int watched = from_balancing(caller);
    void *memory;
    if (watched && left >= 0 && left-- == 0)
        return NULL;
    memory = count == 0 ? __libc_malloc(size) : __libc_calloc(count, size);
    if (watched && living < 4096)
        ours[living++] = memory;
    return memory;
}

void *malloc(size_t size) { return allocate(__builtin_return_address(0), 0, size); }
void *calloc(size_t count, size_t size) { return allocate(__builtin_return_address(0), count, size); }

void free(void *memory)
{
    for (long at = 0; at < living && memory != NULL; at++)
        if (ours[at] == memory) {
            ours[at] = ours[--living];
            break;
        }
    __libc_free(memory);
}
"""

CHILD = """
import ctypes, gc, itertools, sys
from fastmesh._native.lb._t_lb import Block, Slots, State

policy = int(sys.argv[1])
libc = ctypes.CDLL(None)
libc.held.restype = ctypes.c_long
libc.watch()
slots = Slots([f"10.0.0.{k}:80" for k in range(6)])
KEYS = [k * 2**58 for k in range(64)]
PLAIN, TIERS = None, [0, 0, 0, 1, 1, 2]

def build(priorities):
    return Block(policy, slots, list(range(6)), [1, 2, 3, 1, 2, 3], 16, 11, priorities=priorities)

def failures_of(action, error):
    "Fails each allocation of an action in turn; how many there are."
    for calls in itertools.count():
        gc.collect()
        before = libc.held()
        libc.fail_after(calls)
        try:
            kept = action()
        except error:
            libc.fail_after(-1)
            gc.collect()
            assert libc.held() == before, (calls, libc.held() - before)
        else:
            libc.fail_after(-1)
            return calls

def adoptions(before, after):
    old, new = build(before), build(after)
    state, twin = State(1), State(1)
    for one in (state, twin):
        one.adopt(old)
        [one.pick(old, key=key) for key in KEYS[:10]]
    count = failures_of(lambda: state.adopt(new), MemoryError)
    twin.adopt(new)
    assert [state.pick(new, key=key) for key in KEYS] == [twin.pick(new, key=key) for key in KEYS]
    return count

def unadopted(priorities):
    "Picks from a block that the state had no memory to adopt."
    state, old, new = State(1), build(TIERS if priorities is PLAIN else PLAIN), build(priorities)
    state.adopt(old)
    libc.fail_after(0)
    try:
        state.adopt(new)
        raise SystemExit("nothing failed")
    except MemoryError:
        pass
    assert {state.pick(new, key=key) for key in KEYS * 4} == set(range(3) if priorities else range(6))

counts = [failures_of(lambda: build(PLAIN), ValueError), failures_of(lambda: build(TIERS), ValueError)]
counts += [adoptions(*change) for change in itertools.product((PLAIN, TIERS), repeat=2)]
unadopted(PLAIN)
unadopted(TIERS)
gc.collect()
assert libc.held() == 0, libc.held()
print(*counts)
"""


@pytest.fixture(scope="module")
def malloc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("malloc")
    (folder / "malloc.c").write_text(MALLOC)
    made = ["cc", "-shared", "-fPIC", "-O1", "malloc.c", "-o", "malloc.so", "-ldl"]
    subprocess.run(made, cwd=folder, check=True)
    return folder / "malloc.so"


@pytest.mark.no_sanitizer  # it brings a malloc of its own
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_each_allocation_may_fail(policy: int, malloc: Path) -> None:
    env = {**os.environ, "LD_PRELOAD": str(malloc), "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(policy)], env=env, capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr
    plain, tiers, *adoptions = map(int, child.stdout.split())
    assert plain >= 4
    assert tiers >= 3 * plain
    assert adoptions == [4, 14, 4, 14]
