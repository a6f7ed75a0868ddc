"""Amounts as they stand in sentences."""

from __future__ import annotations

import pytest

from feedwater_service.model.text import cores_text, gain_text, number_text, percent_text, seconds_text


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0.0, "0"), (1e-9, "0"), (0.125, "0.125"), (12.34, "12.3"), (1234.0, "1230"), (1e6, "1000000")],
)
def test_numbers_have_three_digits_and_no_exponent(amount: float, text: str) -> None:
    """A thousand and more keeps its zeros; what is below every measurement is 0."""
    assert number_text(amount) == text


def test_amounts_of_all_units_have_no_exponent() -> None:
    """Cores, seconds and shares of a thousand and more are plain numbers, too."""
    assert (cores_text(1536), seconds_text(4000), percent_text(12.34)) == ("1540 cores", "4000 s", "1230%")


@pytest.mark.parametrize(
    ("gain", "text"), [(0.94, "+94%"), (-0.2, "-20%"), (10.0, "+1000%"), (37192.47, "over +1000%")]
)
def test_gains_are_told_up_to_a_thousand_per_cent(gain: float, text: str) -> None:
    """Beyond that the number says nothing that was measured."""
    assert gain_text(gain) == text
