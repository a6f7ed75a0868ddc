"""From scores to the bar's figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from tests.benchmarks.recommendation.drive import Driven
from tests.benchmarks.recommendation.pairs import Pair
from tests.benchmarks.recommendation.score import NULL, Prediction, Run, Scored, quantile

OURS = "Feedwater"


@dataclass(frozen=True)
class Figure:
    """One figure, and the bar it is held to."""

    name: str
    value: float | None
    """None where nothing was measured."""
    count: int
    """Of how many."""
    bar: str = ""
    """``"<= 0.02"``; empty where none is."""
    is_share: bool = True

    @property
    def holds(self) -> bool | None:
        """Whether the bar is kept; None without a bar or a value."""
        if not self.bar or self.value is None:
            return None
        sign, bound = self.bar.split()
        return self.value <= float(bound) if sign == "<=" else self.value >= float(bound)


def figures(scores: Sequence[Scored]) -> list[Figure]:
    """Return all figures of some workloads."""
    runs = [r for s in scores for r in s.runs]
    predictions = [p for s in scores for p in s.predictions]
    what_ifs = [abs(w.error) for s in scores for w in s.what_ifs]
    return [
        *_regret(runs),
        *_error([p for p in predictions if p.loader_bound and len(p.seen) == 1]),
        Figure("loader-bound counts beyond the curve", _unpredicted(scores), len(predictions)),
        *_bounds(predictions),
        *_harm(runs),
        *_thrift(runs),
        _figure(
            "runs with a recommended setting taken to the nearest measured",
            [r.replaced > 0 for r in runs],
            _share,
        ),
        _figure("what-if error, median", what_ifs, median, "<= 0.05"),
        *_verdicts(runs),
        *_totals(runs),
    ]


def measured_again(scores: Sequence[Scored], pairs: Sequence[Pair]) -> list[Figure]:
    """Return the regret of each run by fresh pairs; a run that ended at the best setting has none."""
    if not pairs:
        return []
    again = {(p.workload, p.chosen): p for p in pairs}
    regrets, beyond = [], []
    for run in (r for s in scores for r in s.runs):
        pair = again.get((run.workload, run.settings[-1]))
        if pair is not None or run.settings[-1] == run.best:
            regrets.append(pair.regret if pair is not None else 0.0)
            beyond.append(max(0.0, pair.regret - pair.noise) if pair is not None else 0.0)
    return [
        _figure("regret in fresh pairs, median", regrets, median, "<= 0.02"),
        _figure("regret in fresh pairs beyond noise, worst", beyond, max, "<= 0.05"),
    ]


def driven(runs: Sequence[Driven]) -> list[Figure]:
    """Return the figures of the real loop."""
    swept = [r for r in runs if r.oracle_seconds]
    return [
        _figure("real loop: harm", [r.did_harm for r in runs], sum, "<= 0", False),
        _figure(
            "real loop: settled epochs slower, beyond noise",
            [r.slower_epochs for r in runs],
            sum,
            "<= 0",
            False,
        ),
        _figure("real loop: changes, worst", [r.changes for r in runs], max, "<= 3", False),
        _figure("real loop: time over the user's own", [r.total / sum(r.user_seconds) for r in runs], median),
        _figure(
            "real loop: time over the oracle's", [r.total / (r.oracle_seconds or 1) for r in swept], median
        ),
    ]


def _unpredicted(scores: Sequence[Scored]) -> float:
    """Return the share of loader-bound counts that one epoch's curve says nothing of."""
    missing = sum(s.unpredicted for s in scores)
    told = sum(p.loader_bound and len(p.seen) == 1 for s in scores for p in s.predictions)
    return missing / (missing + told) if missing + told else 0.0


def _figure(
    name: str,
    values: Iterable[float | None],
    how: Callable[[list[float]], float],
    bar: str = "",
    is_share: bool = True,
) -> Figure:
    found = [v for v in values if v is not None]
    return Figure(name, float(how(found)) if found else None, len(found), bar, is_share)


def _p95(values: Sequence[float]) -> float:
    return quantile(values, 0.95)


