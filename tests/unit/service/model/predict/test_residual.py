"""The simulation's residuals, observed at some counts and predicted for others."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedwater_service.model.numbers import floors
from feedwater_service.model.predict.residual import GridPoint, Observation, posterior

GRID_POINTS = st.builds(GridPoint, st.integers(0, 64), st.floats(0.0, 1.0))
OBSERVATIONS = st.lists(
    st.builds(Observation, GRID_POINTS, st.floats(-0.5, 0.5), st.floats(0.0, 0.01)), max_size=4
)


def test_unchecked_the_simulation_is_believed_as_it_is():
    """Nothing checked on busy CPUs: a factor of 1, with the usual 9 % and an epoch's 1 % as its spread."""
    found = posterior(GridPoint(4, 1.0), ())
    assert found.factor == 1.0
    assert found.spread == pytest.approx(math.hypot(floors.PRIOR_SD_BUSY, floors.EPOCH_NOISE_SD))


def test_a_miss_is_believed_where_it_was_measured():
    """0.06 on busy CPUs, an epoch's 1 % of noise: 0.06 x 0.0081 / (0.0081 + 0.0001) = 0.0593 is believed."""
    here = GridPoint(4, 1.0)
    found = posterior(here, [Observation(here, 0.06, 0.0)])
    assert math.log(found.factor) == pytest.approx(0.0593, abs=0.0001)
    assert found.spread < 1.5 * floors.EPOCH_NOISE_SD


def test_a_miss_fades_with_the_distance_in_workers():
    """Missing by 6 % at 4 workers says most of 5, less of 8, still less of 64."""
    observations = [Observation(GridPoint(4, 1.0), 0.06, 0.0)]
    factors = [posterior(GridPoint(n, 1.0), observations).factor for n in (4, 5, 8, 64)]
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] > 1.0


def test_workers_say_nothing_of_none():
    """Without workers nothing is handed over: a miss with them is not carried over."""
    found = posterior(GridPoint(0, 0.5), [Observation(GridPoint(4, 1.0), 0.06, 0.0)])
    assert found.factor == pytest.approx(1.0)


def test_idle_cpus_leave_little_to_miss():
    """Where CPUs are idle the simulation misses 3 %, not 9."""
    assert GridPoint(4, 0.1).prior_sd == pytest.approx(floors.PRIOR_SD_IDLE, abs=1e-4)
    assert posterior(GridPoint(4, 0.1), ()).spread < 0.5 * posterior(GridPoint(4, 1.0), ()).spread


def test_a_noisy_epoch_says_less():
    """The same miss with a standard error of 9 % is believed half as much as with none."""
    here = GridPoint(4, 1.0)
    sure, noisy = (posterior(here, [Observation(here, 0.06, v)]) for v in (0.0, 0.09**2))
    assert math.log(noisy.factor) < 0.52 * math.log(sure.factor)
    assert noisy.spread > sure.spread


@given(GRID_POINTS, OBSERVATIONS)
def test_posteriors_are_bounded_and_observations_only_narrow_them(grid_point, observations):
    """No belief goes beyond what was measured; what was checked never widens the doubt."""
    found = posterior(grid_point, observations)
    assert found.spread <= posterior(grid_point, ()).spread + 1e-9
    assert abs(math.log(found.factor)) <= 4 * floors.MAX_RESIDUAL + 1e-9
