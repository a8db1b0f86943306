"""Start failures as a user sees them."""

import logging
import os
import signal
import socket

import pytest
import trio

from fastmesh.observability import logs
from fastmesh.supervisor import app
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


GOOD = """\
admin: off
drain: {timeout: 1s}
listeners: {web: {bind: '127.0.0.1:0', routes: {/: a}}}
services: {a: {endpoints: [127.0.0.1:1]}}
"""


def test_trio_itself_fails_and_the_data_plane_stays(tmp_path, capsys, monkeypatch):
    """Nothing is unwound then, which is the worst that can happen to a control plane."""
    monkeypatch.setattr(app, "RESTART_SECONDS", 0.01)
    file = tmp_path / "fastmesh.yaml"
    file.write_text(GOOD)
    planes = []

    class Breaking(FakeDataPlane):
        times = 0

        def tend(self):
            self.times += 1
            if self.times == 1:
                trio.lowlevel.current_trio_token().run_sync_soon(lambda: 1 / 0)
            elif self.times == 2:  # a further one would force the end, on a slow machine
                os.kill(os.getpid(), signal.SIGTERM)
            return ()

    def build(**settings):
        planes.append(Breaking(**settings))
        return planes[-1]

    before = signal.getsignal(signal.SIGTERM)
    assert run(str(file), build) == Exit.DONE
    assert signal.getsignal(signal.SIGTERM) == before
    (plane,) = planes
    assert plane.calls.count("start") == plane.calls.count("stop") == 1
    assert plane.calls[-1] == "stop"
    written = capsys.readouterr().err
    assert written.count("the control plane failed; traffic goes on") == 1
    assert "ZeroDivisionError" in written
    assert "SIGTERM: draining" in written


def test_what_fails_while_it_drains_is_not_started_again(tmp_path, capsys):
    file = tmp_path / "fastmesh.yaml"
    file.write_text(GOOD)
    planes = []

    class Stubborn(FakeDataPlane):
        def tend(self):
            os.kill(os.getpid(), signal.SIGTERM)
            return ()

        def close_listeners(self):
            raise RuntimeError("made to fail")

    def build(**settings):
        planes.append(Stubborn(**settings))
        return planes[-1]

    with pytest.raises(ExceptionGroup):
        run(str(file), build)
    assert planes[0].calls[-1] == "stop"
    assert "starts again" not in capsys.readouterr().err
