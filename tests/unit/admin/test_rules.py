"""Who may ask the admin API for what."""

import pytest

from fastmesh.admin.http import Peer, Request
from fastmesh.admin.rules import binds_loopback_only, is_loopback, refusal, split_host
from fastmesh.model import Admin

LOCAL = Peer(unix=False, host="127.0.0.1")
REMOTE = Peer(unix=False, host="10.1.2.3")
UNIX = Peer(unix=True)


def status(method, peer, admin, **headers):
    request = Request(
        method, "/x", "", {name.replace("_", "-"): value for name, value in headers.items()}, peer
    )
    refused = refusal(request, admin)
    return None if refused is None else refused.status


@pytest.mark.parametrize(
    ("peer", "host", "bind", "expected"),
    [
        (LOCAL, "localhost:9400", "127.0.0.1:9400", None),
        (LOCAL, "127.0.0.1:9400", "127.0.0.1:9400", None),
        (LOCAL, "[::1]:9400", "127.0.0.1:9400", None),
        (LOCAL, "LOCALHOST", "127.0.0.1:9400", None),
        (LOCAL, "localhost:19400", "127.0.0.1:9400", None),  # a forwarded port
        (LOCAL, "127.9.9.9:9400", "127.9.9.9:9400", None),
        (LOCAL, "evil.example:9400", "127.0.0.1:9400", 403),
        (LOCAL, "localhost.evil.example", "127.0.0.1:9400", 403),
        (LOCAL, "", "127.0.0.1:9400", 403),
        (LOCAL, "10.0.0.1:9400", "127.0.0.1:9400", 403),
        (REMOTE, "localhost:9400", "127.0.0.1:9400", 403),  # how ever it came here
        (LOCAL, "localhost:9400", "0.0.0.0:9400", 403),
        (LOCAL, "localhost:9400", ":9400", 403),
        (LOCAL, "localhost:9400", "10.0.0.1:9400", 403),
        (UNIX, "anything", "unix:/run/fm.sock", None),
    ],
)
def test_post_without_a_token(peer, host, bind, expected):
    assert status("POST", peer, Admin(bind), host=host) == expected


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("bind", ["127.0.0.1:9400", "0.0.0.0:9400", "unix:/run/fm.sock"])
def test_reading_is_open_by_any_name(method, bind):
    assert status(method, REMOTE, Admin(bind), host="fastmesh.monitoring:9400") is None


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:9400", ""])
@pytest.mark.parametrize("admin", [Admin("127.0.0.1:9400"), Admin("127.0.0.1:9400", "t")])
def test_any_origin_is_refused(method, origin, admin):
    assert status(method, LOCAL, admin, host="localhost", origin=origin, authorization="Bearer t") == 403


@pytest.mark.parametrize("bind", ["0.0.0.0:9400", "127.0.0.1:9400"])
@pytest.mark.parametrize(
    ("given", "expected"),
    [("Bearer right", None), ("bearer right", None), ("Bearer wrong", 401), ("Basic right", 401), ("", 401)],
)
def test_a_token_decides_alone(bind, given, expected):
    assert status("POST", REMOTE, Admin(bind, "right"), host="mesh.example", authorization=given) == expected
    assert status("GET", REMOTE, Admin(bind, "right"), host="mesh.example") is None


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("a.localhost", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:10.0.0.1", False),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_what_is_loopback(host, expected):
    assert is_loopback(host) is expected


def test_hosts_are_split():
    assert split_host("a:1") == ("a", "1")
    assert split_host("[::1]:1") == ("::1", "1")
    assert split_host("[::1]") == ("::1", "")
    assert split_host("a") == ("a", "")
    assert split_host(":9400") == ("", "9400")


def test_binds_that_others_reach():
    assert binds_loopback_only("unix:/x")
    assert binds_loopback_only("[::1]:9400")
    assert not binds_loopback_only(":9400")
    assert not binds_loopback_only("0.0.0.0:9400")
