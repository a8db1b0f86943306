"""What the API asked to drain, on top of the file."""

import pytest

from fastmesh.admin.control import DrainTarget
from fastmesh.model import Address, Bind, Config, Endpoint, Listener, Service
from fastmesh.supervisor.drains import Drains, file_says, without_inbound

A, B = Address("inet", "10.0.0.1", 80), Address("inet", "10.0.0.2", 80)
LISTENER = DrainTarget("listener", "web")
SERVICE = DrainTarget("service", "user")
ENDPOINT = DrainTarget("endpoint", "user", "10.0.0.2:80")
ALL = [LISTENER, SERVICE, ENDPOINT]


def config(listener=False, service=False, endpoint=False):
    endpoints = (Endpoint(A), Endpoint(B, weight=3, drain=endpoint))
    return Config(
        {"web": Listener("web", (Bind("inet", "127.0.0.1", 80),), drain=listener), "db": Listener("db", ())},
        {"user": Service("user", endpoints, drain=service), "other": Service("other", endpoints[:1])},
    )


FILES = {LISTENER: config(listener=True), SERVICE: config(service=True), ENDPOINT: config(endpoint=True)}


@pytest.mark.parametrize("target", ALL, ids=lambda target: target.kind)
def test_it_is_as_if_the_file_said_it(target):
    drains = Drains()
    assert drains.effective(config()) == config()
    drains.put(target, True)
    assert drains.effective(config()) == FILES[target]
    drains.put(target, False)
    assert drains.effective(config()) == config()


def test_several_at_once():
    drains = Drains()
    for target in ALL:
        drains.put(target, True)
    assert drains.effective(config()) == config(True, True, True)


@pytest.mark.parametrize("target", ALL, ids=lambda target: target.kind)
def test_what_the_file_says_is_known(target):
    assert file_says(FILES[target], target)
    assert not file_says(config(), target)
    assert not file_says(Config({}, {}), target)


def test_the_list_says_who_asked():
    drains = Drains()
    drains.put(SERVICE, True)
    drains.put(LISTENER, True)
    assert dict(drains.listed(config(listener=True, endpoint=True))) == {
        LISTENER: "file",
        ENDPOINT: "file",
        SERVICE: "api",
    }


def test_what_is_gone_is_forgotten_and_does_not_come_back():
    drains = Drains()
    for target in ALL:
        drains.put(target, True)
    without = Config(config().listeners, {"user": Service("user", (Endpoint(A),))})
    assert drains.forget_gone(without) == (ENDPOINT,)
    assert drains.forget_gone(Config({}, {})) == (LISTENER, SERVICE)
    assert drains.effective(config()) == config()


def test_a_name_that_is_not_there_changes_nothing():
    drains = Drains()
    drains.put(DrainTarget("endpoint", "none", "10.0.0.1:80"), True)
    drains.put(DrainTarget("listener", "none"), True)
    assert drains.effective(config()) == config()
    assert drains.listed(config()) == {}


def test_without_inbound_only_outbound_listens():
    binds = (Bind("inet", "127.0.0.1", 80),)
    listeners = {
        "in": Listener("in", binds),
        "out": Listener("out", binds, direction="outbound"),
        "within": Listener("within", (), within="out"),
    }
    left = without_inbound(Config(listeners, config().services))
    assert {name: one.drain for name, one in left.listeners.items()} == {
        "in": True,
        "out": False,
        "within": False,
    }
    assert left.services == config().services
