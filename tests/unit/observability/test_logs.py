"""Log lines as text and JSON."""

import json
import logging

import pytest

from fastmesh.observability import logs


@pytest.fixture(autouse=True)
def _untouched_logging():
    logger = logging.getLogger(logs.ROOT_LOGGER)
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.level, logger.propagate = before[0], before[1], before[2]


def test_text(capsys):
    logs.set_up("info", "text")
    logging.getLogger("fastmesh.x").warning("hello %s", "you", extra={"fields": {"port": 80}})
    line = capsys.readouterr().err
    assert line.endswith(" warning fastmesh.x: hello you port=80\n")
    assert line[10] == "T"
    assert line[23] == "Z"


def test_json(capsys):
    logs.set_up("info", "json")
    logging.getLogger("fastmesh.x").error("two\nlines", extra={"fields": {"port": 80, "message": "not this"}})
    entry = json.loads(capsys.readouterr().err)
    assert entry["level"] == "error"
    assert entry["logger"] == "fastmesh.x"
    assert entry["message"] == "two\nlines"
    assert entry["port"] == 80
    assert entry["time"].endswith("Z")


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_exception_is_shown(capsys, form):
    logs.set_up("info", form)
    try:
        raise KeyError("gone")
    except KeyError:
        logging.getLogger("fastmesh").exception("it failed")
    written = capsys.readouterr().err
    assert "it failed" in written
    assert "KeyError: 'gone'" in (json.loads(written)["exception"] if form == "json" else written)


def test_what_a_peer_sends_can_not_forge_a_line(capsys):
    logs.set_up()
    logging.getLogger("fastmesh").info("path %s", "/\n2026-01-01 error fake\x1b[2J")
    written = capsys.readouterr().err
    lines = written.splitlines()
    assert lines[1].startswith("    ")
    assert "\x1b" not in written


def test_the_level_holds_and_set_up_replaces(capsys):
    logs.set_up("warning", "text")
    logs.set_up("error", "text")
    logging.getLogger("fastmesh").warning("quiet")
    logging.getLogger("fastmesh").error("loud")
    assert capsys.readouterr().err.count("\n") == 1


def test_timestamps_are_utc_with_milliseconds():
    assert logs.timestamp(0.5) == "1970-01-01T00:00:00.500Z"
