"""The facts behind a verdict. A fact that was not measured is absent, never zero."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from feedwater_service.model.choose.choose import rate_with_margin
from feedwater_service.model.choose.what_if import LimitSweep
from feedwater_service.model.fit.estimate import Estimate
from feedwater_service.model.fit.memory import memory_growth
from feedwater_service.model.numbers import floors, thresholds
from feedwater_service.model.observed.epoch_stats import EpochStats
from feedwater_service.model.observed.group import RankGroup
from feedwater_service.model.observed.reads import cold_share, is_provisional, known_shards
from feedwater_service.model.predict.curve import Point
from feedwater_service.model.simulator.cpu import Machine
from feedwater_service.model.text import (
    cores_text,
    number_text,
    seconds_text,
)
from feedwater_service.model.types import ContainerUsage, Epoch, Evidence, Load


def throttled_share(containers: Sequence[ContainerUsage]) -> float | None:
    """Return the share of CFS periods in which the container was throttled; None where not known."""
    known = [c for c in containers if c.periods is not None and c.throttled_periods is not None]
    if len(known) < 2:
        return None
    periods = (known[-1].periods or 0) - (known[0].periods or 0)
    throttled = (known[-1].throttled_periods or 0) - (known[0].throttled_periods or 0)
    return throttled / periods if periods > 0 and throttled >= 0 else None


@dataclass(frozen=True, slots=True)
class Pressure:
    """Share of an epoch, 0 to 1, in which at least one task waited for a resource; None is not known."""

    cpu: float | None = None
    storage: float | None = None
    memory: float | None = None

    @property
    def by_storage(self) -> bool:
        """Tasks waited for storage so often that it may be the bottleneck."""
        return self.storage is not None and self.storage >= floors.MIN_PRESSURE_SHARE

    @property
    def by_memory(self) -> bool:
        """Tasks waited for memory (reclaim, refaults) so often that it may be the bottleneck."""
        return self.memory is not None and self.memory >= floors.MIN_PRESSURE_SHARE


def pressure(containers: Sequence[ContainerUsage]) -> Pressure:
    """Return the pressure that the kernel counted between the first and the last reading of an epoch.

    Source: https://docs.kernel.org/accounting/psi.html ("some")
    """
    return Pressure(
        _waited_share([(c.stamp_seconds, c.cpu_pressure_seconds) for c in containers]),
        _waited_share([(c.stamp_seconds, c.io_pressure_seconds) for c in containers]),
        _waited_share([(c.stamp_seconds, c.memory_pressure_seconds) for c in containers]),
    )


def _waited_share(readings: Sequence[tuple[float, float | None]]) -> float | None:
    known = [(stamp, total) for stamp, total in readings if total is not None]
    if len(known) < 2 or known[-1][0] <= known[0][0] or known[-1][1] < known[0][1]:
        return None
    return min(1.0, (known[-1][1] - known[0][1]) / (known[-1][0] - known[0][0]))


def starvation_name(group: RankGroup, figures: EpochStats) -> str:
    """Return what a share of waiting is called: under CUDA the host's wait is not starvation."""
    if figures.device_starvation is not None:
        return "device starvation"
    return "host wait" if group.slowest.uses_cuda else "starvation"


def facts(group: RankGroup, estimate: Estimate, machine: Machine) -> tuple[Evidence, ...]:
    """Return what was measured and fitted, as evidence."""
    epoch, figures = group.epoch, estimate.measured
    host = "host wait" if group.slowest.uses_cuda else "starvation"
    found = [
        Evidence("starvation_ratio", figures.starvation, f"{figures.starvation:.0%} {host}"),
        Evidence(
            "batches_per_second",
            figures.batches_per_second,
            f"{number_text(figures.batches_per_second)} batches/s",
        ),
        Evidence(
            "start_up_seconds", figures.start_up_seconds, f"{figures.start_up_seconds:.2g} s of start-up"
        ),
        Evidence("cpu_limit_cores", machine.cores, f"{cores_text(machine.cores)} to run on"),
    ]
    if figures.device_starvation is not None:
        share = figures.device_starvation
        found.append(Evidence("device_starvation_ratio", share, f"{share:.0%} device starvation"))
    if estimate.known.loads:
        found += _load_facts(estimate)
    if estimate.known.transport:
        receive = estimate.work.receive_seconds
        found.append(Evidence("receive_seconds", receive, f"{seconds_text(receive)} to receive a batch"))
    throttled = throttled_share(epoch.containers)
    if throttled is not None:
        found.append(Evidence("throttled_ratio", throttled, f"throttled in {throttled:.0%} of periods"))
    found += _pressure_facts(pressure(epoch.containers))
    found += [fact for rule in _MISLEADING if (fact := rule(group)) is not None]
    return tuple(found)


