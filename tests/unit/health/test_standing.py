"""Verdicts after so many results in a row, and what is remembered."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmesh.health.checks import Result
from fastmesh.health.standing import HISTORY, Standing
from fastmesh.model import Health

GOOD, BAD, UNKNOWN = (
    Result(True, "answered 200"),
    Result(False, "answered 500"),
    Result(None, "no descriptors"),
)


def states(letters, **settings):
    """The state after each result: ``g`` good, ``b`` bad, ``?`` could not be checked."""
    standing, health = Standing(0.0), Health(**settings)
    shown = []
    for number, letter in enumerate(letters):
        before = standing.state
        changed = standing.take(
            {"g": GOOD, "b": BAD, "?": UNKNOWN}[letter], health, at=float(number + 1), seconds=0.5
        )
        assert changed == (standing.state != before)
        if changed:
            assert standing.since == number + 1
        shown.append(standing.state[0])
    return "".join(shown)


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ("g", "h"),
        ("b", "u"),
        ("?g", "ph"),
        ("??", "pp"),
        ("gbbb", "hhhu"),
        ("gbbgbbb", "hhhhhhu"),
        ("bgg", "uuh"),
        ("bgbgg", "uuuuh"),
        ("gbb?b", "hhhhu"),
        ("bg?g", "uuuh"),
        ("bggbbgg", "uuhhhhh"),
    ],
)
def test_the_first_check_decides_later_ones_in_a_row(results, expected):
    assert states(results, healthy=2, unhealthy=3) == expected


def test_one_is_enough_where_one_is_asked_for():
    assert states("gbgb", healthy=1, unhealthy=1) == "huhu"


def test_lower_thresholds_count_what_came_before():
    standing = Standing(0.0)
    for _ in range(2):
        standing.take(GOOD, Health(), at=1.0, seconds=0)
    standing.take(BAD, Health(unhealthy=5), at=2.0, seconds=0)
    assert standing.take(BAD, Health(unhealthy=2), at=3.0, seconds=0)


def test_the_last_results_are_remembered():
    standing = Standing(0.0)
    for number in range(HISTORY + 5):
        standing.take(BAD if number == 9 else GOOD, Health(), at=float(number), seconds=0.25)
    assert [past.at for past in standing.history] == [float(n) for n in range(5, HISTORY + 5)]
    assert standing.history[4].result == BAD
    assert standing.history[-1].seconds == 0.25
    assert standing.last_error == "answered 500"


def test_why_it_could_not_be_checked_is_the_last_error():
    standing = Standing(0.0)
    standing.take(UNKNOWN, Health(), at=1.0, seconds=0.0)
    assert (standing.state, standing.last_error, len(standing.history)) == ("pending", "no descriptors", 1)


@given(st.text("gb", max_size=30), st.integers(1, 4), st.integers(1, 4))
def test_against_a_plain_reading_of_the_rule(results, healthy, unhealthy):
    shown = states(results, healthy=healthy, unhealthy=unhealthy)
    state = ""
    for index, letter in enumerate(results):
        seen = results[: index + 1]
        row = len(seen) - len(seen.rstrip(letter))
        wanted = "h" if letter == "g" else "u"
        if not state or row >= (healthy if letter == "g" else unhealthy):
            state = wanted
        assert shown[index] == state
