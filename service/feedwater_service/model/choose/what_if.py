"""What if the pod had another CPU limit: the setting that would be chosen under it, and what it would reach.

Simulated are a few limits around the present one, and under each the few counts around the one that three
divisions suggest. From them follow the limit at which starvation ends and the one to which the pod could go
down and lose nothing, each found between two of the limits by halving.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from feedwater_service.model.choose.choose import smallest_as_good
from feedwater_service.model.fit.estimate import Estimate
from feedwater_service.model.fit.storage import Ceiling
from feedwater_service.model.predict.curve import SLOWER, Point, step_bound, with_workers, work_at
from feedwater_service.model.simulator.cpu import Machine, machine_of
from feedwater_service.model.simulator.simulate import simulate
from feedwater_service.model.types import Budget, Evidence, Prediction, Settings, WhatIf

LIMITS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 192.0)
"""Limits that people give, in steps of a third to a half."""
EITHER_SIDE = 3
"""Limits looked at below the present one, and above."""
SHORT_WINDOW = 150
"""Batches simulated to choose a count, or twice what is primed if that is more; what is said of the chosen
one comes from a full window."""
LOSS = 0.01
"""Batches per second that a smaller limit may cost and still count as no loss: what epochs differ by."""
STARVED = 0.05
"""Starvation below which it counts as ended, as in the verdicts."""
KEPT_UP = 0.95
"""Of the speed at the largest limit that must be reached too: a quota that is used up freezes the steps with
the loads, and then little is waited for."""
ELSEWHERE = 0.05
"""Relative doubt that another CPU limit adds."""
BUSY = 0.5
"""Share of a limit in use from which it may be met: bursts meet it before the mean does."""
HALVINGS = 2
"""Between two limits: to an eighth of what lies between them."""


@dataclass(frozen=True, slots=True)
class AtLimit:
    """One limit, and the point of the setting that would be chosen under it."""

    cores: float
    best: Point


@dataclass(frozen=True, slots=True)
class Outlook:
    """All that was found."""

    present: float
    """The CPU limit that there is."""
    limits: tuple[AtLimit, ...] = ()
    """By rising limit, the present one among them."""
    fed_cores: float | None = None
    """The limit at which starvation ends; None where no limit looked at ends it, or nothing starves."""
    fastest_cores: float | None = None
    """Where starvation does not end: the larger limit beyond which nothing is gained; None where none is."""
    enough_cores: float | None = None
    """The smaller limit that loses nothing; None where there is none."""

    @property
    def needed_cores(self) -> float | None:
        """The limit at which starvation ends, or else beyond which nothing is gained; None: neither found."""
        return self.fed_cores if self.fed_cores is not None else self.fastest_cores


NO_OUTLOOK = Outlook(0.0)


@dataclass(frozen=True, slots=True)
class Question:
    """What is simulated under each limit."""

    estimate: Estimate
    settings: Settings
    """But for the count, what would be chosen under the present limit."""
    budget: Budget
    ranks: int
    ceiling: Ceiling | None
    most_workers: int
    """That the pod carries, whatever its CPU limit."""
    obtainable: float = 1.0
    """Of the CPUs' time, beside other containers."""

    def machine(self, cores: float) -> Machine:
        """Return a rank's part of the pod under a limit."""
        whole = replace(machine_of(replace(self.budget, cpu_quota_cores=cores)), obtainable=self.obtainable)
        return whole if self.ranks == 1 else whole.share(1 / self.ranks)

    def point(self, workers: int, cores: float) -> Point:
        """Return one setting under a limit, by its outcome with longer loads, which choices are made on."""
        settings = with_workers(self.settings, workers)
        work = work_at(self.estimate, settings, self.ceiling).stretched(SLOWER)
        window = max(SHORT_WINDOW, 2 * settings.queue_batches)
        slow = simulate(work, settings, self.machine(cores), self.estimate.batches, min(window, 400))
        return Point(settings, slow, slow, slow)

    def as_expected(self, at: Point, cores: float) -> Point:
        """Return the point with what is expected of it, too."""
        work = work_at(self.estimate, at.settings, self.ceiling)
        outcome = simulate(work, at.settings, self.machine(cores), self.estimate.batches)
        return replace(at, outcome=outcome)


def explore(question: Question, best: Point) -> Outlook:
    """Return what other limits would mean.

    Args:
        question: What is simulated.
        best: The point that would be chosen under the present limit.
    """
    present = question.budget.cores
    limits = [AtLimit(present, best)]
    below = [c for c in LIMITS if c < present * 0.99][-EITHER_SIDE:]
    above = [c for c in LIMITS if present * 1.01 < c <= question.budget.cpus][:EITHER_SIDE]
    limits += [_at(question, cores, best) for cores in below]
    for cores in above:
        newest = max(limits, key=lambda x: x.cores)
        idle = newest.best.outcome.busy_cores * question.ranks < BUSY * newest.cores
        # Where half of a limit is not used, a larger one changes nothing.
        limits.append(AtLimit(cores, newest.best) if idle else _at(question, cores, best))
    limits.sort(key=lambda x: x.cores)
    fed = _fed(question, limits)
    fastest = _fastest(question, limits, present) if fed is None else None
    return Outlook(present, tuple(limits), fed, fastest, _enough(question, limits, present))


