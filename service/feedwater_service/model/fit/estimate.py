"""The fitted quantities: from measurements at one setting to work that is the same at any.

Each quantity comes from the best signal that was measured, and `Known` says which those are. A missing signal
is replaced by a stated assumption and widens the bounds; it is never taken for zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from feedwater_service.model.fit.transport import inline_seconds, shm_write_seconds, transport_of
from feedwater_service.model.numbers import costs, floors, grids
from feedwater_service.model.observed.epoch_stats import EpochStats, summarise
from feedwater_service.model.simulator.simulate import Workload
from feedwater_service.model.types import Epoch, Load, Loader


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Which quantities were measured; the others are assumed."""

    loads: bool
    """Load times, split into CPU and blocked, were read in the workers."""
    transport: bool
    """Batches were seen moving between processes."""
    step_cpu: bool
    """The trainer's CPU time was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The fitted quantities, and what is known of their errors."""

    work: Workload
    batches: int
    """Of an epoch."""
    measured: EpochStats
    known: Known
    blocked_seconds: float
    """Mean per load."""
    load_cpu_seconds: float
    step_cpu_seconds: float
    step_timed_seconds: float
    run_delay_share: float
    """Of the time that loads were runnable, the part that they did not run: 0 on a free machine."""
    load_spread: float
    """Relative standard error of the mean load."""
    step_delay_seconds: float | None = None
    """Of a mean step, measured: the main thread could run and had no CPU. None where that is not known."""

    @property
    def load_seconds(self) -> float:
        """Mean time to load one batch, undisturbed."""
        return self.blocked_seconds + self.load_cpu_seconds

    @property
    def cpu_seconds(self) -> float:
        """CPU time of one batch with workers: loading, transport and step."""
        work = self.work
        return (
            self.load_cpu_seconds * work.load_width
            + work.send_cpu_seconds
            + work.receive_cpu_seconds
            + work.pass_cpu_seconds
            + self.step_cpu_seconds * work.step_width
        )


def estimate(loader: Loader, epoch: Epoch, step_floor: Sequence[float] | None = None) -> Estimate:
    """Return the fitted quantities of one epoch.

    Args:
        loader: Whose epoch it is.
        epoch: With two batches or more.
        step_floor: Shape (batches,), seconds: the rank's own steps where the others' delay is known.
    """
    figures = summarise(epoch)
    extra = _first_extra(*_first_and_later(epoch.loads))
    loads = _steady_loads(epoch, extra)
    steps = list(step_floor if step_floor is not None else epoch.steps)
    stretch = _stretch(loads)
    moved = transport_of(epoch, loads, stretch)
    inline = inline_seconds(epoch, loads)
    fork, boot = _start_up(loader, epoch, stretch)
    shm_write = shm_write_seconds(epoch, loads)
    pairs = _load_pairs(epoch, loads, moved.receive_seconds)
    if epoch.settings.num_workers:
        pairs = _without_cpu_seconds(pairs, shm_write)
    load_cpu = fmean(c for _, c in pairs)
    step_cpu, knows_step_cpu = _step_cpu(loader, epoch, load_cpu, moved.main_cpu_seconds, fork, steps)
    delay = _step_delay(epoch, steps, step_cpu)
    step_pairs, step_width = _step_pairs(
        _without_freezes(epoch, steps, stretch), step_cpu, delay, _step_stretch(epoch, steps, stretch)
    )
    width = _load_width(epoch, moved.send_seconds + moved.receive_seconds)
    work = Workload(
        loads=tuple(pairs),
        steps=tuple(step_pairs),
        load_width=width,
        step_width=step_width,
        send_cpu_seconds=moved.send_seconds + shm_write,
        receive_cpu_seconds=moved.main_cpu_seconds,
        pass_cpu_seconds=moved.pass_cpu_seconds,
        wake_seconds=moved.wake_seconds,
        inline_cpu_seconds=inline,
        fork_cpu_seconds=fork,
        boot_cpu_seconds=boot,
        first_blocked_seconds=extra[0],
        first_cpu_seconds=extra[1],
        exit_cpu_seconds=_exit_cpu_seconds(epoch),
        teardown_seconds=0.0 if epoch.settings.persistent_workers else costs.TEARDOWN_SECONDS,
    )
    return Estimate(
        work=work,
        # Short epochs may be left long before their end, by a limit on validation.
        batches=figures.batches if epoch.parts else loader.batches_per_epoch or figures.batches,
        measured=figures,
        known=Known(loads=bool(loads), transport=moved.is_measured, step_cpu=knows_step_cpu),
        blocked_seconds=fmean(b for b, _ in pairs),
        load_cpu_seconds=load_cpu,
        step_cpu_seconds=fmean(c for c, _ in step_pairs),
        step_timed_seconds=fmean(t for _, t in step_pairs),
        run_delay_share=1.0 - 1.0 / stretch,
        load_spread=_relative_standard_error([b + c for b, c in pairs], len(loads) or figures.batches),
        step_delay_seconds=delay,
    )


