"""The JSON Schema and the validator are made from one table: they must agree on structure."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fastmesh.config import load
from fastmesh.config.schema import json_schema
from fastmesh.config.source import Document, compose, plain_value
from fastmesh.errors import ConfigError

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))
VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def value_of(file: Path) -> Any:
    """The file as a YAML 1.2 loader reads it."""
    document = Document(file.name, file, file.read_text())
    compose(document, lambda _document, text, _line, _column: text)
    assert document.root is not None
    return plain_value(document.root)


def accepted_by_load(value: Any, folder: Path) -> bool:
    file = folder / "mutant.yaml"
    file.write_text(json.dumps(value))
    try:
        load(file, env={})
    except ConfigError:
        return False
    return True


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_valid(example: Path) -> None:
    load(example, env={})
    VALIDATOR.validate(value_of(example))


def every_key(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Each (path, schema) of a key that stands in a `properties` of the schema."""
    if isinstance(schema, dict):
        for name, value in schema.get("properties", {}).items():
            yield f"{path}.{name}", value
        for name, value in schema.items():
            yield from every_key(value, f"{path}.{name}")
    elif isinstance(schema, list):
        for value in schema:
            yield from every_key(value, path)


def test_each_key_is_described() -> None:
    keys = dict(every_key(json_schema()))
    assert len(keys) > 70
    for path, schema in keys.items():
        assert schema["description"].endswith("."), path


def test_each_default_and_example_is_valid() -> None:
    whole = json_schema()
    for path, schema in every_key(whole):
        for value in [*schema.get("examples", []), *([schema["default"]] if "default" in schema else [])]:
            validator = jsonschema.Draft202012Validator({**schema, "$defs": whole["$defs"]})
            assert validator.is_valid(value), f"{path}: {value!r}"


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each value below the root."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from places(item, (*path, key))


def parent_of(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path[:-1]:
        value = value[step]
    return value


WRONG_SHAPES = (None, [], {}, {"no-such-key": 1}, [None], -1, True)


def mutants(value: Any) -> Iterator[tuple[str, Any]]:
    """The value with one structural mistake: a wrong shape, an unknown key, a key too few."""
    for path in places(value):
        for replacement in (
            None,
            [],
            {},
            [[]],
            {"no-such-key": 1},
            [None],
            {"no-such-key": None},
            -1,
            1.5,
            True,
        ):
            mutant = copy.deepcopy(value)
            if type(parent_of(mutant, path)[path[-1]]) is type(replacement):
                continue
            parent_of(mutant, path)[path[-1]] = replacement
            yield f"{path} = {replacement!r}", mutant
        mutant = copy.deepcopy(value)
        del parent_of(mutant, path)[path[-1]]
        yield f"del {path}", mutant
        if isinstance(path[-1], str):
            mutant = copy.deepcopy(value)
            parent = parent_of(mutant, path)
            parent["xyzzy"] = parent.pop(path[-1])
            yield f"{path} renamed", mutant


def only_semantic(value: Any, folder: Path) -> bool:
    """Whether all that `load` says is about what keys mean together, or what a text holds."""
    file = folder / "mutant.yaml"
    file.write_text(json.dumps(value))
    with pytest.raises(ConfigError) as caught:
        load(file, env={})
    beyond = (
        "there is no service", "has no meaning for", "has no meaning beside", "is taken", "leads nowhere",
        "has no port", "is only a port", "is not an address range", "is not a path", "replaces a prefix",
        "cannot have `routes`", "is neither a path", "is not a host", "weights of the split", "is not a name",
        "has no `endpoints`", "is not an IP", "registry folder", "is not a method", "is neither a host",
        "is not in upper case",
    )  # fmt: skip
    return all(
        any(part in problem.message for part in beyond)
        for problem in caught.value.problems
        if problem.severity == "error"
    )


@pytest.mark.parametrize(
    "name", ["canary.yaml", "sticky.yaml", pytest.param("full.yaml", marks=pytest.mark.slow)]
)
def test_schema_and_validator_agree_on_mutants(name: str, tmp_path: Path) -> None:
    (tmp_path / "services.d").mkdir()
    value = value_of(EXAMPLES[0].parent / name)
    number = rejected = 0
    for change, mutant in mutants(value):
        number += 1
        by_schema = VALIDATOR.is_valid(mutant)
        by_load = accepted_by_load(mutant, tmp_path)
        if by_schema != by_load:
            assert by_schema, f"load accepts what the schema refuses: {change}"
            assert only_semantic(mutant, tmp_path), f"the schema accepts what load refuses: {change}"
        rejected += not by_load
    assert number > 100
    assert rejected > number // 2
