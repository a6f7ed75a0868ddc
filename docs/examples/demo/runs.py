"""Start the processes that the demo is made of, and read what the trainers print."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from docs.examples.demo.limit import Limit
from docs.examples.demo.scenarios import Scenario

EXAMPLES = pathlib.Path(__file__).resolve().parents[1]
READY_SECONDS = 20.0
"""A sidecar is ready in under a second; a loaded laptop gets more."""

Event = dict[str, object]
OWN = ("epoch", "workers", "seconds", "batches", "starvation", "loss", "samples")
"""What the trainer says of an epoch by its own clock."""


class RunFailedError(Exception):
    """A process of the demo failed; the message ends with what it wrote."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch of one run."""

    epoch: int
    workers: int
    seconds: float
    batches: int
    starvation: float
    loss: float
    samples: str
    """Checksum of the samples' indices, in order."""
    verdict: str = ""
    sentence: str = ""
    """What Feedwater changed after this epoch, and why; empty where nothing changed."""

    @property
    def batches_per_second(self) -> float:
        """Batches divided by the whole epoch, start-up included."""
        return self.batches / self.seconds


@dataclass(frozen=True, slots=True)
class Run:
    """One training from start to end."""

    name: str
    epochs: tuple[Epoch, ...]

    @property
    def settled_seconds(self) -> float:
        """Median epoch time with the workers that the run ended with.

        The first epoch is left out where there are others: it pays for a cold cache.
        """
        last = self.epochs[-1].workers
        settled: list[float] = []
        for epoch in reversed(self.epochs[1:] or self.epochs):
            if epoch.workers != last:
                break
            settled.append(epoch.seconds)
        settled.sort()
        middle = len(settled) // 2
        return settled[middle] if len(settled) % 2 else (settled[middle - 1] + settled[middle]) / 2


@contextlib.contextmanager
def store(directory: pathlib.Path) -> Iterator[str]:
    """Run the object store for a directory and yield its URL."""
    command = [sys.executable, "-m", "docs.examples.demo.store", str(directory)]
    with _process(command, {"PYTHONPATH": str(EXAMPLES.parents[1])}, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        if not url:
            raise RunFailedError("the object store did not start")
        yield url


@contextlib.contextmanager
def sidecar(directory: pathlib.Path) -> Iterator[str]:
    """Run Feedwater's sidecar and yield the address that trainers find it at."""
    path, log = directory / "api.sock", directory / "sidecar.log"
    environment = {
        "FEEDWATER_SOCKET": str(path),
        "FEEDWATER_HTTP_PORT": "0",
        "FEEDWATER_STATE_DIR": str(directory),
    }
    with (
        log.open("w") as output,
        _process([sys.executable, "-m", "feedwater", "sidecar"], environment, stdout=output) as process,
    ):
        deadline = time.monotonic() + READY_SECONDS
        while not _answers(path):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RunFailedError(f"the sidecar did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.02)
        yield f"unix:{path}"


def trained(
    name: str,
    scenario: Scenario,
    *,
    source: str,
    workers: int,
    epochs: int,
    limit: Limit,
    address: str | None,
    log: pathlib.Path,
    on_event: Callable[[Event], None],
) -> Run:
    """Train once and return how it went.

    Without an ``address``, the sidecar's, it trains without Feedwater. ``on_event`` is called with each
    line that the trainer prints; ``log`` takes its standard error.

    Raises:
        RunFailedError: The trainer ended with an error.
    """
    options = {
        "--source": source,
        "--workers": workers,
        "--epochs": epochs,
        "--batch-size": scenario.batch_size,
        "--step-seconds": scenario.step_seconds,
    }
    words = [str(word) for pair in options.items() for word in pair]
    command = [*limit.prefix, sys.executable, str(EXAMPLES / "train_images.py"), "--json", *words]
    environment = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    if address is None:
        command.append("--plain")
    else:
        environment |= {"FEEDWATER_ADDRESS": address, "FEEDWATER_MODE": "auto"}
    events: list[Event] = []
    with (
        log.open("w") as errors,
        _process(command, environment, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            events.append(json.loads(line))
            on_event(events[-1])
        if process.wait() != 0:
            raise RunFailedError(
                f"{name}: the trainer ended with {process.returncode}:\n{log.read_text()[-3000:]}"
            )
    return Run(name, _epochs(events))


def _epochs(events: Sequence[Event]) -> tuple[Epoch, ...]:
    """Join the trainer's own figures with what Feedwater said of each epoch."""
    advice = {event["epoch"]: event for event in events if event["event"] == "advice"}
    history = {event["epoch"]: event for event in events if event["event"] == "history"}
    epochs = []
    for event in events:
        if event["event"] == "epoch":
            number = event["epoch"]
            said = advice.get(number, {})
            verdict = str(said.get("verdict") or history.get(number, {}).get("verdict", ""))
            sentence = str(said["sentence"]) if said.get("changes") else ""
            own = {name: event[name] for name in OWN}
            epochs.append(Epoch(**own, verdict=verdict, sentence=sentence))  # type: ignore[arg-type]
    return tuple(epochs)


@contextlib.contextmanager
def _process(
    command: Sequence[str],
    environment: dict[str, str],
    *,
    stdout: IO[str] | int,
    stderr: IO[str] | int = subprocess.STDOUT,
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(path: pathlib.Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
