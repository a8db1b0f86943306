"""Retries, outlier detection, limits, slow start, checks and priorities: what the model gets, and warnings."""

# ruff: noqa: E501 (one line for each case reads best)

import pytest

from fastmesh.config.failures import KEPT, build_health, build_limits, build_outlier_detection, build_retries
from fastmesh.model import BodyMatch, Health, OutlierDetection, Retries, Service, ServiceLimits
from support.config_folder import MINIMAL, Folder


def service(folder: Folder, text: str, defaults: str = "{}") -> Service:
    """The service whose keys are `text`, in a file without warnings."""
    loaded = folder.load(f"""
defaults: {defaults}
listeners: {{web: {{bind: ":1", service: a}}}}
services: {{a: {{endpoints: [], {text}}}}}
""")
    assert loaded.warnings == ()
    return loaded.config.services["a"]


def warnings(folder: Folder, text: str, defaults: str = "{}") -> list[str]:
    """What is warned of; `defaults` begin in line 1 at column 11, `text` in line 3 at column 31."""
    found = folder.warnings(f"""\
defaults: {defaults}
listeners: {{web: {{bind: ":1", service: a}}}}
services: {{a: {{endpoints: [], {text}}}}}
""")
    return [line.removeprefix("fastmesh.yaml:") for line in found]


def test_nothing_written_is_the_default_of_the_model(folder: Folder) -> None:
    built = folder.load(MINIMAL).config.services["user"]
    assert built.retries == Retries(2, 0.2, ("connect-failure", "reset"), (503,), None, False)
    assert built.outlier_detection == OutlierDetection(5, 3, 0.1, 5.0, 1.0, 30.0, 0.5)
    assert built.limits == ServiceLimits(None, None, 0, 5.0, None, None)
    assert (built.slow_start, built.health) == (None, None)
    assert [endpoint.priority for endpoint in built.endpoints] == [0]
    assert (build_retries(None, built.retries), build_limits(None, built.limits)) == (
        built.retries,
        built.limits,
    )
    assert build_outlier_detection(KEPT, None) is None
    assert build_health(None) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{attempts: 0}", Retries(attempts=0)),
        ("{attempts: 10, budget: none, per_try: 250ms, retry_unsafe: true}", Retries(10, None, per_try=0.25, retry_unsafe=True)),
        ("{budget: 0%, per_try: none}", Retries(budget=0.0)),
        ("{on: []}", Retries(on=(), codes=())),
        ("{on: reset}", Retries(on=("reset",), codes=())),
        ("{on: 429}", Retries(on=(), codes=(429,))),
        ("{on: [timeout, 503, reset, connect-failure, 503, 429, reset]}", Retries(on=("connect-failure", "reset", "timeout"), codes=(429, 503))),
        ("{on: [504, gateway-error, 400]}", Retries(on=(), codes=(400, 502, 503, 504))),
        ("{on: [5xx, 599, 404, gateway-error]}", Retries(on=(), codes=(404, *range(500, 600)))),
    ],
)  # fmt: skip
def test_retries(folder: Folder, text: str, expected: Retries) -> None:
    assert service(folder, f"retries: {text}").retries == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("off", None),
        ("{}", OutlierDetection()),
        ("{consecutive_5xx: none, consecutive_gateway_errors: none, success_rate: none}", OutlierDetection(None, None, None)),
        ("{consecutive_5xx: 1, consecutive_gateway_errors: 1000, success_rate: 25%, interval: 10s}", OutlierDetection(1, 1000, 0.25, 10.0)),
        ("{base_ejection_time: 30s, max_ejected: 100%}", OutlierDetection(base_ejection_time=30.0, max_ejected=1.0)),
        ("{base_ejection_time: 1m, max_ejection_time: 1m}", OutlierDetection(base_ejection_time=60.0, max_ejection_time=60.0)),
    ],
)  # fmt: skip
def test_outlier_detection(folder: Folder, text: str, expected: OutlierDetection | None) -> None:
    assert service(folder, f"outlier_detection: {text}").outlier_detection == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{connections: 1, requests: none}", ServiceLimits(1)),
        ("{requests: 9, queue: 3, queue_timeout: 250ms}", ServiceLimits(None, 9, 3, 0.25)),
        ("{queue: 3, endpoint: {connections: 5, requests: 1000000}}", ServiceLimits(None, None, 3, 5.0, 5, 1_000_000)),
        ("{endpoint: {}}", ServiceLimits()),
    ],
)  # fmt: skip
def test_limits(folder: Folder, text: str, expected: ServiceLimits) -> None:
    built = service(folder, f"limits: {text}")
    assert built.limits == expected


