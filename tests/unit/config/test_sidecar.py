"""`sidecar` and `intercept`: the listeners and services that they stand for."""

import socket

import pytest

from fastmesh.config import as_public_dict
from fastmesh.model import Address, Bind, Config, Drain, Forward, Forwarded, Listener, Sidecar
from support.config_folder import Folder

COMMON = 'sidecar: {app: 8000, outbound: {orders: "orders:8080"}}\n'
TRANSPARENT = """
sidecar:
  mode: transparent
  app: 8000
  outbound: {orders: "orders:8080", db: {to: ["db:3306", "10.0.0.1:3306"], protocol: auto}}
"""


def service_of(listener: Listener) -> str:
    action = listener.routes[0].action
    assert isinstance(action, Forward)
    ((name, _),) = action.targets
    return name


def addresses(config: Config, service: str) -> list[str]:
    return [endpoint.address.text for endpoint in config.services[service].endpoints]


def test_the_common_case(folder: Folder) -> None:
    config = folder.load(COMMON).config
    assert config.sidecar == Sidecar(app=(Address("inet", "127.0.0.1", 8000),))
    inbound, orders = config.listeners.values()
    assert (inbound.name, inbound.binds, inbound.direction) == (
        "inbound",
        (Bind("inet6", "", 15006),),
        "inbound",
    )
    assert (orders.name, orders.binds, orders.direction) == (
        "outbound/orders",
        (Bind("inet", "127.0.0.1", 8080),),
        "outbound",
    )
    assert [service_of(one) for one in (inbound, orders)] == ["app", "orders"]
    assert not any(one.intercept or one.within for one in (inbound, orders))
    assert addresses(config, "app") == ["127.0.0.1:8000"]
    assert addresses(config, "orders") == ["orders:8080"]


def test_what_came_of_forwarding_stays(folder: Folder) -> None:
    """An application behind a sidecar sees the fields that it would see without."""
    for listener in folder.load(COMMON + "trusted_proxies: [10.0.0.0/8]\n").config.listeners.values():
        assert listener.forwarded == Forwarded(False, False, False, False)
        assert listener.trusted == ("0.0.0.0/0", "::/0")


def test_places_of_ones_own(folder: Folder) -> None:
    config = folder.load("""
sidecar:
  app: unix:/run/app.sock
  inbound: [":80", "[::1]:81"]
  outbound: {a: {to: "a:8080"}, b: {to: "b:8080", listen: "127.0.0.2:9000", protocol: tcp}}
""").config
    assert [bind.text for bind in config.listeners["inbound"].binds] == [":80", "[::1]:81"]
    assert addresses(config, "app") == ["unix:/run/app.sock"]
    assert [bind.text for bind in config.listeners["outbound/b"].binds] == ["127.0.0.2:9000"]
    assert config.listeners["outbound/b"].protocol == "tcp"
    assert config.services["b"].protocol == "tcp"


def test_a_dependency_at_the_port_of_an_application_with_an_address_of_its_own(folder: Folder) -> None:
    """The loopback's port is free."""
    config = folder.load('sidecar: {app: "10.0.0.1:8000", outbound: {a: "a:8000"}}').config
    assert config.listeners["outbound/a"].binds[0].text == "127.0.0.1:8000"


def test_only_outbound(folder: Folder) -> None:
    config = folder.load('sidecar: {outbound: {a: "a:80"}}').config
    assert list(config.listeners) == ["outbound/a"]
    assert config.sidecar == Sidecar()


def test_more_about_a_service_stands_under_services(folder: Folder) -> None:
    config = folder.load(
        COMMON
        + """
services:
  app: {health: /healthz}
  orders: {endpoints: ["10.0.0.7:8080"], retries: {attempts: 0}}
  stock: {endpoints: [], protocol: tcp}
"""
    ).config
    assert config.services["app"].health is not None
    assert config.services["orders"].retries.attempts == 0
    assert addresses(config, "orders") == ["10.0.0.7:8080", "orders:8080"]
    assert config.services["stock"].protocol == "tcp"


