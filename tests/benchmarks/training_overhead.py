"""What does Feedwater cost a whole training run of 1,000 batches/s, in CPU time and in wall time?

Timed: the CPU time of everything in the trainer's control group (trainer, workers, relay; exact, from
``cpuacct.usage``) over a window of whole training, epoch boundaries included, begun after start-up. The
sidecar is outside: it has its own limit and its own benchmark. The trainer is paced to 1,000 batches/s by
sleeping, so watched and unwatched do the same work in the same time; watched minus unwatched is the cost,
as a share of one core. Wall time is compared with the pacing off, where every microsecond shows, per batch
of 0.3 ms of work.

One run is a fresh pair of trainers that take turns, window by window of one epoch; it gives the difference
of the medians. Batches are bytes, not tensors: handing a tensor over takes two processes 0.7 ms of CPU
time, give or take a tenth, which would drown what is asked. Needs a v1 ``cpuacct`` controller that lets us
make a group.

    python -m tests.benchmarks.training_overhead --json tests/benchmarks/results/training_overhead.json
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.benchmark import Options, Row, log, options, publish, quiet, row
from tests.support.processes import (
    Sidecar,
    cgroup,
    cpu_seconds,
    end,
    enter,
    remove,
    root_environment,
    scratch,
)

RATE = 1_000
"""Batches per second: the rate that the bar is stated for."""
EPOCH_BATCHES = 10_000
"""Ten seconds an epoch; real ones are minutes and longer, and the boundary is in the figure."""
QUICK_BATCHES = 1_000
KILOBYTE = bytes(1024)
WORK_SECONDS = 0.0003


def train(watched: bool, workers: int, paced: bool, epoch_batches: int) -> None:
    """Be the trainer: say "steady" after start-up, then answer each line with one window's numbers."""
    import torch
    import torch.utils.data

    torch.set_num_threads(1)
    loader = torch.utils.data.DataLoader(
        _Samples(epoch_batches), batch_size=None, num_workers=workers, persistent_workers=workers > 0
    )
    batches = _forever(_watch(loader) if watched else loader)
    step = _pace() if paced else _work
    _consume(batches, step, QUICK_BATCHES)  # warm-up: imports, workers, registration
    print("steady", flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        _consume(batches, step, int(line))
        print(json.dumps(time.perf_counter() - started), flush=True)


def _watch(loader: object) -> object:
    import feedwater

    return feedwater.watch(loader, name="train", mode="advise")


class _Samples:
    """A map-style dataset of a kilobyte each, copied so that each load does something."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> bytearray:
        return bytearray(KILOBYTE)


def _forever(loader: object) -> Iterator[object]:
    while True:
        yield from loader  # type: ignore[attr-defined]


def _consume(batches: Iterator[object], step: object, count: int) -> None:
    for _ in range(count):
        next(batches)
        step()  # type: ignore[operator]


def _pace() -> object:
    """Return a step that sleeps until its turn; it catches up after a boundary."""
    due = time.perf_counter()

    def step() -> None:
        nonlocal due
        now = time.perf_counter()
        # Catch up on at most a tenth of a second, so that a pause before a window is not made good in it.
        due = max(due + 1 / RATE, now - 0.1)
        if due > now:
            time.sleep(due - now)

    return step


def _work() -> None:
    until = time.perf_counter() + WORK_SECONDS
    while time.perf_counter() < until:
        pass


class Trainer:
    """The trainer as a process, in a control group of its own."""

    def __init__(
        self, group: Path, address: str, *, watched: bool, workers: int, paced: bool, epoch: int
    ) -> None:
        self._group = group
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, "--train", json.dumps([watched, workers, paced, epoch])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=root_environment() | {"FEEDWATER_ADDRESS": address},
            preexec_fn=lambda: enter(group),
            text=True,
        )

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def wait(self) -> None:
        """Wait until it is past its start-up."""
        if self._read() != "steady\n":
            raise RuntimeError(f"a trainer ended with status {self._process.wait(10)}")

    def window(self, batches: int) -> tuple[float, float, float]:
        """Train ``batches`` and return CPU seconds of the whole group, of the relay alone, wall seconds."""
        assert self._process.stdin is not None
        before, relay_before = cpu_seconds(self._group), self._relay_cpu_seconds()
        self._process.stdin.write(f"{batches}\n")
        self._process.stdin.flush()
        wall = float(self._read())
        return cpu_seconds(self._group) - before, self._relay_cpu_seconds() - relay_before, wall

    def _relay_cpu_seconds(self) -> float:
        spent = 0.0
        for pid in (self._group / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                if b"feedwater/relay/" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    # In nanoseconds: the ticks of /proc/<pid>/stat are 10 ms, and the relay uses 7 an epoch.
                    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
                    spent += sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9
        return spent

    def end(self) -> None:
        """End the trainer; its group's removal ends what it might leave."""
        end(self._process)


@contextlib.contextmanager
def trainer(address: str, *, watched: bool, workers: int, paced: bool, epoch: int) -> Iterator[Trainer]:
    """Run a trainer for the length of the body."""
    with cgroup("cpuacct") as group:
        one = Trainer(group, address, watched=watched, workers=workers, paced=paced, epoch=epoch)
        try:
            yield one
        finally:
            one.end()


def cost(address: str, workers: int, paced: bool, windows: int, epoch: int) -> dict[str, float]:
    """Run a watched and an unwatched trainer in turns.

    Returns:
        Medians of seconds per batch: ``"cpu watched"``, ``"relay watched"``, ``"wall bare"`` and so on.
    """
    found: dict[str, list[float]] = {}
    with (
        trainer(address, watched=False, workers=workers, paced=paced, epoch=epoch) as bare,
        trainer(address, watched=True, workers=workers, paced=paced, epoch=epoch) as watched,
    ):
        players = [("bare", bare), ("watched", watched)]
        for _, one in players:
            one.wait()
        for turn in range(windows):
            for name, one in players[:: 1 if turn % 2 else -1]:
                for what, spent in zip(("cpu", "relay", "wall"), one.window(epoch), strict=True):
                    found.setdefault(f"{what} {name}", []).append(spent / epoch)
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    chosen = options(__doc__)
    directory = scratch()
    sidecar = Sidecar(directory)
    try:
        sidecar.start()
        publish(__doc__, measure_all(sidecar.address, chosen), chosen)
    finally:
        sidecar.stop()
        remove(directory)


def measure_all(address: str, chosen: Options) -> list[Row]:
    """Measure with 0 and 2 workers."""
    runs, windows = (1, 1) if chosen.quick else (5, 1)
    rows: list[Row] = []
    for workers in (2,) if chosen.quick else (2, 0):
        paced = [_run(address, workers, True, windows, chosen, f"{i + 1} of {runs}") for i in range(runs)]
        rows += _cpu_rows(workers, paced)
    free = [_run(address, 2, False, windows, chosen, f"{i + 1} of {runs}") for i in range(runs)]
    return [*rows, _wall_row(2, free)]


def _run(
    address: str, workers: int, paced: bool, windows: int, chosen: Options, turn: str
) -> dict[str, float]:
    with quiet(chosen):
        found = cost(address, workers, paced, windows, QUICK_BATCHES if chosen.quick else EPOCH_BATCHES)
    log(f"{workers} workers, {'paced' if paced else 'unpaced'}: run {turn}")
    return found


def _cpu_rows(workers: int, paced: list[dict[str, float]]) -> list[Row]:
    def share(seconds: list[float]) -> list[float]:
        # Seconds of CPU per batch, times batches per second, are cores.
        return [one * RATE * 100 for one in seconds]

    name, unit = f"num_workers={workers}", "% of a core"
    added = share([one["cpu watched"] - one["cpu bare"] for one in paced])
    relay = share([one["relay watched"] for one in paced])
    bare = share([one["cpu bare"] for one in paced])
    return [
        row(f"CPU time added at 1,000 batches/s, {name}", unit, added, bar="<= 1"),
        row(f"of that the relay, {name}", unit, relay),
        row(f"relay for each batch, {name}", "µs", [one["relay watched"] * 1e6 for one in paced]),
        row(f"CPU time unwatched, {name}", unit, bare),
    ]


def _wall_row(workers: int, free: list[dict[str, float]]) -> Row:
    wall = [(one["wall watched"] / one["wall bare"] - 1) * 100 for one in free]
    bare = [one["wall bare"] for one in free]
    noise = (max(bare) / min(bare) - 1) * 100
    note = f"unwatched runs alone spread over {noise:.1f} %, from {1 / max(bare):.0f} batches/s"
    return row(f"wall time added at full speed, num_workers={workers}", "%", wall, note=note)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        train(*json.loads(sys.argv[2]))
    else:
        main()
