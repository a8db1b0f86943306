"""Rings and Maglev tables equal those of gRPC and Envoy (recipes beside the vectors in ``balancing/``)."""

import json
from pathlib import Path

import pytest

from fastmesh._native.lb._t_lb import Block, Slots, State, xxh64

VECTORS = Path(__file__).parent / "balancing"
RINGS = json.loads((VECTORS / "grpc_ring.json").read_text())["cases"]
PICKS = json.loads((VECTORS / "envoy_picks.json").read_text())["cases"]
POLICIES = {"ring_hash": 3, "maglev": 4}


@pytest.mark.parametrize("case", RINGS, ids=[f"{len(case['names'])} endpoints" for case in RINGS])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_ring_equals_the_one_of_grpc_whatever_the_order_of_endpoints(case, backwards):
    members = list(range(len(case["names"])))
    if backwards:
        members.reverse()
    weights = [case["weights"][k] for k in members]
    block = Block(POLICIES["ring_hash"], Slots(case["names"]), members, weights, ring_size=case["ring_size"])
    assert [f"{point:016x} {slot}" for point, slot in block.ring()] == case["points"]


@pytest.mark.parametrize("case", PICKS, ids=[f"{case['policy']} {case['weights']}" for case in PICKS])
def test_a_key_goes_where_envoy_sends_it(case):
    members = list(range(len(case["names"])))
    block = Block(POLICIES[case["policy"]], Slots(case["names"]), members, case["weights"])
    state = State(1)
    state.adopt(block)
    picks = [state.pick(block, key=xxh64(f"key-{k}".encode())) for k in range(len(case["picks"]))]
    assert "".join(map(str, picks)) == case["picks"]
