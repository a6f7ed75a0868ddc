"""After a change: what the old settings would have done decides, not what they did."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from feedwater_service.model import (
    Budget,
    Change,
    Loader,
    LoaderSettings,
    NoRecommendation,
    NoRecommendationReason,
    Pod,
    Policy,
    Recommendation,
    recommend,
)
from feedwater_service.model.choose.verify import verify
from feedwater_service.model.fit.estimate import estimate
from feedwater_service.model.predict.curve import with_workers
from feedwater_service.model.simulator.cpu import machine_of
from feedwater_service.model.simulator.simulate import Workload
from tests.unit.service.model.synthetic import COSTS, work

BUDGET = Budget(8)


@pytest.fixture
def weigh(play_epoch):
    """Return the function that plays an epoch before and one after a change, and asks."""

    def answer(before: Workload, after: Workload, old: int, new: int) -> Recommendation:
        was, now = with_workers(LoaderSettings(old), old), with_workers(LoaderSettings(new), new)
        epochs = (
            play_epoch(before, was, BUDGET, number=0),
            play_epoch(after, now, BUDGET, number=1),
        )
        loader = Loader("train", 0, now, epochs, changes=(Change(1, was, now),))
        found = recommend(Pod(BUDGET, (loader,)), "train", Policy())
        assert isinstance(found, Recommendation)
        return found

    return answer


def test_verify_takes_back_a_change_that_made_it_slower(weigh):
    """8 workers that thrash the storage (50 ms became 400) lose to the 4 before: 20 against 77 batches/s."""
    found = weigh(work(0.05, 0.001, 0.0, 0.004), work(0.4, 0.001, 0.0, 0.004), 4, 8)
    assert found.rolls_back
    assert found.settings.num_workers == 4
    assert "Back to 4 workers" in found.sentence


def test_verify_does_not_blame_a_change_for_slower_steps(weigh):
    """Steps of 4 ms became 40, by a checkpoint: the old settings would have met them too."""
    assert not weigh(work(0.05, 0.001, 0.0, 0.004), work(0.05, 0.001, 0.0, 0.04), 4, 8).rolls_back


def test_verify_keeps_a_change_that_helped(weigh):
    """Twice the workers for loads of 50 ms and steps of 4 ms."""
    assert not weigh(work(0.05, 0.001, 0.0, 0.004), work(0.05, 0.001, 0.0, 0.004), 4, 8).rolls_back


def test_verify_keeps_a_change_within_noise(weigh):
    """Loads that became 1 % longer with fewer workers are an epoch's noise."""
    assert not weigh(work(0.01, 0.001, 0.0, 0.03), work(0.0101, 0.001, 0.0, 0.03), 4, 2).rolls_back


def test_like_epochs_are_compared_as_they_are(play_epoch):
    """Loads and steps are as before: what the old settings gave they would give, whatever is simulated."""
    was, now = with_workers(LoaderSettings(16), 16), with_workers(LoaderSettings(4), 4)
    same = work(0.05, 0.001, 0.0, 0.012)
    before, after = play_epoch(same, was, BUDGET, number=0), play_epoch(same, now, BUDGET, number=1)
    slow = replace(before, iter_seconds=before.iter_seconds + 1.0)
    loader = Loader("train", 0, now, (slow, after), changes=(Change(1, was, now),))
    old, new = estimate(loader, slow), estimate(loader, after)
    weighed = verify(loader.changes[0], old, new, machine_of(BUDGET))
    assert weighed.expected_before == old.measured.batches_per_second
    assert weighed.helped


def test_unlike_epochs_are_compared_by_simulation(play_epoch):
    """Loads half as long as before would have sped the old settings up, too."""
    was, now = with_workers(LoaderSettings(4), 4), with_workers(LoaderSettings(8), 8)
    before = play_epoch(work(0.05, 0.001, 0.0, 0.004), was, BUDGET, number=0)
    after = play_epoch(work(0.025, 0.001, 0.0, 0.004), now, BUDGET, number=1)
    loader = Loader("train", 0, now, (before, after), changes=(Change(1, was, now),))
    old, new = estimate(loader, before), estimate(loader, after)
    weighed = verify(loader.changes[0], old, new, machine_of(BUDGET))
    assert weighed.expected_before > 1.5 * old.measured.batches_per_second


