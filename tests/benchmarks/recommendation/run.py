"""How close does Feedwater's recommendation come to the best setting there is?

Five phases, so that what costs machine time is done once:

* ``measure``: every setting of every workload, interleaved, under a real ``DataLoader``, the real client in
  mode observe, a real sidecar and real cgroup limits. What the sidecar knew of each epoch is stored.
* ``score``: the model on those traces, from each starting count; no machine is needed.
* ``drive``: the real closed loop: mode auto, settings really applied.
* ``pairs``: what was chosen and the oracle's best, re-measured in fresh interleaved pairs.
* ``publish``: docs/recommendation.md, its results and pictures.

Timed are whole epochs, start-up and tear-down included, by the trainer's own clock. Not timed: imports and an
abandoned first epoch.

    python -m tests.benchmarks.recommendation.run                       # everything, 40 minutes
    python -m tests.benchmarks.recommendation.run --quick               # a minute; nothing is published
    python -m tests.benchmarks.recommendation.run --phases score        # on the traces that lie there
    python -m tests.benchmarks.recommendation.run --phases score --fast --cases io tiny -v
    python -m tests.benchmarks.recommendation.run --neighbours 0 2 4    # 8 workloads beside a loaded node

Needs Linux, root and the cgroup v1 hierarchies ``cpu``, ``cpuacct`` and ``memory``.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tests import ROOT
from tests.benchmarks.recommendation import crowd, figures, results
from tests.benchmarks.recommendation import drive as drive_module
from tests.benchmarks.recommendation import pairs as pairs_module
from tests.benchmarks.recommendation.drive import EPOCHS, PLAN, drive, line
from tests.benchmarks.recommendation.drives import every_workload
from tests.benchmarks.recommendation.measure import measure
from tests.benchmarks.recommendation.oracle import Table, table_of
from tests.benchmarks.recommendation.pairs import measure_pairs
from tests.benchmarks.recommendation.score import FAST_STARTS, STARTS, Run, Scored, score
from tests.benchmarks.recommendation.traces import path_of, read_trace
from tests.benchmarks.recommendation.workloads import SWEPT, Workload
from tests.support.benchmark import log

TRACES = ROOT / ".cache" / "recommendation"
QUICK = ("cpu-1.0", "start-up", "tiny")
QUICK_COUNTS = (0, 2, 4)
QUICK_DRIVEN = ("start-up", "open-file")
PHASES = ("measure", "score", "drive", "pairs", "publish")


def main() -> None:
    """Do the phases that were asked for."""
    options = _options()
    works = _works(options)
    with _traces(options) as folder:
        if options.neighbours is not None:
            _beside(folder, options)
            return
        if "measure" in options.phases:
            _measure(works, folder, options)
        if set(options.phases) & {"score", "drive", "pairs", "publish"}:
            _judge(works, folder, options)


def _beside(folder: Path, options: argparse.Namespace) -> None:
    counts, names = options.neighbours, options.cases or crowd.NAMES
    if "measure" in options.phases:
        crowd.measure_all(folder, names, options, lambda: _held(options.lock))
    runs = crowd.score_all(folder, counts, names)
    for count, ours in runs.items():
        for run in ours:
            print(f"beside {count} {run.workload:14} {_line(run)}")
    if "publish" in options.phases and not options.cases:
        crowd.publish(folder, runs)


def _judge(works: Sequence[Workload], folder: Path, options: argparse.Namespace) -> None:
    works = [w for w in works if path_of(folder, w.name).exists()]
    scores = _scored(works, folder, FAST_STARTS if options.fast or options.quick else STARTS)
    report(scores, options.verbose)
    tables = {w.name: table_of(read_trace(path_of(folder, w.name)).recorded) for w in works}
    if "drive" in options.phases:
        _drive(tables, folder, options)
    if "pairs" in options.phases and not options.quick:
        _pairs(works, scores, folder, options)
    if "publish" in options.phases and not (options.quick or options.cases or options.tuned):
        _publish(works, scores, tables, folder)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="three workloads, one round; nothing published")
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--cases", nargs="+", help="only these workloads; nothing published")
    parser.add_argument("--tuned", action="store_true", help="only workloads that the model may be tuned on")
    parser.add_argument("--reuse", action="store_true", help="measure only what has no trace yet")
    parser.add_argument("--fast", action="store_true", help="score fewer starting counts")
    parser.add_argument("--traces", type=Path, default=TRACES, help="where traces lie")
    parser.add_argument("--lock", type=Path, help="hold this lock while a workload is measured")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--neighbours",
        nargs="+",
        type=int,
        help="beside so many busy neighbours each: some workloads, measured, scored, published",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="print every run and every point")
    return parser.parse_args()


def _works(options: argparse.Namespace) -> list[Workload]:
    names = options.cases or (QUICK if options.quick else [w.name for w in SWEPT])
    found = [w for w in SWEPT if w.name in names and not (options.tuned and w.held_out)]
    return [_shortened(w) for w in found] if options.quick else found


def _shortened(work: Workload) -> Workload:
    """Return the workload with fewer settings to measure."""
    counts = tuple(n for n in work.counts if n in QUICK_COUNTS)
    verdicts = {n: v for n, v in work.verdicts.items() if n in counts}
    return dataclasses.replace(work, counts=counts, verdicts=verdicts, prefetch={})


@contextlib.contextmanager
def _traces(options: argparse.Namespace) -> Iterator[Path]:
    """Have the folder of traces; a quick run's are thrown away."""
    if options.quick:
        with tempfile.TemporaryDirectory(prefix="feedwater-traces-") as folder:
            yield Path(folder)
    else:
        yield options.traces


