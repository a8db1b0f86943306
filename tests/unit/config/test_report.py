"""Problems as text with carets, and as JSON."""

import json

from fastmesh.config import render_json, render_text
from fastmesh.config.report import count
from fastmesh.errors import Problem

MISSPELT = Problem(
    file="f.yaml",
    line=4,
    column=5,
    message="service `user` has no key `balanse`",
    suggestion="did you mean `balance`?",
    source_line="    balanse: maglev",
)
LATER = Problem(
    file="f.yaml",
    line=12345,
    column=1,
    message="`queue` has no effect",
    severity="warning",
    source_line="queue: 5",
)
WHOLE = Problem(file="f.yaml", line=0, column=0, message="the file is empty", suggestion="write something")


def test_text() -> None:
    assert render_text([MISSPELT, LATER, WHOLE]) == (
        "f.yaml:4:5: service `user` has no key `balanse`\n"
        "    4 |     balanse: maglev\n"
        "      |     ^ did you mean `balance`?\n"
        "f.yaml:12345:1: warning: `queue` has no effect\n"
        "12345 | queue: 5\n"
        "      | ^\n"
        "f.yaml: the file is empty; write something\n"
        "2 errors, 1 warning\n"
    )


def test_nothing_to_say() -> None:
    assert render_text([]) == ""
    assert count([]) == "no problems"


def test_a_long_line_is_cut_around_the_place() -> None:
    line = "a" * 200 + "HERE" + "b" * 200
    text = render_text([Problem(file="f", line=1, column=201, message="m", source_line=line)])
    _, source, caret, _ = text.splitlines()
    assert source == "    1 | …" + "a" * 50 + "HERE" + "b" * 46 + "…"
    assert source[caret.index("^")] == "H"


def test_the_caret_stands_right_after_wide_and_unprintable_characters() -> None:
    text = render_text([Problem(file="f", line=1, column=4, message="m", source_line="日\te\u0301x")])
    _, source, caret, _ = text.splitlines()
    assert source == "    1 | 日 e\u0301x"
    assert caret == "      |     ^"  # two columns, one for the tab, one for e


def test_json() -> None:
    report = json.loads(render_json([MISSPELT, LATER]))
    assert report["valid"] is False
    assert report["problems"][0] == {
        "file": "f.yaml",
        "line": 4,
        "column": 5,
        "message": "service `user` has no key `balanse`",
        "suggestion": "did you mean `balance`?",
        "severity": "error",
        "source_line": "    balanse: maglev",
    }
    assert json.loads(render_json([LATER]))["valid"] is True