def test_verify_takes_back_too_few_workers(weigh):
    """Giving 7 of 8 workers back to a loader that needs them all is taken back."""
    found = weigh(work(0.05, 0.001, 0.0, 0.006), work(0.05, 0.001, 0.0, 0.006), 8, 1)
    assert found.rolls_back
    assert found.settings.num_workers == 8


def test_recommend_does_not_try_again_what_failed(play_epoch, make_pod, settings_of):
    """8 workers failed from 4: nothing from 8 up is recommended again."""
    pod = make_pod(
        [play_epoch(work(0.05, 0.001, 0.0, 0.004), settings_of(4), BUDGET)], BUDGET, failed=(settings_of(8),)
    )
    found = recommend(pod, "train", Policy())
    assert isinstance(found, Recommendation)
    assert found.settings.num_workers < 8


def test_recommend_freezes_after_the_last_change(play_epoch, make_pod, settings_of):
    """Six changes are the life's ration."""
    changes = tuple(Change(i, settings_of(i + 1), settings_of(i + 2)) for i in range(6))
    pod = make_pod(
        [play_epoch(work(0.05, 0.001, 0.0, 0.004), settings_of(7), BUDGET, number=9)], BUDGET, changes=changes
    )
    found = recommend(pod, "train", Policy())
    assert isinstance(found, NoRecommendation)
    assert found.reason is NoRecommendationReason.FROZEN


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("start", [0, 1, 16])
def test_twenty_noisy_epochs_settle_without_swinging(play_epoch, seed, start):
    """Loads that differ by 10 % from epoch to epoch: few changes, none in the second half, no way back."""
    noise = random.Random(seed)
    base = Workload(
        tuple((noise.lognormvariate(-4.0, 0.7), noise.uniform(0.002, 0.006)) for _ in range(150)),
        ((0.001, 0.006),),
        **COSTS,
    )
    budget = Budget(4, noise.choice([None, 1.0, 2.5]))
    was = with_workers(LoaderSettings(start), start)
    loader = Loader("train", 0, was, ())
    counts = [start]
    for number in range(20):
        epoch = play_epoch(base.stretched(noise.uniform(0.9, 1.1)), loader.settings, budget, 150, number)
        loader = replace(loader, epochs=(*loader.epochs[-5:], epoch))
        found = recommend(Pod(budget, (loader,)), "train", Policy())
        if isinstance(found, Recommendation) and found.changes:
            failed = (*loader.failed, loader.settings) if found.rolls_back else loader.failed
            change = Change(number + 1, loader.settings, found.settings, rolls_back=found.rolls_back)
            loader = replace(
                loader, settings=found.settings, changes=(*loader.changes, change), failed=failed
            )
        counts.append(loader.settings.num_workers)
    assert len(set(counts[10:])) == 1, counts
    assert sum(a != b for a, b in itertools.pairwise(counts)) <= 4, counts


def test_what_is_near_a_failure_is_not_tried_next(play_epoch, make_pod, settings_of):
    """6 workers failed from 1: no more than 3 are tried."""
    pod = make_pod(
        [play_epoch(work(0.05, 0.001, 0.0, 0.004), settings_of(1), BUDGET)], BUDGET, failed=(settings_of(6),)
    )
    found = recommend(pod, "train", Policy())
    assert isinstance(found, Recommendation)
    assert 1 < found.settings.num_workers <= 3


def test_the_way_back_to_one_worker_is_said_in_the_singular(weigh):
    """4 workers that thrash the storage lose to the one before."""
    found = weigh(work(0.02, 0.001, 0.0, 0.004), work(0.4, 0.001, 0.0, 0.004), 1, 4)
    assert found.sentence.startswith("Back to 1 worker: 4 gave ")
