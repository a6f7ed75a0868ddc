"""What the loaders did, one row each, and what was said of them: the end of ``feedwater run``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from feedwater.relay.views import LoaderView
from feedwater.status.judgement import is_peek, judgement, telling_epoch, why_nothing
from feedwater.status.layout import Section, Table, Words, as_text, lay_out
from feedwater.status.page import Group, grouped, starvation, told
from feedwater.status.words import MAX_LABEL, MAX_NAME, clean, counted, rate, setting
from feedwater.status.words import ranks as ranks_in_words

COLUMNS = ("loader", "data", "rank", "epochs", "workers", "recommended", "batches/s", "starved", "verdict")
LEFT = frozenset({"loader", "data", "rank", "workers", "recommended", "verdict"})
WIDTH = 160
"""Of a log's lines; most tables have 100."""
MAX_LOADERS = 20
"""A screen with their sentences. A trainer that makes a loader for each evaluation has had 256."""
MAX_SENTENCE = 1000
"""Nothing that is advised is cut; a path in it can be long."""
NOTHING = "nothing is recommended: "
COUNTED = frozenset({"TOO_FEW_BATCHES", "NOT_REPORTED"})
"""Reasons whose sentences differ from loader to loader in their counts alone."""


def as_table(loaders: Sequence[LoaderView]) -> str:
    """Return the loaders as a table, those that waited longest first, and below what was said of them."""
    if not loaders:
        return "No loader has reported yet."
    groups = sorted(map(_told_alike, grouped(loaders)), key=_wait_seconds, reverse=True)
    shown, others = groups[:MAX_LOADERS], len(groups) - MAX_LOADERS
    rows = [row for group in shown for row in _rows(group)]
    lines = as_text(lay_out([Section(Words(""), [_table(rows)])], WIDTH)).splitlines()[1:]
    more = [f"and {counted(others, 'more loader')} that waited less"] if others > 0 else []
    return "\n".join([*(line[2:] for line in lines), *more, *_below(shown)])


def _told_alike(group: Group) -> Group:
    """Return the group with its newest recommendation for every rank: they are tuned together.

    What the last epoch says is worked out as each rank's last report comes, and its figures differ.
    """
    made = [view.recommendation for view in group.views if view.recommendation is not None]
    if not made:
        return group
    newest = max(made, key=lambda recommendation: recommendation.epoch)
    return Group(tuple(replace(view, recommendation=newest) for view in group.views))


def _wait_seconds(group: Group) -> float:
    """Return what the loader's epochs waited; -1 where each was a peek, which comes last."""
    epochs = [e.summary for view in group.views for e in view.epochs if not is_peek(e.summary)]
    return sum(epoch.wait_seconds for epoch in epochs) if epochs else -1.0


def _table(rows: Sequence[Sequence[str]]) -> Table:
    """Return the table without columns that tell nothing: no loader has a label, all are of rank 0."""
    empty = {
        "data": all(not row[1] for row in rows),
        "rank": all(row[2] == "0" for row in rows),
    }
    kept = [at for at, name in enumerate(COLUMNS) if not empty.get(name)]
    return Table([COLUMNS[at] for at in kept], [[Words(row[at]) for at in kept] for row in rows], LEFT)


def _rows(group: Group) -> Iterator[list[str]]:
    """Yield the ranks of one loader, those together that were treated alike."""
    # Sorting keeps the order of the ranks among equals.
    for _, alike in groupby(sorted(group.views, key=_treatment), key=_treatment):
        yield _row(list(alike))


def _treatment(view: LoaderView) -> tuple[str, ...]:
    return view.label, _workers(view), _recommended(view), _verdict(view)


def _row(views: Sequence[LoaderView]) -> list[str]:
    """Return the cells of ranks that were treated alike; the figures are those of the median by speed."""
    view = sorted(views, key=_speed)[len(views) // 2]
    epoch = telling_epoch(view)
    return [
        clean(view.loader, MAX_NAME),
        clean(view.label, MAX_LABEL),
        _ranks([view.rank for view in views]),
        str(_epochs(view)),
        _workers(view),
        _recommended(view),
        rate(epoch.batches_per_second) if epoch is not None else "-",
        starvation(epoch, view.uses_cuda) if epoch is not None else "-",
        _verdict(view),
    ]


def _speed(view: LoaderView) -> float:
    epoch = telling_epoch(view)
    return epoch.batches_per_second if epoch is not None else 0.0


def _epochs(view: LoaderView) -> int:
    """Return how many epochs there were, without the peeks among those that are known."""
    if not view.epochs:
        return 0
    return view.epochs[-1].summary.epoch + 1 - sum(is_peek(epoch.summary) for epoch in view.epochs)


def _ranks(numbers: Sequence[int]) -> str:
    """Return ``0``, ``0-7``, ``0-2 5``."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return " ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _workers(view: LoaderView) -> str:
    """Return ``1 → 8``: the user's own and those in use, or one of them where they are the same."""
    now = setting(view.settings)
    own = setting(view.initial_settings) if view.initial_settings is not None else now
    return now if own == now else f"{own} → {now}"


def _recommended(view: LoaderView) -> str:
    settings = judgement(view).settings
    if settings is None:
        return "-"
    return "as in use" if setting(settings) == setting(view.settings) else setting(settings)


def _verdict(view: LoaderView) -> str:
    said = judgement(view)
    return "-" if said.settings is None and said.verdict == "UNKNOWN" else said.verdict


def _below(groups: Sequence[Group]) -> list[str]:
    """Return what was said of the loaders; of many short ones the same reason is one line."""
    alike: dict[str, list[tuple[str, str]]] = {}
    for name, text, key in (said for group in groups for said in _sentences(group)):
        alike.setdefault(key, []).append((name, text))
    return [f"{said[0][0]}{_and_more(len(said) - 1)}: {said[0][1]}" for said in alike.values()]


def _and_more(others: int) -> str:
    return f" and {others} more likewise" if others else ""


def _sentences(group: Group) -> Iterator[tuple[str, str, str]]:
    """Yield the loader's name, with the ranks where it is not for all, a text, and a key of texts alike."""
    name = clean(group.first.loader, MAX_NAME)
    last = judgement(group.first)
    if last.settings is None:
        why = why_nothing(group.first)
        if why:
            # Without a sentence the sidecar was not asked, and only the count of batches differs.
            key = why if last.sentence and last.reason_code not in COUNTED else last.reason_code
            yield name, clean(NOTHING + why, MAX_SENTENCE), key
        return
    for said, of in told(group.views, _texts):
        yield f"{name} ({ranks_in_words(of)})" if of else name, clean(said, MAX_SENTENCE), f"{name}: {said}"


def _texts(view: LoaderView) -> Sequence[str]:
    said = judgement(view)
    return (said.sentence, said.refusal, *said.advice)
