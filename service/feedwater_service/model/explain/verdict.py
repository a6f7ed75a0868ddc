"""The named bottleneck, and the sentence that says it with numbers.

Each verdict is a small claim over one `Situation`; they are asked in order, and the first that holds is the
answer. The order is from causes that fool the others (a slow rank, start-up) to the plain ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from feedwater_service.model.choose.choose import Choice, gain, rate
from feedwater_service.model.choose.limits import Cap
from feedwater_service.model.explain.counterfactuals import Counterfactuals
from feedwater_service.model.explain.evidence import pressure, starvation_name, throttled_share
from feedwater_service.model.fit.estimate import Estimate
from feedwater_service.model.fit.storage import ThroughputCeiling
from feedwater_service.model.numbers import floors, thresholds
from feedwater_service.model.observed.group import Group, straggler
from feedwater_service.model.predict.curve import Point
from feedwater_service.model.simulator.cpu import Machine
from feedwater_service.model.text import cores_text, seconds_text, truncated, workers_text
from feedwater_service.model.types import Policy, Settings, Verdict


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a verdict may look at."""

    group: Group
    estimate: Estimate
    machine: Machine
    points: tuple[Point, ...]
    current: Point
    choice: Choice
    policy: Policy
    ceiling: ThroughputCeiling | None
    counterfactuals: Counterfactuals
    """What else could gain at the settings in use."""
    after: Counterfactuals
    """What else could gain at the settings that are recommended."""
    doubt: float = 0.0
    """Relative error of the simulation at the settings in use."""
    explained: bool = True
    """The simulation reproduces what was measured at the settings in use."""
    deeper: Point | None = None
    """A point of another prefetch_factor, where that gains over the choice."""

    @property
    def starvation(self) -> float:
        """As measured, the first batch apart."""
        return self.estimate.measured.consumer_starvation

    @property
    def settings(self) -> Settings:
        """What is recommended."""
        return (self.deeper or self.choice.chosen).settings

    @property
    def best(self) -> Point:
        """The fastest point of the curve."""
        return max(self.points, key=rate)

    @property
    def cpu_bound(self) -> float:
        """Share of the cores that the best point uses."""
        seconds = self.estimate.cpu_seconds * self.best.outcome.batches_per_second
        return seconds / self.machine.cores

    @property
    def least(self) -> float:
        """The smallest gain that is believed: a simulation that is off by 7 % does not show one of 4 %."""
        return max(self.policy.min_gain, self.doubt)

    @property
    def by_settings(self) -> float:
        """Gain of the best count that was simulated, without the pod's limits on memory and the like."""
        return max(0.0, gain(self.choice.best_uncapped, self.current))

    def beyond(self, gain_of: Callable[[Counterfactuals], float | None]) -> float | None:
        """Return the gain over the recommended settings were a cause taken away, there or where we are now.

        Starting workers costs, so fewer of them are recommended; were they to live on, more may be better.
        """
        then = max(at.rate_without(gain_of(at)) for at in (self.after, self.counterfactuals))
        now = self.after.outcome.batches_per_second
        return then / now - 1 if now > 0 and then > 0 else None

    @property
    def is_held_by_workers(self) -> bool:
        """Whether small batches may be late because workers that compute hold their interpreter locks."""
        heavy = any(
            x.batch_tensors > thresholds.SMALL_BATCH_TENSORS or x.batch_bytes > thresholds.SMALL_BATCH_BYTES
            for x in self.group.epoch.loads
        )
        return not heavy and self.estimate.load_cpu_seconds > 0.2 * self.estimate.load_seconds

    def costs(self, found: float | None) -> bool:
        """Whether taking a cause away gains enough to name it."""
        return found is not None and found >= self.least

    def is_shown(self, found: float | None, by_pressure: bool) -> bool:
        """Whether a gain is enough to name its cause: beyond the simulation's doubt.

        Where the kernel counted waiting for the same thing, `Policy.min_gain` is enough: it breaks the tie
        between a gain and none, and no gain is named for it alone.
        """
        return found is not None and found >= (self.policy.min_gain if by_pressure else self.least)


def verdict(s: Situation) -> Verdict:
    """Return the named bottleneck of the epoch that was measured."""
    forced = _FORCED.get(s.choice.binding.kind) if s.choice.forced and s.choice.binding else None
    if forced is not None:
        return forced
    if not s.explained:
        return (
            Verdict.CPU_CONTENTION
            if s.starvation >= thresholds.MIN_STARVATION and _is_contended(s)
            else Verdict.UNKNOWN
        )
    return next((name for name, holds in _CLAIMS if holds(s)), Verdict.UNKNOWN)


def _is_straggler(s: Situation) -> bool:
    return straggler(s.group) is not None


