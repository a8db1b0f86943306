"""What `load` makes of valid files, and how it reports many mistakes at once."""

import gc
import math
import time
from pathlib import Path

import pytest
from msgspec import UNSET

from fastmesh.config import Loaded, load
from fastmesh.errors import ConfigError
from fastmesh.model import (
    AccessLog,
    Address,
    Admin,
    Balance,
    Bind,
    Endpoint,
    Forward,
    HashKey,
    Redirect,
    Respond,
    Retries,
    Route,
    Service,
    Timeouts,
    Upstream,
)

MINIMAL = """
listeners:
  web: {bind: ":8080", service: user}
services:
  user: {endpoints: ["10.0.0.1:80"]}
"""


class Folder:
    """A folder of configuration files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, text: str, name: str = "fastmesh.yaml") -> Path:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def load(self, text: str, **env: str) -> Loaded:
        return load(self.write(text), env=env)

    def errors(self, text: str, **env: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(self.write(text), env=env)
        return [
            str(found).replace(f"{self.path}/", "")
            for found in caught.value.problems
            if found.severity == "error"
        ]

    def warnings(self, text: str) -> list[str]:
        return [str(found).replace(f"{self.path}/", "") for found in self.load(text).warnings]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_minimal_file_has_every_default(folder: Folder) -> None:
    config = folder.load(MINIMAL).config
    assert config.admin == Admin("127.0.0.1:9400", None)
    assert config.workers is None
    assert config.access_log is None
    assert config.limits.header_bytes == 32768
    assert config.limits.body is None
    assert (config.drain.delay, config.drain.timeout) == (0.0, 30.0)
    web = config.listeners["web"]
    assert web.binds == (Bind("inet6", "", 8080),)
    assert web.binds[0].text == ":8080"
    assert web.binds[0].dual_stack
    assert web.upgrade == ("websocket",)
    assert web.routes == (Route(Forward((("user", 1),))),)
    assert config.services["user"] == Service("user", (Endpoint(Address("inet", "10.0.0.1", 80)),))
    assert config.services["user"].balance.policy == "least_request"
    assert config.services["user"].timeouts == Timeouts(1.0, 15.0, 60.0, 3600.0, 10.0, None)


def test_services_inherit_defaults_key_by_key(folder: Folder) -> None:
    config = folder.load("""
defaults:
  timeouts: {connect: 250ms, response: none}
  upstream: {keepalive: 7}
  balance: round_robin
listeners: {web: {bind: ":1", service: a}}
services:
  a: {endpoints: [], timeouts: {response: 3s}, balance: {policy: maglev}}
  b: {endpoints: [], timeouts: {idle: none}, upstream: {idle: 1m}, retries: {attempts: 0}}
""").config
    a, b = config.services["a"], config.services["b"]
    assert a.timeouts == Timeouts(connect=0.25, response=3.0)
    assert a.balance == Balance("maglev", (HashKey("source_ip"),))
    assert a.upstream == Upstream(keepalive=7)
    assert b.timeouts == Timeouts(connect=0.25, response=None, idle=None, idle_tcp=None)
    assert b.balance == Balance("round_robin")
    assert b.upstream == Upstream(keepalive=7, idle=60.0)
    assert b.retries == Retries(attempts=0)
    assert config.timeouts == Timeouts(connect=0.25, response=None)


def test_one_idle_key_sets_both_times(folder: Folder) -> None:
    config = folder.load("defaults: {timeouts: {idle: 5m}}" + MINIMAL).config
    assert (config.timeouts.idle, config.timeouts.idle_tcp) == (300.0, 300.0)


def test_routes_in_the_long_form(folder: Folder) -> None:
    config = folder.load("""
listeners:
  web:
    bind: ["0.0.0.0:80", "[::]:80", unix:/run/web.sock]
    routes:
      - {path: /user/, service: a}
      - path: {exact: /order}
        methods: [GET, POST, GET]
        hosts: [Shop.Example.com., "*.example.com", "[::1]"]
        headers: {X-Canary: yes, x-version: 2}
        service: {a: 90, b: 10}
        timeout: none
      - {path: {prefix: /x}, service: a, rewrite: {prefix: /y/}, timeout: 3s}
      - {redirect: {to: /new}}
      - {methods: PURGE, respond: {status: 405, body: "no\\n"}}
