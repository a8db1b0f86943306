"""CPUs, memory and descriptors, on trees of files that stand for kernels of both kinds."""

import os
import resource
import subprocess
import sys

import pytest

from fastmesh.model.ceilings import MemoryGroup
from fastmesh.supervisor import resources
from fastmesh.supervisor.resources import MIB, connection_limit

V2_MOUNT = "30 23 0:26 {root} {point} rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
V1_MOUNT = "31 23 0:27 {root} {point} rw shared:5 - cgroup cgroup rw,{controllers}\n"


class Tree:
    """A /proc and the cgroup folders that it points to."""

    def __init__(self, folder):
        self.proc = folder / "proc"
        self.groups = folder / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "meminfo").write_text("MemTotal:        8000000 kB\nMemFree: 1 kB\n")
        self.groups.mkdir()

    def mount_v2(self, own, root="/"):
        (self.proc / "self/cgroup").write_text(f"0::{own}\n")
        (self.proc / "self/mountinfo").write_text(V2_MOUNT.format(root=root, point=self.groups))

    def mount_v1(self, own, root="/"):
        (self.proc / "self/cgroup").write_text(f"5:memory:{own}\n4:cpu,cpuacct:{own}\n1:name=systemd:/x\n")
        lines = [
            V1_MOUNT.format(root=root, point=self.groups / name, controllers=name)
            for name in ("cpu,cpuacct", "memory")
        ]
        (self.proc / "self/mountinfo").write_text("".join(lines))

    def write(self, path, text):
        (self.groups / path).parent.mkdir(parents=True, exist_ok=True)
        (self.groups / path).write_text(text + "\n")


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


def test_no_cgroups_at_all(tree):
    assert resources.cgroup_cpus(tree.proc) is None
    assert resources.cgroup_memory(tree.proc) is None
    assert resources.available_cpus(tree.proc) == len(os.sched_getaffinity(0))
    assert resources.available_memory(tree.proc) == 8_000_000 * 1024


def test_v2_takes_the_tightest_of_all_ancestors(tree):
    tree.mount_v2("/a/b")
    tree.write("a/b/cpu.max", "max 100000")
    tree.write("a/cpu.max", "150000 100000")
    tree.write("cpu.max", "400000 100000")
    tree.write("a/b/memory.max", "max")
    tree.write("a/memory.max", "1048576")
    assert resources.cgroup_cpus(tree.proc) == 1.5
    assert resources.cgroup_memory(tree.proc) == 1048576
    assert resources.available_memory(tree.proc) == 1048576


def test_v2_in_a_container_sees_its_own_root(tree):
    tree.mount_v2("/")
    tree.write("cpu.max", "50000 100000")
    assert resources.cgroup_cpus(tree.proc) == 0.5
    assert resources.available_cpus(tree.proc) == 1


def test_a_mount_of_a_part_of_the_tree(tree):
    tree.mount_v2("/docker/abc/inner", root="/docker/abc")
    tree.write("inner/cpu.max", "200000 100000")
    assert resources.cgroup_cpus(tree.proc) == 2


def test_v1(tree):
    tree.mount_v1("/box")
    tree.write("cpu,cpuacct/box/cpu.cfs_quota_us", "120000")
    tree.write("cpu,cpuacct/box/cpu.cfs_period_us", "100000")
    tree.write("cpu,cpuacct/cpu.cfs_quota_us", "-1")
    tree.write("cpu,cpuacct/cpu.cfs_period_us", "100000")
    tree.write("memory/box/memory.limit_in_bytes", "2097152")
    tree.write("memory/memory.limit_in_bytes", "9223372036854771712")
    assert resources.cgroup_cpus(tree.proc) == 1.2
    assert resources.cgroup_memory(tree.proc) == 2097152


