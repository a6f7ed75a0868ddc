"""The results as one compact JSON file, which the page is made of."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.recommendation import figures
from tests.benchmarks.recommendation.drive import Driven
from tests.benchmarks.recommendation.oracle import Table
from tests.benchmarks.recommendation.pairs import Pair
from tests.benchmarks.recommendation.score import Run, Scored


def results(
    scores: Mapping[str, Scored],
    tables: Mapping[str, Table],
    driven: Sequence[Driven],
    pairs: Sequence[Pair],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Return everything that is published."""
    runs = [r for s in scores.values() for r in s.runs]
    totals = figures.relative_totals(runs)
    return {
        "command": "python -m tests.benchmarks.recommendation.run",
        "taken": time.strftime("%Y-%m-%d", time.gmtime()),
        "about": about,
        "figures": _all_figures(scores, driven, pairs),
        "incumbents": {name: {"total": t, "regret": r} for name, (t, r) in totals.items()},
        "workloads": [_workload(one, tables[name]) for name, one in scores.items()],
        "what_if": [{**dataclasses.asdict(w), "error": w.error} for s in scores.values() for w in s.what_ifs],
        "driven": [_driven(d) for d in driven],
        "pairs": [_pair(p) for p in pairs],
    }


def _all_figures(
    scores: Mapping[str, Scored], driven: Sequence[Driven], pairs: Sequence[Pair]
) -> dict[str, list[dict[str, Any]]]:
    held = {name: s for name, s in scores.items() if s.runs and s.runs[0].held_out}
    tuned = {name: s for name, s in scores.items() if name not in held}
    found = {}
    for key, part in (("tuned", tuned), ("held_out", held), ("all", scores)):
        ours = [p for p in pairs if p.workload in part]
        went = [d for d in driven if d.workload in part or key == "all"]
        fresh = figures.measured_again(list(part.values()), ours) + figures.driven(went)
        found[key] = [_figure(f) for f in (*fresh, *figures.figures(list(part.values())))]
    return found


def _figure(one: figures.Figure) -> dict[str, Any]:
    return {**dataclasses.asdict(one), "holds": one.holds}


def _workload(one: Scored, table: Table) -> dict[str, Any]:
    first = one.runs[0]
    singles = [p for p in one.predictions if p.loader_bound and len(p.seen) == 1]
    return {
        "name": first.workload,
        "family": first.family,
        "held_out": first.held_out,
        "best": first.best,
        "thriftiest": first.thriftiest,
        "noise": first.noise,
        "rates": [[n, p, rate] for (n, p), rate in table.rates.items()],
        "error_median": median(abs(p.error) for p in singles) if singles else None,
        "null_error_median": median(abs(p.null_error) for p in singles) if singles else None,
        "runs": [_run(r) for r in one.runs],
    }


def _run(run: Run) -> dict[str, Any]:
    return {
        "start": run.start,
        "final": run.settings[-1],
        "settled_after": run.settled_after,
        "changes": run.changes,
        "regret": run.regret,
        "verdict": run.verdict,
        "right": run.right,
        "seconds": run.seconds,
        "oracle_seconds": run.oracle_seconds,
        "user_seconds": run.user_seconds,
        "replaced": run.replaced,
        "others": run.others,
    }


def _driven(one: Driven) -> dict[str, Any]:
    return {**dataclasses.asdict(one), "slower_epochs": one.slower_epochs, "did_harm": one.did_harm}


def _pair(one: Pair) -> dict[str, Any]:
    low, high = one.spread
    return {**dataclasses.asdict(one), "regret": one.regret, "low": low, "high": high}


def write(path: Path, body: Mapping[str, Any]) -> None:
    """Write it, floats to four digits, one row a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f'"{key}": {_dumped(value)}' for key, value in body.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _dumped(value: object) -> str:
    if isinstance(value, list) and value:
        return "[\n " + ",\n ".join(json.dumps(_rounded(v), ensure_ascii=False) for v in value) + "\n]"
    if isinstance(value, dict) and any(isinstance(v, list) for v in value.values()):
        return "{\n" + ",\n".join(f'"{k}": {_dumped(v)}' for k, v in value.items()) + "\n}"
    return json.dumps(_rounded(value), ensure_ascii=False)


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(v) for v in value]
    return value
