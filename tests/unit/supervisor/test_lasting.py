"""What is kept from one control plane to the next."""

import os
import signal

from fastmesh.supervisor import lasting
from fastmesh.supervisor.lasting import Lasting
from support.fake_data_plane import FakeDataPlane


def test_a_signal_between_two_control_planes_reaches_the_next():
    kept = Lasting()
    got = []
    before = signal.getsignal(signal.SIGTERM)
    with kept.signals_kept((signal.SIGTERM,)):
        os.kill(os.getpid(), signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
        assert got == []
        kept.raise_missed()
        assert got == [signal.SIGTERM]
        kept.raise_missed()
        assert got == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) == before


def test_what_never_served_leaks_nothing(caplog):
    kept = Lasting()
    kept.stop()
    kept.data_plane = plane = FakeDataPlane(workers=1, connection_limit=1)
    plane.leaks = 3
    kept.stop()
    assert plane.calls == ["stop"]
    assert not caplog.text
    kept.serving = True
    kept.stop()
    assert "leaked: {'connection': 3}" in caplog.text


def test_leaks_are_logged(caplog):
    data_plane = FakeDataPlane(workers=1, connection_limit=1)
    lasting.report_leaks(data_plane)
    assert not caplog.text
    data_plane.leaks = 3
    lasting.report_leaks(data_plane)
    assert "leaked: {'connection': 3}" in caplog.text
