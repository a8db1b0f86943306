"""Lines of the access log: what each field becomes, and the bounds."""

import ctypes
import json
import mmap
from datetime import UTC, datetime

import pytest

from fastmesh._native.core import _t_access
from fastmesh._native.core._t_access import COMBINED, JSON, NO_UPSTREAM, Rings

TEXT_KEYS = ["listener", "service", "endpoint", "client", "method", "host", "target"]
NUMBER_KEYS = ["bytes_received", "bytes_sent", "duration_ms", "upstream_ms"]
LAST_KEYS = ["request_id", "user_agent", "referer"]
KEYS = ["time", *TEXT_KEYS, "protocol", "status", "error", *NUMBER_KEYS, *LAST_KEYS]

EXCHANGE = {
    "started_us": 1_763_711_111_123_456,
    "duration_us": 1_234_567,
    "upstream_us": 900,
    "bytes_received": 310,
    "bytes_sent": 2**40,
    "status": 200,
    "protocol": 2,
    "listener": b"web",
    "service": b"user",
    "endpoint": b"10.0.0.1:8080",
    "client": b"192.168.1.77",
    "method": b"GET",
    "host": b"shop.example.com",
    "target": b"/user/17?x=1",
    "request_id": b"3f9c1a7e",
    "user_agent": b"curl/8.1",
    "referer": b"https://shop.example.com/",
}


def line(style, **changes):
    rings = Rings(1, 1 << 16)
    assert rings.encode(0, EXCHANGE | changes)
    return rings.formatted(0, style)


def parsed(**changes):
    text = line(JSON, **changes)
    assert text.endswith(b"}\n")
    assert text.count(b"\n") == 1
    return json.loads(text)


def test_json_line():
    assert line(JSON) == (
        b'{"time":"2025-11-21T07:45:11.123456Z","listener":"web","service":"user","endpoint":"10.0.0.1:8080",'
        b'"client":"192.168.1.77","method":"GET","host":"shop.example.com","target":"/user/17?x=1",'
        b'"protocol":"HTTP/1.1","status":200,"error":null,"bytes_received":310,"bytes_sent":1099511627776,'
        b'"duration_ms":1234.567,"upstream_ms":0.900,"request_id":"3f9c1a7e","user_agent":"curl/8.1",'
        b'"referer":"https://shop.example.com/"}\n'
    )


def test_combined_line():
    assert line(COMBINED) == (
        b'192.168.1.77 - - [21/Nov/2025:07:45:11 +0000] "GET /user/17?x=1 HTTP/1.1" 200 1099511627776 '
        b'"https://shop.example.com/" "curl/8.1"\n'
    )


def test_nothing_known_keeps_the_keys():
    nothing = dict.fromkeys(EXCHANGE, 0) | dict.fromkeys(_t_access.FIELDS, b"") | {"upstream_us": NO_UPSTREAM}
    values = parsed(**nothing)
    assert list(values) == KEYS
    without = [*TEXT_KEYS, "status", "error", "upstream_ms", *LAST_KEYS]
    assert [key for key, value in values.items() if value is None] == without
    assert values["protocol"] == "TCP"
    assert line(COMBINED, **nothing) == b'- - - [01/Jan/1970:00:00:00 +0000] "-" - 0 "-" "-"\n'


@pytest.mark.parametrize(("number", "name"), [(0, "TCP"), (1, "HTTP/1.0"), (2, "HTTP/1.1"), (3, "HTTP/2")])
def test_protocols(number, name):
    assert parsed(protocol=number)["protocol"] == name
    assert f' {name}"'.encode() in line(COMBINED, protocol=number)


def test_every_error_has_its_public_name():
    names = {error: _t_access.error_name(error) for error in range(_t_access.ERROR_LIMIT)}
    assert names[30] == "connect_refused"
    for error, name in names.items():
        assert parsed(error=error)["error"] == name
    assert parsed(error=255)["error"] is None


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b'say "hi"', 'say "hi"'),
        (b"back\\slash", "back\\slash"),
        (b"\n\r\t\x00\x1f\x7f", "\n\r\t\x00\x1f\x7f"),
        ("é ü 水 𝄞".encode(), "é ü 水 𝄞"),
        (b"\xe9", "\xe9"),
        (b"a\xc3", "a\xc3"),
        (b"\xc0\xaf", "\xc0\xaf"),
        (b"\xed\xa0\x80", "\xed\xa0\x80"),
        (b"\xf4\x90\x80\x80", "\xf4\x90\x80\x80"),
        (b"\xf0\x9f\x98", "\xf0\x9f\x98"),
        ("\x85".encode(), "\x85"),
        (b"</script>", "</script>"),
    ],
)
def test_json_escapes(raw, text):
    assert parsed(target=raw)["target"] == text


def test_no_control_byte_is_written_as_it_is():
    high = range(0x80, 0xA0)
    raw = bytes(range(0x20)) + b"\x7f" + bytes(high) + "".join(map(chr, high)).encode()
    for style in (JSON, COMBINED):
        written = line(style, user_agent=raw)[:-1].decode()
        assert all(char.isprintable() for char in written)


