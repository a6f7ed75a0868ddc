"""What happens when a loader is asked for an iterator: an epoch ends, advice is taken, the next begins."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter_ns

from feedwater.loop import process, watched
from feedwater.loop.boundary import decision, epoch_log, epochs
from feedwater.loop.boundary.decision import Change, Decision
from feedwater.loop.boundary.registration import effective_mode, is_open
from feedwater.loop.change import apply
from feedwater.loop.log import absorbed, say
from feedwater.loop.watched import Mark
from feedwater.values import Answer, EpochSummary, Mode, Outcome
from feedwater.worker import WorkerInit

MakeIterator = Callable[[object], object]

LEAST_BATCHES = 2
"""Of an epoch that a recommendation is asked for: ``next(iter(loader))`` before each one is no epoch."""


def iterate(mark: Mark, loader: object, original: MakeIterator) -> object:
    """Return ``original(loader)``, measured, under the settings that the epoch before recommends."""
    asked_ns = perf_counter_ns()
    change: Change | None = None
    is_measured = False
    try:
        mark = watched.own_mark(mark, loader)
        epochs.abandon(mark)
        mark.can_apply, mark.makes_iterators = True, False
        is_measured = is_open(mark, loader)
        if is_measured:
            change = _turn(mark, loader)
    except Exception:
        _give_up(mark, "the epoch boundary")
    if not is_measured or mark.is_broken:
        with _making(loader):
            return original(loader)
    return _make(mark, loader, original, asked_ns, change)


def iterate_unasked(mark: Mark, loader: object, original: MakeIterator) -> None:
    """Measure the iterator that ``original(loader)`` makes past ``DataLoader.__iter__``; apply nothing."""
    asked_ns = perf_counter_ns()
    values: dict[str, object] = {}
    is_measured = False
    try:
        mark = watched.own_mark(mark, loader)
        epochs.abandon(mark)
        mark.can_apply, mark.makes_iterators = False, True
        is_measured = is_open(mark, loader)
        if is_measured:
            advise_only(mark, loader)
            values = _timed_workers(mark, loader)
    except Exception:
        _give_up(mark, "the epoch boundary")
    made_ns = perf_counter_ns()
    with _making(loader):
        iterator = apply.call(original, loader, values)
    try:
        if is_measured and not mark.is_broken:
            epochs.begin(mark, loader, iterator, asked_ns, (perf_counter_ns() - made_ns) / 1e9)
    except Exception:
        _give_up(mark, "the beginning of an epoch")


_under_way = threading.local()


@contextmanager
def _making(loader: object) -> Iterator[None]:
    """Note that this thread makes an iterator of ``loader``, whose parts are no boundaries of their own."""
    before = getattr(_under_way, "loader", None)
    _under_way.loader = loader
    try:
        yield
    finally:
        _under_way.loader = before


def is_making(loader: object) -> bool:
    """Say whether this thread makes an iterator of ``loader`` just now."""
    return getattr(_under_way, "loader", None) is loader


def _turn(mark: Mark, loader: object) -> Change | None:
    """Take the recommendation of the epoch before, and return the change made."""
    _settle_settings(mark, loader)
    summary = mark.unanswered
    if summary is None:
        return None
    answer = _ask(mark, summary)
    change = _take(mark, loader, answer, summary)
    epoch_log.call_on_epoch(mark, summary, answer)
    return change


def _settle_settings(mark: Mark, loader: object) -> None:
    """Carry our choice over to a rebuilt loader; let a count that the user assigned meanwhile win."""
    now, ours = apply.settings_of(loader), mark.chosen or mark.own_settings
    assert ours is not None
    wanted = apply.wanted_settings(now, ours)
    if mark.is_fresh and now in (mark.own_settings, watched.given(loader)):
        if now != wanted:
            apply.change(loader, wanted)
            watched.note_given(loader, wanted)
    elif now != ours:
        mark.own_settings, mark.chosen = now, None


def _ask(mark: Mark, summary: EpochSummary) -> Answer:
    mark.unanswered = None
    if summary.batches < LEAST_BATCHES:
        return Answer(reason="The loop only looked at the data.")
    if effective_mode(mark).rank < Mode.ADVISE.rank:
        return Answer(reason=f"The mode is {effective_mode(mark).value}.")
    assert mark.transport is not None
    answer = mark.transport.get_recommendation(mark.key, summary.epoch, process.settings().deadline_seconds)
    mark.policy_mode = answer.mode or mark.policy_mode
    epoch_log.note_connection(mark, answer)
    _keep(mark, summary, answer)
    return answer


def _keep(mark: Mark, summary: EpochSummary, answer: Answer) -> None:
    """Remember the answer, and the verdict with the epoch that it is about."""
    mark.recommendation = answer.recommendation or mark.recommendation
    verdict = answer.recommendation.verdict if answer.recommendation is not None else ""
    if verdict and mark.history and mark.history[-1] is summary:
        mark.history[-1] = replace(summary, verdict=verdict)


def _take(mark: Mark, loader: object, answer: Answer, summary: EpochSummary) -> Change | None:
    recommendation = answer.recommendation
    if recommendation is None:
        epoch_log.log_epoch(mark, summary, answer.reason, logging.DEBUG)
        if answer.connected and mark.dataset_kind != "none":
            epoch_log.log_not_judged(mark, summary, answer.reason)
        return None
    now = apply.settings_of(loader)
    wanted = apply.wanted_settings(now, recommendation.settings)
    decided = decision.decide(mark, loader, recommendation, now, wanted, summary.complete)
    change = None
    if decided.outcome is Outcome.APPLIED:
        decided, change = decision.make(mark, loader, recommendation, now, wanted)
    decision.report(mark, recommendation, decided, apply.settings_of(loader))
    epoch_log.log_decision(mark, summary, recommendation, decided)
    return change


def advise_only(mark: Mark, loader: object) -> None:
    """Take the recommendation of an epoch where nothing can change: an endless iterator, or no loader."""
    summary = mark.unanswered
    if summary is None:
        return
    answer = _ask(mark, summary)
    _take(mark, loader, answer, summary)
    epoch_log.call_on_epoch(mark, summary, answer)


def _make(mark: Mark, loader: object, original: MakeIterator, asked_ns: int, change: Change | None) -> object:
    """Make the iterator; where our change keeps it from being made, take that back and try again."""
    try:
        made_ns, values, iterator = _attempt(mark, loader, original)
    except Exception as error:
        if change is None:
            raise
        _take_back(mark, loader, change, error)
        made_ns, values, iterator = _attempt(mark, loader, original)
    iter_seconds = (perf_counter_ns() - made_ns) / 1e9
    try:
        if hasattr(iterator, "_feedwater_probe"):
            apply.settle(mark, loader, iterator, values)
            mark.is_rebuilding = False
            epochs.begin(mark, loader, iterator, asked_ns, iter_seconds)
    except Exception:
        _give_up(mark, "the beginning of an epoch")
    return iterator


def _attempt(mark: Mark, loader: object, original: MakeIterator) -> tuple[int, dict[str, object], object]:
    values: dict[str, object] = {}
    try:
        values = _loans(mark, loader)
    except Exception:
        _give_up(mark, "the preparation of an epoch")
    made_ns = perf_counter_ns()
    with _making(loader):
        return made_ns, values, apply.call(original, loader, values)


def _loans(mark: Mark, loader: object) -> dict[str, object]:
    values = apply.loans(mark, loader)
    return values | _timed_workers(mark, loader) if apply.builds_anew(loader) else values


def _timed_workers(mark: Mark, loader: object) -> dict[str, object]:
    """Return what has the workers of the next iterator time their loads."""
    count = apply.settings_of(loader).num_workers
    epochs.take_rings(mark, count)
    if not count or not hasattr(loader, "__dict__"):
        return {}
    init = getattr(loader, "worker_init_fn", None)
    path = f"/proc/{os.getpid()}/fd/{mark.ring_fd}"
    return {"worker_init_fn": WorkerInit(init, path, mark.first_ring)}


def _take_back(mark: Mark, loader: object, change: Change, error: Exception) -> None:
    decision.undo(mark, loader, change.before)
    detail = decision.failed(error)
    try:
        decision.report(mark, change.recommendation, Decision(Outcome.FAILED, detail), change.before)
    except Exception:
        absorbed("reporting a failed change")
    say(f"{mark.name}: num_workers={change.before.num_workers} is kept. {detail}", logging.WARNING)


def _give_up(mark: Mark, where: str) -> None:
    mark.is_broken = True
    absorbed(where)


def end_all() -> None:
    """Close all loaders of a process that exits."""
    for mark in watched.every():
        end(mark)


def end(mark: Mark) -> None:
    """Close what is open when the process exits in order, which is no crash."""
    if mark.is_iterating:
        epochs.abandon(mark)
    if mark.is_asked_for and mark.epoch < 0 and not mark.is_broken:
        epoch_log.log_never_iterated(mark)
    for record in (mark.probation, mark.held_by):
        if record is not None and not record.is_tainted and _exits_in_order():
            record.clear()


def _exits_in_order() -> bool:
    """Say whether no exception but Ctrl-C ended the program; what did can be the change's fault."""
    last = getattr(sys, "last_type", None)
    return last is None or issubclass(last, KeyboardInterrupt)
