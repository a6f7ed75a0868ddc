"""How well does one epoch at one worker count predict the others?

Timed: whole epochs of real ``DataLoader``s with real workers, start-up and tear-down included, as the loop
sees them, in batches per second. Not timed: imports, and one short epoch of warm-up. Each case runs in a
process of its own, in a CPU group of its own (with a CFS quota where the case has one), all counts
interleaved, several rounds. The model learns from the *first* epoch at 2 workers (and, apart, at 0, 1 and 4);
the truth is the median of the epochs it did not learn from. Scored is the error on loader-bound counts, where
the consumer gets less than 90 % of what its step allows (beyond that any model is right), beside the null
model ``max(step, load/n, cpu/cores)``; the share of truths within the predicted bounds; and what the chosen
count loses against the best one measured (off the line between its neighbours where it was not measured).

    python tests/benchmarks/prediction/run.py          # six minutes; writes results.json, prediction.png
    python tests/benchmarks/prediction/run.py --quick  # under a minute; prints only

Needs Linux, root and a cgroup v1 ``cpu`` hierarchy for the quotas.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from score import Decision, Row, score
from workloads import CASES, Case

HERE = Path(__file__).parent
DOCS = HERE.parents[2] / "docs"
SEEN = (2, 0, 1, 4)
"""Counts learned from; the first is the one that is drawn."""
QUICK = ("io", "cpu-1.0", "tail")


def main() -> None:
    """Measure, score, print; write results and picture unless this is a quick run."""
    options = _options()
    names = options.cases or (QUICK if options.quick else tuple(c.name for c in CASES))
    cases = [c for c in CASES if c.name in names]
    traces = options.traces or Path(tempfile.mkdtemp(prefix="feedwater-prediction-"))
    rounds, tries, shrink = (2, 1, 0.3) if options.quick else (3, 2, 0.7)
    for case in cases:
        if not (options.reuse and (traces / f"{case.name}.json").exists()):
            measure(case, traces, rounds, tries, shrink)
    rows, decisions = scored(cases, traces)
    report(rows, decisions)
    if not options.quick and not options.cases:
        write(rows, decisions)
        write_table(summary(rows, decisions), DOCS / "model.md")
        from plot import draw

        draw(rows, DOCS / "images/prediction.png")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="three cases, short epochs, nothing written")
    parser.add_argument("--cases", nargs="*", help="only these; nothing written")
    parser.add_argument("--traces", type=Path, help="folder for recorded epochs")
    parser.add_argument("--reuse", action="store_true", help="score what lies in --traces already")
    return parser.parse_args()


def measure(case: Case, traces: Path, rounds: int, tries: int, shrink: float) -> None:
    """Record the epochs of one case, in a process of its own."""
    print(f"measuring {case.name} ...", file=sys.stderr, flush=True)
    how = ["--rounds", str(rounds), "--tries", str(tries), "--shrink", str(shrink)]
    command = [sys.executable, str(HERE / "measure.py"), case.name, *how]
    subprocess.run([*command, "--out", str(traces / f"{case.name}.json")], check=True, timeout=300)


def scored(cases: Sequence[Case], traces: Path) -> tuple[list[Row], list[Decision]]:
    """Return all predictions and decisions from recorded epochs."""
    rows: list[Row] = []
    decisions = []
    for case in cases:
        written = json.loads((traces / f"{case.name}.json").read_text())
        for seen in SEEN:
            if seen in case.counts:
                found, decision = score(case, written, seen)
                rows += found
                decisions.append(decision)
    return rows, decisions


def summary(rows: Sequence[Row], decisions: Sequence[Decision]) -> list[dict[str, Any]]:
    """Return the figures, by the count learned from."""
    figures = []
    for seen in SEEN:
        bound = [r for r in rows if r.seen_workers == seen and r.loader_bound]
        regrets = [d.regret for d in decisions if d.seen_workers == seen]
        if not bound:
            continue
        errors, nulls = (
            sorted(abs(e) for e in x) for x in zip(*((r.error, r.null_error) for r in bound), strict=True)
        )
        figures.append(
            {
                "seen_workers": seen,
                "points": len(bound),
                "median_error": median(errors),
                "p90_error": errors[int(0.9 * len(errors))],
                "worst_error": errors[-1],
                "null_median_error": median(nulls),
                "null_p90_error": nulls[int(0.9 * len(nulls))],
                "covered": sum(r.covered for r in bound) / len(bound),
                "median_bound_width": median((r.upper - r.lower) / r.predicted for r in bound),
                "median_regret": median(regrets),
                "worst_regret": max(regrets),
            }
        )
    return figures


def report(rows: Sequence[Row], decisions: Sequence[Decision]) -> None:
    """Print a line for each case and the figures."""
    for d in decisions:
        if d.seen_workers in SEEN[:2]:
            ours = [r for r in rows if (r.case, r.seen_workers) == (d.case, d.seen_workers)]
            points = "  ".join(_point(r) for r in ours)
            chosen = (
                f"{d.case:14} from {d.seen_workers} -> {d.aimed_at} (best {d.best}, regret {d.regret:.1%})"
            )
            print(f"{chosen} | {points}")
    for f in summary(rows, decisions):
        print("  ".join(f"{k} {v:.1%}" if isinstance(v, float) else f"{k} {v}" for k, v in f.items()))


def _point(r: Row) -> str:
    noisy = "!" if r.foreign_cores > 0.3 else ""
    return (
        f"{r.workers}: {r.measured:.0f} ~ {r.predicted:.0f} ({r.error:+.0%}, null {r.null_error:+.0%}){noisy}"
    )


def write(rows: Sequence[Row], decisions: Sequence[Decision]) -> None:
    """Write results.json: every row says what it was measured on."""
    where: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": version("torch"),
        "pillow": version("pillow"),
        "kernel": platform.release(),
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
    }
    results = {
        "command": "python tests/benchmarks/prediction/run.py",
        "summary": summary(rows, decisions),
        "decisions": [dataclasses.asdict(d) for d in decisions],
        "rows": [_row(r) | where for r in rows],
    }
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")


def write_table(figures: Sequence[dict[str, Any]], page: Path) -> None:
    """Put the figures into the page, between its two marks."""
    lines = [
        "| learned from | points | median error | 90th percentile | worst | null model | its 90th "
        "percentile | truths within bounds | median regret | worst |",
        "|" + " --- |" * 10,
    ]
    for f in figures:
        shares = [f"{f[k]:.1%}" for k in _COLUMNS]
        lines.append(f"| {f['seen_workers']} workers | {f['points']} | " + " | ".join(shares) + " |")
    text = page.read_text()
    head, rest = text.split("<!-- figures", 1)
    mark, tail = rest.split("-->", 1)
    end = tail.index("<!-- end of figures -->")
    table = "\n".join(lines)
    page.write_text(f"{head}<!-- figures{mark}-->\n{table}\n{tail[end:]}")


_COLUMNS = (
    "median_error",
    "p90_error",
    "worst_error",
    "null_median_error",
    "null_p90_error",
    "covered",
    "median_regret",
    "worst_regret",
)


def _row(row: Row) -> dict[str, Any]:
    plain = dataclasses.asdict(row) | {"error": row.error, "null_error": row.null_error}
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in plain.items()}


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
