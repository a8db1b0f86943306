"""The last good answer stays, until there has been none for a while."""

from fastmesh.discovery.answers import Hosts
from fastmesh.discovery.kept import HOLD_SECONDS, KeptHosts

GONE = Hosts(missing="there is no such name")
LOST = Hosts(failed="no answer")


def test_no_answer_keeps_the_last_good_one_for_ever() -> None:
    kept = KeptHosts()
    kept.take(Hosts(("10.0.0.1",), 5.0), 0.0)
    for now in (1.0, 1000.0, 1e9):
        kept.take(LOST, now)
        assert (kept.items, kept.error) == (("10.0.0.1",), "no answer")
    kept.take(Hosts(("10.0.0.2",), 5.0), 1e9)
    assert (kept.items, kept.error) == (("10.0.0.2",), "")


def test_that_there_is_none_counts_after_a_while() -> None:
    kept = KeptHosts(("10.0.0.1",))
    assert kept.given_up_at() is None
    kept.take(GONE, 100.0)
    assert kept.given_up_at() == 100.0 + HOLD_SECONDS
    kept.take(LOST, 100.0 + HOLD_SECONDS + 1)  # who does not know has no say
    assert kept.items == ("10.0.0.1",)
    kept.take(Hosts(("10.0.0.1",)), 200.0)
    kept.take(GONE, 201.0)  # the time begins anew
    kept.take(GONE, 200.9 + HOLD_SECONDS)
    assert kept.items == ("10.0.0.1",)
    kept.take(GONE, 201.0 + HOLD_SECONDS)
    assert kept.items == ()
    assert kept.given_up_at() is None
    assert kept.error == "there is no such name"


def test_a_family_that_nobody_knows_of_stays() -> None:
    kept = KeptHosts(("10.0.0.1", "2001:db8::1"))
    kept.take(Hosts(("10.0.0.2",), 5.0, unknown="inet6"), 0.0)
    assert kept.items == ("10.0.0.2", "2001:db8::1")
    kept.take(Hosts(("2001:db8::2",), 5.0, unknown="inet"), 0.0)
    assert kept.items == ("10.0.0.2", "2001:db8::2")
    kept.take(Hosts(("10.0.0.3",), 5.0), 0.0)
    assert kept.items == ("10.0.0.3",)
