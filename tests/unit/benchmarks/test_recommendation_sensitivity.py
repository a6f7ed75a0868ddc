"""The sensitivity table: numbers come from their homes, each is varied by its kind, the page is current."""

from __future__ import annotations

import json

import pytest

from feedwater_service.model.numbers import costs, floors, thresholds
from tests.benchmarks.recommendation.sensitivity import (
    PAGE,
    RESULTS,
    Number,
    block,
    numbers,
    recorded,
    row_of,
    varied,
)


def test_every_floor_and_threshold_is_varied_and_no_cost():
    """108 and more, found in the modules themselves."""
    found = {n.name for n in numbers()}
    assert found == {n for home in (floors, thresholds) for n in vars(home) if n.isupper()}
    assert not found & set(vars(costs))


@pytest.mark.parametrize(
    ("value", "halved", "doubled"),
    [(0.05, 0.025, 0.1), (0.9, 0.95, 0.8), (1.15, 1.075, 1.3), (2.2, 1.1, 4.4), (10, 5, 20), (1, 1, 2)],
)
def test_a_number_is_varied_by_its_kind(value, halved, doubled):
    """Shares above a half by their distance from one, factors by their excess, whole numbers stay whole."""
    number = Number("floors", "ANY", value)
    assert number.times(0.5) == pytest.approx(halved)
    assert number.times(2.0) == pytest.approx(doubled)
    assert isinstance(number.times(0.5), type(value))


def test_a_number_is_varied_for_a_while_only():
    """All who read it by its home's name see the other value, and then its own again."""
    number = next(n for n in numbers() if n.name == "MIN_SAMPLES")
    with varied(number, 5):
        assert floors.MIN_SAMPLES == 5
    assert number.value == floors.MIN_SAMPLES


def test_numbers_that_are_read_are_recorded():
    """What was never read cannot have decided anything, and is not scored again."""
    with recorded() as read:
        assert thresholds.MIN_STARVATION
    assert "MIN_STARVATION" in read
    assert "MIN_SAMPLES" not in read


def test_the_page_has_the_results():
    """The table of docs/sensitivity.md is that of docs/recommendation/sensitivity.json."""
    body = json.loads(RESULTS.read_text())
    assert block([row_of(row) for row in body["rows"]], body["about"]) in PAGE.read_text()
