"""The table of keys: the one place that says what may stand in a configuration.

The validator reads by it, and the JSON Schema and the tables of docs/configuration.md are made from it.
"""

from __future__ import annotations

import math
from typing import Final

from fastmesh.config import texts
from fastmesh.config.kinds import (
    Boolean,
    ByShape,
    Choice,
    Field,
    Integer,
    Kind,
    ListOf,
    MapOf,
    Named,
    Section,
    Text,
    Wrong,
    duration,
    share,
    size,
)

DEFINITIONS: Final[dict[str, Kind]] = {}

POLICIES: Final = {
    "round_robin": "round_robin",
    "weighted_round_robin": "round_robin",
    "random": "random",
    "least_request": "least_request",
    "ring_hash": "ring_hash",
    "maglev": "maglev",
}
UNBUILT_POLICIES: Final = ("peak_ewma", "utilization", "prequal")
HASH_POLICIES: Final = ("ring_hash", "maglev")
MAX_WEIGHT: Final = 65535
NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._/@-]{0,127}$"


def _prime(value: int) -> None:
    if value % 2 == 0 or any(value % odd == 0 for odd in range(3, int(value**0.5) + 1, 2)):
        raise Wrong(f"{value} is not a prime number", "the usual table sizes are 65537 and 655373")


def _redirect_status(value: int) -> None:
    if value not in (301, 302, 303, 307, 308):
        raise Wrong(f"{value} is not a redirect", "write 301, 302, 303, 307 or 308")


_NAME = Text("the name of a service", texts.parse_name, NAME_PATTERN)
_WEIGHT = Integer(0, MAX_WEIGHT)
_SPLIT = Named(
    "split",
    MapOf(_WEIGHT, "services with their weights, such as `{blue: 90, green: 10}`", empty=False),
    DEFINITIONS,
)
_TARGET = Named(
    "target",
    ByShape("the name of a service, or services with their weights", scalar=_NAME, mapping=_SPLIT),
    DEFINITIONS,
)

_BIND = Text("an address such as `0.0.0.0:8080`, `:8080` or `unix:/path`", texts.parse_bind)
_ENDPOINT_ADDRESS = Text("an address such as `10.0.0.1:8080` or `unix:/path`", texts.parse_endpoint)

_LABELS = MapOf(Text("text"), "labels such as `{version: v1}`")
_ENDPOINT = Named(
    "endpoint",
    ByShape(
        "an address such as `10.0.0.1:8080`, or a mapping with `address`",
        scalar=_ENDPOINT_ADDRESS,
        mapping=Section(
            "an endpoint",
            {
                "address": Field(
                    _ENDPOINT_ADDRESS,
                    "`ip:port`, `[v6]:port`, `name:port` (resolved every 30 s, all addresses used) or "
                    "`unix:/path`.",
                    example="10.0.0.1:8080",
                    required=True,
                ),
                "weight": Field(
                    _WEIGHT,
                    "Share of the requests, relative to the other endpoints; 0 gets no new ones.",
                    default=1,
                    example=3,
                ),
                "labels": Field(
                    _LABELS, "Free names and values, shown by the admin API.", example={"version": "v1"}
                ),
            },
        ),
    ),
    DEFINITIONS,
)

_HASH_KEY = ByShape(
    "`source_ip`, `path`, `{header: NAME}`, `{cookie: NAME}` or `{query: NAME}`",
    scalar=Choice({"source_ip": "source_ip", "path": "path"}, what="hash key"),
    mapping=Section(
        "a hash key",
        {
            "header": Field(
                Text("a header's name", texts.lower_token("a header's name")),
                "A request header's value.",
                example="x-user",
            ),
            "cookie": Field(
                Text("a cookie's name", texts.token("a cookie's name")),
                "A cookie's value.",
                example="session",
            ),
            "query": Field(
                Text("a parameter's name", texts.parse_line),
                "A parameter of the query, as it is encoded.",
                example="user",
            ),
        },
        {"minProperties": 1, "maxProperties": 1},
    ),
)
_POLICY = Choice(POLICIES, UNBUILT_POLICIES, "policy")
_BALANCE = ByShape(
    "a policy's name, or a mapping with `policy`",
    scalar=_POLICY,
    mapping=Section(
        "`balance`",
        {
            "policy": Field(
                _POLICY,
                "`least_request` (fewer requests in flight of two picked by weight), `round_robin` "
                "(weighted, evenly "
                "interleaved; `weighted_round_robin` is the same), `random` (weighted), `ring_hash`, "
                "`maglev`.",
                default="least_request",
                example="ring_hash",
            ),
            "key": Field(
                ListOf(_HASH_KEY, _HASH_KEY.says + ", or a list of them", single=True, empty=False),
                "What `ring_hash` and `maglev` hash: `source_ip`, `path`, `{header: NAME}`, `{cookie: "
                "NAME}`, "
                "`{query: NAME}`, or a list of them, of which the first that is present counts. When "
                "none is, the "
                "pick is random.",
                default="source_ip",
                example={"header": "x-user"},
            ),
            "bounded_load": Field(
                share(1.0, 100.0, none=True),
                "For `ring_hash` and `maglev`: an endpoint with more requests in flight than this share "
                "of the mean "
                "is passed over. At least 100%.",
                default="none",
                example="125%",
            ),
            "ring_size": Field(
                Integer(1024, 8_388_608),
                "For `ring_hash`: the least number of points on the ring.",
                default=1024,
                example=4096,
            ),
            "table_size": Field(
                Integer(2, 5_000_011, check=_prime),
                "For `maglev`: the number of entries of the table, a prime.",
                default=65537,
                example=655373,
            ),
        },
    ),
)