def epoch_with_workers(epochs: Sequence[Epoch], now: Epoch) -> Epoch | None:
    """Return the newest earlier epoch with workers, where the present one has none; else None."""
    if now.settings.num_workers > 0:
        return None
    earlier = [e for e in epochs if e.number < now.number and e.settings.num_workers > 0 and len(e.waits) > 1]
    return earlier[-1] if earlier else None


def with_workers_known(alone: Estimate, before: Estimate) -> Estimate:
    """Return an estimate from an epoch without workers, completed by an earlier epoch with workers.

    Args:
        alone: Of an epoch at ``num_workers=0``, which shows nothing of workers.
        before: Of an earlier epoch with workers.
    """
    seen = before.work
    work = replace(
        alone.work,
        load_width=seen.load_width,
        send_cpu_seconds=seen.send_cpu_seconds,
        receive_cpu_seconds=seen.receive_cpu_seconds,
        pass_cpu_seconds=seen.pass_cpu_seconds,
        wake_seconds=seen.wake_seconds,
        gil_switches=seen.gil_switches,
        fork_cpu_seconds=seen.fork_cpu_seconds,
        boot_cpu_seconds=seen.boot_cpu_seconds,
        first_blocked_seconds=seen.first_blocked_seconds,
        first_cpu_seconds=seen.first_cpu_seconds,
        exit_cpu_seconds=seen.exit_cpu_seconds,
        teardown_seconds=seen.teardown_seconds,
    )
    return replace(alone, work=work, known=replace(alone.known, transport=before.known.transport))


def stratified(values: Sequence[tuple[float, float]], count: int) -> list[tuple[float, float]]:
    """Return ``count`` pairs with the distribution, the order and the means of all.

    The middle one of each of ``count`` equal slices by size: a plain window of a heavy tail would hold too
    many or too few of its slow batches.
    """
    if len(values) <= count:
        return list(values)
    order = sorted(range(len(values)), key=lambda i: values[i][0] + values[i][1])
    size = len(values) / count
    kept = sorted(order[int((i + 0.5) * size)] for i in range(count))
    chosen = [values[i] for i in kept]
    first, second = (_mean_ratio(values, chosen, k) for k in (0, 1))
    return [(a * first, b * second) for a, b in chosen]


def _mean_ratio(
    all_values: Sequence[tuple[float, float]], chosen: Sequence[tuple[float, float]], k: int
) -> float:
    part = fmean(v[k] for v in chosen)
    return fmean(v[k] for v in all_values) / part if part > 0 else 1.0


def _first_and_later(loads: Sequence[Load]) -> tuple[list[Load], list[Load]]:
    """Each worker's first load, and all others."""
    seen: set[int] = set()
    first: list[Load] = []
    later: list[Load] = []
    for load in loads:
        (later if load.worker in seen else first).append(load)
        seen.add(load.worker)
    return first, later


def _first_extra(first: Sequence[Load], later: Sequence[Load]) -> tuple[float, float]:
    """Blocked and CPU seconds by which a worker's first load exceeds its others: it also fills caches.

    Zero unless every worker's first load is among the slowest of all: a heavy tail has slow loads anywhere.
    """
    if not first or len(later) < floors.MIN_SAMPLES:
        return 0.0, 0.0
    slow = sorted(x.own_seconds for x in later)[int(floors.FIRST_LOAD_QUANTILE * len(later))]
    if min(x.own_seconds for x in first) <= floors.FIRST_LOAD_FACTOR * slow:
        return 0.0, 0.0
    blocked = median(x.blocked_seconds for x in first) - median(x.blocked_seconds for x in later)
    cpu = median(x.cpu_seconds for x in first) - median(x.cpu_seconds for x in later)
    return max(0.0, blocked), max(0.0, cpu)


