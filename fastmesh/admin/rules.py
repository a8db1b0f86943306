"""Who may ask the admin API for what: one pure function, `refusal`.

A browser on the same machine can be made to send requests to the loopback by any web page. So whatever
carries an ``Origin`` is refused, and a POST must name a loopback host or the admin address as its ``Host`` (a
page that points a DNS name of its own at 127.0.0.1 can not). Reading stays open to Prometheus, which scrapes
by any name.
"""

from __future__ import annotations

import hmac
import ipaddress

from fastmesh.admin.http import Peer, Request, Response, error_response
from fastmesh.model import Admin

READ_METHODS = ("GET", "HEAD")


def is_loopback(host: str) -> bool:
    """Whether ``host`` (without brackets and port) is a loopback address or a name that stands for one."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def split_host(text: str) -> tuple[str, str]:
    """(host without brackets, port or "") of ``host:port``, ``[v6]:port``, ``host`` or ``[v6]``."""
    text = text.strip()
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, rest.removeprefix(":")
    host, separator, port = text.rpartition(":")
    return (host, port) if separator else (text, "")


def binds_loopback_only(bind: str) -> bool:
    """Whether only this machine reaches the address that the admin API listens on."""
    return bind.startswith("unix:") or is_loopback(split_host(bind)[0])


def _names_this_api(host_header: str, bind: str) -> bool:
    host, port = split_host(host_header)
    if is_loopback(host):
        return True
    bind_host, bind_port = split_host(bind)
    return bool(host) and host.lower() == bind_host.lower() and (port or "80") == bind_port


def _bearer_matches(request: Request, token: str) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())


def refusal(request: Request, admin: Admin) -> Response | None:
    """Why ``request`` must not be served; None if it may be.

    With a token configured, each POST needs ``Authorization: Bearer <token>`` (and then it may come from
    anywhere: no web page knows the token). Without one, POST is for loopback and Unix peers of a loopback or
    Unix bind.
    """
    if "origin" in request.headers:
        return error_response(
            403,
            "requests from web pages are refused",
            "the admin API takes no request with an Origin header; use curl or the fastmesh command",
        )
    if request.method in READ_METHODS:
        return None
    bind = admin.bind or ""
    if admin.token is not None:
        if _bearer_matches(request, admin.token):
            return None
        return error_response(
            401,
            "this request needs the admin token",
            "send `Authorization: Bearer <token>` with the token of `admin: {token: …}`",
            (("www-authenticate", 'Bearer realm="fastmesh admin"'),),
        )
    if not binds_loopback_only(bind):
        return error_response(
            403,
            f"the admin API listens on {bind}, which others can reach, so it only serves GET",
            "set `admin: {bind: …, token: …}` and send the token, or bind it to 127.0.0.1 or unix:/path",
        )
    return _loopback_refusal(request, request.peer, bind)


def _loopback_refusal(request: Request, peer: Peer, bind: str) -> Response | None:
    if peer.unix:
        return None
    if not is_loopback(peer.host):
        return error_response(
            403, f"POST from {peer.host} is refused", "send it from the machine that fastmesh runs on"
        )
    host = request.headers.get("host", "")
    if not _names_this_api(host, bind):
        return error_response(
            403,
            f"the Host {host!r} is neither a loopback name nor the admin address",
            f"address the API as http://{bind}/ or http://localhost/ with its port",
        )
    return None
