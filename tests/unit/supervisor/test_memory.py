"""Memory goes back to the system."""

import gc

from fastmesh.supervisor.memory import give_back


class Cycle:
    def __init__(self):
        self.me = self


def test_cycles_are_collected():
    gc.disable()
    try:
        Cycle()
        give_back()
        assert not [item for item in gc.get_objects() if isinstance(item, Cycle)]
    finally:
        gc.enable()
