"""Iterables that are no loaders: measured through a wrapper that is otherwise what it wraps."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

import feedwater
from feedwater.testing import FakeTransport


class Stream:
    """Three numbers, with an attribute."""

    dataset_name = "three"

    def __iter__(self) -> Iterator[int]:
        return iter([1, 2, 3])


def test_items_and_timings_match() -> None:
    """Three items an epoch, each with two stamps in order; two epochs make a history."""
    fake = FakeTransport()
    watched = feedwater.watch(Stream(), name="s", transport=fake)
    assert [list(watched), list(watched)] == [[1, 2, 3], [1, 2, 3]]
    timings = fake.timings("s")
    assert len(timings) == 6
    assert all(a.enter_ns <= a.exit_ns <= b.enter_ns for a, b in itertools.pairwise(timings))
    assert [(e.batches, e.complete) for e in feedwater.history(watched)] == [(3, True), (3, True)]
    assert [(e.head, e.complete) for e in fake.ends("s")] == [(3, True), (6, True)]


def test_length_items_and_attributes_are_the_wrapped_ones() -> None:
    """len(), indexing and attributes pass through; what is missing is missing."""
    watched = feedwater.watch([7, 8], transport=FakeTransport())
    assert (len(watched), watched[1], watched.index(8)) == (2, 8, 1)
    stream: Any = feedwater.watch(Stream(), transport=FakeTransport())
    assert stream.dataset_name == "three"
    with pytest.raises(TypeError):
        len(stream)
    with pytest.raises(AttributeError):
        stream.nothing  # noqa: B018


def test_leaving_early_and_errors_end_the_epoch_as_incomplete() -> None:
    """Break after one item, then an error after two: both reach the user, both epochs are closed."""

    def failing() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("stream broke")

    fake = FakeTransport()
    watched = feedwater.watch([1, 2, 3], name="s", transport=fake)
    for _ in watched:
        break
    broken = feedwater.watch(failing(), name="b", transport=fake)
    with pytest.raises(OSError, match="stream broke"):
        list(broken)
    assert [(e.head, e.complete) for e in fake.ends("s")] == [(1, False)]
    assert [(e.head, e.complete) for e in fake.ends("b")] == [(2, False)]


def test_copies_and_pickles_are_plain() -> None:
    """A mark belongs to a process: what is copied or pickled is the wrapped iterable."""
    watched = feedwater.watch([1, 2], transport=FakeTransport())
    assert type(pickle.loads(pickle.dumps(watched))) is list
    assert type(copy.copy(watched)) is list


def test_watching_twice_wraps_once() -> None:
    """A second watch of the wrapper returns it."""
    watched = feedwater.watch([1, 2], transport=FakeTransport())
    assert feedwater.watch(watched) is watched


def test_advice_on_an_iterable_is_advice() -> None:
    """Nothing can be applied to it: the outcome is ADVISED."""
    fake = FakeTransport({0: 4})
    watched = feedwater.watch(Stream(), name="s", transport=fake)
    for _ in range(2):
        list(watched)
    assert [a.outcome.value for a in fake.outcomes("s")] == ["advised"]
