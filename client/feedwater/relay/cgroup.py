"""The container's cgroup: limits and usage over all visible levels, of version 1, 2 or both at once.

Every path starts below ``root``, which is ``/`` on a live system and a recorded tree in tests.

Source: https://docs.kernel.org/admin-guide/cgroup-v2.html, https://docs.kernel.org/admin-guide/cgroup-v1/
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from feedwater.relay.procfs import read_text

CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "pids")
UNLIMITED_BYTES = 1 << 60
"""Version 1 states "no limit" as 2**63 rounded down to a page; no machine has 2**60 bytes."""
MICROSECONDS, NANOSECONDS = 1e6, 1e9
"""In a second. A division by them makes 100,000 µs exactly 0.1 s."""


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """The trainer's groups under one controller."""

    version: int
    levels: tuple[str, ...]
    """Directories from the trainer's own group up to the highest visible one."""


@dataclass(frozen=True, slots=True)
class CgroupLimits:
    """The tightest limits of all visible levels. None is unknown or without limit."""

    cpu_quota_cores: float | None = None
    cpu_period_seconds: float | None = None
    memory_bytes: int | None = None
    pids: int | None = None
    cpus: int | None = None
    """In the cpuset."""


@dataclass(frozen=True, slots=True)
class CgroupUsage:
    """Usage at the level with the tightest limit, or at the trainer's own where there is none."""

    cpu_seconds: float | None = None
    periods: int | None = None
    throttled_periods: int | None = None
    throttled_seconds: float | None = None
    memory_bytes: int | None = None
    oom_kills: int | None = None
    pids: int | None = None
    cpu_pressure_seconds: float | None = None
    io_pressure_seconds: float | None = None
    memory_pressure_seconds: float | None = None


def cores_from_cpu_max(text: str) -> tuple[float | None, float]:
    """Return the CPU limit that a version 2 ``cpu.max`` file states in cores, and its period in seconds.

    Example: ``"150000 100000"`` (quota and period in microseconds) is 1.5 cores and 0.1 s.

    Returns:
        Quota divided by period, None if the quota is ``max``, that is, no limit; and the period.

    Raises:
        ValueError: Not two fields, or the period is not positive.

    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files
    """
    fields = text.split()
    if len(fields) != 2 or int(fields[1]) <= 0:
        raise ValueError(f"cpu.max: expected a quota and a period above 0, got {text[:80]!r}")
    period = int(fields[1])
    return (None if fields[0] == "max" else int(fields[0]) / period), period / MICROSECONDS


def cpus_from_list(text: str) -> int:
    """Return how many CPUs a list such as ``0-3,8`` contains.

    Raises:
        ValueError: Not such a list.
    """
    count = 0
    for part in text.strip().split(","):
        if part:
            low, _, high = part.partition("-")
            count += int(high or low) - int(low) + 1
    return count


def hierarchies(pid: int, root: str = "/") -> dict[str, Hierarchy]:
    """Return the groups of process ``pid`` by controller; a controller that is not mounted is left out."""
    try:
        groups = _groups(read_text(os.path.join(root, f"proc/{pid}/cgroup")))
        mounts = _mounts(read_text(os.path.join(root, f"proc/{pid}/mountinfo")))
    except OSError:
        return {}
    by_controller: dict[str, Hierarchy] = {}
    for controller in CONTROLLERS:
        # A controller lives in one hierarchy: version 1 where one is mounted for it, else version 2.
        name = controller if controller in mounts and controller in groups else ""
        if name in mounts and name in groups:
            levels = _levels(root, groups[name], *mounts[name])
            if levels:
                by_controller[controller] = Hierarchy(1 if name else 2, levels)
    return by_controller