def test_limits_of_the_file_and_of_a_service_are_two(folder: Folder) -> None:
    config = folder.load("""
limits: {connections: 10}
defaults: {limits: {connections: 20, requests: 30}}
listeners: {web: {bind: ":1", service: a}}
services: {a: {endpoints: [], limits: {requests: 40}}}
""").config
    assert config.limits.connections == 10
    assert config.services["a"].limits == ServiceLimits(20, 40)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("off", None),
        ("tcp", Health("tcp")),
        ("/healthz?full=1", Health(path="/healthz?full=1")),
        ("{}", Health()),
        ("{type: tcp, port: 9, interval: 10ms, timeout: 1m}", Health("tcp", port=9, interval=0.01, timeout=60.0)),
        ("{type: http, path: /a, method: HEAD, host: Shop.Example.com:8080}", Health(path="/a", method="HEAD", host="shop.example.com:8080")),
        ("{headers: {X-B: '', x-a: 'a b'}}", Health(headers=(("x-b", ""), ("x-a", "a b")))),
        ("{expect: 204}", Health(expect=((204, 204),))),
        ("{expect: 200-299}", Health(expect=((200, 299),))),
        ("{expect: '200-299'}", Health(expect=((200, 299),))),
        ("{expect: [404, 200-210, 205-208, 211, 300-300, 213]}", Health(expect=((200, 211), (213, 213), (300, 300), (404, 404)))),
        ("{body: ok}", Health(body=BodyMatch("ok"))),
        ("{body: 200}", Health(body=BodyMatch("200"))),
        (r"{body: {regex: '^\s*ok\d'}}", Health(body=BodyMatch(r"^\s*ok\d", regex=True))),
        ("{healthy: 1, unhealthy: 1000, panic_threshold: 30%}", Health(healthy=1, unhealthy=1000, panic=0.3)),
        ("{panic_threshold: none}", Health()),
    ],
)  # fmt: skip
def test_health(folder: Folder, text: str, expected: Health | None) -> None:
    assert service(folder, f"health: {text}").health == expected


def test_priorities_need_not_be_dense(folder: Folder) -> None:
    built = folder.load("""
listeners: {web: {bind: ":1", service: a}}
services: {a: {endpoints: ["a:1", {address: "b:1", priority: 127, weight: 2}, {address: "c:1", priority: 5}]}}
""").config.services["a"]
    assert [(endpoint.priority, endpoint.weight) for endpoint in built.endpoints] == [
        (0, 1),
        (127, 2),
        (5, 1),
    ]


DEFAULTS = """{
  retries: {attempts: 5, on: [timeout, 429], per_try: 1s},
  outlier_detection: {consecutive_5xx: 7, max_ejection_time: 1m},
  limits: {requests: 10, queue: 4, endpoint: {connections: 2, requests: 3}},
  slow_start: 30s,
}"""


def test_a_service_inherits_key_by_key(folder: Folder) -> None:
    untouched = service(folder, "", DEFAULTS)
    assert untouched.retries == Retries(5, on=("timeout",), codes=(429,), per_try=1.0)
    assert untouched.outlier_detection == OutlierDetection(7, max_ejection_time=60.0)
    assert untouched.limits == ServiceLimits(None, 10, 4, 5.0, 2, 3)
    assert untouched.slow_start == 30.0
    text = (
        "retries: {budget: 5%}, outlier_detection: {base_ejection_time: 40s}, "
        "limits: {queue: 0, endpoint: {requests: none}}, slow_start: none"
    )
    changed = service(folder, text, DEFAULTS)
    assert changed.retries == Retries(5, 0.05, ("timeout",), (429,), 1.0)
    assert changed.outlier_detection == OutlierDetection(7, base_ejection_time=40.0, max_ejection_time=60.0)
    assert changed.limits == ServiceLimits(None, 10, 0, 5.0, 2, None)
    assert changed.slow_start is None
    assert service(folder, "retries: {on: reset, per_try: none}", DEFAULTS).retries == Retries(
        5, on=("reset",), codes=()
    )


def test_off_is_inherited_and_overridden(folder: Folder) -> None:
    off = "{outlier_detection: off}"
    assert service(folder, "", off).outlier_detection is None
    assert service(folder, "outlier_detection: {interval: 1m}", off).outlier_detection == OutlierDetection(
        interval=60.0
    )
    assert service(folder, "outlier_detection: off", DEFAULTS).outlier_detection is None


