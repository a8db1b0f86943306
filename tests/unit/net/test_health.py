from __future__ import annotations

import math
from typing import Any

import pytest

UNHEALTHY, DRAINING = 1 << 32, 1 << 33
ALL = 1000  # as many as there are
NOW = 5_000_000
BAD_STATUS, REFUSED = 1500, 30


def in_a_row(it: Any, count: int, *, gateway: bool, now: int = NOW) -> list[bool]:
    return [it.bad(now, gateway) for _ in range(count)]


# ---------------------------------------------------------------- how long


def test_the_pause_doubles_up_to_a_bound(it: Any) -> None:
    now = NOW
    pauses = []
    for _ in range(40):
        assert it.connect_failed(now)
        pauses.append(it.health - now)
        now = it.health  # at once when it is over
    assert pauses == [1000, 2000, 4000, 8000, 16000, *[30000] * 35]


@pytest.mark.parametrize(
    ("in_for_ms", "pause"),
    [(0, 4000), (2000, 4000), (2001, 1000)],
)
def test_it_begins_anew_after_as_long_in_as_it_was_out(it: Any, in_for_ms: int, pause: int) -> None:
    it.connect_failed(NOW)
    it.connect_failed(NOW + 1000)
    it.good(NOW + 3000, NOW + 3000)
    assert it.health == 0
    now = NOW + 3000 + in_for_ms
    assert it.connect_failed(now)
    assert it.health == now + pause


def test_many_failures_at_once_are_one(it: Any) -> None:
    """As many connections as are opened when an endpoint dies."""
    assert [it.connect_failed(NOW + number) for number in range(50)] == [True, *[False] * 49]
    in_sequence, began, for_ms, total, reason = it.ejection
    assert (in_sequence, began, for_ms, total, reason) == (1, NOW, 1000, 1, REFUSED)
    assert it.health == NOW + 1000


def test_a_probe_that_fails_doubles_though_its_lease_runs(it: Any) -> None:
    it.connect_failed(NOW)
    assert it.claim_probe(NOW + 1000, 5000)
    assert not it.connect_failed(NOW + 1100), "of another request: it is left out already"
    assert it.connect_failed(NOW + 1100, True)
    assert it.health == NOW + 1100 + 2000


def test_the_other_bits_stay(it: Any) -> None:
    """But not the share of a slow start: it is not coming back any more."""
    it.net.health = DRAINING | UNHEALTHY | 77 << 40
    it.connect_failed(NOW)
    assert it.health == DRAINING | UNHEALTHY | NOW + 1000
    it.good(NOW + 10, NOW + 5)
    assert it.health == DRAINING | UNHEALTHY


def test_the_clock_may_wrap(it: Any) -> None:
    """0 would mean that it is not left out at all."""
    it.connect_failed(2**32 - 1000)
    assert it.health == 1
    assert not it.connect_failed(2**32 - 500)
    assert not it.claim_probe(2**32, 100)
    assert it.claim_probe(2**32 + 1, 100)
    assert it.connect_failed(2**32 + 50, True)
    assert it.health == 2050
    assert not it.good(2**32 + 60, 2**32 - 1), "sent before"
    assert it.good(2**32 + 60, 2**32 + 55)


# ---------------------------------------------------------------- when


def test_so_many_5xx_in_a_row(it: Any) -> None:
    it.rules(3, ALL, 5, 3)
    assert in_a_row(it, 6, gateway=False) == [False] * 4 + [True, False]
    assert it.ejection[3:] == (1, BAD_STATUS)


def test_fewer_failures_on_the_way(it: Any) -> None:
    it.rules(3, ALL, 5, 3)
    assert in_a_row(it, 4, gateway=True) == [False, False, True, False]


def test_5xx_and_failures_count_together_as_5xx(it: Any) -> None:
    it.rules(3, ALL, 5, 3)
    kinds = [False, True, False, True]
    assert [it.bad(NOW, gateway) for gateway in kinds] == [False] * 4
    assert it.in_a_row == (4, 2)
    assert it.bad(NOW, False)


def test_one_success_and_the_row_is_broken(it: Any) -> None:
    it.rules(3, ALL, 5, 3)
    in_a_row(it, 4, gateway=False)
    assert not it.good(NOW, NOW), "it was not left out"
    assert it.in_a_row == (0, 0)
    assert in_a_row(it, 5, gateway=False) == [False] * 4 + [True]


