"""process_* metrics from /proc."""

import os
import time

import psutil
import pytest

from fastmesh.observability import process
from fastmesh.observability.exposition import Exposition


def test_they_agree_with_psutil():
    out = Exposition()
    process.add(out)
    found = {
        line.split()[0]: float(line.split()[1])
        for line in out.text().splitlines()
        if not line.startswith("#")
    }
    this = psutil.Process(os.getpid())
    assert found["process_resident_memory_bytes"] == pytest.approx(this.memory_info().rss, rel=0.05)
    assert found["process_virtual_memory_bytes"] == pytest.approx(this.memory_info().vms, rel=0.05)
    assert found["process_open_fds"] == pytest.approx(this.num_fds(), abs=1)
    assert found["process_threads"] == this.num_threads()
    assert found["process_start_time_seconds"] == pytest.approx(this.create_time(), abs=1.5)
    assert 0 < found["process_cpu_seconds_total"] <= time.process_time() + 0.1
    assert found["process_max_fds"] > 0
