"""Opening, exchanging and rotating the access log under a writer that only knows one descriptor."""

import os

import pytest

from fastmesh.errors import StartError
from fastmesh.model import AccessLog
from fastmesh.supervisor.accesslog import AccessLogFile, open_log
from support.fake_data_plane import FakeDataPlane


@pytest.fixture
def data_plane():
    return FakeDataPlane(workers=1, connection_limit=1)


@pytest.fixture
def log():
    log = AccessLogFile()
    yield log
    log.close()


def use(log, data_plane, wanted):
    log.use(wanted, log.open_for(wanted), data_plane)


def test_rotation_keeps_the_descriptor(log, data_plane, tmp_path):
    path = tmp_path / "access.log"
    use(log, data_plane, AccessLog(str(path)))
    fd, form = data_plane.access_log
    assert form == "json"
    os.write(fd, b"one\n")
    path.rename(tmp_path / "access.log.1")
    os.write(fd, b"two\n")
    assert log.reopen() == str(path)
    os.write(fd, b"three\n")
    assert path.read_text() == "three\n"
    assert (tmp_path / "access.log.1").read_text() == "one\ntwo\n"
    assert data_plane.calls == ["set_access_log"]
    assert not os.get_inheritable(fd)


def test_a_failed_rotation_leaves_the_old_file_in_use(log, data_plane, tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    use(log, data_plane, AccessLog(str(folder / "a")))
    fd, _ = data_plane.access_log
    folder.rename(tmp_path / "gone")
    with pytest.raises(StartError, match=f"create {folder}"):
        log.reopen()
    os.write(fd, b"still\n")
    assert (tmp_path / "gone/a").read_text() == "still\n"


def test_changes_of_path_format_and_off(log, data_plane, tmp_path):
    use(log, data_plane, AccessLog(str(tmp_path / "a")))
    fd, _ = data_plane.access_log
    use(log, data_plane, AccessLog(str(tmp_path / "b"), "combined"))
    assert data_plane.access_log == (fd, "combined")
    os.write(fd, b"x")
    assert (tmp_path / "b").read_text() == "x"
    assert (tmp_path / "a").read_text() == ""
    calls = len(data_plane.calls)
    use(log, data_plane, AccessLog(str(tmp_path / "b"), "combined"))
    assert len(data_plane.calls) == calls  # nothing to tell
    use(log, data_plane, None)
    assert data_plane.access_log == (None, "")
    assert log.reopen() is None


def test_stdout_is_not_reopened(log, data_plane):
    use(log, data_plane, AccessLog("stdout"))
    fd, _ = data_plane.access_log
    assert os.fstat(fd).st_ino == os.fstat(1).st_ino
    assert log.reopen() is None


def test_what_cannot_be_opened_says_what_to_do(tmp_path):
    with pytest.raises(StartError, match="Is a directory"):
        open_log(str(tmp_path))
    with pytest.raises(StartError, match="create "):
        open_log(str(tmp_path / "none" / "a.log"))
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(StartError):  # nobody reads it: no waiting
        open_log(str(tmp_path / "fifo"))
