"""Did the last change help? A counterfactual: what would the old settings have done in this very epoch?

A cache that warmed up, a checkpoint or a slower device come with an epoch, not with a setting: comparing two
epochs' speeds would give them the credit or the blame. So the old settings are simulated on the new epoch's
own steps, and what the model gets wrong at the old settings, where it could be checked, is corrected for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from feedwater_service.model.fit.estimate import Estimate
from feedwater_service.model.fit.storage import ThroughputCeiling
from feedwater_service.model.numbers import floors
from feedwater_service.model.observed.pooling import known_batches, pool_of, telling
from feedwater_service.model.predict.curve import work_at
from feedwater_service.model.simulator.cpu import Machine
from feedwater_service.model.simulator.simulate import Workload, simulate
from feedwater_service.model.types import Change, Epoch, Loader, Settings


@dataclass(frozen=True, slots=True)
class Verification:
    """The last change, weighed."""

    change: Change
    measured: float
    """Batches per second with the new settings."""
    expected_before: float
    """Batches per second that the old ones would have reached in the same epoch."""
    noise: float

    @property
    def helped(self) -> bool:
        """The old settings would not have won, beyond noise."""
        return self.measured >= self.expected_before * (1 - self.noise)


def pending_change(loader: Loader, epoch: Epoch, least: int = floors.MIN_EPOCH_BATCHES) -> Change | None:
    """Return the change that this epoch is the first to judge; None if there is none to weigh.

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
    # A loop that always leaves early has none that is complete.
    whole = [e for e in fitting if e.complete] or [
        e for e in fitting if known_batches(e) >= floors.MIN_EPOCH_BATCHES
    ]
    return pool_of(telling(whole, least), least) if whole else None


def verify(
    change: Change,
    old: Estimate,
    new: Estimate,
    machine: Machine,
    ceiling: ThroughputCeiling | None = None,
    then: Machine | None = None,
) -> Verification:
    """Return the weighed change.

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
        # Giving workers back was to cost nothing, and has to show it: no benefit of the doubt.
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
        _alike(old, new)
        and 1 / floors.COMPARABLE_LONGER <= now.obtainable / then.obtainable <= floors.COMPARABLE_SHORTER
    ):
        return before
    work = _in_the_new_epoch(change, old, new, ceiling)
    expected = _rate(work, change.before, now, new.batches) * _bias(change.before, old, then)
    # Going to none may lengthen loads and steps by itself, where the trainer has other threads.
    return max(expected, before) if change.after.num_workers == 0 else expected


def _in_the_new_epoch(
    change: Change, old: Estimate, new: Estimate, ceiling: ThroughputCeiling | None
) -> Workload:
    """The work that the old settings would have met in the new epoch."""
    before, after = change.before.num_workers, change.after.num_workers
    if (before == 0) != (after == 0):
        # What loads take in the main process, beside its other threads, is not what workers take.
        return replace(old.work, steps=new.work.steps, step_width=new.work.step_width)
    if after > before:
        return replace(new.work, loads=_kinder(old.work, new.work))
    # Fewer workers cannot have slowed the loads, but may have relieved storage.
    return work_at(new, change.before, ceiling)


def _alike(old: Estimate, new: Estimate) -> bool:
    """Whether loads, steps and length differ so little that two epochs can be compared as they are."""
    steps = [e.step_cpu_seconds + e.step_timed_seconds for e in (old, new)]
    pairs = ((old.load_seconds, new.load_seconds), (steps[0], steps[1]), (old.batches, new.batches))
    return all(
        then / floors.COMPARABLE_SHORTER <= since <= floors.COMPARABLE_LONGER * then for then, since in pairs
    )


def _rate(work: Workload, settings: Settings, machine: Machine, batches: int) -> float:
    return simulate(work, settings, machine, batches).batches_per_second


def _bias(settings: Settings, old: Estimate, machine: Machine) -> float:
    simulated = _rate(old.work, settings, machine, old.batches)
    return old.measured.batches_per_second / simulated if simulated > 0 else 1.0


def _kinder(old: Workload, new: Workload) -> tuple[tuple[float, float], ...]:
    """The new epoch's loads, but no slower than the old ones: the new count may itself have slowed them."""
    blocked = _at_most(_mean(old, 0), _mean(new, 0))
    cpu = _at_most(_mean(old, 1), _mean(new, 1))
    return tuple((b * blocked, c * cpu) for b, c in new.loads)


def _mean(work: Workload, k: int) -> float:
    return sum(pair[k] for pair in work.loads) / len(work.loads)


def _at_most(old: float, new: float) -> float:
    return min(1.0, old / new) if new > 0 else 1.0
