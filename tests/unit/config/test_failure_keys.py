"""What the table says of failing endpoints."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fastmesh.config import load
from fastmesh.config.failure_keys import (
    HEALTH,
    HTTP_CHECK_KEYS,
    OUTLIER_DETECTION,
    RETRIES,
    RETRY_CODES,
    RETRY_NAMES,
    SERVICE_LIMITS,
    NumberOr,
    StatusRange,
)
from fastmesh.config.kinds import INVALID, ByShape, Integer, Kind, Section
from fastmesh.config.schema import json_schema
from fastmesh.config.source import Document, compose
from fastmesh.errors import ConfigError
from fastmesh.model import Health, OutlierDetection, Retries, ServiceLimits

EXAMPLE = Path(__file__).parents[3] / "examples/failing-endpoints.yaml"


def read(kind: Kind, text: str) -> tuple[Any, list[str]]:
    document = Document("f", Path("f"), text)
    compose(document, lambda _document, scalar, _line, _column: scalar)
    assert document.root is not None
    return kind.read(document.root, "key"), [problem.message for problem in document.problems]


def fields_of(kind: Kind) -> set[str]:
    section = kind.kinds[2] if isinstance(kind, ByShape) else kind
    assert isinstance(section, Section)
    return set(section.fields)


def test_each_field_of_the_model_has_its_key() -> None:
    assert fields_of(RETRIES) == {*Retries.__struct_fields__} - {"codes"}
    assert fields_of(OUTLIER_DETECTION) == {*OutlierDetection.__struct_fields__}
    endpoint = SERVICE_LIMITS.fields["endpoint"].kind
    assert fields_of(SERVICE_LIMITS) - {"endpoint"} | {
        f"endpoint_{name}" for name in fields_of(endpoint)
    } == {*ServiceLimits.__struct_fields__}
    assert fields_of(HEALTH) - {"panic_threshold"} | {"panic"} == {*Health.__struct_fields__}
    assert fields_of(HEALTH) > set(HTTP_CHECK_KEYS)


def test_the_documented_defaults_are_those_of_the_model(tmp_path: Path) -> None:
    """All defaults of the table, written out, are the configuration of a file that has none of them."""

    def written(kind: Kind) -> dict[str, Any]:
        section = kind.kinds[2] if isinstance(kind, ByShape) else kind
        assert isinstance(section, Section)
        return {
            name: field.default if field.default is not None else written(field.kind)
            for name, field in section.fields.items()
            if field.default is not None or isinstance(field.kind, Section)
        }

    service = {
        "endpoints": [],
        "retries": written(RETRIES),
        "outlier_detection": written(OUTLIER_DETECTION),
        "limits": written(SERVICE_LIMITS),
        "health": written(HEALTH),
    }
    file = tmp_path / "f.yaml"
    file.write_text(f"listeners: {{web: {{bind: ':1', service: a}}}}\nservices: {{a: {service!r}}}\n")
    built = load(file).config.services["a"]
    assert built.retries == Retries()
    assert built.outlier_detection == OutlierDetection()
    assert built.limits == ServiceLimits()
    assert built.health == Health()


def test_names_that_stand_for_codes() -> None:
    assert RETRY_CODES["gateway-error"] == (502, 503, 504)
    assert RETRY_CODES["5xx"] == tuple(range(500, 600))
    assert not RETRY_CODES.keys() & {*RETRY_NAMES}


EITHER = NumberOr(Integer(200, 599), StatusRange(), "a code or a range")


@pytest.mark.parametrize(
    ("text", "value"), [("200", 200), ("200-299", (200, 299)), ("'404-404'", (404, 404))]
)
def test_a_number_or_something_else(text: str, value: object) -> None:
    assert read(EITHER, text) == (value, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("600", "`key`: 600 is out of range"),
        ("-1", "`key`: -1 is out of range"),
        ("'200'", '`key` needs a number, and quotes make `"200"` text'),
        ("2xx", "`key`: `2xx` is no range of status codes"),
        ("true", "`key`: `true` is no range of status codes"),
        ("٢٠٠", "`key` needs a whole number from 200 to 599, not `٢٠٠`"),
        ("~", "`key` has no value"),
        ("[200]", "`key` needs a code or a range, not a list"),
    ],
)
def test_neither(text: str, message: str) -> None:
    assert read(EITHER, text) == (INVALID, [message])


def test_how_either_is_described() -> None:
    assert EITHER.label == "number, 200 to 599, or text"
    variable = {"$defs": {"variable": {"type": "string", "pattern": r"\$\{"}}}
    validator = jsonschema.Draft202012Validator(EITHER.schema() | variable)
    assert all(validator.is_valid(good) for good in (200, 599, "200-299", "${A}"))
    assert not any(validator.is_valid(bad) for bad in (199, "200", "100-199", True))


@pytest.mark.parametrize(
    ("key", "value", "valid"),
    [
        ("retries", {"on": ["reset", "5xx", 429]}, True),
        ("retries", {"on": "reset"}, True),
        ("retries", {"on": []}, True),
        ("retries", {"on": [200]}, False),
        ("retries", {"on": ["503"]}, False),
        ("retries", {"on": ["refused"]}, False),
        ("retries", "off", False),
        ("outlier_detection", "off", True),
        ("outlier_detection", {"consecutive_5xx": "none"}, True),
        ("outlier_detection", {"consecutive_5xx": 0}, False),
        ("outlier_detection", {"interval": "none"}, False),
        ("outlier_detection", "on", False),
        ("limits", {"queue": 0, "endpoint": {"requests": "none"}}, True),
        ("limits", {"requests": 0}, False),
        ("limits", {"queue": "none"}, False),
        ("limits", {"body": "1MiB"}, False),
        ("slow_start", "none", True),
        ("slow_start", 30, False),
        ("health", "/healthz", True),
        ("health", "tcp", True),
        ("health", "off", True),
        ("health", {"expect": [200, "300-399"], "body": {"regex": "x"}}, True),
        ("health", {"expect": []}, False),
        ("health", {"expect": "2xx"}, False),
        ("health", {"body": {}}, False),
        ("health", {"type": "grpc"}, False),
        ("health", ["/healthz"], False),
        ("endpoints", [{"address": "a:1", "priority": 127}], True),
        ("endpoints", [{"address": "a:1", "priority": 128}], False),
    ],
)
def test_the_schema_and_the_validator_say_the_same(
    key: str, value: object, valid: bool, tmp_path: Path
) -> None:
    config = {
        "listeners": {"web": {"bind": ":1", "service": "a"}},
        "services": {"a": {"endpoints": [], key: value}},
    }
    assert jsonschema.Draft202012Validator(json_schema()).is_valid(config) == valid
    file = tmp_path / "f.yaml"
    file.write_text(repr(config))
    if valid:
        load(file)
    else:
        with pytest.raises(ConfigError):
            load(file)


def test_the_example_has_no_warnings() -> None:
    loaded = load(EXAMPLE, env={})
    assert loaded.warnings == ()
    services = loaded.config.services
    assert services["site"].health == Health(path="/healthz")
    assert services["postgres"].health == Health(type="tcp")
    assert services["postgres"].outlier_detection is None
    assert {service.slow_start for service in services.values()} == {20.0}
    assert services["search"].retries.codes == (429, 502, 503, 504)
