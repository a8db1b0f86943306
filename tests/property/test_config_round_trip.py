"""What is shown of a service loads to the same one, whatever valid values its keys about failures have."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmesh.config import as_public_dict, load

NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=12)
DURATIONS = st.integers(1, 86_400_000).map(lambda ms: f"{ms}ms")
LONG_DURATIONS = st.integers(10, 86_400_000).map(lambda ms: f"{ms}ms")
SHARES = st.integers(100, 10_000).map(lambda share: f"{share / 100}%")
ROWS = st.integers(1, 1000)
COUNTS = st.integers(1, 1_000_000)
CODES = st.integers(200, 599)
RANGES = st.tuples(CODES, CODES).map(lambda pair: f"{min(pair)}-{max(pair)}")
PRINTABLE = st.characters(codec="ascii", categories=["L", "N", "P", "Zs"], exclude_characters="$")
TEXTS = st.text(PRINTABLE, min_size=1)


def or_none(values: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.one_of(st.just("none"), values)


def mapping(**keys: st.SearchStrategy[object]) -> st.SearchStrategy[dict[str, object]]:
    """Some of the keys."""
    return st.fixed_dictionaries({}, optional=keys)


REASONS = st.sampled_from(["connect-failure", "reset", "timeout", "gateway-error", "5xx"])
RETRIES = mapping(
    attempts=st.integers(0, 10),
    budget=or_none(SHARES),
    on=st.lists(st.one_of(REASONS, st.integers(400, 599))),
    per_try=or_none(DURATIONS),
    retry_unsafe=st.booleans(),
)
OUTLIER_DETECTION = st.one_of(
    st.just("off"),
    mapping(
        consecutive_5xx=or_none(ROWS),
        consecutive_gateway_errors=or_none(ROWS),
        success_rate=or_none(SHARES),
        interval=LONG_DURATIONS,
        base_ejection_time=st.integers(1, 30_000).map(lambda ms: f"{ms}ms"),
        max_ejected=SHARES,
    ),
)
LIMITS = mapping(
    connections=or_none(COUNTS),
    requests=or_none(COUNTS),
    queue=st.integers(0, 1_000_000),
    queue_timeout=DURATIONS,
    endpoint=mapping(connections=or_none(COUNTS), requests=or_none(COUNTS)),
)
TIMES = {
    "port": st.integers(1, 65535),
    "interval": LONG_DURATIONS,
    "timeout": DURATIONS,
    "healthy": ROWS,
    "unhealthy": ROWS,
    "panic_threshold": or_none(SHARES),
}
HEALTH = st.one_of(
    st.sampled_from(["off", "tcp", "/healthz"]),
    mapping(**TIMES).map(lambda keys: {"type": "tcp", **keys}),
    mapping(
        path=NAMES.map(lambda name: f"/{name}?{name}"),
        method=st.sampled_from(["GET", "OPTIONS", "POST"]),
        host=st.sampled_from(["a.example", "[::1]:80", "10.0.0.1"]),
        headers=st.dictionaries(NAMES.map(lambda name: f"x-{name}"), TEXTS.map(str.strip)),
        expect=st.one_of(CODES, RANGES, st.lists(st.one_of(CODES, RANGES), min_size=1)),
        body=st.one_of(TEXTS, st.fixed_dictionaries({"regex": st.sampled_from(["^ok", "a|b", r"\\d{3}"])})),
        **TIMES,
    ),
)
SIZES = st.integers(16 << 20, 1 << 40).map(lambda size: f"{size}B")
FILE_LIMITS = mapping(
    body=or_none(SIZES),
    min_rate=or_none(st.integers(1, 1 << 30).map(lambda size: f"{size}B")),
    connections=st.one_of(st.just("auto"), COUNTS),
    memory=st.one_of(st.just("auto"), SIZES),
)
SERVICE = mapping(
    retries=RETRIES,
    outlier_detection=OUTLIER_DETECTION,
    limits=LIMITS,
    slow_start=or_none(DURATIONS),
    health=HEALTH,
    endpoints=st.lists(st.integers(0, 127), max_size=3).map(
        lambda priorities: [
            {"address": f"10.0.0.{number}:80", "priority": priority}
            for number, priority in enumerate(priorities, 1)
        ]
    ),
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config") / "f.yaml"


@settings(max_examples=200, deadline=None)
@given(SERVICE, SERVICE, FILE_LIMITS)
def test_what_is_shown_loads_to_the_same(
    file: Path, service: dict[str, object], defaults: dict[str, object], limits: dict[str, object]
) -> None:
    inherited = {key: value for key, value in defaults.items() if key not in ("endpoints", "health")}
    written = {
        "defaults": inherited,
        "limits": limits,
        "listeners": {"web": {"bind": ":1", "service": "a"}},
        "services": {"a": {"endpoints": [], **service}},
    }
    file.write_text(json.dumps(written))
    first = load(file, env={}).config
    shown = as_public_dict(first)
    file.write_text(json.dumps(shown))
    again = load(file, env={}).config
    assert again.services == first.services
    assert again.limits == first.limits
    assert as_public_dict(again) == shown
