"""What happens when a loader is asked for an iterator: an epoch ends, advice is taken, the next begins."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter_ns
from typing import cast

from feedwater import ring
from feedwater.loop import apply, epochs, marks, probation, process, safety
from feedwater.loop.marks import Mark
from feedwater.loop.say import absorbed, say, say_once
from feedwater.values import (
    Answer,
    EpochSummary,
    LoaderDescription,
    LoaderSettings,
    Mode,
    Outcome,
    Recommendation,
)
from feedwater.worker import WorkerInit

MakeIterator = Callable[[object], object]


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done with a recommendation."""

    outcome: Outcome
    detail: str = ""
    """Why it is not applied, a full sentence."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change made just now, until the iterator under it exists."""

    recommendation: Recommendation
    before: LoaderSettings
    after: LoaderSettings


def iterate(mark: Mark, loader: object, original: MakeIterator) -> object:
    """Return ``original(loader)``, measured, under the settings that the epoch before recommends."""
    asked_ns = perf_counter_ns()
    change: Change | None = None
    try:
        mark = marks.own_mark(mark, loader)
        if not is_open(mark, loader):
            return original(loader)
        change = _turn(mark, loader)
    except Exception:
        _give_up(mark, "the epoch boundary")
    if mark.is_broken:
        return original(loader)
    return _make(mark, loader, original, asked_ns, change)


def is_open(mark: Mark, loader: object) -> bool:
    """Make the ring and the transport of ``mark`` if need be; False if nothing can be measured."""
    if mark.is_broken or effective_mode(mark) is Mode.OFF:
        return False
    if mark.transport is None:
        _open(mark, loader)
    return not mark.is_broken


def effective_mode(mark: Mark) -> Mode:
    """Return the mode: the argument's, else the environment's, else the default; policy only lowers it."""
    asked = mark.mode or process.settings().mode or mark.default_mode
    return asked if mark.policy_mode is None else min(asked, mark.policy_mode, key=lambda m: m.rank)


def _open(mark: Mark, loader: object) -> None:
    try:
        mark.ring_fd, mark.words = ring.create()
    except OSError as error:
        mark.is_broken = True
        say_once("ring", f"nothing is measured: no memory for the timings ({error})", logging.WARNING)
        return
    mark.close_ring_when_gone()
    mark.own_settings = apply.settings_of(loader)
    mark.proven_workers = mark.own_settings.num_workers
    mark.dataset_kind = _dataset_kind(loader)
    mark.transport = mark.given_transport or process.transport()
    _read_probation(mark)
    mark.transport.open_loader(mark.key, describe(mark, loader), mark.ring_fd)


def _dataset_kind(loader: object) -> str:
    kind = getattr(loader, "_dataset_kind", None)
    return "none" if kind is None else "map" if kind == 0 else "iterable"


def describe(mark: Mark, loader: object) -> LoaderDescription:
    """Return what the sidecar is told of a loader."""
    import sys

    torch = sys.modules.get("torch")
    is_loader = mark.dataset_kind != "none"
    return LoaderDescription(
        name=mark.name,
        settings=apply.settings_of(loader),
        mode=effective_mode(mark),
        dataset_kind=mark.dataset_kind,
        dataset_length=epochs.length_of(getattr(loader, "dataset", None)),
        batch_size=getattr(loader, "batch_size", None),
        batches_per_epoch=epochs.length_of(loader) if mark.dataset_kind == "map" else None,
        start_method=safety.start_method(loader) if is_loader else "",
        can_apply=mark.can_apply and not safety.depends_on_count(mark, loader),
        uses_cuda=torch is not None and bool(torch.cuda.is_initialized()),
        torch_version=str(getattr(torch, "__version__", "")),
    )


def _read_probation(mark: Mark) -> None:
    if effective_mode(mark) is not Mode.AUTO or mark.dataset_kind == "none":
        return
    record = probation.read(process.settings(), mark.name)
    if record is None:
        return
    mark.is_held = True
    say(
        f"{mark.name}: the last run of this job died while num_workers={record.after.num_workers} was tried; "
        f"num_workers={apply_count(mark)} is kept for the rest of the job ({record.path} says so)",
        logging.WARNING,
    )


def apply_count(mark: Mark) -> int:
    """Return the user's own count."""
    return mark.own_settings.num_workers if mark.own_settings is not None else 0


