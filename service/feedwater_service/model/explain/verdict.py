"""The verdict: the bottleneck of an epoch by name.

Each verdict is a small claim over one `Diagnosis`; the first claim that holds, in order, is the answer.
Causes that also fulfil other claims (a slow rank, start-up) come first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from feedwater_service.model.choose.choose import Choice, gain, rate_with_margin
from feedwater_service.model.choose.prefetch import Selection
from feedwater_service.model.explain.counterfactuals import Counterfactuals
from feedwater_service.model.explain.evidence import pressure, throttled_share
from feedwater_service.model.fit.estimate import Estimate
from feedwater_service.model.fit.storage import ThroughputCeiling
from feedwater_service.model.numbers import floors, thresholds
from feedwater_service.model.observed.group import RankGroup, straggler
from feedwater_service.model.predict.curve import Point
from feedwater_service.model.simulator.cpu import Machine
from feedwater_service.model.types import LoaderSettings, Policy, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The facts that a verdict, its sentence and its advice are made from."""

    selection: Selection
    deeper: Point | None
    """The point of another ``prefetch_factor``, where that gains over the chosen count."""
    machine: Machine
    """The rank's part of the machine without what its other loaders use."""
    at_current: Counterfactuals
    """At the settings in use."""
    at_recommended: Counterfactuals

    @property
    def group(self) -> RankGroup:
        """The ranks of the loader."""
        return self.selection.group

    @property
    def policy(self) -> Policy:
        """The bounds of recommendations."""
        return self.selection.policy

    @property
    def estimate(self) -> Estimate:
        """The fitted quantities."""
        return self.selection.context.estimate

    @property
    def ceiling(self) -> ThroughputCeiling | None:
        """Of storage."""
        return self.selection.context.ceiling

    @property
    def choice(self) -> Choice:
        """The chosen count."""
        return self.selection.choice

    @property
    def current(self) -> Point:
        """The corrected point of the settings in use."""
        return self.selection.current

    @property
    def starvation(self) -> float:
        """As measured, without the first batch."""
        return self.estimate.measured.consumer_starvation

    @property
    def settings(self) -> LoaderSettings:
        """The recommended settings."""
        return (self.deeper or self.choice.chosen).settings

    @property
    def best(self) -> Point:
        """The fastest point of the curve."""
        return max(self.selection.points, key=rate_with_margin)

    @property
    def cpu_bound(self) -> float:
        """Share of the cores that the best point uses."""
        seconds = self.estimate.cpu_seconds * self.best.outcome.batches_per_second
        return seconds / self.machine.cores

    @property
    def least(self) -> float:
        """The smallest gain worth naming: a simulation that is off by 7 % does not show one of 4 %."""
        return max(self.policy.min_gain, self.choice.best_uncapped.spread)

    @property
    def gain_by_count(self) -> float:
        """Gain of the best simulated count, without the pod's limits."""
        return max(0.0, gain(self.choice.best_uncapped, self.current))

    def gain_over_recommended(self, gain_of: Callable[[Counterfactuals], float | None]) -> float | None:
        """Return the gain over the recommended settings without a cause; None if it cannot apply.

        The cause is removed at the recommended settings or at those in use, whichever is faster: starting
        workers costs time, so fewer are recommended, and more may be better if they persist.
        """
        then = max(at.rate_without(gain_of(at)) for at in (self.at_recommended, self.at_current))
        now = self.at_recommended.outcome.batches_per_second
        return then / now - 1 if now > 0 and then > 0 else None

    @property
    def may_wait_for_gil(self) -> bool:
        """Whether small batches may be late because their workers hold the interpreter lock."""
        heavy = any(
            x.batch_tensors > thresholds.SMALL_BATCH_TENSORS or x.batch_bytes > thresholds.SMALL_BATCH_BYTES
            for x in self.group.epoch.loads
        )
        return (
            not heavy and self.estimate.load_cpu_seconds > floors.COMPUTING_SHARE * self.estimate.load_seconds
        )

    def costs(self, found: float | None) -> bool:
        """Whether taking a cause away gains enough to name it."""
        return found is not None and found >= self.least

    def is_shown(self, found: float | None, by_pressure: bool) -> bool:
        """Whether a gain is enough to name its cause: beyond the simulation's doubt.

        Where the kernel counted waiting for the same thing, `Policy.min_gain` is enough: it breaks the tie
        between a gain and none, and no gain is named for it alone.
        """
        return found is not None and found >= (self.policy.min_gain if by_pressure else self.least)


