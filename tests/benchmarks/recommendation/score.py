"""Judge the model on stored traces: pure arithmetic, no machine needed.

From each starting count the model is fed one epoch and answers; the loop goes on with the recorded epoch of
what it chose. The truth is the median of what was measured at each setting.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from feedwater_service.model import Analysis, NoRecommendation, Recommendation, summarise
from feedwater_service.model.predict.curve import curve
from feedwater_service.model.simulator.cpu import machine_of
from tests.benchmarks.recommendation import incumbents
from tests.benchmarks.recommendation.closed_loop import EPOCHS, Answered, Play, Player
from tests.benchmarks.recommendation.null_model import null_model
from tests.benchmarks.recommendation.oracle import AS_GOOD, Setting, Table
from tests.benchmarks.recommendation.traces import Known, Trace
from tests.benchmarks.recommendation.workloads import Workload

STARTS = (0, 1, 2, 4, 8, 32)
"""Counts that a user may have set; 32 stands for the largest that was measured."""
FAST_STARTS = (0, 2, 8)
LOADER_BOUND = 0.9
"""Of the rate that the step allows: above it any model is right, and those counts are not scored."""
AS_GOOD_AS_NULL = 0.005
"""The null model takes the smallest count within this much of its best, as the real choice does."""
STARVING = {"TOO_FEW_WORKERS", "SLOW_BATCHES", "STORAGE", "CPU_LIMIT", "MAIN_PROCESS"}
"""Verdicts that say the trainer waits for data."""
CURABLE = {"TOO_FEW_WORKERS", "SLOW_BATCHES"}
"""Those of them that say another setting would help."""
NULL = "Feedwater without simulation"


@dataclass(frozen=True)
class Prediction:
    """One predicted point against its truth."""

    workload: str
    held_out: bool
    seen: tuple[int, ...]
    """The counts whose epochs were learned from; the newest is the last."""
    workers: int
    measured: float
    predicted: float
    lower: float
    upper: float
    null: float
    """By ``max(step, load/n, cpu/cores)``."""
    loader_bound: bool
    starvation: float
    predicted_starvation: float
    memory_bytes: int | None
    predicted_memory_bytes: int | None

    @property
    def error(self) -> float:
        """Relative error of the model."""
        return self.predicted / self.measured - 1

    @property
    def null_error(self) -> float:
        """Relative error of the null model."""
        return self.null / self.measured - 1

    @property
    def is_covered(self) -> bool:
        """The truth lies within the predicted bounds."""
        return self.lower <= self.measured <= self.upper

    @property
    def width(self) -> float:
        """Of the bounds, relative to the prediction."""
        return (self.upper - self.lower) / self.predicted


@dataclass(frozen=True)
class Run:
    """Ten epochs from one starting count, by Feedwater and by everyone else."""

    workload: str
    family: str
    held_out: bool
    start: int
    settings: tuple[Setting, ...]
    settled_after: int
    changes: int
    regret: float
    noise: float
    """Of the workload's rates, relative."""
    best: Setting
    thriftiest: Setting
    seconds: float
    oracle_seconds: float
    user_seconds: float
    verdict: str
    """After the first epoch; the reason where there was no recommendation."""
    right: bool | None
    """The verdict names the cause that was built in; None where none was, or nothing is known."""
    false_starvation: bool
    slower_than_start: float
    """Share of the starting rate that the final setting loses beyond the noise; 0 where none."""
    replaced: int
    """Recommended settings that had not been measured."""
    others: dict[str, float]
    """Total seconds of the ten epochs, by rule."""
    others_regret: dict[str, float]

    @property
    def extra_workers(self) -> int:
        """Workers beyond the thriftiest setting within 2 % of the best."""
        return self.settings[-1][0] - self.thriftiest[0]


@dataclass(frozen=True)
class WhatIf:
    """The best that was predicted for another CPU limit, and what was measured under it."""

    workload: str
    held_out: bool
    start: int
    from_cores: float
    to_cores: float
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Relative."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True)
class Scored:
    """All that one workload's trace gave."""

    predictions: tuple[Prediction, ...]
    runs: tuple[Run, ...]
    what_ifs: tuple[WhatIf, ...] = ()
    unpredicted: int = 0
    """Loader-bound counts of which the curve after one epoch says nothing."""


def score(work: Workload, trace: Trace, other: Trace | None = None, starts: Sequence[int] = STARTS) -> Scored:
    """Return the score of one workload.

    Args:
        work: What was measured.
        trace: Under its own limits.
        other: Under another CPU limit, for what-if.
        starts: Counts to start from; those with an expected verdict are added.
    """
    player = Player(trace)
    plays = [player.play(start) for start in starts_of(player, starts, work)]
    return score_plays(work, trace, player, plays, other)


