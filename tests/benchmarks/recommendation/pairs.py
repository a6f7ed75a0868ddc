"""What was chosen and the oracle's best, re-measured in fresh interleaved pairs.

The best of a dozen noisy medians is partly luck; a fresh pair is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from tests.benchmarks.recommendation.harness import training
from tests.benchmarks.recommendation.oracle import Setting
from tests.benchmarks.recommendation.workloads import Workload
from tests.support.benchmark import interval, log

PAIRS = 4


@dataclass(frozen=True)
class Pair:
    """One chosen setting against the oracle's best."""

    workload: str
    held_out: bool
    chosen: Setting
    best: Setting
    regrets: tuple[float, ...]
    """Of each pair: the share of the best's rate that the chosen one lost; negative where it won."""

    @property
    def regret(self) -> float:
        """The median."""
        return median(self.regrets)

    @property
    def spread(self) -> tuple[float, float]:
        """The interval of the median that assumes no distribution."""
        return interval(self.regrets)

    @property
    def noise(self) -> float:
        """Half the spread: what the regret can be told to."""
        low, high = self.spread
        return (high - low) / 2


def measure_pairs(work: Workload, chosen: Iterable[Setting], best: Setting, pairs: int = PAIRS) -> list[Pair]:
    """Return the pairs of one workload; a chosen setting that is the best one needs none."""
    others = [s for s in sorted(set(chosen)) if s != best]
    found: dict[Setting, list[float]] = {s: [] for s in others}
    if others:
        with training(work, "observe", 1) as one:
            for turn in range(pairs):
                # Who goes first takes turns.
                order = [best, *others] if turn % 2 == 0 else [*reversed(others), best]
                rates = {s: _rate(one.epoch({"workers": s[0], "prefetch": s[1]})) for s in order}
                for s in others:
                    found[s].append(regret(rates[s], rates[best]))
            one.end()
    made = [Pair(work.name, work.held_out, s, best, tuple(v)) for s, v in found.items()]
    for pair in made:
        log(line(pair))
    return made


def regret(rate: float, best: float) -> float:
    """Return the share of ``best`` that ``rate`` loses: 98 for 100 is 2 %."""
    return 1 - rate / best


def _rate(row: Mapping[str, Any]) -> float:
    return float(row["batches"]) / float(row["seconds"])


def line(pair: Pair) -> str:
    """Return one pair in a line."""
    low, high = pair.spread
    return f"{pair.workload}: {pair.chosen} against {pair.best}: {pair.regret:.1%} ({low:.1%} to {high:.1%})"


def from_json(body: Mapping[str, Any]) -> Pair:
    """Return the pair that was written as JSON."""
    plain = dict(body)
    plain["chosen"], plain["best"] = tuple(plain["chosen"]), tuple(plain["best"])
    return Pair(**{**plain, "regrets": tuple(plain["regrets"])})