def verdict(s: Diagnosis) -> Verdict:
    """Return the named bottleneck of the epoch that was measured."""
    forced = _FORCED.get(s.choice.binding.kind) if s.choice.forced and s.choice.binding else None
    if forced is not None:
        return forced
    if not s.selection.context.reproduces_epoch:
        return (
            Verdict.CPU_CONTENTION
            if s.starvation >= thresholds.MIN_STARVATION and _is_contended(s)
            else Verdict.UNKNOWN
        )
    return next((name for name, holds in _CLAIMS if holds(s)), Verdict.UNKNOWN)


def _is_straggler(s: Diagnosis) -> bool:
    return straggler(s.group) is not None


def _is_start_up(s: Diagnosis) -> bool:
    figures, found = s.estimate.measured, s.at_current.no_start_up or 0.0
    seen = figures.start_up_seconds > thresholds.START_UP_MIN_SHARE * figures.seconds
    # Too many workers take long to start, too; if fewer are recommended, little of that remains.
    stays = (
        not _scales_down(s)
        or (s.gain_over_recommended(lambda c: c.no_start_up) or 0.0) > thresholds.START_UP_MIN_GAIN
    )
    return seen and stays and s.costs(found) and found >= max(s.gain_by_count, s.at_current.more_cores or 0.0)


def _not_starved(s: Diagnosis) -> bool:
    # Where more workers are recommended for a gain, the step is not the bound.
    raises = s.settings.num_workers > s.current.settings.num_workers and not s.choice.forced
    return not raises and not _scales_down(s) and _is_near_its_best(s)


def _is_overstaffed(s: Diagnosis) -> bool:
    return _scales_down(s) and _is_near_its_best(s)


def _is_near_its_best(s: Diagnosis) -> bool:
    """Whether loads of no time would gain next to nothing as simulated, or little wait was measured."""
    if s.at_current.free_loads < s.policy.min_gain:
        return True
    return s.starvation < thresholds.MIN_STARVATION and not _lacks_cpu(s)


def _has_too_many(s: Diagnosis) -> bool:
    return _scales_down(s) and s.cpu_bound < thresholds.SATURATED_CPU_SHARE


def _scales_down(s: Diagnosis) -> bool:
    return s.settings.num_workers < s.current.settings.num_workers


def _lacks_cpu(s: Diagnosis) -> bool:
    """Whether the CPUs are used up: a quota then freezes steps, too, and little waiting proves nothing."""
    is_delayed = s.estimate.run_delay_share > thresholds.MIN_CPU_WAIT_SHARE
    return s.cpu_bound > thresholds.SATURATED_CPU_SHARE and is_delayed


def _is_out_of(*kinds: str) -> Callable[[Diagnosis], bool]:
    def holds(s: Diagnosis) -> bool:
        binding, then = s.choice.binding, s.choice.chosen
        pressed = "memory" in kinds and pressure(s.group.epoch.containers).by_memory
        withheld = gain(s.choice.best_uncapped, then)
        # The limit is the cause only if it costs more than the recommended count gains.
        return (
            binding is not None
            and binding.kind in kinds
            and s.is_shown(withheld, pressed)
            and withheld >= gain(then, s.current)
        )

    return holds


def _is_oversubscribed(s: Diagnosis) -> bool:
    return s.estimate.work.load_width > floors.MIN_LOAD_WIDTH and s.costs(s.at_current.one_thread)


