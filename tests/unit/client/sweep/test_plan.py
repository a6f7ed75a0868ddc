"""Which settings a sweep tries, in which order, and which the budget does not carry."""

from __future__ import annotations

import pytest

from feedwater.sweep.plan import Needs, Room, order_of, settings_to_try, top_count
from feedwater.values import LoaderSettings

MIB = 1 << 20
OWN = LoaderSettings(2, 2)
ROOMY = Room(None, None, None, None)


def counts(made: list[LoaderSettings]) -> list[int]:
    return [s.num_workers for s in made]


@pytest.mark.parametrize(
    ("asked", "own", "cores", "predicted", "top"),
    [
        (None, 2, 2.0, [6], 11),
        (None, 2, 0.5, [], 5),
        (None, 1, 64.0, [40], 32),
        (None, 40, 8.0, [4], 40),
        (3, 2, 2.0, [6], 3),
        (0, 2, 2.0, [6], 0),
    ],
)
def test_top_count_is_well_past_the_predicted_best(asked, own, cores, predicted, top):
    """1.5 times the largest of own, cores and predicted, and 2; at most 32, never below the own."""
    assert top_count(asked, own, cores, predicted) == top


def test_settings_hold_the_own_one_the_top_and_the_choice():
    """Counts rise from 0 to the top; 7, which is on no grid, is there because it was chosen."""
    made = settings_to_try(OWN, 11, (), [LoaderSettings(7, 2), OWN])
    assert counts(made) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11]
    assert len(set(made)) == len(made)


def test_choice_above_the_top_is_left_out():
    """``--max-workers 2`` is the user's word: 8 is not tried."""
    assert counts(settings_to_try(OWN, 2, (), [LoaderSettings(8, 2)])) == [0, 1, 2]


def test_prefetch_factors_multiply_all_counts_but_none():
    """Without workers there is nothing to prefetch, so 0 is tried once."""
    made = settings_to_try(LoaderSettings(1, 3), 2, (2, 4), [])
    assert [(s.num_workers, s.prefetch_factor) for s in made] == [(0, None), (1, 2), (1, 4), (2, 2), (2, 4)]


def test_other_settings_stay_the_users():
    """What is not swept is not changed: pinned memory stays pinned."""
    made = settings_to_try(LoaderSettings(1, 2, persistent_workers=True, pin_memory=True), 2, (), [])
    assert all(s.pin_memory and s.persistent_workers for s in made)


def test_order_rises_and_falls_by_turns():
    """A cache that warms, or a machine that slows down, is then no setting's merit or fault."""
    made = settings_to_try(OWN, 3, (), [])
    assert counts(order_of(0, made)) == [0, 1, 2, 3]
    assert counts(order_of(1, made)) == [3, 2, 1, 0]


def test_nothing_is_refused_without_limits():
    """64 workers of unknown size are fine where nothing bounds them."""
    assert Needs().refusal(LoaderSettings(64, 2), ROOMY) == ""


def test_workers_that_memory_does_not_carry_are_refused():
    """4 workers of 200 MiB and 10 batches of 10 MiB are 900 MiB; 950 are free, less 100 kept."""
    needs = Needs()
    needs.learn(1, 200 * MIB, 10 * MIB)
    room = Room(950 * MIB, 1000 * MIB, None, None)
    assert needs.refusal(LoaderSettings(3, 2), room) == ""
    assert (
        needs.refusal(LoaderSettings(4, 2), room) == "needs 900 MiB of memory, 950 MiB of 1000 MiB are free"
    )


def test_batches_that_shared_memory_does_not_hold_are_refused():
    """4 workers keep 8 batches and the loop 2: 100 MiB of 64. Without workers nothing is kept."""
    needs = Needs()
    needs.learn(0, None, 10 * MIB)
    room = Room(None, None, 64 * MIB, 64 * MIB)
    assert "of /dev/shm" in needs.refusal(LoaderSettings(4, 2), room)
    assert needs.refusal(LoaderSettings(0), room) == ""
    assert needs.refusal(LoaderSettings(1, 2), room) == ""


def test_count_at_most_doubles_until_a_worker_was_seen():
    """Under a memory limit 2 workers of unknown size are tried, 3 are not; after that their size is known."""
    needs, room = Needs(), Room(900 * MIB, 1000 * MIB, None, None)
    assert needs.refusal(LoaderSettings(2, 2), room) == ""
    assert needs.refusal(LoaderSettings(3, 2), room) == "what a worker takes of the memory limit is not known"
    needs.learn(2, 100 * MIB, 0)
    assert needs.refusal(LoaderSettings(3, 2), room) == ""
