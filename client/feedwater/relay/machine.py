"""The machine under the container: its memory, the time that a hypervisor stole, shared memory."""

from __future__ import annotations

import os
from dataclasses import dataclass

from feedwater.relay.procfs import CLOCK_TICK_SECONDS, KIB, named_numbers, read_text


@dataclass(frozen=True, slots=True)
class Memory:
    """The machine's memory in bytes."""

    total_bytes: int
    needed_bytes: int
    """Neither free nor reclaimable."""


@dataclass(frozen=True, slots=True)
class SharedMemory:
    """A tmpfs in bytes."""

    size_bytes: int
    used_bytes: int


def memory(root: str = "/") -> Memory | None:
    """Return the machine's memory; None where ``/proc/meminfo`` does not state it."""
    try:
        numbers = named_numbers(read_text(os.path.join(root, "proc/meminfo")))
        total = numbers["MemTotal"] * KIB
        return Memory(total, total - numbers["MemAvailable"] * KIB)
    except (OSError, KeyError):
        return None


def steal_seconds(root: str = "/") -> float | None:
    """Return the time stolen by the hypervisor over all CPUs, from the first line of ``/proc/stat``."""
    try:
        return (
            int(read_text(os.path.join(root, "proc/stat")).split("\n", 1)[0].split()[8]) * CLOCK_TICK_SECONDS
        )
    except (OSError, ValueError, IndexError):
        return None


def shared_memory(path: str = "/dev/shm") -> SharedMemory | None:
    """Return size and use of the file system that batches pass through; None where there is none.

    The ``file_descriptor`` sharing strategy leaves no files to list, so the file system itself is asked.
    """
    try:
        file_system = os.statvfs(path)
    except OSError:
        return None
    size = file_system.f_blocks * file_system.f_frsize
    return SharedMemory(size, size - file_system.f_bfree * file_system.f_frsize) if size else None
