"""What the sidecar knew after each epoch, kept so that the model can be judged without a machine.

One gzipped JSON file for each workload and CPU limit. The model's input of an epoch is made by replaying the
sidecar's journal: the very reports that it had counted when the epoch's end was reported.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from feedwater_service import wire
from feedwater_service.calls import ID_BYTES, REGISTERED, REPORTED
from feedwater_service.codec import from_json, to_json
from feedwater_service.errors import RefusedError
from feedwater_service.journal import read_journal
from feedwater_service.model import Budget, Container, Epoch, Load, Loader
from feedwater_service.sessions import State

LOAD_FIELDS = tuple(f.name for f in dataclasses.fields(Load))


@dataclasses.dataclass(frozen=True)
class Known:
    """One loader's epoch as the sidecar knew it at its end."""

    loader: Loader
    """Without epochs."""
    epoch: Epoch
    container: Container | None
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
    limit_cores: float | None
    budget: Budget
    recorded: tuple[Recorded, ...]
    about: dict[str, Any]
    """Machine, versions, commit."""


def replayed(journals: Iterable[Path]) -> list[Known]:
    """Return each complete epoch as it was known at its end, in order."""
    state = State(max_sessions=1 << 20)
    found: list[Known] = []
    for path in journals:
        for record in read_journal(path):
            try:
                if record.kind == REGISTERED:
                    at = record.data[ID_BYTES:]
                    state.register(wire.read_registration(at), record.data[:ID_BYTES].decode())
                elif record.kind == REPORTED:
                    found += _ended(state, record.data)
            except (RefusedError, ValueError):
                continue
    return found


def _ended(state: State, data: bytes) -> list[Known]:
    report = wire.read_report(data)
    session = state.report(report)
    found = []
    for end in report.ends:
        trace = session.trace(end.epoch)
        if end.complete and trace is not None:
            loader = dataclasses.replace(session.freeze(), epochs=())
            found.append(Known(loader, trace.freeze(), session.container))
    return found


def joined(rows: Sequence[dict[str, Any]], known: Sequence[Known], name: str = "train") -> list[Recorded]:
    """Put what trainers measured beside what the sidecar knew, epoch by epoch of each rank.

    Raises:
        ValueError: The settings of an epoch differ: the two lists are not of one run.
    """
    ours = [k for k in known if k.loader.name == name]
    ranks = sorted({k.loader.rank for k in ours})
    by_rank = {rank: [k for k in ours if k.loader.rank == rank] for rank in ranks}
    # Epoch 0 is the abandoned one that warmed up.
    numbered = {(rank, k.epoch.number - 1): k for rank in ranks for k in by_rank[rank]}
    recorded = []
    for number, row in enumerate(rows):
        at = tuple(numbered[rank, number] for rank in ranks if (rank, number) in numbered)
        for k in at:
            if k.epoch.settings.num_workers != row["workers"]:
                raise ValueError(f"epoch {number}: {k.epoch.settings} was reported, {row['workers']} was set")
        recorded.append(
            Recorded(
                row["workers"],
                row["prefetch"] or 2,
                row["seconds"],
                row["batches"],
                row["foreign_cores"],
                at if len(at) == len(ranks) else (),
            )
        )
    return recorded


def path_of(folder: Path, workload: str, limit: float | None = None) -> Path:
    """Return where a trace lies; ``limit`` only where it is not the workload's own."""
    return folder / (f"{workload}.json.gz" if limit is None else f"{workload}@{limit:g}.json.gz")


def save(trace: Trace, path: Path) -> None:
    """Write a trace."""
    path.parent.mkdir(parents=True, exist_ok=True)
    body = {
        "workload": trace.workload,
        "limit_cores": trace.limit_cores,
        "budget": to_json(trace.budget),
        "about": trace.about,
        "recorded": [_recorded_json(r) for r in trace.recorded],
    }
    new = path.with_suffix(".new")
    with gzip.open(new, "wt", compresslevel=5) as out:
        json.dump(body, out)
    new.replace(path)


def load(path: Path) -> Trace:
    """Read a trace."""
    with gzip.open(path, "rt") as file:
        body = json.load(file)
    return Trace(
        body["workload"],
        body["limit_cores"],
        from_json(Budget, body["budget"]),
        tuple(_recorded(r) for r in body["recorded"]),
        body["about"],
    )


def _recorded_json(recorded: Recorded) -> dict[str, object]:
    plain = {f.name: getattr(recorded, f.name) for f in dataclasses.fields(Recorded)}
    return plain | {"known": [_known_json(k) for k in recorded.known]}


def _known_json(known: Known) -> dict[str, object]:
    epoch = known.epoch
    # Packed columns and loads made when first looked at are not what JSON holds.
    plain = dataclasses.replace(
        epoch, waits=list(epoch.waits), steps=list(epoch.steps), ready=list(epoch.ready), loads=()
    )
    loads = {name: [getattr(x, name) for x in epoch.loads] for name in LOAD_FIELDS}
    return {
        "loader": to_json(known.loader),
        "epoch": to_json(plain),
        "loads": loads,
        "container": to_json(known.container),
    }


def _recorded(body: dict[str, Any]) -> Recorded:
    return Recorded(**(body | {"known": tuple(_known(k) for k in body["known"])}))


def _known(body: dict[str, Any]) -> Known:
    columns = body["loads"]
    rows = zip(*columns.values(), strict=True)
    loads = [Load(**dict(zip(columns, row, strict=True))) for row in rows]
    epoch = dataclasses.replace(from_json(Epoch, body["epoch"]), loads=loads)
    container = None if body["container"] is None else from_json(Container, body["container"])
    return Known(from_json(Loader, body["loader"]), epoch, container)
