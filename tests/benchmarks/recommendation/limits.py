"""Limits that are real: a CPU quota, a memory limit, a small ``/dev/shm``; and the noise that others make.

Needs Linux, root and the cgroup v1 hierarchies ``cpu`` and ``memory``.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from tests.support.processes import CGROUPS, cpu_seconds, enter, limit_cores, remove_group

SHARES = 32768
"""Of the training's group: whatever else this machine does shall not show."""


class Group:
    """Control groups of our own for one training: ``cpu`` and ``memory``, limited or not."""

    def __init__(self, cores: float | None, memory_bytes: int | None) -> None:
        name = f"feedwater-{uuid.uuid4().hex[:8]}"
        self.cpu = CGROUPS / "cpu" / name
        self.cpuacct = CGROUPS / "cpuacct" / name
        self.memory = CGROUPS / "memory" / name
        self._paths = [self.cpu, self.cpuacct, self.memory]
        for path in self._paths:
            path.mkdir(exist_ok=True)
        (self.cpu / "cpu.shares").write_text(str(SHARES))
        self.set_cores(cores)
        if memory_bytes is not None:
            (self.memory / "memory.limit_in_bytes").write_text(str(memory_bytes))

    def set_cores(self, cores: float | None) -> None:
        """Set the CPU quota; None is none."""
        limit_cores(self.cpu, cores)

    def enter(self) -> None:
        """Move this process in; its children to come are born there. For ``preexec_fn``."""
        for path in self._paths:
            enter(path)

    def cpu_seconds(self) -> float:
        """Return the CPU time of everything that ever ran in it."""
        return cpu_seconds(self.cpuacct)

    def out_of_memory_kills(self) -> int:
        """Return how often the kernel ended a process of it."""
        lines = (self.memory / "memory.oom_control").read_text().splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)

    def memory_bytes(self) -> int:
        """Return what its processes take: each page once, page cache left out, shared memory counted."""
        rows = (self.memory / "memory.stat").read_text().splitlines()
        found = {name: int(value) for name, value in (row.split() for row in rows)}
        return found["total_rss"] + found.get("total_shmem", 0)

    def remove(self) -> None:
        """End what still runs in it, and remove it."""
        for path in self._paths:
            # Where cpu and cpuacct are one hierarchy, their groups are one.
            if path.exists():
                remove_group(path)


@contextlib.contextmanager
def limited(cores: float | None, memory_bytes: int | None) -> Iterator[Group]:
    """Have groups for the length of the body."""
    group = Group(cores, memory_bytes)
    try:
        yield group
    finally:
        group.remove()


def in_small_shm(command: Sequence[str], size: int | None) -> list[str]:
    """Return a command that sees a ``/dev/shm`` of a given size, in a mount namespace of its own."""
    if size is None:
        return list(command)
    mount = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", mount, "sh", *command]


class Counted(Protocol):
    """Processes whose CPU time is counted."""

    def cpu_seconds(self) -> float:
        """Return the CPU time that they used."""


class Foreign:
    """Counts the cores that others used since it was made: their work is noise in ours."""

    def __init__(self, *groups: Counted) -> None:
        """Begin to count what is used outside of the groups."""
        self._groups = groups
        self._at, self._machine, self._own = time.perf_counter(), _machine_seconds(), self._own_seconds()

    def cores(self) -> float:
        """Return the cores used by others, stolen time included, since the beginning."""
        others = (_machine_seconds() - self._machine) - (self._own_seconds() - self._own)
        return max(0.0, others / max(1e-3, time.perf_counter() - self._at))

    def _own_seconds(self) -> float:
        return sum(group.cpu_seconds() for group in self._groups)


def wait_for_quiet(groups: Sequence[Counted], cores: float, patience_seconds: float) -> None:
    """Wait until others use no more than so many cores, or patience ends."""
    end = time.perf_counter() + patience_seconds
    while time.perf_counter() < end:
        foreign = Foreign(*groups)
        time.sleep(0.2)
        if foreign.cores() <= cores:
            return


def _machine_seconds() -> float:
    fields = Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
    user, nice, system, _, _, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