services: {a: {endpoints: []}, b: {endpoints: []}}
""").config
    web = config.listeners["web"]
    assert [bind.text for bind in web.binds] == ["0.0.0.0:80", "[::]:80", "unix:/run/web.sock"]
    assert not web.binds[1].dual_stack
    assert web.routes == (
        Route(Forward((("a", 1),)), path="/user"),
        Route(
            Forward((("a", 90), ("b", 10)), None, None),
            path_kind="exact",
            path="/order",
            methods=("GET", "POST"),
            hosts=("shop.example.com", "*.example.com", "[::1]"),
            headers=(("x-canary", "yes"), ("x-version", "2")),
        ),
        Route(Forward((("a", 1),), "/y", 3.0), path="/x"),
        Route(Redirect("/new", 308)),
        Route(Respond(405, b"no\n"), methods=("PURGE",)),
    )
    forward = web.routes[0].action
    assert isinstance(forward, Forward)
    assert forward.response_timeout is UNSET


def test_routes_in_the_short_form_keep_their_order(folder: Folder) -> None:
    config = folder.load("""
listeners: {web: {bind: ":1", routes: {/b: a, /a: {a: 1, b: 0}, /: b}}}
services: {a: {endpoints: []}, b: {endpoints: []}}
""").config
    assert config.listeners["web"].routes == (
        Route(Forward((("a", 1),)), path="/b"),
        Route(Forward((("a", 1), ("b", 0))), path="/a"),
        Route(Forward((("b", 1),)), path="/"),
    )


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
        Address("name", "api.example.com", 8080),
        Address("unix", path="/run/a.sock"),
        Address("inet", "127.0.0.1", 1),
    ]
    assert [endpoint.address.text for endpoint in endpoints][:3] == [
        "[2001:db8::1]:80",
        "api.example.com:8080",
        "unix:/run/a.sock",
    ]
    assert endpoints[3].weight == 0
    assert endpoints[3].labels == (("zone", "a"), ("version", "010"))


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


def test_admin_off_stays_text_and_means_off(folder: Folder) -> None:
    assert folder.load("admin: off" + MINIMAL).config.admin.bind is None
    assert folder.load("admin: unix:/run/fm.sock" + MINIMAL).config.admin.bind == "unix:/run/fm.sock"
    admin = folder.load("admin: {bind: 0.0.0.0:9400, token: no}" + MINIMAL).config.admin
    assert admin == Admin("0.0.0.0:9400", "no")
    assert "no" not in repr(admin)


def test_other_settings(folder: Folder) -> None:
    config = folder.load(
        """
workers: 3
trusted_proxies: [10.0.0.0/8, 192.168.1.1, "2001:DB8::/32", 10.0.0.0/8]
drain: {delay: 1s, timeout: none}
access_log: {format: combined}
log: {level: debug}
limits: {body: 1MiB, connections: 10}
"""
        + MINIMAL
    ).config
    assert config.workers == 3
    assert config.trusted_proxies == ("10.0.0.0/8", "192.168.1.1/32", "2001:db8::/32")
    assert (config.drain.delay, config.drain.timeout) == (1.0, math.inf)
    assert config.access_log == AccessLog("stdout", "combined")
    assert (config.limits.body, config.limits.connections) == (1 << 20, 10)


def test_variables_are_expanded_after_parsing(folder: Folder) -> None:
    folder.write("10.9.9.9:80\n", "secrets/endpoint")
    loaded = folder.load(
        """
workers: ${WORKERS}
registry: ${UNSET:-}${UNSET:-services.d}
listeners:
  web: {bind: "${HOST}:8080", routes: [{respond: {status: 200, body: "$$5 ${EVIL}"}}]}
services:
  user: {endpoints: ["${file:secrets/endpoint}", "a:1"]}
