"""Who answers worse than its peers, by counters alone."""

import random

import pytest

from fastmesh.health.outliers import LEAST_REQUESTS, Counts, Detector
from fastmesh.model import OutlierDetection

SETTINGS = {"s": OutlierDetection()}


class Watch:
    """One detector over service ``s``, whose counters start anywhere."""

    def __init__(self, **settings):
        self.settings = {"s": OutlierDetection(**settings)}
        self.detector = Detector()
        self.totals = {}
        self.now = 1000.0

    def interval(self, **answers):
        """{address: why} after an interval in which each endpoint had so many (requests, failures)."""
        for address in answers:
            self.totals.setdefault(address, (77, 5))
        if self.detector.due(self.settings) == float("-inf"):
            assert self.look() == {}
        for address, (requests, failures) in answers.items():
            before = self.totals[address]
            self.totals[address] = (before[0] + requests, before[1] + failures)
        self.now += self.settings["s"].interval
        return self.look()

    def look(self):
        counts = [Counts("s", address, *total) for address, total in self.totals.items()]
        return {o.address: o.why for o in self.detector.look(self.now, self.settings, counts)}


def test_one_that_is_worse_than_its_peers():
    found = Watch().interval(a=(240, 168), b=(1000, 10), c=(1000, 0))
    assert found == {"a": "30 % of 240 answers were good, of its 2 peers 99 %"}


def test_with_one_peer():
    assert Watch().interval(a=(1200, 1200), b=(100, 0)) == {
        "a": "0 % of 1,200 answers were good, of its peer 100 %"
    }


def test_all_alike_are_no_outliers_however_bad():
    assert Watch().interval(a=(1000, 1000), b=(1000, 1000)) == {}
    assert Watch().interval(a=(1000, 500), b=(1000, 510), c=(1000, 495)) == {}
    assert Watch().interval(a=(1000, 0), b=(1000, 0)) == {}


def test_one_alone_has_no_peers():
    assert Watch().interval(a=(1000, 1000)) == {}
    assert Watch().interval(a=(1000, 1000), b=(0, 0)) == {}


def test_two_of_three():
    assert set(Watch().interval(a=(500, 500), b=(500, 450), c=(500, 0))) == {"a", "b"}


def test_the_difference_that_is_allowed():
    answers = {"a": (10_000, 900), "b": (10_000, 0)}
    assert Watch().interval(**answers) == {}
    assert "a" in Watch(success_rate=0.05).interval(**answers)
    assert Watch(success_rate=None).interval(**answers) == {}


@pytest.mark.parametrize("count", [LEAST_REQUESTS - 1, LEAST_REQUESTS])
def test_few_answers_say_nothing_on_either_side(count):
    enough = count >= LEAST_REQUESTS
    assert ("a" in Watch().interval(a=(count, count), b=(1000, 0))) == enough
    assert ("a" in Watch().interval(a=(1000, 1000), b=(count, 0))) == enough


def test_what_chance_explains_is_no_outlier():
    assert Watch().interval(a=(20, 3), b=(20, 0)) == {}  # z is 1.8
    assert Watch().interval(a=(30, 8), b=(40, 3)) == {}


def test_chance_alone_ejects_nobody():
    """Ten equal endpoints at 5 % failures, for some hours of intervals."""
    chance = random.Random(4)
    watch = Watch(success_rate=0.0)
    for _ in range(2000):
        answers = {name: (100, sum(chance.random() < 0.05 for _ in range(100))) for name in "abcdefghij"}
        found = watch.interval(**answers)
        assert len(found) == 0 or watch.now > 2000, found
    assert watch.now > 10_000


def test_nothing_is_said_before_the_interval_ends():
    watch = Watch(interval=5.0)
    watch.interval(a=(100, 0), b=(100, 0))
    assert watch.detector.due(watch.settings) == watch.now + 5
    watch.totals["a"] = (1000, 900)
    watch.totals["b"] = (1000, 5)
    watch.now += 4.9
    assert watch.look() == {}
    watch.now += 0.1
    assert set(watch.look()) == {"a"}
    assert watch.look() == {}, "said twice of one interval"


def test_each_interval_stands_for_itself():
    watch = Watch()
    assert "a" in watch.interval(a=(100, 100), b=(100, 0))
    assert watch.interval(a=(100, 0), b=(100, 0)) == {}
    assert "b" in watch.interval(a=(100, 0), b=(100, 100))


def test_a_new_endpoint_counts_from_its_second_interval():
    watch = Watch()
    watch.interval(a=(100, 0), b=(100, 0))
    watch.totals["c"] = (500, 500)
    assert watch.interval(a=(100, 0), b=(100, 0)) == {}
    assert set(watch.interval(a=(100, 0), b=(100, 0), c=(100, 100))) == {"c"}


def test_counters_that_begin_anew_are_not_compared():
    watch = Watch()
    watch.interval(a=(1000, 0), b=(1000, 0))
    watch.totals["a"] = (60, 60)
    assert watch.interval(b=(1000, 0)) == {}
    assert set(watch.interval(a=(60, 60), b=(1000, 0))) == {"a"}


def test_more_failures_than_requests():
    """Attempts that never became a request, and those that began in the interval before."""
    assert Watch().interval(a=(0, 50), b=(100, 0)) == {"a": "0 % of 50 answers were good, of its peer 100 %"}


def test_services_have_intervals_of_their_own():
    detector = Detector()
    settings = {"quick": OutlierDetection(interval=1), "slow": OutlierDetection(interval=10)}
    assert detector.due(settings) == float("-inf")
    start = [Counts(name, address, 0, 0) for name in settings for address in "ab"]
    assert detector.look(0.0, settings, start) == []
    assert detector.due(settings) == 1.0
    later = [Counts(name, "a", 100, 100) for name in settings] + [Counts(n, "b", 100, 0) for n in settings]
    assert [o.service for o in detector.look(1.0, settings, later)] == ["quick"]
    assert detector.due(settings) == 2.0
    assert [o.service for o in detector.look(10.0, settings, later)] == ["slow"]
    assert detector.due({}) is None
    assert detector.due({"s": OutlierDetection(success_rate=None)}) is None


def test_a_service_that_goes_is_forgotten():
    detector = Detector()
    detector.look(0.0, SETTINGS, [])
    detector.look(1.0, {}, [])
    assert detector.due(SETTINGS) == float("-inf")


def test_hundred_percent_is_said_only_of_all():
    found = Watch().interval(a=(1000, 999), b=(100_000, 1))
    assert found == {"a": "0 % of 1,000 answers were good, of its peer 99 %"}
