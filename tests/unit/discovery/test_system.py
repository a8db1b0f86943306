"""resolv.conf and hosts, as libc reads them."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from fastmesh.discovery.system import LOOPBACK, Settings, System, addresses_in_hosts, parse_resolv_conf


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("", Settings()),
        ("nameserver 10.0.0.2\n", Settings((("10.0.0.2", 53),))),
        (
            "# a comment\nnameserver 127.0.0.11 ; Docker's\nnameserver fe80::1%eth0\nnameserver none\n"
            "nameserver 10.0.0.3\nnameserver 10.0.0.4\n"
            "domain old\nsearch a.svc.cluster.local svc.cluster.local. Cluster.Local .\n"
            "options ndots:5 timeout:1 attempts:3 rotate use-vc edns0\noptions ndots:4\n",
            Settings(
                (("127.0.0.11", 53), ("fe80::1%eth0", 53), ("10.0.0.3", 53)),
                ("a.svc.cluster.local", "svc.cluster.local", "cluster.local"),
                ndots=4,
                timeout=1,
                attempts=3,
                rotate=True,
                tcp=True,
            ),
        ),
        ("options ndots:99 timeout:0 attempts:x\n", Settings(ndots=15, timeout=1, attempts=2)),
        ("nameserver\nsearch\noptions\n", Settings()),
    ],
)
def test_resolv_conf(text: str, settings: Settings) -> None:
    assert parse_resolv_conf(text) == settings


def test_the_domain_of_this_machine_is_searched_unless_the_file_says_another() -> None:
    assert parse_resolv_conf("", "web.example.com").search == ("example.com",)
    assert parse_resolv_conf("search .\n", "web.example.com").search == ()
    assert parse_resolv_conf("", "web").search == ()


@pytest.mark.parametrize(
    ("server", "on_loopback"),
    [("127.0.0.11", True), ("::1", True), ("10.0.0.2", False), ("fe80::1%lo", False)],
)
def test_a_server_on_a_loopback_address(server: str, on_loopback: bool) -> None:
    assert Settings(((server, 53), ("127.0.0.1", 53))).on_loopback == on_loopback


def test_hosts() -> None:
    text = "127.0.0.1\tlocalhost\n10.0.0.1 API api.example. # api\n#10.0.0.2 api\n10.0.0.3 apis\n"
    text += "2001:DB8::1 x api\nnonsense api\n10.0.0.1 api\nfe80::1%eth0 api\n\n10.0.0.9\n"
    assert addresses_in_hosts(text.splitlines(), "api") == ("10.0.0.1", "2001:db8::1")
    assert addresses_in_hosts(text.splitlines(), "api.example") == ("10.0.0.1",)
    assert addresses_in_hosts(text.splitlines(), "none") == ()


def test_the_files_are_read_again_when_they_change(tmp_path: Path) -> None:
    resolv_conf, hosts = tmp_path / "resolv.conf", tmp_path / "hosts"
    system = System(str(resolv_conf), str(hosts))
    assert system.settings().servers == Settings().servers
    assert system.addresses("api") == ()
    resolv_conf.write_text("nameserver 10.0.0.2\n")
    hosts.write_text("10.0.0.1 api\n")
    assert system.settings().servers == (("10.0.0.2", 53),)
    assert system.addresses("api.") == ("10.0.0.1",)
    fresh = tmp_path / "fresh"
    fresh.write_text("nameserver 10.0.0.3\n")
    fresh.rename(resolv_conf)
    hosts.write_text("10.0.0.1 api\n10.0.0.2 api\n")
    assert system.settings().servers == (("10.0.0.3", 53),)
    assert system.addresses("api") == ("10.0.0.1", "10.0.0.2")
    hosts.unlink()
    assert system.addresses("api") == ()


def test_localhost_is_the_loopback_whatever_dns_says(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    system = System("/dev/null", str(hosts))
    assert system.addresses("localhost") == system.addresses("a.localhost") == LOOPBACK
    hosts.write_text("127.0.0.5 localhost\n")
    assert system.addresses("localhost") == ("127.0.0.5",)


def test_only_what_is_asked_for_is_kept(tmp_path: Path) -> None:
    system = System("/dev/null", "/dev/null")
    for name in ("a", "b."):
        system.addresses(name)
    system.keep_only(["b."])
    assert system._of == {"b": ()}


def test_without_a_free_descriptor_what_was_read_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the file is read as soon as that is possible, though it does not change any more."""
    resolv_conf, hosts = tmp_path / "resolv.conf", tmp_path / "hosts"
    resolv_conf.write_text("nameserver 10.0.0.2\n")
    hosts.write_text("10.0.0.1 api\n")
    system = System(str(resolv_conf), str(hosts))
    assert system.settings().servers == (("10.0.0.2", 53),)
    resolv_conf.write_text("nameserver 10.0.0.33\n")

    def none_free(*arguments: object, **more: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", none_free)
        assert system.settings().servers == (("10.0.0.2", 53),)
        assert system.addresses("api") == ()
    assert system.settings().servers == (("10.0.0.33", 53),)
    assert system.addresses("api") == ("10.0.0.1",)
