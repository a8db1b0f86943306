"""Start failures as a user sees them."""

import logging
import socket

import pytest

from fastmesh.observability import logs
from fastmesh.supervisor.drain import Exit
from fastmesh.supervisor.main import run
from support.fake_data_plane import FakeDataPlane


@pytest.fixture(autouse=True)
def _untouched_logging():
    logger = logging.getLogger(logs.ROOT_LOGGER)
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.level, logger.propagate = before[0], before[1], before[2]


def test_an_invalid_file_is_shown_as_validate_shows_it(tmp_path, capsys):
    file = tmp_path / "fastmesh.yaml"
    file.write_text("listeners:\n  web: {bind: ':0', routes: {/: a}}\nservces: {}\n")
    assert run(str(file), FakeDataPlane) == Exit.FAILED
    written = capsys.readouterr().err
    assert f"{file}:3:1: " in written
    assert "services" in written
    assert "^" in written
    assert "Traceback" not in written


def test_a_missing_file(tmp_path, capsys):
    assert run(str(tmp_path / "none.yaml"), FakeDataPlane) == Exit.FAILED
    assert "none.yaml" in capsys.readouterr().err


def test_a_port_in_use(tmp_path, capsys):
    file = tmp_path / "fastmesh.yaml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file.write_text(
            f"admin: off\nlisteners:\n  web: {{bind: '127.0.0.1:{port}', routes: {{/: a}}}}\n"
            "services:\n  a: {endpoints: [127.0.0.1:1]}\n"
        )
        assert run(str(file), FakeDataPlane) == Exit.FAILED
    written = capsys.readouterr().err
    assert "fastmesh cannot start:\n" in written
    assert f"127.0.0.1:{port} is in use" in written
    assert "Traceback" not in written
