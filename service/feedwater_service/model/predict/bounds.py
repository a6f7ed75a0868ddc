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
from feedwater_service.model.observed.epoch_stats import summarise
from feedwater_service.model.predict.curve import Point, point
from feedwater_service.model.predict.residual import GridPoint, Observation, posterior
from feedwater_service.model.simulator.cpu import Machine
from feedwater_service.model.types import Epoch, Prediction


@dataclass(frozen=True, slots=True)
class EarlierEpochs:
    """Observed residuals and loads of earlier epochs at other counts."""

    observations: tuple[Observation, ...] = ()
    largest_count: Point | None = None
    """The simulated point of the largest count among them."""
    load_drift: float | None = None
    """Logarithm of the mean load over that of the epoch before; None without such an epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionContext:
    """The fitted quantities, and the observed residuals of their simulation."""

    estimate: Estimate
    machine: Machine
    """The rank's part of the pod's machine, which is simulated."""
    observed: Point
    """The point of the settings in use, as simulated: its speed was measured."""
    ceiling: ThroughputCeiling | None
    earlier: EarlierEpochs = EarlierEpochs()

    @property
    def workers(self) -> int:
        """The count in use."""
        return self.observed.settings.num_workers

    @property
    def reproduces_epoch(self) -> bool:
        """The simulation comes near the speed that was measured at the settings in use."""
        measured = self.estimate.measured.batches_per_second
        simulated = self.observed.outcome.batches_per_second
        return measured > 0 and 1 / floors.MAX_MISFIT < simulated / measured < floors.MAX_MISFIT

    def grid_point(self, at: Point) -> GridPoint:
        """Return the point of the residual's process that a simulated point stands for."""
        return _grid_point(at, self.machine)

    def corrected(self, at: Point) -> Point:
        """Return a simulated point, corrected by the residuals that were observed."""
        found = posterior(self.grid_point(at), (*self.earlier.observations, *self._present()))
        return at.corrected(found.factor, found.spread)

    def _present(self) -> tuple[Observation, ...]:
        figures = self.estimate.measured
        simulated = self.observed.outcome.batches_per_second
        if figures.batches_per_second <= 0 or simulated <= 0:
            return ()
        residual = math.log(figures.batches_per_second / simulated)
        return (Observation(self.grid_point(self.observed), residual, figures.noise**2),)

    @property
    def largest_count(self) -> Point:
        """The simulated point of the largest count that was in use."""
        earlier = self.earlier.largest_count
        if earlier is not None and earlier.settings.num_workers > self.workers:
            return earlier
        return self.observed


def earlier_epochs(
    epochs: Sequence[Epoch],
    now: Epoch,
    estimate: Estimate,
    machine: Machine,
    ceiling: ThroughputCeiling | None,
) -> EarlierEpochs:
    """Compare earlier epochs of the same workload and budget with their simulations.

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
    return EarlierEpochs(
        tuple(c for c in observations if c is not None),
        max(points, key=lambda p: p.settings.num_workers, default=None),
        _drift(before[-1], now) if before else None,
    )


def predict(at: Point, context: PredictionContext, foot: Footprint) -> Prediction:
    """Return a point with its bounds.

    Args:
        at: The point, as `PredictionContext.corrected` returned it.
        context: What it was predicted from.
        foot: What workers take of memory.
    """
    rate = at.outcome.batches_per_second
    doubt = math.exp(floors.BOUND_SD * math.hypot(at.spread, *_unknowns(at, context))) - 1
    lower, upper = rate / (1 + doubt), rate * (1 + doubt)
    workers, prefetch = at.settings.num_workers, at.settings.prefetch_factor or 2
    if workers > context.largest_count.settings.num_workers:
        lower = min(lower, _rate_at_seen_storage(at, context) / (1 + doubt))
    return Prediction(
        at.settings,
        rate,
        lower,
        upper,
        at.outcome.starvation,
        foot.memory_bytes(workers, prefetch),
        foot.shm_bytes(workers, prefetch),
    )


def _unknowns(at: Point, context: PredictionContext) -> list[float]:
    """Standard deviations by quantities that were assumed, or measured on few samples."""
    estimate, drift = context.estimate, context.earlier.load_drift
    spread = floors.LOAD_ERROR_SHARE * estimate.load_spread
    if drift is not None:
        spread = min(spread, math.hypot(floors.LOAD_ERROR_SHARE_COMPARED * estimate.load_spread, drift / 2))
    parts = [at.load_weight * spread]
    if at.settings == context.observed.settings:
        return parts
    if not estimate.known.loads:
        parts.append(floors.SD_UNKNOWN_LOADS)
    if not estimate.known.step_cpu:
        parts.append(floors.SD_UNKNOWN_COST)
    elsewhere = (at.settings.num_workers == 0) != (context.observed.settings.num_workers == 0)
    if not estimate.known.transport and not (elsewhere and context.earlier.observations):
        parts.append(floors.SD_UNKNOWN_COST)
    return parts


def _rate_at_seen_storage(at: Point, context: PredictionContext) -> float:
    """The speed if storage served no more loads than were seen: without the blocked share of the gain."""
    estimate = context.estimate
    gain = at.outcome.batches_per_second - context.corrected(context.largest_count).outcome.batches_per_second
    if context.ceiling is not None or gain <= 0 or estimate.load_seconds <= 0:
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
