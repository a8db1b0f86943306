"""A database behind transparent sidecars: it speaks first, and its clients know of no proxy. And names that
are looked up at Docker's DNS, which goes on as it was."""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass

import pytest

from support.containers import Container
from support.mesh import Mesh, Sidecar
from support.waiting import eventually

ADDED_AT_MOST = 0.005  # seconds that two sidecars add to the time from connect to the first byte
ROUNDS, TRIES = 10, 12
TCP, AUTO = 3306, 3307
DATABASE = (
    *("mariadbd", "--no-defaults", "--datadir=/data", "--socket=/tmp/socket", f"--port={TCP}"),
    *(f"--extra-port={AUTO}", "--extra-max-connections=100", "--max-connect-errors=1000000"),
    *("--skip-name-resolve", "--innodb-buffer-pool-size=16M", "--innodb-use-native-aio=0"),
)
CALLER = f"""\
sidecar:
  mode: transparent
  outbound:
    db: {{to: "db:{TCP}", protocol: tcp}}
    either: {{to: "db:{AUTO}", protocol: auto}}
"""
STRANGER = "sidecar: {mode: transparent, app: 8000}\n"  # its sidecar has never heard of a database
# The form for more than one port.
OF_DATABASE = f"""\
listeners:
  inbound: {{bind: ":15006", intercept: inbound, services: {{{TCP}: db, {AUTO}: either}}}}
  outbound: {{bind: ":15001", intercept: outbound}}
services:
  db: {{protocol: tcp, endpoints: ["127.0.0.1:{TCP}"]}}
  either: {{protocol: auto, endpoints: ["127.0.0.1:{AUTO}"]}}
"""
# Seconds from connect to the first byte of the server's greeting, each try in a line.
GREETED = """
import socket, sys, time
(family, _, _, _, address), *_ = socket.getaddrinfo(sys.argv[1], int(sys.argv[2]), type=socket.SOCK_STREAM)
for _ in range(int(sys.argv[3])):
    began = time.perf_counter()
    with socket.socket(family) as sock:
        sock.settimeout(10)
        sock.connect(address)
        assert sock.recv(1)
        print(time.perf_counter() - began)
"""
DNS = (
    *("dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--user=root", "--port=53"),
    *("--srv-host=_http._tcp.shop.example,web.shop.example,8000", "--host-record=web.shop.example,192.0.2.7"),
    *(f"--txt-record=long.example,{number:0200}" for number in range(20)),  # too long for UDP
)
# A lookup in a line: `name type udp|tcp`, and what was answered, in order.
LOOK_UP = """
import sys, dns.message, dns.query, dns.rcode, dns.flags
for question in sys.argv[1:]:
    name, kind, way = question.split()
    ask = dns.query.udp if way == "udp" else dns.query.tcp
    answer = ask(dns.message.make_query(name, kind, use_edns=False), "127.0.0.11", timeout=10)
    found = sorted(record.to_text()[:60] for one in answer.answer for record in one)
    truncated = "truncated" if answer.flags & dns.flags.TC else ""
    print(question, dns.rcode.to_text(answer.rcode()), truncated, *found)
"""
QUESTIONS = [
    f"{question} {way}"
    for question in (
        *("named A", "named AAAA"),
        *("web.shop.example A", "_http._tcp.shop.example SRV", "long.example TXT", "nowhere.example A"),
    )
    for way in ("udp", "tcp")
]


@dataclass(frozen=True)
class Database:
    """One with a sidecar of its own and two callers, and one without beside a caller without."""

    db: Container
    caller: Container
    stranger: Container
    plain: Container
    of_db: Sidecar
    of_caller: Sidecar
    of_stranger: Sidecar


@pytest.fixture(scope="module")
def database(mesh: Mesh) -> Database:
    user = ("--user", "999:999")
    db = mesh.server("db", *DATABASE, options=user)
    plain_db = mesh.server("plain-db", *DATABASE, options=user)
    caller, stranger, plain = (
        mesh.server(name, "sleep", "infinity") for name in ("caller", "other", "plain")
    )
    for one, port in itertools.product((db, plain_db), (TCP, AUTO)):
        eventually(lambda one=one, port=port: listens(one, port), "the database", within=60, every=0.2)
    return Database(
        *(db, caller, stranger, plain),
        mesh.sidecar(db, OF_DATABASE),
        mesh.sidecar(caller, CALLER),
        mesh.sidecar(stranger, STRANGER),
    )