def test_being_left_out_breaks_the_row(it: Any) -> None:
    """Else one failure would do when it is back."""
    it.rules(3, ALL, 2, 2)
    in_a_row(it, 2, gateway=True)
    assert it.in_a_row == (0, 0)


@pytest.mark.parametrize(("limit_5xx", "limit_gateway"), [(0, 3), (5, 0), (0, 0)])
def test_a_rule_that_is_off(it: Any, limit_5xx: int, limit_gateway: int) -> None:
    it.rules(3, ALL, limit_5xx, limit_gateway)
    plain = in_a_row(it, 20, gateway=False)
    assert any(plain) == bool(limit_5xx)
    it.net.health = 0
    assert any(in_a_row(it, 20, gateway=True, now=NOW + 100_000)) == bool(limit_5xx or limit_gateway)


@pytest.mark.parametrize("endpoints", [1, 2, 3, 4, 10, 11, 16])
@pytest.mark.parametrize("permille", [1, 100, 334, 500, 999, 1000])
def test_so_many_at_most_are_left_out_and_never_all(it: Any, endpoints: int, permille: int) -> None:
    """A share of them, rounded up."""
    it.rules(endpoints, permille, 1, 1)
    most = min(math.ceil(endpoints * permille / 1000), endpoints - 1)
    for number in range(1, endpoints):
        out = number - 1
        expected = out < most
        it.net.health = 0
        assert it.bad(NOW, False) == expected, f"{out} of {endpoints} are out"
        it.net.health = 0
        it.eject_other(number, NOW, 1000)
    it.net.health = 0
    assert not it.bad(NOW, False), "all others are out"


def test_whose_time_is_over_counts_as_out_until_its_probe(it: Any) -> None:
    it.rules(2, ALL, 1, 1)
    it.eject_other(1, NOW, 1000)
    assert not it.bad(NOW + 999, False)
    assert not it.bad(NOW + 1000, False)


def test_one_that_takes_no_connections_is_left_out_whatever_the_others_are(it: Any) -> None:
    it.rules(3, 1, 1, 1)
    it.eject_other(1, NOW, 1000)
    it.eject_other(2, NOW, 1000)
    assert it.connect_failed(NOW)


# ---------------------------------------------------------------- and back


def test_one_probe_at_a_time(it: Any) -> None:
    it.connect_failed(NOW)
    assert not it.claim_probe(NOW + 999, 300), "its time is not over"
    assert it.claim_probe(NOW + 1000, 300)
    assert [it.claim_probe(NOW + 1000 + ms, 300) for ms in (0, 1, 299)] == [False] * 3
    assert it.claim_probe(NOW + 1300, 300), "the first never came back"


def test_one_that_is_in_needs_no_probe(it: Any) -> None:
    assert not it.claim_probe(NOW, 300)
    it.net.health = UNHEALTHY | 26 << 40
    assert not it.claim_probe(NOW, 300)


def test_a_lease_leaves_the_other_bits_alone(it: Any) -> None:
    it.net.health = UNHEALTHY | 77 << 40 | NOW
    assert it.claim_probe(NOW, 300)
    assert it.health == UNHEALTHY | 77 << 40 | NOW + 300


@pytest.mark.parametrize(("sent_ms", "back"), [(-1, False), (0, True), (500, True), (1000, True)])
def test_only_what_was_sent_after_it_was_left_out_brings_it_back(it: Any, sent_ms: int, back: bool) -> None:
    it.connect_failed(NOW)
    assert it.good(NOW + 1000, NOW + sent_ms) is back
    assert (it.health == 0) is back
    assert not it.good(NOW + 1000, NOW + 1000) or not back, "news only once"


# ---------------------------------------------------------------- slow start


def test_the_share_grows_with_the_time(it: Any) -> None:
    it.connect_failed(NOW)
    assert it.good(NOW + 1000, NOW + 1000, 10_000)
    shares = [it.step_ramp(NOW + 1000 + ms) for ms in range(0, 10_000, 500)]
    assert shares[:3] == [26, 26, 26], "a tenth at least"
    assert shares == sorted(shares)
    assert shares[10] == pytest.approx(127, abs=1)
    assert it.step_ramp(NOW + 1000 + 9_999) == 254
    assert it.step_ramp(NOW + 1000 + 10_000) == 0, "all of it"
    assert it.health == 0


