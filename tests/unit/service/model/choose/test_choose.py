"""Changes are few: what was changed three times in twenty epochs stays, until limit or workload change."""

from __future__ import annotations

from dataclasses import replace

import pytest

from feedwater_service.model import Budget, Change, Policy, Recommendation, recommend
from feedwater_service.model.choose.choose import recent_changes
from feedwater_service.model.simulator.simulate import Workload

WORK = Workload(((0.05, 0.001),), ((0.0, 0.004),), receive_cpu_seconds=0.0005)
NOW, OTHER = Budget(8), Budget(8, 0.5)


@pytest.fixture
def asked(play_epoch, make_pod, settings_of):
    """Return the function that asks after epoch 9 with 4 workers, where 16 would gain."""

    def ask(*changes: Change, number: int = 9) -> Recommendation:
        epoch = play_epoch(WORK, settings_of(4), NOW, 150, number=number)
        found = recommend(make_pod([epoch], NOW, changes=changes), "train", Policy())
        assert isinstance(found, Recommendation)
        return found

    return ask


@pytest.fixture
def three(settings_of):
    """Three changes, at epochs 2, 4 and 6."""
    return tuple(Change(2 * n, settings_of(n), settings_of(n + 1), budget=NOW) for n in (1, 2, 3))


def test_a_loader_that_was_changed_twice_may_be_changed_again(asked, three):
    """The bar is three in twenty epochs."""
    assert asked(*three[:2]).changes


def test_a_loader_that_was_changed_three_times_stays_for_a_while(asked, three):
    """It says what is wrong all the same."""
    found = asked(*three)
    assert not found.changes
    assert found.uncapped_num_workers > 4


def test_twenty_epochs_later_it_may_be_changed_again(asked, three):
    """The last of the three was at epoch 6."""
    assert asked(*three, number=30).changes


def test_another_limit_gives_room_at_once(asked, three):
    """What was decided under half a core does not count under eight."""
    assert asked(*(replace(c, budget=OTHER) for c in three)).changes


def test_a_change_taken_back_counts_twice(make_pod, play_epoch, settings_of):
    """There and back again are two changes."""
    there = Change(3, settings_of(4), settings_of(8))
    back = Change(4, settings_of(8), settings_of(4), rolls_back=True)
    epoch = play_epoch(WORK, settings_of(4), NOW, 30, number=9)
    assert recent_changes(make_pod([epoch], NOW, changes=(there, back)).loaders[0]) == 2
