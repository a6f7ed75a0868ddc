"""Runs a script of `scripts/` as a user would, plain or under ``feedwater run``, and gathers what it left."""

from __future__ import annotations

import contextlib
import glob
import itertools
import json
import os
import re
import resource
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.frameworks.framework_cases import Case
from tests.support.processes import PATIENT, clean_environment

QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "WANDB_MODE": "disabled",
    "YOLO_OFFLINE": "true",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
    # gloo asks for the address of the host's name, which a container may not resolve.
    "GLOO_SOCKET_IFNAME": "lo",
}
"""Nothing is asked of a network, and no training takes both cores of the machine from its workers."""
SUMMARY = "feedwater: what the loaders did"
END_SECONDS = 10.0
"""In which all processes of a training are gone after its end; a relay looks at its trainer each second."""
CHANGE = re.compile(r"(?<!Back to )\b(\d+) → (\d+) workers?")


@dataclass(frozen=True, slots=True)
class Rank:
    """What one process noted of its own training."""

    rank: int
    ids: dict[str, list[list[int]]]
    """Of each batch in the order in which the training got them, by loader."""
    workers: dict[str, list[int]]
    """There were when the batch was loaded."""
    descriptors: list[int]
    """Open after each epoch and evaluation."""


@dataclass(frozen=True, slots=True)
class Training:
    """What one run came to."""

    code: int
    ranks: list[Rank]
    errors: str
    """What it printed on stderr."""
    left: list[str]
    """The command lines of processes that still run."""
    seconds: float

    @property
    def said(self) -> list[str]:
        """Feedwater's lines, the table at the end apart."""
        return [line for line in self._before_summary().splitlines() if "feedwater:" in line.lower()]

    @property
    def rows(self) -> list[str]:
        """The rows of the table at the end, one for each loader; ranks that were treated alike share one."""
        return [*itertools.takewhile(lambda line: ": " not in line, self._summary()[1:])]

    @property
    def sentences(self) -> list[str]:
        """What stands below that table."""
        return [line for line in self._summary()[1:] if line.strip() and line not in self.rows]

    def _before_summary(self) -> str:
        return self.errors.partition(SUMMARY)[0]

    def _summary(self) -> list[str]:
        return self.errors.partition(SUMMARY)[2].splitlines()[1:]


@dataclass(frozen=True, slots=True)
class Pair:
    """The same training without and with Feedwater."""

    case: Case
    plain: Training
    watched: Training


PAIRS = pytest.StashKey[list[Pair]]()
"""Those of a session."""


def as_row(pair: Pair) -> str:
    """Return a pair as a line: the runs of equal worker counts of each loader, and both times."""
    loaders = [
        f"{loader}{f' of rank {rank.rank}' if rank.rank else ''}: {lengths(workers)}"
        for rank in pair.watched.ranks
        for loader, workers in rank.workers.items()
    ]
    is_same = [rank.ids for rank in pair.watched.ranks] == [rank.ids for rank in pair.plain.ranks]
    figures = f"{pair.plain.seconds:.1f} s, watched {pair.watched.seconds:.1f} s"
    return f"{pair.case.name}: {'; '.join(loaders)}; {'same' if is_same else 'OTHER'} samples; {figures}"


def lengths(values: list[int]) -> str:
    """Return the runs of equal values: [1, 1, 8, 8, 8] is "1 x2, 8 x3"."""
    return ", ".join(f"{value} x{len([*same])}" for value, same in itertools.groupby(values))


def train(
    command: Sequence[str],
    *,
    under: Sequence[str] = (),
    most_descriptors: int = 0,
    environ: dict[str, str] | None = None,
    seconds: float = 300,
) -> Training:
    """Run ``command`` and return what it came to.

    Args:
        command: A script of `scripts/` with its arguments, or a module (``-m``) and its arguments.
        under: What stands before it: ``feedwater run`` and its flags.
        most_descriptors: The limit of open files, 0 for none but the machine's.
        environ: More variables.
        seconds: After which it is taken for a hang.
    """
    token = secrets.token_hex(8)
    with tempfile.TemporaryDirectory(prefix="frameworks-", dir="/tmp") as name:
        directory = Path(name)
        environment = clean_environment() | QUIET | PATIENT | {
            "FRAMEWORKS_RUN": token,
            "FRAMEWORKS_JOURNAL": str(_made(directory / "journal")),
            "FEEDWATER_RUN_DIR": str(_made(directory / "records")),
            "HF_HOME": str(directory / "hub"),
        } | (environ or {})  # fmt: skip
        began = time.monotonic()
        code, errors = _ended(
            [*under, sys.executable, *command], environment, directory, most_descriptors, seconds
        )
        took = time.monotonic() - began
        return Training(code, _ranks(directory / "journal"), errors, _left(token), took)


def _ended(
    command: Sequence[str], environ: dict[str, str], directory: Path, most_descriptors: int, seconds: float
) -> tuple[int, str]:
    def limit() -> None:
        if most_descriptors:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most_descriptors, most_descriptors))

    with (directory / "stderr").open("w+") as errors:
        process = subprocess.Popen(
            command,
            env=environ,
            cwd=_made(directory / "work"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            preexec_fn=limit,
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            _end(environ["FRAMEWORKS_RUN"])
            code = process.wait()
            errors.seek(0, os.SEEK_END)
            errors.write(f"\nnot ended after {seconds:g} s: killed\n")
        errors.seek(0)
        return code, errors.read()


def _ranks(directory: Path) -> list[Rank]:
    """Return the journals, those of one rank in the order in which their processes were started."""
    paths = sorted(directory.glob("*.json"), key=lambda path: [int(part) for part in path.stem.split("-")])
    return [Rank(**json.loads(path.read_text())) for path in paths]


def _left(token: str) -> list[str]:
    """Return what still runs of a training some seconds after its end, and end it."""
    until = time.monotonic() + END_SECONDS
    while (found := dict(_running(token))) and time.monotonic() < until:
        time.sleep(0.1)
    _end(token)
    return list(found.values())


def _end(token: str) -> None:
    for pid, _ in _running(token):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _running(token: str) -> Iterator[tuple[int, str]]:
    for path in glob.glob("/proc/[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"FRAMEWORKS_RUN={token}".encode() in Path(path).read_bytes():
                pid = int(Path(path).parent.name)
                yield pid, Path(path).with_name("cmdline").read_text().replace("\0", " ")


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory
