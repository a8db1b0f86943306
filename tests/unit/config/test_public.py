"""The effective configuration for people to see."""

import json
from pathlib import Path

import pytest

from fastmesh.config import as_public_dict, load

# A sidecar is shown with what it stands for, which no file says beside it: test_sidecar.py
EXAMPLES = sorted(
    path for path in (Path(__file__).parents[3] / "examples").glob("*.yaml") if path.name != "sidecar.yaml"
)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_it_has_the_shape_of_the_file(example: Path, tmp_path: Path) -> None:
    """What is shown, written to a file, loads to the same configuration."""
    first = load(example, env={}).config
    shown = as_public_dict(first)
    shown.pop("registry", None)
    file = tmp_path / "again.yaml"
    file.write_text(json.dumps(shown))
    again = load(file, env={}).config
    assert as_public_dict(again) == shown
    assert again.listeners == first.listeners
    assert again.services == first.services


def test_secrets_are_masked(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("Hunter2\n")
    (tmp_path / "host").write_text("10.0.0.9")
    (tmp_path / "short").write_text("v1")
    (tmp_path / "f.yaml").write_text("""
admin: {bind: "127.0.0.1:9", token: plain-token}
access_log: {to: "/logs/${file:key}.log"}
listeners:
  web:
    bind: ":1"
    routes:
      - {headers: {x-key: "${file:key}"}, service: a}
      - {path: /v1, respond: {body: "hunter2 and plain-token"}}
services:
  a:
    endpoints: ["${file:host}:80"]
    send_proxy: "${file:short}"
    health: {headers: {authorization: "Bearer ${file:key}"}}
""")
    config = load(tmp_path / "f.yaml").config
    text = json.dumps(as_public_dict(config))
    for secret in ("unter2", "10.0.0.9", "plain-token", '"v1"'):
        assert secret not in text
    shown = json.loads(text)
    assert shown["admin"] == {"bind": "127.0.0.1:9", "token": "***"}
    assert shown["access_log"]["to"] == "***"
    assert shown["listeners"]["web"]["routes"][0]["headers"] == {"x-key": "***"}
    assert shown["listeners"]["web"]["routes"][1]["path"] == "/v1"
    assert shown["services"]["a"]["endpoints"][0]["address"] == "***"
    assert shown["services"]["a"]["send_proxy"] == "***"
    assert shown["services"]["a"]["health"]["headers"] == {"authorization": "***"}


def test_values_are_written_as_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("""
workers: 2
drain: {timeout: none}
ready_timeout: 90s
limits: {body: 10MiB, memory: 1536MiB, min_rate: none}
listeners:
  web: {bind: ":1", routes: [{path: {exact: /a}, service: {a: 1, b: 2}, timeout: 250ms}]}
  db: {bind: ":2", protocol: tcp, service: a}
services:
  a: {endpoints: ["a:1"], balance: {policy: maglev, bounded_load: 125%}, timeouts: {idle: none}}
  b: {endpoints: [], health: {interval: 90s}}
""")
    shown = as_public_dict(load(tmp_path / "f.yaml").config)
    assert shown["workers"] == 2
    assert shown["drain"] == {"delay": "0s", "timeout": "none"}
    assert shown["ready_timeout"] == "90s"
    assert shown["limits"]["body"] == "10MiB"
    assert (shown["limits"]["memory"], shown["limits"]["min_rate"]) == ("1536MiB", "none")
    assert shown["listeners"]["db"] == {
        "bind": [":2"],
        "protocol": "tcp",
        "accept_proxy": False,
        "drain": False,
        "service": "a",
    }
    assert shown["listeners"]["web"]["routes"] == [
        {"path": {"exact": "/a"}, "service": {"a": 1, "b": 2}, "timeout": "250ms"}
    ]
    assert shown["services"]["a"]["balance"] == {
        "policy": "maglev",
        "key": ["source_ip"],
        "bounded_load": "125%",
        "table_size": 65537,
    }
    assert shown["services"]["a"]["timeouts"]["idle"] == "none"
    assert "idle" not in shown["services"]["b"]["timeouts"]
    assert shown["services"]["a"]["health"] == "off"
    assert shown["services"]["b"]["health"]["interval"] == "90s"


def test_keys_about_failures_are_written_as_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("""
listeners: {web: {bind: ":1", routes: {/: a}}}
services:
  a:
    endpoints: [{address: "a:1", priority: 2}]
    retries: {attempts: 0, budget: none, on: [5xx, 404, timeout], per_try: 250ms}
    outlier_detection: {consecutive_5xx: none, success_rate: none}
    limits: {requests: 7, queue: 3, endpoint: {connections: 2}}
    slow_start: 90s
    health: {headers: {X-B: "2", x-a: "1"}, expect: [204, 200, 201, 300-399], body: {regex: "a|b"}, port: 8}
  b: {endpoints: [], health: tcp, outlier_detection: off}
""")
    shown = as_public_dict(load(tmp_path / "f.yaml").config)["services"]
    assert shown["a"]["endpoints"] == [{"address": "a:1", "weight": 1, "priority": 2}]
    assert shown["a"]["retries"] == {
        "attempts": 0,
        "budget": "none",
        "on": ["timeout", "5xx", 404],
        "per_try": "250ms",
        "retry_unsafe": False,
    }
    assert shown["a"]["outlier_detection"] == {
        "consecutive_5xx": "none",
        "consecutive_gateway_errors": 3,
        "success_rate": "none",
        "interval": "5s",
        "base_ejection_time": "1s",
        "max_ejection_time": "30s",
        "max_ejected": "50%",
    }
    assert shown["a"]["limits"] == {
        "connections": "none",
        "requests": 7,
        "queue": 3,
        "queue_timeout": "5s",
        "endpoint": {"connections": 2, "requests": "none"},
    }
    assert shown["a"]["slow_start"] == "90s"
    assert shown["a"]["health"] == {
        "type": "http",
        "path": "/",
        "method": "GET",
        "headers": {"x-b": "2", "x-a": "1"},
        "expect": ["200-201", 204, "300-399"],
        "body": {"regex": "a|b"},
        "port": 8,
        "interval": "2s",
        "timeout": "1s",
        "healthy": 2,
        "unhealthy": 3,
        "panic_threshold": "none",
    }
    assert shown["b"]["retries"]["on"] == ["connect-failure", "reset", 503]
    assert shown["b"]["outlier_detection"] == "off"
    assert shown["b"]["slow_start"] == "none"
    assert shown["b"]["health"] == {
        "type": "tcp",
        "interval": "2s",
        "timeout": "1s",
        "healthy": 2,
        "unhealthy": 3,
        "panic_threshold": "none",
    }


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("[]", []),
        ("[502, 504, 503]", ["gateway-error"]),
        ("[502, 503, reset]", ["reset", 502, 503]),
        ("[5xx, gateway-error, 429]", ["5xx", 429]),
        (f"[{', '.join(str(code) for code in range(501, 600))}]", ["gateway-error", 501, *range(505, 600)]),
    ],
)
def test_reasons_to_retry_are_shown_by_name(written: str, shown: list[object], tmp_path: Path) -> None:
    """And what is shown loads to the same."""
    again = tmp_path / "again.yaml"
    for text in (written, json.dumps(shown)):
        again.write_text(f"""
listeners: {{web: {{bind: ":1", service: a}}}}
services: {{a: {{endpoints: [], retries: {{on: {text}}}}}}}
""")
        assert as_public_dict(load(again).config)["services"]["a"]["retries"]["on"] == shown
