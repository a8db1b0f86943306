"""Composing YAML: places, anchors, merge keys, and the bounds of what is expanded."""

import time
from pathlib import Path

import pytest

from fastmesh.config import load
from fastmesh.config.source import Document, compose, plain_value
from fastmesh.errors import ConfigError
from support.config_folder import MINIMAL, Folder


def test_anchors_and_merge_keys(folder: Folder) -> None:
    config = folder.load("""
listeners: {web: {bind: ":1", service: a}}
services:
  a: &a {endpoints: [&first 10.0.0.1:80], balance: random, send_proxy: v1}
  b: {<<: *a, send_proxy: v2}
  c: {<<: [{endpoints: [*first]}, *a]}
""").config
    a, b, c = (config.services[name] for name in "abc")
    assert b.endpoints == c.endpoints == a.endpoints
    assert (b.balance, b.send_proxy) == (a.balance, "v2")
    assert (c.balance, c.send_proxy) == (a.balance, "v1")


def test_billion_laughs_stops_early(folder: Folder) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    started = time.process_time()
    errors = folder.errors("\n".join(lines) + MINIMAL)
    assert errors == ["fastmesh.yaml:5:45: aliases expand to more than 100,000 values in all"]
    assert time.process_time() - started < 2


def test_deep_nesting_is_refused(folder: Folder) -> None:
    errors = folder.errors("log: " + "[" * 100_000 + "]" * 100_000 + MINIMAL)
    assert errors == ["fastmesh.yaml:1:69: values are nested more than 64 deep"]


def test_unreadable_files(folder: Folder) -> None:
    with pytest.raises(ConfigError) as caught:
        load(folder.path / "nope.yaml")
    assert str(caught.value) == f"{folder.path}/nope.yaml: the file does not exist; check the path"
    assert caught.value.files == (folder.path / "nope.yaml",)
    with pytest.raises(ConfigError, match="this is a folder; name a file in it"):
        load(folder.path)
    (folder.path / "latin").write_bytes(b"admin: off # \xe9\n")
    with pytest.raises(ConfigError, match="latin:1:14: the file is not UTF-8 text here; save it as UTF-8"):
        load(folder.path / "latin")


def test_a_byte_order_mark_is_no_character(folder: Folder) -> None:
    (folder.path / "bom").write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode())
    assert load(folder.path / "bom").config.services.keys() == {"user"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("no", "no"),
        ("010", 10),
        ("8080:53", "8080:53"),
        ("0o17", 15),
        ("0x1F", 31),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("'5'", "5"),
        ("~", None),
        ("True", True),
        ("FALSE", False),
        ("!!str 5", "5"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("[a, {b: 1}]", ["a", {"b": 1}]),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    document = Document("f", Path("f"), text)
    compose(document, lambda _document, scalar, _line, _column: scalar)
    assert document.problems == []
    assert document.root is not None
    assert plain_value(document.root) == value
    assert type(plain_value(document.root)) is type(value)


def test_a_message_is_one_printable_line(folder: Folder) -> None:
    assert folder.errors('"a\\nb\\e[31m\\u202e": 1' + MINIMAL)[0].startswith(
        "fastmesh.yaml:1:1: the file has no key `a\\nb\\x1b[31m\\u202e`; the keys here are"
    )
