"""Which route a request gets."""

import time

import pytest

from fastmesh._native.route._t_route import Table

PREFIX, EXACT = 0, 1


def route(path=b"/", kind=PREFIX, methods=(), hosts=(), headers=(), action=0):
    return kind, path, methods, hosts, headers, action


def matched(routes, path=b"/", method=b"GET", host=b"example.com", fields=()):
    return Table(routes).match(method, host, path, list(fields))


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        (b"/user", b"/user", True),
        (b"/user", b"/user/", True),
        (b"/user", b"/user/1", True),
        (b"/user", b"/users", False),
        (b"/user", b"/use", False),
        (b"/user", b"/User", False),
        (b"/user", b"//user", False),
        (b"/user", b"/user//1", True),
        (b"/user", b"/a/user", False),
        (b"/user/", b"/user", True),
        (b"/user/", b"/users", False),
        (b"/user/1", b"/user/1/2", True),
        (b"/user/1", b"/user/12", False),
        (b"/user/1", b"/user", False),
        (b"/", b"/", True),
        (b"/", b"/any/thing", True),
        (b"/", b"*", True),
        (b"/", b"example.com:443", True),
        (b"/", b"", True),
        (b"/user", b"*", False),
        (b"/user", b"user", False),
        (b"/a%20b", b"/a%20b/c", True),
        (b"/a%20b", b"/a b/c", False),
    ],
)
def test_a_prefix_fits_by_element(pattern, path, fits):
    assert matched([route(pattern)], path) == (0 if fits else -1)


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        (b"/order", b"/order", True),
        (b"/order", b"/order/", False),
        (b"/order", b"/order/1", False),
        (b"/order", b"/orde", False),
        (b"/order/", b"/order/", True),
        (b"/order/", b"/order", False),
        (b"/", b"/", True),
        (b"/", b"/a", False),
        (b"/", b"*", False),
        (b"/", b"", False),
    ],
)
def test_an_exact_path_fits_itself_only(pattern, path, fits):
    assert matched([route(pattern, EXACT)], path) == (0 if fits else -1)


def test_the_first_route_wins_however_special_a_later_one_is():
    routes = [route(b"/a"), route(b"/a/b"), route(b"/a/b", EXACT), route(b"/")]
    assert matched(routes, b"/a/b") == 0
    assert matched(routes[1:], b"/a/b") == 0
    assert matched(routes[2:], b"/a/b") == 0
    assert matched(list(reversed(routes)), b"/a/b") == 0
    assert matched([route(b"/x"), *routes], b"/other") == 4


def test_a_route_below_one_that_fits_everything_is_never_reached():
    table = Table([route(b"/a"), route(b"/"), route(b"/b")])
    assert table.match(b"GET", b"", b"/b") == 1
    assert table.match(b"GET", b"", b"/a") == 0


def test_an_empty_table_matches_nothing():
    assert matched([]) == -1


@pytest.mark.parametrize(
    ("methods", "method", "fits"),
    [
        ((b"GET", b"POST"), b"GET", True),
        ((b"GET", b"POST"), b"POST", True),
        ((b"GET", b"POST"), b"PUT", False),
        ((b"GET",), b"get", False),
        ((b"GET",), b"GETS", False),
        ((b"PURGE",), b"PURGE", True),
        ((b"PURGE",), b"PURGF", False),
        ((b"PURGE", b"GET"), b"GET", True),
        ((b"LOCK",), b"POST", False),
        *(((name,), name, True) for name in b"GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH".split()),
    ],
)
def test_methods(methods, method, fits):
    assert matched([route(methods=methods)], method=method) == (0 if fits else -1)


@pytest.mark.parametrize(
    ("pattern", "host", "fits"),
    [
        (b"shop.example.com", b"shop.example.com", True),
        (b"shop.example.com", b"SHOP.Example.com:8080", True),
        (b"shop.example.com", b"shop.example.com.", True),
        (b"shop.example.com", b"shop.example.com.:80", True),
        (b"Shop.Example.Com", b"shop.example.com", True),
        (b"shop.example.com", b"a.shop.example.com", False),
        (b"shop.example.com", b"shop.example.co", False),
        (b"shop.example.com", b"", False),
        (b"*.shop.example.com", b"a.shop.example.com", True),
        (b"*.shop.example.com", b"b.a.shop.example.com:1", True),
        (b"*.shop.example.com", b"shop.example.com", False),
        (b"*.shop.example.com", b".shop.example.com", False),
        (b"*.shop.example.com", b"ashop.example.com", False),
        (b"*.shop.example.com", b"a.shop.example.com.evil.org", False),
        (b"[::1]", b"[::1]:8080", True),
        (b"[::1]", b"[::2]:8080", False),
        (b"10.0.0.1", b"10.0.0.1:80", True),
        (b"example.com", b"x" * 300, False),
    ],
)
def test_hosts(pattern, host, fits):
    assert matched([route(hosts=(pattern,))], host=host) == (0 if fits else -1)


