"""The arithmetic of scores."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tests.benchmarks.recommendation import results
from tests.benchmarks.recommendation.closed_loop import changes, settled_after
from tests.benchmarks.recommendation.drive import Driven
from tests.benchmarks.recommendation.figures import (
    Figure,
    driven,
    excess,
    measured_again,
    over,
    relative_totals,
)
from tests.benchmarks.recommendation.oracle import Table
from tests.benchmarks.recommendation.page import renewed
from tests.benchmarks.recommendation.pairs import Pair, regret
from tests.benchmarks.recommendation.score import (
    Run,
    Scored,
    is_false_starvation,
    loss_beyond_noise,
    quantile,
    smallest_as_good,
)
from tests.benchmarks.recommendation.workloads import SWEPT, Workload

DOCS = Path(__file__).resolve().parents[3] / "docs"
TABLE = Table({(0, 2): 50.0, (2, 2): 99.0, (4, 2): 100.0}, 0.01)
RUN = Run(
    workload="io",
    family="io",
    held_out=False,
    start=2,
    settings=((2, 2), (4, 2), (4, 2)),
    settled_after=1,
    changes=1,
    regret=0.0,
    noise=0.01,
    best=(4, 2),
    thriftiest=(2, 2),
    seconds=11.0,
    oracle_seconds=10.0,
    user_seconds=20.0,
    verdict="TOO_FEW_WORKERS",
    right=True,
    false_starvation=False,
    slower_than_start=0.0,
    replaced=0,
    others={"fixed 4": 10.0},
    others_regret={"fixed 4": 0.0},
)


def _work(step: float) -> Workload:
    return dataclasses.replace(SWEPT[0], step_cpu=0.0, step_timed=step)


@pytest.mark.parametrize(
    ("settings", "settled", "changed"),
    [
        ([2, 2, 2, 2], 0, 0),
        ([2, 6, 6, 6], 1, 1),
        ([2, 6, 5, 5], 2, 2),
        ([2, 6, 2, 2], 2, 2),
        ([2, 6, 2, 6], 3, 3),
    ],
)
def test_settled_counts_the_epochs_before_the_last_setting(
    settings: list[int], settled: int, changed: int
) -> None:
    """2 6 5 5 settled after two observed epochs, with two changes; 2 2 2 2 was settled from the start."""
    went = [(n, 2) for n in settings]
    assert (settled_after(went), changes(went)) == (settled, changed)


def test_a_loss_counts_only_beyond_twice_the_noise() -> None:
    """From 100 to 95/s is 5 %, of which 2 % may be the noise of 1 % on both sides."""
    assert loss_beyond_noise(100, 95, 0.01) == pytest.approx(0.03)
    assert loss_beyond_noise(100, 99, 0.01) == 0.0


@pytest.mark.parametrize(
    ("verdict", "rate", "step", "false"),
    [
        ("TOO_FEW_WORKERS", 99.0, 0.001, True),  # the best, 100, gains 1 %
        ("TOO_FEW_WORKERS", 50.0, 0.001, False),  # it gains 100 %
        ("CPU_LIMIT", 99.0, 0.001, False),  # the step would allow 1,000/s: it is starved, and nothing helps
        ("CPU_LIMIT", 99.0, 0.01, True),  # the step allows 100/s: it is not starved
        ("NOT_STARVED", 99.0, 0.01, False),
    ],
)
def test_starvation_is_false_where_nothing_is_to_be_gained(
    verdict: str, rate: float, step: float, false: bool
) -> None:
    """A cure promised where the best gains under 2 %, or a shortage where the step sets the pace."""
    assert is_false_starvation(verdict, rate, TABLE, _work(step)) is false


def test_the_null_models_choice_is_the_smallest_as_good() -> None:
    """Of 10, 19.95 and 20 the second is within 0.5 % of the best; 19.8 is not."""
    assert smallest_as_good({1: 10.0, 2: 19.95, 4: 20.0}) == 2
    assert smallest_as_good({1: 10.0, 2: 19.8, 4: 20.0}) == 4


def test_a_quantile_is_the_nearest_rank() -> None:
    """Of 1 to 20 the 95th percentile is 19; of five values it is the largest."""
    assert quantile([float(n) for n in range(1, 21)], 0.95) == 19.0
    assert quantile([5.0, 1.0, 2.0, 3.0, 4.0], 0.95) == 5.0


def test_the_regret_of_a_pair_is_negative_where_the_chosen_one_won() -> None:
    """98 against 100 lost 2 %; 102 won as much."""
    assert regret(98, 100) == pytest.approx(0.02)
    assert regret(102, 100) == pytest.approx(-0.02)


def test_total_times_are_relative_to_the_oracle() -> None:
    """11 s for the oracle's 10 s are 10 % more."""
    assert excess(RUN.seconds, RUN) == pytest.approx(0.1)


def test_a_suite_weighs_its_runs_alike() -> None:
    """(11/10 + 110/100) over (10/10 + 200/100): 2.2 / 3; long runs do not drown short ones."""
    longer = dataclasses.replace(RUN, seconds=110, oracle_seconds=100, others={"fixed 4": 200.0})
    assert over([RUN, longer], "fixed 4") == pytest.approx(2.2 / 3)