def _share(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _regret(runs: Sequence[Run]) -> list[Figure]:
    return [
        _figure("regret, median", [r.regret for r in runs], median, "<= 0.02"),
        _figure(
            "regret beyond noise, worst", [max(0.0, r.regret - 2 * r.noise) for r in runs], max, "<= 0.05"
        ),
        _figure("settled in time", [_in_time(r) for r in runs], _share, ">= 0.9"),
        _figure("settled after, worst, epochs", [r.settled_after for r in runs], max, "<= 3", False),
        _figure("changes, worst", [r.changes for r in runs], max, "<= 3", False),
    ]


def _in_time(run: Run) -> bool:
    """Settled after one observed epoch; two where the first count was 0 or storage has a ceiling."""
    return run.settled_after <= (2 if run.start == 0 or run.family == "ceiling" else 1)


def _error(points: Sequence[Prediction]) -> list[Figure]:
    memory = [
        abs(p.predicted_memory_bytes / p.memory_bytes - 1)
        for p in points
        if p.memory_bytes and p.predicted_memory_bytes is not None
    ]
    return [
        _figure("throughput error, median", [abs(p.error) for p in points], median, "<= 0.03"),
        _figure("throughput error, 95th percentile", [abs(p.error) for p in points], _p95, "<= 0.1"),
        _figure("null model's error, median", [abs(p.null_error) for p in points], median),
        _figure("null model's error, 95th percentile", [abs(p.null_error) for p in points], _p95),
        _figure(
            "starvation error, median", [abs(p.predicted_starvation - p.starvation) for p in points], median
        ),
        _figure("memory error, median", memory, median),
    ]


def _bounds(points: Sequence[Prediction]) -> list[Figure]:
    found = []
    for seen, bars in ((1, ("", "")), (2, (">= 0.9", "<= 0.1"))):
        ours = [p for p in points if len(p.seen) == seen and p.loader_bound]
        after = f"after {seen} count{'s' if seen > 1 else ''}"
        found.append(_figure(f"truths within bounds, {after}", [p.is_covered for p in ours], _share, bars[0]))
        found.append(_figure(f"width of bounds, median, {after}", [p.width for p in ours], median, bars[1]))
    return found


def _harm(runs: Sequence[Run]) -> list[Figure]:
    slower = [r.slower_than_start > 0 for r in runs]
    return [
        _figure("settled slower than the user's own, beyond noise", slower, sum, "<= 0", False),
        _figure("false starvation", [r.false_starvation for r in runs], sum, "<= 0", False),
    ]


def _thrift(runs: Sequence[Run]) -> list[Figure]:
    extra = [r.extra_workers for r in runs]
    return [
        _figure("at most one worker more than the thriftiest", [e <= 1 for e in extra], _share, ">= 1"),
        _figure("workers beyond the thriftiest, worst", extra, max, "", False),
    ]


def _verdicts(runs: Sequence[Run]) -> list[Figure]:
    said = [r.right for r in runs if r.right is not None]
    unknown = [r.verdict == "UNKNOWN" for r in runs]
    return [
        _figure("right verdicts, where one is given", said, _share, ">= 0.95"),
        _figure("verdict UNKNOWN", unknown, _share),
    ]


def _totals(runs: Sequence[Run]) -> list[Figure]:
    found = [_figure(f"{OURS}: total time over the oracle's", [excess(r.seconds, r) for r in runs], median)]
    if runs:
        for name in (*runs[0].others, "the user's own setting"):
            found.append(
                Figure(f"{OURS}: total time over that of {name}, suite", over(runs, name), len(runs), "<= 1")
            )
    return found


def excess(seconds: float, run: Run) -> float:
    """Return by how much a total exceeds the oracle's: 11 s for 10 s is 0.1."""
    return seconds / run.oracle_seconds - 1


def over(runs: Sequence[Run], name: str) -> float:
    """Return Feedwater's time over a rule's, both relative to the oracle's, over the suite.

    Each run counts alike, however long its epochs: the sums are of totals over the oracle's.
    """
    ours = sum(r.seconds / r.oracle_seconds for r in runs)
    theirs = sum((r.others.get(name) or r.user_seconds) / r.oracle_seconds for r in runs)
    return ours / theirs


def relative_totals(runs: Sequence[Run]) -> dict[str, tuple[float, float]]:
    """Return, by rule, the mean total time over the oracle's, and the mean regret at the end."""
    found = {OURS: _means([(r.seconds, r.regret, r) for r in runs])}
    for name in runs[0].others if runs else ():
        found[name] = _means([(r.others[name], r.others_regret[name], r) for r in runs])
    return found


def _means(rows: Sequence[tuple[float, float, Run]]) -> tuple[float, float]:
    totals = [seconds / run.oracle_seconds for seconds, _, run in rows]
    return sum(totals) / len(totals), sum(regret for _, regret, _ in rows) / len(rows)


def text(found: Sequence[Figure]) -> list[str]:
    """Return a line for each figure."""
    lines = []
    for f in found:
        kept = {None: "", True: "holds", False: "MISSED"}[f.holds]
        value = (
            "-"
            if f.value is None
            else f"{f.value:.1%}"
            if f.is_share and "total time over that" not in f.name
            else f"{f.value:.3g}"
        )
        lines.append(f"{f.name:62} {value:>8}  of {f.count:4}  {f.bar:9} {kept}")
    return lines


__all__ = ["NULL", "OURS", "Figure", "excess", "figures", "over", "relative_totals", "text"]
