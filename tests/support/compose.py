"""Compose projects on the engine: `docker compose`, or `docker-compose` where that plug-in is missing."""

from __future__ import annotations

import subprocess
import uuid
from pathlib import Path

from support.containers import Container
from support.engine import Engine
from support.native_source import ROOT


class Compose:
    """One project with a name of its own."""

    def __init__(self, engine: Engine, files: list[Path], **variables: str) -> None:
        self._engine = engine
        self._environment = {
            **engine.environment,
            **variables,
            "COMPOSE_PROJECT_NAME": f"fm{uuid.uuid4().hex[:8]}",
        }
        plugin = subprocess.run(
            ["docker", "compose", "version"], capture_output=True, env=self._environment, check=False
        )
        program = ["docker", "compose"] if plugin.returncode == 0 else ["docker-compose"]
        self._command = [*program, *(part for file in files for part in ("--file", str(file)))]
        self._folder = files[0].parent

    def __call__(self, *arguments: str, timeout: float = 180) -> str:
        """Standard output; AssertionError with all of it when the command fails."""
        run = subprocess.run(
            [*self._command, *arguments],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert run.returncode == 0, f"{arguments}: exit code {run.returncode}\n{run.stdout}{run.stderr}"
        return run.stdout

    def containers(self, service: str) -> list[Container]:
        """Its running containers."""
        project = self._environment["COMPOSE_PROJECT_NAME"]
        labels = (f"com.docker.compose.project={project}", f"com.docker.compose.service={service}")
        filters = [f"--filter=label={label}" for label in labels]
        names = self._engine.docker("ps", "--format", "{{.Names}}", *filters).split()
        return [Container(self._engine, name) for name in sorted(names)]

    def down(self) -> None:
        self("down", "--volumes", "--remove-orphans", "--timeout", "5")


EXAMPLE = ROOT / "examples" / "compose"
