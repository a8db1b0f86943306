"""The keys of a listener and of its routes."""

from __future__ import annotations

from typing import Final

from fastmesh.config import texts
from fastmesh.config.kinds import (
    Boolean,
    ByShape,
    Choice,
    Field,
    Integer,
    ListOf,
    MapOf,
    Named,
    Section,
    Text,
    Wrong,
    duration,
)
from fastmesh.config.service_keys import WEIGHT
from fastmesh.config.sidecar_keys import INTERCEPT, INTERCEPTED


def check_redirect(value: int) -> None:
    if value not in (301, 302, 303, 307, 308):
        raise Wrong(f"{value} is not a redirect", "write 301, 302, 303, 307 or 308")


_NAME = Text("the name of a service", texts.parse_name, texts.NAME_PATTERN)
_SPLIT = Named(
    "split",
    MapOf(WEIGHT, "services with their weights, such as `{blue: 90, green: 10}`", empty=False),
)
_TARGET = Named(
    "target",
    ByShape("the name of a service, or services with their weights", scalar=_NAME, mapping=_SPLIT),
)

_BIND = Text("an address such as `0.0.0.0:8080`, `:8080` or `unix:/path`", texts.parse_bind)
_PREFIX = Text("a path such as `/user`", texts.parse_prefix)
_PATH = ByShape(
    "a path such as `/user`, or `{exact: /user}`",
    scalar=_PREFIX,
    mapping=Section(
        "`path`",
        {
            "prefix": Field(
                _PREFIX, "By whole path elements: `/user` matches `/user/1`, not `/users`.", example="/user"
            ),
            "exact": Field(
                Text("a path such as `/user`", texts.parse_path),
                "The whole path, byte by byte.",
                example="/order",
            ),
            "regex": Field(
                Text("a regular expression", texts.parse_regex_path),
                "The whole path, by a regular expression that runs in linear time. Not built yet: an error.",
                example="/v[0-9]+/stock/.*",
            ),
        },
        {"minProperties": 1, "maxProperties": 1},
    ),
)
_REWRITE = Section(
    "`rewrite`",
    {
        "prefix": Field(
            Text("a path such as `/`", texts.parse_prefix),
            "Replaces the matched prefix; no double slash comes out.",
            example="/",
            required=True,
        )
    },
)
_REDIRECT = Section(
    "`redirect`",
    {
        "to": Field(
            Text("a path such as `/new`, or a URL", texts.parse_redirect),
            "The new path or URL; the request's query is kept.",
            example="/new",
            required=True,
        ),
        "status": Field(
            Integer(300, 399, check=check_redirect),
            "The status code.",
            default=308,
            example=302,
        ),
    },
)
_RESPOND = Section(
    "`respond`",
    {
        "status": Field(Integer(200, 599), "The status code.", default=200, example=404),
        "body": Field(Text("text"), "The body, as UTF-8 text.", default="", example="pong\n"),
    },
)
ROUTE: Final = Section(
    "a route",
    {
        "path": Field(
            _PATH,
            "A path prefix, or `{exact: /path}`. Left out, every path matches.",
            default="/",
            example="/user",
        ),
        "methods": Field(
            ListOf(
                Text("a method such as `GET`", texts.parse_method),
                "methods such as `[GET, POST]`",
                True,
                False,
            ),
            "Any of these methods; `HEAD` is not part of `GET`.",
            example=["GET", "POST"],
        ),
        "hosts": Field(
            ListOf(
                Text("a host such as `example.com`", texts.parse_host),
                "hosts such as `[example.com]`",
                True,
                False,
            ),
            "Any of these hosts; `*.x` is any depth below x and not x itself. Ports are ignored.",
            example=["shop.example.com", "*.shop.example.com"],
        ),
        "headers": Field(
            MapOf(
                Text("text", texts.parse_header_value),
                'headers such as `{x-canary: "yes"}`',
                texts.lower_token("a header's name"),
                empty=False,
            ),
            "All of these headers, with exactly these values.",
            example={"x-canary": "yes"},
        ),
        "service": Field(
            _TARGET, "A service, or services with weights, picked by random share.", example="user"
        ),
        "rewrite": Field(_REWRITE, "Changes the path on the way to the service.", example={"prefix": "/"}),
        "timeout": Field(duration(none=True), "Sets `timeouts.response` for this route.", example="3s"),
        "redirect": Field(_REDIRECT, "Answers with a redirect.", example={"to": "/new"}),
        "respond": Field(_RESPOND, "Answers by itself.", example={"status": 200, "body": "pong\n"}),
    },
    {"oneOf": [{"required": [key]} for key in ("service", "redirect", "respond")]},
)
_ROUTES = ByShape(
    "a list of routes, or a mapping of path prefixes to services",
    sequence=ListOf(Named("route", ROUTE), "a list of routes", empty=False),
    mapping=MapOf(
        _TARGET, "path prefixes and services such as `{/user: user}`", texts.parse_prefix, "^/", empty=False
    ),
)

_FORWARDED = Section(
    "`forwarded`",
    {
        "for": Field(Boolean(), "`X-Forwarded-For`: the client's address.", default=True, example=False),
        "proto": Field(Boolean(), "`X-Forwarded-Proto`: `http` or `https`.", default=True, example=False),
        "host": Field(
            Boolean(), "`X-Forwarded-Host`: the host that was asked for.", default=True, example=False
        ),
        "request_id": Field(
            Boolean(),
            "`X-Request-Id`: made here; that of a trusted proxy is kept.",
            default=True,
            example=False,
        ),
    },
)
LISTENER: Final = Section(
    "listener `{name}`",
    {
        "bind": Field(
            ListOf(_BIND, _BIND.says + ", or a list of them", single=True, empty=False),
            "Where to listen: `host:port`, `[v6]:port`, `:port` (all addresses of both families), "
            "`unix:/path`, or a "
            "list of them. Port 0 lets the system choose.",
            example="0.0.0.0:8080",
            required=True,
        ),
        "protocol": Field(
            Choice({"http": "http", "tcp": "tcp"}, what="protocol"),
            "`http` or `tcp`.",
            default="http",
            example="tcp",
        ),
        "accept_proxy": Field(
            Boolean(),
            "Reads the PROXY protocol (v1 and v2) that peers of `trusted_proxies` send first.",
            default=False,
            example=True,
        ),
        "forwarded": Field(
            _FORWARDED, "Which headers tell the endpoint about the client.", example={"host": False}
        ),
        "upgrade": Field(
            ListOf(
                Text("a protocol such as `websocket`", texts.lower_token("a protocol's name")),
                "a list of protocols",
            ),
            "Protocols that a client may upgrade to; others are stripped. Only `websocket` is built yet.",
            default=["websocket"],
            example=[],
        ),
        "routes": Field(
            _ROUTES,
            "The first that matches, top to bottom. Short form: path prefixes and services.",
            example={"/user": "user"},
        ),
        "service": Field(_TARGET, "The one service of a listener without routes.", example="postgres"),
        "intercept": INTERCEPT,
        "services": INTERCEPTED,
        "drain": Field(
            Boolean(),
            "Takes no new connections, and lets those that it has end.",
            default=False,
            example=True,
        ),
    },
    {"oneOf": [{"required": [key]} for key in ("routes", "service", "intercept")]},
)
