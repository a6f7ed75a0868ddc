"""How far predictions are from what was measured: figures from recorded epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from workloads import Case

from feedwater_service.model import (
    Budget,
    Container,
    Epoch,
    Load,
    Loader,
    NoRecommendation,
    Pod,
    Policy,
    Recommendation,
    Settings,
    draft,
    recommend,
    summarise,
)
from feedwater_service.model.capacity import Footprint
from feedwater_service.model.curve import null_model, point, predict, with_workers

QUIET = 0.3
"""Cores that others may use during an epoch that is scored."""
LOADER_BOUND = 0.9
"""Of the rate that the step allows: counts above it any model gets right, and do not count."""


@dataclass(frozen=True)
class Row:
    """One prediction against its truth."""

    case: str
    seen_workers: int
    """The count of the one epoch that was learned from."""
    workers: int
    measured: float
    """Median batches per second, start-up and tear-down included, of epochs that were not learned from."""
    measured_low: float
    measured_high: float
    predicted: float
    lower: float
    upper: float
    null: float
    """By ``max(step, load/n, cpu/cores)``."""
    loader_bound: bool
    foreign_cores: float
    """Most cores that others used during one of the epochs: noise."""

    @property
    def error(self) -> float:
        """Relative error of the model."""
        return self.predicted / self.measured - 1

    @property
    def null_error(self) -> float:
        """Relative error of the null model."""
        return self.null / self.measured - 1

    @property
    def covered(self) -> bool:
        """The truth lies within the predicted bounds."""
        return self.lower <= self.measured <= self.upper


@dataclass(frozen=True)
class Decision:
    """One recommendation and what it would cost."""

    case: str
    seen_workers: int
    recommended: int
    """The next step, exploration limits included."""
    aimed_at: int
    """What the model would choose if it might go there at once."""
    best: int
    """The best count of those measured."""
    regret: float
    """Share of the best measured rate that `aimed_at` loses."""
    verdict: str
    sentence: str


def epoch_of(row: dict[str, Any]) -> Epoch:
    """Return the epoch that was written as JSON."""
    row = {k: v for k, v in row.items() if k != "foreign_cores"}
    row["settings"] = Settings(**row["settings"])
    row["loads"] = tuple(Load(**x) for x in row["loads"])
    row["containers"] = tuple(Container(**x) for x in row["containers"])
    row["budget"] = Budget(**row["budget"])
    return Epoch(**row)


def score(case: Case, written: Sequence[dict[str, Any]], seen: int) -> tuple[list[Row], Decision]:
    """Predict the curve from the first epoch at ``seen`` workers, compare with the medians of all others."""
    written = quiet(written)
    epochs = [epoch_of(row) for row in written]
    foreign = {
        n: max(r["foreign_cores"] for r in written if r["settings"]["num_workers"] == n) for n in case.counts
    }
    first = next(e for e in epochs if e.settings.num_workers == seen)
    assert first.budget is not None
    loader = Loader(case.name, 0, first.settings, first.settings, (first,), batches_per_epoch=first.batches)
    pod = Pod(first.budget, (loader,))
    made, answer = draft(pod, case.name, Policy()), recommend(pod, case.name, Policy())
    assert not isinstance(made, NoRecommendation)
    assert not isinstance(answer, NoRecommendation)
    truth = rates(epochs, first)
    medians = {n: median(v) for n, v in truth.items()}
    step = (case.step_cpu + case.step_timed) or 1e-9
    current = point(made.estimate, first.settings, made.machine, None)
    rows = []
    for workers, values in truth.items():
        if workers == seen:
            continue
        at = point(made.estimate, with_workers(first.settings, workers), made.machine, None)
        p = predict(at, made.estimate, first.settings, current, None, Footprint(None, None, None))
        rows.append(
            Row(
                case.name,
                seen,
                workers,
                medians[workers],
                min(values),
                max(values),
                p.batches_per_second,
                p.lower,
                p.upper,
                null_model(made.estimate, workers, made.machine),
                medians[workers] < LOADER_BOUND / step,
                foreign[workers],
            )
        )
    return rows, _decision(case.name, seen, answer, medians)


def quiet(written: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the epochs that others disturbed little; of each count at least the two quietest."""
    kept = []
    for workers in {r["settings"]["num_workers"] for r in written}:
        ours = sorted((r for r in written if r["settings"]["num_workers"] == workers), key=_foreign)
        kept += ours[:2] + [r for r in ours[2:] if _foreign(r) <= QUIET]
    return sorted(kept, key=lambda r: float(r["start"]))


def _foreign(row: dict[str, Any]) -> float:
    return float(row["foreign_cores"])


def _decision(name: str, seen: int, answer: Recommendation, medians: dict[int, float]) -> Decision:
    best = max(medians, key=lambda n: medians[n])
    aimed = answer.uncapped_num_workers
    return Decision(
        name,
        seen,
        answer.settings.num_workers,
        aimed,
        best,
        max(0.0, 1 - interpolate(medians, aimed) / medians[best]),
        answer.verdict.value,
        answer.sentence,
    )


def rates(epochs: Sequence[Epoch], but: Epoch) -> dict[int, list[float]]:
    """Return the measured batches per second by worker count, without the epoch that was learned from."""
    found: dict[int, list[float]] = {}
    for e in epochs:
        if e is not but:
            found.setdefault(e.settings.num_workers, []).append(summarise(e).batches_per_second)
    return dict(sorted(found.items()))


def interpolate(medians: dict[int, float], workers: int) -> float:
    """Return the rate at a count, on the line between its measured neighbours."""
    if workers in medians:
        return medians[workers]
    below = max((n for n in medians if n < workers), default=min(medians))
    above = min((n for n in medians if n > workers), default=max(medians))
    if above == below:
        return medians[below]
    part = (workers - below) / (above - below)
    return medians[below] + part * (medians[above] - medians[below])
