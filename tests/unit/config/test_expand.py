"""Variables and secret files in values."""

from pathlib import Path

import pytest

from fastmesh.config.expand import Expander
from fastmesh.config.source import Document
from fastmesh.model import (
    Bind,
    Respond,
)
from support.config_folder import MINIMAL, Folder


def test_variables_are_expanded_after_parsing(folder: Folder) -> None:
    folder.write("10.9.9.9:80\n", "secrets/endpoint")
    (folder.path / "services.d").mkdir()
    loaded = folder.load(
        """
workers: ${WORKERS}
registry: ${UNSET:-}${UNSET:-services.d}
listeners:
  web: {bind: "${HOST}:8080", routes: [{respond: {status: 200, body: "$$5 ${EVIL}"}}]}
services:
  user: {endpoints: ["${file:secrets/endpoint}", "a:1"]}
""",
        WORKERS="2",
        HOST="127.0.0.1",
        EVIL="x\n}}, other: {",
    )
    config = loaded.config
    assert config.workers == 2
    assert config.registry == "services.d"
    assert config.listeners["web"].binds == (Bind("inet", "127.0.0.1", 8080),)
    respond = config.listeners["web"].routes[0].action
    assert respond == Respond(200, b"$5 x\n}}, other: {")
    assert config.services["user"].endpoints[0].address.text == "10.9.9.9:80"
    assert config.secrets.texts == ("10.9.9.9:80",)
    assert "10.9.9.9" not in repr(config.secrets)
    assert loaded.files == (
        folder.path / "fastmesh.yaml",
        folder.path / "services.d",
        folder.path / "secrets/endpoint",
    )


def test_a_quoted_variable_stays_text(folder: Folder) -> None:
    assert folder.errors('workers: "${N}"' + MINIMAL, N="2") == [
        'fastmesh.yaml:1:10: `workers` needs a number, and quotes make `"2"` text; remove the quotes'
    ]


def test_a_secret_is_never_part_of_a_message(folder: Folder) -> None:
    folder.write("hunter2", "token")
    assert folder.errors("workers: ${file:token}" + MINIMAL) == [
        "fastmesh.yaml:1:10: `workers` needs a whole number from 1 to 1,024, or `auto`, not `***`"
    ]


def expand(text: str, **env: str) -> tuple[str | None, list[str]]:
    """What a scalar becomes, and the problems."""
    document = Document("f", Path("/nowhere/f"))
    return Expander(env)(document, text, 0, 0), [problem.message for problem in document.problems]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${A}", "1"),
        ("x${A}y${A}z", "x1y1z"),
        ("$A $", "$A $"),
        ("$$", "$"),
        ("$${A}", "${A}"),
        ("$$${A}", "$1"),
        ("${EMPTY}", ""),
        ("${EMPTY:-x}", "x"),
        ("${NOPE:-}", ""),
        ("${NOPE:-a:-b}", "a:-b"),
        ("${NOPE:-{x}}", "{x}"),
        ("${A:-x}", "1"),
        ("${A:?needed}", "1"),
        ("${TRICK}", "${A}"),
    ],
)
def test_references(text: str, expected: str) -> None:
    assert expand(text, A="1", EMPTY="", TRICK="${A}") == (expected, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${NOPE}", "the environment variable `NOPE` is not set"),
        ("${EMPTY:?say it}", "the environment variable `EMPTY` is not set: say it"),
        ("${NOPE:?}", "the environment variable `NOPE` is not set: it is needed"),
        ("${}", "`${}` is not a reference"),
        ("${A-x}", "`${A-x}` is not a reference"),
        ("${A", "`${A`: `${` has no closing `}`"),
        ("${BAD}", "the environment variable `BAD` is not UTF-8 text"),
        ("${file:nope}", "`${file:nope}`: the file does not exist"),
        ("${file:/}", "`${file:/}`: this is a folder"),
        ("${file:/a\0b}", "`${file:/a\\x00b}`: the path has a NUL character"),
    ],
)
def test_broken_references(text: str, message: str) -> None:
    assert expand(text, A="1", EMPTY="", BAD="\udcff") == (None, [message])


def test_what_a_secret_file_holds(tmp_path: Path) -> None:
    document = Document("f", tmp_path / "f")
    expander = Expander({})
    for name, raw, expected in [
        ("unix", b"a b\n", "a b"),
        ("dos", b"a\r\n", "a"),
        ("two", b"a\n\n", "a\n"),
        ("none", b"", ""),
    ]:
        (tmp_path / name).write_bytes(raw)
        assert expander(document, f"${{file:{name}}}", 0, 0) == expected
    assert expander.secrets == ["a b", "a", "a\n", ""]
    assert expander.files == [tmp_path / name for name in ("unix", "dos", "two", "none")]
    (tmp_path / "binary").write_bytes(b"\xff")
    (tmp_path / "large").write_bytes(b"x" * (1 << 20) + b"x")
    assert expander(document, "${file:binary}", 0, 0) is None
    assert expander(document, "${file:large}", 0, 0) is None
    assert [problem.message for problem in document.problems] == [
        "`${file:binary}`: the file is not UTF-8 text",
        "`${file:large}`: the file is larger than 1 MiB",
    ]
