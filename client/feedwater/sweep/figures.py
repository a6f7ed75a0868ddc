"""The arithmetic of the table: medians, errors, the best setting, and what another loses against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from feedwater.sweep.measure import MeasuredEpoch
from feedwater.sweep.plan import depth_of
from feedwater.values import LoaderSettings, Prediction

AS_GOOD = 0.02
"""Within two percent of the best counts as good as it: epochs of one setting differ by about that."""


@dataclass(slots=True)
class Row:
    """One setting of the sweep."""

    settings: LoaderSettings
    prediction: Prediction | None = None
    epochs: list[MeasuredEpoch] = field(default_factory=list)
    """By round."""
    failure: str = ""
    """Why it was not measured, or not to the end."""
    is_refused: bool = False
    """It was not started: the budget would not have carried it."""

    @property
    def rates(self) -> list[float]:
        """Batches per second, by round."""
        return [epoch.batches_per_second for epoch in self.epochs]

    @property
    def rate(self) -> float:
        """Median over the rounds; 0 where nothing was measured."""
        return median(self.rates) if self.epochs else 0.0

    @property
    def spread(self) -> float:
        """Difference between the fastest and the slowest round, relative to the median; 0 for one round."""
        return (max(self.rates) - min(self.rates)) / self.rate if self.rate > 0 else 0.0

    @property
    def starvation(self) -> float:
        """Median over the rounds."""
        return median(epoch.starvation for epoch in self.epochs)

    @property
    def start_up_seconds(self) -> float:
        """Median over the rounds."""
        return median(epoch.start_up_seconds for epoch in self.epochs)

    @property
    def worker_bytes(self) -> int | None:
        """Memory of all workers, the most that was seen; None where it was not."""
        return max((e.worker_bytes for e in self.epochs if e.worker_bytes is not None), default=None)

    @property
    def error(self) -> float | None:
        """Predicted against measured, relative.

        Example: 44 predicted, 40 measured: 0.1.
        """
        if self.prediction is None or self.rate <= 0:
            return None
        return self.prediction.batches_per_second / self.rate - 1

    @property
    def is_within_bounds(self) -> bool | None:
        """Whether what was measured lies within what was predicted."""
        if self.prediction is None or self.rate <= 0:
            return None
        return (
            self.prediction.batches_per_second_lower <= self.rate <= self.prediction.batches_per_second_upper
        )

    @property
    def is_cut(self) -> bool:
        """Some of its epochs were not waited for."""
        return any(epoch.is_cut for epoch in self.epochs)


@dataclass(frozen=True, slots=True)
class Regret:
    """What a setting loses against the best one, by pairs of epochs one after the other."""

    share: float
    """Median, relative: 0.02 is 2 % slower."""
    noise: float
    """Half of the range over the pairs."""
    pairs: int
    best: float
    """Batches per second of the best, median over the pairs."""
    other: float

    @property
    def is_noise(self) -> bool:
        """The pairs do not agree on which is faster."""
        return abs(self.share) <= self.noise


def best_of(rows: Sequence[Row]) -> Row | None:
    """Return the row with the highest median; None where nothing was measured."""
    measured = [row for row in rows if row.epochs]
    return max(measured, key=lambda row: row.rate, default=None)


def thriftiest_of(rows: Sequence[Row]) -> Row | None:
    """Return the row of fewest workers within `AS_GOOD` of the best."""
    best = best_of(rows)
    if best is None:
        return None
    enough = [row for row in rows if row.epochs and row.rate >= (1 - AS_GOOD) * best.rate]
    return min(enough, key=lambda row: key_of(row.settings))


def row_of(rows: Sequence[Row], settings: LoaderSettings | None) -> Row | None:
    """Return the row of a setting: its count, and its prefetch factor where it has workers."""
    for row in rows:
        if settings is not None and key_of(row.settings) == key_of(settings):
            return row
    return None


def key_of(settings: LoaderSettings) -> tuple[int, int]:
    """Return what tells settings of a sweep apart."""
    return settings.num_workers, depth_of(settings)


def regret(best: Sequence[float], other: Sequence[float]) -> Regret | None:
    """Return what ``other`` loses against ``best``, by pairs; None where there is no pair.

    Example: best 50, 50, 40 and other 49, 48, 40: 2 %, 4 % and 0 %, so 2 % with a noise of 2 %.
    """
    pairs = [(here, there) for here, there in zip(best, other, strict=False) if here > 0]
    if not pairs:
        return None
    lost = [1 - there / here for here, there in pairs]
    middles = [median(side) for side in zip(*pairs, strict=True)]
    return Regret(median(lost), (max(lost) - min(lost)) / 2, len(lost), *middles)