def _measure(works: Sequence[Workload], folder: Path, options: argparse.Namespace) -> None:
    rounds = 1 if options.quick else options.rounds
    for number, work in enumerate(works):
        limits = [None] if options.quick or work.other_quota is None else [None, work.other_quota]
        for limit in limits:
            path = path_of(folder, work.name, limit)
            if options.reuse and path.exists():
                continue
            with _held(options.lock):
                measure(work, path, rounds, limit=limit, patient=not options.quick)
        log(f"{number + 1} of {len(works)} workloads measured")


def _drive(tables: dict[str, Table], folder: Path, options: argparse.Namespace) -> None:
    names = options.cases or (QUICK_DRIVEN if options.quick else PLAN)
    found = []
    for name in (n for n in names if n in PLAN):
        for start in PLAN[name][:1] if options.quick else PLAN[name]:
            with _held(options.lock):
                found.append(
                    drive(every_workload(name), start, tables.get(name), 3 if options.quick else EPOCHS)
                )
            log(line(found[-1]))
    _keep(folder / "drive.json", [dataclasses.asdict(d) for d in found], ("workload", "start"))


def _pairs(
    works: Sequence[Workload], scores: dict[str, Scored], folder: Path, options: argparse.Namespace
) -> None:
    found = []
    for work in works:
        runs = scores[work.name].runs
        with _held(options.lock):
            settled = [r.settings[-1] for r in runs if r.start in FAST_STARTS]
            found += measure_pairs(work, settled, runs[0].best)
    _keep(folder / "pairs.json", [dataclasses.asdict(p) for p in found], ("workload", "chosen"))


def _keep(path: Path, rows: list[dict[str, Any]], key: tuple[str, str]) -> None:
    """Write rows; those of earlier runs stay where no row of this run takes their place."""
    fresh = json.loads(json.dumps(rows))
    taken = [[row[k] for k in key] for row in fresh]
    kept = [row for row in _stored(path) if [row[k] for k in key] not in taken]
    path.write_text(json.dumps([*kept, *fresh]))


def _stored(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text())) if path.exists() else []


