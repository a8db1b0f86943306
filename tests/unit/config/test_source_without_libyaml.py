"""PyYAML built without libyaml reads the same, only slower."""

from pathlib import Path

import pytest
import yaml

from fastmesh.config import load, source
from fastmesh.errors import ConfigError

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_the_same(example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = load(example, env={})
    monkeypatch.setattr(source, "_LOADER", yaml.SafeLoader)
    assert load(example, env={}) == fast


@pytest.mark.parametrize(
    "text", ["a: [", "\ta: 1", "a: @x", "a: 'x", "- a\nb: c", "a: {b c: }}", "x: \x07", "[" * 1000]
)
def test_broken_yaml_is_still_a_config_error(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "_LOADER", yaml.SafeLoader)
    (tmp_path / "f").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "f")
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].line >= 1
