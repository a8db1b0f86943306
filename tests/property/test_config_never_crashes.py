"""Whatever a file holds, `load` gives a configuration or a ConfigError whose problems point into it."""

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fastmesh.config import as_public_dict, load, render_json, render_text
from fastmesh.errors import ConfigError

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
TEXTS = [file.read_text().replace("./services.d", ".") for file in EXAMPLES]
# What a slip of the fingers, or someone who means harm, may put anywhere.
SCRAPS = [
    "", " ", "\n", "\t", ":", "- ", "{", "}", "[", "]", ",", "'", '"', "&a ", "*a", "<<: *a", "!!str ", "!x ",
    "# ", "---\n", "${X}", "${file:/dev/null}", "${", "$$", "${X:-", "none", "null", "~", "0", "-1", "1e999",
    "9" * 40, "é", "\u2028", "\x00", "\x85", "\ufeff", "|\n", ">-\n", "? ", "%YAML 1.2\n", "yes", "5s", "20%",
    "unix:", "[::1]:80", "\ud7ff", "@", "`",
]  # fmt: skip


def judge(raw: bytes, folder: Path) -> None:
    """Load `raw`; whatever comes of it must be well formed."""
    file = folder / "f.yml.txt"  # a name that the registry folder `.` does not take in
    file.write_bytes(raw)
    refused: ConfigError | None = None
    try:
        as_public_dict(load(file, env={"X": "a: {b"}).config)
    except ConfigError as error:
        refused = error
    if refused is not None:
        assert any(problem.severity == "error" for problem in refused.problems)
        lines = raw.decode("utf-8", "replace").splitlines()
        for problem in refused.problems:
            assert problem.line == problem.column == 0 or problem.column >= 1
            assert problem.line <= len(lines) + 1
            assert problem.message
        assert render_text(refused.problems)
        render_json(refused.problems)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config")


SLOW = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@SLOW
@given(
    st.sampled_from(TEXTS),
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from(SCRAPS), st.integers(0, 12)), max_size=4),
)
def test_mutated_examples(folder: Path, text: str, edits: list[tuple[float, str, int]]) -> None:
    for place, scrap, removed in edits:
        at = int(place * len(text))
        text = text[:at] + scrap + text[at + removed :]
    judge(text.encode("utf-8", "surrogatepass"), folder)


@SLOW
@given(st.sampled_from(TEXTS), st.randoms(use_true_random=False))
def test_shuffled_lines(folder: Path, text: str, chance: random.Random) -> None:
    lines = text.splitlines()
    for _ in range(3):
        one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
        lines[one], lines[other] = lines[other], lines[one]
    judge("\n".join(lines).encode(), folder)


@SLOW
@given(st.binary(max_size=200))
@example(b"\xff\xfea\x00")
@example(b"[" * 5000)
@example(b"{a: &a [*a]}")
@example(b"- " * 5000)
@example(b"a: *a\n<<: *b")
@example(b"listeners: ${X}")
@example(b"!!map {a: b}")
@example(b"!!int x")
def test_any_bytes(folder: Path, raw: bytes) -> None:
    judge(raw, folder)


NODES = st.recursive(
    st.sampled_from(
        ["web", "user", "5s", "1", "true", "null", "/a", ":80", "*.x", "10.0.0.1:80", "${X}", "'1'"]
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(
            st.sampled_from(["bind", "routes", "service", "path", "exact", "user", "endpoints", "x"]),
            inner,
            max_size=3,
        ).map(lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs.items()) + "}"),
    ),
    max_leaves=12,
)


FAILURE_KEYS = [
    "retries", "on", "per_try", "outlier_detection", "base_ejection_time", "max_ejection_time", "limits",
    "queue", "endpoint", "requests", "slow_start", "health", "type", "path", "method", "headers", "expect",
    "body", "regex", "priority", "x",
]  # fmt: skip
FAILURE_VALUES = [
    "tcp", "off", "none", "HEAD", "/h", "5s", "1m", "30%", "503", "-1", "5xx", "reset", "200-299", "9-1",
    "'200'", "'('", "null", "true", "é", "'${X}'",
]  # fmt: skip
FAILURE_NODES = st.recursive(
    st.sampled_from(FAILURE_VALUES),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(st.sampled_from(FAILURE_KEYS), inner, max_size=4).map(
            lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs.items()) + "}"
        ),
    ),
    max_leaves=12,
)


@SLOW
@given(*[st.dictionaries(st.sampled_from(FAILURE_KEYS), FAILURE_NODES, max_size=5)] * 2)
def test_any_shape_of_the_keys_about_failures(
    folder: Path, service: dict[str, str], defaults: dict[str, str]
) -> None:
    keys = "".join(f", {key}: {value}" for key, value in service.items())
    inherited = ", ".join(f"{key}: {value}" for key, value in defaults.items())
    text = f"""
listeners: {{web: {{bind: ":1", service: user}}}}
defaults: {{{inherited}}}
services: {{user: {{endpoints: []{keys}}}}}
"""
    judge(text.encode(), folder)


SECTIONS = [
    "admin", "workers", "registry", "trusted_proxies", "drain", "access_log", "log", "limits", "defaults",
    "listeners", "services",
]  # fmt: skip


@SLOW
@given(st.dictionaries(st.sampled_from(SECTIONS), NODES, max_size=6))
def test_any_shape_under_known_keys(folder: Path, sections: dict[str, str]) -> None:
    text = "\n".join(f"{key}: {value.replace('${X}', '0')}" for key, value in sections.items())
    judge(text.encode(), folder)