_TIMEOUTS = Section(
    "`timeouts`",
    {
        "connect": Field(
            duration(none=True),
            "Until a connection to an endpoint stands (then 504).",
            default="1s",
            example="250ms",
        ),
        "response": Field(
            duration(none=True),
            "From the request sent until the response's head came (then 504).",
            default="15s",
            example="3s",
        ),
        "idle": Field(
            duration(none=True),
            "Silence in either direction of a body, a tunnel or a TCP relay, and of a client between two "
            "requests. "
            "Built in are 60 s, and 1 h for TCP and tunnels; when the key is written, it holds for all.",
            default="60s",
            example="5m",
        ),
        "header": Field(
            duration(none=True),
            "Until a request's head is complete (then 408). It runs before a service is known, so only "
            "the one of "
            "`defaults` counts.",
            default="10s",
            example="5s",
        ),
        "total": Field(
            duration(none=True),
            "The whole exchange with its retries (then 504).",
            default="none",
            example="30s",
        ),
    },
)
_RETRIES = Section(
    "`retries`",
    {
        "attempts": Field(
            Integer(0, 100), "Retries at most: 2 means up to three sends.", default=2, example=1
        ),
        "budget": Field(
            share(0.0, 1.0, none=True),
            "Retries at most, as a share of all requests to the service.",
            default="20%",
            example="10%",
        ),
    },
)
_UPSTREAM = Section(
    "`upstream`",
    {
        "keepalive": Field(
            Integer(0, 1_000_000),
            "Idle connections kept to each endpoint by each worker; 0 closes each after its exchange.",
            default=128,
            example=32,
        ),
        "idle": Field(
            duration(none=True), "How long an idle connection is kept.", default="55s", example="20s"
        ),
        "max_age": Field(
            duration(none=True),
            "How old a connection may get before it is closed instead of kept.",
            default="none",
            example="10m",
            late=True,
        ),
    },
)
_HEALTH = Section(
    "`health`",
    {
        "path": Field(
            Text("a path such as `/healthz`", texts.parse_path),
            "What is asked for.",
            default="/",
            example="/healthz",
        ),
        "interval": Field(duration(), "From one check to the next.", default="2s", example="5s"),
        "timeout": Field(duration(), "How long an answer may take.", default="1s", example="500ms"),
        "healthy": Field(
            Integer(1, 1000), "Good checks in a row that bring an endpoint back.", default=2, example=1
        ),
        "unhealthy": Field(
            Integer(1, 1000), "Failed checks in a row that take one out.", default=3, example=2
        ),
    },
)


def _inherited() -> dict[str, Field]:
    """The keys that `defaults` and a service share; a service overrides them one by one."""
    return {
        "timeouts": Field(_TIMEOUTS, "How long each step may take.", example={"response": "3s"}),
        "retries": Field(
            _RETRIES, "Sending a request again to another endpoint.", example={"attempts": 1}, late=True
        ),
        "upstream": Field(_UPSTREAM, "Connections to endpoints.", example={"keepalive": 32}),
        "balance": Field(
            _BALANCE,
            "How an endpoint is picked: a policy's name, or a mapping.",
            default="least_request",
            example="maglev",
        ),
    }


SERVICE: Final = Section(
    "service `{name}`",
    {
        "endpoints": Field(
            ListOf(_ENDPOINT, "a list of addresses such as `[10.0.0.1:8080]`"),
            "Where the service is: addresses, or mappings with `address`. An empty list answers 503 "
            "`no_endpoint`.",
            example=["10.0.0.1:8080"],
        ),
        **_inherited(),
        "health": Field(_HEALTH, "Active checks.", example={"path": "/healthz"}, late=True),
        "send_proxy": Field(
            Choice({"off": None, "v1": "v1", "v2": "v2"}, what="version"),
            "PROXY protocol towards the endpoint.",
            default="off",
            example="v2",
        ),
    },
)
SERVICES: Final = MapOf(
    Named("service", SERVICE, DEFINITIONS), "services by name", texts.parse_name, NAME_PATTERN
)

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
            Integer(300, 399, check=_redirect_status),
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
    sequence=ListOf(Named("route", ROUTE, DEFINITIONS), "a list of routes", empty=False),
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
            Boolean(), "`X-Request-Id`: made here when the request has none.", default=True, example=False
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
    },
    {"oneOf": [{"required": [key]} for key in ("routes", "service")]},
)