class CgroupReader:
    """Reads the trainer's groups; a value is None if its file is missing, forbidden or not understood."""

    def __init__(self, pid: int, root: str = "/") -> None:
        self._hierarchies = hierarchies(pid, root)

    def limits(self) -> CgroupLimits:
        """Return the tightest limits."""
        quota = self._tightest_quota()
        memory = self._tightest("memory", "memory.limit_in_bytes", "memory.max")
        pids = self._tightest("pids", "pids.max", "pids.max")
        return CgroupLimits(
            cpu_quota_cores=quota[0] if quota else None,
            cpu_period_seconds=quota[1] if quota else None,
            memory_bytes=_smallest(memory[0] if memory else None, self._hidden_memory_limit()),
            pids=pids[0] if pids else None,
            cpus=self._cpuset(),
        )

    def usage(self) -> CgroupUsage:
        """Return the container's usage."""
        cpu_stat = self._cpu_stat()
        binding = self._tightest("memory", "memory.limit_in_bytes", "memory.max")
        memory = binding[1] if binding else self._own("memory")
        return CgroupUsage(
            cpu_seconds=self._cpu_seconds(cpu_stat),
            periods=cpu_stat.get("nr_periods"),
            throttled_periods=cpu_stat.get("nr_throttled"),
            throttled_seconds=_throttled_seconds(cpu_stat),
            memory_bytes=self._needed_memory(memory),
            oom_kills=self._oom_kills(memory),
            pids=_number(self._own("pids"), "pids.current"),
            cpu_pressure_seconds=self._pressure("cpu"),
            io_pressure_seconds=self._pressure("io"),
            memory_pressure_seconds=self._pressure("memory"),
        )

    def _levels(self, controller: str) -> tuple[str, ...]:
        hierarchy = self._hierarchies.get(controller)
        return hierarchy.levels if hierarchy else ()

    def _is_v2(self, controller: str) -> bool:
        hierarchy = self._hierarchies.get(controller)
        return hierarchy is not None and hierarchy.version == 2

    def _own(self, controller: str) -> str:
        return next(iter(self._levels(controller)), "")

    def _tightest(self, controller: str, v1_name: str, v2_name: str) -> tuple[int, str] | None:
        name = v2_name if self._is_v2(controller) else v1_name
        limits = [
            (limit, level) for level in self._levels(controller) if (limit := _limit(level, name)) is not None
        ]
        return min(limits, key=lambda pair: pair[0], default=None)

    def _tightest_quota(self) -> tuple[float, float, str] | None:
        read = _quota_v2 if self._is_v2("cpu") else _quota_v1
        quotas = [(*quota, level) for level in self._levels("cpu") if (quota := read(level)) is not None]
        return min(quotas, key=lambda quota: quota[0], default=None)

    def _hidden_memory_limit(self) -> int | None:
        # Version 1 states the smallest limit of all ancestors, including those that a container cannot see.
        if self._is_v2("memory"):
            return None
        limit = _fields(self._own("memory"), "memory.stat").get("hierarchical_memory_limit")
        return limit if limit is not None and limit < UNLIMITED_BYTES else None

    def _cpuset(self) -> int | None:
        names = ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus")
        for name in names:
            try:
                return cpus_from_list(_text(self._own("cpuset"), name)) or None
            except (OSError, ValueError):
                continue
        return None

    def _cpu_level(self) -> str:
        quota = self._tightest_quota()
        return quota[2] if quota else self._own("cpu")

    def _cpu_stat(self) -> dict[str, int]:
        return _fields(self._cpu_level(), "cpu.stat")

    def _cpu_seconds(self, cpu_stat: dict[str, int]) -> float | None:
        if "usage_usec" in cpu_stat:
            return cpu_stat["usage_usec"] / MICROSECONDS
        level = self._corresponding_level(self._cpu_level(), "cpuacct")
        nanoseconds = _number(level, "cpuacct.usage")
        return None if nanoseconds is None else nanoseconds / NANOSECONDS

    def _corresponding_level(self, level: str, controller: str) -> str:
        # The cpu and cpuacct controllers are often mounted together, and then have the same levels.
        cpu, other = self._levels("cpu"), self._levels(controller)
        at = cpu.index(level) if level in cpu else 0
        return other[min(at, len(other) - 1)] if other and len(other) == len(cpu) else self._own(controller)

    def _needed_memory(self, level: str) -> int | None:
        stat = _fields(level, "memory.stat")
        names: tuple[str, ...]
        if self._is_v2("memory"):
            names = ("anon", "shmem", "slab_unreclaimable", "kernel_stack", "pagetables", "percpu", "sock")
        elif "total_rss" in stat:
            names = ("total_rss", "total_shmem")
        else:
            names = ("rss", "shmem")
        return sum(stat.get(name, 0) for name in names) if names[0] in stat else None

    def _oom_kills(self, level: str) -> int | None:
        name = "memory.events" if self._is_v2("memory") else "memory.oom_control"
        return _fields(level, name).get("oom_kill")

    def _pressure(self, resource: str) -> float | None:
        if not self._is_v2("cpu"):
            return None
        return pressure_seconds(_try_text(self._own("cpu"), f"{resource}.pressure"))


