"""The newest epoch of each loader as a small table, with its sentence below: the end of ``feedwater run``."""

from __future__ import annotations

from collections.abc import Sequence

from feedwater.relay.measurements import LoaderView
from feedwater.status.layout import Section, Table, Words, as_text, lay_out
from feedwater.status.page import Group, grouped, starvation, told
from feedwater.status.words import MAX_NAME, clean, ranks, rate

COLUMNS = ("loader", "rank", "epochs", "workers", "batches/s", "starved", "verdict", "recommended")
WIDTH = 120
"""Of a log's lines; a sentence with its loader's name is seldom longer."""


def as_table(loaders: Sequence[LoaderView]) -> str:
    """Return the loaders as a table, with the newest epoch of each, and its sentence below."""
    if not loaders:
        return "No loader has reported yet."
    groups = grouped(loaders)
    rows = [_row(view) for group in groups for view in group.views]
    table = Table(COLUMNS, rows, frozenset({"loader", "verdict"}))
    lines = as_text(lay_out([Section(Words(""), [table])], WIDTH)).splitlines()[1:]
    return "\n".join(
        [*(line[2:] for line in lines), *(said for group in groups for said in _sentences(group))]
    )


def _row(view: LoaderView) -> list[Words]:
    newest = view.epochs[-1].summary if view.epochs else None
    made = view.recommendation
    cells = (
        clean(view.loader, MAX_NAME),
        str(view.rank),
        str(newest.epoch + 1) if newest else "0",
        str(view.settings.num_workers),
        rate(newest.batches_per_second) if newest else "-",
        starvation(newest, view.uses_cuda) if newest else "-",
        newest.verdict if newest else "-",
        str(made.settings.num_workers) if made else "-",
    )
    return [Words(cell) for cell in cells]


def _sentences(group: Group) -> list[str]:
    name = clean(group.first.loader, MAX_NAME)
    return [
        f"{name}{f' ({ranks(of)})' if of else ''}: {clean(said)}" for said, of in told(group.views, _texts)
    ]


def _texts(view: LoaderView) -> Sequence[str]:
    made = view.recommendation
    return (made.sentence, *made.advice) if made else (view.reason,)
