"""The named bottleneck, and the sentence that says it with numbers.

Each verdict is a small claim over one `Situation`; they are asked in order, and the first that holds is the
answer. The order is from causes that fool the others (a slow rank, start-up) to the plain ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from feedwater_service.model.bucket import Machine
from feedwater_service.model.capacity import Cap
from feedwater_service.model.choose import Choice, gain, rate
from feedwater_service.model.curve import Point
from feedwater_service.model.estimate import Estimate
from feedwater_service.model.evidence import throttled_share
from feedwater_service.model.group import Group, straggler
from feedwater_service.model.storage import Ceiling
from feedwater_service.model.values import Policy, Settings, Verdict

SENTENCE = 160
"""Characters of a sentence: a line of a terminal, two lines of a pod's status."""
STARVED = 0.05
"""Starvation below which nothing is worth saying: an accelerator is not kept busier than that by anything."""
SATURATED = 0.9
"""Share of the cores at which they count as used up."""


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
    ceiling: Ceiling | None
    even: Point
    """The settings in use, had every load taken the same time."""
    explained: bool = True
    """The simulation reproduces what was measured at the settings in use."""
    deeper: Point | None = None
    """The chosen count with a larger prefetch, where that gains."""

    @property
    def starvation(self) -> float:
        """As measured, the first batch apart."""
        return self.estimate.measured.starvation

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
    def cores_to_end_starvation(self) -> float:
        """CPU limit at which the CPU work of a batch fits into the step that consumes it."""
        estimate = self.estimate
        step = estimate.step_cpu_seconds + estimate.step_timed_seconds + estimate.work.receive_cpu_seconds
        return estimate.cpu_seconds / step if step > 0 else float("inf")


def verdict(s: Situation) -> Verdict:
    """Return the named bottleneck of the epoch that was measured."""
    if not s.explained:
        return Verdict.UNKNOWN
    return next((name for name, holds in _CLAIMS if holds(s)), Verdict.UNKNOWN)


def _is_straggler(s: Situation) -> bool:
    return straggler(s.group) is not None


def _is_start_up(s: Situation) -> bool:
    figures = s.estimate.measured
    return (
        s.current.settings.num_workers > 0
        and figures.start_up_seconds > 0.2 * figures.seconds
        and figures.start_up_seconds > figures.wait_seconds
    )


def _is_fed(s: Situation) -> bool:
    return s.starvation < STARVED and not _gives_back(s) and not _lacks_cpu(s)


def _is_overstaffed(s: Situation) -> bool:
    return s.starvation < STARVED and _gives_back(s) and not _lacks_cpu(s)


def _has_too_many(s: Situation) -> bool:
    return _gives_back(s) and s.cpu_bound < SATURATED


def _gives_back(s: Situation) -> bool:
    return s.settings.num_workers < s.current.settings.num_workers


def _lacks_cpu(s: Situation) -> bool:
    """Under a quota used up, steps are frozen too: little wait is then no sign of enough."""
    return s.cpu_bound > SATURATED and s.estimate.run_delay_share > 0.1


def _is_out_of(*kinds: str) -> Callable[[Situation], bool]:
    def holds(s: Situation) -> bool:
        binding = s.choice.binding
        return (
            binding is not None
            and binding.kind in kinds
            and gain(s.choice.best_uncapped, s.choice.chosen) >= s.policy.min_gain
            and s.settings.num_workers <= s.current.settings.num_workers
        )

    return holds


def _is_oversubscribed(s: Situation) -> bool:
    return s.estimate.work.load_width > 1.5 and s.cpu_bound > SATURATED


def _is_main_process(s: Situation) -> bool:
    known = s.estimate.known.transport and s.current.settings.num_workers > 0
    figures = s.estimate.measured
    receiving = s.estimate.work.receive_cpu_seconds * figures.batches
    return known and receiving > 0.5 * figures.wait_seconds


def _is_slow_batches(s: Situation) -> bool:
    if s.current.settings.num_workers == 0 or not s.estimate.known.loads:
        return False
    # With even loads the same mean would be consumed this much faster; more workers cure the rest.
    return gain(s.even, s.current) > max(0.1, 0.5 * gain(s.choice.best_uncapped, s.current))


def _is_storage(s: Situation) -> bool:
    return s.ceiling is not None and s.settings.num_workers <= s.current.settings.num_workers


def _is_cpu(s: Situation) -> bool:
    if not s.estimate.known.loads:
        return False
    share = throttled_share(s.group.epoch.containers)
    evidence = share is None or share > 0.1 or s.machine.quota_cores is None
    helped_by_workers = gain(s.choice.best_uncapped, s.current) > 0.25
    return s.cpu_bound > SATURATED and evidence and not helped_by_workers


def _has_too_few(s: Situation) -> bool:
    more = s.choice.best_uncapped.settings.num_workers > s.current.settings.num_workers
    return more and gain(s.choice.best_uncapped, s.current) >= s.policy.min_gain


_CLAIMS: tuple[tuple[Verdict, Callable[[Situation], bool]], ...] = (
    (Verdict.STRAGGLER_RANK, _is_straggler),
    (Verdict.START_UP, _is_start_up),
    (Verdict.NOT_STARVED, _is_fed),
    (Verdict.TOO_MANY_WORKERS, _is_overstaffed),
    (Verdict.MEMORY, _is_out_of("memory")),
    (Verdict.SHARED_MEMORY, _is_out_of("shm")),
    (Verdict.OVERSUBSCRIBED, _is_oversubscribed),
    (Verdict.STORAGE, _is_storage),
    (Verdict.CPU_LIMIT, _is_cpu),
    (Verdict.MAIN_PROCESS, _is_main_process),
    (Verdict.TOO_MANY_WORKERS, _has_too_many),
    (Verdict.SLOW_BATCHES, _is_slow_batches),
    (Verdict.TOO_FEW_WORKERS, _has_too_few),
)


