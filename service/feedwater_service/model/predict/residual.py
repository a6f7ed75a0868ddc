"""The simulation's residuals: observed at the counts that were in use, predicted for all others.

At each count that was in use, simulated and measured speed are compared. The residual, the logarithm of their
ratio, is modelled as a Gaussian process over counts. Residuals are alike at near counts on CPUs as busy: one
at 4 workers corrects the prediction for 6 workers, that for 16 less, and that for 0 not at all. The posterior
standard deviation gives the width of the bounds. The correlations were fitted to some 2,000 pairs of real
epochs; the prior standard deviations are wider than fitted, because the tails of residuals are heavy
(docs/decisions/0012-residuals.md).

Source: Rasmussen and Williams, Gaussian Processes for Machine Learning, chapter 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from feedwater_service.model.numbers import floors


@dataclass(frozen=True, slots=True)
class GridPoint:
    """A point of the process: a count of workers, and how busy the CPUs are at it."""

    workers: int
    busy: float
    """Share of the cores in use, 0 to 1."""

    @property
    def prior_sd(self) -> float:
        """Standard deviation of the residual before any observation."""
        if self.workers == 0:
            return floors.PRIOR_SD_NO_WORKERS
        return (
            floors.PRIOR_SD_IDLE
            + (floors.PRIOR_SD_BUSY - floors.PRIOR_SD_IDLE) * min(1.0, self.busy) ** floors.SD_EXPONENT
        )

    def correlation(self, other: GridPoint) -> float:
        """Return the correlation of two points' residuals, 0 to 1."""
        if (self.workers == 0) != (other.workers == 0):
            # Without workers no batch is passed between processes: the residuals have different causes.
            return 0.0
        apart = abs(math.log2(max(1, self.workers) / max(1, other.workers)))
        least, most = sorted((max(self.busy, 1e-6), max(other.busy, 1e-6)))
        return math.exp(-apart / floors.LENGTH_SCALE_DOUBLINGS) * least / most


@dataclass(frozen=True, slots=True)
class Observation:
    """One count at which simulated and measured speed were compared."""

    grid_point: GridPoint
    residual: float
    """Logarithm of measured over simulated speed."""
    variance: float
    """Of the residual, by the noise of the measured epoch."""


@dataclass(frozen=True, slots=True)
class Posterior:
    """The correction of a simulated speed, and its uncertainty."""

    factor: float
    """Factor by which to multiply the speed."""
    spread: float
    """Standard deviation of the logarithm of the corrected speed."""


def posterior(grid_point: GridPoint, observations: Sequence[Observation]) -> Posterior:
    """Return the posterior at a point, given the observations.

    Example: one observation at the same point, on busy CPUs, of 0.06 in an epoch without noise of its own:
    its weight is 0.09² / (0.09² + 0.01²), so the posterior mean is 0.0593, a factor of 1.061.
    """
    prior = grid_point.prior_sd**2
    if not observations:
        return Posterior(1.0, math.sqrt(prior + floors.EPOCH_NOISE_SD**2))
    shared = [
        grid_point.prior_sd * c.grid_point.prior_sd * grid_point.correlation(c.grid_point)
        for c in observations
    ]
    weights = _solve(_covariance(observations), shared)
    mean = sum(
        w * max(-floors.MAX_RESIDUAL, min(floors.MAX_RESIDUAL, c.residual))
        for w, c in zip(weights, observations, strict=True)
    )
    known = sum(w * s for w, s in zip(weights, shared, strict=True))
    return Posterior(math.exp(mean), math.sqrt(max(0.0, prior - known) + floors.EPOCH_NOISE_SD**2))


def _covariance(observations: Sequence[Observation]) -> list[list[float]]:
    rows = []
    for i, one in enumerate(observations):
        row = [
            one.grid_point.prior_sd * x.grid_point.prior_sd * one.grid_point.correlation(x.grid_point)
            for x in observations
        ]
        row[i] += one.variance + floors.EPOCH_NOISE_SD**2
        rows.append(row)
    return rows


def _solve(rows: list[list[float]], right: Sequence[float]) -> list[float]:
    """Solve a small symmetric positive definite system by Gaussian elimination."""
    size = len(right)
    full = [[*row, value] for row, value in zip(rows, right, strict=True)]
    for i in range(size):
        for k in range(i + 1, size):
            factor = full[k][i] / full[i][i]
            for j in range(i, size + 1):
                full[k][j] -= factor * full[i][j]
    found = [0.0] * size
    for i in reversed(range(size)):
        rest = sum(full[i][j] * found[j] for j in range(i + 1, size))
        found[i] = (full[i][size] - rest) / full[i][i]
    return found