def score_plays(
    work: Workload, trace: Trace, player: Player, plays: Sequence[Play], other: Trace | None = None
) -> Scored:
    """Return the score of runs that were played on one workload's trace; else as `score`."""
    truth = Truth(player.table, trace)
    predictions: list[Prediction] = []
    runs: list[Run] = []
    what_ifs: list[WhatIf] = []
    unpredicted = 0
    for play in plays:
        predictions += _predictions(work, play, truth)
        runs.append(_run(work, play, truth))
        unpredicted += _unpredicted(work, play, truth)
        if other is not None and play.answers[0].analysis is not None:
            what_ifs.append(_what_if(work, play.answers[0], trace, other))
    return Scored(tuple(predictions), tuple(runs), tuple(what_ifs), unpredicted)


def starts_of(player: Player, starts: Sequence[int], work: Workload) -> list[int]:
    """Return the starting counts as far as they were measured; too large a one is the largest measured."""
    counts = player.counts
    wanted = [n for n in (*starts, *work.verdicts) if n in counts]
    if any(n > max(counts) for n in starts):
        wanted.append(max(counts))
    return sorted(set(wanted))


class Truth:
    """What was measured, beside the rates: starvation and memory."""

    def __init__(self, table: Table, trace: Trace) -> None:
        self.table = table
        self.machine = incumbents.Machine(trace.budget.cpus, max(len(r.known) for r in trace.recorded))
        self._known: dict[Setting, list[Known]] = {}
        for r in trace.recorded:
            self._known.setdefault((r.workers, r.prefetch), []).extend(r.known)
        self.batches = trace.recorded[0].batches
        taken: dict[Setting, list[int]] = {}
        for r in trace.recorded:
            if r.memory_bytes:
                taken.setdefault((r.workers, r.prefetch), []).append(r.memory_bytes)
        self._memory = {setting: median(values) for setting, values in taken.items()}

    def starvation(self, setting: Setting) -> float:
        """Return the measured share of iteration time that was wait."""
        return median(summarise(k.epoch).starvation for k in self._known[setting])

    def memory_bytes(self, setting: Setting) -> int | None:
        """Return what one rank's workers and queues took: the most in use, less that without workers."""
        most, alone = self._memory.get(setting), self._memory.get((0, 2))
        if most is None or alone is None or setting[0] == 0:
            return None
        return max(0, int((most - alone) / self.machine.ranks))


def _predictions(work: Workload, play: Play, truth: Truth) -> Iterator[Prediction]:
    """Yield what was predicted from one count, and from two once a second one was seen."""
    seen: list[int] = []
    for answered in play.answers:
        if answered.setting[0] in seen:
            continue
        seen.append(answered.setting[0])
        if len(seen) > 2:
            return
        yield from _curve(work, answered, tuple(seen), truth)


def _curve(work: Workload, answered: Answered, seen: tuple[int, ...], truth: Truth) -> Iterator[Prediction]:
    answer, made = answered.answer, answered.analysis
    if isinstance(answer, NoRecommendation) or made is None:
        return
    # The curve keeps the depth of the settings in use: it is held against that depth.
    predicted = {(p.settings.num_workers, p.settings.prefetch_factor or 2): p for p in answer.curve}
    for (workers, prefetch), measured in truth.table.rates.items():
        if workers in seen or (workers, prefetch) not in predicted:
            continue
        p = predicted[workers, prefetch]
        yield Prediction(
            work.name,
            work.held_out,
            seen,
            workers,
            measured,
            p.batches_per_second,
            p.batches_per_second_lower,
            p.batches_per_second_upper,
            null_model(made.context.estimate, workers, made.context.machine),
            is_loader_bound(work, measured),
            truth.starvation((workers, prefetch)),
            p.starvation,
            truth.memory_bytes((workers, prefetch)),
            p.memory_bytes,
        )


def is_loader_bound(work: Workload, rate: float) -> bool:
    """Say whether the consumer gets less than 90 % of what its step allows: 80/s at a step of 10 ms."""
    return work.step_seconds == 0 or rate < LOADER_BOUND / work.step_seconds


def _unpredicted(work: Workload, play: Play, truth: Truth) -> int:
    answer = play.answers[0].answer
    curve_ = () if isinstance(answer, NoRecommendation) else answer.curve
    told = {p.settings.num_workers for p in curve_} | {play.start[0]}
    rates = truth.table.rates.items()
    return sum(p == 2 and n not in told and is_loader_bound(work, rate) for (n, p), rate in rates)


