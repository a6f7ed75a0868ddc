"""The limits that hold for a loader: those that its own ranks stated, as far as measurements agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from feedwater_service.model.types import Budget, ContainerUsage
from feedwater_service.state.reports import Limits


@dataclass(frozen=True, slots=True)
class StatedLimits:
    """What one client stated of its container, and the newest reading of it."""

    limits: Limits
    container: ContainerUsage | None


def budget_of(stated: Sequence[StatedLimits]) -> Budget | None:
    """Return the smallest of each limit: containers of one pod may report different ones.

    A limit below the measured use is not that container's, as the kernel would not have allowed the use: it
    is left out. Clients that have measured nothing of their container are compared with the others' readings:
    a process that stated "1 CPU, 1 byte" as another rank turned "2 → 4" into "2 → 0 workers", 20 % slower.

    Returns:
        None where no container reported how many CPUs there are.
    """
    readings = [s.container for s in stated if s.container is not None]
    return smallest([_held(s.limits, [s.container] if s.container else readings) for s in stated])


def smallest(stated: Sequence[Limits]) -> Budget | None:
    """Return the smallest of each limit; None where none has a number of CPUs."""
    cpus = min((v.cpus for v in stated if v.cpus is not None), default=None)
    if cpus is None:
        return None
    return Budget(
        cpus=cpus,
        cpu_quota_cores=min(
            (v.cpu_quota_cores for v in stated if v.cpu_quota_cores is not None), default=None
        ),
        cpu_period_seconds=min((v.cpu_period_seconds for v in stated if v.cpu_period_seconds), default=0.1),
        memory_bytes=min((v.memory_bytes for v in stated if v.memory_bytes is not None), default=None),
        shm_bytes=min((v.shm_bytes for v in stated if v.shm_bytes is not None), default=None),
        pids=min((v.pids for v in stated if v.pids is not None), default=None),
        open_files=min((v.open_files for v in stated if v.open_files is not None), default=None),
    )


def _held(limits: Limits, readings: Sequence[ContainerUsage]) -> Limits:
    """Return the limits without those that a reading exceeds."""
    return replace(
        limits,
        memory_bytes=_unless_exceeded(limits.memory_bytes, [r.memory_bytes for r in readings]),
        shm_bytes=_unless_exceeded(limits.shm_bytes, [r.shm_bytes for r in readings]),
        pids=_unless_exceeded(limits.pids, [r.pids for r in readings]),
    )


def _unless_exceeded(limit: int | None, used: Sequence[int | None]) -> int | None:
    most = max((u for u in used if u is not None), default=0)
    return None if limit is not None and most > limit else limit
