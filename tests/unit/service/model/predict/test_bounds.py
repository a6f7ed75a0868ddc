"""Predictions with bounds: what an epoch and those before it allow to say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from feedwater_service.model import Budget, LoaderSettings, Policy, analyse
from feedwater_service.model.fit.memory import Footprint
from feedwater_service.model.predict.bounds import EarlierEpochs, earlier_epochs, predict
from feedwater_service.model.simulator.simulate import Workload

WORK = Workload(
    ((0.03, 0.001),),
    ((0.0, 0.002),),
    send_cpu_seconds=0.0003,
    receive_cpu_seconds=0.0005,
    pass_cpu_seconds=0.00027,
    wake_seconds=0.00013,
    fork_cpu_seconds=0.014,
    boot_cpu_seconds=0.016,
    exit_cpu_seconds=0.0045,
)
NO_MEMORY = Footprint(None, None, None)
BUDGET = Budget(8)


def analysed(make_pod, epochs):
    return analyse(make_pod(epochs, BUDGET), "train", Policy())


def width(prediction):
    return (
        prediction.batches_per_second_upper - prediction.batches_per_second_lower
    ) / prediction.batches_per_second


def predictions(made, **changed):
    context = replace(made.context, **changed)
    return {p.settings.num_workers: predict(context.corrected(p), context, NO_MEMORY) for p in made.points}


def test_bounds_of_more_workers_span_a_ceiling_that_was_not_met(play_epoch, make_pod, settings_of):
    """From 2 workers, 8 could give 4 times as much or, if storage permits no more, hardly more than 2."""
    found = predictions(analysed(make_pod, [play_epoch(WORK, settings_of(2), BUDGET)]))
    assert found[8].batches_per_second_lower < 1.3 * found[2].batches_per_second
    assert found[8].batches_per_second_upper < 1.2 * found[8].batches_per_second


def test_a_second_count_lifts_the_lower_bound(play_epoch, make_pod, settings_of):
    """Seen at 2 and at 8, nothing below 8 is held down by a ceiling any more: bounds of 10 % remain."""
    epochs = [play_epoch(WORK, settings_of(8), BUDGET), play_epoch(WORK, settings_of(2), BUDGET, number=1)]
    found = predictions(analysed(make_pod, epochs))
    assert width(found[8]) < 0.15
    assert width(found[4]) < 0.15


def test_a_checked_count_corrects_its_neighbours(play_epoch, make_pod, settings_of):
    """8 workers gave 20 % less than simulated: 6 are expected to give less too, and 0 are not."""
    epochs = [play_epoch(WORK, settings_of(8), BUDGET), play_epoch(WORK, settings_of(2), BUDGET, number=1)]
    slower = replace(epochs[0], waits=[w * 1.3 + 0.001 for w in epochs[0].waits])
    plain, corrected = (predictions(analysed(make_pod, [first, epochs[1]])) for first in (epochs[0], slower))
    assert corrected[6].batches_per_second < 0.99 * plain[6].batches_per_second
    assert corrected[0].batches_per_second == pytest.approx(plain[0].batches_per_second)


def test_without_a_past_only_the_present_epoch_speaks(play_epoch, make_pod, settings_of):
    """One epoch has no earlier ones to look back on."""
    epoch = play_epoch(WORK, settings_of(2), BUDGET)
    made = analysed(make_pod, [epoch])
    assert (
        earlier_epochs([epoch], epoch, made.context.estimate, made.context.machine, None) == EarlierEpochs()
    )
    assert made.context.earlier == EarlierEpochs()


def test_what_was_not_measured_widens_the_bounds(play_epoch, make_pod, settings_of):
    """Without stamps from the workers how loads divide is assumed: bounds are more than twice as wide."""
    epoch = play_epoch(WORK, settings_of(2), BUDGET)
    known, assumed = (predictions(analysed(make_pod, [e]))[1] for e in (epoch, replace(epoch, loads=())))
    assert width(assumed) > 2 * width(known)


def test_the_settings_in_use_are_known_best(play_epoch, make_pod, settings_of):
    """What was measured at 4 workers bounds 4 workers narrowly."""
    found = predictions(analysed(make_pod, [play_epoch(WORK, settings_of(4), BUDGET)]))
    assert width(found[4]) == min(width(p) for n, p in found.items() if n > 0)
    assert found[4].settings == LoaderSettings(4, 2)
