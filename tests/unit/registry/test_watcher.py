"""The watcher where no file changes; changes are in tests/integration/test_registry_watch.py."""

from pathlib import Path

import pytest
import trio

from fastmesh.config import load
from fastmesh.errors import FastmeshError
from fastmesh.registry import ConfigWatcher, inotify, watcher
from fastmesh.registry.inotify import Event

pytestmark = pytest.mark.trio


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "f.yaml"
    file.write_text("listeners: {web: {bind: ':1', service: a}}\nservices: {a: {endpoints: []}}\n")
    return file


async def test_the_constants_keep_the_contract() -> None:
    assert watcher.POLL_INTERVAL == 10.0
    assert watcher.QUIET == 0.05
    assert watcher.MAX_UNQUIET + watcher.QUIET < 1.0


async def test_reload_needs_a_running_watcher(file: Path) -> None:
    with pytest.raises(FastmeshError, match="not being watched"):
        await ConfigWatcher(file, load(file)).reload()


@pytest.mark.parametrize(
    ("mask", "name", "expected"),
    [
        (inotify.CLOSE_WRITE, "f.yaml", True),
        (inotify.MOVED_TO, "f.yaml", True),
        (inotify.DELETE, "f.yaml", True),
        (inotify.CREATE, "f.yaml", False),  # a plain file: its writer will close it
        (inotify.CREATE, "link", True),
        (inotify.CREATE, "gone", False),
        (inotify.CLOSE_WRITE, "other.yaml", False),
        (inotify.DELETE_SELF, "", True),
        (inotify.Q_OVERFLOW, "", True),
    ],
)
async def test_which_events_matter(file: Path, mask: int, name: str, expected: bool) -> None:
    config_watcher = ConfigWatcher(file, load(file))
    (file.parent / "link").symlink_to("f.yaml")
    config_watcher._folders = {7: [Path("/elsewhere"), file.parent]}
    config_watcher._points = {file.parent: {"f.yaml", "link", "gone"}}
    assert config_watcher._is_relevant(Event(7, mask, name)) is expected
    if mask != inotify.Q_OVERFLOW:
        assert not config_watcher._is_relevant(Event(8, mask, name))


async def test_two_reloads_at_once_share_a_look(file: Path) -> None:
    config_watcher = ConfigWatcher(file, load(file), events=False)
    outcomes = []

    async def handle(_change: object) -> None:
        raise AssertionError("nothing changed")

    async def ask() -> None:
        outcomes.append(await config_watcher.reload())

    async with trio.open_nursery() as nursery:
        await nursery.start(config_watcher.run, handle)
        async with trio.open_nursery() as askers:
            askers.start_soon(ask)
            askers.start_soon(ask)
        nursery.cancel_scope.cancel()
    assert [outcome.result for outcome in outcomes] == ["unchanged", "unchanged"]


async def test_content_that_changes_while_it_is_read_is_read_again(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A is seen, B is loaded, and the file is A again: what counts in the end must be A."""
    first = file.read_text()  # noqa: ASYNC240 (nothing else runs)
    second = first.replace(":1", ":2")
    config_watcher = ConfigWatcher(file, load(file))
    texts = iter([second, first])  # what the file holds by the time of the first load, and of the second

    def load_meanwhile(path: Path, **options: object) -> object:
        file.write_text(next(texts, first))
        return load(path)

    monkeypatch.setattr(watcher, "load", load_meanwhile)
    seen = watcher.points.fingerprint((file,))
    outcome, kept = config_watcher._read(seen)
    assert outcome.config.listeners["web"].binds[0].port == 1
    assert kept == watcher.points.fingerprint((file,))
