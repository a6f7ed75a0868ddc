"""How far the curve can be trusted, and what the epochs that were seen say about it.

Three doubts make the bounds: what the simulation misses (`residual`), how well the loads are known, and
whether storage has a ceiling above what was seen, which lowers the lower bound alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from feedwater_service.model.choose.limits import Footprint
from feedwater_service.model.fit.estimate import Estimate
from feedwater_service.model.fit.storage import Ceiling
from feedwater_service.model.observed.figures import summarise
from feedwater_service.model.predict.curve import Point, point
from feedwater_service.model.predict.residual import SURE, Checked, Place, believe
from feedwater_service.model.simulator.cpu import Machine
from feedwater_service.model.types import Epoch, Prediction

ASSUMED_LOADS, ASSUMED_STEP, ASSUMED_TRANSPORT = 0.14, 0.045, 0.045
"""Standard deviations for what was not measured: how loads divide into CPU and blocked time; the CPU time of
a step; handing batches over."""
REDRAWN = 0.75
"""Of the standard error of the mean load, not all: an epoch's samples come again in the next."""
KNOWN_TWICE = 0.3
"""The same where two epochs' mean loads can be compared, beside what they differ by."""


@dataclass(frozen=True, slots=True)
class Past:
    """What earlier epochs at other counts add to the one that is looked at."""

    checked: tuple[Checked, ...] = ()
    most: Point | None = None
    """The point of the largest count among them."""
    load_drift: float | None = None
    """Logarithm of the mean load over that of the epoch before; None without one."""


@dataclass(frozen=True, slots=True)
class Grounds:
    """What predictions rest on besides the simulation."""

    estimate: Estimate
    machine: Machine
    observed: Point
    """At the settings in use, as simulated, like all points here."""
    ceiling: Ceiling | None
    past: Past = Past()

    def place(self, at: Point) -> Place:
        """Return where on the curve a point lies."""
        return _place(at, self.machine)

    def believed(self, at: Point) -> Point:
        """Return a simulated point, corrected by what was measured elsewhere on the curve."""
        belief = believe(self.place(at), (*self.past.checked, *self._present()))
        return at.believed(belief.factor, belief.spread)

    def _present(self) -> tuple[Checked, ...]:
        figures = self.estimate.measured
        simulated = self.observed.outcome.batches_per_second
        if figures.batches_per_second <= 0 or simulated <= 0:
            return ()
        miss = math.log(figures.batches_per_second / simulated)
        return (Checked(self.place(self.observed), miss, figures.noise**2),)

    @property
    def most(self) -> Point:
        """The point of the largest count that was in use."""
        past = self.past.most
        seen = self.observed.settings.num_workers
        return past if past is not None and past.settings.num_workers > seen else self.observed


def look_back(
    epochs: Sequence[Epoch], now: Epoch, estimate: Estimate, machine: Machine, ceiling: Ceiling | None
) -> Past:
    """Return what earlier epochs of the same workload and budget say of the simulation.

    Args:
        epochs: Oldest first; of each count but the present one the newest complete one is looked at.
        now: The epoch that the estimate was fitted to.
        estimate: Simulated at their settings.
        machine: What all ran on.
        ceiling: Of storage.
    """
    newest = {e.settings.num_workers: e for e in epochs if e.number < now.number and _is_whole(e)}
    others = [e for n, e in newest.items() if n != now.settings.num_workers]
    points = [point(estimate, e.settings, machine, ceiling) for e in others]
    checked = [_check(e, p, now, machine) for e, p in zip(others, points, strict=True)]
    before = [e for e in epochs if e.number < now.number and len(e.loads) > 1]
    return Past(
        tuple(c for c in checked if c is not None),
        max(points, key=lambda p: p.settings.num_workers, default=None),
        _drift(before[-1], now) if before else None,
    )


def predict(at: Point, grounds: Grounds, foot: Footprint) -> Prediction:
    """Return a point with its bounds.

    Args:
        at: The point, as `Grounds.believed` returned it.
        grounds: What it rests on.
        foot: What workers take.
    """
    rate = at.outcome.batches_per_second
    doubt = math.exp(SURE * math.hypot(at.spread, *_unknowns(at, grounds))) - 1
    lower, upper = rate / (1 + doubt), rate * (1 + doubt)
    workers, prefetch = at.settings.num_workers, at.settings.prefetch_factor or 2
    if workers > grounds.most.settings.num_workers:
        lower = min(lower, _flat(at, grounds) / (1 + doubt))
    return Prediction(
        at.settings,
        rate,
        lower,
        upper,
        at.outcome.starvation,
        foot.memory_bytes(workers, prefetch),
        foot.shm_bytes(workers, prefetch),
    )


def _unknowns(at: Point, grounds: Grounds) -> list[float]:
    """Standard deviations of what was not measured, or not for long, as far as it matters here."""
    estimate, drift = grounds.estimate, grounds.past.load_drift
    spread = REDRAWN * estimate.load_spread
    if drift is not None:
        spread = min(spread, math.hypot(KNOWN_TWICE * estimate.load_spread, drift / 2))
    parts = [at.load_weight * spread]
    if at.settings == grounds.observed.settings:
        return parts
    if not estimate.known.loads:
        parts.append(ASSUMED_LOADS)
    if not estimate.known.step_cpu:
        parts.append(ASSUMED_STEP)
    elsewhere = (at.settings.num_workers == 0) != (grounds.observed.settings.num_workers == 0)
    if not estimate.known.transport and not (elsewhere and grounds.past.checked):
        parts.append(ASSUMED_TRANSPORT)
    return parts


def _flat(at: Point, grounds: Grounds) -> float:
    """The rate if storage gave no more than was seen: the blocked share of the gain is lost."""
    estimate = grounds.estimate
    gain = at.outcome.batches_per_second - grounds.believed(grounds.most).outcome.batches_per_second
    if grounds.ceiling is not None or gain <= 0 or estimate.load_seconds <= 0:
        return at.outcome.batches_per_second
    lost = gain * estimate.blocked_seconds / estimate.load_seconds
    return at.outcome.batches_per_second - lost


def _is_whole(epoch: Epoch) -> bool:
    return epoch.complete and len(epoch.waits) > 1 and len(epoch.loads) > 1


def _check(epoch: Epoch, at: Point, now: Epoch, machine: Machine) -> Checked | None:
    figures = summarise(epoch)
    simulated = at.outcome.batches_per_second
    if figures.batches_per_second <= 0 or simulated <= 0:
        return None
    # Under other loads it would have gone otherwise: the more they differ, the less it says.
    other = at.load_weight * _drift(epoch, now)
    miss = math.log(figures.batches_per_second / simulated)
    return Checked(_place(at, machine), miss, figures.noise**2 + other**2)


def _drift(before: Epoch, now: Epoch) -> float:
    """Logarithm of the mean load over the one before."""
    then, since = (fmean(x.own_seconds for x in e.loads) if e.loads else 0.0 for e in (before, now))
    return math.log(since / then) if then > 0 and since > 0 else 0.0


def _place(at: Point, machine: Machine) -> Place:
    return Place(at.settings.num_workers, min(1.0, at.outcome.busy_cores / machine.cores))
