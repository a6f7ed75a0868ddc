"""How much longer does a Python take to start where the client is brought to it?

Timed: wall time of `python -c pass` with what injection sets (PYTHONPATH and a sidecar's directory) and
without, turn by turn, and of `python -c "import torch"` likewise: that is where the client is imported.
Beside them the same with a `sitecustomize` that is empty, to tell Python's own work from the client's.

    python -m tests.benchmarks.injected_start --json tests/benchmarks/results/injected_start.json
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from feedwater.inject.install import install
from tests.support.benchmark import Options, Row, interleaved, options, publish, row

CODES = {"python -c pass": "pass", "import torch": "import torch.utils.data"}
RUNS = {"python -c pass": 101, "import torch": 11}


def measure_all(chosen: Options) -> list[Row]:
    """Measure a bare start and one that loads PyTorch."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="fw-", dir="/tmp") as name:
        directory = Path(name)
        install(directory / "client")
        (directory / "empty").mkdir()
        (directory / "empty/sitecustomize.py").write_text("")
        paths = {"with": directory / "client/site", "empty": directory / "empty", "without": None}
        for shown, code in CODES.items():
            cases = {case: _start(code, path, directory) for case, path in paths.items()}
            taken = interleaved(cases, 3 if chosen.quick else RUNS[shown], chosen)
            rows += [row(f"{shown}, {case}", "ms", values) for case, values in taken.items()]
            medians = {case: statistics.median(values) for case, values in taken.items()}
            bar = "<= 5" if code == "pass" else ""
            rows.append(row(f"{shown}: added", "ms", [medians["with"] - medians["without"]], bar=bar))
            rows.append(row(f"{shown}: with, times without", "x", [medians["with"] / medians["without"]]))
    return rows


def _start(code: str, path: Path | None, directory: Path) -> Callable[[], float]:
    environment = os.environ | {"FEEDWATER_ADDRESS": f"unix:{directory}/api.sock"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    # As in a container: what is mounted read-only is compiled at each start.
    return partial(_seconds, [sys.executable, "-B", "-c", code], environment)


def _seconds(command: list[str], environment: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, env=environment, check=True)
    return 1000 * (time.perf_counter() - began)


if __name__ == "__main__":
    chosen_options = options(__doc__)
    publish(__doc__, measure_all(chosen_options), chosen_options)
