"""Opening, exchanging and rotating the access log under a writer that only knows one descriptor."""

import os

import pytest

from fastmesh.errors import StartError
from fastmesh.model import AccessLog
from fastmesh.supervisor.accesslog import AccessLogFile, open_log
from support.descriptors import open_descriptors
from support.fake_data_plane import FakeDataPlane


@pytest.fixture
def data_plane():
    data_plane = FakeDataPlane(workers=1, connection_limit=1)
    yield data_plane
    data_plane.stop()


@pytest.fixture
def log():
    return AccessLogFile()


def use(log, data_plane, wanted):
    log.use(wanted, log.open_for(wanted), data_plane)


def write(data_plane, line):
    os.write(data_plane.access_log[0], line)


def test_rotation(log, data_plane, tmp_path):
    path = tmp_path / "access.log"
    use(log, data_plane, AccessLog(str(path), "combined"))
    write(data_plane, b"one\n")
    path.rename(tmp_path / "access.log.1")
    write(data_plane, b"two\n")
    before = open_descriptors(str(tmp_path))
    assert log.reopen(data_plane) == str(path)
    assert len(open_descriptors(str(tmp_path))) == len(before)
    write(data_plane, b"three\n")
    assert data_plane.access_log[1] == "combined"
    assert path.read_text() == "three\n"
    assert (tmp_path / "access.log.1").read_text() == "one\ntwo\n"


def test_a_failed_rotation_leaves_the_old_file_in_use(log, data_plane, tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    use(log, data_plane, AccessLog(str(folder / "a")))
    folder.rename(tmp_path / "gone")
    with pytest.raises(StartError, match=f"create {folder}"):
        log.reopen(data_plane)
    write(data_plane, b"still\n")
    assert (tmp_path / "gone/a").read_text() == "still\n"


def test_changes_of_path_format_and_off(log, data_plane, tmp_path):
    use(log, data_plane, AccessLog(str(tmp_path / "a")))
    use(log, data_plane, AccessLog(str(tmp_path / "b"), "combined"))
    assert data_plane.access_log[1] == "combined"
    write(data_plane, b"x")
    assert (tmp_path / "b").read_text() == "x"
    assert (tmp_path / "a").read_text() == ""
    calls = len(data_plane.calls)
    use(log, data_plane, AccessLog(str(tmp_path / "b"), "combined"))
    assert len(data_plane.calls) == calls  # nothing to tell
    use(log, data_plane, None)
    assert data_plane.access_log == (None, "")
    assert log.reopen(data_plane) is None


def test_stdout_is_not_reopened(log, data_plane):
    use(log, data_plane, AccessLog("stdout"))
    assert os.fstat(data_plane.access_log[0]).st_ino == os.fstat(1).st_ino
    assert log.reopen(data_plane) is None


def test_what_cannot_be_opened_says_what_to_do(tmp_path):
    with pytest.raises(StartError, match="Is a directory"):
        open_log(str(tmp_path))
    with pytest.raises(StartError, match="create "):
        open_log(str(tmp_path / "none" / "a.log"))
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(StartError):  # nobody reads it: no waiting
        open_log(str(tmp_path / "fifo"))
