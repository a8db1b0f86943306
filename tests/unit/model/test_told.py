import msgspec
import pytest

from fastmesh.model.told import Checked, Passive, Told

OUT = Passive(out=1, out_ms=800, ejections=2, ejected_ago_ms=1200, ejected_for_ms=2000, reason=30)


@pytest.mark.parametrize(("ms", "left"), [(0, 800), (300, 500), (800, 0), (5000, 0)])
def test_time_goes_on_while_it_is_told(ms, left):
    later = OUT.later(ms)
    assert later == Passive(
        out=1, out_ms=left, ejections=2, ejected_ago_ms=1200 + ms, ejected_for_ms=2000, reason=30
    )


def test_a_slow_start_grows_older():
    assert Passive(ramp_ms=9000, ramp_ago_ms=4000).later(500) == Passive(ramp_ms=9000, ramp_ago_ms=4500)


def test_what_did_not_happen_is_not_any_time_ago():
    assert Passive(bad_5xx=3).later(500) == Passive(bad_5xx=3)


def test_ages_stay_numbers_of_the_native_half():
    assert Passive(ejections=1, ejected_ago_ms=2**32 - 10).later(500).ejected_ago_ms == 2**32 - 1


def test_it_travels_as_json_and_of_another_version_too():
    told = Told("s", "10.0.0.1:80", passive=OUT, checked=Checked("unhealthy", 3.5, 2, False, "answered 500"))
    assert msgspec.json.decode(msgspec.json.encode(told), type=Told) == told
    newer = b'{"service": "s", "address": "a", "passive": {"out": 1, "mood": "bad"}, "colour": 7}'
    assert msgspec.json.decode(newer, type=Told) == Told("s", "a", passive=Passive(out=1))


@pytest.mark.parametrize("value", ["-1", "4294967296", '"x"', "1.5"])
def test_a_number_that_the_native_half_cannot_hold_is_refused(value):
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(f'{{"bad_5xx": {value}}}', type=Passive)
