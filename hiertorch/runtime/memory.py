"""How much memory a run may still take: the least of what the machine, control groups and ulimits allow.

docs/decisions.md: Memory is held against what is free.
"""

from collections.abc import Iterator
from pathlib import Path

import torch

UNLIMITED = 2**60
"""Control groups of the first version write a number near 2^63 where there is no limit."""


def free(device: torch.device, root: Path = Path("/")) -> float:
    """Bytes that can still be allocated on a device; infinite where nothing is known of it.

    On the CPU the least of: what the kernel has available (MemAvailable); the limit of each control group that the
    process is in, less what the group uses and could not give back (its inactive files are given back); `ulimit -v` and
    `ulimit -d`, less what the process has mapped. A container or a batch job is killed at the second, not at what is
    built into the machine.

    Args:
        device: of the tensors.
        root: where /proc and /sys are.
    """
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return max(0.0, min([*_machine(root), *_groups(root), *_limits(root)], default=float("inf")))


def _machine(root: Path) -> Iterator[float]:
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            yield 1024.0 * int(line.split()[1])


def _groups(root: Path) -> Iterator[float]:
    """Of every control group from the process's own up to the root: Linux, both versions of the interface."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        controllers, path = line.split(":", 2)[1:]
        if controllers == "":
            at, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            at = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        own = at / path.strip("/")  # in a container it may not be there: then what is mounted is the container's own
        for folder in (own, *own.parents):
            yield from _room(folder, *names)
            if folder == at:
                break


def _room(folder: Path, limit: str, usage: str, given_back: str) -> Iterator[float]:
    most, used = _text(folder / limit).strip(), _text(folder / usage).strip()
    if not most.isdigit() or not used.isdigit() or int(most) >= UNLIMITED:  # "max", or no such group
        return
    files = [
        line.split()[1] for line in _text(folder / "memory.stat").splitlines() if line.startswith(given_back + " ")
    ]
    yield float(int(most) - int(used) + sum(map(int, files)))


def _limits(root: Path) -> Iterator[float]:
    """Of the process, as `ulimit` sets them."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    pages = _text(root / "proc/self/statm").split()
    for number, at in ((resource.RLIMIT_AS, 0), (resource.RLIMIT_DATA, 5)):
        most = resource.getrlimit(number)[0]
        if most != resource.RLIM_INFINITY:
            yield float(most - (int(pages[at]) * resource.getpagesize() if len(pages) > at else 0))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