@pytest.mark.parametrize(
    ("text", "defaults", "expected"),
    [
        ("retries: {per_try: 15s}", "{}", None),
        ("retries: {per_try: 1m}, timeouts: {response: none}", "{}", None),
        ("retries: {per_try: none}, timeouts: {response: 1s}", "{}", None),
        ("retries: {per_try: 16s}", "{}", "3:41: `per_try` (16s) has no effect: `response` of `timeouts` (15s) is shorter; make `per_try` shorter, or `response` longer"),
        ("retries: {per_try: 3s}, timeouts: {total: 2500ms}", "{}", "3:41: `per_try` (3s) has no effect: `total` of `timeouts` (2.5s) is shorter; make `per_try` shorter, or `total` longer"),
        ("retries: {per_try: 3s}, timeouts: {response: 2s, total: 1s}", "{}", "3:41: `per_try` (3s) has no effect: `total` of `timeouts` (1s) is shorter; make `per_try` shorter, or `total` longer"),
        ("timeouts: {response: 2s}", "{retries: {per_try: 3s}}", "3:42: `per_try` (3s) has no effect: `response` of `timeouts` (2s) is shorter; make `per_try` shorter, or `response` longer"),
        ("retries: {attempts: 1}", "{retries: {per_try: 3s}, timeouts: {total: 2s}}", "1:22: `per_try` (3s) has no effect: `total` of `timeouts` (2s) is shorter; make `per_try` shorter, or `total` longer"),
        ("retries: {per_try: 1s}", "{retries: {per_try: 3s}, timeouts: {response: 3s}}", None),
    ],
)  # fmt: skip
def test_a_per_try_without_effect(folder: Folder, text: str, defaults: str, expected: str | None) -> None:
    found = [line.replace(" warning:", "") for line in warnings(folder, text, defaults)]
    assert found == ([] if expected is None else [expected])


NO_WAIT = "`queue` has no effect where nothing limits the requests or connections of a service; write `requests` or `connections` beside it"
NO_QUEUE = "`queue_timeout` has no effect: `queue` is 0, so no request waits; write `queue`, the number of requests that may wait"


@pytest.mark.parametrize(
    ("text", "defaults", "expected"),
    [
        ("limits: {queue: 1}", "{}", f"3:40: {NO_WAIT}"),
        ("limits: {queue: 1, requests: none, endpoint: {requests: none}}", "{limits: {requests: 1}}", f"3:40: {NO_WAIT}"),
        ("limits: {requests: none}", "{limits: {requests: 1, queue: 1}}", f"1:34: {NO_WAIT}"),
        ("limits: {}", "{limits: {queue: 1}}", f"1:21: {NO_WAIT}"),
        ("limits: {requests: 1}", "{limits: {queue: 1}}", None),
        ("limits: {queue: 1}", "{limits: {endpoint: {connections: 1}}}", None),
        ("limits: {queue: 0}", "{}", None),
        ("limits: {requests: 1, queue_timeout: 1s}", "{}", f"3:53: {NO_QUEUE}"),
        ("limits: {queue_timeout: 1s}", "{limits: {requests: 1, queue: 1}}", None),
        ("limits: {requests: 1}", "{limits: {queue_timeout: 1s}}", None),
    ],
)  # fmt: skip
def test_a_queue_without_effect(folder: Folder, text: str, defaults: str, expected: str | None) -> None:
    found = [line.replace(" warning:", "") for line in warnings(folder, text, defaults)]
    assert found == ([] if expected is None else [expected])


def test_defaults_that_many_services_inherit_are_warned_of_once(folder: Folder) -> None:
    services = ", ".join(f"s{number}: {{endpoints: []}}" for number in range(5))
    found = folder.warnings(f"""\
defaults: {{limits: {{queue: 1}}, retries: {{per_try: 1m}}}}
listeners: {{web: {{bind: ":1", service: s0}}}}
services: {{{services}}}
""")
    assert [line.split(" ")[0] for line in found] == ["fastmesh.yaml:1:21:", "fastmesh.yaml:1:42:"]


def test_keys_of_a_registry_file_inherit_too(folder: Folder) -> None:
    folder.write("services: {user: {retries: {attempts: 7}, health: tcp, limits: {queue: 3}}}", "r/a.yaml")
    loaded = folder.load("registry: r\ndefaults: {retries: {budget: none}}" + MINIMAL)
    user = loaded.config.services["user"]
    assert user.retries == Retries(7, None)
    assert user.health == Health("tcp")
    assert [str(problem).rpartition("/r/")[2].split(": ")[0] for problem in loaded.warnings] == [
        "a.yaml:1:65"
    ]
