"""Where and when a ``DataLoader`` was made: how one that a framework makes anew is told from a second one."""

from __future__ import annotations

import os
import sys
import weakref
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from types import FrameType

MAX_CALLS = 12
"""Callers compared: Hugging Face's Trainer makes an evaluation's loader nine calls below ``evaluate``."""

_STANDARD_LIBRARY = os.path.dirname(os.path.realpath(os.__file__)) + os.sep
_PACKAGE = str(Path(__file__).absolute().parents[1]) + os.sep

Call = tuple[str, int]
"""File and line."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The making of one loader."""

    stamp_ns: int
    """When, by ``perf_counter_ns``."""
    calls: tuple[Call, ...]
    """Who made it, the nearest caller first; constructors of the loader itself left out."""
    place: str
    """``train.py:42``: the nearest caller that is no library's; empty where all are."""


_origins: dict[int, tuple[weakref.ref[object], Origin]] = {}


def note(loader: object) -> None:
    """Remember that ``loader`` is being made now, by whoever called its constructor."""
    identity = id(loader)

    def forget(reference: weakref.ref[object]) -> None:
        entry = _origins.get(identity)
        if entry is not None and entry[0] is reference:
            del _origins[identity]

    calls = _calls(loader, sys._getframe(1))
    _origins[identity] = (weakref.ref(loader, forget), Origin(perf_counter_ns(), calls, _place(calls)))


def of(loader: object) -> Origin | None:
    """Return how ``loader`` was made; None if that was before Feedwater was there to see it."""
    entry = _origins.get(id(loader))
    return entry[1] if entry is not None and entry[0]() is loader else None


def _calls(loader: object, frame: FrameType | None) -> tuple[Call, ...]:
    found: list[Call] = []
    while frame is not None and len(found) < MAX_CALLS:
        code = frame.f_code
        if not code.co_filename.startswith(_PACKAGE) and not _constructs(loader, frame):
            found.append((code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return tuple(found)


def _constructs(loader: object, frame: FrameType) -> bool:
    """Whether a frame is a constructor of the loader: a subclass calls that of its base."""
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
