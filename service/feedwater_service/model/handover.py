"""How long batches took from their worker to the loop, batch by batch, from the stamps on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from feedwater_service.model.simulate import Run
from feedwater_service.model.values import Epoch, Load


@dataclass(frozen=True, slots=True)
class Passage:
    """One batch's way to the loop."""

    delay: float
    """Seconds from when it was made and asked for, whichever came later, to its delivery."""
    main_waited: bool
    """It was asked for before it was made."""


def handed_over(epoch: Epoch) -> list[Passage]:
    """Return the passages of an epoch's batches but the first, in order.

    Empty unless every load is known and delivery is in order: batch ``i`` is then the next one of worker
    ``i % num_workers``.
    """
    workers = epoch.settings.num_workers
    if workers == 0 or not epoch.settings.in_order or len(epoch.loads) < len(epoch.waits):
        return []
    ends: dict[int, list[float]] = {}
    for load in epoch.loads:
        ends.setdefault(load.worker, []).append(load.start + load.seconds)
    asked, got = _stamps(epoch)
    found = []
    for i in range(1, len(asked)):
        made = ends.get(i % workers, [])
        if i // workers < len(made):
            found.append(_passage(asked[i], made[i // workers], got[i]))
    return found


def idle_free_gap(epoch: Epoch) -> float | None:
    """Return the usual time between two loads of a worker that had its next index already, seconds.

    The index of batch ``i`` is put when batch ``i - num_workers * prefetch_factor`` is delivered. None where
    fewer than ten are known.
    """
    workers, ahead = epoch.settings.num_workers, epoch.settings.queue_batches
    if workers == 0 or not epoch.settings.in_order or len(epoch.loads) < len(epoch.waits):
        return None
    _, got = _stamps(epoch)
    made: dict[int, list[Load]] = {}
    for load in epoch.loads:
        made.setdefault(load.worker, []).append(load)
    gaps = []
    for worker, loads in made.items():
        for turn in range(1, len(loads)):
            ended = loads[turn - 1].start + loads[turn - 1].seconds
            batch = turn * workers + worker
            if batch < ahead or (batch - ahead < len(got) and got[batch - ahead] < ended):
                gaps.append(loads[turn].start - ended)
    return max(0.0, median(gaps)) if len(gaps) >= 10 else None


def handed_over_in(run: Run) -> list[Passage]:
    """Return the passages of a simulated epoch, likewise."""
    whole = zip(run.asked[1:], run.made[1:], run.got[1:], strict=True)
    return [_passage(asked, made, got) for asked, made, got in whole]


def mean_delay(passages: Sequence[Passage]) -> float:
    """Return the mean delay in seconds; 0 for none."""
    return fmean(p.delay for p in passages) if passages else 0.0


def _passage(asked: float, made: float, got: float) -> Passage:
    return Passage(max(0.0, got - max(asked, made)), asked < made)


def _stamps(epoch: Epoch) -> tuple[list[float], list[float]]:
    asked, got = [], []
    now = epoch.start + epoch.iter_seconds
    for wait, step in zip(epoch.waits, epoch.steps, strict=False):
        asked.append(now)
        now += wait
        got.append(now)
        now += step
    return asked, got
