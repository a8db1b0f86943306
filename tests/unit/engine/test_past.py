import time

import pytest

from fastmesh.engine import past
from fastmesh.engine.numbering import Slots
from fastmesh.engine.past import Past, tell
from fastmesh.model.told import Checked, Passive, Told

KEY = ("s", "10.0.0.1:80")
OUT = Passive(out=1, out_ms=5000, ejections=1, ejected_ago_ms=100, ejected_for_ms=5100, reason=30)


class Engine:
    def __init__(self):
        self.slots = {}

    def slot_resume(self, index, told):
        self.slots[index] = told

    def slot_tell(self, index):
        return self.slots.get(index)


def test_what_is_told_comes_back(monkeypatch):
    """Older by the time that the start took."""
    engine = Engine()
    began = time.monotonic()
    known = Past([Told(*KEY, passive=OUT), Told("s", "10.0.0.2:80", checked=Checked("healthy", 1.0))])
    monkeypatch.setattr(past.time, "monotonic", lambda: began + 2)
    assert known.resume(engine, KEY, 7)
    assert not known.resume(engine, ("s", "10.0.0.2:80"), 8), "its requests said nothing"
    assert not known.resume(engine, ("t", KEY[1]), 9)
    slots = Slots()
    slots.of[KEY] = type("Slot", (), {"index": 7})()
    slots.of["s", "10.0.0.9:80"] = type("Slot", (), {"index": 9})()
    (told,) = tell(engine, slots)
    assert (told.service, told.address) == KEY
    assert told.passive.out_ms == pytest.approx(3000, abs=100)
    assert told.passive.ejected_ago_ms == pytest.approx(2100, abs=100)
    assert told.passive.reason == 30


def test_it_is_forgotten_once():
    engine = Engine()
    known = Past([Told(*KEY, passive=OUT)])
    assert known.forget()
    assert not known.forget()
    assert not known.resume(engine, KEY, 7)
    assert not Past(()).forget()
