"""From the data plane's counters to ejections, on a clock that jumps."""

import logging

import msgspec
import pytest
import trio
import trio.testing

from fastmesh.model import Address, Config, Endpoint, OutlierDetection, Service
from fastmesh.supervisor.outliers import eject_outliers
from support.fake_data_plane import FakeDataPlane

BAD, GOOD = "10.0.0.1:80", "10.0.0.2:80"


class Counting(FakeDataPlane):
    """Each look finds 100 requests more of each endpoint; those of the first failed, one way or another."""

    def __init__(self):
        super().__init__(workers=1, connection_limit=1)
        self.looks = []

    def stats(self):
        self.looks.append(trio.current_time())
        count = 100 * len(self.looks)
        stats = super().stats()
        endpoints = tuple(
            msgspec.structs.replace(item, requests=count, answers_5xx=count - 30, failures=30)
            if item.address == BAD
            else msgspec.structs.replace(item, requests=count)
            for item in stats.endpoints
        )
        return msgspec.structs.replace(stats, endpoints=endpoints)


@pytest.fixture
def data_plane(monkeypatch):
    async def directly(run, *arguments):
        """The clock would jump while a thread is at work."""
        return run(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", directly)
    return Counting()


def run(data_plane, seconds, detection, change=None):
    endpoints = (Endpoint(Address("inet", "10.0.0.1", 80)), Endpoint(Address("inet", "10.0.0.2", 80)))

    def config(setting):
        data_plane.config = Config({}, {"s": Service("s", endpoints, outlier_detection=setting)})
        return data_plane.config

    in_force = [config(detection)]

    async def main():
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(eject_outliers, data_plane, lambda: in_force[0])
                if change is not None:
                    await trio.sleep(seconds / 2)
                    in_force[0] = config(change)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_an_outlier_is_ejected_with_the_reason(data_plane, caplog):
    caplog.set_level(logging.INFO, logger="fastmesh.health")
    run(data_plane, 7, OutlierDetection(interval=5.0))
    why = "0 % of 100 answers were good, of its peer 100 %"
    assert data_plane.ejected == [("s", BAD)]
    assert caplog.messages == [f"service s: endpoint {BAD} is worse than its peers: {why}"]


def test_what_may_not_be_ejected_is_not_said_to_be(data_plane, caplog):
    data_plane.may_eject = False
    run(data_plane, 7, OutlierDetection())
    assert len(data_plane.ejected) == 1
    assert not caplog.messages


def test_counters_are_read_once_an_interval(data_plane):
    run(data_plane, 31, OutlierDetection(interval=10.0))
    assert data_plane.looks == pytest.approx([0, 10, 20, 30], abs=0.1)


@pytest.mark.parametrize("detection", [None, OutlierDetection(success_rate=None)])
def test_nothing_is_read_when_nobody_wants_it(data_plane, detection):
    run(data_plane, 60, detection)
    assert data_plane.looks == []


def test_a_change_of_the_configuration_is_noticed(data_plane):
    run(data_plane, 40, None, OutlierDetection(interval=5.0))
    assert 20 <= data_plane.looks[0] <= 25.5
    assert data_plane.ejected
