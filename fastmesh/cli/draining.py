"""Waiting for a drain, and showing how far it is: one line that changes on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from fastmesh.cli import admin_client
from fastmesh.cli.admin_client import AdminUnreachable

PATH = "/api/v1/drain"
LOOK_SECONDS = 0.2
LINE_SECONDS = 1.0
# The process says how its drain ended just before it is gone.
GONE_SECONDS = 10.0

DONE, FAILED = 0, 1


class Display:
    """Shows the newest line. Not on a terminal, at most one a second, and none twice."""

    def __init__(self, out: TextIO | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._out = out or sys.stdout
        self._now = now
        self._tty = self._out.isatty()
        self._last = ""
        self._shown_at = float("-inf")

    def show(self, text: str) -> None:
        if text == self._last or (not self._tty and self._now() - self._shown_at < LINE_SECONDS):
            return
        self._last, self._shown_at = text, self._now()
        self._out.write(f"\r{text}\x1b[K" if self._tty else f"{text}\n")
        self._out.flush()

    def end(self, text: str) -> None:
        """The last line, which stays."""
        if self._tty and self._last:
            self._out.write("\n")
        self._out.write(f"{text}\n")
        self._out.flush()


def wait_for_the_end(admin: str, display: Display) -> int:
    """Until the draining process has ended; its exit code, or 1 when it did not say it, or cannot
    since another process answers in its place."""
    while True:
        try:
            progress = _look(f"{PATH}?watch", admin)["process"]
        except AdminUnreachable:
            display.end("ended, without a word about what became of the drain; the log of the process has it")
            return FAILED
        if progress["state"] == "serving":  # nothing leads back there: it is another process
            display.end("another process answers there by now; the log of the one that drains has the rest")
            return FAILED
        if progress["state"] == "ended":
            break
        display.show(_process_line(progress))
    _wait_until_gone(admin)
    code: int = progress["exit_code"]
    if code == DONE:
        display.end("ended")
    else:
        display.end(f"ended by the drain's deadline: {progress['in_progress']:,} in progress were cut off")
    return code


def wait_for(target: dict[str, str], admin: str, display: Display) -> int:
    """Until nothing of ``target`` (as its entry in the list of drains names it) is in progress any more; 0
    then."""
    what = _what(target)
    while True:
        try:
            drains = _look(PATH, admin)["drains"]
        except AdminUnreachable as error:
            display.end(str(error))
            return FAILED
        found = [one for one in drains if all(one.get(key) == value for key, value in target.items())]
        if not found:
            display.end(f"{what} does not drain any more")
            return FAILED
        if found[0]["done"]:
            display.end(f"{what} has drained")
            return DONE
        display.show(_target_line(what, found[0]))
        time.sleep(LOOK_SECONDS)


def _look(path: str, admin: str) -> Any:
    answer = admin_client.request("GET", path, admin)
    try:
        if answer.status == 200:
            return answer.json()
    except ValueError:
        pass
    raise AdminUnreachable(f"the admin API answered {answer.status}: {answer.body.strip()}")


def _wait_until_gone(admin: str) -> None:
    deadline = time.monotonic() + GONE_SECONDS
    while time.monotonic() < deadline:
        try:
            admin_client.request("GET", "/healthz", admin)
        except AdminUnreachable:
            return
        time.sleep(LOOK_SECONDS / 4)


def _process_line(progress: dict[str, Any]) -> str:
    tunnels = f" ({progress['tunnels']:,} tunnels or TCP)" if progress["tunnels"] else ""
    line = (
        f"draining: {progress['in_progress']:,} in progress{tunnels}, {progress['connections']:,} connections"
    )
    if progress["seconds"] is None:
        return f"{line}, listeners still open"
    if progress.get("waits_for"):
        line = f"{line}, outbound goes on until {progress['waits_for']}"
    limit = "" if progress["timeout"] is None else f" of {progress['timeout']:g} s"
    return f"{line}, {progress['seconds']:.0f} s{limit}"


def _what(target: dict[str, str]) -> str:
    if target["kind"] == "endpoint":
        return f"endpoint {target['endpoint']} of service {target['service']}"
    return f"{target['kind']} {target[target['kind']]}"


def _target_line(what: str, entry: dict[str, Any]) -> str:
    in_flight = "" if entry["in_flight"] is None else f"{entry['in_flight']:,} in flight, "
    return f"{what} drains: {in_flight}{entry['connections']:,} connections"
