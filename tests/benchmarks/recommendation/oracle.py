"""The measured truth of one workload: the rate at each setting, and how noisy it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from tests.benchmarks.recommendation.traces import Recorded

Setting = tuple[int, int]
"""(num_workers, prefetch_factor); 2 stands for none without workers."""
QUIET = 0.5
"""Cores that others may use during an epoch that counts."""
AS_GOOD = 0.02
"""Share of the best rate that does not matter: what the bar of regret allows."""
LEAST_NOISE = 0.01
"""Two epochs of one setting differ by about this much on a quiet machine; two rounds may show less."""


@dataclass(frozen=True)
class Table:
    """Rates in batches per second, by setting."""

    rates: dict[Setting, float]
    noise: float
    """Relative half-width of what one setting's epochs spread over; the median over settings."""

    @property
    def best(self) -> Setting:
        """The setting with the highest rate."""
        return max(self.rates, key=lambda s: self.rates[s])

    @property
    def thriftiest(self) -> Setting:
        """The fewest workers, then the fewest batches ahead, within 2 % of the best."""
        enough = (1 - AS_GOOD) * self.rates[self.best]
        return min(s for s, rate in self.rates.items() if rate >= enough)

    def nearest(self, workers: int, prefetch: int = 2) -> Setting:
        """Return the measured setting nearest to one, in doublings of count and depth; of two, the larger."""

        def apart(setting: Setting) -> tuple[float, int]:
            count, depth = setting
            doublings = abs(math.log2((count + 1) / (workers + 1))) + abs(math.log2(depth / prefetch))
            return doublings, -count

        return min(self.rates, key=apart)

    def regret(self, setting: Setting) -> float:
        """Return the share of the best rate that a setting loses, 0 to 1."""
        return 1 - self.rates[setting] / self.rates[self.best]

    def seconds(self, settings: Sequence[Setting], batches: int) -> float:
        """Return the time of epochs at the given settings, one each."""
        return sum(batches / self.rates[s] for s in settings)


def table_of(recorded: Sequence[Recorded]) -> Table:
    """Return the medians by setting, of the epochs that others did not disturb."""
    by_setting: dict[Setting, list[float]] = {}
    for r in quiet(recorded):
        by_setting.setdefault((r.workers, r.prefetch), []).append(r.rate)
    spreads = [(max(v) - min(v)) / 2 / median(v) for v in by_setting.values() if len(v) > 1]
    noise = max(LEAST_NOISE, median(spreads)) if spreads else LEAST_NOISE
    return Table({s: median(v) for s, v in sorted(by_setting.items())}, noise)


def quiet(recorded: Sequence[Recorded]) -> list[Recorded]:
    """Return the epochs that others disturbed little; of each setting at least the quietest."""
    kept = []
    for setting in sorted({(r.workers, r.prefetch) for r in recorded}):
        ours = [r for r in recorded if (r.workers, r.prefetch) == setting]
        calm = [r for r in ours if r.foreign_cores <= QUIET]
        kept += calm or [min(ours, key=lambda r: r.foreign_cores)]
    return kept
