"""The keys of `sidecar`, and how `intercept` is written in a listener."""

from __future__ import annotations

import re
import socket
from typing import Final

from fastmesh.config import texts
from fastmesh.config.kinds import ByShape, Choice, Field, ListOf, MapOf, Named, Section, Text, Wrong
from fastmesh.config.service_keys import PROTOCOLS
from fastmesh.model import Address, ExitWith

INBOUND_PORT: Final = 15006
OUTBOUND_PORT: Final = 15001

_EXIT_WITH = re.compile(r"(pid|port):([0-9]{1,10})")
_PORT = re.compile(r"[0-9]{1,5}")


def parse_app(text: str) -> Address:
    """Where the application listens: a port of this machine, an IP address or this machine's name with a
    port, or `unix:/path`. That name is what a container knows of its address."""
    address = texts.parse_endpoint(f"127.0.0.1:{text}" if text.isdigit() else text)
    if address.kind == "name" and address.host != socket.gethostname().lower():
        raise Wrong(
            f"`{address.host}` is not this machine's name, and the application is beside the sidecar",
            "write its port",
        )
    return address


def parse_exit_with(text: str) -> ExitWith:
    """`pid:7` or `port:8000`."""
    match = _EXIT_WITH.fullmatch(text)
    if match is None:
        raise Wrong(f"`{text}` is not what to end with", "write `pid:NUMBER` or `port:NUMBER`")
    kind, number = match[1], int(match[2])
    most = 65535 if kind == "port" else 1 << 22  # PID_MAX_LIMIT of the kernel
    if not 1 <= number <= most:
        raise Wrong(f"`{text}`: {number} is not a {kind}", f"a {kind} is a number from 1 to {most}")
    return ExitWith("port" if kind == "port" else "pid", number)


def parse_port(text: str) -> str:
    """A port as the key of a mapping."""
    if not (_PORT.fullmatch(text) and 1 <= int(text) <= 65535):
        raise Wrong(f"`{text}` is not a port", "a port is a number from 1 to 65535")
    return str(int(text))


_ADDRESSES = ListOf(
    Text("an address such as `orders:8080`", texts.parse_endpoint),
    "an address such as `orders:8080`, or a list of them",
    single=True,
    empty=False,
)
_DEPENDENCY = Section(
    "a dependency",
    {
        "to": Field(
            _ADDRESSES,
            "Where the service is, as an endpoint's address; names are resolved. Left out when the service "
            "stands under `services` with its endpoints.",
            example="db:3306",
        ),
        "listen": Field(
            Text("an address such as `127.0.0.1:3306`", texts.parse_bind),
            "Where the application calls it, with `mode: explicit`: 127.0.0.1 and the port of `to`.",
            example="127.0.0.1:3307",
        ),
        "protocol": Field(PROTOCOLS, "The service's `protocol`.", default="http", example="tcp"),
    },
)
SIDECAR: Final = Section(
    "`sidecar`",
    {
        "mode": Field(
            Choice({"explicit": False, "transparent": True}, what="mode"),
            "`explicit`: the application calls its dependencies at addresses of this machine, others call it "
            "at `inbound`. `transparent`: the kernel redirects its connections here "
            "(`fastmesh sidecar iptables --apply`), and it knows nothing of the proxy.",
            default="explicit",
            example="transparent",
        ),
        "app": Field(
            Text("a port such as `8000`", parse_app),
            "Where the application listens: a port of 127.0.0.1, another address, `${HOSTNAME}:8000` where "
            "it listens on a container's own address alone, or `unix:/path`. It is the service `app`.",
            example=8000,
        ),
        "inbound": Field(
            ListOf(
                Text("an address such as `:15006`", texts.parse_bind),
                "an address such as `:15006`, or a list of them",
                single=True,
                empty=False,
            ),
            "Where connections to the application come in.",
            default=f":{INBOUND_PORT}",
            example=":8080",
        ),
        "outbound": Field(
            MapOf(
                Named(
                    "dependency",
                    ByShape(
                        "an address such as `orders:8080`, or a mapping with `to`",
                        scalar=_ADDRESSES,
                        sequence=_ADDRESSES,
                        mapping=_DEPENDENCY,
                    ),
                ),
                "services by name, with their addresses, such as `{orders: orders:8080}`",
                texts.parse_name,
                texts.NAME_PATTERN,
            ),
            "What the application calls: services by name. What else is to be said of one stands under "
            "`services`, where it needs no `endpoints`.",
            example={"orders": "orders:8080"},
        ),
        "exit_with": Field(
            Text("`pid:NUMBER` or `port:NUMBER`", parse_exit_with, "^(pid|port):[0-9]+$"),
            "The proxy ends when that process does, or when nobody listens on that TCP port any more, for "
            "applications that come to an end.",
            example="port:8000",
        ),
    },
    {"anyOf": [{"required": ["app"]}, {"required": ["outbound"]}]},
)

INTERCEPT: Final = Field(
    Choice({"inbound": "inbound", "outbound": "outbound"}, what="direction"),
    "Takes TCP connections that the kernel redirected here (iptables REDIRECT). `outbound` hands each to the "
    "one of `services` that it was going to, `inbound` by its destination port; what fits none is relayed to "
    "where it was going.",
    example="outbound",
)
INTERCEPTED: Final = Field(
    ByShape(
        "a list of services, or a mapping of ports to services",
        sequence=ListOf(
            Text("the name of a service", texts.parse_name, texts.NAME_PATTERN), "a list of services"
        ),
        mapping=MapOf(
            Text("the name of a service", texts.parse_name, texts.NAME_PATTERN),
            "ports and services such as `{8000: app}`",
            parse_port,
            f"^{_PORT.pattern}$",
        ),
    ),
    "With `intercept: outbound` the services that are called, with `inbound` ports and the services behind "
    "them.",
    example=["orders"],
)
