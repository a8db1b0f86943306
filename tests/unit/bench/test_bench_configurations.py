"""The configurations that the benchmarks give to fastmesh are ones that it takes without a word."""

import itertools
import re
from pathlib import Path

import pytest

from bench import contenders
from bench.changes import configurations
from fastmesh.config import load


def job(folder: Path, variant: str) -> contenders.Job:
    return contenders.Job(folder, 1001, variant, http_port=1002, tcp_port=1003, admin_port=1004, cpu=0)


def problems(path: Path) -> list[str]:
    """Errors and warnings; `not in effect yet` would mean that something else is measured."""
    try:
        return [problem.message for problem in load(path).warnings]
    except Exception as error:
        return [str(error)]


@pytest.mark.parametrize("variant", [contenders.PLAIN, contenders.LOGGED])
def test_the_peers_file(tmp_path: Path, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "fastmesh_python", lambda: "python")
    command = contenders.FASTMESH.command(job(tmp_path, variant))
    assert problems(Path(command.argv[-1])) == []


def test_all_changes(tmp_path: Path) -> None:
    path = tmp_path / "fastmesh.yaml"
    head = (contenders.BENCH / "peers/fastmesh.yaml").read_text().partition("listeners:")[0]
    head = re.sub(r"@(ADMIN|ACCESS_LOG)@", lambda name: {"ADMIN": "1004"}.get(name[1], ""), head)
    for kind, text in itertools.islice(configurations(head, 1, 2, (3, 4, 5, 6), (7, 8, 9)), 120):
        path.write_text(text)
        assert problems(path) == [], f"{kind}\n{text}"
