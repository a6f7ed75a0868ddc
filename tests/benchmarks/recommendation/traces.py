"""What the sidecar knew after each epoch, kept so that the model can be judged without a machine.

One gzipped JSON file for each workload and CPU limit: what the trainer measured, and the sidecar's journal,
that is, every message that it accepted. Reading a trace replays the journal through the sidecar's own state,
so the model's input is what the sidecar knew when the end of each epoch was reported.
"""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from feedwater_service.errors import RefusedError
from feedwater_service.model import Budget, ContainerUsage, Epoch, Loader
from feedwater_service.rpc import wire
from feedwater_service.rpc.calls import ID_BYTES, REGISTERED, REPORTED
from feedwater_service.state.sessions import State
from feedwater_service.store.journal import JournalRecord, read_journal

FORMAT = "feedwater-trace-2"


@dataclasses.dataclass(frozen=True)
class Known:
    """One loader's epoch as the sidecar knew it at its end."""

    loader: Loader
    """Without epochs."""
    epoch: Epoch
    container: ContainerUsage | None
    """The newest reading."""


@dataclasses.dataclass(frozen=True)
class Recorded:
    """One measured epoch."""

    workers: int
    prefetch: int
    """2 stands for none without workers."""
    seconds: float
    """By the trainer's own clock."""
    batches: int
    foreign_cores: float
    """Cores that others used meanwhile: noise."""
    memory_bytes: int
    """The most that the whole training took meanwhile."""
    known: tuple[Known, ...] = ()
    """Of each rank's loader "train"; empty where reports were lost."""

    @property
    def rate(self) -> float:
        """Batches per second."""
        return self.batches / self.seconds


@dataclasses.dataclass(frozen=True)
class Trace:
    """All measured epochs of one workload under one CPU limit."""

    workload: str
    budget: Budget
    recorded: tuple[Recorded, ...]
    about: dict[str, Any]
    """Machine, versions, commit."""


def write_trace(
    path: Path,
    workload: str,
    rows: Sequence[dict[str, Any]],
    journals: Sequence[bytes],
    about: dict[str, Any],
) -> None:
    """Write what was measured.

    Args:
        path: Where to.
        workload: Its name.
        rows: What the trainer said of each epoch, in order.
        journals: The sidecar's, oldest first.
        about: Machine, versions, commit.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    coded = [base64.b64encode(journal).decode() for journal in journals]
    body = {"format": FORMAT, "workload": workload, "about": about, "rows": list(rows), "journals": coded}
    new = path.with_suffix(".new")
    with gzip.open(new, "wt", compresslevel=5) as out:
        json.dump(body, out)
    new.replace(path)


def read_trace(path: Path) -> Trace:
    """Read a trace, and replay it.

    Raises:
        ValueError: It is none, or not of this format.
    """
    with gzip.open(path, "rt") as file:
        body = json.load(file)
    if body.get("format") != FORMAT:
        raise ValueError(f"{path}: expected {FORMAT}, got {body.get('format')}: measure again")
    known = replayed(_records([base64.b64decode(coded) for coded in body["journals"]]))
    budget = next((k.epoch.budget for k in known if k.epoch.budget is not None), None)
    if budget is None:
        raise ValueError(f"{path}: the client did not say what CPUs it has")
    return Trace(body["workload"], budget, tuple(joined(body["rows"], known)), body["about"])


def _records(journals: Sequence[bytes]) -> Iterable[JournalRecord]:
    with tempfile.TemporaryDirectory() as folder:
        for journal in journals:
            path = Path(folder) / "journal"
            path.write_bytes(journal)
            yield from read_journal(path)


def replayed(records: Iterable[JournalRecord]) -> list[Known]:
    """Return each complete epoch as it was known at its end, in order."""
    state = State(max_sessions=1 << 20)
    found: list[Known] = []
    for record in records:
        try:
            if record.kind == REGISTERED:
                at = record.data[ID_BYTES:]
                state.register(wire.read_register_request(at), record.data[:ID_BYTES].decode())
            elif record.kind == REPORTED:
                found += _ended(state, record.data)
        except (RefusedError, ValueError):
            # Accepted once; the state of today's code has its reasons.
            continue
    return found


def _ended(state: State, data: bytes) -> list[Known]:
    report = wire.read_report(data)
    session = state.report(report)
    found = []
    for end in report.ends:
        trace = session.trace(end.epoch)
        if end.complete and trace is not None:
            # A run has one job, and the loop asks by the name alone.
            loader = dataclasses.replace(session.freeze(), epochs=(), job="", pod="")
            found.append(Known(loader, trace.freeze(), session.container))
    return found


def joined(rows: Sequence[dict[str, Any]], known: Sequence[Known], name: str = "train") -> list[Recorded]:
    """Put what trainers measured beside what the sidecar knew, epoch by epoch of each rank.

    Raises:
        ValueError: The settings of an epoch differ: the two lists are not of one run.
    """
    ours = [k for k in known if k.loader.name == name]
    ranks = sorted({k.loader.rank for k in ours})
    # Epoch 0 is the abandoned one that warmed up.
    numbered = {(k.loader.rank, k.epoch.number - 1): k for k in ours}
    return [
        _recorded(number, row, [numbered.get((rank, number)) for rank in ranks])
        for number, row in enumerate(rows)
    ]


def _recorded(number: int, row: dict[str, Any], ranks: Sequence[Known | None]) -> Recorded:
    known = tuple(k for k in ranks if k is not None)
    for k in known:
        if k.epoch.settings.num_workers != row["workers"]:
            raise ValueError(f"epoch {number}: {k.epoch.settings} was reported, {row['workers']} was set")
    return Recorded(
        row["workers"],
        row["prefetch"] or 2,
        row["seconds"],
        row["batches"],
        row["foreign_cores"],
        row.get("memory_bytes", 0),
        known if len(known) == len(ranks) else (),
    )


def path_of(folder: Path, workload: str, limit: float | None = None) -> Path:
    """Return where a trace lies; ``limit`` only where it is not the workload's own."""
    return folder / (f"{workload}.json.gz" if limit is None else f"{workload}@{limit:g}.json.gz")
