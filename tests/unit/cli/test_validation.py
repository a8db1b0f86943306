"""``fastmesh validate`` and ``schema``."""

import json

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from fastmesh.cli.commands import cli

GOOD = "listeners:\n  web: {bind: ':8080', routes: {/: a}}\nservices:\n  a: {endpoints: [127.0.0.1:1]}\n"
BAD = GOOD + "balanse: 1\ndrain: {delay: 5}\n"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "fastmesh.yaml"


def invoke(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_a_valid_file(file):
    file.write_text(GOOD)
    result = invoke("validate", file)
    assert (result.exit_code, result.output) == (0, f"{file}: valid\n")
    as_json = invoke("validate", "--format", "json", file)
    assert (as_json.exit_code, json.loads(as_json.output)) == (0, {"valid": True, "problems": []})


def test_an_invalid_file_shows_everything(file):
    file.write_text(BAD)
    result = invoke("validate", file)
    assert result.exit_code == 1
    assert f"{file}:5:1: " in result.output
    assert f"{file}:6:16: " in result.output
    as_json = invoke("validate", "--format", "json", file)
    assert as_json.exit_code == 1
    assert [problem["line"] for problem in json.loads(as_json.output)["problems"]] == [5, 6]


def test_warnings_are_shown_and_the_file_is_valid(file):
    file.write_text(GOOD.replace("[127.0.0.1:1]", "[127.0.0.1:1], limits: {queue: 1}"))
    result = invoke("validate", file)
    assert result.exit_code == 0
    assert "warning: `queue` has no effect" in result.output
    assert "valid" in result.output


def test_a_missing_file(file):
    result = invoke("validate", file)
    assert result.exit_code == 1
    assert str(file) in result.output


def test_the_schema_accepts_the_good_file():
    result = invoke("schema")
    assert result.exit_code == 0
    schema = json.loads(result.output)
    jsonschema.validate(yaml.safe_load(GOOD), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(BAD), schema)
