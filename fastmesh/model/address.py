"""Where to listen and where to connect to, in canonical form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

BindFamily = Literal["inet", "inet6", "unix"]
AddressKind = Literal["inet", "inet6", "unix", "name", "srv", "original"]


def _host_and_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Bind(Struct, frozen=True, order=True, gc=False):
    """One address to listen on.

    `host` is a canonical IP address without brackets. An empty `host` (written `:8080`) has the family
    `inet6` and means every address of both families: an IPv6 socket with IPV6_V6ONLY off, or 0.0.0.0 on a
    machine without IPv6. `[::]:8080` is IPv6 only, so that it can stand beside `0.0.0.0:8080`. `port` 0 lets
    the kernel choose. A `unix` bind has an absolute `path` and nothing else.
    """

    family: BindFamily
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def text(self) -> str:
        """The canonical text: `0.0.0.0:80`, `[::1]:80`, `:80` or `unix:/path`."""
        return f"unix:{self.path}" if self.family == "unix" else _host_and_port(self.host, self.port)

    @property
    def dual_stack(self) -> bool:
        """Whether this bind takes connections of both IP families."""
        return self.family == "inet6" and not self.host


class Address(Struct, frozen=True, order=True, gc=False):
    """One endpoint's address: a canonical IP address and a port, a Unix path, or a host name to resolve.

    `srv` is a host name whose SRV records say hosts and ports; its own port is 0. `original` is where an
    intercepted connection was going.
    """

    kind: AddressKind
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def text(self) -> str:
        """The canonical text: `10.0.0.1:80`, `api:80`, `_http._tcp.api`, `unix:/path` or `original`."""
        if self.kind in ("srv", "original"):
            return self.host or self.kind
        return f"unix:{self.path}" if self.kind == "unix" else _host_and_port(self.host, self.port)

    @property
    def is_name(self) -> bool:
        """Whether it stands for addresses that are to be looked up."""
        return self.kind in ("name", "srv")


class Place(Struct, frozen=True, order=True, gc=False):
    """One address that a name stands for. An SRV record says a share of the endpoint's `weight` and a
    `priority` behind the endpoint's, ranks from 0 on; for a host name all are alike."""

    address: Address
    weight: int = 1
    priority: int = 0


# What the names of endpoints stand for just now, by their text
Resolved = Mapping[str, tuple[Place, ...]]
