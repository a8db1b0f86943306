"""Services: endpoints, inheritance, policies, and joining by name over files."""

import pytest

from fastmesh.model import (
    Address,
    Balance,
    Endpoint,
    HashKey,
    Retries,
    Timeouts,
    Upstream,
)
from support.config_folder import MINIMAL, Folder


def test_services_inherit_defaults_key_by_key(folder: Folder) -> None:
    config = folder.load("""
defaults:
  timeouts: {connect: 250ms, response: none}
  upstream: {keepalive: 7}
  balance: round_robin
listeners: {web: {bind: ":1", service: a}}
services:
  a: {endpoints: [], timeouts: {response: 3s}, balance: {policy: maglev}}
  b: {endpoints: [], timeouts: {idle: none}, upstream: {idle: 1m, max_age: 1h}, retries: {attempts: 0}}
""").config
    a, b = config.services["a"], config.services["b"]
    assert a.timeouts == Timeouts(connect=0.25, response=3.0)
    assert a.balance == Balance("maglev", (HashKey("source_ip"),))
    assert a.upstream == Upstream(keepalive=7)
    assert b.timeouts == Timeouts(connect=0.25, response=None, idle=None, idle_tcp=None)
    assert b.balance == Balance("round_robin")
    assert b.upstream == Upstream(keepalive=7, idle=60.0, max_age=3600.0)
    assert b.retries == Retries(attempts=0)
    assert config.timeouts == Timeouts(connect=0.25, response=None)


def test_one_idle_key_sets_both_times(folder: Folder) -> None:
    config = folder.load("defaults: {timeouts: {idle: 5m}}" + MINIMAL).config
    assert (config.timeouts.idle, config.timeouts.idle_tcp) == (300.0, 300.0)


def test_endpoints_are_canonical(folder: Folder) -> None:
    config = folder.load("""
listeners: {web: {bind: ":1", service: a}}
services:
  a:
    endpoints:
      - "[2001:DB8:0::1]:80"
      - API.Example.com.:8080
      - unix:/run/a.sock
      - {address: "127.0.0.1:1", weight: 0, labels: {zone: a, version: 010}}
""").config
    endpoints = config.services["a"].endpoints
    assert [endpoint.address for endpoint in endpoints] == [
        Address("inet6", "2001:db8::1", 80),
        Address("name", "api.example.com.", 8080),
        Address("unix", path="/run/a.sock"),
        Address("inet", "127.0.0.1", 1),
    ]
    assert [endpoint.address.text for endpoint in endpoints][:3] == [
        "[2001:db8::1]:80",
        "api.example.com.:8080",
        "unix:/run/a.sock",
    ]
    assert endpoints[3].weight == 0
    assert endpoints[3].labels == (("zone", "a"), ("version", "010"))


def test_names_are_endpoints_alone_and_in_lists(folder: Folder) -> None:
    loaded = folder.load("""
listeners: {web: {bind: ":1", service: a}}
services:
  a: {endpoints: {dns: "API:8080"}, refresh: 2s}
  b:
    endpoints:
      - {dns_srv: _http._TCP.api, weight: 3, priority: 2, drain: true, labels: {zone: a}}
      - {dns: "api:80"}
      - {dns_srv: api.service.consul.}
  c: {endpoints: "10.0.0.1:80"}
""")
    services = loaded.config.services
    assert services["a"].endpoints == (Endpoint(Address("name", "api", 8080)),)
    assert (services["a"].refresh, services["b"].refresh) == (2.0, None)
    assert services["b"].endpoints == (
        Endpoint(Address("srv", "_http._tcp.api"), 3, (("zone", "a"),), 2, True),
        Endpoint(Address("name", "api", 80)),
        Endpoint(Address("srv", "api.service.consul.")),
    )
    assert services["c"].endpoints == (Endpoint(Address("inet", "10.0.0.1", 80)),)
    assert not loaded.warnings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("random", Balance("random")),
        ("weighted_round_robin", Balance("round_robin")),
        ("ring_hash", Balance("ring_hash", (HashKey("source_ip"),))),
        (
            "{policy: ring_hash, key: {header: X-User}, bounded_load: 125%, ring_size: 4096}",
            Balance("ring_hash", (HashKey("header", "x-user"),), 1.25, 4096),
        ),
        (
            "{policy: maglev, key: [{cookie: Sid}, {query: q}, path, source_ip], table_size: 251}",
            Balance(
                "maglev",
                (HashKey("cookie", "Sid"), HashKey("query", "q"), HashKey("path"), HashKey("source_ip")),
                table_size=251,
            ),
        ),
    ],
)
def test_balance(folder: Folder, text: str, expected: Balance) -> None:
    loaded = folder.load(f"""
listeners: {{web: {{bind: ":1", service: a}}}}
services: {{a: {{endpoints: [], balance: {text}}}}}
""")
    assert loaded.config.services["a"].balance == expected


