"""Transparent sidecars on an engine: applications that know of no proxy call each other, by name and by
address, and the sidecars of both sides count it."""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import subprocess
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.compose import EXAMPLE, Compose
from support.containers import Container
from support.engine import Engine
from support.mesh import APP, FAMILIES, Mesh, Sidecar, ask, until_listening, url
from support.native_source import ROOT
from support.ports import free_port
from support.waiting import eventually

FOLLOWED_WITHIN = 2.0  # seconds from a container's start or end to its requests
SHOP = """\
sidecar:
  mode: transparent
  app: 8000
  outbound:
    orders: "orders:8000"
"""
ORDERS = "sidecar: {mode: transparent, app: 8000}\n"
UNNAMED = 9000  # a port that no sidecar has heard of
# How many endpoints of a service are up, looked at until it is so many; then the time.
FOLLOW = """
import json, sys, time, urllib.request
while True:
    view = json.load(urllib.request.urlopen("http://127.0.0.1:9400/api/v1/services"))["services"]
    (service,) = [one for one in view if one["service"] == sys.argv[1]]
    if len(service["endpoints"]) == int(sys.argv[2]):
        break
    time.sleep(0.01)
print(time.time())
"""


@dataclass(frozen=True)
class Pair:
    """Shop calls orders. Both are transparent; `visitor` is a container without a sidecar."""

    mesh: Mesh
    shop: Container
    orders: Container
    visitor: Container
    of_shop: Sidecar
    of_orders: Sidecar


@pytest.fixture(scope="module")
def pair(mesh: Mesh) -> Pair:
    orders = mesh.application("orders", "python3", "/app.py", "orders")
    shop = mesh.application("shop", "python3", "/app.py", "shop", "http://orders:8000/")
    visitor = mesh.application("visitor", "sleep", "infinity")
    serve = ("python3", "-m", "http.server", "--bind", "::", str(UNNAMED))  # both families
    orders.exec(*serve, options=("--detach", "--workdir", "/srv"))
    for container, port in ((orders, 8000), (orders, UNNAMED), (shop, 8000)):
        until_listening(container, port)
    return Pair(mesh, shop, orders, visitor, mesh.sidecar(shop, SHOP), mesh.sidecar(orders, ORDERS))


def chain(answer: str) -> list[str]:
    """Who answered, from the last to the first, as `name@container`."""
    status, _, body = answer.partition(" ")
    assert status == "200", answer
    found: list[str] = json.loads(body)["chain"]
    return found


def names(answer: str) -> list[str]:
    return [one.partition("@")[0] for one in chain(answer)]


def test_a_call_by_name_goes_through_both_sidecars(pair: Pair) -> None:
    """Also one that comes from outside: shop, too, is behind its own."""
    shop, orders = pair.of_shop.counters(), pair.of_orders.counters()
    for answer in ask(pair.visitor, "http://shop:8000/", times=5):
        assert names(answer) == ["orders", "shop"]
    now = pair.of_shop.counters()
    assert now.requests("inbound/app", "app") == shop.requests("inbound/app", "app") + 5
    assert now.requests("outbound/orders", "orders") == shop.requests("outbound/orders", "orders") + 5
    there = pair.of_orders.counters()
    assert there.requests("inbound/app", "app") == orders.requests("inbound/app", "app") + 5


@pytest.mark.parametrize("family", FAMILIES)
def test_a_call_by_address_goes_through_both_sidecars(pair: Pair, family: str) -> None:
    """The application listens on IPv4 alone, and is reached by both."""
    shop, orders = pair.of_shop.counters(), pair.of_orders.counters()
    for answer in ask(pair.shop, url(pair.mesh.address(pair.orders, family)), times=5):
        assert names(answer) == ["orders"]
    now, there = pair.of_shop.counters(), pair.of_orders.counters()
    assert now.connections("outbound/orders") == shop.connections("outbound/orders") + 5
    assert now.requests("outbound/orders", "orders") == shop.requests("outbound/orders", "orders") + 5
    assert there.requests("inbound/app", "app") == orders.requests("inbound/app", "app") + 5


@pytest.mark.parametrize("family", FAMILIES)
def test_what_matches_nothing_passes_through(pair: Pair, family: str) -> None:
    shop, orders = pair.of_shop.counters(), pair.of_orders.counters()
    for answer in ask(pair.shop, url(pair.mesh.address(pair.orders, family), UNNAMED), times=3):
        assert answer.startswith("200 "), answer
    now, there = pair.of_shop.counters(), pair.of_orders.counters()
    assert now.connections("outbound") == shop.connections("outbound") + 3
    assert there.connections("inbound") == orders.connections("inbound") + 3
    assert now.requests("outbound/orders", "orders") == shop.requests("outbound/orders", "orders")