"""
        if (folder.path / "services.d").mkdir() is None
        else "",
        WORKERS="2",
        HOST="127.0.0.1",
        EVIL="x\n}}, other: {",
    )
    config = loaded.config
    assert config.workers == 2
    assert config.registry == "services.d"
    assert config.listeners["web"].binds == (Bind("inet", "127.0.0.1", 8080),)
    respond = config.listeners["web"].routes[0].action
    assert respond == Respond(200, b"$5 x\n}}, other: {")
    assert config.services["user"].endpoints[0].address.text == "10.9.9.9:80"
    assert config.secrets.texts == ("10.9.9.9:80",)
    assert "10.9.9.9" not in repr(config.secrets)
    assert loaded.files == (
        folder.path / "fastmesh.yaml",
        folder.path / "services.d",
        folder.path / "secrets/endpoint",
    )


def test_a_quoted_variable_stays_text(folder: Folder) -> None:
    assert folder.errors('workers: "${N}"' + MINIMAL, N="2") == [
        'fastmesh.yaml:1:10: `workers` needs a number, and quotes make `"2"` text; remove the quotes'
    ]


def test_a_secret_is_never_part_of_a_message(folder: Folder) -> None:
    folder.write("hunter2", "token")
    assert folder.errors("workers: ${file:token}" + MINIMAL) == [
        "fastmesh.yaml:1:10: `workers` needs a whole number from 1 to 1,024, or `auto`, not `***`"
    ]


def test_anchors_and_merge_keys(folder: Folder) -> None:
    config = folder.load("""
listeners: {web: {bind: ":1", service: a}}
services:
  a: &a {endpoints: [&first 10.0.0.1:80], balance: random, send_proxy: v1}
  b: {<<: *a, send_proxy: v2}
  c: {<<: [{endpoints: [*first]}, *a]}
""").config
    a, b, c = (config.services[name] for name in "abc")
    assert b.endpoints == c.endpoints == a.endpoints
    assert (b.balance, b.send_proxy) == (a.balance, "v2")
    assert (c.balance, c.send_proxy) == (a.balance, "v1")


def test_billion_laughs_stops_early(folder: Folder) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    started = time.process_time()
    errors = folder.errors("\n".join(lines) + MINIMAL)
    assert errors == ["fastmesh.yaml:5:45: aliases expand to more than 100,000 values in all"]
    assert time.process_time() - started < 2


def test_deep_nesting_is_refused(folder: Folder) -> None:
    errors = folder.errors("log: " + "[" * 100_000 + "]" * 100_000 + MINIMAL)
    assert errors == ["fastmesh.yaml:1:69: values are nested more than 64 deep"]


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


TEN_MISTAKES = """\
admin: localhost:9400
workers: many
drain: {delay: 5}
limits: {body: 10MB}
listeners:
  web:
    bind: 8080
    routes:
      - {path: user, service: user}
      - {path: /a, servce: user, respond: {}}
      - {path: /b, service: usr}
services:
  user:
    endpoints: [10.0.0.300:80]
    balanse: maglev
    send_proxy: v3
"""


def test_ten_mistakes_are_ten_problems(folder: Folder) -> None:
    errors = folder.errors(TEN_MISTAKES)
    assert [error.split(": ")[0] for error in errors] == [
        f"fastmesh.yaml:{place}"
        for place in (
            "1:8",
            "2:10",
            "3:16",
            "4:16",
            "7:11",
            "9:16",
            "10:20",
            "11:29",
            "14:17",
            "15:5",
            "16:17",
        )
    ]


def test_all_registry_and_main_problems_come_together(folder: Folder) -> None:
    folder.write("services: {b: {endpoints: [x]}}", "r/b.yaml")
    folder.write("services: [", "r/c.yaml")
    errors = folder.errors("registry: r\nworkers: x" + MINIMAL)
    assert [error.split(":")[0] for error in errors] == ["fastmesh.yaml", "r/b.yaml", "r/c.yaml"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "defaults: {retries: {attempts: 1}}",
            ["fastmesh.yaml:1:12: warning: `retries` is not in effect yet"],
        ),
        (
            "defaults: {upstream: {max_age: 1h}}",
            ["fastmesh.yaml:1:23: warning: `max_age` is not in effect yet"],
        ),
    ],
)
def test_keys_of_later_work_warn(folder: Folder, text: str, expected: list[str]) -> None:
    assert folder.warnings(text + MINIMAL) == expected


def test_service_keys_that_warn(folder: Folder) -> None:
    assert folder.warnings("""
listeners: {web: {bind: ":1", accept_proxy: true, service: a}}
services:
  a: {endpoints: [], health: {path: /h}, retries: {budget: 1%}, timeouts: {header: 1s}}
