"""The answer in words: what changes, why, and both as one sentence."""

from __future__ import annotations

from feedwater_service.model.choose.limits import Cap
from feedwater_service.model.explain.evidence import starvation_name
from feedwater_service.model.explain.verdict import Diagnosis
from feedwater_service.model.fit.storage import ThroughputCeiling
from feedwater_service.model.numbers import thresholds
from feedwater_service.model.text import (
    cores_text,
    gain_text,
    number_text,
    percent_text,
    seconds_text,
    truncated,
    workers_text,
)
from feedwater_service.model.types import Verdict


def sentence(s: Diagnosis, named: Verdict) -> str:
    """Return what changes and why, at most `SENTENCE` characters: action, share of waiting, cause."""
    return truncated(f"{action(s)}: {_share(s, named)}{cause(s, named)}.")


def _share(s: Diagnosis, named: Verdict) -> str:
    """Return the share of waiting as the beginning of a sentence; empty where the cause includes it."""
    if s.choice.forced or named in (Verdict.START_UP, Verdict.STRAGGLER_RANK):
        return ""
    return f"{_wait(s)}, "


def _wait(s: Diagnosis) -> str:
    return f"{s.starvation:.0%} {starvation_name(s.group, s.estimate.measured)}"


def action(s: Diagnosis) -> str:
    """Return what changes, a phrase."""
    now, then = s.current.settings, s.settings
    if now == then:
        return f"{workers_text(now.num_workers)} kept"
    if now.num_workers == then.num_workers:
        return f"prefetch_factor {now.prefetch_factor or 2} → {then.prefetch_factor}"
    target = s.deeper or s.choice.chosen
    better = target.outcome.batches_per_second / max(s.current.outcome.batches_per_second, 1e-12) - 1
    speed = f" for {gain_text(better)} batches/s" if abs(better) >= 0.005 else " at no loss"
    deeper = f", prefetch_factor {then.prefetch_factor}," if s.deeper is not None else ""
    return f"{now.num_workers} → {workers_text(then.num_workers)}{deeper}{speed}"


def cause(s: Diagnosis, named: Verdict) -> str:
    """Return why, a phrase; the share of waiting is not in it, unless it is a part of the claim."""
    if s.choice.forced:
        return _binding(s)
    e = s.estimate
    figures = e.measured
    load = f"a batch takes {seconds_text(e.load_seconds)} to load ({seconds_text(e.load_cpu_seconds)} CPU)"
    cores = cores_text(s.machine.cores)
    # The step as measured, which the reader knows; the simulation's step is undisturbed.
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
            f"start-up takes {seconds_text(figures.start_up_seconds)} of an epoch of "
            f"{number_text(figures.seconds)} s"
        ),
        Verdict.MEMORY: _binding(s),
        Verdict.SHARED_MEMORY: _binding(s),
        Verdict.OVERSUBSCRIBED: (f"each worker runs {e.work.load_width:.2g} threads on {cores}"),
        Verdict.STRAGGLER_RANK: f"rank {s.group.slowest.rank} loads slower than the others, with {_wait(s)}",
        Verdict.UNKNOWN: "the cause is not clear from what was measured",
    }
    return texts[named]


def _bound(s: Diagnosis, step: str) -> str:
    if s.starvation < thresholds.MIN_STARVATION:
        return f"the step of {step} is the bound"
    least = percent_text(s.policy.min_gain)
    return f"the price of handing batches over; no other setting gains as much as {least}"


def _binding(s: Diagnosis) -> str:
    binding: Cap | None = s.choice.binding
    return binding.text if binding is not None else "the limit is reached"


def _most_from(ceiling: ThroughputCeiling | None) -> str:
    return (
        f"no more than {number_text(ceiling.loads_per_second)} batches/s"
        if ceiling is not None
        else "no more"
    )
