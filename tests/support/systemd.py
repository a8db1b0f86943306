"""A real systemd as process 1 of a machine of its own: the units under test run as they would on a server."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from support.network import called_in
from support.proxy import ROOT
from support.real import environment, program
from support.waiting import eventually

T = TypeVar("T")

UNITS = ROOT / "examples/systemd"
LOG = "fastmesh.log"


class Machine:
    """Made by root only. ``/run/test`` inside is `shared` here; its network is its own."""

    def __init__(self, folder: Path) -> None:
        for name in ("memory", "units", "shared"):
            (folder / name).mkdir()
        for unit in UNITS.iterdir():
            (folder / "units" / unit.name).write_bytes(unit.read_bytes())
        self.shared = folder / "shared"
        self.shared.chmod(0o755)
        self.console = folder / "console"
        program("systemctl")
        prefix = Path(sys.base_prefix).resolve()
        interpreter = f"{prefix}//{Path(sys.executable).resolve().relative_to(prefix)}"
        packages = sysconfig.get_path("platlib")
        with self.console.open("wb") as console:
            self._process = subprocess.Popen(
                ["bash", Path(__file__).with_name("machine.sh"), folder, ROOT, interpreter, packages],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=environment(),
            )
        try:
            self.pid = eventually(self._init, "process 1", within=20)
            eventually(lambda: self._answers() or None, "systemd to answer", within=20)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        self.drop_in("log", StandardOutput=f"append:/run/test/{LOG}", StandardError=f"append:/run/test/{LOG}")

    def _init(self) -> int:
        """The pid, as it is seen from here, of process 1 once it is systemd; 0 before."""
        assert self._process.poll() is None, self.console.read_text(errors="replace")
        pid = self._process.pid
        try:
            while Path(f"/proc/{pid}/comm").read_text().strip() != "systemd":
                pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        except (OSError, IndexError):
            return 0
        return pid

    def _answers(self) -> bool:
        return self.run("systemctl", "show", check=False).returncode == 0

    # Inside

    def run(self, *command: str, check: bool = True, within: float = 30) -> subprocess.CompletedProcess[str]:
        """A command inside, as root."""
        result = subprocess.run(
            ["nsenter", "--target", str(self.pid), "--all", *command],
            capture_output=True,
            text=True,
            timeout=within,
            env=environment(),
            check=False,
        )
        assert not check or result.returncode == 0, f"{command}: {result.stdout}{result.stderr}\n{self.log}"
        return result

    def systemctl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("systemctl", *arguments, check=check)

    def show(self, name: str, unit: str = "fastmesh.service") -> str:
        return self.systemctl("show", unit, f"--property={name}", "--value").stdout.strip()

    def write(self, path: str, text: str) -> None:
        subprocess.run(
            [
                "nsenter",
                "--target",
                str(self.pid),
                "--all",
                "sh",
                "-c",
                f"cat > {path}.new && mv {path}.new {path}",
            ],
            input=text,
            text=True,
            check=True,
            timeout=10,
        )

    def configure(self, config: dict[str, Any]) -> None:
        self.write("/etc/fastmesh/fastmesh.yaml", yaml.safe_dump(config, sort_keys=False))

    def drop_in(self, name: str, **settings: str) -> None:
        """Settings of the service that differ from the example's."""
        self.run("mkdir", "-p", "/run/units/fastmesh.service.d")
        lines = "".join(f"{key}={value}\n" for key, value in settings.items())
        self.write(f"/run/units/fastmesh.service.d/{name}.conf", f"[Service]\n{lines}")
        self.systemctl("daemon-reload")

    def in_network(self, do: Callable[[], T]) -> T:
        """What `do` returns, called by a thread in the machine's network; its sockets stay there."""
        return called_in(f"/proc/{self.pid}/ns/net", do)

    @property
    def log(self) -> str:
        file = self.shared / LOG
        return file.read_text(errors="replace") if file.exists() else ""

    def pids(self) -> list[int]:
        """Of the service, as the machine numbers them."""
        path = "/sys/fs/cgroup" + self.show("ControlGroup") + "/cgroup.procs"
        return [int(line) for line in self.run("cat", path, check=False).stdout.split()]

    def close(self) -> None:
        """The end of process 1 is that of all others; then machine.sh tidies up and ends."""
        os.kill(self.pid, 9)
        self._process.wait(10)