def test_without_a_slow_start_it_has_its_whole_share_at_once(it: Any) -> None:
    it.connect_failed(NOW)
    it.good(NOW + 1000, NOW + 1000, 0)
    assert it.health == 0


def test_a_slow_start_ends_when_it_is_left_out_again(it: Any) -> None:
    it.begin_ramp(NOW, 10_000)
    assert it.step_ramp(NOW + 5_000) == 127
    it.connect_failed(NOW + 5_000)
    assert it.step_ramp(NOW + 5_001) == 0
    assert it.health == NOW + 6_000


def test_a_slow_start_survives_the_wrap_of_the_clock(it: Any) -> None:
    it.begin_ramp(2**32 - 1000, 10_000)
    assert it.step_ramp(2**32 + 4_000) == 127
    assert it.step_ramp(2**32 + 9_000) == 0


# ---------------------------------------------------------------- told to another process

THERE = 77_000  # the other process's clock


def handed_over(it: Any, now: int, there: int = THERE) -> None:
    told = it.tell(now)
    assert told is not None
    it.resume(there, told)


def test_of_a_new_endpoint_there_is_nothing_to_tell(it: Any) -> None:
    assert it.tell(NOW) is None
    it.connect_failed(NOW)
    assert it.tell(NOW + 5000) is not None
    it.good(NOW + 5000, NOW + 5000)
    assert it.tell(NOW + 5000)["ejections"] == 1, "it was left out not long ago"


def test_it_stays_out_for_as_long_as_it_would_have(it: Any) -> None:
    it.connect_failed(NOW)
    it.connect_failed(NOW + 1000)
    handed_over(it, NOW + 1500)
    assert it.health == THERE + 1500
    assert it.ejection == (2, THERE - 500, 2000, 0, REFUSED)
    assert not it.claim_probe(THERE + 1499, 300)
    assert it.claim_probe(THERE + 1500, 300)
    assert it.connect_failed(THERE + 1600, True)
    assert it.health == THERE + 1600 + 4000, "the third in a row"


def test_one_whose_time_is_over_is_half_open(it: Any) -> None:
    it.connect_failed(NOW)
    handed_over(it, NOW + 1000)
    assert it.claim_probe(THERE, 300)
    assert it.good(THERE + 10, THERE + 5), "sent after it was left out"


@pytest.mark.parametrize("there", [0, 2**32, 2**32 - 500])
def test_the_other_clock_may_wrap(it: Any, there: int) -> None:
    it.connect_failed(NOW)
    handed_over(it, NOW + 500, there)
    assert it.health != 0
    assert not it.claim_probe(there + 499, 300)
    assert it.claim_probe(there + 501, 300)


def test_the_failures_in_a_row_go_on(it: Any) -> None:
    it.rules(3, ALL, 5, 3)
    it.bad(NOW, False)
    it.bad(NOW, True)
    handed_over(it, NOW)
    assert it.in_a_row == (2, 1)
    assert it.health == 0
    assert [it.bad(THERE, False) for _ in range(3)] == [False, False, True]


def test_a_slow_start_goes_on(it: Any) -> None:
    it.begin_ramp(NOW, 10_000)
    it.step_ramp(NOW + 1)
    handed_over(it, NOW + 5_000)
    assert (it.health >> 40) & 0xFF == 127
    assert it.step_ramp(THERE + 2_500) == 191
    assert it.step_ramp(THERE + 5_000) == 0


def test_a_slow_start_that_is_over_is_not_told(it: Any) -> None:
    it.begin_ramp(NOW, 10_000)
    it.step_ramp(NOW + 10_000)
    assert it.tell(NOW + 10_001) is None
    it.begin_ramp(NOW, 10_000)
    handed_over(it, NOW + 10_000)
    assert it.health == 0


def test_checks_and_draining_are_not_told(it: Any) -> None:
    """Each process knows of its own configuration."""
    it.net.health = UNHEALTHY | DRAINING
    assert it.tell(NOW) is None
    it.connect_failed(NOW)
    handed_over(it, NOW)
    assert it.health == THERE + 1000
