"""The progress bar: share and time left."""

import re
import time

import pytest

from bench.progress import Progress


def test_the_bar_says_how_much_is_done_and_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress()
    progress.expect(400)
    assert progress.bar() == "[------------------------]   0%,  6:40 left"
    progress.finish(200)
    now[0] += 200
    assert progress.bar() == "[############------------]  50%,  3:20 left"
    progress.finish_to(400)
    now[0] += 200
    assert progress.bar() == "[########################] 100%,  0:00 left"


def test_a_run_slower_than_planned_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress()
    progress.expect(400)
    progress.finish(200)
    now[0] += 400  # twice as long as planned
    minutes, seconds = re.findall(r"(\d+):(\d+) left", progress.bar())[0]
    assert 200 < int(minutes) * 60 + int(seconds) <= 400


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    progress.expect(10)
    progress.say("small 1/5 nginx")
    assert capsys.readouterr().err.endswith("left small 1/5 nginx\n")
    Progress(quiet=True).say("nothing")
    assert capsys.readouterr().err == ""