def sentence(s: Situation, named: Verdict) -> str:
    """Return what changes and why, at most `SENTENCE` characters."""
    return fit(f"{_action(s)}: {_cause(s, named)}.")


def fit(text: str) -> str:
    """Return a sentence no longer than `SENTENCE`, its full stop kept."""
    return text if len(text) <= SENTENCE else text[: SENTENCE - 2].rstrip(" ,;:") + "…."


def _action(s: Situation) -> str:
    now, then = s.current.settings, s.settings
    if now == then:
        return f"{_workers(now.num_workers)} kept"
    if now.num_workers == then.num_workers:
        return f"prefetch_factor {now.prefetch_factor or 2} → {then.prefetch_factor}"
    target = s.deeper or s.choice.chosen
    better = target.outcome.batches_per_second / max(s.current.outcome.batches_per_second, 1e-12) - 1
    speed = f" for {better:+.0%} batches/s" if abs(better) >= 0.005 else " at no loss"
    deeper = f", prefetch_factor {then.prefetch_factor}," if s.deeper is not None else ""
    return f"{now.num_workers} → {_workers(then.num_workers)}{deeper}{speed}"


def _cause(s: Situation, named: Verdict) -> str:
    e = s.estimate
    figures = e.measured
    wait = f"{figures.starvation:.0%} {'host wait' if s.group.slowest.uses_cuda else 'starvation'}"
    load = f"a batch takes {_ms(e.load_seconds)} to load ({_ms(e.load_cpu_seconds)} CPU)"
    # As measured, as the reader knows it; the simulation takes the step undisturbed.
    step = _ms(figures.step_seconds / max(1, figures.batches))
    texts = {
        Verdict.NOT_STARVED: f"{wait}, the step of {step} is the bound",
        Verdict.TOO_FEW_WORKERS: f"{wait}, {load}, a step {step}",
        Verdict.TOO_MANY_WORKERS: f"{wait}, {load}, a step {step}",
        Verdict.CPU_LIMIT: (
            f"{wait}, {_ms(e.cpu_seconds)} CPU a batch use up {_cores(s.machine.cores)} at any count"
        ),
        Verdict.STORAGE: f"{wait}, storage gives {_most_from(s.ceiling)}",
        Verdict.MAIN_PROCESS: (
            f"{wait}, the main process pays {_ms(e.work.receive_cpu_seconds)} to receive each batch"
        ),
        Verdict.SLOW_BATCHES: f"{wait}, slow batches hold others up; the mean load is {_ms(e.load_seconds)}",
        Verdict.START_UP: (
            f"start-up takes {_ms(figures.start_up_seconds)} of an epoch of {figures.seconds:.3g} s"
        ),
        Verdict.MEMORY: f"{wait}, {_binding(s)}",
        Verdict.SHARED_MEMORY: f"{wait}, {_binding(s)}",
        Verdict.OVERSUBSCRIBED: (
            f"{wait}, each worker keeps {e.work.load_width:.2g} CPUs busy and {s.machine.cores:.3g} are there"
        ),
        Verdict.STRAGGLER_RANK: f"rank {s.group.slowest.rank} loads slower than the others, with {wait}",
        Verdict.UNKNOWN: f"{wait}, the cause is not clear from what was measured",
    }
    return texts[named]


def _binding(s: Situation) -> str:
    binding: Cap | None = s.choice.binding
    return binding.text if binding is not None else "the limit is reached"


def advice(s: Situation, named: Verdict) -> tuple[str, ...]:
    """Return what the user can do that Feedwater does not do itself."""
    e = s.estimate
    found = []
    if named is Verdict.CPU_LIMIT and 0 < s.cores_to_end_starvation < 1000:
        found.append(
            f"Loading would keep up from a CPU limit of {s.cores_to_end_starvation:.1f} cores;"
            f" {s.machine.cores:.3g} are there."
        )
    if named is Verdict.START_UP and not s.current.settings.persistent_workers:
        found.append("Set persistent_workers=True: workers are started anew at each epoch.")
    if named is Verdict.OVERSUBSCRIBED:
        found.append("Set OMP_NUM_THREADS=1 and OPENBLAS_NUM_THREADS=1 for the workers.")
    if named is Verdict.SLOW_BATCHES and s.current.settings.in_order:
        found.append("in_order=False lets fast batches pass slow ones, if their order does not matter.")
    if named is Verdict.SHARED_MEMORY:
        found.append("Mount an emptyDir with medium: Memory at /dev/shm with a larger sizeLimit.")
    if named is Verdict.MEMORY:
        found.append(
            "Keep samples in arrays or files, not in Python objects, which are copied into each worker."
        )
    if named is Verdict.MAIN_PROCESS:
        found.append("Send fewer, larger tensors per batch: each costs the main process time of its own.")
    if named is Verdict.STORAGE:
        found.append("Storage is the bound: cache samples nearer, or pack them into larger files.")
    if not s.group.slowest.map_style and s.settings != s.current.settings:
        found.append("An IterableDataset's order depends on num_workers: change it between runs.")
    if not e.known.loads:
        found.append("Load times were not measured in the workers; bounds are wide.")
    return tuple(found)


def _most_from(ceiling: Ceiling | None) -> str:
    return f"no more than {ceiling.loads_per_second:.3g} batches/s" if ceiling is not None else "no more"


def _cores(amount: float) -> str:
    return "1 core" if amount == 1 else f"{amount:.3g} cores"


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
