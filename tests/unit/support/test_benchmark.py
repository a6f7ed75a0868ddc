"""The arithmetic of benchmark rows."""

from __future__ import annotations

import json
import random
import statistics
from pathlib import Path

import pytest

from tests.support.benchmark import Options, Row, interval, number, options, percentile, publish, row, table


def test_interval_of_five_values_is_their_extremes() -> None:
    """Of five values the extremes enclose the median with 1 - 2/32 = 93.75 %: no narrower pair is allowed."""
    assert interval([3, 1, 2, 5, 4]) == (1, 5)


def test_interval_of_nine_values_drops_one_on_each_side() -> None:
    """Of nine, the 2nd and 8th enclose it with 1 - 2 * (1 + 9) / 512 = 96.1 %; the 3rd and 7th with 82 %."""
    assert interval([9, 8, 7, 6, 5, 4, 3, 2, 1]) == (2, 8)


def test_interval_encloses_the_true_median_as_often_as_it_says() -> None:
    """Of 2,000 samples of 12 from a skewed distribution at least 95 % of the intervals hold the median."""
    draw = random.Random(7)
    truth = 0.6931471805599453  # ln 2, the median of the exponential distribution
    held = 0
    for _ in range(2_000):
        low, high = interval([draw.expovariate(1) for _ in range(12)])
        held += low <= truth <= high
    assert held / 2_000 >= 0.95


def test_row_states_the_median_of_its_runs() -> None:
    """Of 1, 2 and 9 the median is 2, whatever the mean."""
    one = row("a figure", "ms", [9.0, 1.0, 2.0])
    assert (one.median, one.low, one.high, one.runs) == (statistics.median([1, 2, 9]), 1.0, 9.0, 3)


@pytest.mark.parametrize(
    ("bar", "median", "holds"),
    [
        ("<= 0.6", 0.6, True),
        ("<= 0.6", 0.61, False),
        (">= 6", 5.9, False),
        (">= 6", 6.0, True),
        ("", 1.0, None),
    ],
)
def test_a_bar_is_kept_at_its_bound_and_not_beyond(bar: str, median: float, holds: bool | None) -> None:
    """A bar's own bound keeps it; no bar is neither kept nor missed."""
    assert Row("a figure", "µs", median, median, median, 5, bar).holds is holds


def test_percentile_is_the_nearest_rank() -> None:
    """Of 1 to 1,000 the 99.9th percentile is 999: 999 of 1,000 values lie at or below it."""
    assert percentile([float(i) for i in range(1, 1_001)], 0.999) == 999


@pytest.mark.parametrize(
    ("value", "text"), [(0.1234, "0.123"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12346"), (0, "0")]
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    """Three digits say what a noisy machine can; whole digits are never rounded away."""
    assert number(value) == text


def test_published_rows_carry_machine_versions_and_command(tmp_path: Path) -> None:
    """A row alone says where it came from."""
    file = tmp_path / "results" / "x.json"
    publish("How long?\n\nMore.", [row("a figure", "ms", [1.0])], Options(False, file, None))
    body = json.loads(file.read_text())
    assert body["question"] == "How long?"
    assert set(body["rows"][0]) >= {"machine", "versions", "commit", "median", "low", "high", "runs", "holds"}


def test_options_default_to_a_full_run_that_writes_nothing() -> None:
    """Without options a benchmark runs in full and prints only."""
    assert options("Doc.", []) == Options(quick=False, json=None, lock=None)


def test_a_table_names_a_missed_bar() -> None:
    """A miss is not passed over."""
    assert "MISSED" in table([row("a figure", "ms", [2.0], bar="<= 1")])
