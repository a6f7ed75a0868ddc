"""Packed arrays of times, checked, summed and counted in one pass of C-speed operations.

A report has thousands of numbers each second. Everything that is derived from a column is computed at once,
and its list is freed before the next column is read, so that all columns use the same memory: with the lists
of a whole report alive the same steps took twice as long.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass
from itertools import repeat

BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of histogram buckets in seconds: a step of a small model takes 1 ms, a read from a cold object
store seconds."""


@dataclass(frozen=True, slots=True)
class Column:
    """Non-negative, finite numbers."""

    values: array[float]
    total: float
    cumulative: tuple[int, ...]
    """How many of the numbers are at or below each of `BOUNDS`."""


def column(values: list[float], greatest: float) -> Column:
    """Return a column of these numbers.

    Raises:
        ValueError: A number is negative, not finite, or above ``greatest``.
    """
    if not values:
        return Column(array("f"), 0.0, (0,) * len(BOUNDS))
    total = sum(values)
    ordered = sorted(values)
    # A NaN anywhere makes the sum NaN, which does not equal itself.
    if total != total or ordered[0] < 0 or ordered[-1] > greatest:
        raise ValueError(f"expected 0 to {greatest:g}, got {ordered[0]:g} to {ordered[-1]:g}")
    return Column(array("f", values), total, tuple(map(bisect_right, repeat(ordered), BOUNDS)))
