"""Does training notice that the sidecar is killed every 3 seconds for 2 minutes?

The sidecar has a quarter of a core, as in a pod. A real training (a small network, shuffled data, two
workers that wait for storage and compute) runs once with the sidecar killed by SIGKILL every 3 seconds and
started again at once, and once undisturbed beside a sidecar that lives; the two take turns. Checked: the
training ends by itself with status 0, every sample comes exactly once per epoch and in the order of the
undisturbed run, and what the last sidecar knows of each epoch (its ``Watch``) equals what was trained.
Timed: the loop, from its first batch to its last; start and end of the processes are not. Mode ``advise``:
a change of workers that one run makes an epoch later than the other would hide what is asked here.

    python -m tests.benchmarks.sidecar_killed --json tests/benchmarks/results/sidecar_killed.json
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.benchmark import Options, Row, log, options, publish, quiet, row
from tests.support.processes import (
    Sidecar,
    cgroup,
    limit_cores,
    remove,
    root_environment,
    scratch,
    watch_state,
)

KILL_EVERY_SECONDS = 3.0
SIDECAR_CORES = 0.25
"""Its limit in a pod; without one each restart's imports take a core from the trainer for half a second."""
SAMPLES = 1_600
BATCH_SIZE = 8
EPOCH_BATCHES = SAMPLES // BATCH_SIZE
STEP_SECONDS = 0.006
LOAD_SECONDS = 0.004
"""Two workers make a batch each in 4 ms, a step takes 7: the training sets the pace."""
AGREE_SECONDS = 15.0
"""How long the last sidecar may take to know everything: the relay reports once a second or so."""


class _Samples:
    """Samples with their number, from a storage that takes its time."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> object:
        import torch

        if index % BATCH_SIZE == 0:
            time.sleep(LOAD_SECONDS)
        return torch.full((32,), index / SAMPLES), index


def train(epochs: int, mode: str) -> None:
    """Be the trainer: print the seconds and the samples of each epoch, then wait for the end of stdin."""
    import torch
    import torch.utils.data

    import feedwater

    torch.manual_seed(0)
    torch.set_num_threads(1)
    loader = torch.utils.data.DataLoader(_Samples(), batch_size=BATCH_SIZE, shuffle=True, num_workers=2)
    model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    feedwater.watch(loader, name="train", mode=mode)
    seen: list[list[int]] = []
    started = time.perf_counter()
    for _ in range(epochs):
        seen.append([])
        for features, numbers in loader:
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(features)[:, 0], numbers / SAMPLES).backward()
            optimizer.step()
            time.sleep(STEP_SECONDS)
            seen[-1] += numbers.tolist()
    print(json.dumps({"seconds": time.perf_counter() - started, "samples": seen}), flush=True)
    sys.stdin.read()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one training went."""

    seconds: float
    samples: list[list[int]]
    kills: int
    known: dict[int, int]
    """Batches of each epoch as the last sidecar knows them."""


def run(epochs: int, kill_every: float | None, mode: str = "advise") -> Outcome:
    """Run one training and return how it went.

    Raises:
        RuntimeError: It ended with another status than 0.
    """
    with contextlib.ExitStack() as stack:
        directory = scratch()
        stack.callback(remove, directory)
        group = stack.enter_context(cgroup("cpu"))
        limit_cores(group, SIDECAR_CORES)
        sidecar = Sidecar(directory, group=group)
        stack.callback(sidecar.stop)
        sidecar.start()
        with _trainer(sidecar.address, epochs, mode) as process, _killer(sidecar, kill_every) as kills:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"training ended with status {process.wait(10)}: {_errors(process)}")
            kills.stop()
            said = json.loads(line)
            known = _known(sidecar.address, epochs)
        if process.returncode != 0:
            raise RuntimeError(f"training ended with status {process.returncode}")
        return Outcome(said["seconds"], said["samples"], kills.count, known)


