"""What the tests of reloads share."""

import logging

import pytest

from support.keeper_rig import Rig


@pytest.fixture
def rig(tmp_path, monkeypatch, caplog):
    # What `set_up` does would take the records away from caplog.
    monkeypatch.setattr("fastmesh.observability.logs.set_up", lambda *_: None)
    caplog.set_level(logging.INFO, logger="fastmesh")
    rig = Rig(tmp_path)
    yield rig
    rig.data_plane.stop()