def _steady_loads(epoch: Epoch, extra: tuple[float, float]) -> list[Load]:
    """The epoch's loads in order, without the extra time of each worker's first one."""
    if extra == (0.0, 0.0):
        return list(epoch.loads)
    blocked, cpu = extra
    seen: set[int] = set()
    steady = []
    for load in epoch.loads:
        if load.worker not in seen:
            load = _without_first(load, blocked, cpu)
        seen.add(load.worker)
        steady.append(load)
    return steady


def _without_first(load: Load, blocked: float, cpu: float) -> Load:
    """A first load without its extra blocked and CPU time, and without the run delay of that CPU time."""
    own = max(0.0, load.cpu_seconds - cpu)
    waited = load.run_delay_seconds * (own / load.cpu_seconds if load.cpu_seconds > 0 else 1.0)
    seconds = max(0.0, load.blocked_seconds - blocked) + own + waited
    return replace(load, seconds=seconds, cpu_seconds=own, run_delay_seconds=waited)


def _stretch(loads: Sequence[Load]) -> float:
    """Times that CPU bursts took longer than undisturbed."""
    cpu = sum(load.cpu_seconds for load in loads)
    delay = sum(load.run_delay_seconds for load in loads)
    return (cpu + delay) / cpu if cpu > floors.NEGLIGIBLE_SECONDS * len(loads) else 1.0


def _load_pairs(epoch: Epoch, loads: Sequence[Load], receive: float) -> list[tuple[float, float]]:
    """Blocked and CPU seconds of loads; from waits and the trainer's CPU time where no load was read."""
    if loads:
        return stratified([_blocked_and_cpu(load) for load in loads], grids.WINDOW)
    workers = epoch.settings.num_workers
    waits = epoch.waits[1:] or epoch.waits
    if workers == 0:
        share = _trainer_cpu_share(epoch)
        return stratified([(w * (1 - share), w * share) for w in waits], grids.WINDOW)
    # In a starved loop each worker loads one batch while `num_workers` batches are consumed. In any other
    # loop this is too long.
    loading = [workers * (w + s) for w, s in zip(waits, epoch.steps[1:], strict=False)] or [receive]
    return stratified([(t * 0.5, t * 0.5) for t in loading], grids.WINDOW)


def _blocked_and_cpu(load: Load) -> tuple[float, float]:
    """Blocked and CPU seconds of a load; little blocking beside much computing is noise of the clocks."""
    blocked, cpu = load.blocked_seconds, load.cpu_seconds
    return (blocked, cpu) if blocked > floors.CLOCK_NOISE_SHARE * cpu else (0.0, cpu + blocked)


def _without_cpu_seconds(pairs: Sequence[tuple[float, float]], seconds: float) -> list[tuple[float, float]]:
    """Loads whose mean CPU time is less by some seconds, each reduced in proportion."""
    mean = fmean(c for _, c in pairs)
    factor = max(0.0, 1 - seconds / mean) if mean > 0 else 1.0
    return [(b, c * factor) for b, c in pairs]


def _trainer_cpu_share(epoch: Epoch) -> float:
    whole = sum(epoch.waits) + sum(epoch.steps)
    if epoch.trainer_cpu_seconds is None or whole <= 0:
        return 0.5
    return min(1.0, epoch.trainer_cpu_seconds / whole)


def _start_up(loader: Loader, epoch: Epoch, stretch: float) -> tuple[float, float]:
    """CPU seconds per worker, in the main process and in the worker itself, that an epoch begins with."""
    workers = epoch.settings.num_workers
    boot = costs.BOOT_CPU_SECONDS.get(loader.start_method, costs.BOOT_CPU_SECONDS["fork"])
    if workers == 0:
        return costs.FORK_CPU_SECONDS, boot
    fork = _shrunk_to_usual(epoch.iter_seconds / workers, costs.FORK_CPU_SECONDS, workers)
    used = None if epoch.settings.persistent_workers else _boot_cpu_seconds(loader, epoch)
    if stretch > floors.START_UP_MAX_STRETCH:
        return min(fork, costs.FORK_CPU_SECONDS), boot if used is None else used
    firsts = [f for part in epoch.parts or (epoch,) if (f := _delay_of_last_worker(part)) is not None]
    if firsts:
        # No index is dealt before all workers are forked; the last one has had no time to boot until then.
        elapsed = median(firsts)
        if elapsed > floors.CONCURRENT_BOOT_SECONDS and epoch.budget is not None:
            # Such boots run side by side: they share the CPUs until the last one ends.
            elapsed *= min(1.0, epoch.budget.cores / workers)
        boot = _shrunk_to_usual(elapsed, boot, 1)
    return fork, boot if used is None else max(boot, used)


