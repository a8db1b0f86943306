"""The configurations that the benchmarks give to fastmesh are ones that it takes without a word."""

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import contenders, publish
from bench.changes import configurations
from bench.harness.place import BenchError
from fastmesh.config import load


def job(folder: Path, variant: str) -> contenders.Job:
    return contenders.Job(folder, (1001,), variant, http_port=1002, tcp_port=1003, admin_port=1004, cpu=0)


def problems(path: Path) -> list[str]:
    """Errors and warnings; `not in effect yet` would mean that something else is measured."""
    try:
        return [problem.message for problem in load(path).warnings]
    except Exception as error:
        return [str(error)]


@pytest.mark.parametrize("variant", [contenders.PLAIN, contenders.LOGGED])
def test_the_peers_file(tmp_path: Path, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.contenders.fastmesh.fastmesh_python", lambda: "python")
    command = contenders.FASTMESH.command(job(tmp_path, variant))
    assert problems(Path(command.argv[-1])) == []


def test_all_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.contenders.fastmesh.fastmesh_python", lambda: "python")
    path = Path(contenders.FASTMESH.command(job(tmp_path, contenders.PLAIN)).argv[-1])
    head = path.read_text().partition("listeners:")[0]
    for kind, text in itertools.islice(configurations(head, 1, 2, (3, 4, 5, 6), (7, 8, 9)), 120):
        path.write_text(text)
        assert problems(path) == [], f"{kind}\n{text}"


@pytest.mark.parametrize("make_text", [publish.routes_text, publish.endpoints_text])
def test_each_repeat_of_publish_has_the_size_asked_for_and_differs(
    tmp_path: Path, make_text: Callable[[int, int, int], str]
) -> None:
    first, second = (publish.load_config(make_text(1, 600, repeat), tmp_path) for repeat in (0, 1))
    for config in (first, second):
        sizes = len(config.listeners["web"].routes), *(len(s.endpoints) for s in config.services.values())
        assert max(sizes) == 600
    assert (first.listeners, first.services) != (second.listeners, second.services)


class FakePlane:
    """Adopts a generation after so many looks at it."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def apply(self, config: object, resolved: object) -> SimpleNamespace:
        return SimpleNamespace(generation=7)

    def stats(self) -> SimpleNamespace:
        self.looks -= 1
        generations = (7, 7 if self.looks <= 0 else 6)
        return SimpleNamespace(workers=[SimpleNamespace(generation=g) for g in generations])


def test_adoption_waits_for_the_last_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    plane = FakePlane(looks=3)
    assert publish.adopted_ms(plane, None) > 0
    assert plane.looks == 0
    monkeypatch.setattr(publish, "_DEADLINE_SECONDS", 0.01)
    with pytest.raises(BenchError, match="generation 7 was not adopted"):
        publish.adopted_ms(FakePlane(looks=1 << 60), None)
