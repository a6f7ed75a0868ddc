"""A thin recorder of epochs: what the client reports, without the client.

Timed is the fetch of a batch in the worker (or in the main process at ``num_workers=0``), by replacing the
fetcher's method at class level before workers are forked; and ``next()`` and step in the main process.
"""

from __future__ import annotations

import os
import struct
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data._utils import fetch
from torch.utils.data._utils.worker import get_worker_info
from workloads import Case

from feedwater_service.model import Budget, Container, Epoch, Load, Settings

_RECORD = struct.Struct("qdddqqq")
_CPU_GROUP = Path("/sys/fs/cgroup/cpu")
_folder = ""
_out: dict[int, Any] = {}


def _run_delay_seconds() -> float:
    with open("/proc/thread-self/schedstat", "rb", buffering=0) as f:
        return int(f.read().split()[1]) / 1e9


def _tensors(batch: object) -> list[torch.Tensor]:
    if isinstance(batch, torch.Tensor):
        return [batch]
    return [t for part in batch for t in _tensors(part)] if isinstance(batch, (list, tuple)) else []


def install() -> None:
    """Time each fetch of a map-style dataset from now on."""
    plain = fetch._MapDatasetFetcher.fetch

    def timed(self: Any, indices: Any) -> Any:
        delay, cpu, begun = _run_delay_seconds(), time.thread_time(), time.perf_counter()
        batch = plain(self, indices)
        seconds, cpu = time.perf_counter() - begun, time.thread_time() - cpu
        delay = _run_delay_seconds() - delay
        tensors = _tensors(batch)
        size = sum(t.nbytes for t in tensors)
        _write(_RECORD.pack(_worker(), begun, seconds, cpu, int(delay * 1e9), size, len(tensors)))
        return batch

    fetch._MapDatasetFetcher.fetch = timed  # type: ignore[method-assign]


def _worker() -> int:
    info = get_worker_info()
    return 0 if info is None else info.id


def _write(record: bytes) -> None:
    pid = os.getpid()
    if pid not in _out:
        _out.clear()
        _out[pid] = open(f"{_folder}/{pid}", "ab", buffering=0)  # noqa: SIM115
    _out[pid].write(record)


def record(case: Case, workers: int, budget: Budget, number: int) -> Epoch:
    """Run one epoch of a case and return it as the client would report it."""
    global _folder
    settings = Settings(workers, 2 if workers else None)
    with tempfile.TemporaryDirectory() as folder:
        _folder = folder
        _out.clear()
        loader = DataLoader(
            case.make(case.batches * case.batch_size),
            batch_size=case.batch_size,
            num_workers=workers,
            prefetch_factor=settings.prefetch_factor,
        )
        before, cpu, start = container(), time.process_time(), time.perf_counter()
        iterator = iter(loader)
        iter_seconds = time.perf_counter() - start
        waits, steps = [], []
        asked = time.perf_counter()
        while True:
            batch = next(iterator, None)
            got = time.perf_counter()
            if batch is None:
                break
            case.step()
            ended = time.perf_counter()
            waits.append(got - asked)
            steps.append(ended - got)
            asked = ended
        cpu = time.process_time() - cpu
        after = container()
        return Epoch(
            number,
            settings,
            start,
            iter_seconds,
            waits,
            steps,
            loads=_loads(Path(folder)),
            containers=(before, after),
            trainer_cpu_seconds=cpu,
            batches=len(waits),
            teardown_seconds=got - asked,
            budget=budget,
        )


def _loads(folder: Path) -> list[Load]:
    found = []
    for file in folder.iterdir():
        for worker, start, seconds, cpu, delay, size, tensors in _RECORD.iter_unpack(file.read_bytes()):
            found.append(Load(worker, start, seconds, cpu, delay / 1e9, size, tensors))
    return sorted(found, key=lambda x: x.start)


def container() -> Container:
    """Return the counters of this process' CPU group, and the CPU time of it and its ended workers."""
    stat = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        if "cpu" in controllers.split(","):
            text = (_CPU_GROUP / group.lstrip("/") / "cpu.stat").read_text()
            stat = {k: int(v) for k, v in (row.split() for row in text.splitlines())}
    return Container(
        time.perf_counter(),
        cpu_seconds=_own_seconds(),
        periods=stat.get("nr_periods"),
        throttled_periods=stat.get("nr_throttled"),
    )


def enter_group(cores: float | None) -> Path:
    """Put this process into a CPU group of its own, and return the group to be removed.

    It has a quota where one is wanted, and a large weight: whatever else this machine does shall not show.
    """
    group = _CPU_GROUP / f"feedwater-prediction-{os.getpid()}"
    group.mkdir()
    (group / "cpu.shares").write_text("32768")
    if cores is not None:
        (group / "cpu.cfs_period_us").write_text("100000")
        (group / "cpu.cfs_quota_us").write_text(str(int(cores * 100000)))
    (group / "cgroup.procs").write_text(str(os.getpid()))
    return group


def leave_group(group: Path) -> None:
    """Go back to the root group and remove ours."""
    (_CPU_GROUP / "cgroup.procs").write_text(str(os.getpid()))
    group.rmdir()


class Foreign:
    """Counts the cores that others used since it was made: their work is noise in ours."""

    def __init__(self) -> None:
        self._at, self._machine, self._own = time.perf_counter(), _machine_seconds(), _own_seconds()

    def cores(self) -> float:
        """Return the cores used by others, stolen time included, since the beginning."""
        others = (_machine_seconds() - self._machine) - (_own_seconds() - self._own)
        return max(0.0, others / (time.perf_counter() - self._at))


def wait_for_quiet(cores: float, patience_seconds: float) -> None:
    """Wait until others use no more than so many cores, or patience ends."""
    end = time.perf_counter() + patience_seconds
    while time.perf_counter() < end:
        foreign = Foreign()
        time.sleep(0.3)
        if foreign.cores() <= cores:
            return


def _machine_seconds() -> float:
    user, nice, system, _, _, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system