def _publish(
    works: Sequence[Workload], scores: dict[str, Scored], tables: dict[str, Table], folder: Path
) -> None:
    from tests.benchmarks.recommendation import page, plots

    driven = [drive_module.from_json(row) for row in _stored(folder / "drive.json")]
    pairs = [pairs_module.from_json(row) for row in _stored(folder / "pairs.json")]
    about = read_trace(path_of(folder, works[0].name)).about
    docs = ROOT / "docs"
    results.write(
        docs / "recommendation" / "results.json", results.results(scores, tables, driven, pairs, about)
    )
    page.write_page(docs / "recommendation" / "results.json", docs / "recommendation.md")
    plots.curves(scores, tables, docs / "images" / "recommendation-curves.png")
    runs = [r for s in scores.values() for r in s.runs]
    plots.totals(figures.relative_totals(runs), docs / "images" / "recommendation-totals.png")


@contextlib.contextmanager
def _held(lock: Path | None) -> Iterator[None]:
    if lock is None:
        yield
        return
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _scored(works: Sequence[Workload], folder: Path, starts: Sequence[int]) -> dict[str, Scored]:
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = pool.map(_score_one, [(w.name, str(folder), tuple(starts)) for w in works])
        return {w.name: s for w, s in zip(works, found, strict=True)}


def _score_one(about: tuple[str, str, tuple[int, ...]]) -> Scored:
    name, folder, starts = about
    work = next(w for w in SWEPT if w.name == name)
    other = path_of(Path(folder), name, work.other_quota) if work.other_quota else None
    return score(
        work,
        read_trace(path_of(Path(folder), name)),
        read_trace(other) if other is not None and other.exists() else None,
        starts,
    )


def report(scores: dict[str, Scored], verbose: bool) -> None:
    """Print a line for each run, and the figures of both sets."""
    for name, one in scores.items():
        print(f"== {name}")
        for run in one.runs:
            print("  " + _line(run))
        if verbose:
            _print_points(one)
    for held_out in (False, True):
        ours = [s for s in scores.values() if s.runs and s.runs[0].held_out is held_out]
        if ours:
            print(f"\n-- {'held out' if held_out else 'tuned'}: {len(ours)} workloads")
            print("\n".join(figures.text(figures.figures(ours))))
    runs = [r for s in scores.values() for r in s.runs]
    print("\n-- total time of 10 epochs over the oracle's, and regret at the end")
    for name, (total, regret) in figures.relative_totals(runs).items():
        print(f"{name:50} {total:6.2f} {regret:7.1%}")


def _line(run: Run) -> str:
    went = " ".join(f"{n}" if p == 2 else f"{n}/{p}" for n, p in _steps(run.settings))
    marks = [
        "" if run.right is None else "right" if run.right else "WRONG",
        "FALSE STARVATION" if run.false_starvation else "",
        f"SLOWER {run.slower_than_start:.0%}" if run.slower_than_start else "",
        f"{run.replaced} not measured" if run.replaced else "",
    ]
    best = f"best {run.best[0]}/{run.best[1]} thrifty {run.thriftiest[0]}"
    return (
        f"{run.start:2} -> {went:14} {best} regret {run.regret:.1%} (noise {run.noise:.1%}) "
        f"settled {run.settled_after} {run.verdict} {' '.join(m for m in marks if m)}"
    )


def _steps(settings: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the settings without repetition of neighbours."""
    return [s for i, s in enumerate(settings) if i == 0 or s != settings[i - 1]]


def _print_points(one: Scored) -> None:
    for seen in dict.fromkeys(p.seen for p in one.predictions):
        points = [p for p in one.predictions if p.seen == seen]
        shown = " ".join(
            f"{p.workers}:{p.measured:.0f}~{p.predicted:.0f}[{p.lower:.0f},{p.upper:.0f}]"
            f"({p.error:+.0%},null {p.null_error:+.0%}){'' if p.loader_bound else '-'}"
            for p in points
        )
        print(f"    seen {'+'.join(map(str, seen))}: {shown}")
    for w in one.what_ifs:
        limits = f"{w.from_cores:g} -> {w.to_cores:g} cores"
        print(f"    from {w.start}: {limits} {w.measured:.0f}~{w.predicted:.0f} ({w.error:+.0%})")


if __name__ == "__main__":
    main()