def _is_main_process(s: Diagnosis) -> bool:
    found = s.at_current.light_batches or 0.0
    others = max(s.gain_by_count, s.at_current.even_loads or 0.0)
    known = s.estimate.known.transport and not s.may_wait_for_gil
    return known and s.costs(found) and found >= others


def _is_slow_batches(s: Diagnosis) -> bool:
    # Even loads of the same mean must gain more than half as much as another count.
    least = thresholds.SLOW_BATCHES_GAIN_SHARE * s.gain_by_count
    return s.costs(s.at_current.even_loads) and (s.at_current.even_loads or 0.0) > least


def _is_storage(s: Diagnosis) -> bool:
    raises = s.settings.num_workers > s.current.settings.num_workers and not s.choice.forced
    pressed = pressure(s.group.epoch.containers).by_storage
    return s.ceiling is not None and not raises and s.is_shown(s.at_current.no_ceiling, pressed)


def _is_cpu(s: Diagnosis) -> bool:
    share = throttled_share(s.group.epoch.containers)
    seen = share is None or share > thresholds.MIN_CPU_WAIT_SHARE or s.machine.quota_cores is None
    found = s.at_recommended.more_cores or 0.0
    rivals = max(s.at_current.even_loads or 0.0, s.at_current.light_batches or 0.0)
    return (
        s.estimate.known.loads
        and seen
        and s.costs(found)
        and s.gain_by_count <= thresholds.MAX_GAIN_FROM_WORKERS
        and found >= rivals
    )


def _is_contended(s: Diagnosis) -> bool:
    return s.machine.obtainable < thresholds.CONTENDED_CPU_SHARE


def _lacks_own_cpus(s: Diagnosis) -> bool:
    found = s.at_recommended.own_cpus or 0.0
    rivals = max(s.at_current.even_loads or 0.0, s.at_current.light_batches or 0.0)
    return (
        _is_contended(s)
        and s.costs(found)
        and s.gain_by_count <= thresholds.MAX_GAIN_FROM_WORKERS
        and found >= rivals
    )


def _has_too_few(s: Diagnosis) -> bool:
    more = s.choice.best_uncapped.settings.num_workers > s.current.settings.num_workers
    return more and s.costs(s.gain_by_count)


def _is_at_its_best(s: Diagnosis) -> bool:
    """Whether no setting and no removed cause gains, although the loop waits: each delivery has its cost.

    The simulation must have the same waits: else it does not know what they are for. Start-up has a claim of
    its own, and is not starvation.
    """
    found = max(s.at_current.largest_gain, s.at_recommended.largest_gain, s.gain_by_count)
    knows = abs(s.current.outcome.starvation - s.starvation) < thresholds.MIN_STARVATION
    return found < s.policy.min_gain and knows


_CLAIMS: tuple[tuple[Verdict, Callable[[Diagnosis], bool]], ...] = (
    (Verdict.STRAGGLER_RANK, _is_straggler),
    (Verdict.START_UP, _is_start_up),
    (Verdict.NOT_STARVED, _not_starved),
    (Verdict.TOO_MANY_WORKERS, _is_overstaffed),
    (Verdict.MEMORY, _is_out_of("memory")),
    (Verdict.SHARED_MEMORY, _is_out_of("shm")),
    (Verdict.OVERSUBSCRIBED, _is_oversubscribed),
    (Verdict.STORAGE, _is_storage),
    (Verdict.CPU_CONTENTION, _lacks_own_cpus),
    (Verdict.CPU_LIMIT, _is_cpu),
    (Verdict.MAIN_PROCESS, _is_main_process),
    (Verdict.TOO_MANY_WORKERS, _has_too_many),
    (Verdict.SLOW_BATCHES, _is_slow_batches),
    (Verdict.TOO_FEW_WORKERS, _has_too_few),
    (Verdict.NOT_STARVED, _is_at_its_best),
)


_FORCED = {"memory": Verdict.MEMORY, "shm": Verdict.SHARED_MEMORY}
"""The verdict for each limit that the settings in use may exceed."""
