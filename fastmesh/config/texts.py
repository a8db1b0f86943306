"""The texts with a grammar: addresses, networks, hosts, paths, names. Each function checks and canonicalises.

All raise `Wrong` with what is wrong and what to write.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import warnings
from collections.abc import Callable

from fastmesh.config.kinds import Wrong, did_you_mean
from fastmesh.model import Address, Bind

UNIX_PATH_BYTES = 107  # sun_path is 108 bytes and ends in NUL
TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2

STATUS_RANGE_PATTERN = "^[2-5][0-9]{2}-[2-5][0-9]{2}$"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._/@-]{0,127}$"

_NAME = re.compile(NAME_PATTERN)
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Fields of a request that its framing or its connection decides (RFC 9110 sections 7.6.1 and 8.6).
_OWN_FIELDS = frozenset(
    ("connection", "content-length", "expect", "keep-alive", "proxy-connection", "te", "trailer",
     "transfer-encoding", "upgrade")
)  # fmt: skip
_KNOWN_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")


def parse_bind(text: str) -> Bind:
    """`host:port`, `[v6]:port`, `:port` or `unix:/path`; the host is an IP address."""
    if text.startswith("unix:"):
        return Bind("unix", path=_unix_path(text))
    if text.isdigit():
        raise Wrong(f"`{text}` is only a port", f"write `:{text}` for all addresses, or `127.0.0.1:{text}`")
    host, port = _split(text, "0.0.0.0", least_port=0)
    if host == "":
        return Bind("inet6", "", port)
    if host == "*":
        raise Wrong(f"`{text}` has `*` as its host", f"write `:{port}` for all addresses")
    address = _ip_address(host, text)
    if address is None:
        if host.lower() == "localhost":
            raise Wrong(f"`{text}` is a name, and listening needs an address", f"write `127.0.0.1:{port}`")
        raise Wrong(f"`{host}` is not an IP address", "write the address of an interface, or `:port` for all")
    return Bind("inet6" if ":" in address else "inet", address, port)


def parse_endpoint(text: str) -> Address:
    """`ip:port`, `[v6]:port`, `name:port` or `unix:/path`."""
    if text.startswith("unix:"):
        return Address("unix", path=_unix_path(text))
    host, port = _split(text, "10.0.0.1", least_port=1)
    if not host:
        raise Wrong(f"`{text}` has no host", f"write `127.0.0.1:{port}` for this machine")
    address = _ip_address(host, text)
    if address is not None:
        return Address("inet6" if ":" in address else "inet", address, port)
    return Address("name", _looked_up_name(host, text), port)


def parse_dns(text: str) -> Address:
    """`name:port`, the name to be looked up in DNS."""
    if text.startswith("unix:"):
        raise Wrong(f"`{text}` is a path, and DNS knows names", f"write `address: {text}`")
    address = parse_endpoint(text)
    if address.kind != "name":
        raise Wrong(f"`{text}` is an address, and DNS knows names", f"write `address: {text}`")
    return address


def parse_dns_srv(text: str) -> Address:
    """The name of SRV records, such as `_http._tcp.api`; they say the ports."""
    name, colon, port = text.rpartition(":")
    if colon and port.isdigit():
        raise Wrong(
            f"`{text}` has a port, and SRV records say the ports",
            f"write `{name}`, or `dns: {text}` for the addresses of a host",
        )
    if not text or _ip_address(text, text) is not None:
        raise Wrong(f"`{text}` is not a name", "write one such as `_http._tcp.api`")
    if "._udp." in text.lower():
        raise Wrong(f"`{text}` is a service over UDP", f"write `{text.lower().replace('._udp.', '._tcp.')}`")
    return Address("srv", _looked_up_name(text, text))


def _looked_up_name(host: str, text: str) -> str:
    """With the dot at its end, if it has one: no search domain is tried then."""
    return _host_name(host, text) + ("." if host.endswith(".") else "")


def _split(text: str, example: str, least_port: int) -> tuple[str, int]:
    """Host (without brackets) and port of `text`."""
    if "://" in text:
        scheme, _, rest = text.partition("://")
        if scheme in ("http", "tcp") and rest:
            raise Wrong(f"`{text}` is a URL", f"write `{rest.split('/')[0]}`")
        raise Wrong(f"`{text}` is a URL", "write `host:port`")
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket:
            raise Wrong(f"`{text}` has no closing `]`", f"write `[{host.rsplit(':', 1)[0]}]:port`")
        if not rest.startswith(":"):
            raise Wrong(f"`{text}` has no port", f"write `[{host}]:8080`")
        if ":" not in host:
            raise Wrong(f"`{text}` has brackets around what is not an IPv6 address", f"write `{host}{rest}`")
        port = rest[1:]
    else:
        host, colon, port = text.rpartition(":")
        if not colon:
            raise Wrong(f"`{text}` has no port", f"write `{text or example}:8080`")
        if ":" in host:
            raise Wrong(f"`{text}` is not `host:port`", "an IPv6 address stands in brackets: `[::1]:8080`")
        if "/" in port:
            raise Wrong(f"`{text}` has a path", f"write `{host}:{port.partition('/')[0]}`")
    if not (port.isascii() and port.isdigit()):
        if not port:
            raise Wrong(f"`{text}` has no port after the `:`", f"write `{text}8080`")
        raise Wrong(f"`{text}`: `{port}` is not a port", f"a port is a number from {least_port} to 65535")
    if len(port) > 5 or not least_port <= int(port) <= 65535:
        raise Wrong(f"`{text}`: port {port} is out of range", f"a port is from {least_port} to 65535")
    return host, int(port)


def _ip_address(host: str, text: str) -> str | None:
    """The canonical address, None for a name; Wrong for what only looks like an address."""
    if ":" in host:
        if "%" in host:
            raise Wrong(f"`{text}` has a zone", "addresses with `%zone` are not supported")
        try:
            return str(ipaddress.IPv6Address(host))
        except ValueError:
            raise Wrong(
                f"`{host}` is not an IPv6 address", "write one such as `[2001:db8::1]:8080`"
            ) from None
    if host and host[-1].isdigit() and host.replace(".", "").isdigit():
        try:
            socket.inet_pton(socket.AF_INET, host)  # as strict as ipaddress, and much faster
            return host
        except OSError:
            raise Wrong(
                f"`{host}` is not an IPv4 address", "four numbers from 0 to 255, without leading zeros"
            ) from None
    return None


def _host_name(host: str, text: str) -> str:
    name = host.lower().removesuffix(".")
    if not host.isascii():
        raise Wrong(f"`{text}` has a character beyond ASCII", "write the name in its `xn--` form")
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise Wrong(f"`{host}` is not a host name", "letters, digits and `-`, in parts joined by `.`")
    if labels[-1].isdigit():
        raise Wrong(f"`{host}` is neither a host name nor an IPv4 address", "check it for a misprint")
    return name


def _unix_path(text: str) -> str:
    path = text[5:]
    if path.startswith("//"):
        path = "/" + path.lstrip("/")
    if not path.startswith("/"):
        raise Wrong(f"`{text}`: the path is not absolute", "write `unix:/path/to/socket`")
    if _CONTROL.search(path):
        raise Wrong("the path has a control character", "remove it")
    length = len(path.encode())
    if length > UNIX_PATH_BYTES:
        raise Wrong(f"the path is {length} bytes long", f"the system allows {UNIX_PATH_BYTES}")
    return path


def parse_admin(text: str) -> str | None:
    """The canonical text of a bind, or None for `off`."""
    return None if text == "off" else parse_bind(text).text


def parse_network(text: str) -> str:
    """The canonical text of an address range, `10.0.0.0/8`; an address alone is a range of one."""
    try:
        return str(ipaddress.ip_network(text, strict=True))
    except ValueError:
        pass
    try:
        wider = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise Wrong(
            f"`{text}` is not an address range", "write one such as `10.0.0.0/8` or `2001:db8::/32`"
        ) from None
    raise Wrong(f"`{text}` has bits set after the prefix", f"write `{wider}`")


def parse_name(text: str) -> str:
    """The name of a listener or a service."""
    if not _NAME.fullmatch(text):
        raise Wrong(
            f"`{text}` is not a name", "letters, digits and `._/@-`, starting with a letter or a digit"
        )
    return text


def parse_path(text: str) -> str:
    """The path of a route: absolute, without query, fragment, spaces or control characters."""
    _check_target(text, "a path")
    if not text.startswith("/"):
        raise Wrong(f"`{text}` is not a path", f"a path starts with `/`: write `/{text}`")
    if "?" in text:
        raise Wrong(f"`{text}` has a query", f"routes match the path alone: write `{text.partition('?')[0]}`")
    return text


def parse_prefix(text: str) -> str:
    """A path prefix: as a path, and without a `/` at its end (prefixes match whole elements)."""
    if text.endswith("*"):
        shorter = text.rstrip("*").rstrip("/") or "/"
        raise Wrong(f"`{text}` has a `*`", f"a path is a prefix already: write `{shorter}`")
    return parse_path(text).rstrip("/") or "/"


def parse_redirect(text: str) -> str:
    """An absolute path, or an http(s) URL."""
    _check_target(text, "a target")
    if "?" in text:
        raise Wrong(f"`{text}` has a query", "the query of the request is kept: leave it out")
    if text.startswith("//") or not text.startswith(("/", "http://", "https://")):
        raise Wrong(f"`{text}` is neither a path nor a URL", "start it with `/`, `http://` or `https://`")
    return text


def _check_target(text: str, what: str) -> None:
    if "#" in text:
        raise Wrong(f"`{text}` has a `#`", f"{what} has no fragment")
    if not text.isascii() or " " in text or _CONTROL.search(text):
        raise Wrong(
            f"`{text}` has a character that {what} cannot have", "write it percent-encoded, such as `%20`"
        )


def parse_host(text: str) -> str:
    """A host pattern: a name, an IP address, or `*.name`; without a port."""
    if text == "*":
        raise Wrong("`*` matches every host", "leave `hosts` out")
    name = text.removeprefix("*.")
    if "*" in name:
        raise Wrong(f"`{text}` has a `*` in its middle", "a pattern is `*.` and a name, or a name")
    if name.startswith("["):
        host = name[1:].partition("]")[0]
        address = _ip_address(host, text) if ":" in host else None
        if address is None or not name.endswith("]"):
            raise Wrong(f"`{text}` is not a host", "write one such as `[2001:db8::1]`, without a port")
        return f"[{address}]"
    _, colon, port = name.rpartition(":")
    if colon and port.isdigit():
        raise Wrong(f"`{text}` has a port", f"ports are ignored: write `{text.removesuffix(':' + port)}`")
    address = _ip_address(name, text)
    if address is not None and text == name:
        return address
    return ("*." if text != name else "") + _host_name(name, text)


def parse_method(text: str) -> str:
    """A request method (methods are case-sensitive)."""
    if text.upper() in _KNOWN_METHODS and text != text.upper():
        raise Wrong(f"methods are case-sensitive and `{text}` is not one", f"write `{text.upper()}`")
    return token("a method")(text)


def token(what: str) -> Callable[[str], str]:
    """A check for RFC 9110's token."""

    def check(text: str) -> str:
        if not TOKEN.fullmatch(text):
            raise Wrong(f"`{text}` is not {what}", "letters, digits and `!#$%&'*+-.^_|~` are allowed")
        return text

    return check


