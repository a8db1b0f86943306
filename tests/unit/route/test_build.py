"""What the builder of route tables takes and refuses."""

import pytest

from fastmesh._native.route._t_route import Table


@pytest.mark.parametrize(
    "bad",
    [
        (0, b"user", (), (), (), 0),
        (0, b"", (), (), (), 0),
        (2, b"/user", (), (), (), 0),
        (0, b"/", (), (b"",), (), 0),
        (0, b"/", (), (b"*.",), (), 0),
        (0, b"/", (), (b"*",), (), 0),
        (0, b"/", (), (b"a.*.b",), (), 0),
        (0, b"/", (), (b"x" * 256,), (), 0),
    ],
    ids=str,
)
def test_what_cannot_be_a_route_is_refused(bad):
    with pytest.raises(ValueError, match="route 1"):
        Table([(0, b"/ok", (), (), (), 0), bad])


@pytest.mark.parametrize("action", [-1, 2**32])
def test_an_action_is_a_word(action):
    with pytest.raises(OverflowError):
        Table([(0, b"/", (), (), (), action)])


def test_actions_and_lengths_are_kept():
    table = Table(
        [(0, b"/user/", (), (), (), 7), (1, b"/user/", (), (), (), 2**32 - 1), (0, b"/", (), (), (), 0)]
    )
    assert [table.action(k) for k in range(3)] == [7, 2**32 - 1, 0]
    assert [table.path_len(k) for k in range(3)] == [5, 6, 0]


def test_a_host_named_twice_counts_once():
    table = Table([(0, b"/", (), (b"a.x", b"A.x.", b"a.x"), (), 0)])
    assert table.match(b"GET", b"a.x", b"/") == 0
