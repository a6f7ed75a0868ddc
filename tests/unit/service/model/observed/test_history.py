"""What was before another limit or another workload decides nothing any more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from feedwater_service.model import Budget, Change, Epoch, Load, Loader, LoaderSettings
from feedwater_service.model.observed.history import recent_history, same_budget, steady_since

HALF, FOUR = Budget(4, 0.5), Budget(4, 4.0)
TWO, EIGHT = LoaderSettings(2, 2), LoaderSettings(8, 2)


def epoch(
    number: int,
    settings: LoaderSettings = TWO,
    budget: Budget = FOUR,
    blocked: float = 0.02,
    cpu: float = 0.005,
    batch_bytes: int = 1000,
    step: float = 0.01,
) -> Epoch:
    loads = [Load(0, float(i), blocked + cpu, cpu, 0.0, batch_bytes, 1) for i in range(20)]
    return Epoch(number, settings, 0.0, 0.0, [0.01] * 20, [step] * 20, loads=loads, batches=20, budget=budget)


def loader(epochs: list[Epoch], *changes: Change, failed: tuple[LoaderSettings, ...] = ()) -> Loader:
    return Loader("train", 0, epochs[-1].settings, tuple(epochs), changes=changes, failed=failed)


def test_history_is_kept_whole_where_nothing_changed():
    """Four like epochs: the very same loader comes back."""
    known = loader([epoch(n) for n in range(4)], Change(1, EIGHT, TWO))
    assert recent_history(known, FOUR) is known


def test_history_ends_at_another_cpu_limit():
    """Epochs 0 and 1 ran under half a core, 2 and 3 under four."""
    epochs = [epoch(0, budget=HALF), epoch(1, budget=HALF), epoch(2), epoch(3)]
    assert steady_since(epochs, FOUR) == 2
    assert [e.number for e in recent_history(loader(epochs), FOUR).epochs] == [2, 3]


@pytest.mark.parametrize(
    "other",
    [{"blocked": 0.1}, {"blocked": 0.0, "cpu": 0.002}, {"batch_bytes": 1600}, {"step": 0.02}],
    ids=["slower loads", "faster loads", "larger batches", "longer steps"],
)
def test_history_ends_at_another_workload(other):
    """Under the same settings loads, sizes or steps that differ by far are another workload."""
    assert steady_since([epoch(0), epoch(1, **other)], FOUR) == 1


@pytest.mark.parametrize(
    "other",
    [{"blocked": 0.03}, {"cpu": 0.008}, {"batch_bytes": 1400}, {"step": 0.015}],
    ids=["loads", "CPU time", "sizes", "steps"],
)
def test_history_goes_on_through_noise(other):
    """A first epoch was seen to take 1.5 times as long as the next: that is no other workload."""
    assert steady_since([epoch(0), epoch(1, **other)], FOUR) is None


def test_history_goes_on_where_storage_is_slower_for_more_workers():
    """Blocked time that grows fourfold from 2 to 8 workers is a ceiling: both epochs are needed to see it."""
    assert steady_since([epoch(0, TWO), epoch(1, EIGHT, blocked=0.08)], FOUR) is None


def test_history_ends_where_more_workers_are_blocked_less():
    """More workers cannot have made storage faster: the page cache was filled meanwhile."""
    assert steady_since([epoch(0, TWO, blocked=0.08), epoch(1, EIGHT)], FOUR) == 1


def test_failures_under_another_limit_are_forgiven():
    """8 workers failed under half a core; what could not be applied at all still counts."""
    epochs = [epoch(1, budget=HALF), epoch(2)]
    back = Change(1, EIGHT, TWO, rolls_back=True, budget=HALF)
    could_not = LoaderSettings(16, 2)
    found = recent_history(loader(epochs, back, failed=(EIGHT, could_not)), FOUR)
    assert found.failed == (could_not,)
    assert found.changes == ()


def test_changes_of_epochs_that_are_not_kept_any_more_say_their_budget():
    """Epoch 3 was changed under half a core, and only epochs 30 and 31 are kept."""
    old, new = Change(3, TWO, EIGHT, budget=HALF), Change(20, EIGHT, TWO, budget=FOUR)
    assert recent_history(loader([epoch(30), epoch(31)], old, new), FOUR).changes == (new,)


def test_an_unknown_budget_is_like_any():
    """An epoch from before the limits were reported ends nothing."""
    assert same_budget(None, FOUR)
    assert not same_budget(HALF, FOUR)
    assert not same_budget(replace(FOUR, memory_bytes=1000), replace(FOUR, memory_bytes=2000))