def test_a_dependency_that_is_a_service_already(folder: Folder) -> None:
    config = folder.load("""
sidecar: {outbound: {orders: {}}}
services: {orders: {endpoints: ["10.0.0.7:8080", "10.0.0.8:8080"], protocol: tcp}}
""").config
    (listener,) = config.listeners.values()
    assert (listener.binds[0].text, listener.protocol) == ("127.0.0.1:8080", "tcp")


def test_transparent(folder: Folder) -> None:
    config = folder.load(TRANSPARENT).config
    listeners = config.listeners
    assert config.sidecar == Sidecar(app=(Address("inet", "127.0.0.1", 8000),), transparent=True)
    assert list(listeners) == ["inbound", "inbound/app", "outbound", "outbound/orders", "outbound/db"]
    for name, port in (("inbound", 15006), ("outbound", 15001)):
        whole = listeners[name]
        assert (whole.intercept, whole.direction, whole.protocol) == (True, name, "tcp")
        assert whole.binds == (Bind("inet6", "", port),)
        assert service_of(whole) == "passthrough"
    assert addresses(config, "passthrough") == ["original"]
    app, orders, db = listeners["inbound/app"], listeners["outbound/orders"], listeners["outbound/db"]
    assert (app.within, app.ports, app.binds, service_of(app)) == ("inbound", (8000,), (), "app")
    assert (orders.within, orders.ports, orders.protocol) == ("outbound", (), "http")
    assert (db.within, db.protocol, db.direction) == ("outbound", "auto", "outbound")


def test_transparent_without_an_application(folder: Folder) -> None:
    """All that comes in is relayed to where it was going."""
    config = folder.load("sidecar: {mode: transparent, outbound: {}}").config
    assert list(config.listeners) == ["inbound", "outbound"]
    assert list(config.services) == ["passthrough"]


@pytest.mark.parametrize(
    "text",
    [
        "sidecar: {outbound: {a: '[::1]:80'}}",
        "sidecar: {outbound: {a: '127.0.0.2:80'}}",
        "sidecar: {outbound: {a: {to: '127.0.0.1:80', listen: '[::]:80'}}}",
        "sidecar: {outbound: {a: {to: '10.0.0.1:80', listen: ':80'}}}",
        "sidecar: {app: 'unix:/x', inbound: 'unix:/y'}",
        "sidecar: {outbound: {app: 'app:80'}}",
        "sidecar: {outbound: {passthrough: 'b:80'}}",
    ],
)
def test_what_is_no_loop_and_no_clash(folder: Folder, text: str) -> None:
    assert folder.load(text).config.listeners


def test_passthrough_has_settings_like_any_service(folder: Folder) -> None:
    config = folder.load(TRANSPARENT + "services: {passthrough: {timeouts: {connect: 5s}}}\n").config
    assert config.services["passthrough"].timeouts.connect == 5.0
    assert addresses(config, "passthrough") == ["original"]


