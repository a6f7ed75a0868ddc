"""The arithmetic of the table."""

from __future__ import annotations

import pytest

from feedwater.sweep.figures import Row, best_of, regret, row_of, thriftiest_of
from feedwater.sweep.measure import MeasuredEpoch, whole
from feedwater.values import LoaderSettings, Prediction


def row(workers: int, *rates: float, predicted: float | None = None, prefetch: int = 2) -> Row:
    settings = LoaderSettings(workers, prefetch if workers else None)
    made = (
        None if predicted is None else Prediction(settings, predicted, 0.9 * predicted, 1.1 * predicted, 0.5)
    )
    return Row(settings, made, [MeasuredEpoch(100, 100 / rate, 0.1, 0.5, 0.5) for rate in rates])


def test_row_is_the_median_of_its_rounds():
    """Of 30, 50 and 40 batches/s the median is 40; 44 predicted is 10 % too much, and within 39.6 to 48.4."""
    one = row(2, 30, 50, 40, predicted=44)
    assert one.rate == pytest.approx(40)
    assert one.error == pytest.approx(0.1)
    assert one.is_within_bounds is True
    assert one.starvation == 0.5


def test_row_without_measurement_has_no_error():
    """Nothing measured is no zero: no error, no word on the bounds."""
    one = row(2, predicted=44)
    assert (one.rate, one.error, one.is_within_bounds) == (0.0, None, None)


def test_best_is_the_fastest_and_the_thriftiest_is_near_it():
    """59.5 with 3 workers is within 2 % of 60 with 8, 58 with 2 is not."""
    rows = [row(0, 20), row(2, 58), row(3, 59.5), row(8, 60), row(9)]
    assert best_of(rows) is rows[3]
    assert thriftiest_of(rows) is rows[2]
    assert best_of([row(1)]) is None


def test_rows_are_found_by_count_and_depth():
    """PyTorch's default depth is 2, and without workers there is none."""
    rows = [row(0, 1), row(2, 1), row(2, 1, prefetch=4)]
    assert row_of(rows, LoaderSettings(2)) is rows[1]
    assert row_of(rows, LoaderSettings(2, 4)) is rows[2]
    assert row_of(rows, LoaderSettings(0, 4)) is rows[0]
    assert row_of(rows, None) is None


def test_regret_is_the_median_over_pairs_with_half_their_range_as_noise():
    """49 of 50, 48 of 50 and 40 of 40 lose 2 %, 4 % and 0 %: 2 % with a noise of 2 %, so none for sure."""
    lost = regret([50, 50, 40], [49, 48, 40])
    assert lost is not None
    assert (lost.share, lost.noise) == pytest.approx((0.02, 0.02))
    assert (lost.pairs, lost.best, lost.other) == (3, 50, 48)
    assert lost.is_noise
    assert regret([], [1.0]) is None


def test_epoch_cut_short_counts_as_the_part_before_went():
    """21 batches in 12 s, 2 s of them start-up, are 0.5 s each; 41 batches would be 22 s."""
    made = whole(MeasuredEpoch(21, 12.0, 2.0, 6.0, 4.0), 41)
    assert (made.batches, made.seconds, made.wait_seconds, made.step_seconds) == (41, 22.0, 12.0, 8.0)
    assert made.is_cut
    assert made.starvation == pytest.approx(0.6)
