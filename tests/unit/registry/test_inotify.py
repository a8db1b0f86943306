"""Events of the kernel as they come."""

from pathlib import Path

import pytest

from fastmesh.registry import inotify
from fastmesh.registry.inotify import Inotify


@pytest.fixture
def source(tmp_path: Path) -> object:
    source = Inotify()
    yield source
    source.close()
    source.close()  # once more is no error


def test_events_of_a_folder(source: Inotify, tmp_path: Path) -> None:
    watch = source.watch(tmp_path)
    assert source.watch(tmp_path) == watch
    assert source.read() == []
    file = tmp_path / "naïve name"
    file.write_text("x")
    file.rename(tmp_path / "b")
    (tmp_path / "b").unlink()
    events = source.read()
    assert {event.watch for event in events} == {watch}
    assert [(event.mask, event.name) for event in events] == [
        (inotify.CREATE, "naïve name"),
        (inotify.CLOSE_WRITE, "naïve name"),
        (inotify.MOVED_FROM, "naïve name"),
        (inotify.MOVED_TO, "b"),
        (inotify.DELETE, "b"),
    ]


def test_more_events_than_one_read_takes(source: Inotify, tmp_path: Path) -> None:
    source.watch(tmp_path)
    for number in range(3000):
        (tmp_path / f"{number:04}").symlink_to("x")
    assert [event.name for event in source.read()] == [f"{number:04}" for number in range(3000)]


def test_a_folder_that_goes_away(source: Inotify, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    watch = source.watch(folder)
    folder.rmdir()
    assert [(event.watch, event.mask, event.name) for event in source.read()] == [
        (watch, inotify.DELETE_SELF, ""),
        (watch, inotify.IGNORED, ""),
    ]
    source.unwatch(watch)  # gone already: no error


def test_what_cannot_be_watched(source: Inotify, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        source.watch(tmp_path / "nope")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        source.watch(tmp_path / "file")