def test_a_replica_that_comes_or_goes_is_followed_within_two_seconds(pair: Pair) -> None:
    """Its requests come by the address that the application took, whichever that was."""
    mesh, first = pair.mesh, pair.mesh.address(pair.orders, "IPv4")
    with mesh.engine.cleaning():
        second = mesh.application("orders", "python3", "/app.py", "orders")
        known = len(FAMILIES) * 2
        seen_at = float(pair.of_shop.container.exec("python3", "-c", FOLLOW, "orders", str(known)))
        came = seen_at - moment(second.state["StartedAt"])
        until_listening(second)
        both = {container_id(pair.orders), container_id(second)}

        def all_answer() -> bool:
            return {
                chain(answer)[0].partition("@")[2] for answer in ask(pair.shop, url(first), times=12)
            } == both

        eventually(all_answer, "answers of both", within=FOLLOWED_WITHIN)
        second.docker("kill")
        seen_at = float(pair.of_shop.container.exec("python3", "-c", FOLLOW, "orders", str(known // 2)))
        went = seen_at - moment(second.state["FinishedAt"])
        answers = ask(pair.shop, url("orders"), times=6)
    print(f"a replica is known {came:.2f} s after its start, and forgotten {went:.2f} s after its end")
    assert came <= FOLLOWED_WITHIN
    assert went <= FOLLOWED_WITHIN + 1  # the engine, too, takes its time to forget it
    assert {chain(answer)[0].partition("@")[2] for answer in answers} == {container_id(pair.orders)}


def moment(text: str) -> float:
    """Seconds since 1970 of a time as Docker writes it, with nanoseconds."""
    return datetime.datetime.fromisoformat(text[:26].rstrip("Z") + "+00:00").timestamp()


def container_id(container: Container) -> str:
    """The name that it has for itself."""
    return str(container.inspect()["Config"]["Hostname"])


def test_the_sidecar_has_no_privilege(pair: Pair) -> None:
    """Docker's default seccomp profile, no capability, the proxy's user, nothing to write to."""
    for sidecar in (pair.of_shop, pair.of_orders):
        status = sidecar.container.exec("cat", "/proc/1/status")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert fields["Seccomp"] == "2"
        assert fields["NoNewPrivs"] == "1"
        assert {fields[name] for name in ("CapPrm", "CapEff", "CapBnd")} == {"0" * 16}
        assert fields["Uid"].split() == ["1337"] * 4
        print(f"resident memory of an idle sidecar: {int(fields['VmRSS'].split()[0]) / 1024:.1f} MiB")
        complaints = [line for line in sidecar.container.logs().splitlines() if " error " in line]
        assert complaints == []


def test_what_is_removed_leaves_everything_as_it_was(mesh: Mesh) -> None:
    """Docker's own rules for its DNS are among what stays."""
    application = mesh.application("alone", "sleep", "infinity")
    before = mesh.saved(application)
    assert any("127.0.0.11" in line for line in before)
    for _ in range(2):
        said = mesh.iptables(application, "--apply")
        applied = mesh.saved(application)
        assert [line for line in applied if "FASTMESH" not in line] == before
        assert len(applied) > len(before)
    assert said.count("as before") == len(FAMILIES)
    for _ in range(2):
        said = mesh.iptables(application, "--remove")
        assert mesh.saved(application) == before
    assert said.count("there was nothing to remove") == len(FAMILIES)


def test_connections_go_as_before_when_rules_are_removed(pair: Pair) -> None:
    address = pair.mesh.address(pair.orders, "IPv4")
    try:
        pair.mesh.iptables(pair.shop, "--remove")
        before = pair.of_shop.counters()
        assert names(ask(pair.shop, url(address))[0]) == ["orders"]
        assert pair.of_shop.counters().connections("outbound/orders") == before.connections("outbound/orders")
    finally:
        pair.mesh.iptables(pair.shop, "--apply")
    assert names(ask(pair.shop, url(address))[0]) == ["orders"]
    now = pair.of_shop.counters()
    assert now.connections("outbound/orders") == before.connections("outbound/orders") + 1


TRY_PORT = """
import socket, sys
for host, port in zip(sys.argv[1::2], sys.argv[2::2]):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.settimeout(10)
        try:
            sock.connect((host, int(port)))
            sock.sendall(b"GET / HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n")
            print(sock.recv(1) or "closed")
        except ConnectionResetError:
            print("reset")
"""


def test_a_connection_to_the_proxys_own_ports_ends_at_once(pair: Pair) -> None:
    """From elsewhere, from the application to the loopback, and to its own addresses: one hop, no loop."""
    addresses = [pair.mesh.address(pair.orders, family) for family in FAMILIES]
    for who, hosts, hops in (
        (pair.visitor, addresses, 0),
        (pair.orders, ["127.0.0.1", *(["::1"] if "IPv6" in FAMILIES else [])], 0),
        (pair.orders, addresses, 1),  # redirected, relayed to where it was going, and that is the proxy
    ):
        before = pair.of_orders.counters()
        tries = [(host, port) for host in hosts for port in ("15001", "15006")]
        said = who.exec("python3", "-c", TRY_PORT, *(word for one in tries for word in one))
        assert set(said.split()) <= {"reset", "closed"}, said
        now = pair.of_orders.counters()
        assert now.errors("not_redirected") == before.errors("not_redirected") + len(tries)
        came = sum(now.connections(one) - before.connections(one) for one in ("inbound", "outbound"))
        assert came == len(tries) * (1 + hops)


def test_an_application_of_the_proxys_user_is_refused(mesh: Mesh) -> None:
    application = mesh.application("same-user", "python3", "/app.py", "same", options=("--user", "1337:1337"))
    until_listening(application)
    before = mesh.saved(application)
    with pytest.raises(AssertionError, match=r"exit code 3(.|\n)*uid 1337(.|\n)*user: \"1000:1000\""):
        mesh.iptables(application, "--apply")
    assert mesh.saved(application) == before
    sidecar = mesh.sidecar(application, ORDERS, redirect=False, ready=False)
    eventually(lambda: "runs as the proxy's own user" in sidecar.get("readyz")[1], "the complaint", within=20)
    assert sidecar.get("readyz")[0] == 503
    assert "runs as the proxy's own user" in sidecar.container.logs()


def test_a_sidecar_that_is_started_again_serves_again(pair: Pair) -> None:
    """What is opened meanwhile is refused at once: the rules lead to a port at which nobody listens."""
    pair.of_shop.container.docker("stop", "--time=1")
    assert ask(pair.shop, url("orders"), times=2) == ["ConnectionRefusedError"] * 2
    assert ask(pair.visitor, url("shop")) == ["ConnectionRefusedError"]
    pair.of_shop.container.docker("start")
    pair.of_shop.ready()
    assert names(ask(pair.shop, url("orders"))[0]) == ["orders"]
    assert names(ask(pair.visitor, url("shop"))[0]) == ["orders", "shop"]
    assert pair.of_shop.counters().requests("inbound/app", "app") == 1


def test_an_application_that_is_started_again_has_another_network(mesh: Mesh) -> None:
    """Without a sidecar and rules, so its connections go as ever, until both are there again."""
    application = mesh.application("phoenix", "python3", "/app.py", "phoenix")
    visitor = mesh.application("visitor-of-phoenix", "sleep", "infinity")
    sidecar = mesh.sidecar(application, ORDERS)
    application.docker("restart", "--time=1")
    until_listening(application)
    assert names(ask(visitor, url("phoenix"))[0]) == ["phoenix"]
    assert not any("FASTMESH" in line for line in mesh.saved(application))
    assert sidecar.counters().requests("inbound/app", "app") == 0
    sidecar.container.docker("restart", "--time=5")
    sidecar.ready()
    mesh.iptables(application, "--apply")
    assert names(ask(visitor, url("phoenix"))[0]) == ["phoenix"]
    assert sidecar.counters().requests("inbound/app", "app") == 1


def test_who_cannot_be_reached_is_so_through_a_sidecar_too(pair: Pair) -> None:
    """The application has a connection, to its sidecar, before that has one: it is reset."""
    nobody = 9001
    assert ask(pair.visitor, url("visitor", nobody)) == ["ConnectionRefusedError"]
    assert ask(pair.shop, url("visitor", nobody)) == ["ConnectionResetError"]
    assert ask(pair.visitor, url("orders", nobody)) == ["ConnectionResetError"]
    assert ask(pair.shop, url("orders", nobody)) == ["ConnectionResetError"]


def test_an_application_that_calls_itself(mesh: Mesh) -> None:
    """By its name and by its address: out through its sidecar, and then straight to it, not in again."""
    application = mesh.application("mirror", "python3", "/app.py", "mirror")
    until_listening(application)
    outbound = '\n  outbound: {mirror: "mirror:8000"}\n'
    sidecar = mesh.sidecar(application, f"sidecar:\n  mode: transparent\n  app: 8000{outbound}")
    for host in ("mirror", mesh.address(application, "IPv4"), "127.0.0.1"):
        assert names(ask(application, url(host))[0]) == ["mirror"]
    counters = sidecar.counters()
    assert counters.requests("outbound/mirror", "mirror") == 2
    assert counters.requests("inbound/app", "app") == 0


@pytest.mark.parametrize(
    ("bind", "app"),
    [("127.0.0.1", "8000"), ("$(getent ahostsv4 $(hostname) | sed 's/ .*//;q')", "${HOSTNAME}:8000")],
    ids=["loopback", "own address"],
)
def test_an_application_that_listens_on_one_address(mesh: Mesh, bind: str, app: str) -> None:
    serve = f"exec python3 -m http.server --directory /srv --bind {bind} 8000"
    with mesh.engine.cleaning():
        application = mesh.application("narrow", "sh", "-c", serve)
        until_listening(application, host=bind if bind == "127.0.0.1" else mesh.address(application, "IPv4"))
        sidecar = mesh.sidecar(application, f'sidecar: {{mode: transparent, app: "{app}"}}\n')
        visitor = mesh.application("visitor", "sleep", "infinity")
        for family in FAMILIES:
            (answer,) = ask(visitor, url(mesh.address(application, family)))
            assert answer.startswith("200 "), answer
        assert sidecar.counters().requests("inbound/app", "app") == len(FAMILIES)


def test_the_commands_of_the_document(
    engine: Engine, image: str, init_image: str, base: str, tmp_path: Path
) -> None:
    """As they stand there, but for the names of images and the port of this machine."""
    text = (ROOT / "docs" / "sidecar.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (script,) = [block for block in blocks if "docker network create" in block]
    port = free_port()
    for pattern, ours in (
        (r"\bfastmesh-init\b", init_image),
        (r"\bfastmesh run\b", f"{image} run"),
        (r"python:3\.13-slim-bookworm", base),
        (r"\b8080\b", str(port)),
        (r"curl .*", ""),  # the test asks
    ):
        script, count = re.subn(pattern, ours, script)
        assert count, pattern
    made = re.findall(r"--name (\S+)", script)
    (tmp_path / "examples").mkdir()
    shutil.copy(APP, tmp_path / "examples")
    try:
        environment = {**os.environ, **engine.environment}
        subprocess.run(["sh", "-euc", script], cwd=tmp_path, env=environment, check=True, timeout=60)
        for name in ("orders", "shop"):
            until_listening(Container(engine, name))
        assert names(fetch(f"http://127.0.0.1:{port}/")) == ["orders", "shop"]
        for name, listeners in (("shop", ["inbound/app", "outbound/orders"]), ("orders", ["inbound/app"])):
            counters = Sidecar(Container(engine, f"{name}-sidecar")).counters()
            assert [counters.connections(one) for one in listeners] == [1] * len(listeners)
    finally:
        for name in made:
            print(engine.docker("logs", name, check=False, both=True))
        engine.docker("rm", "--force", "--volumes", *made, check=False)
        engine.docker("network", "rm", "mesh", check=False)


def fetch(address: str) -> str:
    """As `ask` has it, from outside of all containers."""
    with urllib.request.urlopen(address, timeout=10) as answer:
        return f"{answer.status} {answer.read().decode()}"


def test_the_example_of_compose(engine: Engine, image: str, init_image: str, base: str) -> None:
    port = free_port()
    images = {"FASTMESH_IMAGE": image, "INIT_IMAGE": init_image, "APP_IMAGE": base}
    compose = Compose(engine, [EXAMPLE / "transparent" / "compose.yaml"], **images, PORT=str(port))
    visit = f"http://127.0.0.1:{port}/"
    try:
        compose("up", "--detach")
        eventually(lambda: not compose.containers("orders-redirect"), "the rules", within=60, every=0.2)
        eventually(lambda: not compose.containers("shop-redirect"), "the rules", within=60, every=0.2)
        for name in ("shop", "orders", "stock"):
            until_listening(*compose.containers(name))
        for _ in range(4):
            assert names(fetch(visit)) == ["stock", "orders", "shop"]
        for name, calls in (("shop", "orders"), ("orders", "stock")):
            (container,) = compose.containers(f"{name}-sidecar")
            counters = Sidecar(container).counters()
            assert counters.requests("inbound/app", "app") == 4
            assert counters.requests(f"outbound/{calls}", calls) == 4
        # This starts what has ended once more, too: rules that are there stay.
        compose("up", "--detach", "--no-recreate", "--scale", "stock=2")

        def both_answer() -> bool:
            answers = (fetch(visit) for _ in range(8))
            return len({chain(answer)[0] for answer in answers}) == 2

        eventually(both_answer, "answers of both replicas", within=FOLLOWED_WITHIN + 1)
    finally:
        print(compose("logs", "--no-color")[-20_000:])
        compose.down()
