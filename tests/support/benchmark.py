"""What every benchmark shares: rows with their interval, the machine, the options, the output.

A benchmark asks one question. It takes at least five runs of each case, interleaved so that a slow minute
of the machine hits all cases alike, and states the median with an interval that assumes nothing of the
distribution. Ratios come from one run of one machine.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests import ROOT

VERSIONS_OF = ("torch", "grpcio", "protobuf", "prometheus_client")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure."""

    name: str
    unit: str
    """Of the three numbers: a base unit, or ``"µs"``, ``"ms"``, ``"%"`` where that is easier to read."""
    median: float
    low: float
    """Lower end of the interval of the median (at least 93 % for five runs)."""
    high: float
    runs: int
    bar: str = ""
    """The figure asked for: ``"<= 0.6"`` or ``">= 6"``, in ``unit``; empty where none is."""
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """The median keeps the bar; None without a bar."""
        if not self.bar:
            return None
        sign, bound = self.bar.split()
        return self.median <= float(bound) if sign == "<=" else self.median >= float(bound)


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for."""

    quick: bool
    json: Path | None
    lock: Path | None
    """Held exclusively while something is timed, so that benchmarks on one machine take turns."""


def options(doc: str | None, arguments: Sequence[str] | None = None) -> Options:
    """Return the options that every benchmark takes; ``doc`` is its docstring."""
    parser = argparse.ArgumentParser(
        prog=command(),
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--quick", action="store_true", help="a short form, under 20 s: shows that it still runs"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE")
    parser.add_argument("--lock", type=Path, metavar="FILE", help="hold this lock while timing")
    parsed = parser.parse_args(arguments)
    return Options(quick=parsed.quick, json=parsed.json, lock=parsed.lock)


@contextlib.contextmanager
def quiet(chosen: Options) -> Iterator[None]:
    """Hold the lock of ``--lock``, if there is one, while the body times something."""
    if chosen.lock is None:
        yield
        return
    with chosen.lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval of the median from order statistics, which assumes no distribution.

    The k-th smallest and k-th largest of n values enclose the median with probability
    ``1 - 2 * P(Binomial(n, 1/2) < k)``; the largest k that keeps ``confidence`` is taken, and the extremes
    where none does: of five values they enclose it with 93.75 %.
    """
    ordered = sorted(values)
    n = len(ordered)
    k, outside = 1, 0.5**n
    while k < n // 2 and 2 * (outside + math.comb(n, k) * 0.5**n) <= 1 - confidence:
        outside += math.comb(n, k) * 0.5**n
        k += 1
    return ordered[k - 1], ordered[n - k]


def row(name: str, unit: str, values: Sequence[float], *, bar: str = "", note: str = "") -> Row:
    """Return the median of ``values`` with its interval."""
    low, high = interval(values)
    return Row(name, unit, statistics.median(values), low, high, len(values), bar, note)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` (0 to 1) of ``values`` lie: the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def interleaved(
    cases: Mapping[str, Callable[[], float]], runs: int, chosen: Options | None = None
) -> dict[str, list[float]]:
    """Return what every case gave in ``runs`` runs after one warm-up, in an order that rotates."""
    names = list(cases)
    for case in cases.values():
        case()
    taken: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(runs):
        with quiet(chosen) if chosen else contextlib.nullcontext():
            for i in range(len(names)):
                name = names[(i + turn) % len(names)]
                taken[name].append(cases[name]())
    return taken


def environment() -> dict[str, object]:
    """Return the machine and the versions; part of every row."""
    versions: dict[str, str] = {"python": platform.python_version()}
    for package in VERSIONS_OF:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "machine": {
            "cpu": cpu_model(),
            "cores": len(os.sched_getaffinity(0)),
            "kernel": platform.release(),
            "architecture": platform.machine(),
        },
        "versions": versions,
        "commit": commit(),
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the CPU's name as the kernel states it."""
    with contextlib.suppress(OSError):
        for line in cpuinfo.read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def commit() -> str:
    """Return the commit measured, with ``+`` where files under client or service differ from it."""
    try:
        head = subprocess.run(
            ["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "-C", str(ROOT), "status", "--porcelain", "--", "client", "service"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if dirty else "")


def command() -> str:
    """Return the command that repeats this benchmark."""
    run = sys.modules["__main__"].__spec__
    what = Path(sys.argv[0]).name if run is None else f"-m {run.name}"
    return f"python {what}" + (" --quick" if "--quick" in sys.argv else "")


def publish(question: str | None, rows: Sequence[Row], chosen: Options) -> None:
    """Print the rows, and write them where ``--json`` says."""
    print(table(rows))
    if chosen.json is None:
        return
    around = environment()
    lines = (question or "").strip().splitlines()
    body = {
        "benchmark": Path(sys.argv[0]).stem,
        "question": lines[0] if lines else "",
        "command": command(),
        "taken": time.strftime("%Y-%m-%d", time.gmtime()),
        "rows": [{**asdict(one), "holds": one.holds, **around} for one in rows],
    }
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    chosen.json.write_text(json.dumps(body, indent=2, ensure_ascii=False) + "\n")


def table(rows: Sequence[Row]) -> str:
    """Return the rows as aligned text."""
    cells = [("figure", "median", "interval", "unit", "runs", "bar", "")]
    for one in rows:
        kept = {None: "", True: "holds", False: "MISSED"}[one.holds]
        span = f"{number(one.low)} to {number(one.high)}"
        cells.append((one.name, number(one.median), span, one.unit, str(one.runs), one.bar, kept))
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells
    )


def number(value: float) -> str:
    """Return ``value`` with three significant digits, without an exponent."""
    if value == 0 or not math.isfinite(value):
        return str(value)
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"


def log(text: str) -> None:
    """Say on stderr how far a benchmark is."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