def test_combined_escapes():
    assert b'"GET /a\\x22b\\x5cc\\x0a\\xff HTTP/1.1"' in line(COMBINED, target=b'/a"b\\c\n\xff')


@pytest.mark.parametrize("field", _t_access.FIELDS)
def test_a_long_field_is_cut_and_named(field):
    most = _t_access.TARGET_MOST if field == "target" else _t_access.FIELD_MOST
    assert parsed(**{field: b"x" * most})[field] == "x" * most
    assert "truncated" not in parsed(**{field: b"x" * most})
    values = parsed(**{field: b"x" * (most + 1)})
    assert values[field] == "x" * most
    assert values["truncated"] == [field]
    assert list(values) == [*KEYS, "truncated"]


def test_a_cut_does_not_halve_a_character():
    for shift in range(4):
        text = "x" * shift + "𝄞" * 100
        cut = parsed(user_agent=text.encode())["user_agent"]
        assert text.startswith(cut)
        assert 256 - 3 <= len(cut.encode()) <= 256
    assert len(parsed(user_agent=b"\x80" * 300)["user_agent"]) == 256


def test_the_longest_line_fits():
    worst = dict.fromkeys(_t_access.FIELDS, b"\x01" * 5000)
    numbers = dict.fromkeys(["started_us", "duration_us", "bytes_received", "bytes_sent"], 2**64 - 1)
    text = line(JSON, **worst, **numbers, upstream_us=2**64 - 2, status=65535, error=26, protocol=2)
    assert json.loads(text)["truncated"] == list(_t_access.FIELDS)
    assert len(text) + 16 <= _t_access.LINE_MOST


@pytest.mark.parametrize(
    "moment",
    [
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2000, 2, 29, 12, 0, 0, 1, tzinfo=UTC),
        datetime(2024, 2, 29, 0, 0, 1, tzinfo=UTC),
        datetime(2024, 3, 1, tzinfo=UTC),
        datetime(2100, 2, 28, 23, 59, 59, tzinfo=UTC),
        datetime(2100, 3, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
    ],
)
def test_dates(moment):
    micros = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // (moment.resolution)
    assert parsed(started_us=micros)["time"] == moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert f"[{moment:%d/%b/%Y:%H:%M:%S} +0000]".encode() in line(COMBINED, started_us=micros)


def test_the_cached_second_is_renewed():
    rings = Rings(1, 1 << 16)
    for micros in (0, 999_999, 1_000_000, 0):
        rings.encode(0, EXCHANGE | {"started_us": micros})
    lines = [json.loads(rings.formatted(0, JSON))["time"][-10:] for _ in range(4)]
    assert lines == ["00.000000Z", "00.999999Z", "01.000000Z", "00.000000Z"]


@pytest.mark.parametrize("value", [0, 9, 10, 99, 100, 12345, 2**32, 2**64 - 1])
def test_decimal(value):
    assert _t_access.decimal(value) == str(value).encode()


def test_digits():
    assert _t_access.digits(1234, 6) == b"001234"
    assert _t_access.digits(1234, 2) == b"34"


@pytest.mark.parametrize("style", [JSON, COMBINED])
def test_no_byte_behind_the_padding_is_read(style):
    """The text ends 15 bytes before a page that may not be read."""
    page = mmap.PAGESIZE
    area = mmap.mmap(-1, 2 * page, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(address + page), ctypes.c_size_t(page), 0) == 0
    try:
        for length in range(1, 70):
            for text in (b"x" * length, b"x" * (length - 1) + b'"', b"\xf0" * length):
                start = page - 15 - length
                area[start : start + length] = text
                plain = _t_access.escaped(memoryview(area)[start:page], length, style)
                assert plain == _t_access.escaped(bytearray(text + b"\0" * 15), length, style)
    finally:
        assert libc.mprotect(ctypes.c_void_p(address + page), ctypes.c_size_t(page), 3) == 0


def test_a_full_ring_drops_the_record():
    rings = Rings(1, 1024)
    put = 0
    while rings.encode(0, EXCHANGE):
        put += 1
    assert put == 5
    assert rings.dropped(0) == 1
    assert all(rings.formatted(0, JSON) for _ in range(put))
    assert rings.formatted(0, JSON) is None


def test_keep_copies_a_range_of_fields():
    size = sum(len(EXCHANGE[name]) for name in _t_access.FIELDS[4:])
    used, fields = _t_access.keep(EXCHANGE, 4, 9, size)
    assert used == size
    assert fields == {name: EXCHANGE[name] for name in _t_access.FIELDS}
    assert _t_access.keep(EXCHANGE, 4, 9, size - 1)[0] == -1


def test_keep_cuts_so_that_the_encoder_still_says_so():
    used, fields = _t_access.keep({"target": b"x" * 9000, "host": b"y" * 256}, 5, 6, 4096)
    assert used == 1025 + 256
    assert fields["target"] == b"x" * 1025
    assert fields["host"] == b"y" * 256
