"""The values that pass between the admin API and the rest."""

import msgspec

from fastmesh.admin.control import ReloadOutcome


def test_an_outcome_leaves_out_what_does_not_apply():
    outcome = ReloadOutcome("unchanged", "2026-01-01T00:00:00.000Z")
    assert msgspec.to_builtins(outcome) == {"result": "unchanged", "at": "2026-01-01T00:00:00.000Z"}
