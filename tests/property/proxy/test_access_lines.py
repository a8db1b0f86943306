"""Whatever bytes a client sends, a line of the access log reads back."""

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from fastmesh._native.core import _t_access
from fastmesh._native.core._t_access import COMBINED, FIELDS, JSON, NO_UPSTREAM, Rings

TEXT = st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace"))
WORD = st.one_of(st.binary(max_size=300), TEXT)
NUMBER = st.integers(0, 2**64 - 1)
EXCHANGES = st.fixed_dictionaries(
    {
        "started_us": st.integers(0, 253_402_300_799_999_999),
        "duration_us": NUMBER,
        "upstream_us": st.one_of(NUMBER, st.just(NO_UPSTREAM)),
        "bytes_received": NUMBER,
        "bytes_sent": NUMBER,
        "status": st.integers(0, 65535),
        "error": st.integers(0, 255),
        "protocol": st.integers(0, 3),
    }
    | dict.fromkeys(FIELDS, WORD)
)
COMBINED_LINE = re.compile(
    rb"(?P<client>\S+) - - \[(?P<time>\d\d/[A-Z][a-z][a-z]/\d{4}:\d\d:\d\d:\d\d \+0000)\] "
    rb'"(?:-|(?P<method>[^"]+?) (?P<target>[^"]*) (?P<protocol>HTTP/[\d.]+|TCP))" '
    rb"(?P<status>\d+|-) (?P<sent>\d+) "
    rb'"(?P<referer>[^"]*)" "(?P<user_agent>[^"]*)"\n'
)


def line(exchange, style):
    rings = Rings(1, 1 << 16)
    assert rings.encode(0, exchange)
    return rings.formatted(0, style)


def as_documented(raw):
    """Well-formed UTF-8 as it is, any other byte as if it were Latin-1."""
    text, at = [], 0
    while at < len(raw):
        for size in (1, 2, 3, 4):
            try:
                text.append(raw[at : at + size].decode("utf-8"))
            except UnicodeDecodeError:
                continue
            break
        else:
            size = 1
            text.append(chr(raw[at]))
        at += size
    return "".join(text)


def cut(raw, most):
    """The longest beginning within the bound that halves no character, if there is one."""
    if len(raw) <= most:
        return raw
    for end in range(most, most - 4, -1):
        if raw[end] & 0xC0 != 0x80:
            return raw[:end]
    return raw[:most]


@given(EXCHANGES)
def test_json_reads_back(exchange):
    text = line(exchange, JSON)
    assert text.index(b"\n") == len(text) - 1
    values = json.loads(text.decode("utf-8", "strict"))
    for field in FIELDS:
        kept = cut(exchange[field], _t_access.TARGET_MOST if field == "target" else _t_access.FIELD_MOST)
        assert values[field] == (as_documented(kept) or None)
        assert (field in values.get("truncated", [])) == (len(exchange[field]) > 256 and field != "target")
    for number in ("bytes_received", "bytes_sent"):
        assert values[number] == exchange[number]
    whole, rest = divmod(exchange["duration_us"], 1000)
    assert f'"duration_ms":{whole}.{rest:03},'.encode() in text
    if exchange["upstream_us"] == NO_UPSTREAM:
        assert values["upstream_ms"] is None
    assert values["status"] == (exchange["status"] or None)


def unescaped(raw):
    if raw == b"-":
        return b""
    return re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes([int(match[1], 16)]), raw)


@given(EXCHANGES)
def test_combined_reads_back(exchange):
    # A space in the client, method or target would be ambiguous; the parser of requests lets none through.
    for field in ("client", "method", "target"):
        exchange[field] = exchange[field].replace(b" ", b"_")
    for field in ("client", "method", "target", "referer", "user_agent"):
        if exchange[field] == b"-":
            exchange[field] = b""
    text = line(exchange, COMBINED)
    match = COMBINED_LINE.fullmatch(text)
    assert match
    for field in ("client", "method", "target", "referer", "user_agent"):
        if field in ("method", "target") and not exchange["method"]:
            assert match[field] is None
            continue
        most = _t_access.TARGET_MOST if field == "target" else _t_access.FIELD_MOST
        assert unescaped(match[field]) == cut(exchange[field], most)
    assert int(match["sent"]) == exchange["bytes_sent"]