def listens(container: Container, port: int) -> bool:
    said = container.exec("sh", "-c", f"python3 -c '{GREETED}' 127.0.0.1 {port} 1 2>/dev/null || true")
    return said != ""


def query(container: Container, text: str, port: int) -> str:
    client = ("mariadb", "--no-defaults", "--host=db", f"--port={port}", "--user=app", "--password=app")
    return container.exec(*client, "--skip-column-names", f"--execute={text}").strip()


@pytest.mark.parametrize(("port", "name"), [(TCP, "db"), (AUTO, "either")])
def test_a_client_of_a_database_that_speaks_first(database: Database, port: int, name: str) -> None:
    """The service is `protocol: tcp` for the one port, `auto` for the other, on both sides."""
    before, there = database.of_caller.counters(), database.of_db.counters()
    for number in range(3):
        assert query(database.caller, f"SELECT {number} + 1", port) == str(number + 1)
    long = query(database.caller, "SELECT LENGTH(REPEAT('x', 3000000)), SHA1(REPEAT('x', 3000000))", port)
    assert long.split()[0] == "3000000"
    now, now_there = database.of_caller.counters(), database.of_db.counters()
    assert now.connections(f"outbound/{name}") == before.connections(f"outbound/{name}") + 4
    assert now_there.connections(f"inbound/{name}") == there.connections(f"inbound/{name}") + 4


def test_a_client_whose_sidecar_knows_of_no_database(database: Database) -> None:
    before, there = database.of_stranger.counters(), database.of_db.counters()
    assert query(database.stranger, "SELECT 7", TCP) == "7"
    assert database.of_stranger.counters().connections("outbound") == before.connections("outbound") + 1
    assert database.of_db.counters().connections("inbound/db") == there.connections("inbound/db") + 1


def test_the_time_from_connect_to_the_greeting(database: Database) -> None:
    """Two sidecars are in between, the caller's and the database's."""
    ways = {
        "plain": (database.plain, "plain-db", TCP),
        "tcp": (database.caller, "db", TCP),
        "auto": (database.caller, "db", AUTO),
        "passed through": (database.stranger, "db", TCP),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(ROUNDS + 1):
        for name, (container, host, port) in ways.items():
            said = container.exec("python3", "-c", GREETED, host, str(port), str(TRIES)).split()
            if number:  # the first round is for what happens once
                found[name] += map(float, said)
    medians = {name: statistics.median(times) for name, times in found.items()}
    print(*(f"{name}: {median * 1000:.2f} ms" for name, median in medians.items()), sep=", ")
    for name, median in medians.items():
        assert median - medians["plain"] < ADDED_AT_MOST, (name, medians)


def test_dockers_dns_answers_as_before(mesh: Mesh) -> None:
    """Its own names and those of the server behind it, by UDP and by TCP."""
    names = mesh.server("names", *DNS)
    server = mesh.address(names, "IPv4")
    asker = mesh.application("asker", "sleep", "infinity", options=("--dns", server))
    mesh.application("named", "sleep", "infinity")

    def look_up() -> list[str]:
        run = ("run", "--rm", "--network", f"container:{asker.name}", "--user", "1000:1000")
        python = ("--entrypoint", "python3", mesh.images.fastmesh)
        said = mesh.engine.docker(*run, *python, "-c", LOOK_UP, *QUESTIONS).splitlines()
        return [" ".join(line.split()) for line in said]

    before = look_up()
    print(*(line[:120] for line in before), sep="\n")
    assert "_http._tcp.shop.example SRV udp NOERROR 0 0 8000 web.shop.example." in before
    assert sum("NOERROR" in line for line in before) >= 9
    sidecar = mesh.sidecar(asker, STRANGER)
    assert look_up() == before
    print(f"connections out of the container: {sidecar.counters().connections('outbound')}")