def _errors(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.read()[-2000:]


@contextlib.contextmanager
def _trainer(address: str, epochs: int, mode: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", __spec__.name, "--train", str(epochs), mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=root_environment() | {"FEEDWATER_ADDRESS": address},
        text=True,
    )
    try:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        process.wait(20)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


class _Killer:
    """Kills a sidecar at intervals and starts it again."""

    def __init__(self, sidecar: Sidecar, every: float) -> None:
        self.count = 0
        self._sidecar = sidecar
        self._every = every
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._done.wait(self._every):
            self._sidecar.kill()
            self.count += 1
            self._sidecar.start()

    def stop(self) -> None:
        """Stop killing; the sidecar that lives now is the last."""
        self._done.set()
        self._thread.join()


class _Peace:
    count = 0

    def stop(self) -> None:
        """Nothing was killed."""


@contextlib.contextmanager
def _killer(sidecar: Sidecar, every: float | None) -> Iterator[_Killer | _Peace]:
    one = _Peace() if every is None else _Killer(sidecar, every)
    try:
        yield one
    finally:
        one.stop()


def _known(address: str, epochs: int) -> dict[int, int]:
    """Return what the sidecar knows, as soon as it knows the last epoch whole, or when time is up."""
    until = time.monotonic() + AGREE_SECONDS
    while True:
        known: dict[int, int] = {}
        # Started a moment ago, the sidecar may know nothing, or not answer yet.
        with contextlib.suppress(ConnectionError):
            for loader in watch_state(address):
                known = {epoch.epoch: epoch.batches for epoch in loader.epochs}
        if known.get(epochs - 1) == EPOCH_BATCHES or time.monotonic() > until:
            return known
        time.sleep(0.2)


def wrong_batches(outcome: Outcome) -> int:
    """Return how many batches the sidecar counts wrongly or not at all, of the epochs that it lists."""
    epochs = len(outcome.samples)
    oldest = min(outcome.known, default=0)
    return sum(abs(EPOCH_BATCHES - outcome.known.get(epoch, 0)) for epoch in range(oldest, epochs))


def wrong_samples(outcome: Outcome, truth: Outcome) -> int:
    """Return how many samples were lost, repeated, or out of the undisturbed run's order."""
    ours = [number for epoch in outcome.samples for number in epoch]
    theirs = [number for epoch in truth.samples for number in epoch]
    return abs(len(ours) - len(theirs)) + sum(a != b for a, b in zip(ours, theirs, strict=False))


def measure_all(chosen: Options) -> list[Row]:
    """Run undisturbed and killed trainings in turns, 2 minutes under kills in all."""
    runs, epochs = (1, 3) if chosen.quick else (6, 11)
    calm, killed = [], []
    for turn in range(runs):
        with quiet(chosen):
            order = [(calm, None), (killed, KILL_EVERY_SECONDS)]
            for outcomes, every in order[:: 1 if turn % 2 else -1]:
                outcomes.append(run(epochs, every))
        seconds = f"{calm[-1].seconds:.2f} s in peace, {killed[-1].seconds:.2f} s with"
        log(f"run {turn + 1} of {runs}: {seconds} {killed[-1].kills} kills")
    return _rows(calm, killed)


def _rows(calm: list[Outcome], killed: list[Outcome]) -> list[Row]:
    slower = [(k.seconds / c.seconds - 1) * 100 for c, k in zip(calm, killed, strict=True)]
    seconds = [one.seconds for one in calm]
    noise = (max(seconds) / statistics.median(seconds) - 1) * 100
    batches = sum(len(one.samples) * EPOCH_BATCHES for one in killed)
    return [
        row(
            "training time added by killing the sidecar every 3 s",
            "%",
            slower,
            bar="<= 1",
            note=f"undisturbed runs alone lie up to {noise:.2f} % above their median",
        ),
        row("training time under kills", "s", [sum(one.seconds for one in killed)]),
        row("kills", "count", [sum(one.kills for one in killed)]),
        row(
            "samples lost, repeated or out of order",
            "count",
            [sum(wrong_samples(k, calm[0]) for k in killed)],
            bar="<= 0",
            note=f"of {sum(len(e) for k in killed for e in k.samples):,}",
        ),
        row(
            "batches that the last sidecar counts wrongly",
            "count",
            [sum(wrong_batches(one) for one in killed)],
            bar="<= 0",
            note=f"of {batches:,}",
        ),
    ]


def main() -> None:
    chosen = options(__doc__)
    publish(__doc__, measure_all(chosen), chosen)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        train(int(sys.argv[2]), sys.argv[3])
    else:
        main()