def _boot_cpu_seconds(loader: Loader, epoch: Epoch) -> float | None:
    """CPU seconds of a worker before its first load, by this epoch or else by the newest that has them."""
    for one in (epoch, *reversed(loader.epochs)):
        found = [m.boot_cpu_seconds for m in one.memory if m.boot_cpu_seconds is not None]
        if found:
            return median(found)
    return None


def _delay_of_last_worker(epoch: Epoch) -> float | None:
    """Seconds from the end of ``iter()`` to the last worker's first load; None where it made none."""
    last = epoch.settings.num_workers - 1
    start = next((load.start for load in epoch.loads if load.worker == last), None)
    return None if start is None else max(0.0, start - epoch.start - epoch.iter_seconds)


def _shrunk_to_usual(measured: float, usual: float, workers: int) -> float:
    """A start-up cost, shrunk from the measured value towards the usual one: more for fewer workers.

    A value far from the usual one is kept: the process is of another kind.
    """
    if not usual / floors.START_UP_OUTLIER_FACTOR < measured < usual * floors.START_UP_OUTLIER_FACTOR:
        return measured
    return float(usual * (measured / usual) ** _shrinkage_weight(workers))


def _shrinkage_weight(workers: int) -> float:
    """Weight of the measured value against the usual one, 0 to 1."""
    return workers / (workers + floors.START_UP_PRIOR_WORKERS)


def _exit_cpu_seconds(epoch: Epoch) -> float:
    """CPU seconds of one worker at the end of an epoch."""
    workers = epoch.settings.num_workers
    if epoch.settings.persistent_workers:
        return 0.0
    if workers == 0 or not epoch.complete or epoch.teardown_seconds <= 0:
        return costs.EXIT_CPU_SECONDS
    measured = max(0.0, epoch.teardown_seconds - costs.TEARDOWN_SECONDS) / workers
    trust = _shrinkage_weight(workers)
    return min(
        floors.MAX_USUAL_FACTOR * costs.EXIT_CPU_SECONDS,
        trust * measured + (1 - trust) * costs.EXIT_CPU_SECONDS,
    )


def _step_cpu(
    loader: Loader, epoch: Epoch, load_cpu: float, receive_cpu: float, fork: float, steps: Sequence[float]
) -> tuple[float, bool]:
    """CPU seconds of one step, all threads, and whether they were measured."""
    mean = fmean(steps)
    batches = max(epoch.batches, len(epoch.waits))
    epochs = max(1, len(epoch.parts))
    if epoch.trainer_cpu_seconds is None:
        # Assumed: half of a step with a GPU is waiting for it, and a step without one is all CPU time.
        return mean * (0.5 if loader.uses_cuda else 1.0), False
    workers = epoch.settings.num_workers
    besides = epochs * fork * workers + batches * (receive_cpu if workers else load_cpu)
    return max(0.0, epoch.trainer_cpu_seconds - besides) / batches, True


