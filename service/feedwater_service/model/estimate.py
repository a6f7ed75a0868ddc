"""From what was measured at one setting to what is true at any: the fitted quantities.

Each quantity comes from the best signal that is there and says which (`Known`); a signal that is missing is
replaced by a stated assumption and widens the bounds, it is never taken for zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from feedwater_service.model.figures import Figures, summarise
from feedwater_service.model.simulate import Workload
from feedwater_service.model.values import Epoch, Load, Loader

SAMPLES = 400
"""Loads and steps kept: 1/sqrt(400) is 5 % of their spread, and a simulation of them takes 2 ms."""
FORK_SECONDS = 0.006
"""Per worker, in the main process, where no worker was ever started: 5 to 10 ms measured for fork."""
BOOT_SECONDS = {"fork": 0.005, "spawn": 1.1, "forkserver": 0.9}
"""CPU time of a worker before its first batch, by start method: spawn and forkserver import torch again."""
TENSOR_SECONDS = 0.0005
"""To move one tensor between processes, half of it in the main process."""
HAND_OVER_SECONDS = 0.0004
"""To move one batch with few tensors: pickling, a pipe, two wake-ups."""
TEARDOWN_SECONDS = 0.003
"""Per worker: 37 to 43 ms measured for 16."""


@dataclass(frozen=True, slots=True)
class Known:
    """Which quantities were measured; the others are assumed."""

    loads: bool
    """Load times, split into CPU and blocked, were read in the workers."""
    transport: bool
    """Batches were seen moving between processes."""
    step_cpu: bool
    """The trainer's CPU time was read."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """All that the simulation needs, and how far it can be trusted."""

    work: Workload
    batches: int
    """Of an epoch."""
    measured: Figures
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

    @property
    def load_seconds(self) -> float:
        """Mean time to make one batch, undisturbed."""
        return self.blocked_seconds + self.load_cpu_seconds

    @property
    def cpu_seconds(self) -> float:
        """CPU time of one batch with workers: loading, transport and step."""
        work = self.work
        return (
            self.load_cpu_seconds * work.load_width
            + work.send_cpu_seconds
            + work.receive_cpu_seconds
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
    loads = _steady_loads(epoch)
    steps = list(step_floor if step_floor is not None else epoch.steps)
    stretch = _stretch(loads)
    receive, send, saw_transport = _transport(epoch, loads)
    inline = _inline(epoch, loads)
    fork, boot = _start_up(loader, epoch)
    pairs = _load_pairs(epoch, loads, receive)
    load_cpu = fmean(c for _, c in pairs)
    step_cpu, knows_step_cpu = _step_cpu(loader, epoch, load_cpu, receive, steps)
    step_pairs, step_width = _step_pairs(steps, step_cpu, stretch)
    width = _load_width(epoch, loads)
    work = Workload(
        loads=tuple(pairs),
        steps=tuple(step_pairs),
        load_width=width,
        step_width=step_width,
        send_cpu_seconds=send,
        receive_cpu_seconds=receive,
        inline_cpu_seconds=inline,
        fork_cpu_seconds=fork,
        boot_cpu_seconds=boot,
        teardown_seconds=_teardown(epoch),
    )
    return Estimate(
        work,
        loader.batches_per_epoch or figures.batches,
        figures,
        Known(bool(loads), saw_transport, knows_step_cpu),
        fmean(b for b, _ in pairs),
        load_cpu,
        fmean(c for c, _ in step_pairs),
        fmean(t for _, t in step_pairs),
        1.0 - 1.0 / stretch,
        _spread([b + c for b, c in pairs], len(loads) or figures.batches),
    )


def stratified(values: Sequence[tuple[float, float]], count: int) -> list[tuple[float, float]]:
    """Return ``count`` pairs with the spread of all, in their order, their means kept.

    The middle one of each of ``count`` equal slices by size: a plain window of a heavy tail would hold too
    many or too few of its slow batches.
    """
    if len(values) <= count:
        return list(values)
    order = sorted(range(len(values)), key=lambda i: values[i][0] + values[i][1])
    size = len(values) / count
    kept = sorted(order[int((i + 0.5) * size)] for i in range(count))
    chosen = [values[i] for i in kept]
    first, second = (_ratio(values, chosen, k) for k in (0, 1))
    return [(a * first, b * second) for a, b in chosen]


def _ratio(all_values: Sequence[tuple[float, float]], chosen: Sequence[tuple[float, float]], k: int) -> float:
    part = fmean(v[k] for v in chosen)
    return fmean(v[k] for v in all_values) / part if part > 0 else 1.0


def _steady_loads(epoch: Epoch) -> list[Load]:
    """The epoch's loads without each worker's first, which fills caches and opens files."""
    seen: set[int] = set()
    later = []
    for load in epoch.loads:
        if load.worker in seen:
            later.append(load)
        seen.add(load.worker)
    return later if len(later) >= 10 else list(epoch.loads)


def _stretch(loads: Sequence[Load]) -> float:
    """How much longer CPU bursts took than they would undisturbed."""
    cpu = sum(load.cpu_seconds for load in loads)
    return (cpu + sum(load.run_delay_seconds for load in loads)) / cpu if cpu > 0 else 1.0


def _load_pairs(epoch: Epoch, loads: Sequence[Load], receive: float) -> list[tuple[float, float]]:
    """Blocked and CPU seconds of loads; without any, what the waits and the trainer's CPU time say."""
    if loads:
        return stratified([(load.blocked_seconds, load.cpu_seconds) for load in loads], SAMPLES)
    workers = epoch.settings.num_workers
    waits = epoch.waits[1:] or epoch.waits
    if workers == 0:
        share = _trainer_cpu_share(epoch)
        return stratified([(w * (1 - share), w * share) for w in waits], SAMPLES)
    # Starved, each worker makes one batch in the time that `num_workers` are consumed; else this is too long.
    loading = [workers * (w + s) for w, s in zip(waits, epoch.steps[1:], strict=False)] or [receive]
    return stratified([(t * 0.5, t * 0.5) for t in loading], SAMPLES)


def _trainer_cpu_share(epoch: Epoch) -> float:
    whole = sum(epoch.waits) + sum(epoch.steps)
    if epoch.trainer_cpu_seconds is None or whole <= 0:
        return 0.5
    return min(1.0, epoch.trainer_cpu_seconds / whole)


def _transport(epoch: Epoch, loads: Sequence[Load]) -> tuple[float, float, bool]:
    """CPU seconds to receive and to send a batch, and whether that was seen."""
    tensors = [load.batch_tensors for load in loads if load.batch_tensors]
    each_side = max(HAND_OVER_SECONDS, TENSOR_SECONDS * fmean(tensors) if tensors else 0.0) / 2
    if epoch.settings.num_workers == 0 or len(epoch.waits) < 3:
        return each_side, each_side, False
    ready = [w for w, n in zip(epoch.waits, epoch.ready, strict=False) if n > 0][1:]
    waits = sorted(ready if len(ready) >= 10 else epoch.waits[1:])
    # A batch that was there already costs its reception alone; the lowest tenth is there if any is.
    receive = waits[len(waits) // 10]
    passage = _passage(epoch)
    if passage is not None:
        receive = min(receive, passage)
        return receive, max(0.0, min(passage - receive, receive)), True
    if receive > 4 * each_side:
        # Every wait was long: no batch was ever ready, so the waits say nothing of transport.
        return each_side, each_side, False
    return receive, receive, True


def _passage(epoch: Epoch) -> float | None:
    """Median time from the end of a load to its batch's delivery, where the main process was waiting for it.

    None unless every load is known: the worker of batch ``i`` is ``i % num_workers``, its load the next one.
    """
    workers = epoch.settings.num_workers
    by_worker: dict[int, list[Load]] = {}
    for load in epoch.loads:
        by_worker.setdefault(load.worker, []).append(load)
    if len(epoch.loads) < len(epoch.waits) or not epoch.settings.in_order:
        return None
    now = epoch.start + epoch.iter_seconds
    taken = []
    for i, (wait, step) in enumerate(zip(epoch.waits, epoch.steps, strict=False)):
        asked, now = now, now + wait
        made = by_worker.get(i % workers, [])
        if i > 0 and i // workers < len(made):
            load = made[i // workers]
            ended = load.start + load.seconds
            if asked < ended <= now:
                taken.append(now - ended)
        now += step
    return median(taken) if len(taken) >= 10 else None


def _inline(epoch: Epoch, loads: Sequence[Load]) -> float:
    """What a batch costs in the main process at no workers, besides its load."""
    if epoch.settings.num_workers > 0 or not loads or len(epoch.waits) < 3:
        return 0.0
    matched = fmean(load.seconds for load in loads)
    return max(0.0, min(fmean(epoch.waits[1:]) - matched, median(epoch.waits[1:]) * 0.5))


def _start_up(loader: Loader, epoch: Epoch) -> tuple[float, float]:
    """CPU seconds per worker, in the main process and in the worker itself, that an epoch begins with."""
    workers = epoch.settings.num_workers
    boot = BOOT_SECONDS.get(loader.start_method, BOOT_SECONDS["fork"])
    if workers == 0:
        return FORK_SECONDS, boot
    fork = epoch.iter_seconds / workers
    begun = [load.start for load in epoch.loads[: 4 * workers]]
    if begun and epoch.start > 0 and min(begun) > epoch.start:
        # The first worker starts while the others are being forked.
        boot = max(0.0, min(begun) - epoch.start - fork)
    return fork, boot


def _teardown(epoch: Epoch) -> float:
    workers = epoch.settings.num_workers
    if epoch.settings.persistent_workers:
        return 0.0
    if workers == 0 or not epoch.complete:
        return TEARDOWN_SECONDS
    return epoch.teardown_seconds / workers


def _step_cpu(
    loader: Loader, epoch: Epoch, load_cpu: float, receive: float, steps: Sequence[float]
) -> tuple[float, bool]:
    """CPU seconds of one step, all threads, and whether they were measured."""
    mean = fmean(steps)
    batches = len(epoch.waits)
    if epoch.trainer_cpu_seconds is None or epoch.batches > batches:
        # A step on a GPU is half waiting for it, as far as anyone can say; one without uses the CPU.
        return mean * (0.5 if loader.uses_cuda else 1.0), False
    workers = epoch.settings.num_workers
    besides = epoch.iter_seconds + batches * (receive if workers else load_cpu)
    return max(0.0, epoch.trainer_cpu_seconds - besides) / batches, True


def _step_pairs(
    steps: Sequence[float], cpu: float, stretch: float
) -> tuple[list[tuple[float, float]], float]:
    """CPU and timed seconds of steps as they would be undisturbed, and the CPUs that a step keeps busy.

    The main process competes as the workers do, so its CPU part was stretched as theirs was.
    """
    measured = fmean(steps)
    width = max(1.0, cpu / measured) if measured > 0 else 1.0
    cpu /= width
    timed = max(0.0, measured - cpu * stretch)
    own = cpu + timed
    if own <= 0:
        return [(0.0, 0.0)], 1.0
    share = cpu / own
    if stretch > 1.05:
        # A step that met a freeze is not a longer step: the tail is the machine's, and simulated.
        cap = 2 * median(steps)
        steps = [min(s, cap) for s in steps]
    scale = own / fmean(steps)
    pairs = stratified([(s * scale * share, s * scale * (1 - share)) for s in steps], SAMPLES)
    return pairs, width


def _load_width(epoch: Epoch, loads: Sequence[Load]) -> float:
    """CPUs that one load keeps busy: CPU time of worker processes over that of their loading threads."""
    threads = sum(load.cpu_seconds for load in loads)
    processes: dict[int, float] = {}
    for m in epoch.memory:
        if m.cpu_seconds is not None:
            processes[m.worker] = max(processes.get(m.worker, 0.0), m.cpu_seconds)
    workers = epoch.settings.num_workers
    if threads <= 0 or len(processes) < workers or workers == 0:
        return 1.0
    ends = [m.stamp for m in epoch.memory if m.cpu_seconds is not None]
    seen = sum(load.cpu_seconds for load in epoch.loads if load.start + load.seconds <= max(ends))
    # Starting and pickling also cost the process CPU time: native threads only show where they exceed a core.
    width = sum(processes.values()) / seen if seen > 0 else 1.0
    return min(width, 64.0) if width > 1.5 else 1.0


def _spread(values: Sequence[float], count: int) -> float:
    mean = fmean(values)
    if mean <= 0 or count < 2:
        return 0.0
    variance = fmean((v - mean) ** 2 for v in values)
    return float((variance / count) ** 0.5 / mean)
