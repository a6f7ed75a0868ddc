"""A training under its limits and the sidecar beside it, and what the sidecar came to know."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from tests.benchmarks.recommendation.limits import Group, in_small_shm, limited
from tests.benchmarks.recommendation.workloads import Workload
from tests.support.processes import Sidecar, free_port, remove, root_environment, scratch

TRAINER = "tests.benchmarks.recommendation.workload_trainer"
OBJECT_STORE = "tests.benchmarks.recommendation.object_store"
PATIENCE_SECONDS = 60.0
"""For one line of a trainer: the slowest epoch here takes 15 s on a busy machine."""
MEMORY_EVERY_SECONDS = 0.1
"""Between two looks at the memory in use, from outside: a file is read, nothing in the training stops."""


class TrainerError(RuntimeError):
    """A trainer ended or went silent."""


@dataclasses.dataclass
class Training:
    """All ranks of one training, and the sidecar that they report to."""

    work: Workload
    group: Group
    sidecar: Sidecar
    ranks: list[subprocess.Popen[str]]
    errors: Path

    def epoch(self, command: Mapping[str, object]) -> dict[str, Any]:
        """Run one epoch in every rank; return what the slowest said.

        Raises:
            TrainerError: A trainer ended.
        """
        for rank in self.ranks:
            _stdin(rank).write(json.dumps(command) + "\n")
            _stdin(rank).flush()
        most = self._most_memory()
        told = [self._read(rank) for rank in self.ranks]
        failed = next((t for t in told if "error" in t), None)
        return failed or {**max(told, key=lambda t: float(t["seconds"])), "memory_bytes": most}

    def _most_memory(self) -> int:
        """Wait for the first answer; return the most memory that was in use meanwhile."""
        most = 0
        out = self.ranks[0].stdout
        assert out is not None
        until = time.monotonic() + PATIENCE_SECONDS
        while not select.select([out], [], [], MEMORY_EVERY_SECONDS)[0] and time.monotonic() < until:
            most = max(most, self.group.memory_bytes())
        return most

    def _read(self, rank: subprocess.Popen[str]) -> dict[str, Any]:
        assert rank.stdout is not None
        line = rank.stdout.readline()
        if not line:
            raise TrainerError(f"{self.work.name}: {self.errors.read_text()[-800:]}")
        return dict(json.loads(line))

    def end(self) -> None:
        """Let the trainers end and their relays deliver what is left."""
        for rank in self.ranks:
            with contextlib.suppress(OSError):
                _stdin(rank).close()
        for rank in self.ranks:
            try:
                rank.wait(20)
            except subprocess.TimeoutExpired:
                rank.kill()
                rank.wait()

    def journals(self) -> list[bytes]:
        """Return the sidecar's journals so far."""
        state = self.sidecar.directory / "state"
        return [path.read_bytes() for path in sorted(state.glob("journal-*.bin"))]


@contextlib.contextmanager
def training(
    work: Workload, mode: str, workers: int, *, allow: bool = False, cores: float | None = None
) -> Iterator[Training]:
    """Run a training, warmed up and waiting for commands.

    Args:
        work: What it trains on.
        mode: Feedwater's.
        workers: The user's own setting.
        allow: ``allow_workers`` of `feedwater.watch`.
        cores: A CPU limit other than the workload's.
    """
    directory = scratch()
    # The journal is what we read: a checkpoint would empty it.
    sidecar = Sidecar(directory, environment={"FEEDWATER_CHECKPOINT_SECONDS": "3600"})
    with contextlib.ExitStack() as stack:
        stack.callback(remove, directory)
        stack.callback(sidecar.kill)
        sidecar.start()
        group = stack.enter_context(limited(cores or work.quota_cores, work.memory_bytes))
        environment = _environment(work, sidecar, stack)
        one = Training(work, group, sidecar, [], directory / "errors")
        stack.callback(one.end)
        command = [sys.executable, "-m", TRAINER, work.name, mode, str(workers)]
        command = in_small_shm([*command, "allow" if allow else "ask"], work.shm_bytes)
        for rank in range(work.ranks):
            one.ranks.append(_start(command, environment | _rank(work, rank), one))
        for rank_process in one.ranks:
            one._read(rank_process)
        yield one


def _start(command: list[str], environment: dict[str, str], one: Training) -> subprocess.Popen[str]:
    with one.errors.open("ab") as errors:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            text=True,
            preexec_fn=one.group.enter,
        )


def _stdin(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdin is not None
    return process.stdin


def _environment(work: Workload, sidecar: Sidecar, stack: contextlib.ExitStack) -> dict[str, str]:
    around = root_environment() | work.environment | {"FEEDWATER_ADDRESS": sidecar.address}
    around["FEEDWATER_RUN_DIR"] = str(sidecar.directory)
    if work.ranks > 1:
        around |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    if work.store is not None:
        around["OBJECT_STORE_PORT"] = str(_store(work.store, stack))
    return around


def _rank(work: Workload, rank: int) -> dict[str, str]:
    if work.ranks == 1:
        return {}
    count = str(work.ranks)
    place = str(rank)
    return {"RANK": place, "LOCAL_RANK": place, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}


def _store(store: tuple[float, int], stack: contextlib.ExitStack) -> int:
    """Start the object store, outside the group; return its port."""
    command = [sys.executable, "-m", OBJECT_STORE, *map(str, store)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=root_environment(), text=True
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    assert process.stdout is not None
    return int(process.stdout.readline())


def wait_for_reports(one: Training, deadline_seconds: float = 5.0) -> None:
    """Wait until the relays, whose trainers have ended, have delivered; told by a journal that rests."""
    until = time.monotonic() + deadline_seconds
    size, rested = -1, 0
    while time.monotonic() < until and rested < 6:
        now = sum(len(data) for data in one.journals())
        rested = rested + 1 if now == size else 0
        size = now
        time.sleep(0.1)
