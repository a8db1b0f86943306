"""Reading nodes by kind, and the words of advice."""

from pathlib import Path
from typing import Any

import pytest

from fastmesh.config.kinds import (
    INVALID,
    Boolean,
    ByShape,
    Choice,
    Field,
    Integer,
    Kind,
    ListOf,
    MapOf,
    Section,
    Text,
    all_of,
    did_you_mean,
    duration,
    one_of,
    share,
    size,
)
from fastmesh.config.source import Document, compose


def read(kind: Kind, text: str) -> tuple[Any, list[str]]:
    """What `kind` makes of `key: text`, and the problems with their column."""
    document = Document("f", Path("f"), text)
    compose(document, lambda _document, scalar, _line, _column: scalar)
    assert document.root is not None
    value = kind.read(document.root, "key")
    return value, [f"{problem.column}: {problem.message}" for problem in document.problems]


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("balanse", ["balance", "timeouts"], "did you mean `balance`?"),
        ("Balance", ["balance"], "did you mean `balance`?"),
        ("trusted-proxies", ["trusted_proxies"], "did you mean `trusted_proxies`?"),
        ("x_canary", ["x-canary"], "did you mean `x-canary`?"),
        ("zzz", ["balance"], None),
        ("a", [], None),
    ],
)
def test_did_you_mean(word: str, known: list[str], expected: str | None) -> None:
    assert did_you_mean(word, known) == expected


def test_lists_of_words() -> None:
    assert one_of(["a"]) == "`a`"
    assert one_of(["a", "b", "c"]) == "`a`, `b` or `c`"
    assert all_of(["a", "b", "c"]) == "`a`, `b` and `c`"


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Text("text"), "010", "010"),
        (Text("text"), "on", "on"),
        (Text("text"), "'~'", "~"),
        (Text("text", words={"off": None}), "off", None),
        (Integer(0, 9), "9", 9),
        (Integer(-9, 9), "-3", -3),
        (Integer(0, 9), "+3", 3),
        (Integer(0, 9, {"auto": None}), "auto", None),
        (Boolean(), "TRUE", True),
        (Boolean(), "False", False),
        (duration(), "1m", 60.0),
        (duration(none=True), "none", None),
        (duration(none=float("inf")), "none", float("inf")),
        (size(), "1KiB", 1024),
        (share(), "50%", 0.5),
        (Choice({"a": 1}), "a", 1),
    ],
)
def test_good_values(kind: Kind, text: str, value: object) -> None:
    assert read(kind, text) == (value, [])


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (Text("text"), "[a]", "1: `key` needs text, not a list"),
        (Text("text"), "~", "1: `key` has no value"),
        (Integer(0, 9), "10", "1: `key`: 10 is out of range"),
        (Integer(0, 9), "9" * 50, f"1: `key` needs a whole number from 0 to 9, not `{'9' * 50}`"),
        (Integer(0, 9), "\u0663", "1: `key` needs a whole number from 0 to 9, not `\u0663`"),
        (Boolean(), "on", "1: `key` needs `true` or `false`, not `on`"),
        (Boolean(), "tRUE", "1: `key` needs `true` or `false`, not `tRUE`"),
        (duration(most=60.0), "61s", "1: `key`: `61s` is too large"),
        (size(), "none", "1: `key`: `none` is not possible here"),
        (Choice({"a": 1}, ["b"]), "b", "1: `key`: `b` is not built yet"),
        (Choice({"a": 1}, what="thing"), "c", "1: `key`: there is no thing `c`"),
        (Text("text"), "a" * 70, ""),
    ],
)
def test_bad_values(kind: Kind, text: str, message: str) -> None:
    value, problems = read(kind, text)
    if message:
        assert (value, problems) == (INVALID, [message])
    else:
        assert (value, problems) == (text, [])


def test_a_long_value_is_cut_in_a_message() -> None:
    _, problems = read(Boolean(), "a" * 70)
    assert problems == [f"1: `key` needs `true` or `false`, not `{'a' * 57}…`"]


def test_a_list_leaves_out_what_is_invalid() -> None:
    value, problems = read(ListOf(Integer(0, 9), "numbers"), "[1, x, 3]")
    assert [item for _, item in value] == [1, 3]
    assert problems == ["5: `key` needs a whole number from 0 to 9, not `x`"]


def test_a_single_value_may_stand_for_a_list() -> None:
    kind = ListOf(Integer(0, 9), "a number, or a list of them", single=True, empty=False)
    assert [item for _, item in read(kind, "5")[0]] == [5]
    assert read(kind, "x")[0] is INVALID
    assert read(kind, "[]")[1] == ["1: `key` is an empty list"]
    assert read(kind, "~")[1] == ["1: `key` has no value"]


def test_a_mapping_with_free_names() -> None:
    value, problems = read(MapOf(Integer(0, 9), "numbers by name", key=str.lower), "{B: 1, a: x, b: 2}")
    assert {name: item.value for name, item in value.items()} == {"b": 1, "a": INVALID}
    assert problems == [
        "11: `a` needs a whole number from 0 to 9, not `x`",
        "14: `key`: `b` is set twice",
    ]


SECTION = Section(
    "`{name}`",
    {
        "must": Field(Integer(0, 9), "A number.", required=True),
        "may": Field(Text("text"), "Some text.", default="x", example="y", late=True),
    },
)


def test_a_section_reads_all_it_can() -> None:
    value, problems = read(SECTION, "{may: a, mist: 1}")
    assert value.values == {"may": "a"}
    assert list(value.keys) == ["may", "mist"]
    assert problems == [
        "2: `may` is not in effect yet",
        "10: `key` has no key `mist`",
        "1: `key` needs `must`",
    ]


def test_schemas() -> None:
    variable = {"$ref": "#/$defs/variable"}
    assert SECTION.schema() == {
        "type": "object",
        "properties": {
            "must": {
                "anyOf": [{"type": "integer", "minimum": 0, "maximum": 9}, variable],
                "description": "A number.",
            },
            "may": {
                "type": ["string", "number", "boolean"],
                "description": "Some text. Not in effect yet.",
                "default": "x",
                "examples": ["y"],
            },
        },
        "additionalProperties": False,
        "required": ["must"],
    }
    assert Choice({"a": 1, "b": 2}).schema() == {"anyOf": [{"enum": ["a", "b"]}, variable]}
    both = ByShape("text or numbers", scalar=Text("text"), sequence=ListOf(Boolean(), "flags", empty=False))
    assert both.schema() == {
        "anyOf": [
            {"type": ["string", "number", "boolean"]},
            {"type": "array", "items": Boolean().schema(), "minItems": 1},
        ]
    }
    assert both.label == "text, or list of: `true` or `false`"


def test_a_value_by_its_shape() -> None:
    both = ByShape("text, or a list of flags", scalar=Text("text"), sequence=ListOf(Boolean(), "flags"))
    assert read(both, "x") == ("x", [])
    assert [item for _, item in read(both, "[true]")[0]] == [True]
    assert read(both, "{}") == (INVALID, ["1: `key` needs text, or a list of flags, not a mapping"])