def _turn(mark: Mark, loader: object) -> Change | None:
    """End what is left of the epoch before, take its recommendation, and return the change made."""
    epochs.abandon(mark)
    _settle_settings(mark, loader)
    summary = mark.unanswered
    if summary is None:
        return None
    answer = _ask(mark, summary)
    change = _take(mark, loader, answer, summary)
    _tell_user(mark, summary, answer)
    return change


def _settle_settings(mark: Mark, loader: object) -> None:
    """Carry our choice over to a rebuilt loader; let a count that the user assigned meanwhile win."""
    now = apply.settings_of(loader)
    if mark.chosen is None or now == mark.chosen:
        if mark.chosen is None and not mark.is_fresh:
            mark.own_settings = now
        return
    if now == mark.own_settings and mark.is_fresh:
        apply.change(loader, apply.wanted_settings(now, mark.chosen))
        return
    mark.own_settings, mark.chosen = now, None


def _ask(mark: Mark, summary: EpochSummary) -> Answer:
    mark.unanswered = None
    if effective_mode(mark).rank < Mode.ADVISE.rank:
        return Answer(reason=f"The mode is {effective_mode(mark).value}.", summary=summary)
    assert mark.transport is not None
    answer = mark.transport.recommend(mark.key, summary.epoch, process.settings().deadline_seconds)
    mark.policy_mode = answer.mode or mark.policy_mode
    _note_connection(mark, answer)
    _keep(mark, summary, answer)
    return answer


def _keep(mark: Mark, summary: EpochSummary, answer: Answer) -> None:
    """Remember the answer, and the verdict with the epoch that it is about."""
    mark.recommendation = answer.recommendation or mark.recommendation
    verdict = answer.recommendation.verdict if answer.recommendation is not None else ""
    if not verdict and answer.summary is not None:
        verdict = answer.summary.verdict
    if verdict and mark.history and mark.history[-1] is summary:
        mark.history[-1] = replace(summary, verdict=verdict)


def _note_connection(mark: Mark, answer: Answer) -> None:
    if answer.connected == mark.is_connected or (not answer.address and not answer.connected):
        return
    was, mark.is_connected = mark.is_connected, answer.connected
    if answer.connected:
        say(
            f"{mark.name}: connected to the sidecar at {answer.address}",
            logging.INFO if was is False else logging.DEBUG,
        )
        return
    count = mark.began_with.num_workers if mark.began_with is not None else 0
    say(
        f"sidecar at {answer.address} unavailable; training continues with num_workers={count}",
        logging.WARNING if was else logging.INFO,
    )


def _take(mark: Mark, loader: object, answer: Answer, summary: EpochSummary) -> Change | None:
    recommendation = answer.recommendation
    if recommendation is None:
        _log_epoch(mark, summary, answer.reason, logging.DEBUG)
        return None
    now = apply.settings_of(loader)
    wanted = apply.wanted_settings(now, recommendation.settings)
    decision = decide(mark, loader, recommendation, now, wanted, summary.complete)
    change = None
    if decision.outcome is Outcome.APPLIED:
        decision, change = _apply(mark, loader, recommendation, now, wanted)
    _report(mark, recommendation, decision, apply.settings_of(loader))
    _log_decision(mark, summary, recommendation, decision)
    return change


def decide(
    mark: Mark,
    loader: object,
    recommendation: Recommendation,
    now: LoaderSettings,
    wanted: LoaderSettings,
    epoch_was_complete: bool,
) -> Decision:
    """Return what to do with a recommendation to go from ``now`` to ``wanted``."""
    if not recommendation.changes or now == wanted:
        return Decision(Outcome.UNCHANGED)
    if effective_mode(mark) is not Mode.AUTO:
        return Decision(Outcome.ADVISED)
    if not mark.can_apply:
        return Decision(Outcome.ADVISED, "This loader keeps its iterator; set it at the next start.")
    if mark.is_held:
        return Decision(Outcome.REFUSED, "The last run of this job died while a change was tried.")
    why = apply.refusal(loader, now, wanted, epoch_was_complete)
    why = why or safety.refusal(mark, cast("safety.Loader", loader), now, wanted)
    return Decision(Outcome.REFUSED, why) if why else Decision(Outcome.APPLIED)


def _apply(
    mark: Mark, loader: object, recommendation: Recommendation, now: LoaderSettings, wanted: LoaderSettings
) -> tuple[Decision, Change | None]:
    try:
        mark.probation = probation.write(process.settings(), mark.name, now, wanted)
    except OSError as error:
        return Decision(Outcome.REFUSED, f"No record of the change could be written ({error})."), None
    mark.is_rebuilding = True
    try:
        apply.change(loader, wanted)
    except Exception as error:
        _undo(mark, loader, now)
        return Decision(Outcome.FAILED, _failed(error)), None
    mark.chosen = None if wanted == mark.own_settings else wanted
    return Decision(Outcome.APPLIED), Change(recommendation, now, wanted)