def lower_token(what: str) -> Callable[[str], str]:
    """As `token`, in lower case."""
    check = token(what)
    return lambda text: check(text).lower()


def parse_header_value(text: str) -> str:
    """What a field value can be after its surrounding space is gone."""
    if text != text.strip(" \t"):
        raise Wrong(f"`{text}` has space at an end", "field values are compared without: remove it")
    if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", text):
        raise Wrong("the value has a control character", "remove it")
    return text


def parse_line(text: str) -> str:
    """A single line of text that is not empty."""
    if not text:
        raise Wrong("the text is empty", "write some text, or remove the key")
    if _CONTROL.search(text):
        raise Wrong("the text has a control character or a line break", "remove it")
    return text


def parse_regex_path(text: str) -> str:
    """Refused: paths by regular expression have no matcher yet."""
    raise Wrong(
        f"`{text}`: paths by regular expression are not built yet", "write a prefix or `{exact: /path}`"
    )


def parse_not_empty(text: str) -> str:
    """Text of any kind that is not empty."""
    if not text:
        raise Wrong("the text is empty", "write some text, or remove the key")
    return text


def parse_target(text: str) -> str:
    """What a check asks for: an absolute path, with a query or without one."""
    _check_target(text, "a path")
    if not text.startswith("/"):
        raise Wrong(f"`{text}` is not a path", f"a path starts with `/`: write `/{text}`")
    return text


