"""The closing verdict: what ``kubectl get pod`` shows when the pod is gone."""

from __future__ import annotations

import json
from pathlib import Path

from feedwater_service.model.values import Recommendation
from feedwater_service.sessions import Session, State

MAX_BYTES = 4096
"""Kubernetes keeps no more of a termination message.

Source: https://kubernetes.io/docs/tasks/debug/debug-application/determine-pod-failure-reason/
"""


def farewell(state: State, version: str) -> bytes:
    """Return the verdict as JSON of at most 4 KiB: as many loaders as fit, the newest first."""
    loaders = [_loader(s) for s in sorted(state.sessions.values(), key=lambda s: s.last_seen, reverse=True)]
    kept: list[dict[str, object]] = []
    for loader in loaders:
        if len(_json(version, len(loaders), [*kept, loader])) > MAX_BYTES:
            break
        kept.append(loader)
    return _json(version, len(loaders), kept)


def write_farewell(path: Path, message: bytes) -> None:
    """Write the message.

    Raises:
        OSError: It cannot be written.
    """
    path.write_bytes(message)


def _json(version: str, count: int, loaders: list[dict[str, object]]) -> bytes:
    return json.dumps({"feedwater": version, "loaders_seen": count, "loaders": loaders}).encode()


def _starvation(session: Session) -> float | None:
    """Return the device's where it was measured; where CUDA is used, the host's wait says nothing."""
    if not session.epochs:
        return None
    last = session.epochs[-1]
    measured = last.device_starvation
    if measured is None and not session.uses_cuda:
        measured = last.starvation
    return None if measured is None else round(measured, 3)


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
        "recommended": answer.settings.num_workers if isinstance(answer, Recommendation) else None,
        "verdict": answer.verdict.value if isinstance(answer, Recommendation) else "UNKNOWN",
        "sentence": (answer.sentence if isinstance(answer, Recommendation) else answer.message)[:200]
        if answer is not None
        else "",
        "outcome": session.outcome.value if session.outcome else None,
        "changes": len(session.changes),
    }
