"""A real sidecar and a real training, each a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.support.processes import Sidecar, enter, sidecar, trainer_environment

TRAINER = "tests.integration.end_to_end.samples_trainer"
DEADLINE_SECONDS = 100


@dataclass(frozen=True, slots=True)
class Training:
    """What a training that has done its epochs printed; it lives on until the test is through with it."""

    workers: list[int]
    """In use in each epoch."""
    samples: list[list[list[int]]]
    """Numbers by epoch and batch, in order."""
    seconds: list[float]
    workers_after: int
    errors: Path

    @property
    def batches(self) -> list[int]:
        """Batches of each epoch."""
        return [len(epoch) for epoch in self.samples]

    def rate(self, epoch: int) -> float:
        """Return batches per second of an epoch."""
        return self.batches[epoch] / self.seconds[epoch]


Train = Callable[..., AbstractContextManager[Training]]


@pytest.fixture
def sidecar_process() -> Iterator[Sidecar]:
    """A sidecar for this test alone."""
    with sidecar() as one:
        yield one


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """What runs a training for the length of a ``with`` block."""
    return partial(_train, tmp_path)


@pytest.fixture(scope="module")
def raised(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A training that ended: five epochs in auto from one worker on, 24 ms of sleep a batch, 1 ms a step."""
    with (
        sidecar() as one,
        _train(tmp_path_factory.mktemp("raised"), one.address, workers=1, epochs=5) as made,
    ):
        pass
    return made


@contextmanager
def _train(
    directory: Path, address: str, *, group: Path | None = None, **asked: object
) -> Iterator[Training]:
    errors = directory / f"stderr-{len(list(directory.iterdir()))}"
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", TRAINER, json.dumps(_request(asked))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=trainer_environment(address, directory),
            preexec_fn=None if group is None else partial(enter, group),
            text=True,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the training ended with status {process.wait(10)}: {errors.read_text()[-3000:]}"
        said = json.loads(line)
        yield Training(
            workers=[epoch["workers"] for epoch in said["epochs"]],
            samples=[epoch["samples"] for epoch in said["epochs"]],
            seconds=[epoch["seconds"] for epoch in said["epochs"]],
            workers_after=said["workers_after"],
            errors=errors,
        )
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(20) == 0, errors.read_text()[-3000:]
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _request(asked: dict[str, object]) -> dict[str, object]:
    request: dict[str, object] = {
        "watched": True,
        "mode": "auto",
        "kind": "sleep",
        "samples": 200,
        "batch_size": 4,
        "workers": 1,
        "epochs": 3,
        "load_seconds": 0.006,
        "step_seconds": 0.001,
    }
    unknown = set(asked) - set(request) - {"persistent"}
    assert not unknown, unknown
    return request | asked
