"""How much time does `watch` add at an epoch boundary: sidecar up, absent, frozen?

Timed: from having the last batch of an epoch to having the first of the next one, on the loop's thread: the
``StopIteration``, asking the sidecar for a recommendation (mode ``advise``: the same question and the same
deadline as ``auto``, but nothing is rebuilt, which would be PyTorch's time and not ours), and ``iter()``.
Workers persist, because starting them takes 30 ms and more, give or take 20, which would drown what is
asked. Watched minus unwatched; both run at once in processes of their own and take turns, epoch by epoch.
Not timed: the first boundary, at which the relay may still be starting.

    python -m tests.benchmarks.boundary --json tests/benchmarks/results/boundary.json
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from tests.support.benchmark import Options, Row, log, options, publish, quiet, row
from tests.support.processes import Sidecar, end, remove, root_environment, scratch

EPOCH_BATCHES = 60
"""Enough for a recommendation, few enough for many boundaries."""
STEP_SECONDS = 0.002
STATES = ("up", "absent", "frozen")


def play(watched: bool, workers: int) -> None:
    """Be the trainer: for each line on stdin one epoch, and the seconds of the boundary before it."""
    import torch.utils.data

    loader = torch.utils.data.DataLoader(
        _Tensors(), batch_size=None, num_workers=workers, persistent_workers=workers > 0
    )
    if watched:
        import feedwater

        feedwater.watch(loader, name="train", mode="advise")
    _consume(iter(loader))
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps(_boundary(loader)), flush=True)


def _boundary(loader: object) -> float:
    iterator = iter(loader)  # type: ignore[call-overload]
    for _ in range(EPOCH_BATCHES):
        next(iterator)
        time.sleep(STEP_SECONDS)
    started = time.perf_counter()
    with contextlib.suppress(StopIteration):
        next(iterator)
    iterator = iter(loader)  # type: ignore[call-overload]
    next(iterator)
    spent = time.perf_counter() - started
    _consume(iterator)
    return spent


def _consume(iterator: Iterator[object]) -> None:
    for _ in iterator:
        time.sleep(STEP_SECONDS)


class _Tensors:
    def __len__(self) -> int:
        return EPOCH_BATCHES

    def __getitem__(self, index: int) -> object:
        import torch

        return torch.full((16,), float(index))


class Player:
    """A trainer that runs epochs on command."""

    def __init__(self, address: str, *, watched: bool, workers: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, "--play", json.dumps([watched, workers])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=root_environment() | {"FEEDWATER_ADDRESS": address},
            text=True,
        )
        self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a trainer ended with status {self._process.wait(10)}")
        return line

    def boundary(self) -> float:
        """Run two epochs and return the seconds between them."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._read())

    def end(self) -> None:
        """Close its stdin and wait."""
        end(self._process)


def added(address: str, workers: int, boundaries: int, after_start: Callable[[], None]) -> list[float]:
    """Return the seconds added at each boundary: watched less the median of unwatched."""
    with contextlib.ExitStack() as stack:
        pair = []
        for watched in (False, True):
            pair.append(Player(address, watched=watched, workers=workers))
            stack.callback(pair[-1].end)
        for one in pair:
            one.boundary()
        after_start()
        bare, ours = [], []
        for _ in range(boundaries):
            bare.append(pair[0].boundary())
            ours.append(pair[1].boundary())
    return [one - statistics.median(bare) for one in ours]


def measure_all(chosen: Options) -> list[Row]:
    """Measure each state of the sidecar with 0 and 2 workers."""
    runs, boundaries = (1, 3) if chosen.quick else (5, 6)
    workers_of = (0,) if chosen.quick else (0, 2)
    found: dict[tuple[str, int], list[list[float]]] = {}
    for turn in range(runs):
        for state in STATES:
            for workers in workers_of:
                with quiet(chosen):
                    found.setdefault((state, workers), []).append(_one(state, workers, boundaries))
        log(f"run {turn + 1} of {runs}")
    return [line for (state, workers), values in found.items() for line in _rows(state, workers, values)]


def _one(state: str, workers: int, boundaries: int) -> list[float]:
    directory = scratch()
    sidecar = Sidecar(directory)
    try:
        if state != "absent":
            sidecar.start()
        after_start = sidecar.freeze if state == "frozen" else lambda: None
        return added(sidecar.address, workers, boundaries, after_start)
    finally:
        sidecar.stop()
        remove(directory)


def _rows(state: str, workers: int, runs: list[list[float]]) -> list[Row]:
    bar = {"up": "<= 50", "absent": "<= 50", "frozen": f"<= {deadline_seconds() * 1e3:.0f}"}[state]
    note = {
        "frozen": "the bar is the deadline of the question",
        "absent": "no bar asked for; that of up",
    }.get(state, "")
    name = f"boundary, sidecar {state}, num_workers={workers}"
    medians = [statistics.median(values) * 1e3 for values in runs]
    worst = [max(values) * 1e3 for values in runs]
    return [
        row(f"{name}: median", "ms", medians, bar=bar, note=note),
        row(f"{name}: worst of {len(runs[0])}", "ms", worst, bar=bar, note=note),
    ]


def deadline_seconds() -> float:
    """Return the deadline of the question at a boundary, from the client's own settings."""
    from feedwater.settings import Settings

    return Settings().deadline_seconds


def main() -> None:
    chosen = options(__doc__)
    publish(__doc__, measure_all(chosen), chosen)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--play"]:
        play(*json.loads(sys.argv[2]))
    else:
        main()
