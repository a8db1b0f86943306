"""A real `fastmesh run` process for tests: started on a configuration, watched, stopped and judged.

Stopping is part of each test's verdict: TERM must end in exit code 0, no sanitizer may have spoken, and the
leak ledger that the process logs at its end must be empty.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from support.ports import free_port
from support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
_SANITIZER = re.compile(r"(ERROR: (Address|Leak)Sanitizer|WARNING: ThreadSanitizer|runtime error:)")
_START_DEADLINE = 20.0
_STOP_DEADLINE = 15.0


class Proxy:
    """One process. `config` is a mapping that becomes YAML, or the text itself; `admin` is filled in if it
    is a mapping. `environment` is added to this process's. `under` is a command that goes before, and becomes
    fastmesh."""

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any] | str,
        *,
        arguments: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        under: tuple[str, ...] = (),
        descriptors: tuple[int, ...] = (),
    ) -> None:
        self.folder = folder
        self.admin_port = free_port()
        self.file = folder / f"fastmesh-{self.admin_port}.yaml"
        self.stderr_file = folder / f"fastmesh-{self.admin_port}.stderr"
        self.stdout_file = folder / f"fastmesh-{self.admin_port}.stdout"
        self.arguments = arguments
        self.environment = dict(environment or {})
        self.under = under
        self.descriptors = descriptors
        self.process: subprocess.Popen[bytes] | None = None
        self._shown = 0
        self._expected_end = False
        self.write(config)

    # The configuration file

    def render(self, config: dict[str, Any] | str) -> str:
        if isinstance(config, str):
            return config
        return yaml.safe_dump({"admin": f"127.0.0.1:{self.admin_port}", **config}, sort_keys=False)

    def write(self, config: dict[str, Any] | str) -> None:
        """Write the file in place, as an editor's plain save does."""
        self.file.write_text(self.render(config))

    def replace(self, config: dict[str, Any] | str) -> None:
        """Put a new file in its place by an atomic rename."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(self.render(config))
        fresh.rename(self.file)

    # The process

    def start(self, *, ready: bool = True) -> Proxy:
        self._expected_end = False
        environment = {**os.environ, **self.environment}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [environment.get("PYTHONPATH"), str(ROOT)]))
        environment["PYTHONUNBUFFERED"] = "1"
        with self.stderr_file.open("ab") as stderr, self.stdout_file.open("ab") as stdout:
            self.process = subprocess.Popen(
                [*self.under, sys.executable, "-m", "fastmesh", "run", str(self.file), *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                cwd=self.folder,
                env=environment,
                pass_fds=self.descriptors,
            )
        if ready:
            self.wait_ready()
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def stderr(self) -> str:
        return self.stderr_file.read_text(errors="replace") if self.stderr_file.exists() else ""

    @property
    def stdout(self) -> str:
        return self.stdout_file.read_text(errors="replace") if self.stdout_file.exists() else ""

    def new_stderr(self) -> str:
        """What was written to stderr since the last call, to be shown beside the test that caused it."""
        text = self.stderr
        fresh, self._shown = text[self._shown :], len(text)
        return fresh

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def wait_ready(self, within: float = _START_DEADLINE) -> None:
        deadline = time.monotonic() + within
        while not self._is_ready():
            if not self.is_alive():
                code = self.process.returncode if self.process else None
                raise AssertionError(f"fastmesh exited with {code} before it was ready:\n{self.stderr}")
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"fastmesh not ready within {within} s:\n{self.stderr}")
            time.sleep(0.02)

    def _is_ready(self) -> bool:
        try:
            return self.get("/readyz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait_exit(self, within: float = _STOP_DEADLINE) -> int:
        """The exit code, which is then the caller's to judge."""
        assert self.process is not None
        try:
            code = self.process.wait(within)
            self._expected_end = True
            return code
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"fastmesh did not exit within {within} s:\n{self.stderr[-4000:]}") from None

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def stop(self, *, within: float = _STOP_DEADLINE) -> None:
        """TERM, then the verdict: exit code 0, no sanitizer report, an empty ledger."""
        if self.process is None:
            return
        if not self._expected_end:
            if self.process.poll() is None:
                self.signal(signal.SIGTERM)
            code = self.wait_exit(within)
            assert code == 0, f"exit code {code}:\n{self.stderr[-6000:]}"
        self.check_output()

    def check_output(self) -> None:
        """No sanitizer report, no traceback, an empty leak ledger in what was logged."""
        text = self.stderr
        report = _SANITIZER.search(text)
        assert report is None, f"sanitizer report:\n{text[report.start() :][:6000] if report else ''}"
        assert "Traceback (most recent call last)" not in text, text[-6000:]
        assert "leak" not in text.lower(), f"the ledger was not empty:\n{text[-6000:]}"

    # The admin API

    def request(self, method: str, path: str, *, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        """(status, body) of an admin request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=5)
        try:
            connection.request(method, path, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def get(self, path: str) -> tuple[int, bytes]:
        return self.request("GET", path)

    def api(self, name: str) -> Any:
        """The JSON of /api/v1/<name>."""
        status, body = self.get(f"/api/v1/{name}")
        assert status == 200, (status, body)
        return json.loads(body)

    def metrics(self) -> str:
        status, body = self.get("/metrics")
        assert status == 200, (status, body)
        return body.decode()

    def metric(self, name: str, **labels: str) -> float:
        """Sum of the samples of that name whose labels include these."""
        total = 0.0
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        for line in self.metrics().splitlines():
            head, _, value = line.rpartition(" ")
            if (head == name or head.startswith(name + "{")) and all(label in head for label in wanted):
                total += float(value)
        return total

    def wait_log(self, text: str, *, within: float = 5.0) -> None:
        eventually(lambda: text in self.stderr, f"{text!r} in the log:\n{self.stderr[-2000:]}", within=within)

    def cpu_seconds(self) -> float:
        """What the process has used of CPUs by now."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self) -> int:
        """Resident memory; 0 under AddressSanitizer, which keeps what was freed in quarantine."""
        if os.environ.get("FASTMESH_SANITIZED") == "address":
            return 0
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
