"""Durations, sizes and shares as people write them, and back.

Durations are a number and a unit, or several of them from the largest unit to the smallest: `250ms`, `1.5s`,
`1h30m`. Sizes are a number and a binary unit: `512B`, `16KiB`, `1.5MiB`. Shares are percentages: `20%`.
A number without a unit is never guessed at: every parser raises `ValueError`, whose text says what to write.
The `format_…` functions are the inverses: `parse_x(format_x(value)) == value` for every value a parser gives.
"""

from __future__ import annotations

import re
from fractions import Fraction

_SECONDS = {
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
    "d": Fraction(86400),
}
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_OTHER_UNITS = re.compile(r"([KMG])(?:I?B?)", re.IGNORECASE)

_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,6})?"
_BARE_NUMBER = re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9]*)?")
_DURATION_PART = re.compile(rf"({_NUMBER})(ms|s|m|h|d)")
DURATION_PATTERN = rf"(?:{_NUMBER}d)?(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s)?(?:{_NUMBER}ms)?"
SIZE_PATTERN = r"([0-9]{1,15}(?:\.[0-9]{1,6})?)(B|KiB|MiB|GiB)"
SHARE_PATTERN = rf"({_NUMBER})%"
_DURATION = re.compile(DURATION_PATTERN)
_SIZE = re.compile(SIZE_PATTERN)
_SHARE = re.compile(SHARE_PATTERN)

LONGEST_DURATION = 365 * 86400.0  # seconds; a year, so that a native timer in milliseconds never overflows


def parse_duration(text: str) -> float:
    """Seconds of `text`, such as `250ms`, `2s`, `1h30m`."""
    if not text or not _DURATION.fullmatch(text):
        raise ValueError(_duration_advice(text))
    seconds = sum(Fraction(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))
    if seconds > LONGEST_DURATION:
        raise ValueError(f"`{text}` is longer than a year; write `none` for no limit where that is allowed")
    if (seconds * 1_000_000).denominator != 1:
        raise ValueError(f"`{text}` is finer than a microsecond")
    return float(seconds)


def parse_size(text: str) -> int:
    """Bytes of `text`, such as `512B`, `16KiB`, `1MiB`; the result is whole."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(_size_advice(text))
    size = Fraction(match[1]) * _BYTES[match[2]]
    if size.denominator != 1:
        raise ValueError(f"`{text}` is not a whole number of bytes")
    return int(size)


def parse_share(text: str) -> float:
    """The fraction that `text`, such as `20%`, stands for: 0.2."""
    match = _SHARE.fullmatch(text)
    if match is None:
        if _BARE_NUMBER.fullmatch(text):
            raise ValueError(f"`{text}` has no unit; write a percentage such as `{_as_percentage(text)}`")
        raise ValueError(f"`{text}` is not a share; write a percentage such as `20%`")
    return float(Fraction(match[1]) / 100)


def _as_percentage(number: str) -> str:
    """What was probably meant: `0.5` and `1.25` are fractions, `20` and `12.5` lack the sign."""
    digits = number.lstrip("-+").replace("_", "")
    value = Fraction(digits.rstrip("."))
    return f"{_decimal(value * 100)}%" if "." in digits and 0 < value < 2 else f"{digits.rstrip('.')}%"


def format_duration(seconds: float) -> str:
    """The shortest single-unit text that `parse_duration` turns back into `seconds`."""
    exact = Fraction(repr(seconds))
    if exact == 0:
        return "0s"
    for unit in ("d", "h", "m", "s"):
        if exact >= _SECONDS[unit] and (exact / _SECONDS[unit]).denominator == 1:
            return f"{exact / _SECONDS[unit]}{unit}"
    return f"{_decimal(exact * 1000)}ms" if exact < 1 else f"{_decimal(exact)}s"


def format_size(size: int) -> str:
    """The shortest text that `parse_size` turns back into `size` bytes."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return f"{size}B"


def format_share(share: float) -> str:
    """The percentage that `parse_share` turns back into `share`."""
    return f"{_decimal(Fraction(repr(share)) * 100)}%"


def _decimal(value: Fraction) -> str:
    """`value`, which has a finite decimal expansion, without an exponent or trailing zeros."""
    digits = 0
    while value.denominator != 1:
        value *= 10
        digits += 1
    text = str(int(value)).rjust(digits + 1, "0")
    return f"{text[:-digits]}.{text[-digits:]}" if digits else text


def _duration_advice(text: str) -> str:
    if _BARE_NUMBER.fullmatch(text):
        number = text.lstrip("-+")
        if text.startswith("-"):
            return f"`{text}` is negative and has no unit; write a duration such as `{number}s`"
        return f"`{text}` has no unit; write `{number}s` for seconds or `{number}ms` for milliseconds"
    if text.startswith("-"):
        return f"`{text}` is negative; a duration is 0s or longer"
    return f"`{text}` is not a duration; write one such as `250ms`, `2s`, `1m` or `1h30m`"


def _size_advice(text: str) -> str:
    if _BARE_NUMBER.fullmatch(text):
        number = text.lstrip("-+")
        if text.startswith("-"):
            return f"`{text}` is negative and has no unit; write a size such as `16KiB`"
        return f"`{text}` has no unit; write `{number}B` for bytes or `{number}KiB` for units of 1,024"
    match = re.fullmatch(rf"({_NUMBER}) ?([A-Za-z]+)", text)
    if match:
        unit = _OTHER_UNITS.fullmatch(match[2])
        if unit:
            return f"`{text}` is not a size; units are powers of 1,024: write `{match[1]}{unit[1].upper()}iB`"
    return f"`{text}` is not a size; write one such as `512B`, `16KiB` or `1MiB`"