def pressure_seconds(text: str) -> float | None:
    """Return the seconds that at least one task waited, from a ``*.pressure`` file; None if it lacks them.

    Source: https://docs.kernel.org/accounting/psi.html
    """
    for line in text.splitlines():
        if line.startswith("some"):
            total = line.rpartition("total=")[2]
            return int(total) / MICROSECONDS if total.isdecimal() else None
    return None


def _groups(text: str) -> dict[str, str]:
    """Return the group's path by controller; version 2 under the empty name."""
    groups = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if number and colon:
            for controller in controllers.split(","):
                groups[controller] = path
    return groups


def _mounts(text: str) -> dict[str, tuple[str, str]]:
    """Return (root within the hierarchy, mount point) by controller; version 2 under the empty name."""
    mounts: dict[str, tuple[str, str]] = {}
    for line in text.splitlines():
        before, dash, after = line.partition(" - ")
        left, right = before.split(), after.split()
        if not dash or len(left) < 5 or len(right) < 3:
            continue
        if right[0] == "cgroup2":
            mounts.setdefault("", (_unescape(left[3]), _unescape(left[4])))
        elif right[0] == "cgroup":
            for controller in right[2].split(","):
                mounts.setdefault(controller, (_unescape(left[3]), _unescape(left[4])))
    return mounts


def _unescape(text: str) -> str:
    # mountinfo writes a blank in a path as \040.
    return text.replace("\\040", " ")


def _levels(root: str, group: str, mount_root: str, mount_point: str) -> tuple[str, ...]:
    top = os.path.join(root, mount_point.lstrip("/"))
    if not os.path.isdir(top):
        return ()
    parts = _below(group, mount_root)
    # Without a cgroup namespace the path is the host's, and only a part of it is mounted here.
    while parts and not os.path.isdir(os.path.join(top, *parts)):
        parts = parts[1:]
    return tuple(os.path.join(top, *parts[:depth]) for depth in range(len(parts), -1, -1))


def _below(group: str, mount_root: str) -> list[str]:
    if ".." in group.split("/"):
        return []
    if mount_root != "/" and (group == mount_root or group.startswith(mount_root + "/")):
        group = group[len(mount_root) :]
    return [part for part in group.split("/") if part]


def _text(level: str, name: str) -> str:
    if not level:
        raise FileNotFoundError(name)
    return read_text(f"{level}/{name}")


def _try_text(level: str, name: str) -> str:
    try:
        return _text(level, name)
    except OSError:
        return ""


def _number(level: str, name: str) -> int | None:
    text = _try_text(level, name).strip()
    return int(text) if text.isdecimal() else None


def _limit(level: str, name: str) -> int | None:
    limit = _number(level, name)
    return limit if limit is not None and limit < UNLIMITED_BYTES else None


def _fields(level: str, name: str) -> dict[str, int]:
    pairs = (line.split() for line in _try_text(level, name).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def _quota_v2(level: str) -> tuple[float, float] | None:
    try:
        cores, period = cores_from_cpu_max(_text(level, "cpu.max"))
    except (OSError, ValueError):
        return None
    return None if cores is None else (cores, period)


def _quota_v1(level: str) -> tuple[float, float] | None:
    # `_number` returns None for -1, which means no limit.
    quota, period = _number(level, "cpu.cfs_quota_us"), _number(level, "cpu.cfs_period_us")
    return (quota / period, period / MICROSECONDS) if quota and period else None


def _throttled_seconds(cpu_stat: dict[str, int]) -> float | None:
    if "throttled_usec" in cpu_stat:
        return cpu_stat["throttled_usec"] / MICROSECONDS
    return cpu_stat["throttled_time"] / NANOSECONDS if "throttled_time" in cpu_stat else None


def _smallest(*limits: int | None) -> int | None:
    known = [limit for limit in limits if limit is not None]
    return min(known, default=None)
