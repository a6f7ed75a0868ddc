"""Statistics of one measured epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

from feedwater_service.model.starvation import consumer_starvation, device_wait_share, wait_share
from feedwater_service.model.types import Epoch


@dataclass(frozen=True, slots=True)
class EpochStats:
    """Totals and shares of one epoch."""

    batches: int
    seconds: float
    """From asking for the iterator to its end."""
    start_up_seconds: float
    """Making the iterator and waiting for its first batch."""
    wait_seconds: float
    """Blocked in ``next()``, without the first batch."""
    step_seconds: float
    starvation: float
    """Share of iteration time spent waiting, 0 to 1, without the first batch."""
    noise: float
    """Relative standard error of the mean iteration."""
    device_starvation: float | None = None
    """Share of its time that the device waited, 0 to 1, without the first batch; None where too few
    steps were sampled."""

    @property
    def consumer_starvation(self) -> float:
        """The device's where it is known, else the host's."""
        return consumer_starvation(self.starvation, self.device_starvation)

    @property
    def batches_per_second(self) -> float:
        """Batches over the whole epoch, start-up included; 0 for an empty one."""
        return self.batches / self.seconds if self.seconds > 0 else 0.0


def summarise(epoch: Epoch) -> EpochStats:
    """Return the statistics of an epoch; batches that history no longer holds count like the others."""
    waits, steps = epoch.waits, epoch.steps
    known = min(len(waits), len(steps))
    batches = epoch.batches if epoch.parts else max(epoch.batches, known)
    start_up = epoch.iter_seconds + (waits[0] if known else 0.0)
    grow = (batches - 1) / (known - 1) if known > 1 else 1.0
    wait = sum(waits[1:known]) * grow
    step = sum(steps[:known]) * (batches / known if known else 1.0)
    return EpochStats(
        batches=batches,
        seconds=start_up + (wait + step) + epoch.teardown_seconds,
        start_up_seconds=start_up,
        wait_seconds=wait,
        step_seconds=step,
        starvation=wait_share(wait, step),
        noise=_noise(epoch),
        device_starvation=_device_starvation(epoch),
    )


def _noise(epoch: Epoch) -> float:
    if epoch.parts:
        # Within a short epoch batches come in bursts, so its noise is the difference between epochs.
        return relative_standard_error([summarise(p).batches_per_second for p in epoch.parts])
    known = min(len(epoch.waits), len(epoch.steps))
    return relative_standard_error(
        [w + s for w, s in zip(epoch.waits[1:known], epoch.steps[1:known], strict=True)]
    )


def _device_starvation(epoch: Epoch) -> float | None:
    sampled = [s for s in epoch.device if s.batch > 0]
    idle, busy = sum(s.idle_seconds for s in sampled), sum(s.busy_seconds for s in sampled)
    return device_wait_share(len(sampled), idle, busy)


def relative_standard_error(values: Sequence[float], blocks: int = 10) -> float:
    """Return the relative standard error of a mean, from means of blocks: neighbours are not independent.

    Example: block means 9 and 11, twice each, are 10 with a standard error of 1 / sqrt(4 - 1): 0.058.
    """
    size = len(values) // blocks
    if size == 0:
        blocks, size = len(values), 1
    means = [fmean(values[i * size : (i + 1) * size]) for i in range(blocks)]
    if len(means) < 2:
        return 1.0
    centre = fmean(means)
    return pstdev(means) / (len(means) - 1) ** 0.5 / centre if centre > 0 else 0.0
