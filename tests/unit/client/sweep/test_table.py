"""What the sweep prints, and its JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from feedwater.relay.measurements import ContainerUsage, Limits
from feedwater.sweep import table
from feedwater.sweep.experiment import SweepResult
from feedwater.sweep.figures import Regret, Row
from feedwater.sweep.measure import MeasuredEpoch
from feedwater.sweep.predict import Baseline
from feedwater.sweep.report import as_object
from feedwater.sweep.table import Sweep
from feedwater.values import LoaderSettings, Prediction, Recommendation

MIB = 1 << 20


def row(workers: int, *rates: float, failure: str = "", prefetch: int = 2) -> Row:
    settings = LoaderSettings(workers, prefetch if workers else None)
    made = Prediction(settings, 40.0, 30.0, 50.0, 0.5)
    epochs = [MeasuredEpoch(100, 100 / rate, 0.25, 1.0, 3.0, workers * 60 * MIB) for rate in rates]
    return Row(settings, made, epochs, failure)


@pytest.fixture
def swept() -> Sweep:
    """Three settings: none, the user's own one, and the best two; Feedwater would take one."""
    chosen = LoaderSettings(1, 2)
    made = Recommendation("id", 0, chosen, "NOT_STARVED", "1 worker kept.", changes=False)
    return Sweep(
        "train:make_loader",
        "0.02 s of waiting",
        Baseline(chosen, 100, 400, False, made, ""),
        Limits(cpu_quota_cores=0.5, cpus=2, memory_bytes=1024 * MIB, shm_bytes=64 * MIB),
        ContainerUsage(0.0, memory_bytes=512 * MIB, shm_bytes=0),
        2,
        [row(0, 20), row(1, 40, 38), row(2, 44, 44)],
        SweepResult(Regret(0.08, 0.01, 2, 44.0, 40.5), is_fresh=True),
    )


def test_header_says_what_it_runs_under(swept):
    """Limits in words, the part of an epoch that is run, and the time: 2 x 3 x 2.5 s, so a minute."""
    said = table.before(swept)
    assert "2 CPUs, a quota of 0.5 cores; memory 1.0 GiB, 512 MiB used; /dev/shm 64 MiB, 0 MiB used" in said
    assert "2 rounds of 3 settings, each epoch the first 100 of 400 batches, start-up included" in said
    assert "about 1 min" in said


def test_one_core_is_singular():
    """Two words that a reader stumbles over otherwise."""
    assert [table.cores_text(n) for n in (0.5, 1.0, 2.0)] == ["0.5 cores", "1 core", "2 cores"]


def test_table_has_a_line_for_each_setting(swept):
    """Median 39 of 40 and 38, 40 predicted: 3 % more; a quarter waits; no memory without workers."""
    head, none, one, two = table.table(swept).splitlines()
    assert head.split() == [
        *("workers", "batches/s", "range", "predicted", "bounds", "error", "starved", "start-up", "memory")
    ]
    assert one.split()[:8] == ["1", "39.0", "38.0-40.0", "40.0", "30.0-50.0", "+3%", "25%", "0.25"]
    assert one.endswith("60 MiB  yours, Feedwater's choice")
    assert none.split()[-1] == "-"
    assert two.endswith("best")


def test_failed_and_refused_settings_say_why(swept):
    """Both have a line; the one was tried, the other was not."""
    refused = replace(row(4, failure="needs 3.0 GiB of memory, 0.5 GiB of 1.0 GiB are free"), is_refused=True)
    lines = table.table(replace(swept, rows=[row(3, failure="OSError: disk on fire"), refused])).splitlines()
    assert lines[1].endswith("failed: OSError: disk on fire")
    assert lines[2].endswith("not run: needs 3.0 GiB of memory, 0.5 GiB of 1.0 GiB are free")


def test_depths_have_a_column_of_their_own(swept):
    """Only where there is more than one; without workers there is none."""
    rows = [row(0, 20), row(1, 40), row(1, 41, prefetch=4)]
    lines = table.table(replace(swept, rows=rows)).splitlines()
    assert [line.split()[1] for line in lines] == ["prefetch", "-", "2", "4"]


def test_plot_is_as_wide_as_the_terminal_allows(swept):
    """A bar each, the longest measured one shorter than its upper bound of 50; no line beyond 80 columns."""
    lines = table.plot(swept, width=80).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["0", "1", "2"]
    assert all("◆" in line for line in lines[1:])
    assert max(map(len, lines)) <= 80


def test_conclusion_names_the_best_and_what_the_choice_loses(swept):
    """44 is 13 % more than 39; the fresh pairs say 8 %, more than their noise of 1 %."""
    said = table.conclusion(swept)
    assert (
        "Best: num_workers=2, prefetch_factor=2 with 44.0 batches/s, +13% against your own setting." in said
    )
    assert (
        "loses 8.0% ± 1.0% against the best, 40.5 against 44.0 batches/s in 2 fresh pairs of epochs." in said
    )
    assert "It says: 1 worker kept." in said
    assert "Your epochs are 4 times as long" in said
    assert "no difference beyond noise" not in said


def test_conclusion_says_when_a_difference_is_noise(swept):
    """0.5 % with a noise of 2 % is none."""
    outcome = SweepResult(Regret(0.005, 0.02, 3, 44.0, 43.8), is_fresh=True)
    assert "no difference beyond noise" in table.conclusion(replace(swept, outcome=outcome))


def test_conclusion_of_nothing_says_so(swept):
    """Interrupted in the first epoch: no best, no figures."""
    empty = replace(swept, rows=[row(0), row(1)], outcome=SweepResult(stopped="interrupted"))
    assert table.conclusion(empty) == "Nothing was measured: interrupted."
    assert "batches/s" in table.table(empty)


def test_rounds_that_disagree_are_pointed_out(swept):
    """20 and 40 of a median of 30 are 67 % apart."""
    noisy = replace(swept, rows=[row(1, 20, 40), row(2, 44, 44)])
    assert "num_workers=1, prefetch_factor=2 differ by 67%" in table.conclusion(noisy)
    assert "differ by" not in table.conclusion(swept)


def test_json_holds_all_of_it(swept):
    """It goes through `json`, and nothing measured is null, not zero."""
    found = json.loads(json.dumps(as_object(replace(swept, rows=[row(1, 40, 38), row(2)]))))
    assert found["rows"][0]["batches_per_second"] == pytest.approx(39)
    assert found["rows"][1]["batches_per_second"] is None
    assert found["regret"] == {
        "share": 0.08,
        "noise": 0.01,
        "pairs": 2,
        "best": 44.0,
        "other": 40.5,
        "is_fresh": True,
    }
    assert found["best"] == {"num_workers": 1, "prefetch_factor": 2}
