"""The table of keys: the one place that says what may stand in a configuration.

The validator reads by it, and the JSON Schema and the tables of docs/configuration.md are made from it.
"""

from __future__ import annotations

import math
from typing import Final

from fastmesh.config import texts
from fastmesh.config.failure_keys import SERVICE_LIMIT_HINTS
from fastmesh.config.kinds import (
    ByShape,
    Choice,
    Field,
    Integer,
    ListOf,
    MapOf,
    Named,
    Section,
    Text,
    duration,
    size,
)
from fastmesh.config.listener_keys import LISTENER
from fastmesh.config.service_keys import SERVICES, inherited_keys
from fastmesh.config.sidecar_keys import SIDECAR

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
                "What each POST must carry as its bearer token; with it, POST may come from other machines.",
                example="${file:/run/secrets/admin-token}",
            ),
        },
    ),
)
_LIMITS = Section(
    "`limits` (of the file)",
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
        "min_rate": Field(
            size(1, 1 << 30, none=True),
            "Bytes a second that a client must send of a body, or take of an answer, at least, counted over "
            "`timeouts.idle` of the service (then 408, or the end of the connection).",
            default="240B",
            example="1KiB",
        ),
        "connections": Field(
            Integer(1, 100_000_000, {"auto": None}),
            "Client connections at one time; `auto` follows the limit of open files. From 92 % of it on idle "
            "ones are closed, from 97 % on new ones take the place of an idle one or get 503.",
            default="auto",
            example=10000,
        ),
        "memory": Field(
            size(16 << 20, words={"auto": None}),
            "What the process may use; `auto` is what the machine has. A limit of the control group counts "
            "beside it. From 92 % of it on new clients are taken more slowly, from 97 % on requests are "
            "refused.",
            default="auto",
            example="256MiB",
        ),
    },
    hints=SERVICE_LIMIT_HINTS,
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
                        "From there until the end is forced; 8s in a file with `sidecar`.",
                        default="30s",
                        example="1m",
                    ),
                },
            ),
            "How the process ends.",
            example={"delay": "5s"},
        ),
        "ready_timeout": Field(
            duration(0.0),
            "How long readiness waits for the first results of names and checks. What has none by then is "
            "named in a warning.",
            default="10s",
            example="30s",
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
                            "`stdout` or the path of a file; a relative one starts at the working directory.",
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
        "limits": Field(
            _LIMITS,
            "What a client may send, and what the process may use. Not to be confused with `limits` of a "
            "service or of `defaults`: how much a service may be used.",
            example={"body": "10MiB"},
        ),
        "defaults": Field(
            Section("`defaults`", inherited_keys()),
            "What every service inherits, key by key.",
            example={"timeouts": {"connect": "250ms"}},
        ),
        "listeners": Field(
            MapOf(
                Named("listener", LISTENER),
                "listeners by name",
                texts.parse_name,
                texts.NAME_PATTERN,
                False,
            ),
            "Where clients come in.",
            example={"web": {"bind": ":8080", "routes": {"/": "user"}}},
        ),
        "sidecar": Field(
            SIDECAR,
            "The common case of a proxy beside one application, in place of the listeners and services that "
            "it stands for.",
            example={"app": 8000, "outbound": {"orders": "orders:8080"}},
        ),
        "services": Field(SERVICES, "Where requests go.", example={"user": {"endpoints": ["10.0.0.1:8080"]}}),
    },
    rules={"anyOf": [{"required": ["listeners"]}, {"required": ["sidecar"]}]},
    hints={
        key: f"it belongs to a service, or to `defaults`: `defaults: {{{key}: ...}}`"
        for key in inherited_keys()
    },
)
REGISTRY_FILE: Final = Section(
    "a registry file",
    {"services": Field(SERVICES, "As in the configuration file.", required=True)},
)
