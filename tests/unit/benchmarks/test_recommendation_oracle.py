"""The measured table, and what others would do on it."""

from __future__ import annotations

import pytest

from tests.benchmarks.recommendation.incumbents import (
    EPOCHS,
    Machine,
    four,
    grid_search,
    hill_climbing,
    lightning,
    torch_maximum,
)
from tests.benchmarks.recommendation.oracle import Table, quiet, table_of
from tests.benchmarks.recommendation.traces import Recorded

RATES = {(0, 2): 20.0, (1, 2): 30.0, (2, 2): 60.0, (4, 2): 98.5, (4, 4): 99.0, (8, 2): 100.0, (16, 2): 90.0}


@pytest.fixture
def table() -> Table:
    """A curve that rises to 8 workers and falls beyond."""
    return Table(RATES, 0.01)


def _recorded(workers: int, seconds: float, foreign: float = 0.0) -> Recorded:
    return Recorded(workers, 2, seconds, 100, foreign, 0)


def test_the_rate_of_a_setting_is_the_median_of_its_epochs() -> None:
    """100 batches in 1, 2 and 4 s are 100, 50 and 25/s: the median is 50."""
    assert table_of([_recorded(2, s) for s in (1.0, 2.0, 4.0)]).rates == {(2, 2): 50.0}


def test_the_noise_is_half_the_spread_of_a_setting() -> None:
    """100 batches in 1.25 and 1 s are 80 and 100/s: half of 20 over the median 90 is 11 %."""
    assert table_of([_recorded(2, s) for s in (1.25, 1.0)]).noise == pytest.approx(10 / 90)


def test_one_epoch_of_each_setting_is_still_noisy() -> None:
    """Without a second epoch nothing is known of the noise; 1 % is assumed, not none."""
    assert table_of([_recorded(2, 1.0)]).noise == 0.01


def test_disturbed_epochs_do_not_count() -> None:
    """Of 100 and 50/s the second was disturbed by a core and a half: the rate is 100."""
    assert table_of([_recorded(2, 1.0), _recorded(2, 2.0, foreign=1.5)]).rates[2, 2] == 100.0


def test_a_setting_that_was_always_disturbed_keeps_its_quietest_epoch() -> None:
    """A count without any epoch would be a hole in the oracle."""
    kept = quiet([_recorded(2, 1.0, foreign=1.5), _recorded(2, 2.0, foreign=0.9)])
    assert [r.seconds for r in kept] == [2.0]


def test_the_thriftiest_setting_has_the_fewest_workers_within_two_percent(table: Table) -> None:
    """Of 100/s at 8 workers, 4 workers give 98.5: enough, and with fewer batches ahead than 4/4."""
    assert table.best == (8, 2)
    assert table.thriftiest == (4, 2)


@pytest.mark.parametrize(
    ("wanted", "nearest"), [((3, 2), (4, 2)), ((5, 4), (4, 4)), ((64, 2), (16, 2)), ((8, 8), (4, 4))]
)
def test_an_unmeasured_setting_is_taken_to_the_nearest(
    table: Table, wanted: tuple[int, int], nearest: tuple[int, int]
) -> None:
    """3 lies between 2 and 4: the larger; 64 is taken to 16; 8/8 is nearer to 4/4 than to 8/2."""
    assert table.nearest(*wanted) == nearest


def test_regret_is_the_share_of_the_best_rate_that_is_lost(table: Table) -> None:
    """60/s of 100/s lose 40 %."""
    assert table.regret((2, 2)) == pytest.approx(0.4)


def test_the_total_time_adds_the_epochs(table: Table) -> None:
    """600 batches at 60/s and at 100/s: 10 s + 6 s."""
    assert table.seconds([(2, 2), (8, 2)], 600) == pytest.approx(16.0)


def test_fixed_rules_ignore_the_start_and_the_quota(table: Table) -> None:
    """On 2 CPUs PyTorch suggests 2, Lightning 1, and scripts say 4, wherever one starts."""
    machine = Machine(2)
    assert set(torch_maximum(table, 0, machine)) == {(2, 2)}
    assert set(lightning(table, 8, machine)) == {(1, 2)}
    assert set(four(table, 8, machine)) == {(4, 2)}


def test_lightning_divides_the_cpus_by_the_ranks(table: Table) -> None:
    """8 CPUs and 2 ranks: 8 // 2 - 1 = 3, measured nearest at 4."""
    assert set(lightning(table, 0, Machine(8, ranks=2))) == {(4, 2)}


def test_hill_climbing_turns_back_where_the_rate_falls(table: Table) -> None:
    """From 4: 8 is better, 16 is worse, so 8 from the fourth epoch on."""
    went = hill_climbing(table, 4, Machine(2))
    assert went == [(4, 2), (8, 2), (16, 2), *[(8, 2)] * 7]


def test_hill_climbing_stays_at_the_largest_measured(table: Table) -> None:
    """From 16 there is nowhere to go."""
    assert hill_climbing(table, 16, Machine(2)) == [(16, 2)] * EPOCHS


def test_grid_search_pays_an_epoch_for_each_count(table: Table) -> None:
    """0, 1, 2, 4, 8 and 16 take six epochs; the best of them, 8, the other four."""
    went = grid_search(table, 2, Machine(2))
    assert went == [(0, 2), (1, 2), (2, 2), (4, 2), (8, 2), (16, 2), *[(8, 2)] * 4]
