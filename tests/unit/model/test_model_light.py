"""The model stays what it promises: frozen, cheap and light to import."""

import subprocess
import sys
import time

import pytest

from fastmesh.model import Address, Bind, Endpoint


def test_importing_the_model_imports_nothing_heavy() -> None:
    code = (
        "import sys, fastmesh.model, fastmesh.errors, fastmesh.units\n"
        "heavy = {'yaml', 'trio', 'asyncio', 'dataclasses', 'cryptography', 'click', 'jsonschema'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_the_configuration_stays_without_schema_and_network() -> None:
    code = (
        "import sys, fastmesh.config\n"
        "heavy = {'trio', 'asyncio', 'cryptography', 'click', 'jsonschema', 'fastmesh.config.schema'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_ten_thousand_endpoints_are_cheap() -> None:
    started = time.process_time()
    endpoints = [Endpoint(Address("inet", f"10.0.{n >> 8}.{n & 255}", 80)) for n in range(10_000)]
    assert len(set(endpoints)) == 10_000
    assert time.process_time() - started < 0.2


def test_the_model_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Bind("inet", "0.0.0.0", 80).port = 81  # type: ignore[misc]
