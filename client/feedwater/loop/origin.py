"""Where and when a ``DataLoader`` was made, to tell a loader that a framework rebuilds from a second one."""

from __future__ import annotations

import os
import sys
import weakref
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from types import FrameType

MAX_CALLS = 12
"""Callers that are compared: Hugging Face's Trainer makes its loader nine calls below ``evaluate``."""

_STANDARD_LIBRARY = os.path.dirname(os.path.realpath(os.__file__)) + os.sep
_PACKAGE = str(Path(__file__).absolute().parents[1]) + os.sep

Call = tuple[str, int]
"""File and line."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The construction of one loader."""

    stamp_ns: int
    """When, by ``perf_counter_ns``."""
    calls: tuple[Call, ...]
    """The callers of its constructor, nearest first, without constructors of the loader itself."""
    place: str
    """``train.py:42``: the nearest caller outside of libraries; empty where all are in libraries."""


_origins: dict[int, tuple[weakref.ref[object], Origin]] = {}


def note(loader: object) -> None:
    """Record that ``loader`` is constructed now, and its callers."""
    identity = id(loader)

    def forget(reference: weakref.ref[object]) -> None:
        entry = _origins.get(identity)
        if entry is not None and entry[0] is reference:
            del _origins[identity]

    calls = _calls(loader, sys._getframe(1))
    _origins[identity] = (weakref.ref(loader, forget), Origin(perf_counter_ns(), calls, _place(calls)))


def of(loader: object) -> Origin | None:
    """Return the origin of ``loader``; None if it was made before the hooks were installed."""
    entry = _origins.get(id(loader))
    return entry[1] if entry is not None and entry[0]() is loader else None


def _calls(loader: object, frame: FrameType | None) -> tuple[Call, ...]:
    calls: list[Call] = []
    while frame is not None and len(calls) < MAX_CALLS:
        code = frame.f_code
        if not code.co_filename.startswith(_PACKAGE) and not _constructs(loader, frame):
            calls.append((code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return tuple(calls)


def _constructs(loader: object, frame: FrameType) -> bool:
    """Return whether a frame is a constructor of the loader; a subclass calls that of its base."""
    code = frame.f_code
    return (
        code.co_name == "__init__"
        and code.co_argcount > 0
        and frame.f_locals.get(code.co_varnames[0]) is loader
    )


def _place(calls: tuple[Call, ...]) -> str:
    return next((f"{os.path.basename(path)}:{line}" for path, line in calls if not _is_library(path)), "")


def _is_library(path: str) -> bool:
    return (
        path.startswith("<")
        or "/site-packages/" in path
        or "/dist-packages/" in path
        or os.path.realpath(path).startswith(_STANDARD_LIBRARY)
    )
