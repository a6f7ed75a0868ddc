"""Did the last change help? The old settings are simulated in the epoch that ran with the new ones.

A warm cache, a checkpoint or a slower device belong to an epoch, not to a setting: a comparison of two
epochs' speeds would credit or blame the change for them. So the old settings are simulated on the new epoch's
own steps, corrected by the residual that the simulation had when they were in use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from feedwater_service.model.fit.estimate import Estimate
from feedwater_service.model.fit.storage import ThroughputCeiling
from feedwater_service.model.numbers import floors
from feedwater_service.model.observed.pooling import informative_epochs, known_batches, pooled
from feedwater_service.model.predict.curve import work_at
from feedwater_service.model.simulator.cpu import Machine
from feedwater_service.model.simulator.simulate import Workload, simulate
from feedwater_service.model.types import Change, Epoch, Loader, LoaderSettings


@dataclass(frozen=True, slots=True)
class Verification:
    """The measured speed after a change, and the one that the old settings would have reached."""

    change: Change
    measured: float
    """Batches per second with the new settings."""
    expected_before: float
    """Batches per second that the old ones would have reached in the same epoch."""
    noise: float

    @property
    def helped(self) -> bool:
        """The old settings would not have been faster by more than the noise."""
        return self.measured >= self.expected_before * (1 - self.noise)


def pending_change(loader: Loader, epoch: Epoch, least: int = floors.MIN_EPOCH_BATCHES) -> Change | None:
    """Return the change that took effect in this epoch; None if there is none to verify.

    Args:
        loader: Its changes and epochs.
        epoch: The newest, under the settings that were changed to.
        least: Batches that a judgement takes: short epochs are judged together, once.
    """
    if not loader.changes:
        return None
    last = loader.changes[-1]
    before = [e for e in loader.epochs if last.first_epoch <= e.number < epoch.number]
    is_first = last.first_epoch <= epoch.number and sum(map(known_batches, before)) < least
    return last if is_first and epoch.settings == loader.settings and not last.rolls_back else None


def epoch_before(
    change: Change, epochs: Sequence[Epoch], least: int = floors.MIN_EPOCH_BATCHES
) -> Epoch | None:
    """Return the last complete epoch with the old settings; a short one joined with those before it."""
    fitting = [e for e in epochs if e.number < change.first_epoch and e.settings == change.before]
    # A loop that always leaves early has no complete epoch.
    whole = [e for e in fitting if e.complete] or [
        e for e in fitting if known_batches(e) >= floors.MIN_EPOCH_BATCHES
    ]
    return pooled(informative_epochs(whole, least), least) if whole else None


def verify(
    change: Change,
    old: Estimate,
    new: Estimate,
    machine: Machine,
    ceiling: ThroughputCeiling | None = None,
    then: Machine | None = None,
) -> Verification:
    """Compare the new settings with what the old ones would have reached in the same epoch.

    Args:
        change: What was changed.
        old: Fitted to the last epoch before it.
        new: Fitted to the first epoch after it.
        machine: What the new one ran on.
        ceiling: Of storage, under which more workers wait longer for each load.
        then: What the old one ran on, where others loaded it otherwise.
    """
    then = then or machine
    noise = max(floors.MIN_EPOCH_NOISE, 2 * (old.measured.noise**2 + new.measured.noise**2) ** 0.5)
    if change.after.num_workers < change.before.num_workers:
        # Fewer workers were to cost nothing, so they get no more than the least noise.
        noise = floors.MIN_EPOCH_NOISE
    noise = max(noise, floors.CONTENDED_NOISE * (1 - min(machine.obtainable, then.obtainable)))
    expected = _expected(change, old, new, (then, machine), ceiling)
    return Verification(change, new.measured.batches_per_second, expected, noise)


def _expected(
    change: Change,
    old: Estimate,
    new: Estimate,
    machines: tuple[Machine, Machine],
    ceiling: ThroughputCeiling | None,
) -> float:
    """Batches per second that the old settings would have reached in the new epoch."""
    before = old.measured.batches_per_second
    then, now = machines
    if (
        _is_comparable(old, new)
        and 1 / floors.COMPARABLE_LONGER <= now.obtainable / then.obtainable <= floors.COMPARABLE_SHORTER
    ):
        return before
    work = _work_of_new_epoch(change, old, new, ceiling)
    expected = _rate(work, change.before, now, new.batches) * _bias(change.before, old, then)
    # Without workers loads and steps may be longer, where the trainer has other threads.
    return max(expected, before) if change.after.num_workers == 0 else expected


def _work_of_new_epoch(
    change: Change, old: Estimate, new: Estimate, ceiling: ThroughputCeiling | None
) -> Workload:
    """The work that the old settings would have met in the new epoch."""
    before, after = change.before.num_workers, change.after.num_workers
    if (before == 0) != (after == 0):
        # Loads in the main process, beside its other threads, take another time than in workers.
        return replace(old.work, steps=new.work.steps, step_width=new.work.step_width)
    if after > before:
        return replace(new.work, loads=_loads_of_the_faster(old.work, new.work))
    # Fewer workers cannot have made loads slower, but may have made storage faster.
    return work_at(new, change.before, ceiling)


def _is_comparable(old: Estimate, new: Estimate) -> bool:
    """Whether loads, steps and length differ so little that the measured speeds can be compared."""
    steps = [e.step_cpu_seconds + e.step_timed_seconds for e in (old, new)]
    pairs = ((old.load_seconds, new.load_seconds), (steps[0], steps[1]), (old.batches, new.batches))
    return all(
        then / floors.COMPARABLE_SHORTER <= since <= floors.COMPARABLE_LONGER * then for then, since in pairs
    )


def _rate(work: Workload, settings: LoaderSettings, machine: Machine, batches: int) -> float:
    return simulate(work, settings, machine, batches).batches_per_second


def _bias(settings: LoaderSettings, old: Estimate, machine: Machine) -> float:
    simulated = _rate(old.work, settings, machine, old.batches)
    return old.measured.batches_per_second / simulated if simulated > 0 else 1.0


def _loads_of_the_faster(old: Workload, new: Workload) -> tuple[tuple[float, float], ...]:
    """The new epoch's loads, but no slower than the old ones: the new count may itself have slowed them."""
    blocked = _ratio_below_one(_mean(old, 0), _mean(new, 0))
    cpu = _ratio_below_one(_mean(old, 1), _mean(new, 1))
    return tuple((b * blocked, c * cpu) for b, c in new.loads)


def _mean(work: Workload, k: int) -> float:
    return sum(pair[k] for pair in work.loads) / len(work.loads)


def _ratio_below_one(old: float, new: float) -> float:
    return min(1.0, old / new) if new > 0 else 1.0
