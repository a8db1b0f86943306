"""Durations, sizes and shares: what is read, what is refused and with which advice, and the inverses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmesh.units import (
    format_duration,
    format_share,
    format_size,
    parse_duration,
    parse_share,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0),
        ("250ms", 0.25),
        ("0.5ms", 0.0005),
        ("1.5s", 1.5),
        ("1m", 60),
        ("1h30m", 5400),
        ("1d2h3m4s5ms", 93784.005),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("", "`` is not a duration; write one such as `250ms`, `2s`, `1m` or `1h30m`"),
        ("5", "`5` has no unit; write `5s` for seconds or `5ms` for milliseconds"),
        ("-5", "`-5` is negative and has no unit; write a duration such as `5s`"),
        ("-5s", "`-5s` is negative; a duration is 0s or longer"),
        ("30m1h", "`30m1h` is not a duration; write one such as `250ms`, `2s`, `1m` or `1h30m`"),
        ("1s ", "`1s ` is not a duration; write one such as `250ms`, `2s`, `1m` or `1h30m`"),
        ("1μs", "`1μs` is not a duration; write one such as `250ms`, `2s`, `1m` or `1h30m`"),
        ("0.0001ms", "`0.0001ms` is finer than a microsecond"),
        ("366d", "`366d` is longer than a year; write `none` for no limit where that is allowed"),
    ],
)
def test_not_durations(text: str, advice: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_duration(text)
    assert str(caught.value) == advice


@pytest.mark.parametrize(
    ("text", "size"), [("0B", 0), ("512B", 512), ("16KiB", 16384), ("1.5MiB", 1572864), ("2GiB", 2 << 30)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("16", "`16` has no unit; write `16B` for bytes or `16KiB` for units of 1,024"),
        ("16k", "`16k` is not a size; units are powers of 1,024: write `16KiB`"),
        ("16 KB", "`16 KB` is not a size; units are powers of 1,024: write `16KiB`"),
        ("16kib", "`16kib` is not a size; units are powers of 1,024: write `16KiB`"),
        ("16Ki", "`16Ki` is not a size; units are powers of 1,024: write `16KiB`"),
        ("0.3B", "`0.3B` is not a whole number of bytes"),
        ("big", "`big` is not a size; write one such as `512B`, `16KiB` or `1MiB`"),
        ("-1", "`-1` is negative and has no unit; write a size such as `16KiB`"),
    ],
)
def test_not_sizes(text: str, advice: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_size(text)
    assert str(caught.value) == advice


@pytest.mark.parametrize(("text", "share"), [("0%", 0), ("20%", 0.2), ("12.5%", 0.125), ("125%", 1.25)])
def test_shares(text: str, share: float) -> None:
    assert parse_share(text) == share


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("0.2", "`0.2` has no unit; write a percentage such as `20%`"),
        ("1.25", "`1.25` has no unit; write a percentage such as `125%`"),
        ("12.5", "`12.5` has no unit; write a percentage such as `12.5%`"),
        ("20.", "`20.` has no unit; write a percentage such as `20%`"),
        ("0.0", "`0.0` has no unit; write a percentage such as `0.0%`"),
        ("1_000", "`1_000` has no unit; write a percentage such as `1000%`"),
        ("-20%", "`-20%` is not a share; write a percentage such as `20%`"),
        ("a fifth", "`a fifth` is not a share; write a percentage such as `20%`"),
    ],
)
def test_not_shares(text: str, advice: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_share(text)
    assert str(caught.value) == advice


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (0.25, "250ms"),
        (1.5, "1.5s"),
        (60.0, "1m"),
        (90.0, "90s"),
        (5400.0, "90m"),
        (86400.0, "1d"),
        (0.0005, "0.5ms"),
    ],
)
def test_format_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, 365 * 86400 * 10**6))
def test_durations_come_back(micros: int) -> None:
    seconds = parse_duration(f"{micros // 1000}.{micros % 1000:03}ms") if micros < 10**12 else micros / 10**6
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(0, 10**15 - 1))
def test_sizes_come_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.integers(0, 10**6), st.integers(0, 10**6 - 1))
def test_shares_come_back(whole: int, millionths: int) -> None:
    share = parse_share(f"{whole}.{millionths:06}%")
    assert parse_share(format_share(share)) == share
