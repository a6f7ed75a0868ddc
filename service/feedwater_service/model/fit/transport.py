"""How long batches took from their worker to the loop, batch by batch, from the stamps on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from feedwater_service.model.observed.timeline import EDGE, stamps
from feedwater_service.model.simulator.simulate import Run
from feedwater_service.model.types import Epoch, Load


@dataclass(frozen=True, slots=True)
class Passage:
    """One batch's way to the loop."""

    delay: float
    """Seconds from when it was made and asked for, whichever came later, to its delivery."""
    main_waited: bool
    """It was asked for before it was made."""


def handed_over(epoch: Epoch) -> list[Passage]:
    """Return the passages of an epoch's batches but the first, in order.

    Empty where loads and batches cannot be told to belong together, see `_ends`.
    """
    if epoch.parts:
        return [passage for part in epoch.parts for passage in handed_over(part)]
    ends = _ends(epoch)
    if not ends:
        return []
    asked, got = stamps(epoch)
    return [_passage(*times) for times in zip(asked[1:], ends[1:], got[1:], strict=False)]


def idle_free_gap(epoch: Epoch) -> float | None:
    """Return the usual time between two loads of a worker that had its next index already, seconds.

    The index of batch ``i`` is put when batch ``i - num_workers * prefetch_factor`` is delivered. None where
    fewer than ten are known.
    """
    gaps = [gap for part in epoch.parts or (epoch,) for gap in _idle_free_gaps(part)]
    return max(0.0, median(gaps)) if len(gaps) >= 10 else None


def _idle_free_gaps(epoch: Epoch) -> list[float]:
    workers, ahead = epoch.settings.num_workers, epoch.settings.queue_batches
    ends = _ends(epoch)
    if not ends:
        return []
    _, got = stamps(epoch)
    starts = [load.start for load in _in_order(epoch)]
    # Loads may be reported before the batches whose delivery asked for them.
    known = min(len(ends), len(got) + ahead)
    return [
        starts[i] - ends[i - workers]
        for i in range(workers, known)
        if i < ahead or got[i - ahead] < ends[i - workers]
    ]


def _ends(epoch: Epoch) -> list[float]:
    """When the load of each batch was through, by the batch's number.

    Empty unless the whole epoch is known and delivery is in order: batch ``i`` is then the next one of worker
    ``i % num_workers``. A load that ends after its batch was delivered shows that some are missing.
    """
    workers, batches = epoch.settings.num_workers, len(epoch.waits)
    whole = batches >= epoch.batches and epoch.dropped == 0 and len(epoch.loads) >= batches
    if workers == 0 or not epoch.settings.in_order or not whole:
        return []
    ends = [load.start + load.seconds for load in _in_order(epoch)]
    _, got = stamps(epoch)
    odd = sum(end > at + EDGE for end, at in zip(ends, got, strict=False))
    return ends if len(ends) >= batches and odd <= 0.02 * batches else []


def _in_order(epoch: Epoch) -> list[Load]:
    """The epoch's loads in the order of their batches, up to the first that is missing."""
    workers = epoch.settings.num_workers
    made: list[list[Load]] = [[] for _ in range(workers)]
    for load in epoch.loads:
        if 0 <= load.worker < workers:
            made[load.worker].append(load)
    found = []
    for i in range(len(epoch.loads)):
        if i // workers >= len(made[i % workers]):
            break
        found.append(made[i % workers][i // workers])
    return found


def handed_over_in(run: Run) -> list[Passage]:
    """Return the passages of a simulated epoch, likewise."""
    whole = zip(run.asked[1:], run.made[1:], run.got[1:], strict=True)
    return [_passage(asked, made, got) for asked, made, got in whole]


def mean_delay(passages: Sequence[Passage]) -> float:
    """Return the mean delay in seconds; 0 for none."""
    return fmean(p.delay for p in passages) if passages else 0.0


def _passage(asked: float, made: float, got: float) -> Passage:
    return Passage(max(0.0, got - max(asked, made)), asked < made)