def test_intercepting_listeners(folder: Folder) -> None:
    config = folder.load("""
listeners:
  out: {bind: ":16001", intercept: outbound, services: [a, b, a]}
  in: {bind: ":16006", intercept: inbound, services: {8000: a, 9000: b, 8001: a}, drain: true}
  all: {bind: ":16007", intercept: inbound}
services: {a: {endpoints: ["a:80"]}, b: {endpoints: ["b:80"], protocol: auto}}
""").config
    listeners = config.listeners
    assert list(listeners) == ["out", "out/a", "out/b", "in", "in/a", "in/b", "all"]
    assert (listeners["in/a"].ports, listeners["in/b"].ports) == ((8000, 8001), (9000,))
    assert listeners["out/b"].protocol == "auto"
    assert listeners["all"].intercept


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("sidecar: {}", "`sidecar` needs `app` or `outbound`; write `app: 8000`, the application's port"),
        ("sidecar: {inbound: ':80'}", "`sidecar` needs `app` or `outbound`"),
        (
            "sidecar: {inbound: ':80', outbound: {}}",
            "`inbound` leads nowhere without `app`; write `app: 8000`, or remove it",
        ),
        (
            "sidecar: {outbound: {a: 'a:80', b: 'b:80'}}",
            "the application would call `a` and `b` at the same address, 127.0.0.1:80; give one another "
            "port: `b: {to: …, listen: 127.0.0.1:81}`, or write `mode: transparent`",
        ),
        (
            "sidecar: {app: 8000, outbound: {a: 'a:8000', b: 'b:8080'}}",
            "the application would call `a` at 127.0.0.1:8000, where it listens itself (`app`); give it "
            "another port: `a: {to: …, listen: 127.0.0.1:8001}`",
        ),
        (
            "sidecar: {app: 8000, outbound: {a: {to: 'a:80', listen: ':8000'}}}",
            "the application would call `a` at :8000, where it listens itself (`app`)",
        ),
        (
            "sidecar: {outbound: {a: ['a:80', 'b:81']}}",
            "it is not clear at which port the application calls `a`; write `listen: 127.0.0.1:PORT`",
        ),
        (
            "sidecar: {app: 8000, inbound: ':8000'}",
            "`:8000` takes what is meant for `app` itself, 127.0.0.1:8000; listen on another port",
        ),
        (
            "sidecar: {outbound: {a: '127.0.0.1:80'}}",
            "`127.0.0.1:80` takes what is meant for `a` itself, 127.0.0.1:80; listen on another port",
        ),
        ("sidecar: {outbound: {a: 'localhost:80'}}", "`127.0.0.1:80` takes what is meant for `a` itself"),
        ("sidecar: {outbound: {a: 'x.localhost.:80'}}", "takes what is meant for `a` itself"),
        ("sidecar: {outbound: {a: '0.0.0.0:80'}}", "`127.0.0.1:80` takes what is meant for `a` itself"),
        (
            "sidecar: {outbound: {a: {to: '127.0.0.2:80', listen: ':80'}}}",
            "`:80` takes what is meant for `a` itself, 127.0.0.2:80; listen on another port",
        ),
        (
            "sidecar: {app: 'unix:/x', inbound: 'unix:/x'}",
            "`unix:/x` takes what is meant for `app` itself, unix:/x; listen elsewhere",
        ),
        ("sidecar: {mode: transparent, app: 15006}", "`:15006` takes what is meant for `app` itself"),
        ("sidecar: {mode: transparent, app: 15001}", "`:15001` takes what is meant for `app` itself"),
        (
            "sidecar: {app: 8000, outbound: {app: {to: 'b:80', listen: ':81'}}}",
            "`app` is the application beside this sidecar, and not what it calls; give the dep",
        ),
        (
            "sidecar: {mode: transparent, outbound: {passthrough: 'b:80'}}",
            "`passthrough` is where connections that are for nobody else were going; give the dep",
        ),
        (
            "sidecar: {mode: transparent, app: 8000}\nservices: {passthrough: {endpoints: ['10.0.0.1:80']}}",
            "the service `passthrough` leads to where each connection was going, and has no endpoints; "
            "remove them, or give the service another name",
        ),
        (
            "sidecar: {mode: transparent, app: 8000}\nlisteners: {x: {bind: ':1', service: passthrough}}",
            "`passthrough` is for connections that were intercepted, and none are by `x`; name ano",
        ),
        (
            "sidecar: {mode: transparent, outbound: {passthrough: {}}}",
            "`passthrough` is where connections that are for nobody else were going; give the dep",
        ),
        ("sidecar: {outbound: {a: {}}}", "there is no service `a`"),
        ("sidecar: {outbound: {a: {protocol: tcp}}}", "there is no service `a`"),
        (
            "sidecar: {outbound: {a: {to: 'a:80', protocol: tcp}}}\nservices: {a: {protocol: http}}",
            "the `protocol` of service `a` stands in line 2 already; keep one of them",
        ),
        (
            "sidecar: {mode: transparent, outbound: {a: {to: 'a:80', listen: ':1'}}}",
            "`listen` has no meaning with `mode: transparent`: the application calls the service itself",
        ),
        (
            "sidecar: {mode: transparent, app: 'unix:/run/app.sock'}",
            "what is redirected was going to a port, and `app` is a Unix socket",
        ),
        (
            "sidecar: {app: 8000}\nlisteners: {inbound: {bind: ':1', service: app}}",
            "this makes a listener `inbound`, and there is one of that name; give the other one another name",
        ),
        (
            "sidecar: {app: 8000, inbound: ':9400'}\nadmin: ':9400'",
            "`:9400` is taken: the admin API has it already; choose another port",
        ),
        (
            "listeners: {x: {bind: ':1', intercept: inbound, services: [a]}}\nservices: {a: {endpoints: []}}",
            "with `intercept: inbound`, `services` needs a mapping of ports to services, such as "
            "`{8000: app}`",
        ),
        (
            "listeners: {x: {bind: ':1', intercept: outbound, services: {80: a}}}\n"
            "services: {a: {endpoints: []}}",
            "with `intercept: outbound`, `services` needs a list of them",
        ),
        ("listeners: {x: {bind: ':1', intercept: outbound, services: [a]}}", "there is no service `a`"),
        ("listeners: {x: {bind: ':1', intercept: inbound, services: {0: a}}}", "`0` is not a port"),
        (
            "listeners: {x: {bind: ':1', intercept: inbound, protocol: tcp}}",
            "`protocol` has no meaning beside `intercept` (listener `x`); set the `protocol` of each service",
        ),
        (
            "listeners: {x: {bind: 'unix:/run/x', intercept: inbound}}",
            "the kernel redirects to a TCP port, and this is a Unix socket; write `:PORT`",
        ),
        (
            "listeners: {x: {bind: ':1', service: a, services: [a]}}\nservices: {a: {endpoints: []}}",
            "`services` is for a listener with `intercept`, and `x` has none",
        ),
    ],
)
def test_mistakes(folder: Folder, text: str, error: str) -> None:
    errors = folder.errors(text)
    assert len(errors) == 1, errors
    assert error in errors[0]


