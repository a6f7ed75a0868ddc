"""The recommendation beside busy neighbours: measured, scored and published apart from the suite."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median
from typing import Any

from tests import ROOT
from tests.benchmarks.recommendation import page, results
from tests.benchmarks.recommendation.figures import over
from tests.benchmarks.recommendation.measure import measure
from tests.benchmarks.recommendation.neighbours import NAMES, beside, trace_of
from tests.benchmarks.recommendation.oracle import table_of
from tests.benchmarks.recommendation.score import Run, score
from tests.benchmarks.recommendation.traces import read_trace
from tests.support.benchmark import log

STARTS = (0, 1, 2, 4, 8, 12)
USER = "the user's own setting"
RESULTS = ROOT / "docs" / "recommendation" / "neighbours.json"
PAGE = ROOT / "docs" / "recommendation.md"

Held = Callable[[], AbstractContextManager[None]]


def measure_all(folder: Path, names: Sequence[str], options: Namespace, held: Held) -> None:
    """Measure every workload beside each number of neighbours, one after another."""
    rounds = options.rounds
    for name in names:
        for count in options.neighbours:
            path = trace_of(folder, name, count)
            if options.reuse and path.exists():
                continue
            with held():
                measure(beside(name), path, rounds, limit=None, patient=count == 0, beside=count)
            log(f"{name} beside {count}: measured")


def score_all(folder: Path, counts: Sequence[int], names: Sequence[str]) -> dict[int, list[Run]]:
    """Return the runs from each starting count, by number of neighbours."""
    wanted = [(n, c) for c in counts for n in names if trace_of(folder, n, c).exists()]
    with ProcessPoolExecutor(2) as pool:
        found = pool.map(_score_one, [(str(folder), *w) for w in wanted])
        scored = list(zip(wanted, found, strict=True))
    return {c: [run for (_, count), runs in scored if count == c for run in runs] for c in counts}


def _score_one(about: tuple[str, str, int]) -> tuple[Run, ...]:
    folder, name, count = about
    return score(beside(name), read_trace(trace_of(Path(folder), name, count)), None, STARTS).runs


def publish(folder: Path, runs: Mapping[int, Sequence[Run]]) -> None:
    """Write the results, and the page's block of them."""
    first = next(iter(sorted(folder.glob("*+*.json.gz"))))
    body = {
        "command": "python -m tests.benchmarks.recommendation.run --neighbours " + " ".join(map(str, runs)),
        "about": read_trace(first).about,
        "totals": [_totals(count, ours) for count, ours in runs.items()],
        "workloads": [_workload(folder, count, ours) for count, all_ in runs.items() for ours in _each(all_)],
    }
    results.write(RESULTS, body)
    PAGE.write_text(page.renewed_block(PAGE.read_text(), "neighbours", table(body)))


def _each(runs: Iterable[Run]) -> list[list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.workload, []).append(run)
    return list(found.values())


def _totals(count: int, runs: Sequence[Run]) -> dict[str, Any]:
    return {
        "neighbours": count,
        "runs": len(runs),
        "regret": median(r.regret for r in runs),
        "regret_worst": max(max(0.0, r.regret - 2 * r.noise) for r in runs),
        "slower": sum(r.slower_than_start > 0 for r in runs),
        "noise": median(r.noise for r in runs),
        "over_user": over(runs, USER),
        "verdicts": dict(Counter(r.verdict for r in runs).most_common()),
    }


def _workload(folder: Path, count: int, runs: Sequence[Run]) -> dict[str, Any]:
    rates = table_of(read_trace(trace_of(folder, runs[0].workload, count)).recorded).rates
    return {
        "neighbours": count,
        "name": runs[0].workload,
        "best": runs[0].best,
        "noise": runs[0].noise,
        "rates": [[n, p, rate] for (n, p), rate in rates.items()],
        "runs": [[r.start, r.settings[-1], r.regret, r.slower_than_start, r.verdict] for r in runs],
    }


def table(body: Mapping[str, Any]) -> str:
    """Return the page's tables: the figures by number of neighbours, then workload by workload."""
    head = "| neighbours | runs | regret, median | worst, beyond noise | slower than the user's own | noise "
    lines = [head + "| time over the user's own | verdicts after the first epoch |", "|---" * 8 + "|"]
    for t in body["totals"]:
        said = ", ".join(f"{verdict} {count}" for verdict, count in t["verdicts"].items())
        lines.append(
            f"| {t['neighbours']} | {t['runs']} | {t['regret']:.1%} | {t['regret_worst']:.1%} "
            f"| {t['slower']} | {t['noise']:.1%} | {t['over_user']:.1%} | {said} |"
        )
    lines += ["", "| workload | neighbours | best | noise | start→settled (regret) |", "|---" * 5 + "|"]
    for w in sorted(body["workloads"], key=lambda w: (NAMES.index(w["name"]), w["neighbours"])):
        went = " · ".join(f"{start}→{_setting(to)} ({regret:.1%})" for start, to, regret, *_ in w["runs"])
        lines.append(
            f"| {w['name']} | {w['neighbours']} | {_setting(w['best'])} | {w['noise']:.1%} | {went} |"
        )
    return f"`{body['command']}`, commit {body['about']['commit']}.\n\n" + "\n".join(lines)


def _setting(setting: Sequence[int]) -> str:
    workers, prefetch = setting
    return f"{workers}" if prefetch == 2 else f"{workers}/{prefetch}"