def _quota_freezes_some(epoch: Epoch, steps: Sequence[float]) -> bool:
    """Whether a quota freezes some steps and leaves others whole: those shorter than a period."""
    budget = epoch.budget
    if budget is None or budget.cpu_quota_cores is None or budget.cores >= budget.cpus:
        return False
    return sorted(steps)[len(steps) // 4] < floors.FREEZABLE_STEP_PERIODS * budget.cpu_period_seconds


def _without_freezes(epoch: Epoch, steps: Sequence[float], stretch: float) -> Sequence[float]:
    """Steps without the freezes of a quota, which the simulation adds again."""
    if stretch < floors.NOTICEABLE_STRETCH or not _quota_freezes_some(epoch, steps):
        return steps
    quick = sorted(steps)[len(steps) // 4]
    return [min(s, floors.FROZEN_STEP_FACTOR * quick) for s in steps]


def _step_delay(epoch: Epoch, steps: Sequence[float], cpu: float) -> float | None:
    """Seconds of a mean step that the main thread could run and had no CPU; None where that is not known.

    Its delay is known for the whole epoch. Steps have it in proportion to their CPU time, beside that of
    starting workers and taking batches; but woken threads wait, too, however little they compute then. So a
    mean step is never taken for shorter than the quicker ones were: beside 20 busy processes a tenth of the
    steps took 10.4 ms, as all do undisturbed, and the mean one 31. Frozen time is cut off already.
    """
    delay = epoch.trainer_run_delay_seconds
    if delay is None or _quota_freezes_some(epoch, steps):
        return None
    batches = max(epoch.batches, len(epoch.waits))
    whole = epoch.trainer_cpu_seconds or 0.0
    share = min(1.0, cpu * batches / whole) if whole > 0 else 1.0
    quick = sorted(steps)[int(floors.QUICK_STEP_QUANTILE * len(steps))]
    return max(0.0, min(fmean(steps) - quick, share * delay / batches))


def _step_stretch(epoch: Epoch, steps: Sequence[float], stretch: float) -> float:
    """Times that CPU parts of steps took longer because CPUs were shared; 1 where freezes are cut already."""
    return 1.0 if _quota_freezes_some(epoch, steps) else stretch


def _step_pairs(
    steps: Sequence[float], cpu: float, delay: float | None, stretch: float
) -> tuple[list[tuple[float, float]], float]:
    """Undisturbed CPU and timed seconds of steps, and the CPUs that a step keeps busy.

    Where the main thread's own delay is not known, its CPU part is taken for stretched as the workers' loads
    were. Their product may exceed the step: beside 20 busy processes 3.5 ms times 10 fill a step of 31, and
    288 steps/s seem possible where 100 are.
    """
    measured = fmean(steps)
    if measured < floors.NEGLIGIBLE_SECONDS:
        return [(0.0, 0.0)], 1.0
    width = min(floors.MAX_LOAD_WIDTH, max(1.0, cpu / measured))
    cpu /= width
    timed = max(0.0, measured - cpu - (cpu * (stretch - 1) if delay is None else delay))
    own = cpu + timed
    if own < floors.NEGLIGIBLE_SECONDS:
        return [(0.0, 0.0)], 1.0
    share, scale = cpu / own, own / measured
    return stratified([(s * scale * share, s * scale * (1 - share)) for s in steps], grids.WINDOW), width


def _load_width(epoch: Epoch, hand_over: float) -> float:
    """CPUs that one load keeps busy: CPU time of worker processes over that of their loading threads.

    Both are taken between the first and the last reading of each worker. Its CPU time before the first load
    counts as a reading: start-up and a ``worker_init_fn`` of 0.3 s of CPU are no threads of loads that sleep.
    """
    readings = _cpu_readings(epoch)
    processes = threads = 0.0
    for load in epoch.loads:
        between = readings.get(load.worker, ())
        if len(between) > 1 and load.seconds > 0:
            # A load that straddles a reading counts in part: under a tight quota loads are as long as the
            # time between two readings, and half of the work would be missing without those at the edges.
            end = min(load.start + load.seconds, between[-1][0])
            part = max(0.0, end - max(load.start, between[0][0])) / load.seconds
            threads += load.cpu_seconds * part
            # The process also hands the batch over, which is counted elsewhere.
            processes -= hand_over * part
    processes += sum(r[-1][1] - r[0][1] for r in readings.values())
    # Shorter loads cannot be told from a worker's other work; a smaller width is no sign of threads.
    if threads <= 0.002 * len(epoch.loads) or processes < floors.MIN_LOAD_WIDTH * threads:
        return 1.0
    return min(processes / threads, floors.MAX_LOAD_WIDTH)


def _cpu_readings(epoch: Epoch) -> dict[int, list[tuple[float, float]]]:
    """Stamp and CPU seconds of each worker's process, in order, from its first load on."""
    found: dict[int, list[tuple[float, float]]] = {}
    boots: dict[int, float] = {}
    for m in epoch.memory:
        if m.cpu_seconds is not None:
            found.setdefault(m.worker, []).append((m.stamp_seconds, m.cpu_seconds))
        if m.boot_cpu_seconds is not None:
            boots[m.worker] = m.boot_cpu_seconds
    if epoch.settings.persistent_workers:
        # Their first load was in another epoch.
        return found
    firsts = {load.worker: load.start for load in reversed(epoch.loads)}
    for worker in found.keys() & boots.keys() & firsts.keys():
        begun = firsts[worker]
        later = [(stamp, cpu) for stamp, cpu in found[worker] if stamp > begun]
        found[worker] = [(begun, boots[worker]), *later]
    return found


def _relative_standard_error(values: Sequence[float], count: int) -> float:
    mean = fmean(values)
    if mean <= 0 or count < 2:
        return 0.0
    variance = fmean((v - mean) ** 2 for v in values)
    return float((variance / count) ** 0.5 / mean)
