"""What names cost a process that has none, and one that has."""

from __future__ import annotations

import subprocess
import sys

CHECK = """
import sys
import fastmesh.supervisor.app
assert "dns" not in sys.modules, "nobody has asked for a name yet"
before = set(sys.modules)
from fastmesh.discovery import light
light.prepare()
import fastmesh.discovery.lookup
heavy = {"email", "zipfile", "csv", "ssl", "asyncio", "cryptography", "httpx", "dns.resolver"}
assert not heavy & (sys.modules.keys() - before), heavy & (sys.modules.keys() - before)
import importlib.metadata
assert importlib.metadata.version("dnspython")
light.prepare()
assert importlib.metadata.version("dnspython")
"""


def test_only_what_is_needed_is_imported() -> None:
    found = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
