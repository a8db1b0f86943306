"""The indexed matcher finds the same route as the slow reference, for any table and any request."""

import sys
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from fastmesh._native.route._t_route import Table

sys.path.insert(0, str(Path(__file__).parent.parent / "oracle"))

import reference_routes as reference

elements = st.sampled_from([b"a", b"b", b"ab", b"abc", b"", b"longer-than-eight-bytes"])
paths = st.lists(elements, max_size=5).map(lambda parts: b"/" + b"/".join(parts))
targets = st.one_of(paths, paths, paths, st.sampled_from([b"*", b"", b"shop.example.com:443"]))
methods = st.sampled_from(
    [b"GET", b"POST", b"get", b"PURGE", b"OPTIONS", b"DELETE", b"PATCH", b"CONNECT", b"X"]
)
names = st.sampled_from(
    [b"x.example.com", b"a.x.example.com", b"example.com", b"com", b"localhost", b"[::1]"]
)
ports = st.sampled_from([b"", b".", b":80", b".:80"])
request_hosts = st.tuples(names, ports, st.booleans()).map(
    lambda made: made[0].upper() + made[1] if made[2] else made[0] + made[1]
)
host_patterns = st.one_of(
    names,
    st.sampled_from([b"*.example.com", b"*.Com", b"X.example.com", b"*.x.example.com", b"example.com."]),
)
header_names = st.sampled_from([b"x-a", b"X-A", b"x-b"])
header_values = st.sampled_from([b"", b"1", b"yes", b"Yes"])
headers = st.lists(st.tuples(header_names, header_values), max_size=2)
routes = st.tuples(
    st.sampled_from([reference.PREFIX, reference.PREFIX, reference.EXACT]),
    paths,
    st.lists(methods, max_size=2).map(tuple),
    st.lists(host_patterns, max_size=2).map(tuple),
    st.one_of(st.just(()), headers.map(tuple)),
    st.integers(0, 2**32 - 1),
)
requests = st.tuples(methods, st.one_of(request_hosts, st.just(b""), st.just(b"x" * 300)), targets, headers)


@settings(max_examples=400, deadline=None)
@given(st.lists(routes, max_size=12), st.lists(requests, min_size=1, max_size=8))
def test_same_route_as_the_reference(table_routes, asked):
    table = Table(table_routes)
    for method, host, path, fields in asked:
        expected = reference.match(table_routes, method, host, path, fields)
        assert table.match(method, host, path, fields) == expected
        if expected >= 0:
            assert table.action(expected) == table_routes[expected][5]


@settings(max_examples=15, deadline=None)
@given(st.lists(routes, min_size=6, max_size=12), st.lists(requests, min_size=20, max_size=20), st.randoms())
def test_same_route_in_large_tables(seeds, asked, chaos):
    table_routes = []
    for _ in range(300):
        parts = [chaos.choice(seeds) for _ in range(6)]
        table_routes.append(tuple(part[k] for k, part in enumerate(parts)))
    table = Table(table_routes)
    for method, host, path, fields in asked:
        assert table.match(method, host, path, fields) == reference.match(
            table_routes, method, host, path, fields
        )