def _at(question: Question, cores: float, usual: Point) -> AtLimit:
    counts = _counts(question, cores, usual.settings.num_workers)
    if usual.outcome.busy_cores * question.ranks < BUSY * min(cores, question.budget.cores):
        # It is not the CPU limit that a choice is made by.
        counts = [usual.settings.num_workers]
    tried = [question.point(n, cores) for n in counts]
    return AtLimit(cores, question.as_expected(smallest_as_good(tried), cores))


def _counts(question: Question, cores: float, usual: int) -> list[int]:
    """The count at which loading meets its bound under a limit, its neighbours, and the present limit's."""
    estimate = question.estimate
    floor = max(step_bound(estimate), estimate.cpu_seconds / question.machine(cores).cores, 1e-6)
    meets = math.ceil(estimate.load_seconds * SLOWER / floor)
    wanted = {(meets + 1) // 2, meets + 1, usual}
    if meets <= 2:
        wanted.add(0)
    return sorted({max(0, min(n, question.most_workers)) for n in wanted})


def _fed(question: Question, limits: Sequence[AtLimit]) -> float | None:
    """The smallest limit at which starvation ends."""
    kept_up = KEPT_UP * max(_rate(x.best) for x in limits)
    if all(_is_fed(x.best, kept_up) for x in limits):
        return None
    return _edge(question, limits, lambda p: _is_fed(p, kept_up))


def _is_fed(at: Point, kept_up: float) -> bool:
    return at.outcome.starvation < STARVED and _rate(at) >= kept_up


def _fastest(question: Question, limits: Sequence[AtLimit], present: float) -> float | None:
    """The smallest limit that is as fast as the largest, where that is more than the present one."""
    best = max(_rate(x.best) for x in limits)
    found = _edge(question, limits, lambda p: _rate(p) >= (1 - LOSS) * best)
    if found is None or found <= 1.01 * present:
        return None
    # At the largest that was looked at there may be more to gain beyond.
    largest = limits[-1].cores
    return found if found < 0.99 * largest or largest >= question.budget.cpus else None


def _enough(question: Question, limits: Sequence[AtLimit], present: float) -> float | None:
    """The smallest limit that loses nothing against the present one."""
    now = next(_rate(x.best) for x in limits if x.cores == present)
    below = [x for x in limits if x.cores <= present]
    found = _edge(question, below, lambda p: _rate(p) >= (1 - LOSS) * now)
    return found if found is not None and found < 0.99 * present else None


def _edge(question: Question, limits: Sequence[AtLimit], holds: Callable[[Point], bool]) -> float | None:
    """The smallest limit from which on a claim holds; None if it does not at the largest."""
    good: AtLimit | None = None
    bad = 0.0
    for at in reversed(limits):
        if not holds(at.best):
            bad = at.cores
            break
        good = at
    if good is None or bad == 0.0:
        return good.cores if good is not None else None
    cores = good.cores
    for _ in range(HALVINGS):
        between = (bad + cores) / 2
        if holds(question.as_expected(good.best, between)):
            cores = between
        else:
            bad = between
    return cores


def _rate(at: Point) -> float:
    return at.outcome.batches_per_second


def predicted(
    outlook: Outlook, chosen: Prediction, predict: Callable[[Point], Prediction]
) -> tuple[WhatIf, ...]:
    """Return what was found with bounds.

    Args:
        outlook: What was found.
        chosen: What is recommended under the present limit, hysteresis and history included.
        predict: Puts bounds to a point of the present machine.
    """
    return tuple(
        WhatIf(x.cores, chosen if x.cores == outlook.present else _widened(predict(x.best)))
        for x in outlook.limits
    )


def _widened(prediction: Prediction) -> Prediction:
    rate = prediction.batches_per_second
    if rate <= 0 or prediction.lower <= 0:
        return prediction
    down, up = (math.hypot(f - 1, ELSEWHERE) for f in (rate / prediction.lower, prediction.upper / rate))
    return replace(prediction, lower=rate / (1 + down), upper=rate * (1 + up))


def limits_found(outlook: Outlook) -> tuple[Evidence, ...]:
    """Return these limits as evidence, where there are such."""
    found = []
    if outlook.fed_cores is not None:
        text = f"starvation ends at a CPU limit of {_cores(outlook.fed_cores)}"
        found.append(Evidence("starvation_ends_cores", outlook.fed_cores, text))
    if outlook.fastest_cores is not None:
        text = f"beyond a CPU limit of {_cores(outlook.fastest_cores)} nothing is gained"
        found.append(Evidence("no_gain_cores", outlook.fastest_cores, text))
    if outlook.enough_cores is not None:
        text = f"a CPU limit of {_cores(outlook.enough_cores)} would lose nothing"
        found.append(Evidence("no_loss_cores", outlook.enough_cores, text))
    return tuple(found)


def _cores(amount: float) -> str:
    return "1 core" if amount == 1 else f"{amount:.3g} cores"
