"""Reading memory has a price, and the observer keeps to its share."""

from __future__ import annotations

import os

import pytest

from feedwater.relay import observer
from feedwater.relay.observer import PSS_FIRST_SECONDS, Observer


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.seconds


def has_pss(one: Observer) -> bool:
    return any(usage.pss_bytes is not None for usage in one.processes([]))


def begin(one: Observer, clock: Clock) -> bool:
    """Begin an epoch and return whether its memory was read when it was due."""
    clock.seconds += 1
    one.begin_epoch()
    clock.seconds += PSS_FIRST_SECONDS
    return has_pss(one)


def test_proportional_memory_is_read_early_in_the_first_epoch() -> None:
    """Two seconds after the begin, not before: workers have then loaded something."""
    clock = Clock()
    one = Observer(os.getpid(), clock)
    one.begin_epoch()
    assert not has_pss(one)
    clock.seconds += PSS_FIRST_SECONDS
    assert has_pss(one)


def test_short_epochs_do_not_read_it_beyond_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a share so small that one reading is paid for only after hours, the second epoch reads nothing."""
    monkeypatch.setattr(observer, "PSS_SHARE", 1e-9)
    clock = Clock()
    one = Observer(os.getpid(), clock)
    assert begin(one, clock)
    assert not begin(one, clock)


def test_long_epochs_read_it_in_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the share has been paid for, each epoch's workers are read once they are warm."""
    monkeypatch.setattr(observer, "PSS_SHARE", 1e9)
    clock = Clock()
    one = Observer(os.getpid(), clock)
    assert begin(one, clock)
    assert begin(one, clock)
