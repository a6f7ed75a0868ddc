"""Give a process a real CPU limit, the kind that Kubernetes gives a container."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

PERIOD_MICROSECONDS = 100_000
"""What the kubelet sets."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A CPU limit, or none where this machine does not allow one."""

    cores: float | None
    """None: no limit could be set."""
    prefix: tuple[str, ...]
    """Words to put before a command, so that it runs under the limit."""
    how: str
    """How it was set, or why not: a phrase."""


@contextlib.contextmanager
def cpu_limit(
    cores: float, sys_fs: pathlib.Path = pathlib.Path("/sys/fs/cgroup"), systemd: str = "systemd-run"
) -> Iterator[Limit]:
    """Offer a limit of so many cores, by the first means that works here; take it back at the end."""
    name = f"feedwater-demo-{os.getpid()}"
    for files, parent in _places(sys_fs):
        group = parent / name
        if _made(group, files, cores):
            try:
                enter = ("sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh")
                yield Limit(cores, enter, f"cgroup quota, {group}")
            finally:
                _remove(group)
            return
    if _can_limit(systemd):
        percent = f"CPUQuota={cores:.0%}"
        prefix = (systemd, "--user", "--scope", "--quiet", "-p", percent, "--")
        yield Limit(cores, prefix, "cgroup quota, systemd user scope")
        return
    yield Limit(None, (), "this machine lets this user create no CPU limit")


def _places(sys_fs: pathlib.Path) -> Iterator[tuple[str, pathlib.Path]]:
    """Yield (version, directory) where a child group could be made."""
    if (sys_fs / "cgroup.controllers").exists():
        own = next((line[3:].strip() for line in _lines("/proc/self/cgroup") if line.startswith("0::")), "/")
        yield "v2", sys_fs / own.lstrip("/")
        yield "v2", sys_fs
    for mount in ("cpu", "cpu,cpuacct"):
        if (sys_fs / mount / "cpu.cfs_quota_us").exists() or (sys_fs / mount / "cgroup.procs").exists():
            yield "v1", sys_fs / mount


def _made(group: pathlib.Path, version: str, cores: float) -> bool:
    quota = int(cores * PERIOD_MICROSECONDS)
    wanted = (
        {"cpu.max": f"{quota} {PERIOD_MICROSECONDS}"}
        if version == "v2"
        else {"cpu.cfs_period_us": str(PERIOD_MICROSECONDS), "cpu.cfs_quota_us": str(quota)}
    )
    try:
        group.mkdir()
        for file, text in wanted.items():
            (group / file).write_text(text)
        # A group that cannot be entered limits nothing: cgroup v2 refuses where its parent has processes.
        subprocess.run(["sh", "-c", f"echo $$ > {group}/cgroup.procs"], check=True, stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        with contextlib.suppress(OSError):
            group.rmdir()
        return False
    return True


def _remove(group: pathlib.Path) -> None:
    """Remove the group, and end what still runs in it: workers outlive a killed trainer for some seconds."""
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:
        try:
            group.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY:
                return
            for pid in _lines(group / "cgroup.procs"):
                with contextlib.suppress(OSError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.02)
        else:
            return


def _can_limit(systemd: str) -> bool:
    command = [
        systemd,
        "--user",
        "--scope",
        "--quiet",
        "-p",
        "CPUQuota=100%",
        "--",
        "cat",
        "/proc/self/cgroup",
    ]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
        own = next(line[3:].strip() for line in said.splitlines() if line.startswith("0::"))
    except (OSError, subprocess.SubprocessError, StopIteration):
        return False
    # Without delegation the scope exists and limits nothing.
    slice_ = pathlib.Path("/sys/fs/cgroup") / own.lstrip("/")
    return any("cpu" in line.split() for line in _lines(slice_.parent / "cgroup.subtree_control"))


def _lines(path: str | pathlib.Path) -> list[str]:
    try:
        return pathlib.Path(path).read_text().splitlines()
    except OSError:
        return []
