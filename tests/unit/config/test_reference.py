"""docs/configuration.md says what the code does."""

import re
from pathlib import Path

import pytest

from fastmesh.config import load, render_text
from fastmesh.config.reference import BEGIN, END, sections, tables, with_tables
from fastmesh.errors import ConfigError

PAGE = Path(__file__).parents[3] / "docs/configuration.md"


def test_the_page_has_the_tables_of_now() -> None:
    text = PAGE.read_text()
    assert with_tables(text) == text, "run: python -m fastmesh.config.reference docs/configuration.md"
    assert tables() in text


def test_the_rest_of_the_page_is_kept() -> None:
    assert (
        with_tables(f"before\n{BEGIN}\nold\n{END}\nafter\n")
        == f"before\n{BEGIN}\n\n{tables()}\n\n{END}\nafter\n"
    )


def test_each_leaf_has_an_example_or_a_default() -> None:
    for path, section in sections():
        for name, field in section.fields.items():
            assert field.example is not None, f"{path}.{name}"


@pytest.mark.parametrize("name", ["README.md", "docs/configuration.md", "docs/sidecar.md"])
def test_each_yaml_block_of_the_page_is_valid(name: str, tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (PAGE.parents[1] / name).read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        (tmp_path / "f.yaml").write_text(block)
        assert load(tmp_path / "f.yaml").warnings == ()


def test_the_report_that_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fastmesh.yaml").write_text("""\
# A file with two mistakes, in the lines that the page shows.


listeners:
  web:
    bind: ":1"
    service: user

services:
  user:
    endpoints: []
    balanse: maglev
  site:
    timeouts: {connect: 5}
    endpoints: []
""")
    with pytest.raises(ConfigError) as caught:
        load("fastmesh.yaml")
    assert render_text(caught.value.problems) in PAGE.read_text()