def _is_start_up(s: Situation) -> bool:
    figures, found = s.estimate.measured, s.counterfactuals.no_start_up or 0.0
    seen = figures.start_up_seconds > 0.1 * figures.seconds
    # Too many workers take long to start as well: then fewer of them leave little of it.
    stays = not _scales_down(s) or (s.beyond(lambda c: c.no_start_up) or 0.0) > thresholds.START_UP_MIN_GAIN
    return (
        seen and stays and s.costs(found) and found >= max(s.by_settings, s.counterfactuals.more_cores or 0.0)
    )


def _not_starved(s: Situation) -> bool:
    # Where more workers are recommended for a gain, batches are not what the step alone allows.
    raises = s.settings.num_workers > s.current.settings.num_workers and not s.choice.forced
    return not raises and not _scales_down(s) and _is_near_its_best(s)


def _is_overstaffed(s: Situation) -> bool:
    return _scales_down(s) and _is_near_its_best(s)


def _is_near_its_best(s: Situation) -> bool:
    """Whether batches that came by themselves would gain next to nothing, as measured or as simulated."""
    if s.counterfactuals.free_loads < s.policy.min_gain:
        return True
    return s.starvation < thresholds.MIN_STARVATION and not _lacks_cpu(s)


def _has_too_many(s: Situation) -> bool:
    return _scales_down(s) and s.cpu_bound < thresholds.SATURATED_CPU_SHARE


def _scales_down(s: Situation) -> bool:
    return s.settings.num_workers < s.current.settings.num_workers


def _lacks_cpu(s: Situation) -> bool:
    """Under a quota used up, steps are frozen too: little wait is then no sign of enough."""
    return s.cpu_bound > thresholds.SATURATED_CPU_SHARE and s.estimate.run_delay_share > 0.1


def _is_out_of(*kinds: str) -> Callable[[Situation], bool]:
    def holds(s: Situation) -> bool:
        binding, then = s.choice.binding, s.choice.chosen
        pressed = "memory" in kinds and pressure(s.group.epoch.containers).by_memory
        withheld = gain(s.choice.best_uncapped, then)
        # What the limit withholds is the cause only if it is more than what other workers bring.
        return (
            binding is not None
            and binding.kind in kinds
            and s.is_shown(withheld, pressed)
            and withheld >= gain(then, s.current)
        )

    return holds


def _is_oversubscribed(s: Situation) -> bool:
    return s.estimate.work.load_width > floors.MIN_LOAD_WIDTH and s.costs(s.counterfactuals.one_thread)


def _is_main_process(s: Situation) -> bool:
    found = s.counterfactuals.light_batches or 0.0
    others = max(s.by_settings, s.counterfactuals.even_loads or 0.0)
    known = s.estimate.known.transport and not s.is_held_by_workers
    return known and s.costs(found) and found >= others


def _is_slow_batches(s: Situation) -> bool:
    # With even loads the same mean would be consumed this much faster; more workers cure the rest.
    return (
        s.costs(s.counterfactuals.even_loads) and (s.counterfactuals.even_loads or 0.0) > 0.5 * s.by_settings
    )


def _is_storage(s: Situation) -> bool:
    raises = s.settings.num_workers > s.current.settings.num_workers and not s.choice.forced
    pressed = pressure(s.group.epoch.containers).by_storage
    return s.ceiling is not None and not raises and s.is_shown(s.counterfactuals.no_ceiling, pressed)


def _is_cpu(s: Situation) -> bool:
    share = throttled_share(s.group.epoch.containers)
    seen = share is None or share > 0.1 or s.machine.quota_cores is None
    found = s.after.more_cores or 0.0
    rivals = max(s.counterfactuals.even_loads or 0.0, s.counterfactuals.light_batches or 0.0)
    return (
        s.estimate.known.loads
        and seen
        and s.costs(found)
        and s.by_settings <= thresholds.MAX_GAIN_FROM_WORKERS
        and found >= rivals
    )


def _is_contended(s: Situation) -> bool:
    return s.machine.obtainable < thresholds.CONTENDED_CPU_SHARE


def _lacks_own_cpus(s: Situation) -> bool:
    found = s.after.own_cpus or 0.0
    rivals = max(s.counterfactuals.even_loads or 0.0, s.counterfactuals.light_batches or 0.0)
    return (
        _is_contended(s)
        and s.costs(found)
        and s.by_settings <= thresholds.MAX_GAIN_FROM_WORKERS
        and found >= rivals
    )


def _has_too_few(s: Situation) -> bool:
    more = s.choice.best_uncapped.settings.num_workers > s.current.settings.num_workers
    return more and s.costs(s.by_settings)