def test_an_application_at_the_name_of_its_machine(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Web-7f")
    config = folder.load("sidecar: {mode: transparent, app: '${HOSTNAME}:8000'}", HOSTNAME="web-7f").config
    assert addresses(config, "app") == ["web-7f:8000"]
    assert config.listeners["inbound/app"].ports == (8000,)
    (error,) = folder.errors("sidecar: {app: 'web-7f:15006'}")
    assert "`:15006` takes what is meant for `app` itself" in error


def test_a_sidecar_ends_within_the_time_that_docker_gives(folder: Folder) -> None:
    assert folder.load(COMMON).config.drain.timeout == 8.0
    assert folder.load(COMMON + "drain: {delay: 1s}\n").config.drain == Drain(1.0, 8.0)
    assert folder.load(COMMON + "drain: {timeout: 30s}\n").config.drain.timeout == 30.0


def test_it_is_shown_with_what_it_stands_for(folder: Folder) -> None:
    config = folder.load(TRANSPARENT.replace("  app:", "  exit_with: port:8000\n  app:")).config
    shown = as_public_dict(config)
    assert shown["sidecar"] == {
        "mode": "transparent",
        "app": "127.0.0.1:8000",
        "exit_with": "port:8000",
    }
    assert shown["listeners"]["outbound"]["intercept"] is True
    assert shown["listeners"]["inbound/app"]["ports"] == [8000]
    assert shown["listeners"]["outbound/db"]["within"] == "outbound"
    assert shown["services"]["db"]["protocol"] == "auto"
