"""A transparent sidecar whose application runs as the proxy's own user: the control plane, in a namespace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import fake_data_plane
from support.native_source import ROOT
from support.netns import Namespace, namespaces
from support.waiting import eventually

pytestmark = [
    pytest.mark.no_sanitizer,  # the process starts through programs without what a sanitizer preloads
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces"),
]

APPLICATION = 8000
FILE = """\
workers: 1
sidecar: {mode: transparent, app: 8000, outbound: {db: "127.0.0.1:7000"}}
"""
COMPLAINT = f"the application on port {APPLICATION} runs as the proxy's own user (uid {os.geteuid()})"


@pytest.fixture
def pod() -> Iterator[Namespace]:
    with namespaces("pod") as (pod,):
        yield pod


def readiness(pod: Namespace) -> tuple[int, str]:
    """Status and text; status 0 while nobody answers."""

    def ask() -> tuple[int, str]:
        try:
            with urllib.request.urlopen("http://127.0.0.1:9400/readyz", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    return pod.call(ask)


@pytest.fixture
def log(pod: Namespace, tmp_path: Path) -> Iterator[Path]:
    """A process that serves the file; what it logs. It ends as it should."""
    (tmp_path / "fastmesh.yaml").write_text(FILE)
    command = ("ip", "netns", "exec", pod.name, sys.executable, fake_data_plane.__file__)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, str(tmp_path / "fastmesh.yaml")],
            stderr=log,
            env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))},
        )
    try:
        yield tmp_path / "log"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        print((tmp_path / "log").read_text())


def test_the_own_user_is_complained_of_until_it_is_mended(pod: Namespace, log: Path) -> None:
    with pod.listen("127.0.0.1", APPLICATION, os.geteuid()):
        eventually(lambda: COMPLAINT in readiness(pod)[1], "a complaint", within=20)
        assert readiness(pod)[0] == 503
    eventually(lambda: readiness(pod) == (200, "ready\n"), "ready")
    assert log.read_text().count(COMPLAINT) == 1
    assert log.read_text().count("not run as the proxy's own user any more") == 1
