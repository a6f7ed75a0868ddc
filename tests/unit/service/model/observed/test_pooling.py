"""Short epochs are judged together: a few batches each, enough in all."""

from __future__ import annotations

from dataclasses import replace

import pytest

from feedwater_service.model import (
    Budget,
    Change,
    Epoch,
    Loader,
    NoRecommendation,
    NoRecommendationReason,
    Pod,
    Policy,
    Recommendation,
    recommend,
    summarise,
)
from feedwater_service.model.fit.transport import deliveries_of
from feedwater_service.model.observed.pooling import informative_epochs, joined, known_batches, pooled
from tests.unit.service.model.synthetic import work

BUDGET = Budget(8)
SLOW = work(0.04, 0.002, 0.0, 0.004)


@pytest.fixture
def played(play_epoch, settings_of):
    """Return the function that plays epochs of so many batches each, one worker, from a number on."""

    def play(*batches: int, workers: int = 1, number: int = 0, of=SLOW) -> list[Epoch]:
        return [
            later(play_epoch(of, settings_of(workers), BUDGET, count, number + i), 100.0 * (number + i))
            if count
            else empty(play_epoch(of, settings_of(workers), BUDGET, 2, number + i))
            for i, count in enumerate(batches)
        ]

    return play


def later(epoch: Epoch, by: float) -> Epoch:
    """Return the epoch so many seconds later."""
    loads = [replace(x, start=x.start + by) for x in epoch.loads]
    return replace(epoch, start=epoch.start + by, loads=loads)


def empty(epoch: Epoch) -> Epoch:
    """Return an epoch that was left before its first batch."""
    return replace(epoch, waits=[], steps=[], loads=[], batches=0, complete=False)


@pytest.mark.parametrize(("batches", "epochs"), [(5, 4), (10, 2), (15, 2), (19, 2)])
def test_short_epochs_get_a_recommendation_together(played, make_pod, batches, epochs):
    """20 batches are needed: 5 come together in the fourth epoch, 15 in the second."""
    for count in range(1, epochs):
        found = recommend(make_pod(played(*[batches] * count), BUDGET), "train", Policy())
        assert isinstance(found, NoRecommendation)
        assert found.reason is NoRecommendationReason.TOO_FEW_BATCHES
        said = f"{count * batches} measured under these settings, 20 are needed."
        assert found.message == f"Epochs of {batches} batches: {said}"
    found = recommend(make_pod(played(*[batches] * epochs), BUDGET), "train", Policy())
    assert isinstance(found, Recommendation)
    assert found.epoch == epochs - 1
    assert 1 < found.settings.num_workers <= batches
    # What is predicted is an epoch of that length, its start-up included.
    assert found.current.batches_per_second == pytest.approx(
        summarise(played(batches)[0]).batches_per_second, rel=0.1
    )


def test_what_an_epoch_has_once_stays_that_of_one(played):
    """Four epochs of 5 batches: 20 batches are known, start-up and length are an epoch's, so is the rate."""
    parts = played(5, 5, 5, 5)
    whole = joined(parts)
    one, all_ = summarise(parts[0]), summarise(whole)
    assert known_batches(whole) == 20
    assert all_.batches == 5
    assert all_.start_up_seconds == pytest.approx(one.start_up_seconds)
    assert all_.batches_per_second == pytest.approx(one.batches_per_second)
    assert all_.starvation == pytest.approx(one.starvation)
    assert len(deliveries_of(whole)) == 4 * len(deliveries_of(parts[0])) > 0


def test_a_long_epoch_is_not_joined(played):
    """It says enough by itself; a peek after it says nothing, and is left out."""
    epochs = played(30, 30, 1, 0)
    kept = informative_epochs(epochs, 20)
    assert [e.number for e in kept] == [0, 1]
    assert pooled(kept, 20) is epochs[1]


def test_peeks_do_not_hide_the_reason(played, make_pod):
    """An epoch of 30 batches, then a peek and an iterator made anew: the answer is still the epoch's."""
    alone = recommend(make_pod(played(30), BUDGET), "train", Policy())
    for batches in ((30, 1), (30, 0), (30, 1, 0)):
        found = recommend(make_pod(played(*batches), BUDGET), "train", Policy())
        assert isinstance(found, Recommendation)
        assert isinstance(alone, Recommendation)
        assert (found.settings, found.sentence) == (alone.settings, alone.sentence)
        # The change takes effect in the epoch after the one that was asked for.
        assert found.epoch == len(batches) - 1


def test_only_epochs_of_the_settings_in_use_are_joined(played, make_pod, settings_of):
    """Three epochs of 10 with 1 worker and one with 4: 10 are known of those."""
    pod = make_pod([*played(10, 10, 10), *played(10, workers=4, number=3)], BUDGET)
    found = recommend(pod, "train", Policy())
    assert isinstance(found, NoRecommendation)
    assert "10 measured under these settings" in found.message


def _changed(epochs: list[Epoch], change: Change) -> Pod:
    loader = Loader("train", 0, change.after, tuple(epochs), changes=(change,), batches_per_epoch=500)
    return Pod(BUDGET, (loader,))


def test_a_change_between_short_epochs_is_judged_once_and_together(played, settings_of):
    """4 workers whose loads take 300 ms lose to 2 of 40: taken back when the second epoch of 10 is there."""
    worse = work(0.3, 0.002, 0.0, 0.004)
    before = played(10, 10, workers=2)
    after = played(10, 10, 10, 10, workers=4, number=2, of=worse)
    change = Change(2, settings_of(2), settings_of(4))
    asked = [recommend(_changed([*before, *after[:n]], change), "train", Policy()) for n in (1, 2, 3)]
    assert isinstance(asked[0], NoRecommendation)
    assert isinstance(asked[1], Recommendation)
    assert asked[1].rolls_back
    assert asked[1].settings.num_workers == 2
    assert not (isinstance(asked[2], Recommendation) and asked[2].rolls_back)


def test_a_change_is_judged_after_a_peek(played, settings_of):
    """The first epoch under the new settings is a peek; the next one is weighed."""
    before = played(30, workers=2)
    after = played(1, 30, workers=4, number=1, of=work(0.3, 0.002, 0.0, 0.004))
    found = recommend(
        _changed([*before, *after], Change(1, settings_of(2), settings_of(4))), "train", Policy()
    )
    assert isinstance(found, Recommendation)
    assert found.rolls_back


def test_a_loop_that_leaves_early_is_judged_by_the_length_that_it_has(played, make_pod):
    """Of 500 batches it takes 10 each time: no more than 10 workers, and what was changed is weighed."""
    epochs = [replace(e, complete=False) for e in played(10, 10, 10)]
    found = recommend(make_pod(epochs, BUDGET, batches_per_epoch=500), "train", Policy())
    assert isinstance(found, Recommendation)
    assert 1 < found.settings.num_workers <= 10
