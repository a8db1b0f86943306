"""What a contender is, what it is asked to run, and how its configuration is filled in."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.harness.place import BENCH, ROOT, BenchError, raise_descriptor_limit

if TYPE_CHECKING:
    from bench.contenders.running import Running

HTTP, TCP = "http", "tcp"
# `plain`: logs off. `logged`: an access log in the combined format. `reloadable`: as plain, and started
# so that `Running.reload` can change it.
PLAIN, LOGGED, RELOADABLE = "plain", "logged", "reloadable"
# `ring_hash` and `maglev` hash the path.
POLICIES = ("round_robin", "random", "least_request", "ring_hash", "maglev")


@dataclass(frozen=True)
class Job:
    """What a contender is asked to run: where to put its files, whom to forward to, how.

    `origin_ports` are the endpoints, on 127.0.0.1. `policy` says how requests are spread over them; relayed
    connections are spread by the proxy's default.
    """

    folder: Path
    origin_ports: tuple[int, ...]
    variant: str
    http_port: int
    tcp_port: int
    admin_port: int
    cpu: int
    policy: str = "round_robin"

    @property
    def origin_port(self) -> int:
        return self.origin_ports[0]

    @property
    def access_log(self) -> Path:
        return self.folder / "access.log"


@dataclass(frozen=True)
class Command:
    """What to start. An empty `argv` starts nothing: the origin itself is what answers."""

    argv: list[str]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None


def drain_by(number: signal.Signals) -> Callable[[Running], None]:
    """A graceful stop that a signal begins."""
    return lambda running: running.child.signal(number)


@dataclass(frozen=True)
class Contender:
    """`command` writes the configuration into the job's folder; `version` raises if it is not installed.

    `lacks` says why a listener, variant or policy is not there. `drain` begins the graceful stop and returns
    at once. `reload(running, job, step)` has what runs take up the new job, and returns when it has; `step`
    counts the changes. `rebuild` makes the same contender of another program.
    """

    name: str
    command: Callable[[Job], Command]
    version: Callable[[], str]
    listeners: frozenset[str] = frozenset({HTTP, TCP})
    variants: frozenset[str] = frozenset({PLAIN, LOGGED})
    has_admin: bool = False
    policies: frozenset[str] = frozenset({"round_robin"})
    lacks: Mapping[str, str] = field(default_factory=dict)
    drain: Callable[[Running], None] | None = None
    reload: Callable[[Running, Job, int], None] | None = None
    rebuild: Callable[[str], Contender] | None = None

    def with_binary(self, path: str, label: str | None = None) -> Contender:
        """The same proxy from another program, set up alike; with a label it is a contender of its own."""
        if self.rebuild is None:
            raise BenchError(f"{self.name} is not a program of its own; --peer cannot name another")
        other = self.rebuild(path)
        return other if label is None else replace(other, name=f"{self.name}@{label}")

    def unable(self, *, listener: str = HTTP, variant: str = PLAIN, policy: str = "round_robin") -> str:
        """Why it cannot take part in what asks for these; empty if it can."""
        asked = ((listener, self.listeners), (variant, self.variants), (policy, self.policies))
        for wanted, offered in asked:
            if wanted not in offered:
                return self.lacks.get(wanted, f"{self.name} has no {wanted.replace('_', ' ')} here")
        return ""


def fill(template: str, job: Job, **values: object) -> Path:
    """Writes `bench/peers/<template>`, filled in, into the job's folder."""
    return put(job.folder / template, filled(template, job, **values))


def filled(template: str, job: Job, **values: object) -> str:
    """`bench/peers/<template>` with each @NAME@ replaced; an unknown name is an error."""
    known = {
        "FOLDER": job.folder,
        "HTTP": job.http_port,
        "TCP": job.tcp_port,
        "ADMIN": job.admin_port,
        "CONNECTIONS": connection_limit(),
        "DESCRIPTORS": raise_descriptor_limit(),
        **values,
    }
    text = (BENCH / "peers" / template).read_text().replace("@NAME@", "a name between at signs")
    return re.sub(r"@([A-Z_]+)@", lambda match: str(known[match[1]]), text)


def put(path: Path, text: str) -> Path:
    """Moves a file into place, as an editor does: whoever watches it sees it whole."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(text)
    return fresh.rename(path)


def endpoints(job: Job, form: str, between: str) -> str:
    """`form` for each endpoint, with its %(port)d and %(number)d; `between` stands between two of them."""
    return between.join(form % {"port": port, "number": n} for n, port in enumerate(job.origin_ports))


def connection_limit() -> int:
    """Client connections that each proxy is set up for, with descriptors left for its side of the origin."""
    return min(12_000, raise_descriptor_limit() - 1_500)


def output_of(argv: Sequence[str], **environment: str) -> str:
    """What a program prints, errors too; BenchError if it cannot be run, fails or prints nothing."""
    try:
        result = subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=30, env={**os.environ, **environment}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"{' '.join(argv)} failed: {error}") from error
    text = (result.stdout + result.stderr).strip()
    if result.returncode or not text:
        raise BenchError(f"{' '.join(argv)} failed: {' '.join(text.splitlines()[-1:])}")
    return text


def find_in_wheel(pattern: str, wheel: str) -> str:
    """Path of a program that a wheel has put into this Python's folder, or into the checkout's `.venv`."""
    prefixes: Iterable[Path] = (Path(sys.prefix), ROOT / ".venv")
    for prefix in prefixes:
        for path in sorted(prefix.glob(pattern)):
            if os.access(path, os.X_OK):
                return str(path)
    name = pattern.rpartition("/")[2]
    raise BenchError(f"{name} is missing; `make bench-packages` installs it ({wheel})")
