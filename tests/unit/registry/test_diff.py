"""Each change in words."""

# ruff: noqa: E501 (one line for each case reads best)

from pathlib import Path

import pytest

from fastmesh.config import load
from fastmesh.registry import changes

BASE = """
listeners:
  web: {bind: ":80", routes: [{path: /a, service: a}, {path: /b, methods: GET, service: {a: 1, b: 2}}]}
  db: {bind: ":81", protocol: tcp, service: a}
services:
  a: {endpoints: ["10.0.0.1:80", "10.0.0.2:80"]}
  b: {endpoints: []}
"""


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        ([], []),
        ([("listeners:", "ready_timeout: 1m\nlisteners:")], ["ready_timeout 10s -> 1m"]),
        ([('"10.0.0.2:80"', '"10.0.0.2:80", "10.0.0.3:80"')], ["service a: endpoint 10.0.0.3:80 added"]),
        ([(', "10.0.0.2:80"', "")], ["service a: endpoint 10.0.0.2:80 removed"]),
        (
            [('"10.0.0.2:80"', '{address: "10.0.0.2:80", weight: 3, labels: {zone: b}}')],
            [
                "service a: endpoint 10.0.0.2:80: weight 1 -> 3",
                "service a: endpoint 10.0.0.2:80: labels.zone set to b",
            ],
        ),
        ([("[]", '[{address: "x:1", weight: 5}]')], ["service b: endpoint x:1 added with weight 5"]),
        ([("[]", '[{address: "x:1", priority: 1}]')], ["service b: endpoint x:1 added with priority 1"]),
        ([("[]", '[{address: "x:1", weight: 5, priority: 1}]')], ["service b: endpoint x:1 added with weight 5 and priority 1"]),
        ([('"10.0.0.2:80"', '{address: "10.0.0.2:80", drain: true}')], ["endpoint 10.0.0.2:80 of service a drains"]),
        (
            [('"10.0.0.2:80"', '{address: "10.0.0.2:80", drain: true, weight: 2}')],
            ["endpoint 10.0.0.2:80 of service a drains", "service a: endpoint 10.0.0.2:80: weight 1 -> 2"],
        ),
        ([("[]", '[{address: "x:1", drain: true}]')], ["service b: endpoint x:1 added, draining"]),
        ([("[]", '[{address: "x:1", drain: true, weight: 5}]')], ["service b: endpoint x:1 added with weight 5, draining"]),
        ([("[]}", "[], drain: true}"), ("protocol: tcp", "protocol: tcp, drain: true")], ["listener db drains", "service b drains"]),
        ([("  b: {", "  c: {endpoints: [], drain: true}\n  b: {")], ["service c added with 0 endpoints, draining"]),
        ([('"10.0.0.2:80"', '{address: "10.0.0.2:80", priority: 7}')], ["service a: endpoint 10.0.0.2:80: priority 0 -> 7"]),
        (
            [("[]}", "[], retries: {on: [reset, 5xx]}, outlier_detection: {consecutive_5xx: none}, limits: {endpoint: {requests: 9}}, slow_start: 1m}")],
            [
                "service b: retries.on [connect-failure, reset, 503] -> [reset, 5xx]",
                "service b: outlier_detection.consecutive_5xx 5 -> none",
                "service b: limits.endpoint.requests none -> 9",
                "service b: slow_start none -> 1m",
            ],
        ),
        (
            [("[]}", "[], outlier_detection: off, health: tcp}")],
            [
                "service b: outlier_detection {consecutive_5xx: 5, consecutive_gateway_errors: 3, success_rate: 10%, interval: 5s, base_ejection_time: 1s, max_ejection_time: 30s, max_ejected: 50%} -> off",
                "service b: health off -> {type: tcp, interval: 2s, timeout: 1s, healthy: 2, unhealthy: 3, panic_threshold: none}",
            ],
        ),
        ([('"10.0.0.1:80", "10.0.0.2:80"', '"10.0.0.2:80", "10.0.0.1:80"')], ["service a: the order of endpoints changed"]),
        (
            [("[]}", "[], balance: {policy: maglev, bounded_load: 125%}, timeouts: {connect: 50ms}}")],
            [
                "service b: balance.policy least_request -> maglev",
                "service b: balance.key set to [source_ip]",
                "service b: balance.bounded_load set to 125%",
                "service b: balance.table_size set to 65537",
                "service b: timeouts.connect 1s -> 50ms",
            ],
        ),
        (
            [("services:", "services:\n  c: {endpoints: ['x:1']}\n  d: {endpoints: []}")],
            ["service c added with 1 endpoint", "service d added with 0 endpoints"],
        ),
        ([("\n  b: {endpoints: []}", ""), ("{a: 1, b: 2}", "a")], ["listener web: route GET /b -> a*1 + b*2: service {a: 1, b: 2} -> a", "service b removed"]),
        ([('":80"', '[":80", "unix:/run/x"]')], ["listener web: bind unix:/run/x added"]),
        ([('":80"', '"0.0.0.0:80"')], ["listener web: bind 0.0.0.0:80 added", "listener web: bind :80 removed"]),
        ([('\n  db: {bind: ":81", protocol: tcp, service: a}', "")], ["listener db removed"]),
        ([("services:", "  x: {bind: ':82', service: b}\nservices:")], ["listener x added on :82"]),
        (
            [("services:", "  x: {bind: ':82', intercept: outbound, services: [b]}\nservices:")],
            ["listener x added on :82", "listener x/b added within x", "service passthrough added with 1 endpoint"],
        ),
        ([("tcp, service: a", "tcp, service: b")], ["listener db: service a -> b"]),
        (
            [('":80",', '":80", upgrade: [], forwarded: {host: false},')],
            ["listener web: forwarded.host true -> false", "listener web: upgrade [websocket] -> []"],
        ),
        ([("{path: /a, service: a}, ", "")], ["listener web: route /a -> a removed"]),
        (
            [("{path: /a, service: a}", "{path: /a, service: a}, {path: {exact: /c}, hosts: x, redirect: {to: /d}}")],
            ["listener web: route x=/c -> 308 /d added"],
        ),
        ([("{path: /a, service: a}", "{path: /a, service: a, timeout: 1s}")], ["listener web: route /a -> a: timeout set to 1s"]),
        (
            [("{path: /a, service: a}, {path: /b, methods: GET, service: {a: 1, b: 2}}", "{path: /b, methods: GET, service: {a: 1, b: 2}}, {path: /a, service: a}")],
            ["listener web: the order of routes changed"],
        ),
        (
            [("listeners:", "workers: 2\nlimits: {body: 1MiB}\ntrusted_proxies: [10.0.0.0/8]\nlisteners:")],
            ["workers auto -> 2", "trusted_proxies [] -> [10.0.0.0/8]", "limits.body none -> 1MiB"],
        ),
        (
            [("listeners:", "admin: {bind: '127.0.0.1:9400', token: hush}\nlisteners:")],
            ["admin 127.0.0.1:9400 -> {bind: 127.0.0.1:9400, token: ***}", "admin.token changed"],
        ),
    ],
)  # fmt: skip
def test_changes(edits: list[tuple[str, str]], expected: list[str], tmp_path: Path) -> None:
    text = BASE
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    before, after = tmp_path / "before.yaml", tmp_path / "after.yaml"
    before.write_text(BASE)
    after.write_text(text)
    old_config, new_config = load(before).config, load(after).config
    assert list(changes(old_config, new_config)) == expected
    assert bool(changes(new_config, old_config)) == bool(expected)


def test_the_end_of_a_drain(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(BASE)
    serving = load(file).config
    file.write_text(
        BASE.replace("[]}", "[], drain: true}")
        .replace("protocol: tcp", "protocol: tcp, drain: true")
        .replace('"10.0.0.2:80"', '{address: "10.0.0.2:80", drain: true}')
    )
    assert changes(load(file).config, serving) == (
        "listener db drains no more",
        "endpoint 10.0.0.2:80 of service a drains no more",
        "service b drains no more",
    )


def test_secrets_do_not_show(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(BASE.replace('"10.0.0.1:80"', '"${file:host}:80"'))
    configs = []
    for host in ("first.example", "other.example"):
        (tmp_path / "host").write_text(host)
        configs.append(load(file).config)
    lines = changes(configs[0], configs[1])
    assert lines == (
        "service a: endpoint ***:80 added",
        "service a: endpoint ***:80 removed",
    )


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(BASE)
    before = load(file).config
    file.write_text(BASE.replace("[]", "[" + ", ".join(f"'10.1.0.{n}:80'" for n in range(250)) + "]"))
    lines = changes(before, load(file).config)
    assert len(lines) == 101
    assert lines[-1] == "and 150 changes more"
