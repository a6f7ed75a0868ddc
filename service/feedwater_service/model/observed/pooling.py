"""Short epochs joined into one: five validations of 5 batches say as much as one epoch of 25.

An epoch of fewer batches than a recommendation takes (validation, a rank's few batches, a loop that leaves
early) is joined with earlier ones under the same settings. The joined epoch has all their batches and loads,
but the start-up, length and tear-down of one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import takewhile
from statistics import fmean

from feedwater_service.model.numbers import floors
from feedwater_service.model.types import DeviceStep, Epoch, Load, WorkerMemory


def known_batches(epoch: Epoch) -> int:
    """Return how many batches were measured, in all joined epochs."""
    return sum(min(len(e.waits), len(e.steps)) for e in epoch.parts or (epoch,))


def informative_epochs(epochs: Sequence[Epoch], least: int) -> tuple[Epoch, ...]:
    """Return the epochs without the newest ones that are too short to judge the settings in use by.

    Args:
        epochs: Oldest first.
        least: Batches that a judgement takes.
    """
    if not epochs:
        return ()
    same = _last_with_same_settings(epochs)
    whole = [i for i, e in enumerate(same) if known_batches(e) >= least]
    if whole:
        return tuple(epochs[: len(epochs) - len(same) + whole[-1] + 1])
    short = [e for e in same if known_batches(e) >= floors.MIN_EPOCH_BATCHES]
    return (*epochs[: len(epochs) - len(same)], *(short or same[-1:]))


def pooled(epochs: Sequence[Epoch], least: int) -> Epoch:
    """Return the last epoch; where it is short, joined with those before it under the same settings.

    Args:
        epochs: Oldest first, as `informative_epochs` returned them; not empty.
        least: Batches that a judgement takes.
    """
    parts: list[Epoch] = []
    for epoch in reversed(_last_with_same_settings(epochs)):
        if parts and known_batches(parts[0]) >= least:
            break
        if parts and (
            known_batches(epoch) >= least or _known_sum_of_all(parts) >= floors.MAX_POOLED_FACTOR * least
        ):
            break
        parts.insert(0, epoch)
    return parts[0] if len(parts) == 1 else joined(parts)


def joined(parts: Sequence[Epoch]) -> Epoch:
    """Return several epochs of the same settings as one: of one epoch's length, with the batches of all."""
    last = parts[-1]
    waits, steps = zip(*(_aligned(p) for p in parts), strict=True)
    return replace(
        last,
        start=parts[0].start,
        iter_seconds=fmean(p.iter_seconds for p in parts),
        waits=[fmean(w[0] for w in waits if w), *(x for w in waits for x in w[1:])],
        steps=[steps[0][0], *(x for s in steps for x in s[1:])],
        ready=(),
        loads=_loads(parts),
        device=_device(parts),
        memory=_memory(parts),
        containers=[c for p in parts for c in p.containers],
        trainer_cpu_seconds=_sum_of_all([p.trainer_cpu_seconds for p in parts]),
        trainer_run_delay_seconds=_sum_of_all([p.trainer_run_delay_seconds for p in parts]),
        batches=round(fmean(max(p.batches, len(p.waits)) for p in parts)),
        teardown_seconds=fmean(p.teardown_seconds for p in parts),
        dropped=sum(p.dropped for p in parts),
        parts=tuple(parts),
    )


def joined_steps(steps: Sequence[Sequence[float]]) -> list[float]:
    """Return the steps of several epochs as `joined` has them."""
    return [steps[0][0], *(x for s in steps for x in s[1:])]


def _aligned(epoch: Epoch) -> tuple[Sequence[float], Sequence[float]]:
    known = min(len(epoch.waits), len(epoch.steps))
    return epoch.waits[:known], epoch.steps[:known]


def _last_with_same_settings(epochs: Sequence[Epoch]) -> list[Epoch]:
    now = epochs[-1].settings
    return list(takewhile(lambda e: e.settings == now, reversed(epochs)))[::-1]


def _known_sum_of_all(parts: Iterable[Epoch]) -> int:
    return sum(map(known_batches, parts))


def _loads(parts: Sequence[Epoch]) -> list[Load]:
    # Each epoch starts its own workers, each with a first load; persistent workers are the same in all.
    return [replace(x, worker=x.worker + first) for p, first in _numbered(parts) for x in p.loads]


def _memory(parts: Sequence[Epoch]) -> list[WorkerMemory]:
    return [replace(x, worker=x.worker + first) for p, first in _numbered(parts) for x in p.memory]


def _numbered(parts: Sequence[Epoch]) -> list[tuple[Epoch, int]]:
    each = 0 if parts[0].settings.persistent_workers else max(1, parts[0].settings.num_workers)
    return [(p, i * each) for i, p in enumerate(parts)]


def _device(parts: Sequence[Epoch]) -> list[DeviceStep]:
    """The sampled steps without those of first batches, numbered like the joined batches."""
    found, before = [], 0
    for part in parts:
        known = min(len(part.waits), len(part.steps))
        found += [replace(d, batch=before + d.batch) for d in part.device if 0 < d.batch < known]
        before += max(0, known - 1)
    return found


def _sum_of_all(seconds: Sequence[float | None]) -> float | None:
    """The sum over all parts, by the mean of those where it is known; None if it is not known of any."""
    known = [s for s in seconds if s is not None]
    return fmean(known) * len(seconds) if known else None