def _report(mark: Mark, recommendation: Recommendation, decision: Decision, now: LoaderSettings) -> None:
    assert mark.transport is not None
    mark.transport.applied(mark.key, recommendation.id, decision.outcome, now, decision.detail)


def advise_only(mark: Mark, loader: object) -> None:
    """Take the recommendation of an epoch where nothing can change: an endless iterator, or no loader."""
    summary = mark.unanswered
    if summary is None:
        return
    answer = _ask(mark, summary)
    _take(mark, loader, answer, summary)
    _tell_user(mark, summary, answer)


def _tell_user(mark: Mark, summary: EpochSummary, answer: Answer) -> None:
    if mark.on_epoch is None:
        return
    last = mark.history[-1] if mark.history and mark.history[-1].epoch == summary.epoch else summary
    try:
        mark.on_epoch(last, answer)
    except Exception:
        absorbed(f"{mark.name}: on_epoch")


def _log_decision(mark: Mark, summary: EpochSummary, made: Recommendation, decision: Decision) -> None:
    said = (made.settings, decision, made.advice)
    has_news = decision.outcome is not Outcome.UNCHANGED or bool(made.advice)
    # The same advice epoch after epoch is said once.
    level = logging.INFO if has_news and mark.last_said != said else logging.DEBUG
    mark.last_said = said
    text = " ".join([made.sentence, *made.advice])
    if decision.outcome is Outcome.ADVISED:
        text = f"{text} (advice)"
    if decision.detail:
        text = f"{text} Not applied: {decision.detail}"
    _log_epoch(mark, summary, text, level)
    if decision.outcome is Outcome.APPLIED and mark.dataset_kind == "map":
        say_once(
            "streams",
            "samples and their order stay the same; random numbers drawn in workers depend on their count",
            logging.INFO,
        )


def _log_epoch(mark: Mark, summary: EpochSummary, text: str, level: int) -> None:
    if level == logging.INFO and process.settings().rank > 0:
        level = logging.DEBUG  # Rank 0 speaks for all.
    if level < logging.INFO and not logging.getLogger("feedwater").isEnabledFor(level):
        return
    say(
        f"{mark.name}: epoch {summary.epoch}: {summary.batches} batches in {summary.seconds:.1f} s, "
        f"waiting {summary.starvation:.0%}, num_workers={summary.settings.num_workers}: {text}",
        level,
    )
    """Make the iterator; where our change keeps it from being made, take that back and try again."""


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
    return made_ns, values, apply.call(original, loader, values)


def _loans(mark: Mark, loader: object) -> dict[str, object]:
    import os

    values = apply.loans(mark, loader)
    if apply.builds_anew(loader):
        count = apply.settings_of(loader).num_workers
        epochs.take_rings(mark, count)
        if count:
            init = getattr(loader, "worker_init_fn", None)
            path = f"/proc/{os.getpid()}/fd/{mark.ring_fd}"
            values["worker_init_fn"] = WorkerInit(init, path, mark.first_ring)
    return values


def _take_back(mark: Mark, loader: object, change: Change, error: Exception) -> None:
    _undo(mark, loader, change.before)
    detail = _failed(error)
    try:
        _report(mark, change.recommendation, Decision(Outcome.FAILED, detail), change.before)
    except Exception:
        absorbed("reporting a failed change")
    say(f"{mark.name}: num_workers={change.before.num_workers} is kept. {detail}", logging.WARNING)


def _undo(mark: Mark, loader: object, before: LoaderSettings) -> None:
    apply.change(loader, before)
    mark.chosen = None if before == mark.own_settings else before
    record, mark.probation = mark.probation, None
    if record is not None:
        record.clear()


def _failed(error: Exception) -> str:
    return f"Making the iterator failed: {type(error).__name__}: {error}"[:300]


def _give_up(mark: Mark, where: str) -> None:
    mark.is_broken = True
    absorbed(where)


def end_all() -> None:
    """Close all loaders of a process that exits."""
    for mark in marks.every():
        end(mark)


def end(mark: Mark) -> None:
    """Close what is open when the process exits in order, which is no crash."""
    if mark.is_iterating:
        epochs.abandon(mark)
    record = mark.probation
    if record is not None and not record.is_tainted:
        record.clear()