""") == [
        "fastmesh.yaml:2:31: warning: `accept_proxy` believes the peers of `trusted_proxies`, and there are "
        "none; add the address ranges that the PROXY protocol comes from",
        "fastmesh.yaml:4:22: warning: `health` is not in effect yet",
        "fastmesh.yaml:4:42: warning: `retries` is not in effect yet",
        "fastmesh.yaml:4:76: warning: `header` has no effect in a service: it runs before the service is "
        "known; set it under `defaults`",
    ]


def test_an_upgrade_that_is_not_built_warns(folder: Folder) -> None:
    text = MINIMAL.replace("service: user}", "service: user, upgrade: [WebSocket, h2c]}", 1)
    assert folder.warnings(text) == [
        "fastmesh.yaml:3:60: warning: the upgrade to `h2c` is not in effect yet; it is stripped until then"
    ]


@pytest.mark.parametrize(
    ("routes", "shadowed"),
    [
        ("{/: a, /b: a}", 1),
        ("{/b: a, /: a}", 0),
        ("[{path: /b, service: a}, {path: /b/c, methods: GET, service: a}]", 1),
        ("[{path: /b, methods: GET, service: a}, {path: /b/c, service: a}]", 0),
        ("[{path: /b, methods: [GET, PUT], service: a}, {path: {exact: /b}, methods: GET, service: a}]", 1),
        ("[{path: {exact: /b}, service: a}, {path: /b, service: a}]", 0),
        ("[{path: {exact: /b}, service: a}, {path: {exact: /b}, service: a}]", 1),
        ("[{path: /b, hosts: x, service: a}, {path: /b, service: a}]", 0),
        ("[{path: /b, headers: {x: y}, service: a}, {path: /b, headers: {x: y, z: z}, service: a}]", 1),
        ("[{path: /b, service: a}, {path: /bc, service: a}]", 0),
    ],
)
def test_routes_that_are_never_reached_warn(folder: Folder, routes: str, shadowed: int) -> None:
    warnings = folder.warnings(f"""
listeners: {{web: {{bind: ":1", routes: {routes}}}}}
services: {{a: {{endpoints: []}}}}
""")
    assert len([text for text in warnings if "never reached" in text]) == shadowed
    assert len(warnings) == shadowed


def test_unreadable_files(folder: Folder) -> None:
    with pytest.raises(ConfigError) as caught:
        load(folder.path / "nope.yaml")
    assert str(caught.value) == f"{folder.path}/nope.yaml: the file does not exist; check the path"
    assert caught.value.files == (folder.path / "nope.yaml",)
    with pytest.raises(ConfigError, match="this is a folder; name a file in it"):
        load(folder.path)
    (folder.path / "latin").write_bytes(b"admin: off # \xe9\n")
    with pytest.raises(ConfigError, match="latin:1:14: the file is not UTF-8 text here; save it as UTF-8"):
        load(folder.path / "latin")


def test_a_byte_order_mark_is_no_character(folder: Folder) -> None:
    (folder.path / "bom").write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode())
    assert load(folder.path / "bom").config.services.keys() == {"user"}


def test_ten_thousand_endpoints_load_fast_and_leave_the_collector_on(folder: Folder) -> None:
    lines = ["listeners: {web: {bind: ':1', service: s0}}", "services:"]
    for number in range(100):
        lines.append(f"  s{number}:\n    endpoints:")
        lines += [
            f"      - {{address: 10.{number}.{other}.1:80, weight: 3, labels: {{zone: a}}}}"
            for other in range(100)
        ]
    file = folder.write("\n".join(lines))
    started = time.process_time()
    loaded = load(file)
    assert time.process_time() - started < 1.5  # of CPU; measured 0.25 s
    assert sum(len(service.endpoints) for service in loaded.config.services.values()) == 10_000
    assert gc.isenabled()


def test_a_refused_file_leaves_no_tree_behind(folder: Folder) -> None:
    from fastmesh.config.source import Node

    gc.collect()
    gc.disable()
    try:
        folder.errors(TEN_MISTAKES)
        folder.load(MINIMAL)
        left = sum(isinstance(thing, Node) for thing in gc.get_objects())
    finally:
        gc.enable()
    assert left == 0