def _load_facts(estimate: Estimate) -> list[Evidence]:
    load, cpu, blocked = estimate.load_seconds, estimate.load_cpu_seconds, estimate.blocked_seconds
    delay = estimate.run_delay_share
    found = [
        Evidence("load_seconds", load, f"{seconds_text(load)} to load a batch"),
        Evidence("load_cpu_seconds", cpu, f"{seconds_text(cpu)} of it on the CPU"),
        Evidence("load_blocked_seconds", blocked, f"{seconds_text(blocked)} of it blocked"),
        Evidence("run_delay_ratio", delay, f"{delay:.0%} of runnable time without a CPU"),
    ]
    if estimate.work.load_width > 1:
        width = estimate.work.load_width
        found.append(Evidence("load_width_cores", width, f"{width:.2g} threads busy in each worker"))
    return found


def _pressure_facts(found: Pressure) -> list[Evidence]:
    """The kernel's pressure of the container's tasks, where it is large enough to name."""
    rows = (
        ("cpu_pressure_ratio", found.cpu, "a CPU"),
        ("io_pressure_ratio", found.storage, "storage"),
        ("memory_pressure_ratio", found.memory, "memory"),
    )
    return [
        Evidence(name, share, f"some task waited for {what} {share:.0%} of the time (kernel pressure)")
        for name, share, what in rows
        if share is not None and share >= floors.MIN_PRESSURE_SHARE
    ]


def _cold_reads(group: RankGroup) -> Evidence | None:
    """The share of reads that came from storage, and whether the page cache will hold them later."""
    share = cold_share(group.epoch)
    if share is None:
        return None
    text = f"{share:.0%} of what was read came from storage"
    if is_provisional(group):
        text += ": later epochs will find it in the page cache, so this one is provisional"
    return Evidence("storage_read_ratio", share, text)


def _first_loads(group: RankGroup) -> Evidence | None:
    """First loads that fill a worker's caches, which end with the worker."""
    first, later = _by_worker(group.epoch.loads)
    if group.epoch.settings.num_workers == 0 or not first or len(later) < floors.MIN_SAMPLES:
        return None
    once, usual = fmean(first), fmean(later)
    if once < floors.NOTABLE_FIRST_LOAD_RATIO * usual:
        return None
    text = f"a worker's first batch takes {seconds_text(once)}, a later one {seconds_text(usual)}"
    return Evidence("first_load_seconds", once, f"{text}: caches end with workers")


def _by_worker(loads: Sequence[Load]) -> tuple[list[float], list[float]]:
    """Undisturbed seconds of each worker's first load, and of all later ones."""
    first: dict[int, float] = {}
    later = []
    for load in loads:
        if load.worker in first:
            later.append(load.own_seconds)
        else:
            first[load.worker] = load.own_seconds
    return list(first.values()), later


def _stolen_cores(group: RankGroup) -> Evidence | None:
    """CPU time that the hypervisor gave to other virtual machines."""
    known = [c for c in group.epoch.containers if c.steal_seconds is not None]
    if len(known) < 2 or known[-1].stamp_seconds <= known[0].stamp_seconds:
        return None
    stolen = (known[-1].steal_seconds or 0.0) - (known[0].steal_seconds or 0.0)
    cores = stolen / (known[-1].stamp_seconds - known[0].stamp_seconds)
    if cores < floors.MIN_STOLEN_CORES:
        return None
    return Evidence("stolen_cores", cores, f"{cores:.2g} cores of the machine stolen by its hypervisor")


