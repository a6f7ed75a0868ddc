"""What the simulation misses, carried from where it could be checked to where it could not.

At each count that was in use, simulated and measured speed can be compared. The logarithm of their ratio is
taken for a Gaussian process over counts: near counts on CPUs as busy miss alike, so a miss at 4 workers
corrects the prediction for 6, less that for 16, and that for none at all; what is left unknown is the width
of the bounds. How alike places are was fitted to some 2,000 pairs of real epochs; the sizes are wider than
fitted, for the tails of misses are heavy (docs/decisions/0012-carried-misses.md).

Source: Rasmussen and Williams, Gaussian Processes for Machine Learning, chapter 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEAST, MOST = 0.03, 0.09
"""Standard deviation of a miss where CPUs are idle, and where all are busy: of threads that wait for their
turn the simulation knows least."""
ALONE = 0.04
"""The same without workers: one process does one thing after another, and waits its turn behind nobody."""
STEEP = 4
"""Power of the CPUs' busy share with which it rises between the two."""
REACH = 4.0
"""Doublings of the count over which misses lose their likeness by a factor e."""
EPOCHS = 0.01
"""Relative standard deviation between epochs of one setting on a quiet machine, beyond their batches'."""
WILD = 0.3
"""Misses are taken for no larger: beyond, the epoch is not understood, and nothing is to be carried over."""
SURE = 2.2
"""Standard deviations that bounds are wide: 85 % of the truths lie within, of a Gaussian it were 97 %."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where on the curve: counts that are alike miss alike."""

    workers: int
    busy: float
    """Share of the cores in use, 0 to 1."""

    @property
    def size(self) -> float:
        """Standard deviation of the miss here, before anything was checked."""
        if self.workers == 0:
            return ALONE
        return LEAST + (MOST - LEAST) * min(1.0, self.busy) ** STEEP

    def likeness(self, other: Place) -> float:
        """Correlation of two places' misses, 0 to 1."""
        if (self.workers == 0) != (other.workers == 0):
            # Without workers nothing is handed over: that side and the other say nothing of each other.
            return 0.0
        apart = abs(math.log2(max(1, self.workers) / max(1, other.workers)))
        least, most = sorted((max(self.busy, 1e-6), max(other.busy, 1e-6)))
        return math.exp(-apart / REACH) * least / most


@dataclass(frozen=True, slots=True)
class Checked:
    """One place where simulated and measured speed were compared."""

    place: Place
    miss: float
    """Logarithm of measured over simulated speed."""
    variance: float
    """Of the miss, by the noise of the epoch that it was measured in."""


@dataclass(frozen=True, slots=True)
class Belief:
    """What to make of a simulated speed."""

    factor: float
    """By which to multiply it."""
    spread: float
    """Standard deviation of its logarithm after that."""


def believe(place: Place, checked: Sequence[Checked]) -> Belief:
    """Return the belief at a place, given where the simulation was checked.

    Example: checked once at the same place, on busy CPUs, a miss of 0.06 in an epoch without noise of its
    own: the share 0.09² / (0.09² + 0.01²) of it is believed, which is 0.0593, a factor of 1.061.
    """
    prior = place.size**2
    if not checked:
        return Belief(1.0, math.sqrt(prior + EPOCHS**2))
    shared = [place.size * c.place.size * place.likeness(c.place) for c in checked]
    weights = _solve(_covariance(checked), shared)
    mean = sum(w * max(-WILD, min(WILD, c.miss)) for w, c in zip(weights, checked, strict=True))
    known = sum(w * s for w, s in zip(weights, shared, strict=True))
    return Belief(math.exp(mean), math.sqrt(max(0.0, prior - known) + EPOCHS**2))


def _covariance(checked: Sequence[Checked]) -> list[list[float]]:
    rows = []
    for i, one in enumerate(checked):
        row = [one.place.size * x.place.size * one.place.likeness(x.place) for x in checked]
        row[i] += one.variance + EPOCHS**2
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
