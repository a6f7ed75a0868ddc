"""Predictions with bounds: the simulated curve, corrected by the residuals of measured epochs.

The bounds add three uncertainties: the posterior of the residual (`residual`), the standard error of the mean
load, and a ceiling of storage that may lie above the counts that were seen (for the lower bound only).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from feedwater_service.model.fit.estimate import Estimate
from feedwater_service.model.fit.memory import Footprint
from feedwater_service.model.fit.storage import ThroughputCeiling
from feedwater_service.model.numbers import floors
from feedwater_service.model.observed.figures import summarise
from feedwater_service.model.predict.curve import Point, point
from feedwater_service.model.predict.residual import GridPoint, Observation, posterior
from feedwater_service.model.simulator.cpu import Machine
from feedwater_service.model.types import Epoch, Prediction


@dataclass(frozen=True, slots=True)
class Past:
    """What earlier epochs at other counts add to the one that is looked at."""

    observations: tuple[Observation, ...] = ()
    most: Point | None = None
    """The simulated point of the largest count among them."""
    load_drift: float | None = None
    """Logarithm of the mean load over that of the epoch before; None without such an epoch."""


@dataclass(frozen=True, slots=True)
class Grounds:
    """What predictions rest on besides the simulation."""

    estimate: Estimate
    machine: Machine
    observed: Point
    """At the settings in use, as simulated, like all points here."""
    ceiling: ThroughputCeiling | None
    past: Past = Past()

    def grid_point(self, at: Point) -> GridPoint:
        """Return the point of the residual's process that a simulated point stands for."""
        return _grid_point(at, self.machine)

    def corrected(self, at: Point) -> Point:
        """Return a simulated point, corrected by the residuals that were observed."""
        found = posterior(self.grid_point(at), (*self.past.observations, *self._present()))
        return at.corrected(found.factor, found.spread)

    def _present(self) -> tuple[Observation, ...]:
        figures = self.estimate.measured
        simulated = self.observed.outcome.batches_per_second
        if figures.batches_per_second <= 0 or simulated <= 0:
            return ()
        residual = math.log(figures.batches_per_second / simulated)
        return (Observation(self.grid_point(self.observed), residual, figures.noise**2),)

    @property
    def most(self) -> Point:
        """The point of the largest count that was in use."""
        past = self.past.most
        seen = self.observed.settings.num_workers
        return past if past is not None and past.settings.num_workers > seen else self.observed


def look_back(
    epochs: Sequence[Epoch],
    now: Epoch,
    estimate: Estimate,
    machine: Machine,
    ceiling: ThroughputCeiling | None,
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
    observations = [_observation(e, p, now, machine) for e, p in zip(others, points, strict=True)]
    before = [e for e in epochs if e.number < now.number and len(e.loads) > 1]
    return Past(
        tuple(c for c in observations if c is not None),
        max(points, key=lambda p: p.settings.num_workers, default=None),
        _drift(before[-1], now) if before else None,
    )


def predict(at: Point, grounds: Grounds, foot: Footprint) -> Prediction:
    """Return a point with its bounds.

    Args:
        at: The point, as `Grounds.corrected` returned it.
        grounds: What it rests on.
        foot: What workers take.
    """
    rate = at.outcome.batches_per_second
    doubt = math.exp(floors.BOUND_SD * math.hypot(at.spread, *_unknowns(at, grounds))) - 1
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
    """Standard deviations by quantities that were assumed, or measured on few samples."""
    estimate, drift = grounds.estimate, grounds.past.load_drift
    spread = floors.LOAD_ERROR_SHARE * estimate.load_spread
    if drift is not None:
        spread = min(spread, math.hypot(floors.LOAD_ERROR_SHARE_COMPARED * estimate.load_spread, drift / 2))
    parts = [at.load_weight * spread]
    if at.settings == grounds.observed.settings:
        return parts
    if not estimate.known.loads:
        parts.append(floors.SD_UNKNOWN_LOADS)
    if not estimate.known.step_cpu:
        parts.append(floors.SD_UNKNOWN_STEP_CPU)
    elsewhere = (at.settings.num_workers == 0) != (grounds.observed.settings.num_workers == 0)
    if not estimate.known.transport and not (elsewhere and grounds.past.observations):
        parts.append(floors.SD_UNKNOWN_TRANSPORT)
    return parts


def _flat(at: Point, grounds: Grounds) -> float:
    """The rate if storage gave no more than was seen: the blocked share of the gain is lost."""
    estimate = grounds.estimate
    gain = at.outcome.batches_per_second - grounds.corrected(grounds.most).outcome.batches_per_second
    if grounds.ceiling is not None or gain <= 0 or estimate.load_seconds <= 0:
        return at.outcome.batches_per_second
    lost = gain * estimate.blocked_seconds / estimate.load_seconds
    return at.outcome.batches_per_second - lost


def _is_whole(epoch: Epoch) -> bool:
    return epoch.complete and len(epoch.waits) > 1 and len(epoch.loads) > 1


def _observation(epoch: Epoch, at: Point, now: Epoch, machine: Machine) -> Observation | None:
    figures = summarise(epoch)
    simulated = at.outcome.batches_per_second
    if figures.batches_per_second <= 0 or simulated <= 0:
        return None
    # An epoch with other loads says less of this one: the difference counts as noise.
    other = at.load_weight * _drift(epoch, now)
    residual = math.log(figures.batches_per_second / simulated)
    return Observation(_grid_point(at, machine), residual, figures.noise**2 + other**2)


def _drift(before: Epoch, now: Epoch) -> float:
    """Logarithm of the mean load over the one before."""
    then, since = (fmean(x.own_seconds for x in e.loads) if e.loads else 0.0 for e in (before, now))
    return math.log(since / then) if then > 0 and since > 0 else 0.0


def _grid_point(at: Point, machine: Machine) -> GridPoint:
    return GridPoint(at.settings.num_workers, min(1.0, at.outcome.busy_cores / machine.cores))
