"""What is free is the least of what the machine, its control groups and the process's limits allow."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hiertorch.runtime.memory import free

CPU = torch.device("cpu")
GIB = 2**30


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine of 64 GiB, of which 40 are available, and a process without limits or groups."""
    write(tmp_path / "proc/meminfo", "MemTotal: 67108864 kB\nMemFree: 1024 kB\nMemAvailable: 41943040 kB\n")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def group(folder: Path, most: str, used: int, inactive: int, *, second: bool) -> None:
    names = (
        ("memory.max", "memory.current", "") if second else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
    )
    write(folder / names[0], f"{most}\n")
    write(folder / names[1], f"{used}\n")
    write(folder / "memory.stat", f"anon 5\n{names[2]}inactive_file {inactive}\n{names[2]}active_file 7\n")


def test_what_the_kernel_has_available(root):
    assert free(CPU, root) == 40 * GIB


def test_nothing_is_known(tmp_path):
    assert free(CPU, tmp_path) == float("inf")


@pytest.mark.parametrize("second", [False, True])
def test_a_control_group_and_those_above_it(root, second):
    at = root / "sys/fs/cgroup" / ("" if second else "memory")
    write(root / "proc/self/cgroup", "0::/jobs/one\n" if second else "5:cpu:/x\n4:memory:/jobs/one\n0::/\n")
    group(at / "jobs/one", "max" if second else str(2**63 - 4096), 1, 0, second=second)
    assert free(CPU, root) == 40 * GIB
    group(at / "jobs/one", str(16 * GIB), 6 * GIB, GIB, second=second)
    assert free(CPU, root) == 11 * GIB
    group(at / "jobs", str(8 * GIB), 6 * GIB, 0, second=second)
    assert free(CPU, root) == 2 * GIB
    group(at / "jobs", str(8 * GIB), 9 * GIB, 0, second=second)
    assert free(CPU, root) == 0


@pytest.mark.parametrize("second", [False, True])
def test_in_a_container_its_own_group_is_mounted_at_the_top(root, second):
    write(root / "proc/self/cgroup", "0::/host/name\n" if second else "4:memory:/host/name\n")
    group(root / "sys/fs/cgroup" / ("" if second else "memory"), str(4 * GIB), GIB, 0, second=second)
    assert free(CPU, root) == 3 * GIB


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_ulimit():
    program = (
        "import resource, torch; from hiertorch.runtime.memory import free\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({64 * GIB}, {64 * GIB}))\n"
        "before = free(torch.device('cpu'))\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({8 * GIB}, {8 * GIB}))\n"
        "print(before, free(torch.device('cpu')))"
    )
    if resource.getrlimit(resource.RLIMIT_AS)[1] != resource.RLIM_INFINITY:
        pytest.skip("the process has a limit of its own")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split())
    assert 0 < after < 8 * GIB and after < before + 2**20
