"""Which of the model's numbers matter? Each is halved and doubled, and recorded traces are scored again.

Varied are all numbers of ``feedwater_service.model.numbers.floors`` and ``thresholds``, as they stand there.
Measured costs and what is simulated are not: the first are not chosen, the second trade time for precision.
A share above a half is varied by its distance from one, a factor between one and two by its excess over one
(1.15 becomes 1.075 and 1.3); whole numbers stay whole. A simulation depends on its arguments alone, so one
that was made before is taken from memory: the figures are those of scoring anew.

Scored as by ``run --phases score --fast``: what is recommended in ten epochs from each start, against the
best setting that was measured. Pure arithmetic on stored traces; no machine is needed.

    python -m tests.benchmarks.recommendation.sensitivity
    python -m tests.benchmarks.recommendation.sensitivity --cases io cpu-1.0 --numbers MIN_STARVATION

Without ``--cases`` and ``--numbers`` it writes docs/recommendation/sensitivity.json and the table of
docs/sensitivity.md.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from types import ModuleType
from typing import Any

from feedwater_service.model import NoRecommendation
from feedwater_service.model.numbers import floors, thresholds
from feedwater_service.model.simulator import simulate as simulator
from tests import ROOT
from tests.benchmarks.recommendation.closed_loop import Play, Player
from tests.benchmarks.recommendation.score import FAST_STARTS, Scored, score_plays, starts_of
from tests.benchmarks.recommendation.traces import Trace, path_of, read_trace
from tests.benchmarks.recommendation.workloads import SWEPT, Workload
from tests.support.benchmark import environment, log

TRACES = ROOT / ".cache" / "recommendation"
RESULTS = ROOT / "docs" / "recommendation" / "sensitivity.json"
PAGE = ROOT / "docs" / "sensitivity.md"
HOMES: tuple[ModuleType, ...] = (floors, thresholds)
FACTORS = (0.5, 2.0)
REMEMBERED_RUNS = 2000
"""Simulated runs kept: some 20 kB each."""


@dataclass(frozen=True)
class Number:
    """One number of the model."""

    home: str
    name: str
    value: float

    def times(self, factor: float) -> float:
        """Return it halved or doubled; see the module's text for shares and factors."""
        if isinstance(self.value, int):
            return max(1, round(self.value * factor))
        if 0.5 < self.value < 1:
            return 1 - (1 - self.value) * factor
        if 1 < self.value < 2:
            return 1 + (self.value - 1) * factor
        return self.value * factor


@dataclass(frozen=True)
class Figures:
    """What one scoring came to, over all runs of all workloads."""

    runs: int
    mean_regret: float
    worst_regret: float
    """Beyond twice the noise."""
    covered_after_one: float
    """Share of truths within the bounds, after one count was seen."""
    covered_after_two: float
    width: float
    """Of the bounds, median, after two counts."""
    error: float
    """Of the predicted speed, median, after one count."""
    false_starvation: int
    wrong_verdicts: int
    changes: int
    """Of settings, in all runs together."""
    slower: int
    """Runs that settled slower than they began, beyond noise."""


@dataclass(frozen=True)
class Row:
    """One number, varied."""

    number: Number
    factor: float
    """0 for the base, else 0.5 or 2."""
    value: float
    figures: Figures
    answers_moved: int
    """Answers with other settings, verdict or bounds than without the change."""


@dataclass(frozen=True)
class _OneWorkload:
    scored: Scored
    answers: tuple[tuple[Any, ...], ...]


def numbers(names: Sequence[str] | None = None) -> list[Number]:
    """Return the numbers of the homes, or those of some names."""
    found = [
        Number(home.__name__.rpartition(".")[2], name, value)
        for home in HOMES
        for name, value in vars(home).items()
        if name.isupper() and isinstance(value, (int, float))
    ]
    return [n for n in found if names is None or n.name in names]


@contextlib.contextmanager
def varied(number: Number, value: float) -> Iterator[None]:
    """Give a number another value for a while."""
    home = next(h for h in HOMES if h.__name__.endswith(number.home))
    setattr(home, number.name, value)
    try:
        yield
    finally:
        setattr(home, number.name, number.value)