def test_a_quota_is_rounded_up_and_never_above_the_affinity(tree, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    tree.mount_v2("/")
    for quota, workers in (("120000", 2), ("100000", 1), ("10000", 1), ("900000", 4)):
        tree.write("cpu.max", f"{quota} 100000")
        assert resources.available_cpus(tree.proc) == workers


def test_nonsense_is_no_limit(tree):
    tree.mount_v2("/../..")
    tree.write("cpu.max", "many 0")
    assert resources.cgroup_cpus(tree.proc) is None


def test_v2_slows_a_process_down_before_it_ends_it(tree):
    tree.mount_v2("/a")
    tree.write("a/memory.max", "4194304")
    tree.write("a/memory.high", "3145728")
    assert resources.cgroup_memory(tree.proc) == 3145728


def test_a_group_is_watched_if_it_is_the_tightest(tree):
    tree.mount_v2("/a/b")
    tree.write("a/b/memory.max", "1048576")
    tree.write("a/memory.max", "2097152")
    ceilings = resources.ceilings(descriptors=20_000, workers=2, proc=tree.proc)
    folder = tree.groups / "a/b"
    assert ceilings.group == MemoryGroup(
        "v2", 1048576, str(folder / "memory.current"), str(folder / "memory.stat")
    )
    assert ceilings.memory == 1048576


def test_what_others_use_of_a_group_around_is_not_watched(tree):
    tree.mount_v2("/a/b")
    tree.write("a/b/memory.max", "max")
    tree.write("a/memory.max", "1048576")
    ceilings = resources.ceilings(descriptors=20_000, workers=2, proc=tree.proc)
    assert ceilings.group is None
    assert ceilings.memory == 1048576


def test_the_group_of_v1_that_is_watched(tree):
    tree.mount_v1("/box")
    tree.write("memory/box/memory.limit_in_bytes", "2097152")
    tree.write("memory/memory.limit_in_bytes", "9223372036854771712")
    ceilings = resources.ceilings(descriptors=20_000, workers=2, proc=tree.proc)
    folder = tree.groups / "memory/box"
    assert ceilings.group == MemoryGroup(
        "v1", 2097152, str(folder / "memory.usage_in_bytes"), str(folder / "memory.stat")
    )


@pytest.mark.parametrize("limit", ["9223372036854771712", None])
def test_a_group_that_allows_more_than_there_is_limits_nothing(tree, limit):
    tree.mount_v1("/box")
    if limit is not None:
        tree.write("memory/box/memory.limit_in_bytes", limit)
    ceilings = resources.ceilings(descriptors=20_000, workers=2, proc=tree.proc)
    assert ceilings.group is None
    assert ceilings.memory == 8_000_000 * 1024


@pytest.mark.parametrize(
    ("allowed", "workers", "left"),
    [(1_000_000, 4, 1_000_000 - 384 - 4), (1024, 1, 1024 - 256 - 1), (256, 2, 256 - 64 - 2), (70, 2, 32)],
)
def test_descriptors_are_kept_for_the_control_plane(tree, allowed, workers, left):
    assert resources.ceilings(descriptors=allowed, workers=workers, proc=tree.proc).descriptors == left


def test_a_limit_of_memory_that_is_used_up_at_the_start_is_told(tree):
    page = os.sysconf("SC_PAGE_SIZE")
    (tree.proc / "self/statm").write_text(f"90000 {40 * MIB // page} 1000 1 0 2000 0\n")
    assert resources.memory_warning(None, tree.proc) == ""
    assert resources.memory_warning(50 * MIB, tree.proc) == ""
    warning = resources.memory_warning(32 * MIB, tree.proc)
    assert warning.startswith("limits.memory is 32MiB, of which 40MiB are in use before the first request")
    assert warning.endswith("set it to 50MiB or more")


def test_what_is_resident_now():
    assert MIB < resources.resident_memory() < resources.available_memory()


GIB = 1 << 30


def test_connections_follow_descriptors():
    limit = connection_limit(None, descriptors=10_000, memory=64 * GIB, workers=2)
    assert limit.connections == (10_000 - 384 - 96) // 2
    assert not limit.warning


def test_connections_follow_memory():
    limit = connection_limit(None, descriptors=1_000_000, memory=GIB // 4, workers=1)
    assert limit.connections == GIB // 8 // (16 * 1024)
    assert not limit.warning


def test_a_wish_within_the_limits_is_taken():
    assert connection_limit(5000, descriptors=20_000, memory=GIB, workers=1) == resources.ConnectionLimit(
        5000
    )


def test_too_few_descriptors_lower_the_limit_and_say_what_to_do():
    limit = connection_limit(5000, descriptors=1024, memory=GIB, workers=2)
    assert limit.connections == (1024 - 256 - 96) // 2
    assert "limits.connections is 5000" in limit.warning
    assert "LimitNOFILE" in limit.warning
    tiny = connection_limit(None, descriptors=100, memory=GIB, workers=8)
    assert tiny.connections == resources.LEAST_CONNECTIONS
    assert "only 100 file descriptors" in tiny.warning


def test_the_soft_limit_is_raised_to_the_hard_one():
    code = (
        "import resource\n"
        "from fastmesh.supervisor.resources import raise_descriptor_limit\n"
        "soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, min(hard, 4096)))\n"
        "print(raise_descriptor_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    hard = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 4096)
    assert result.stdout.split() == [str(hard)] * 3