_ADMIN_BIND = Text("an address such as `127.0.0.1:9400`, or `off`", texts.parse_admin)
_ADMIN = ByShape(
    _ADMIN_BIND.says,
    scalar=_ADMIN_BIND,
    mapping=Section(
        "`admin`",
        {
            "bind": Field(
                _ADMIN_BIND, "Where the admin API listens.", default="127.0.0.1:9400", example="0.0.0.0:9400"
            ),
            "token": Field(
                Text("text", texts.parse_line),
                "What a POST that does not come from this machine must carry as its bearer token.",
                example="${file:/run/secrets/admin-token}",
            ),
        },
    ),
)
_LIMITS = Section(
    "`limits`",
    {
        "header_bytes": Field(
            size(256, 64 << 10), "A request's whole head (then 431).", default="32KiB", example="64KiB"
        ),
        "header_count": Field(Integer(1, 256), "Header fields (then 431).", default=100, example=200),
        "target_bytes": Field(
            size(16, 64 << 10), "The request target (then 414).", default="8KiB", example="16KiB"
        ),
        "method_bytes": Field(Integer(3, 1024), "The method's length (then 501).", default=32, example=16),
        "body": Field(size(1, none=True), "A request's body (then 413).", default="none", example="10MiB"),
        "connections": Field(
            Integer(1, 100_000_000, {"auto": None}),
            "Client connections at one time; `auto` follows the limit of open files.",
            default="auto",
            example=10000,
        ),
    },
)

ROOT: Final = Section(
    "the file",
    {
        "admin": Field(
            _ADMIN,
            "The admin API: an address, `off`, or a mapping with `bind` and `token`.",
            default="127.0.0.1:9400",
            example="unix:/run/fm.sock",
        ),
        "workers": Field(
            Integer(1, 1024, {"auto": None}),
            "Worker threads; `auto` is one for each CPU that the process may use. Changes at a restart only.",
            default="auto",
            example=2,
        ),
        "registry": Field(
            Text("the path of a folder", texts.parse_line),
            "A folder of `*.yaml` and `*.yml` files, each with `services`; watched, merged by name. "
            "Relative to the "
            "configuration file.",
            example="./services.d",
        ),
        "trusted_proxies": Field(
            ListOf(
                Text("an address range such as `10.0.0.0/8`", texts.parse_network), "a list of address ranges"
            ),
            "Peers whose `X-Forwarded-*`, `Forwarded` and PROXY headers are believed.",
            default=[],
            example=["10.0.0.0/8"],
        ),
        "drain": Field(
            Section(
                "`drain`",
                {
                    "delay": Field(
                        duration(0.0),
                        "From the signal (readiness fails) until the listeners close.",
                        default="0s",
                        example="5s",
                    ),
                    "timeout": Field(
                        duration(0.0, none=math.inf),
                        "From there until the end is forced.",
                        default="30s",
                        example="1m",
                    ),
                },
            ),
            "How the process ends.",
            example={"delay": "5s"},
        ),
        "access_log": Field(
            ByShape(
                "`off`, or a mapping with `to` and `format`",
                scalar=Choice({"off": None}, what="value"),
                mapping=Section(
                    "`access_log`",
                    {
                        "to": Field(
                            Text("`stdout` or a path", texts.parse_line),
                            "`stdout` or the path of a file.",
                            default="stdout",
                            example="/var/log/fastmesh/access.log",
                        ),
                        "format": Field(
                            Choice({"json": "json", "combined": "combined"}, what="format"),
                            "`json` or `combined`.",
                            default="json",
                            example="combined",
                        ),
                    },
                ),
            ),
            "One line for each exchange; off unless it is set.",
            default="off",
            example={"to": "stdout"},
        ),
        "log": Field(
            Section(
                "`log`",
                {
                    "level": Field(
                        Choice({word: word for word in ("debug", "info", "warning", "error")}, what="level"),
                        "The least severe entries that are written.",
                        default="info",
                        example="debug",
                    ),
                    "format": Field(
                        Choice({"text": "text", "json": "json"}, what="format"),
                        "`text` or `json`.",
                        default="text",
                        example="json",
                    ),
                },
            ),
            "fastmesh's own log.",
            example={"format": "json"},
        ),
        "limits": Field(_LIMITS, "What a client may send.", example={"body": "10MiB"}),
        "defaults": Field(
            Section("`defaults`", _inherited()),
            "What every service inherits, key by key.",
            example={"timeouts": {"connect": "250ms"}},
        ),
        "listeners": Field(
            MapOf(
                Named("listener", LISTENER, DEFINITIONS),
                "listeners by name",
                texts.parse_name,
                NAME_PATTERN,
                False,
            ),
            "Where clients come in.",
            example={"web": {"bind": ":8080", "routes": {"/": "user"}}},
            required=True,
        ),
        "services": Field(SERVICES, "Where requests go.", example={"user": {"endpoints": ["10.0.0.1:8080"]}}),
    },
)
REGISTRY_FILE: Final = Section(
    "a registry file",
    {"services": Field(SERVICES, "As in the configuration file.", required=True)},
)
