"""The engine that the other tests run on does what they rely on: names, networks, Python in the base."""

from __future__ import annotations

import re

from support.engine import Engine
from support.waiting import eventually

SERVE = "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=8000)"


def test_the_base_has_a_python_that_is_new_enough_and_nothing_to_compile_with(
    engine: Engine, base: str
) -> None:
    version = engine.docker("run", "--rm", base, "python3", "--version")
    assert tuple(map(int, re.findall(r"\d+", version)))[:2] >= (3, 11)
    found = engine.docker("run", "--rm", base, "sh", "-c", "command -v gcc cc pip pip3 || echo nothing")
    assert found.strip() == "nothing"


def test_containers_of_a_network_find_each_other_by_name(engine: Engine, base: str) -> None:
    network = engine.network()
    # Two of one name, as a service that was scaled.
    for _ in range(2):
        engine.run("--network", network, "--network-alias", "api", base, "python3", "-c", SERVE)
    asker = engine.run("--network", network, base, "sleep", "infinity")
    call = "import socket; print(*sorted({i[4][0] for i in socket.getaddrinfo('api', 8000)}))"
    addresses = asker.exec("python3", "-c", call).split()
    assert len(addresses) == 2
    fetch = f"import urllib.request as u; print(u.urlopen('http://{addresses[0]}:8000/').status)"
    eventually(lambda: asker.exec("sh", "-c", f'python3 -c "{fetch}" || true').strip() == "200", "an answer")
    asker.exec("test", "-f", "/etc/resolv.conf")
    assert "127.0.0.11" in asker.exec("cat", "/etc/resolv.conf")


def test_what_a_test_made_is_removed(engine: Engine, base: str) -> None:
    with engine.cleaning():
        name = engine.run(base, "sleep", "infinity").name
        network = engine.network()
        assert name in engine.docker("ps", "--format", "{{.Names}}")
        assert network in engine.docker("network", "ls", "--format", "{{.Name}}")
    assert name not in engine.docker("ps", "--all", "--format", "{{.Names}}")
    assert network not in engine.docker("network", "ls", "--format", "{{.Name}}")
