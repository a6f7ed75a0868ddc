"""The boundary between two epochs: one ends, its recommendation is applied or logged, the next begins."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter_ns

from feedwater import guard
from feedwater.loop import dataloader, process, registry
from feedwater.loop.boundary import answers, decision, epoch_log, epochs, rings
from feedwater.loop.boundary.decision import ApplyDecision, PendingChange
from feedwater.loop.boundary.preview import Preview
from feedwater.loop.boundary.registration import effective_mode, ensure_open
from feedwater.loop.change import apply
from feedwater.loop.change.tuning import MAKES_ITERATORS, Tuning
from feedwater.loop.log import log_line
from feedwater.loop.measure.recording import Recording
from feedwater.loop.watched import WatchedLoader
from feedwater.values import Answer, EpochSummary, Mode, Outcome
from feedwater.worker import WorkerInit

MakeIterator = Callable[[object], object]

MIN_BATCHES = 2
"""Batches of an epoch from which a recommendation is requested: ``next(iter(loader))`` is no epoch."""


def iterate(watched: WatchedLoader, loader: object, original: MakeIterator) -> object:
    """Return ``original(loader)``, measured, under the settings that the epoch before recommends."""
    asked_ns = perf_counter_ns()
    is_measured, change = _cross(watched, loader)
    if not is_measured:
        with _making(loader):
            return original(loader)
    return _make(watched, loader, original, asked_ns, change)


def iterate_untuned(
    watched: WatchedLoader, loader: object, construct: MakeIterator, iterator: object
) -> None:
    """Measure ``iterator``, which ``construct(loader)`` constructs; apply nothing."""
    asked_ns = perf_counter_ns()
    values: dict[str, object] = {}
    is_measured, _ = _cross(watched, loader, MAKES_ITERATORS)
    if is_measured:
        with watched.recording.guarded("the preparation of an epoch"):
            values = _timed_workers(watched.recording, loader)
    made_ns = perf_counter_ns()
    with _making(loader):
        apply.call_with(construct, loader, values)
    iter_seconds = (perf_counter_ns() - made_ns) / 1e9
    if is_measured and not watched.recording.is_broken:
        with watched.recording.guarded("the beginning of an epoch"):
            begin(watched, loader, iterator, asked_ns, iter_seconds)


def _cross(watched: WatchedLoader, loader: object, obstacle: str = "") -> tuple[bool, PendingChange | None]:
    """End the epoch before, and act on its recommendation.

    Returns:
        Whether the next epoch can be measured, and the change that was made for it.
    """
    is_measured, change = False, None
    with watched.recording.guarded("the epoch boundary"):
        epochs.abandon(watched)
        watched.tuning.set_obstacle(obstacle)
        is_measured = ensure_open(watched, loader)
        if is_measured:
            if not obstacle:
                _settle_settings(watched.tuning, loader)
            change = take_recommendation(watched, loader)
    return is_measured and not watched.recording.is_broken, change


def begin(
    watched: WatchedLoader, loader: object, iterator: object, asked_ns: int, iter_seconds: float
) -> None:
    """Measure ``iterator`` from now on, and take the recommendation of each epoch that it goes through."""
    epochs.begin(
        watched,
        loader,
        iterator,
        asked_ns,
        iter_seconds,
        at_boundary=take_recommendation,
        on_progress=Preview(watched).update,
    )


_current = threading.local()


@contextmanager
def _making(loader: object) -> Iterator[None]:
    """Keep that this thread makes an iterator of ``loader``: calls within it are no boundaries."""
    before = getattr(_current, "loader", None)
    _current.loader = loader
    try:
        yield
    finally:
        _current.loader = before


def is_making(loader: object) -> bool:
    """Return whether this thread makes an iterator of ``loader`` just now."""
    return getattr(_current, "loader", None) is loader


def _settle_settings(tuning: Tuning, loader: object) -> None:
    """Assign our choice to a rebuilt loader; keep a count that the user assigned since the last boundary."""
    current, ours = dataloader.settings_of(loader), tuning.chosen_settings or tuning.user_settings
    assert ours is not None
    wanted = apply.wanted_settings(current, ours)
    is_untouched = current in (tuning.user_settings, registry.assigned_settings(loader))
    if tuning.is_new_loader and is_untouched:
        if current != wanted:
            apply.change(loader, wanted)
            registry.note_assigned(loader, wanted)
    elif current != ours:
        tuning.keep_user_settings(current)


def take_recommendation(watched: WatchedLoader, loader: object) -> PendingChange | None:
    """Ask for the recommendation of the epoch that ended, and act on it; return the change made.

    Nothing changes where `Tuning.obstacle` says why: an endless iterator, an iterable that is no loader.
    """
    summary = watched.history.take_unanswered()
    if summary is None:
        return None
    answer = _ask(watched, loader, summary)
    change = _act(watched, loader, answer, summary)
    epoch_log.call_on_epoch(watched, summary, answer)
    return change


def _ask(watched: WatchedLoader, loader: object, summary: EpochSummary) -> Answer:
    recording, mode = watched.recording, effective_mode(watched)
    if summary.batches < MIN_BATCHES:
        return Answer(reason="The loop only looked at the data.")
    if mode.rank < Mode.ADVISE.rank:
        return Answer(reason=f"The mode is {mode.value}.")
    assert recording.transport is not None
    answer = recording.transport.get_recommendation(
        recording.key, summary.epoch, process.settings().deadline_seconds
    )
    answer = checked(watched, loader, answer)
    epoch_log.log_connection(watched, answer)
    watched.history.keep_answer(summary, answer)
    return answer


def checked(watched: WatchedLoader, loader: object, answer: Answer) -> Answer:
    """Return ``answer``; where it is nonsense, one without a recommendation that says so."""
    current = dataloader.settings_of(loader)
    why = answers.refusal(answer, current)
    if why is None:
        return answer
    watched.history.count_refused(why.cause)
    epoch_log.log_refused(watched, why)
    recommendation = getattr(answer, "recommendation", None)
    name = getattr(recommendation, "id", None)
    if isinstance(name, str) and len(name) <= answers.MAX_TEXT:
        decision.report(watched.recording, name, ApplyDecision(Outcome.REFUSED, why.sentence), current)
    return Answer(reason=why.sentence, connected=True)


def _act(
    watched: WatchedLoader, loader: object, answer: Answer, summary: EpochSummary
) -> PendingChange | None:
    """Decide on the answer to an epoch, and report and log that; return the change made."""
    recommendation = answer.recommendation
    if recommendation is None:
        epoch_log.log_epoch(watched, summary, answer.reason, logging.DEBUG)
        if answer.connected and watched.dataset_kind != "none":
            epoch_log.log_no_recommendation(watched, summary, answer.reason)
        return None
    current = dataloader.settings_of(loader)
    wanted = apply.wanted_settings(current, recommendation.settings)
    change = PendingChange(recommendation, current, wanted)
    decided = decision.decide(watched, loader, change, summary.complete)
    if decided.outcome is Outcome.APPLIED:
        decided = decision.make(watched.tuning, watched.name, loader, change)
    decision.report(watched.recording, recommendation.id, decided, dataloader.settings_of(loader))
    epoch_log.log_decision(watched, summary, recommendation, decided)
    return change if decided.outcome is Outcome.APPLIED else None


def _make(
    watched: WatchedLoader,
    loader: object,
    original: MakeIterator,
    asked_ns: int,
    change: PendingChange | None,
) -> object:
    """Make the iterator. Where that fails after a change of ours, undo the change and try again."""
    try:
        made_ns, values, iterator = _attempt(watched, loader, original)
    except Exception as error:
        if change is None:
            raise
        _undo(watched, loader, change, error)
        made_ns, values, iterator = _attempt(watched, loader, original)
    iter_seconds = (perf_counter_ns() - made_ns) / 1e9
    with watched.recording.guarded("the beginning of an epoch"):
        if hasattr(iterator, "_feedwater_probe"):
            apply.restore(watched.tuning, loader, iterator, values)
            watched.tuning.note_rebuilt()
            begin(watched, loader, iterator, asked_ns, iter_seconds)
    return iterator


def _attempt(
    watched: WatchedLoader, loader: object, original: MakeIterator
) -> tuple[int, dict[str, object], object]:
    values: dict[str, object] = {}
    with watched.recording.guarded("the preparation of an epoch"):
        values = _overrides(watched, loader)
    made_ns = perf_counter_ns()
    with _making(loader):
        return made_ns, values, apply.call_with(original, loader, values)


def _overrides(watched: WatchedLoader, loader: object) -> dict[str, object]:
    values = apply.overrides(watched.tuning, loader)
    return values | _timed_workers(watched.recording, loader) if apply.makes_iterator(loader) else values


def _timed_workers(recording: Recording, loader: object) -> dict[str, object]:
    """Return the attributes under which the workers of the next iterator time their loads."""
    count = dataloader.settings_of(loader).num_workers
    recording.take_worker_rings(count)
    path = recording.ring_path
    if not count or not path or not hasattr(loader, "__dict__"):
        return {}
    init = getattr(loader, "worker_init_fn", None)
    return {"worker_init_fn": WorkerInit(init, path, recording.first_worker_ring)}


def _undo(watched: WatchedLoader, loader: object, change: PendingChange, error: Exception) -> None:
    decision.undo(watched.tuning, loader, change.before)
    detail = decision.failure_detail(error)
    with guard.swallow("reporting a failed change"):
        decided = ApplyDecision(Outcome.FAILED, detail)
        decision.report(watched.recording, change.recommendation.id, decided, change.before)
    log_line(f"{watched.name}: num_workers={change.before.num_workers} is kept. {detail}", logging.WARNING)


def prepare_process() -> None:
    """Close the epochs when the process exits, and forget the loaders in forked children."""
    process.prepare(at_exit=end_all, in_child=detach_all)


def detach_all() -> None:
    """Forget all loaders in a forked child: their rings are memory that it shares with its parent."""
    for watched in registry.every():
        watched.recording.detach()
    registry.forget_all()
    rings.forget_all()


def end_all() -> None:
    """Close the epochs of a process that exits."""
    for watched in registry.every():
        with guard.swallow("ending an epoch at exit"):
            end(watched)


def end(watched: WatchedLoader) -> None:
    """Close the epoch under way, and clear the probation records where the process exits in order."""
    recording = watched.recording
    if recording.is_iterating:
        epochs.abandon(watched)
    if watched.options.is_watch_called and recording.epoch < 0 and not recording.is_broken:
        epoch_log.log_never_iterated(watched)
    if _exits_in_order():
        watched.tuning.clear_records()


def _exits_in_order() -> bool:
    """Return whether no exception but Ctrl-C ended the program. A change may have caused any other."""
    last = getattr(sys, "last_type", None)
    return last is None or issubclass(last, KeyboardInterrupt)