@contextlib.contextmanager
def recorded() -> Iterator[set[str]]:
    """Have the names of the numbers that are read meanwhile."""
    read: set[str] = set()

    class Recording(ModuleType):
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    for home in HOMES:
        home.__class__ = Recording
    try:
        yield read
    finally:
        for home in HOMES:
            home.__class__ = ModuleType


@contextlib.contextmanager
def remembered_simulations() -> Iterator[None]:
    """Have simulations that were made before taken from memory: they read no number that is varied."""
    plain = {"simulate": simulator.simulate, "simulate_batches": simulator.simulate_batches}
    kept = {
        "simulate": functools.lru_cache(maxsize=None)(simulator.simulate),
        "simulate_batches": functools.lru_cache(maxsize=REMEMBERED_RUNS)(simulator.simulate_batches),
    }
    users = [
        (module, name)
        for module in list(sys.modules.values())
        for name, function in plain.items()
        if module.__name__.startswith("feedwater_service.model.")
        and module is not simulator
        and getattr(module, name, None) is function
    ]
    for module, name in users:
        setattr(module, name, kept[name])
    try:
        yield
    finally:
        for module, name in users:
            setattr(module, name, plain[name])


def one_workload(work: Workload, folder: Path, wanted: Sequence[Number]) -> list[_OneWorkload]:
    """Return the scores of one workload: as it is, then with each number halved, then doubled."""
    with remembered_simulations():
        return _each(work, read_trace(path_of(folder, work.name)), wanted)


def _each(work: Workload, trace: Trace, wanted: Sequence[Number]) -> list[_OneWorkload]:
    player = Player(trace)
    with recorded() as read:
        base = _score(work, trace, player)
    found = [base]
    for number in wanted:
        for factor in FACTORS:
            value = number.times(factor)
            # A number that was not read decided nothing; and half of one is one, of those that stay whole.
            if number.name in read and value != number.value:
                with varied(number, value):
                    found.append(_score(work, trace, player))
            else:
                found.append(base)
    return found


def _score(work: Workload, trace: Trace, player: Player) -> _OneWorkload:
    plays = [player.play(start) for start in starts_of(player, FAST_STARTS, work)]
    return _OneWorkload(score_plays(work, trace, player, plays), tuple(a for p in plays for a in _answers(p)))


def _answers(play: Play) -> Iterator[tuple[Any, ...]]:
    for step, answered in enumerate(play.answers):
        answer = answered.answer
        about = play.start, step
        if isinstance(answer, NoRecommendation):
            yield *about, answer.reason
        else:
            yield (
                *about,
                answer.settings,
                answer.verdict,
                answer.chosen.batches_per_second_lower,
                answer.chosen.batches_per_second_upper,
            )


def figures(scores: Sequence[Scored]) -> Figures:
    """Return the figures of some scores."""
    runs = [r for s in scores for r in s.runs]
    bound = [p for s in scores for p in s.predictions if p.loader_bound]
    one, two = ([p for p in bound if len(p.seen) == n] for n in (1, 2))
    return Figures(
        len(runs),
        fmean(r.regret for r in runs),
        max(max(0.0, r.regret - 2 * r.noise) for r in runs),
        fmean(p.is_covered for p in one) if one else 0.0,
        fmean(p.is_covered for p in two) if two else 0.0,
        median(p.width for p in two) if two else 0.0,
        median(abs(p.error) for p in one) if one else 0.0,
        sum(r.false_starvation for r in runs),
        sum(r.right is False for r in runs),
        sum(r.changes for r in runs),
        sum(r.slower_than_start > 0 for r in runs),
    )


def rows(wanted: Sequence[Number], by_workload: Sequence[Sequence[_OneWorkload]]) -> list[Row]:
    """Return the table: the base first."""
    cases = [(Number("", "as it is", 0.0), 0.0), *((n, f) for n in wanted for f in FACTORS)]
    found = []
    for i, (number, factor) in enumerate(cases):
        moved = sum(_moved(w[0].answers, w[i].answers) for w in by_workload)
        scored = figures([w[i].scored for w in by_workload])
        found.append(Row(number, factor, number.times(factor) if factor else 0.0, scored, moved))
    return found