def parse_health(text: str) -> str:
    """The short form of a check: a path. (`tcp` and `off` are words of the key.)"""
    if not text.startswith("/"):
        meant = did_you_mean(text, ("tcp", "off")) if text else None
        raise Wrong(f"`{text}` is not a path", meant or "write a path such as `/healthz`, `tcp` or `off`")
    return parse_target(text)


def parse_check_method(text: str) -> str:
    """The method of a check: in upper case, and not CONNECT, which asks for no path."""
    parse_method(text)
    if text != text.upper():
        raise Wrong(f"`{text}` is not in upper case", f"methods are case-sensitive: write `{text.upper()}`")
    if text == "CONNECT":
        raise Wrong("`CONNECT` opens a tunnel", "write `GET`, or `type: tcp` to open a connection alone")
    return text


def parse_authority(text: str) -> str:
    """What a Host field holds: a name or an address, with a port or without one."""
    if "://" in text:
        raise Wrong(f"`{text}` is a URL", "write the host alone, such as `example.com`")
    if text.startswith("[") and text.endswith("]"):
        host, port = text[1:-1], ""
    elif ":" in text:
        host, number = _split(text, "example.com", least_port=1)
        port = f":{number}"
    else:
        host, port = text, ""
    address = _ip_address(host, text)
    if address is None:
        return _host_name(host, text) + port
    return (f"[{address}]" if ":" in address else address) + port