def _cpu_time_grows_with_workers(group: RankGroup) -> Evidence | None:
    """Growth of a load's CPU time with workers, which share memory bandwidth, caches and hyper-threads."""
    means = _cpu_by_workers(group.slowest.epochs)
    if len(means) < 2:
        return None
    few, many = min(means), max(means)
    ratio = means[many] / means[few]
    if ratio < floors.NOTABLE_RATIO:
        return None
    text = f"a load takes {ratio:.2g} times the CPU time with {many} workers that it takes with {few}"
    return Evidence("load_cpu_growth_ratio", ratio, text)


def _cpu_by_workers(epochs: Iterable[Epoch]) -> dict[int, float]:
    """Mean CPU seconds of a load by number of workers, the newest epoch of each."""
    means = {}
    for epoch in epochs:
        if epoch.settings.num_workers > 0 and len(epoch.loads) >= floors.MIN_SAMPLES:
            mean = fmean(load.cpu_seconds for load in epoch.loads)
            if mean > 0:
                means[epoch.settings.num_workers] = mean
    return means


def _memory_grows(group: RankGroup) -> Evidence | None:
    """Growth of a worker's memory: it copies pages shared with the trainer when it touches them."""
    grown = memory_growth(group.epoch)
    if grown is None or grown[1] < floors.NOTABLE_RATIO * grown[0]:
        return None
    first, last = grown
    text = f"a worker grew from {first / 2**20:.0f} to {last / 2**20:.0f} MiB within the epoch"
    return Evidence("worker_growth_bytes", last - first, text)


def _few_shards(group: RankGroup) -> Evidence | None:
    """Workers beyond the shards of an ``IterableDataset``, which deliver nothing."""
    shards = None if group.slowest.map_style else known_shards(group.epoch)
    if shards is None:
        return None
    workers = group.epoch.settings.num_workers
    return Evidence("delivering_workers", shards, f"{shards} of {workers} workers delivered anything")


def cpu_limit_evidence(limit_sweep: LimitSweep) -> tuple[Evidence, ...]:
    """Return the CPU limits at which starvation ends, nothing more is gained, or nothing is lost."""
    found = []
    if limit_sweep.starvation_ends_cores is not None:
        text = f"starvation ends at a CPU limit of {cores_text(limit_sweep.starvation_ends_cores)}"
        found.append(Evidence("starvation_ends_cores", limit_sweep.starvation_ends_cores, text))
    if limit_sweep.no_gain_cores is not None:
        text = f"beyond a CPU limit of {cores_text(limit_sweep.no_gain_cores)} nothing is gained"
        found.append(Evidence("no_gain_cores", limit_sweep.no_gain_cores, text))
    if limit_sweep.no_loss_cores is not None:
        text = f"a CPU limit of {cores_text(limit_sweep.no_loss_cores)} would lose nothing"
        found.append(Evidence("no_loss_cores", limit_sweep.no_loss_cores, text))
    return tuple(found)


def reserve_evidence(chosen: Point, points: Sequence[Point]) -> tuple[Evidence, ...]:
    """Return the fewest workers that are as good while loads take no longer than measured, if not chosen."""
    enough = (1 - thresholds.AS_GOOD_SHARE) * chosen.outcome.batches_per_second
    as_good = [p for p in points if p.settings.num_workers > 0 and p.outcome.batches_per_second >= enough]
    fewest = min(as_good, key=lambda p: p.settings.num_workers, default=chosen)
    if rate_with_margin(fewest) >= (1 - thresholds.AS_GOOD_SHARE) * rate_with_margin(chosen):
        return ()
    count = fewest.settings.num_workers
    workers = "1 worker is" if count == 1 else f"{count} workers are"
    return (
        Evidence(
            "fewest_workers",
            count,
            f"{workers} as good until loads take {thresholds.LOAD_TIME_MARGIN - 1:.0%} longer",
        ),
    )


_MISLEADING: tuple[Callable[[RankGroup], Evidence | None], ...] = (
    _cold_reads,
    _first_loads,
    _stolen_cores,
    _cpu_time_grows_with_workers,
    _memory_grows,
    _few_shards,
)