def test_the_users_own_setting_is_compared_as_a_rule() -> None:
    """11 s against 20 s."""
    assert over([RUN], "the user's own setting") == pytest.approx(0.55)


def test_relative_totals_name_every_rule() -> None:
    """Feedwater took 1.1 of the oracle's time, the fixed 4 as long as it."""
    assert relative_totals([RUN]) == {"Feedwater": (1.1, 0.0), "fixed 4": (1.0, 0.0)}


def test_extra_workers_are_those_beyond_the_thriftiest() -> None:
    """4 chosen, 2 would do."""
    assert RUN.extra_workers == 2


@pytest.mark.parametrize(
    ("value", "bar", "holds"),
    [(0.02, "<= 0.02", True), (0.021, "<= 0.02", False), (0.9, ">= 0.9", True), (0.5, "", None)],
)
def test_a_figure_holds_at_its_bound(value: float, bar: str, holds: bool | None) -> None:
    """A bar's own bound keeps it; without a bar there is nothing to keep."""
    assert Figure("x", value, 1, bar).holds is holds


def test_a_figure_of_nothing_neither_holds_nor_misses() -> None:
    """Nothing measured is not a miss, and no success."""
    assert Figure("x", None, 0, "<= 0.02").holds is None


def test_fresh_pairs_replace_the_sweeps_regret() -> None:
    """A run that ended at 4 of a sweep whose best is 8 has the pair's regret: the median of 1, 3 and 5 %."""
    run = dataclasses.replace(RUN, best=(8, 2))
    pair = Pair("io", False, (4, 2), (8, 2), (0.01, 0.05, 0.03))
    found = {f.name: f.value for f in measured_again([Scored((), (run,))], [pair])}
    assert found["regret in fresh pairs, median"] == pytest.approx(0.03)
    # Of three pairs the interval is 1 % to 5 %, half of it 2 %: 3 % - 2 %.
    assert found["regret in fresh pairs beyond noise, worst"] == pytest.approx(0.01)


def _driven(**about: object) -> Driven:
    one = Driven(
        "io", "io", 2, ((2, 2), (4, 2), (4, 2)), (2.0, 1.0, 2.1), (2.0, 2.0, 2.0), 3.0, 0.01, True, 0, "", 0.0
    )
    return dataclasses.replace(one, **about)  # type: ignore[arg-type]


def test_a_settled_epoch_is_slower_beyond_twice_the_noise() -> None:
    """Of 1.0 and 2.1 s at the new setting the second exceeds the user's 2.0 s by more than 2 %."""
    assert _driven().slower_epochs == 1
    assert _driven(noise=0.03).slower_epochs == 0


@pytest.mark.parametrize(
    ("about", "harm"),
    [
        ({}, False),
        ({"in_order": False}, True),
        ({"out_of_memory_kills": 1}, True),
        ({"error": "RuntimeError"}, True),
        ({"workload": "open-file"}, True),
        ({"workload": "open-file", "settings": ((0, 2),) * 3}, False),
    ],
)
def test_harm_is_an_error_a_kill_a_wrong_sample_or_a_change_to_be_refused(
    about: dict[str, object], harm: bool
) -> None:
    """A dataset that opened its file in ``__init__`` must stay as it is, even if no sample was wrong."""
    assert _driven(**about).did_harm is harm


def test_the_real_loops_figures_count_harm() -> None:
    """Two runs, one with an error: one."""
    found = {f.name: f.value for f in driven([_driven(), _driven(error="x")])}
    assert found["real loop: harm"] == 1


def test_results_write_the_page() -> None:
    """A block between marks is made anew from the results; the words around it stay."""
    body = results.results(
        {"io": Scored((), (RUN,))},
        {"io": TABLE},
        [_driven()],
        [Pair("io", False, (2, 2), (4, 2), (0.01,) * 4)],
        {"machine": {"cores": 2, "cpu": "CPU", "kernel": "6"}, "versions": {"torch": "2"}, "commit": "abc"},
    )
    text = "Before.\n<!-- incumbents: generated -->\nold\n<!-- end of incumbents -->\nAfter.\n"
    made = renewed(body, text)
    assert made.startswith("Before.\n")
    assert made.endswith("After.\n")
    assert "old" not in made
    assert "| Feedwater | 10.0% | 0.0% |" in made


def test_the_page_is_current() -> None:
    """docs/recommendation.md says what the committed results say."""
    page = (DOCS / "recommendation.md").read_text()
    assert renewed(json.loads((DOCS / "recommendation" / "results.json").read_text()), page) == page


def test_every_workload_has_its_own_name() -> None:
    """Traces are stored by name."""
    names = [w.name for w in SWEPT]
    assert len(set(names)) == len(names)


def test_expected_verdicts_belong_to_measured_counts() -> None:
    """A verdict at a count that is never measured would never be scored."""
    for work in SWEPT:
        assert set(work.verdicts) <= set(work.counts), work.name


def test_each_family_with_two_members_is_held_out_once() -> None:
    """The tuned set and the held-out one are never the same workload; both have more than a dozen."""
    held = [w for w in SWEPT if w.held_out]
    assert min(len(held), len(SWEPT) - len(held)) > 12