def _moved(before: Sequence[object], after: Sequence[object]) -> int:
    """Return how many answers are others than before; a run may be longer or shorter for it."""
    return max(len(set(before) - set(after)), len(set(after) - set(before)))


def table(found: Sequence[Row]) -> str:
    """Return the rows as a table in Markdown; numbers that move no answer in one line below it."""
    base = found[0].figures
    pairs = list(zip(found[1::2], found[2::2], strict=True))
    moving = [p for p in pairs if any(r.answers_moved for r in p)]
    still = [p[0].number for p in pairs if not any(r.answers_moved for r in p)]
    lines = [
        "| number | value | regret, mean | worst | covered, 1 count | 2 counts | false starvation |"
        " wrong verdicts | answers moved |",
        "|---|---|---|---|---|---|---|---|---|",
        _line("*as it is*", "", base, 0),
        *(
            _line(f"`{r.number.name}`", f"{r.number.value:.4g} → {r.value:.4g}", r.figures, r.answers_moved)
            for p in moving
            for r in p
        ),
        "",
        f"No answer moves by {len(still)} of {len(pairs)} numbers: "
        + ", ".join(f"`{n.name}`" for n in still)
        + ".",
    ]
    return "\n".join(lines)


def _line(name: str, value: str, f: Figures, moved: int) -> str:
    shares = (f.mean_regret, f.worst_regret, f.covered_after_one, f.covered_after_two)
    cells = [name, value, *(f"{x:.1%}" for x in shares)]
    return "| " + " | ".join([*cells, str(f.false_starvation), str(f.wrong_verdicts), str(moved)]) + " |"


def row_of(stored: dict[str, Any]) -> Row:
    """Return a row as it was stored."""
    number, found = Number(**stored["number"]), Figures(**stored["figures"])
    return Row(**{**stored, "number": number, "figures": found})


def block(found: Sequence[Row], about: dict[str, Any]) -> str:
    """Return what the page says: how the table was made, and the table."""
    took = f"{about['workloads']} workloads, {found[0].figures.runs} runs, commit {about['commit']}"
    return f"`{about['command']}`, {took}: {about['names']}.\n\n{table(found)}"


def publish(found: Sequence[Row], about: dict[str, Any]) -> None:
    """Write the results, and the table into the page."""
    lines = ",\n".join(json.dumps(dataclasses.asdict(row)) for row in found)
    RESULTS.write_text(f'{{"about": {json.dumps(about)},\n"rows": [\n{lines}\n]}}\n')
    begin, end = "<!-- sensitivity: generated by sensitivity.py -->", "<!-- end of sensitivity -->"
    before, _, rest = PAGE.read_text().partition(begin)
    PAGE.write_text(f"{before}{begin}\n\n{block(found, about)}\n\n{end}{rest.partition(end)[2]}")


def main() -> None:
    """Score the traces that lie there with each number varied, and print the table."""
    options = _options()
    wanted = numbers(options.numbers)
    works = [w for w in SWEPT if path_of(options.traces, w.name).exists()]
    works = [w for w in works if not options.cases or w.name in options.cases]
    begun = time.monotonic()
    by_workload = []
    with ProcessPoolExecutor(options.processes) as pool:
        asked = [pool.submit(one_workload, work, options.traces, wanted) for work in works]
        for number, (work, answer) in enumerate(zip(works, asked, strict=True)):
            by_workload.append(answer.result())
            log(f"{number + 1} of {len(works)} workloads, {work.name}: {time.monotonic() - begun:.0f} s")
    found = rows(wanted, by_workload)
    print(table(found))
    if not (options.cases or options.numbers):
        names = [w.name for w in works]
        publish(found, about_traces(options.traces, names))


def about_traces(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Return what was scored, and by which code."""
    command = "python -m tests.benchmarks.recommendation.sensitivity"
    measured = read_trace(path_of(folder, names[0])).about
    return {
        "command": command,
        "commit": environment()["commit"],
        "workloads": len(names),
        "names": ", ".join(names),
        "measured": measured,
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--traces", type=Path, default=TRACES, help="where traces lie")
    parser.add_argument("--cases", nargs="+", help="only these workloads; nothing is written")
    parser.add_argument("--numbers", nargs="+", help="only these numbers; nothing is written")
    parser.add_argument("--processes", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
