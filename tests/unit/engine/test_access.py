import os
import threading

from fastmesh.engine.access import AccessWriter


class Engine:
    """Its writer thread runs until it is stopped, and notes what it was told."""

    def __init__(self):
        self.said = []
        self.fd = -1
        self._stopped = threading.Event()

    def enable_access_log(self, on):
        self.said.append(on)

    def set_access_log(self, fd, style):
        self.fd = fd
        self.said.append(style)

    def set_access_format(self, style):
        self.said.append(style)

    def run_access_writer(self):
        self._stopped.wait(10)
        self.said.append("stopped")

    def stop_access_writer(self):
        self._stopped.set()


def test_files_take_turns_at_one_descriptor(tmp_path):
    engine = Engine()
    writer = AccessWriter(engine)
    first, second = (os.open(tmp_path / name, os.O_WRONLY | os.O_CREAT) for name in "ab")
    writer.write_to(first, "json")
    os.write(engine.fd, b"1")
    writer.write_to(second, "combined")
    os.write(engine.fd, b"2")
    writer.write_to(None, "")
    os.close(first)
    os.close(second)
    assert not os.get_inheritable(engine.fd)
    writer.stop()
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes()) == (b"1", b"2")
    assert engine.said == ["json", True, "combined", True, False, "stopped"]
    try:
        os.fstat(engine.fd)
    except OSError:
        return
    raise AssertionError("its duplicate stays open")


def test_without_a_file_there_is_no_thread():
    engine = Engine()
    writer = AccessWriter(engine)
    writer.write_to(None, "")
    writer.stop()
    assert engine.said == [False]