def _is_at_its_best(s: Situation) -> bool:
    """Whether nothing that was looked at gains, though batches are waited for: each costs its hand-over.

    The simulation must have the same waits: else it does not know what they are for. Start-up has a claim of
    its own, and is not starvation.
    """
    found = max(s.counterfactuals.most, s.after.most, s.by_settings)
    knows = abs(s.current.outcome.starvation - s.starvation) < thresholds.MIN_STARVATION
    return found < s.policy.min_gain and knows


_CLAIMS: tuple[tuple[Verdict, Callable[[Situation], bool]], ...] = (
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
"""Limits that the settings in use exceed, and the verdicts that name them."""


def sentence(s: Situation, named: Verdict) -> str:
    """Return what changes and why, at most `SENTENCE` characters: action, share of waiting, cause."""
    return truncated(f"{action(s)}: {_share(s, named)}{cause(s, named)}.")


def _share(s: Situation, named: Verdict) -> str:
    """Return the share of waiting as the beginning of a sentence; empty where the cause says enough."""
    if s.choice.forced or named in (Verdict.START_UP, Verdict.STRAGGLER_RANK):
        return ""
    return f"{_wait(s)}, "


def _wait(s: Situation) -> str:
    return f"{s.starvation:.0%} {starvation_name(s.group, s.estimate.measured)}"


def action(s: Situation) -> str:
    """Return what changes, a phrase."""
    now, then = s.current.settings, s.settings
    if now == then:
        return f"{workers_text(now.num_workers)} kept"
    if now.num_workers == then.num_workers:
        return f"prefetch_factor {now.prefetch_factor or 2} → {then.prefetch_factor}"
    target = s.deeper or s.choice.chosen
    better = target.outcome.batches_per_second / max(s.current.outcome.batches_per_second, 1e-12) - 1
    speed = f" for {better:+.0%} batches/s" if abs(better) >= 0.005 else " at no loss"
    deeper = f", prefetch_factor {then.prefetch_factor}," if s.deeper is not None else ""
    return f"{now.num_workers} → {workers_text(then.num_workers)}{deeper}{speed}"


def cause(s: Situation, named: Verdict) -> str:
    """Return why, a phrase; the share of waiting is not in it, unless it is a part of the claim."""
    if s.choice.forced:
        return _binding(s)
    e = s.estimate
    figures = e.measured
    load = f"a batch takes {seconds_text(e.load_seconds)} to load ({seconds_text(e.load_cpu_seconds)} CPU)"
    cores = cores_text(s.machine.cores)
    # As measured, as the reader knows it; the simulation takes the step undisturbed.
    step = seconds_text(figures.step_seconds / max(1, figures.batches))
    texts = {
        Verdict.NOT_STARVED: _bound(s, step),
        Verdict.TOO_FEW_WORKERS: f"{load}, a step {step}",
        Verdict.TOO_MANY_WORKERS: f"{load}, a step {step}",
        Verdict.CPU_LIMIT: (f"{seconds_text(e.cpu_seconds)} CPU a batch use up {cores} at any count"),
        Verdict.CPU_CONTENTION: (
            f"others use the CPUs: loads wait {e.run_delay_share:.0%} of their runnable time for one"
        ),
        Verdict.STORAGE: f"storage gives {_most_from(s.ceiling)}",
        Verdict.MAIN_PROCESS: (
            f"the main process pays {seconds_text(e.work.receive_seconds)} to receive each batch"
        ),
        Verdict.SLOW_BATCHES: f"slow batches hold others up; the mean load is {seconds_text(e.load_seconds)}",
        Verdict.START_UP: (
            f"start-up takes {seconds_text(figures.start_up_seconds)} of an epoch of {figures.seconds:.3g} s"
        ),
        Verdict.MEMORY: _binding(s),
        Verdict.SHARED_MEMORY: _binding(s),
        Verdict.OVERSUBSCRIBED: (f"each worker runs {e.work.load_width:.2g} threads on {cores}"),
        Verdict.STRAGGLER_RANK: f"rank {s.group.slowest.rank} loads slower than the others, with {_wait(s)}",
        Verdict.UNKNOWN: "the cause is not clear from what was measured",
    }
    return texts[named]


def _bound(s: Situation, step: str) -> str:
    if s.starvation < thresholds.MIN_STARVATION:
        return f"the step of {step} is the bound"
    return f"the price of handing batches over; no other setting gains as much as {s.policy.min_gain:.0%}"


def _binding(s: Situation) -> str:
    binding: Cap | None = s.choice.binding
    return binding.text if binding is not None else "the limit is reached"


def _most_from(ceiling: ThroughputCeiling | None) -> str:
    return f"no more than {ceiling.loads_per_second:.3g} batches/s" if ceiling is not None else "no more"