def test_any_of_the_hosts_is_enough_and_order_decides_between_exact_and_wildcard():
    routes = [route(hosts=(b"a.x", b"b.x")), route(hosts=(b"*.x",)), route(hosts=(b"c.x",)), route()]
    assert [matched(routes, host=host) for host in (b"a.x", b"b.x", b"c.x", b"d.c.x", b"y")] == [
        0,
        0,
        1,
        1,
        3,
    ]


@pytest.mark.parametrize(
    ("fields", "fits"),
    [
        ([(b"X-Canary", b"yes")], True),
        ([(b"x-canary", b"Yes")], False),
        ([(b"x-canary", b"yes ")], False),
        ([(b"x-canary2", b"yes")], False),
        ([(b"x-canary", b"no"), (b"other", b""), (b"X-CANARY", b"yes")], True),
        ([], False),
    ],
)
def test_a_header_fits_when_any_of_its_lines_equals(fields, fits):
    assert matched([route(headers=((b"x-Canary", b"yes"),))], fields=fields) == (0 if fits else -1)


def test_names_differ_by_more_than_the_bit_of_case():
    assert matched([route(headers=((b"x_a", b"1"),))], fields=[(b"x\x7fa", b"1")]) == -1
    assert matched([route(headers=((b"x@a", b"1"),))], fields=[(b"x`a", b"1")]) == -1


def test_an_empty_value_is_a_value():
    routes = [route(headers=((b"x-a", b""),))]
    assert matched(routes, fields=[(b"x-a", b"")]) == 0
    assert matched(routes, fields=[(b"x-a", b"1")]) == -1


def test_all_conditions_must_hold():
    routes = [route(b"/a", methods=(b"GET",), hosts=(b"h",), headers=((b"x", b"1"), (b"y", b"2")))]
    both = [(b"x", b"1"), (b"y", b"2")]
    assert matched(routes, b"/a", host=b"h", fields=both) == 0
    assert matched(routes, b"/b", host=b"h", fields=both) == -1
    assert matched(routes, b"/a", host=b"i", fields=both) == -1
    assert matched(routes, b"/a", host=b"h", fields=both[:1]) == -1
    assert matched(routes, b"/a", b"PUT", b"h", both) == -1


def test_a_thousand_routes_are_all_found():
    routes = [route(b"/svc%d/v1" % k, hosts=(b"h%d.example.com" % (k % 10),), action=k) for k in range(1000)]
    table = Table(routes)
    for k in range(1000):
        assert table.match(b"GET", b"h%d.example.com" % (k % 10), b"/svc%d/v1/items" % k) == k
        assert table.match(b"GET", b"h%d.example.com" % (k % 10 + 1), b"/svc%d/v1/items" % k) == -1


@pytest.mark.parametrize("by", ["path", "host"])
def test_the_cost_does_not_follow_the_number_of_routes(by):
    def cost(count):
        routes = [
            route(b"/svc%d" % k) if by == "path" else route(hosts=(b"h%d.example.com" % k,))
            for k in range(count)
        ]
        table = Table(routes)
        best = float("inf")
        for _ in range(5):
            start = time.perf_counter()
            table.match(b"GET", b"h%d.example.com" % (count - 1), b"/svc%d" % (count - 1), repeat=20_000)
            best = min(best, time.perf_counter() - start)
        return best

    assert cost(2000) < 8 * cost(10)


def test_a_deep_path_costs_no_more_than_the_deepest_pattern():
    table = Table([route(b"/a")])
    assert table.match(b"GET", b"", b"/a" * 4000) == 0
    assert table.match(b"GET", b"", b"/" * 8000) == -1


def test_many_labels_in_a_host_are_safe():
    routes = [route(hosts=(b"*" + b".a" * labels,)) for labels in range(1, 120)]
    assert matched(routes, host=b".".join([b"a"] * 127)) == 0
    assert matched(list(reversed(routes)), host=b".".join([b"a"] * 127)) == 0
