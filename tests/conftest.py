"""For every test: a fixed environment, the seed in the report, and hypothesis set up once."""

import os
import sys

import hypothesis
import pytest

# A proxy of the machine must not take requests to 127.0.0.1; locale and time zone must not change a result.
for _name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
    os.environ.pop(_name, None)
# What a service manager gave the test run is not for the processes that tests start.
for _name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
    os.environ.pop(_name, None)
os.environ.update(LC_ALL="C.UTF-8", TZ="UTC", PYTHONDONTWRITEBYTECODE="1")

SANITIZED = os.environ.get("FASTMESH_SANITIZED", "")

hypothesis.settings.register_profile(
    "fastmesh",
    # A loaded machine makes one example slow now and then; pytest's own time-out sees what hangs.
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
    print_blob=True,
    max_examples=30 if SANITIZED else 100,
)
hypothesis.settings.load_profile("fastmesh")


def pytest_report_header() -> str:
    return f"sanitizer: {SANITIZED or 'none'}, python {sys.version.split()[0]}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The seed stands where one looks after a failure, not only at the top."""
    seed = config.getoption("randomly_seed", None)
    if seed is not None and terminalreporter.stats.keys() & {"failed", "error"}:
        terminalreporter.write_line(f"seed: {seed}; once more with it: --randomly-seed={seed}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "sanitize":
            item.add_marker(pytest.mark.tsan)


@pytest.fixture(scope="session")
def sanitized() -> str:
    """The sanitizer that the native half was built with: ``""``, ``address``, ``undefined`` or ``thread``."""
    return SANITIZED
