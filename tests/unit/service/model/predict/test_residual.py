"""What the simulation misses, carried from where it was checked."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedwater_service.model.predict.residual import EPOCHS, LEAST, MOST, WILD, Checked, Place, believe

PLACES = st.builds(Place, st.integers(0, 64), st.floats(0.0, 1.0))
CHECKS = st.lists(st.builds(Checked, PLACES, st.floats(-0.5, 0.5), st.floats(0.0, 0.01)), max_size=4)


def test_unchecked_the_simulation_is_believed_as_it_is():
    """Nothing checked on busy CPUs: a factor of 1, with the usual 9 % and an epoch's 1 % as its spread."""
    found = believe(Place(4, 1.0), ())
    assert found.factor == 1.0
    assert found.spread == pytest.approx(math.hypot(MOST, EPOCHS))


def test_a_miss_is_believed_where_it_was_measured():
    """0.06 on busy CPUs, an epoch's 1 % of noise: 0.06 x 0.0081 / (0.0081 + 0.0001) = 0.0593 is believed."""
    here = Place(4, 1.0)
    found = believe(here, [Checked(here, 0.06, 0.0)])
    assert math.log(found.factor) == pytest.approx(0.0593, abs=0.0001)
    assert found.spread < 1.5 * EPOCHS


def test_a_miss_fades_with_the_distance_in_workers():
    """Missing by 6 % at 4 workers says most of 5, less of 8, still less of 64."""
    checked = [Checked(Place(4, 1.0), 0.06, 0.0)]
    factors = [believe(Place(n, 1.0), checked).factor for n in (4, 5, 8, 64)]
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] > 1.0


def test_workers_say_nothing_of_none():
    """Without workers nothing is handed over: a miss with them is not carried over."""
    found = believe(Place(0, 0.5), [Checked(Place(4, 1.0), 0.06, 0.0)])
    assert found.factor == pytest.approx(1.0)


def test_idle_cpus_leave_little_to_miss():
    """Where CPUs are idle the simulation misses 3 %, not 9."""
    assert Place(4, 0.1).size == pytest.approx(LEAST, abs=1e-4)
    assert believe(Place(4, 0.1), ()).spread < 0.5 * believe(Place(4, 1.0), ()).spread


def test_a_noisy_epoch_says_less():
    """The same miss with a standard error of 9 % is believed half as much as with none."""
    here = Place(4, 1.0)
    sure, noisy = (believe(here, [Checked(here, 0.06, v)]) for v in (0.0, 0.09**2))
    assert math.log(noisy.factor) < 0.52 * math.log(sure.factor)
    assert noisy.spread > sure.spread


@given(PLACES, CHECKS)
def test_beliefs_are_bounded_and_checks_only_narrow_them(place, checked):
    """No belief goes beyond what was measured; what was checked never widens the doubt."""
    found = believe(place, checked)
    assert found.spread <= believe(place, ()).spread + 1e-9
    assert abs(math.log(found.factor)) <= 4 * WILD + 1e-9
