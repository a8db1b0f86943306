"""What `load` makes of a file, and how it reports many mistakes at once."""

import gc
import math
import time

import pytest

from fastmesh.config import load
from fastmesh.model import (
    AccessLog,
    Address,
    Admin,
    Bind,
    Endpoint,
    Forward,
    Route,
    Service,
    Timeouts,
)
from support.config_folder import MINIMAL, Folder


def test_minimal_file_has_every_default(folder: Folder) -> None:
    config = folder.load(MINIMAL).config
    assert config.admin == Admin("127.0.0.1:9400", None)
    assert config.workers is None
    assert config.access_log is None
    assert config.limits.header_bytes == 32768
    assert config.limits.body is None
    assert (config.drain.delay, config.drain.timeout) == (0.0, 30.0)
    assert config.ready_timeout == 10.0
    web = config.listeners["web"]
    assert web.binds == (Bind("inet6", "", 8080),)
    assert web.binds[0].text == ":8080"
    assert web.binds[0].dual_stack
    assert web.upgrade == ("websocket",)
    assert web.routes == (Route(Forward((("user", 1),))),)
    assert config.services["user"] == Service("user", (Endpoint(Address("inet", "10.0.0.1", 80)),))
    assert config.services["user"].balance.policy == "least_request"
    assert config.services["user"].timeouts == Timeouts(1.0, 15.0, 60.0, 3600.0, 10.0, None)


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
ready_timeout: 1m
access_log: {format: combined}
log: {level: debug}
limits: {body: 1MiB, connections: 10, memory: 256MiB, min_rate: 1KiB}
"""
        + MINIMAL
    ).config
    assert config.workers == 3
    assert config.trusted_proxies == ("10.0.0.0/8", "192.168.1.1/32", "2001:db8::/32")
    assert (config.drain.delay, config.drain.timeout) == (1.0, math.inf)
    assert config.ready_timeout == 60.0
    assert config.access_log == AccessLog("stdout", "combined")
    assert (config.limits.body, config.limits.connections) == (1 << 20, 10)
    assert (config.limits.memory, config.limits.min_rate) == (256 << 20, 1024)


@pytest.mark.parametrize(
    ("written", "memory", "min_rate"),
    [
        ("{}", None, 240),
        ("{memory: auto, min_rate: none}", None, None),
        ("{memory: 16MiB, min_rate: 1B}", 16 << 20, 1),
        ("{memory: 1GiB, min_rate: 1GiB}", 1 << 30, 1 << 30),
    ],
)
def test_what_the_process_and_slow_clients_may_use(
    folder: Folder, written: str, memory: int | None, min_rate: int | None
) -> None:
    limits = folder.load(f"limits: {written}\n" + MINIMAL).config.limits
    assert (limits.memory, limits.min_rate) == (memory, min_rate)


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


def test_service_keys_that_warn(folder: Folder) -> None:
    assert folder.warnings("""
listeners: {web: {bind: ":1", accept_proxy: true, service: a}}
services:
  a: {endpoints: [], health: {path: /h}, retries: {budget: 1%}, timeouts: {header: 1s}}
""") == [
        "fastmesh.yaml:2:31: warning: `accept_proxy` believes the peers of `trusted_proxies`, and there are "
        "none; add the address ranges that the PROXY protocol comes from",
        "fastmesh.yaml:4:76: warning: `header` has no effect in a service: it runs before the service is "
        "known; set it under `defaults`",
    ]


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