def _run(work: Workload, play: Play, truth: Truth) -> Run:
    table, batches = truth.table, truth.batches
    first = play.answers[0]
    played = {name: rule(table, play.start[0], truth.machine) for name, rule in incumbents.RULES.items()}
    played[NULL] = _null_run(play, truth)
    verdict = _verdict(first.answer)
    return Run(
        work.name,
        work.family,
        work.held_out,
        play.start[0],
        tuple(play.settings),
        play.settled_after,
        play.changes,
        table.regret(play.final),
        table.noise,
        table.best,
        table.thriftiest,
        table.seconds(play.settings, batches),
        table.seconds([table.best] * EPOCHS, batches),
        table.seconds([play.start] * EPOCHS, batches),
        verdict,
        _is_right(work, play.start[0], verdict),
        is_false_starvation(verdict, table.rates[play.start], table, work),
        loss_beyond_noise(table.rates[play.start], table.rates[play.final], table.noise),
        sum(a.replaced for a in play.answers),
        {name: table.seconds(settings, batches) for name, settings in played.items()},
        {name: table.regret(settings[-1]) for name, settings in played.items()},
    )


def _verdict(answer: Recommendation | NoRecommendation) -> str:
    return answer.reason.value if isinstance(answer, NoRecommendation) else answer.verdict.value


def _is_right(work: Workload, start: int, verdict: str) -> bool | None:
    expected = work.verdicts.get(start)
    if expected is None or (verdict == "UNKNOWN" and verdict not in expected):
        return None
    return verdict in expected


def loss_beyond_noise(before: float, after: float, noise: float) -> float:
    """Return the share of ``before`` lost beyond twice the noise: from 100 to 95 with noise 1 % is 3 %."""
    return max(0.0, 1 - after / before - 2 * noise)


def is_false_starvation(verdict: str, rate: float, table: Table, work: Workload) -> bool:
    """Say whether starvation was claimed where the best setting there is gains under 2 %.

    A limit of CPU or of the main process is no claim that another setting helps: it is false only where
    the consumer already gets what its step allows.
    """
    gain = table.rates[table.best] / rate - 1
    at_step = work.step_seconds > 0 and rate * work.step_seconds > 1 - AS_GOOD
    return gain < AS_GOOD and (verdict in CURABLE or (verdict in STARVING and at_step))


def _null_run(play: Play, truth: Truth) -> list[Setting]:
    made = play.answers[0].analysis
    after = play.start if made is None else truth.table.nearest(_null_choice(made, truth.table))
    return [play.start, *[after] * (EPOCHS - 1)]


def _null_choice(made: Analysis, table: Table) -> int:
    return smallest_as_good(
        {n: null_model(made.context.estimate, n, made.context.machine) for n, p in table.rates if p == 2}
    )


def smallest_as_good(rates: dict[int, float], within: float = AS_GOOD_AS_NULL) -> int:
    """Return the smallest count whose rate is within a share of the best one: of 10, 19.95, 20 the second."""
    best = max(rates.values())
    return min(n for n, rate in rates.items() if rate >= best * (1 - within))


def _what_if(work: Workload, answered: Answered, trace: Trace, other: Trace) -> WhatIf:
    """Predict the best rate under the other limit, and look up the rate that was measured at that setting."""
    table = Player(other).table
    told = _told_what_if(answered.answer, other.budget.cores)
    workers, rate = told if told is not None else _simulated(answered, other, table)
    measured = table.rates[table.nearest(workers)]
    return WhatIf(
        work.name,
        work.held_out,
        answered.setting[0],
        trace.budget.cores,
        other.budget.cores,
        rate,
        measured,
    )


def _told_what_if(answer: Recommendation | NoRecommendation, cores: float) -> tuple[int, float] | None:
    """Return (workers, rate) as the recommendation itself says, if it speaks of that limit."""
    if isinstance(answer, NoRecommendation):
        return None
    told = next((w for w in answer.what_if if abs(w.cpu_limit_cores - cores) < 0.05), None)
    return None if told is None else (told.best.settings.num_workers, told.best.batches_per_second)


def _simulated(answered: Answered, other: Trace, table: Table) -> tuple[int, float]:
    made = answered.analysis
    assert made is not None
    machine = machine_of(dataclasses.replace(made.epoch.budget, cpu_quota_cores=other.budget.cpu_quota_cores))
    counts = sorted({n for n, p in table.rates if p == 2})
    points = curve(made.context.estimate, counts, made.epoch.settings, machine, made.context.ceiling)
    rates = {p.settings.num_workers: p.outcome.batches_per_second for p in points}
    chosen = smallest_as_good(rates)
    return chosen, rates[chosen]


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of the values do not exceed: the nearest rank."""
    ordered = sorted(values)
    rank = max(1, -int(-share * len(ordered) // 1))
    return ordered[min(rank, len(ordered)) - 1]
