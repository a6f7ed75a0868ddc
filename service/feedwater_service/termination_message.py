"""The termination message: what Kubernetes shows of the sidecar's container after the pod has ended."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

from feedwater_service.model.starvation import reported_starvation
from feedwater_service.model.types import Recommendation
from feedwater_service.state.sessions import Session, State

MAX_BYTES = 4096
"""Kubernetes truncates a termination message to this size.

Source: https://kubernetes.io/docs/tasks/debug/debug-application/determine-pod-failure-reason/
"""
MAX_SENTENCE = 200
"""Characters kept of a sentence; a recommendation's has at most 160, a NoRecommendation's may be longer."""
MAX_NAMED = 3
"""Loaders that the log line at exit names, so that it stays one line."""


def termination_message(state: State, version: str) -> bytes:
    """Return the verdicts as JSON of at most 4 KiB: as many loaders as fit, the most recently seen first."""
    loaders = [
        _loader(s) for s in sorted(state.sessions.values(), key=lambda s: s.last_seen_seconds, reverse=True)
    ]
    kept: list[dict[str, object]] = []
    for loader in loaders:
        if len(_json(version, len(loaders), [*kept, loader])) > MAX_BYTES:
            break
        kept.append(loader)
    return _json(version, len(loaders), kept)


def exit_line(state: State) -> str:
    """Return the log line at exit: the loaders that starved most, and how many others there are."""
    by_name: dict[str, list[Session]] = {}
    for session in sorted(state.sessions.values(), key=_loss, reverse=True):
        by_name.setdefault(session.name, []).append(session)
    if not by_name:
        return "no loader has reported"
    phrases = [_phrase(ranks) for ranks in list(by_name.values())[:MAX_NAMED]]
    if len(by_name) == 1:
        (ranks,) = by_name.values()
        phrases += filter(None, [_sentence(ranks[0])])
    others = len(by_name) - MAX_NAMED
    if others > 0:
        phrases.append(f"{others} more loader{'s' if others > 1 else ''}")
    return "; ".join(phrases)


def write_termination_message(path: Path, message: bytes) -> None:
    """Write the whole message, or nothing: a part of it would not be valid JSON.

    Raises:
        OSError: The file cannot be written.
    """
    # A pipe without a reader must not delay the end of the pod.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK, 0o644)
    try:
        written = os.write(descriptor, message)
        if written < len(message):
            os.ftruncate(descriptor, 0)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(descriptor)


def _json(version: str, count: int, loaders: list[dict[str, object]]) -> bytes:
    # Not escaped: a character of another script takes 3 bytes as text, 6 as an escape.
    message = {"feedwater": version, "loaders_seen": count, "loaders": loaders}
    return json.dumps(message, ensure_ascii=False).encode(errors="replace")


def _loss(session: Session) -> float:
    return _starvation(session) or 0.0


def _phrase(ranks: Sequence[Session]) -> str:
    """Return a phrase on one loader, with the figures of the rank that starved most."""
    session = ranks[0]
    several = f" ({len(ranks)} ranks)" if len(ranks) > 1 else ""
    if not session.epochs:
        return f"{session.name}{several}: no epoch"
    count, before = session.settings.num_workers, session.registration.settings.num_workers
    epochs = session.epochs[-1].number + 1
    parts = [f"{epochs} epoch{'s' if epochs > 1 else ''}"]
    change = f"{before} → {count}" if before != count else f"{count}"
    parts.append(f"{change} worker{'' if count == 1 else 's'}")
    starvation = _starvation(session)
    if starvation is not None:
        parts.append(f"{starvation:.0%} starvation")
    if isinstance(session.answer, Recommendation):
        parts.append(session.answer.verdict.value)
    return f"{session.name}{several}: {', '.join(parts)}"


def _sentence(session: Session) -> str:
    text = session.answer.sentence if session.answer is not None else ""
    return "".join(c if c.isprintable() else "?" for c in text[:MAX_SENTENCE])


def _starvation(session: Session) -> float | None:
    """Return the starvation of the device where it was measured; host wait is none where CUDA is used."""
    if not session.epochs:
        return None
    last = session.epochs[-1]
    measured = reported_starvation(last.starvation, last.device_starvation, session.uses_cuda)
    # JSON has no NaN.
    return None if measured is None or not math.isfinite(measured) else round(measured, 3)


def _loader(session: Session) -> dict[str, object]:
    answer = session.answer
    last = session.epochs[-1] if session.epochs else None
    return {
        "loader": session.name,
        "rank": session.rank,
        "epochs": last.number + 1 if last else 0,
        "starvation": _starvation(session),
        "num_workers": session.settings.num_workers,
        "num_workers_at_start": session.registration.settings.num_workers,
        "recommended_num_workers": answer.settings.num_workers
        if isinstance(answer, Recommendation)
        else None,
        "verdict": answer.verdict.value if isinstance(answer, Recommendation) else "UNKNOWN",
        "sentence": _sentence(session),
        "outcome": session.outcome.value if session.outcome else None,
        "changes": len(session.changes),
    }
