"""The bounds of restored values, as on the wire: the state directory may be damaged or written by others.

A value that no client could have brought about makes the model fail for every loader of the pod (columns of
unequal length), or the page's state (``num_workers`` of -7), long after it was read.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import fields, is_dataclass

from feedwater_service.model.types import LoaderSettings
from feedwater_service.state.sessions import KEPT_EPOCHS, Session
from feedwater_service.state.traces import KEPT_BATCHES, LoadColumns, Trace

MAX_COUNT = 1 << 53
"""Above this a float does not count exactly."""
MAX_WORKERS = 4096
MAX_ITEMS = 4096
"""Of a list: readings, records, points of a curve."""
MAX_ROWS = 2 * KEPT_BATCHES


def check_session(session: Session) -> None:
    """Check a session.

    Raises:
        ValueError: A number or a length is none that a client could have brought about.
    """
    check(session)
    if not session.loader_id or len(session.epochs) > KEPT_EPOCHS:
        raise ValueError(f"{len(session.epochs)} epochs of loader {session.loader_id[:40]!r}")
    if any(
        one.number >= other.number for one, other in zip(session.epochs, session.epochs[1:], strict=False)
    ):
        raise ValueError("epochs are not in order")
    for trace in session.epochs:
        _check_columns(trace, ("waits", "steps", "ready"))
        _check_columns(trace.loads, tuple(f.name for f in fields(LoadColumns)))
        _check_columns(trace, ("device_batches", "device_idle", "device_busy"))


def check(value: object) -> None:
    """Check all numbers, texts and lengths of a value of dataclasses.

    Raises:
        ValueError: One is out of bounds.
    """
    if isinstance(value, LoaderSettings) and not 0 <= value.num_workers <= MAX_WORKERS:
        raise ValueError(f"num_workers: {value.num_workers}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"not a finite number: {value}")
    if isinstance(value, int) and not -1 <= value <= MAX_COUNT:
        raise ValueError(f"out of bounds: {str(value)[:40]}")
    if isinstance(value, array):
        _check_array(value)
    elif isinstance(value, (list, tuple, dict, str)) and len(value) > MAX_ITEMS:
        raise ValueError(f"{len(value)} items, at most {MAX_ITEMS} expected")
    elif is_dataclass(value):
        for f in fields(value):
            check(getattr(value, f.name))
    elif isinstance(value, (list, tuple)):
        for item in value:
            check(item)
    elif isinstance(value, dict):
        for item in value.values():
            check(item)


def _check_array(values: array[int] | array[float]) -> None:
    if len(values) > MAX_ROWS:
        raise ValueError(f"{len(values)} rows, at most {MAX_ROWS} expected")
    # A NaN anywhere makes the sum NaN.
    if values and not (math.isfinite(sum(values)) and min(values) >= -1 and max(values) <= MAX_COUNT):
        raise ValueError("a column has a number that is out of bounds")


def _check_columns(of: Trace | LoadColumns, names: tuple[str, ...]) -> None:
    """Check that columns are of one length, and of the types that the model reads."""
    columns = [getattr(of, name) for name in names]
    if len({len(column) for column in columns}) > 1:
        raise ValueError(f"columns of unequal length: {', '.join(names)}")
    fresh = Trace(0, LoaderSettings(0)) if isinstance(of, Trace) else LoadColumns()
    for name, column in zip(names, columns, strict=True):
        if column.typecode != getattr(fresh, name).typecode:
            raise ValueError(f"{name}: type {column.typecode!r}")