def parse_check_header(text: str) -> str:
    """The name of a header that a check may send, in lower case."""
    name = lower_token("a header's name")(text)
    if name == "host":
        raise Wrong("`host` is a key of its own", "write `host: NAME` beside `headers`")
    if name in _OWN_FIELDS:
        raise Wrong(f"`{name}` belongs to the connection and is set as it must be", "remove it")
    return name


def parse_check_value(text: str) -> str:
    """The value of a header that a check sends."""
    if not text.isascii():
        raise Wrong("the value has a character beyond ASCII", "remove it")
    return parse_header_value(text)


def parse_status_range(text: str) -> tuple[int, int]:
    """(first, last) of `200-299`."""
    if not re.fullmatch(STATUS_RANGE_PATTERN, text):
        words = re.fullmatch("([2-5])xx", text.lower())
        first, last = (f"{words[1]}00", f"{words[1]}99") if words else ("200", "299")
        raise Wrong(
            f"`{text}` is no range of status codes", f"write two from 200 to 599, such as `{first}-{last}`"
        )
    first, last = text.split("-")
    if first > last:
        raise Wrong(f"the range `{text}` ends before it starts", f"write `{last}-{first}`")
    return int(first), int(last)


def parse_regex(text: str) -> str:
    """A regular expression in the syntax of Python that compiles."""
    if not text:
        raise Wrong("the text is empty", "write some text, or remove the key")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sets that later versions may read in another way
            re.compile(text)
    except re.error as error:
        where = "" if error.pos is None else f" at its character {error.pos + 1}"
        raise Wrong(
            f"`{text}` is not a regular expression: {error.msg}{where}",
            "put a `\\` before a character that stands for itself",
        ) from None
    except (OverflowError, RecursionError):
        raise Wrong(f"`{text}` cannot be compiled", "write a simpler regular expression") from None
    return text
