"""Listeners and routes, in all their forms."""

import pytest
from msgspec import UNSET

from fastmesh.model import (
    Forward,
    Redirect,
    Respond,
    Route,
)
from support.config_folder import MINIMAL, Folder


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
