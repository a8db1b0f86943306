"""What the suite reads out of other programs' output, and the configurations that it changes to."""

import itertools

import pytest
import yaml

from bench import profile
from bench.changes import configurations
from bench.endurance import Account, judge
from bench.harness.load import parse_result
from bench.harness.place import BenchError
from bench.harness.syscalls import parse_counts, reads_and_writes

WRK = """Running 2s test @ http://127.0.0.1:1/
  64 connections
RESULT requests=100 bytes=30000 duration_us=2000000 connect=1 read=0 write=0 status=2 timeout=0 \
p50_us=5 p90_us=6 p99_us=7 max_us=8
"""


def test_wrk_result() -> None:
    result = parse_result(WRK)
    assert (result.requests, result.bytes, result.failed) == (100, 30000, 3)
    assert result.requests_per_second == pytest.approx(50)
    assert result.error_text() == "1 connect, 2 status"
    assert (result.p50_us, result.p99_us, result.max_us) == (5, 7, 8)


def test_wrk_without_a_result() -> None:
    with pytest.raises(BenchError, match="unable to connect"):
        parse_result("unable to connect to 127.0.0.1:1 Connection refused\n")


def test_strace_counts() -> None:
    calls = {"recvfrom": 200, "epoll_ctl": 7, "sendto": 210, "splice": 3}
    lines = [f"{count:9} {name}" for name, count in [*calls.items(), ("total", 420)]]
    table = "\n".join(["    calls syscall", "--------- ----------------", *lines])
    counts = parse_counts(table)
    assert counts == calls
    assert reads_and_writes(counts) == 413


def test_perf_report() -> None:
    text = "# comment\n\n    12.50%|[kernel.kallsyms]|[k] tcp_ack\n"
    text += "  2.5%|/a/b/http1.so|[.] parse\n  0.5%|http1.so|[.] f\n"
    functions = profile.parse_report(text)
    assert functions[0] == (0.125, "[kernel.kallsyms]", "[k] tcp_ack")
    assert profile.by_object(functions) == {"[kernel.kallsyms]": 0.125, "http1.so": pytest.approx(0.03)}


def test_each_configuration_differs_and_serves() -> None:
    kinds = set()
    before = None
    for kind, text in itertools.islice(configurations("workers: 1", 1, 2, (3, 4, 5, 6), (7, 8, 9)), 200):
        config = yaml.safe_load(text)
        assert config != before, kind
        assert config["listeners"]["web"]["routes"][-1]["path"] == "/"
        assert config["services"]["origin"]["endpoints"]
        weights = [endpoint["weight"] for endpoint in config["services"]["origin"]["endpoints"]]
        if kind == "weight":  # of an only endpoint it would change nothing
            assert len(weights) > 1
        kinds.add(kind)
        before = config
    assert kinds == {"start", "endpoints", "routes", "listeners", "policy", "weight", "split"}


MIB = 1 << 20


@pytest.mark.parametrize(("end", "held"), [(10 * MIB, True), (10 * MIB + 1, False)])
def test_memory_is_judged_by_medians_against_that_after_a_fifth(end: int, held: bool) -> None:
    before = [(count, 5 * MIB) for count in range(20)]  # the first fifth does not count, nor do the peaks
    first = [(20, 9 * MIB), (21, 9 * MIB), (22, 9 * MIB), (23, 99 * MIB), (24, 99 * MIB)]
    last = [(96, end), (97, end), (98, end), (99, 99 * MIB), (100, 99 * MIB)]
    account = Account(requests=100, changes=5, memory=[*before, *first, *last])
    problems = judge(account, 0.2, 0, [])
    assert problems == [] if held else "1.00 MiB" in problems[0]


def test_every_way_not_to_hold() -> None:
    account = Account(requests=100, failed=2, changes=0, errors=["2 read"], memory=[(100, MIB)])
    problems = judge(account, 0.2, 1, ["the drain ended with 4"])
    assert len(problems) == 4
