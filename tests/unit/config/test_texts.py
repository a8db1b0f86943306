"""Texts with a grammar: what comes out of the good ones. The bad ones are in test_loader_mistakes.py."""

from collections.abc import Callable
from typing import Any

import pytest

from fastmesh.config import texts
from fastmesh.config.kinds import Wrong
from fastmesh.model import Address, Bind


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        (":80", Bind("inet6", "", 80)),
        ("0.0.0.0:0", Bind("inet", "0.0.0.0", 0)),
        ("[::]:80", Bind("inet6", "::", 80)),
        ("[2001:DB8:0:0::1]:65535", Bind("inet6", "2001:db8::1", 65535)),
        ("unix:///run/x.sock", Bind("unix", path="/run/x.sock")),
        ("unix:/" + "x" * 106, Bind("unix", path="/" + "x" * 106)),
    ],
)
def test_binds(text: str, bind: Bind) -> None:
    assert texts.parse_bind(text) == bind


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("1.2.3.4:1", Address("inet", "1.2.3.4", 1)),
        ("[::FFFF]:80", Address("inet6", "::ffff", 80)),
        ("Api.Example.:80", Address("name", "api.example.", 80)),
        ("a_b-c.d1:80", Address("name", "a_b-c.d1", 80)),
        ("1password:80", Address("name", "1password", 80)),
        ("xn--bcher-kva.example:80", Address("name", "xn--bcher-kva.example", 80)),
        ("unix:/x y", Address("unix", path="/x y")),
    ],
)
def test_endpoints(text: str, address: Address) -> None:
    assert texts.parse_endpoint(text) == address


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (texts.parse_admin, "off", None),
        (texts.parse_admin, "[::1]:9400", "[::1]:9400"),
        (texts.parse_network, "10.1.2.3", "10.1.2.3/32"),
        (texts.parse_network, "2001:DB8::/32", "2001:db8::/32"),
        (texts.parse_name, "ns/web-1.x_y@z", "ns/web-1.x_y@z"),
        (texts.parse_path, "/a%20b/", "/a%20b/"),
        (texts.parse_prefix, "/a/b//", "/a/b"),
        (texts.parse_prefix, "/", "/"),
        (texts.parse_redirect, "https://example.com/x", "https://example.com/x"),
        (texts.parse_host, "Example.COM.", "example.com"),
        (texts.parse_host, "*.Example.com", "*.example.com"),
        (texts.parse_host, "[2001:DB8::1]", "[2001:db8::1]"),
        (texts.parse_host, "10.0.0.1", "10.0.0.1"),
        (texts.parse_method, "GET", "GET"),
        (texts.parse_method, "M-SEARCH", "M-SEARCH"),
        (texts.parse_method, "purge", "purge"),
        (texts.lower_token("x"), "X-Y", "x-y"),
        (texts.parse_header_value, "a b\tc é", "a b\tc é"),
        (texts.parse_header_value, "", ""),
        (texts.parse_line, "x y", "x y"),
    ],
)
def test_other_texts(parse: Callable[[str], Any], text: str, value: Any) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (texts.parse_bind, "web:80"),
        (texts.parse_bind, "tcp://0.0.0.0:80"),
        (texts.parse_bind, "[::]"),
        (texts.parse_bind, "[1.2.3.4]:80"),
        (texts.parse_bind, "0.0.0.0:"),
        (texts.parse_bind, "0.0.0.0:８０"),
        (texts.parse_bind, "unix:/a\nb"),
        (texts.parse_endpoint, "a:80/path"),
        (texts.parse_endpoint, "-a:80"),
        (texts.parse_endpoint, "a" * 64 + ":80"),
        (texts.parse_endpoint, ".".join(["a" * 60] * 5) + ":80"),
        (texts.parse_endpoint, "a.1:80"),
        (texts.parse_endpoint, "1.2.3:80"),
        (texts.parse_endpoint, "é:80"),
        (texts.parse_endpoint, "ftp://x:80"),
        (texts.parse_name, ""),
        (texts.parse_name, "-x"),
        (texts.parse_name, "x\n"),
        (texts.parse_name, "x" * 129),
        (texts.parse_path, ""),
        (texts.parse_path, "/a\x7f"),
        (texts.parse_redirect, "//evil.example/"),
        (texts.parse_redirect, "/a\r\nSet-Cookie: x"),
        (texts.parse_redirect, "javascript:alert(1)"),
        (texts.parse_host, ""),
        (texts.parse_host, "*."),
        (texts.parse_host, "[::1]:80"),
        (texts.parse_host, "*.10.0.0.1"),
        (texts.parse_method, ""),
        (texts.parse_method, "Get"),
        (texts.parse_header_value, "a\r\nb"),
        (texts.parse_header_value, "a\0"),
        (texts.parse_line, ""),
        (texts.parse_line, "a\nb"),
        (texts.parse_regex_path, "/.*"),
    ],
)
def test_refused_texts(parse: Callable[[str], Any], text: str) -> None:
    with pytest.raises(Wrong) as caught:
        parse(text)
    assert caught.value.message


@pytest.mark.parametrize(
    ("text", "authority"),
    [
        ("Shop.Example.com.", "shop.example.com"),
        ("shop:8080", "shop:8080"),
        ("10.0.0.1", "10.0.0.1"),
        ("10.0.0.1:80", "10.0.0.1:80"),
        ("[2001:DB8:0::1]", "[2001:db8::1]"),
        ("[::1]:80", "[::1]:80"),
    ],
)
def test_authorities(text: str, authority: str) -> None:
    assert texts.parse_authority(text) == authority


def test_what_a_check_sends() -> None:
    assert texts.parse_target("/a/b?c=/d") == "/a/b?c=/d"
    assert texts.parse_check_method("M-SEARCH") == "M-SEARCH"
    assert texts.parse_check_header("X-Probe") == "x-probe"
    assert texts.parse_check_value("a  b") == "a  b"


@pytest.mark.parametrize("text", ["ok", r"\bok\b", "(?i)ok", "é+", r"\u00e9", "[[]", '"status": *"ok"'])
def test_regular_expressions(text: str) -> None:
    assert texts.parse_regex(text) == text


@pytest.mark.parametrize("text", ["(?L)a", "(" * 5000, "a**", r"\400", "a(?i)b", "a{4294967296}"])
def test_what_does_not_compile(text: str) -> None:
    with pytest.raises(Wrong):
        texts.parse_regex(text)
