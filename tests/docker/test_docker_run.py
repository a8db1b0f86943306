"""The example of plain `docker run`: two applications, each with a sidecar in its network namespace."""

from __future__ import annotations

import http.client
import json
import subprocess

from support.engine import Engine
from support.native_source import ROOT
from support.ports import free_port
from support.waiting import eventually

EXAMPLE = ROOT / "examples" / "docker"
FETCH_SERVICES = (
    "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9400/api/v1/services').read().decode())"
)
CONTAINERS = ("shop", "shop-sidecar", "orders", "orders-sidecar")


def chain(port: int) -> list[str]:
    """Who answered; nobody while something is not there yet."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        body = response.read()
        return (
            [name.partition("@")[0] for name in json.loads(body)["chain"]] if response.status == 200 else []
        )
    except (OSError, http.client.HTTPException):
        return []
    finally:
        connection.close()


def script(engine: Engine, name: str, **variables: str) -> None:
    run = subprocess.run(
        [str(EXAMPLE / name)],
        env={**engine.environment, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_two_applications_with_sidecars(engine: Engine, image: str, base: str) -> None:
    port = free_port()
    try:
        script(engine, "up.sh", FASTMESH_IMAGE=image, APP_IMAGE=base, PORT=str(port))
        eventually(lambda: chain(port) == ["orders", "shop"], "an answer through both", within=30, every=0.1)
        for name, services in (("shop", {"app", "orders"}), ("orders", {"app"})):
            view = json.loads(engine.docker("exec", f"{name}-sidecar", "python3", "-c", FETCH_SERVICES))
            requests = {
                item["service"]: sum(endpoint["requests"] for endpoint in item["endpoints"])
                for item in view["services"]
            }
            assert requests.keys() == services
            assert min(requests.values()) >= 1, requests
    finally:
        for name in CONTAINERS:
            print(engine.docker("logs", name, check=False, both=True))
        script(engine, "down.sh")
    left = engine.docker("ps", "--all", "--format", "{{.Names}}").split()
    assert not {*CONTAINERS} & {*left}