def test_drain(folder: Folder) -> None:
    loaded = folder.load("""
listeners:
  web: {bind: ":1", service: a, drain: true}
  db: {bind: ":2", service: b, protocol: tcp}
services:
  a: {endpoints: ["10.0.0.1:80", {address: "10.0.0.2:80", drain: true}]}
  b: {endpoints: [], drain: true}
""").config
    assert [one.drain for one in loaded.listeners.values()] == [True, False]
    assert [one.drain for one in loaded.services.values()] == [False, True]
    assert [one.drain for one in loaded.services["a"].endpoints] == [False, True]


def test_drain_is_not_inherited(folder: Folder) -> None:
    (error,) = folder.errors("defaults: {drain: true}" + MINIMAL)
    assert "`drain`" in error


def test_registry_files_join_by_name(folder: Folder) -> None:
    folder.write("services: {user: {endpoints: [10.0.0.2:80], balance: random}}", "services.d/b.yml")
    folder.write("services: {user: {endpoints: [10.0.0.3:80]}, extra: {endpoints: []}}", "services.d/a.yaml")
    folder.write("not: [yaml", "services.d/.hidden.yaml")
    folder.write("not: [yaml", "services.d/notes.txt")
    (folder.path / "services.d/folder.yaml").mkdir()
    loaded = folder.load("registry: ./services.d" + MINIMAL)
    user = loaded.config.services["user"]
    assert [endpoint.address.text for endpoint in user.endpoints] == [
        "10.0.0.1:80",
        "10.0.0.3:80",
        "10.0.0.2:80",
    ]
    assert user.balance.policy == "random"
    assert list(loaded.config.services) == ["user", "extra"]
    assert [file.name for file in loaded.files] == ["fastmesh.yaml", "services.d", "a.yaml", "b.yml"]


def test_registry_conflicts_name_both_files(folder: Folder) -> None:
    folder.write("services:\n  user: {balance: random}\n", "services.d/a.yaml")
    folder.write(
        "services:\n  user:\n    balance: random\n    endpoints: [10.0.0.1:80]\n", "services.d/b.yaml"
    )
    folder.write("listeners: {}\n", "services.d/c.yaml")
    folder.write("", "services.d/d.yaml")
    assert folder.errors("registry: services.d" + MINIMAL) == [
        "services.d/b.yaml:3:5: service `user`: `balance` is set in `services.d/a.yaml` (line 2) and in "
        "`services.d/b.yaml`; keep one of them: only the `endpoints` of several files join",
        "services.d/b.yaml:4:17: service `user` has the endpoint `10.0.0.1:80` twice; it stands in line 5 of "
        "`fastmesh.yaml` already; give that one a larger `weight` instead",
        "services.d/c.yaml:1:1: a registry file has no key `listeners`; the keys here are `services`",
        "services.d/c.yaml:1:1: a registry file needs `services`; write services by name",
        "services.d/d.yaml: the file is empty; write `services:`",
    ]


def test_refresh_without_a_name_is_warned_of(folder: Folder) -> None:
    loaded = folder.load("""
listeners: {web: {bind: ":1", service: a}}
services:
  a: {endpoints: ["10.0.0.1:1"], refresh: 1s}
""")
    (warning,) = loaded.warnings
    assert warning.message == "`refresh` has no effect: service `a` has no name among its endpoints"
    assert (warning.line, warning.column) == (4, 34)
