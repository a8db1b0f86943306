"""A sanitizer build reports what it is there for; without this, silence would prove nothing."""

import os
import subprocess
import sys

import pytest

KIND = os.environ.get("FASTMESH_SANITIZED", "")
FAULTS = {
    "address": ("faults.write_behind_an_allocation(8)", "heap-buffer-overflow"),
    "undefined": ("faults.shift_too_far(40)", "shift exponent 40 is too large"),
    "thread": (
        "import threading\n"
        "barrier = threading.Barrier(2)\n"
        "def work(): barrier.wait(); faults.bump_without_order(5 * 10**6)\n"
        "threads = [threading.Thread(target=work) for _ in range(2)]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]",
        "data race",
    ),
}

# What tools/sanitize builds together.
LOOKED_FOR = ("address", "undefined") if KIND == "address" else (KIND,)

pytestmark = pytest.mark.skipif(KIND not in FAULTS, reason="no sanitizer build: see tools/sanitize")


def run(script):
    # What is provoked here must not count as a finding.
    names = ("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS")
    environment = os.environ | {name: os.environ.get(name, "") + ":log_path=stderr" for name in names}
    return subprocess.run(
        [sys.executable, "-c", f"from fastmesh._native.sys import _t_faults as faults\n{script}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
        env=environment,
    )


@pytest.mark.parametrize("kind", LOOKED_FOR)
def test_a_fault_is_reported_and_fails_the_process(kind):
    script, words = FAULTS[kind]
    ended = run(script)
    assert words in ended.stderr
    assert ended.returncode != 0


def test_no_fault_no_report():
    ended = run("")
    assert (ended.stderr, ended.returncode) == ("", 0)
