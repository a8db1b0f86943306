"""A real Docker engine: the machine's own where one answers, else a `dockerd` of the test run.

Ours keeps its images in `build/docker/engine`, so that the next run builds only what changed, and has its
socket and everything else in a temporary folder. When it ends it takes its containers, networks and rules of
the firewall along. Two runs in one checkout take turns.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from support.containers import Container
from support.native_source import ROOT
from support.waiting import eventually

STATE = ROOT / "build" / "docker"
START_SECONDS = 60
FIREWALLS = ("iptables", "ip6tables")
TABLES = ("filter", "nat", "mangle", "raw")
OF_DOCKER = re.compile(r"\bDOCKER\b|\bdocker0\b|\bbr-[0-9a-f]{12}\b")
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")


class Engine:
    """`docker …` on one engine, and what was made there, to be removed again."""

    def __init__(self) -> None:
        self._environment = dict(os.environ)
        self._made: list[list[str]] = []
        self._own: OwnEngine | None = None

    def start(self) -> Engine:
        if subprocess.run(["docker", "version"], capture_output=True, check=False).returncode:
            self._own = OwnEngine()
            self._environment |= self._own.start()
        return self

    def stop(self) -> None:
        self.remove_made()
        if self._own is not None:
            self._own.stop()

    @property
    def is_own(self) -> bool:
        """Whether it is a `dockerd` of this test run."""
        return self._own is not None

    @property
    def environment(self) -> dict[str, str]:
        """For other programs that talk to the engine."""
        return dict(self._environment)

    def log(self) -> str:
        """What our engine wrote; of the machine's own, nothing."""
        return self._own.log() if self._own is not None else ""

    def docker(self, *arguments: str, check: bool = True, both: bool = False, timeout: float = 60) -> str:
        """Standard output of `docker …`, with `both` mixed with its standard error. AssertionError with all
        of it when it fails and `check`."""
        run = subprocess.run(
            ["docker", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if both else subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=timeout,
            env=self._environment,
            check=False,
        )
        if check and run.returncode:
            command = shlex.join(["docker", *arguments])
            raise AssertionError(f"{command}: exit code {run.returncode}\n{run.stdout}{run.stderr or ''}")
        return run.stdout

    def run(self, *arguments: str, name: str = "fastmesh") -> Container:
        """`docker run -d …`: options, the image, its arguments. `name` gets a suffix that nobody else has."""
        name = f"{name}-{uuid.uuid4().hex[:8]}"
        self._made.append(["rm", "--force", "--volumes", name])
        self.docker("run", "--detach", "--name", name, *arguments)
        return Container(self, name)

    def network(self, *options: str) -> str:
        """The name of a new bridge network, in which containers find each other by name."""
        name = f"fastmesh-{uuid.uuid4().hex[:8]}"
        self.docker("network", "create", *options, name)
        self._made.append(["network", "rm", name])
        return name

    def build(self, dockerfile: str, tag: str, *options: str) -> None:
        """An image of this checkout. Builds use the machine's network, as its name servers may not be within
        a container's reach."""
        self.docker(
            *("build", "--network", "host", "--file", str(ROOT / dockerfile), "--tag", tag),
            *(f"--build-arg={name}" for name in proxies()),
            *(*options, str(ROOT)),
            timeout=1200,
        )

    @contextlib.contextmanager
    def cleaning(self) -> Iterator[Engine]:
        """What is made inside is gone afterwards."""
        before, self._made = self._made, []
        try:
            yield self
        finally:
            self.remove_made()
            self._made = before

    def remove_made(self) -> None:
        while self._made:
            self.docker(*self._made.pop(), check=False)


def proxies() -> dict[str, str]:
    """The proxies that this process was started with: the tests' own environment has none."""
    pairs = Path("/proc/self/environ").read_bytes().decode(errors="replace").split("\0")
    given = dict(pair.partition("=")[::2] for pair in pairs if "=" in pair)
    return {name: value for name, value in given.items() if re.fullmatch(r"(?i)(https?|no|all)_proxy", name)}


class OwnEngine:
    """A `dockerd` started by hand, as root. It ends with us, however we end."""

    def __init__(self) -> None:
        # A socket's path must be short, wherever the checkout is.
        self.folder = Path(tempfile.mkdtemp(prefix="fm-docker-"))
        self.data = STATE / "engine"
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._policies: list[list[str]] = []
        self._forwarding = ""

    def start(self) -> dict[str, str]:
        """Returns the environment with which `docker` finds it. Raises AssertionError."""
        if shutil.which("dockerd") is None or os.geteuid() != 0:
            raise AssertionError(
                "no Docker engine answers (docker version), and none can be started here: that needs root and"
                " Debian's docker.io, which `tools/packages docker` installs"
            )
        self.data.mkdir(parents=True, exist_ok=True)
        self._lock = (STATE / "lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._forwarding = FORWARDING.read_text()
        self._policies = [command for command in firewall_commands() if command[3] == "-P"]
        (self.folder / "client").mkdir()
        environment = {
            "DOCKER_HOST": f"unix://{self.folder}/socket",
            "DOCKER_CONFIG": str(self.folder / "client"),  # no proxies, contexts, plug-ins of the user
        }
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "TERM", "dockerd", "--host", environment["DOCKER_HOST"]),
                    *("--data-root", str(self.data), "--exec-root", str(self.folder / "exec")),
                    *("--pidfile", str(self.folder / "pid")),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests, which then stop it in order
                env={**os.environ, **proxies()},
            )
        eventually(
            lambda: self._answers({**os.environ, **environment}),
            "an answer of dockerd",
            within=START_SECONDS,
            every=0.1,
        )
        self._sweep({**os.environ, **environment})
        return environment

    def _answers(self, environment: dict[str, str]) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"dockerd has ended:\n{self.log()}"
        return not subprocess.run(
            ["docker", "version"], capture_output=True, env=environment, check=False
        ).returncode

    @staticmethod
    def _sweep(environment: dict[str, str]) -> None:
        """Removes what an earlier run left that was killed."""
        script = (
            "docker ps -aq | xargs -r docker rm -fv; docker network prune -f; docker volume prune -f;"
            "docker image prune -f --filter until=72h"
        )
        subprocess.run(["sh", "-c", script], capture_output=True, env=environment, check=True)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-20_000:]

    def stop(self) -> None:
        """Ends it and leaves the machine as it was."""
        process = self._process
        if process is not None:
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
            self._unmount()
            self._restore_network()
        if self._lock is not None:
            self._lock.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _unmount(self) -> None:
        """After a kill its mounts would keep the folders from being deleted."""
        ours = (f"{self.data}/", f"{self.folder}/")
        points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for point in reversed(points):
            if f"{point}/".startswith(ours):
                subprocess.run(["umount", "--lazy", point], check=False)

    def _restore_network(self) -> None:
        """dockerd leaves its bridge, its rules and a policy that drops what is forwarded."""
        subprocess.run(["ip", "link", "delete", "docker0"], capture_output=True, check=False)
        commands = firewall_commands()
        rules = [command for command in commands if OF_DOCKER.search(" ".join(command))]
        for command in rules:
            if command[3] == "-A":
                subprocess.run([*command[:3], "-D", *command[4:]], check=True)
        for flag in ("-F", "-X"):
            for command in rules:
                if command[3] == "-N":
                    subprocess.run([*command[:3], flag, *command[4:]], check=True)
        for command in self._policies:
            if command not in commands:
                subprocess.run(command, check=True)
        FORWARDING.write_text(self._forwarding)


def leftovers() -> list[str]:
    """What an engine leaves on a machine: bridges and rules of the firewall."""
    bridges = [path.name for path in Path("/sys/class/net").iterdir() if OF_DOCKER.search(path.name)]
    return bridges + [
        " ".join(command) for command in firewall_commands() if OF_DOCKER.search(" ".join(command))
    ]


def firewall_commands() -> list[list[str]]:
    """Every rule, chain and policy as the command that makes it: `[iptables, -t, nat, -A, …]`."""
    found = []
    for program in FIREWALLS:
        for table in TABLES:
            prefix = [program, "-t", table]
            listed = subprocess.run([*prefix, "-S"], capture_output=True, text=True, check=False)
            found += [[*prefix, *shlex.split(line)] for line in listed.stdout.splitlines()]
    return found
