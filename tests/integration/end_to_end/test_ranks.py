"""Two ranks that train together, under DistributedDataParallel over gloo, beside one sidecar."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from feedwater.v1 import feedwater_pb2 as pb
from tests.support.processes import Sidecar, trainer_environment, watch_state

TRAINER = "tests.integration.end_to_end.ranks_trainer"
QUICK, SLOW, STEP = 0.004, 0.04, 0.005
"""Seconds: a load of rank 0, a load of rank 1, a step of either."""
DEADLINE_SECONDS = 15
Epochs = list[dict[str, float]]


@contextmanager
def ranks(directory: Path, address: str, **asked: object) -> Iterator[list[Epochs]]:
    """Run both ranks; yield what each said of its epochs while they live on."""
    request = {
        "meeting": str(directory / "meeting"),
        "load_seconds": [QUICK, SLOW],
        "step_seconds": STEP,
        "batches": 60,
        "workers": 1,
        "epochs": 2,
        "mode": "advise",
        "validates": False,
    }
    with ExitStack() as stack:
        processes = [
            stack.enter_context(_rank(directory, address, rank, json.dumps(request | asked)))
            for rank in range(2)
        ]
        said = []
        for rank, process in enumerate(processes):
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, (directory / f"stderr-{rank}").read_text()[-3000:]
            said.append(json.loads(line))
        yield said
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        assert [process.wait(30) for process in processes] == [0, 0]


@contextmanager
def _rank(directory: Path, address: str, rank: int, request: str) -> Iterator[subprocess.Popen[str]]:
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    with (directory / f"stderr-{rank}").open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", TRAINER, request],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=trainer_environment(address, directory) | place,
            text=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def recommended(address: str, loader: str = "train") -> dict[int, pb.Recommendation]:
    """Return what each rank was told, as soon as both were told something; a preview has no id."""
    until = time.monotonic() + DEADLINE_SECONDS
    while True:
        states = [s for s in watch_state(address) if s.loader == loader and s.recommendation.id]
        if len(states) == 2 or time.monotonic() > until:
            return {s.identity.rank: s.recommendation for s in states}
        time.sleep(0.1)


@pytest.mark.slow
def test_waiting_for_a_slower_rank_is_not_taken_for_slack(sidecar_process: Sidecar, tmp_path: Path) -> None:
    """Rank 0 waits 35 ms a batch inside its step of 5: it is told of the straggler, and to feed it."""
    with ranks(tmp_path, sidecar_process.address) as (quick, slow):
        # What the loops saw themselves: the quick rank's step holds the slow one's wait.
        assert quick[-1]["step"] > 2 * slow[-1]["step"]
        assert slow[-1]["wait"] > 2 * slow[-1]["step"]
        told = recommended(sidecar_process.address)
    for made in told.values():
        assert made.verdict == pb.VERDICT_STRAGGLER_RANK, made.sentence
        assert "rank 1" in made.sentence
        # 40 ms for a step of 5 want 8 workers, fewer in an epoch this short and on a busy machine.
        assert made.uncapped_num_workers >= made.settings.num_workers >= 2, made.sentence
        assert made.chosen.batches_per_second > 1.2 * made.current.batches_per_second


def test_ranks_change_together(sidecar_process: Sidecar, tmp_path: Path) -> None:
    """Both ranks run each epoch with the same workers, and the raise that one of them needs comes true."""
    asked = {"mode": "auto", "epochs": 3, "workers": 1}
    with ranks(tmp_path, sidecar_process.address, **asked) as (quick, slow):
        pass
    assert [e["workers"] for e in quick] == [e["workers"] for e in slow]
    assert slow[-1]["workers"] > 1


@pytest.mark.slow
def test_validation_does_not_cost_training(sidecar_process: Sidecar, tmp_path: Path) -> None:
    """A validation loader that runs after each epoch takes no workers from the training's."""
    with ranks(tmp_path, sidecar_process.address, validates=True, load_seconds=[SLOW, SLOW]):
        told = recommended(sidecar_process.address)
        validation = recommended(sidecar_process.address, "valid")
    assert len({made.settings.num_workers for made in told.values()}) == 1
    for made in told.values():
        assert made.settings.num_workers >= 2, f"{made.sentence} {made.current} {made.evidence}"
        # How many more it wants depends on how busy the machine is.
        assert made.uncapped_num_workers >= 2, f"{made.sentence} {made.current} {made.evidence}"
    # It has next to no step: whatever it asks for, both ranks ask for the same.
    assert len({made.settings.num_workers for made in validation.values()}) == 1
