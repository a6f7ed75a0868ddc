"""The sidecar's state as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from feedwater.relay.channel import read_state
from feedwater.relay.measurements import LoaderView
from feedwater.relay.wire import loader_views
from feedwater.values import EpochSummary

COLUMNS = ("loader", "rank", "epochs", "workers", "batches/s", "starvation", "verdict", "recommended")


def read_loaders(address: str, timeout_seconds: float) -> list[LoaderView]:
    """Return the loaders that the sidecar at ``address`` knows.

    Raises:
        feedwater.relay.channel.SidecarUnavailableError: It did not answer in time.
    """
    return loader_views(read_state(address, timeout_seconds))


def as_json(loaders: Sequence[LoaderView]) -> str:
    """Return the loaders as a JSON array, one object for each."""
    return json.dumps([asdict(loader) for loader in loaders], indent=2)


def as_table(loaders: Sequence[LoaderView]) -> str:
    """Return the loaders as a table, with the newest epoch of each, and its sentence below."""
    if not loaders:
        return "No loader has reported yet."
    loaders = sorted(loaders, key=lambda loader: (loader.loader, loader.rank))
    rows = [COLUMNS, *(_row(loader) for loader in loaders)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(COLUMNS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([*lines, *_sentences(loaders)])


def _row(loader: LoaderView) -> tuple[str, ...]:
    newest = loader.epochs[-1] if loader.epochs else None
    made = loader.recommendation
    return (
        loader.loader,
        str(loader.rank),
        str(newest.epoch + 1) if newest else "0",
        str(loader.settings.num_workers),
        f"{newest.batches_per_second:.1f}" if newest else "-",
        _starvation(newest, loader.uses_cuda) if newest else "-",
        newest.verdict if newest else "-",
        str(made.settings.num_workers) if made else "-",
    )


def _starvation(epoch: EpochSummary, uses_cuda: bool) -> str:
    if epoch.device_starvation is not None:
        return f"{epoch.device_starvation:.0%}"
    # The device may have been busy while the host waited.
    return f"{epoch.starvation:.0%} host wait" if uses_cuda else f"{epoch.starvation:.0%}"


def _sentences(loaders: Sequence[LoaderView]) -> list[str]:
    # Ranks change together and are told the same: what all of them are told is said once.
    told: dict[tuple[str, str], list[int]] = {}
    for loader in loaders:
        made = loader.recommendation
        for said in (made.sentence, *made.advice) if made else (loader.reason,):
            if said:
                told.setdefault((loader.loader, said), []).append(loader.rank)
    ranks = len({loader.rank for loader in loaders})
    return [f"{name}{_of_ranks(of, ranks)}: {said}" for (name, said), of in told.items()]


def _of_ranks(of: Sequence[int], ranks: int) -> str:
    if len(of) == ranks:
        return ""
    return f" (rank {', '.join(map(str, of))})"
