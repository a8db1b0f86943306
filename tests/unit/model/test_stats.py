"""The few things that statistics work out themselves."""

from fastmesh.model.stats import OverloadStats, ResourceStats


def test_the_share_of_a_limit() -> None:
    assert ResourceStats("memory", 30, 40).share == 0.75
    assert ResourceStats("memory", 30, 0).share == 0.0


def test_what_presses_hardest_is_the_level_of_all() -> None:
    levels = (ResourceStats("connections", 1, 2, 1), ResourceStats("memory", 1, 1, 2))
    assert OverloadStats(levels).level == 2
    assert OverloadStats(levels[:1]).level == 1
    assert OverloadStats().level == 0
