"""A folder of configuration files, and what loading them gives."""

from pathlib import Path

import pytest

from fastmesh.config import Loaded, load
from fastmesh.errors import ConfigError

MINIMAL = """
listeners:
  web: {bind: ":8080", service: user}
services:
  user: {endpoints: ["10.0.0.1:80"]}
"""


class Folder:
    """A folder of configuration files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, text: str, name: str = "fastmesh.yaml") -> Path:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def load(self, text: str, **env: str) -> Loaded:
        return load(self.write(text), env=env)

    def errors(self, text: str, **env: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(self.write(text), env=env)
        return [
            str(found).replace(f"{self.path}/", "")
            for found in caught.value.problems
            if found.severity == "error"
        ]

    def warnings(self, text: str) -> list[str]:
        return [str(found).replace(f"{self.path}/", "") for found in self.load(text).warnings]
