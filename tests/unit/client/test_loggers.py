"""What an epoch's figures are called, and how each kind of logger is given them."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from feedwater import Answer, EpochLogger, EpochSummary, LoaderSettings, Recommendation
from feedwater.loggers import figures

SUMMARY = EpochSummary(3, LoaderSettings(4, 2), 40, 10.0, 3.0, 6.0, 1.0, loader="train")
MADE = Recommendation("r", 3, LoaderSettings(8, 2), "STORAGE", "", True, batches_per_second=5.5)


def test_figures_have_their_units_and_the_recommendation() -> None:
    """40 batches in 10 s, 3 of 9 s of iterations waiting."""
    assert figures(SUMMARY, Answer(MADE)) == {
        "epoch": 3,
        "batches": 40,
        "batches_per_second": 4.0,
        "epoch_seconds": 10.0,
        "wait_seconds": 3.0,
        "step_seconds": 6.0,
        "start_up_seconds": 1.0,
        "starvation": pytest.approx(1 / 3),
        "num_workers": 4,
        "prefetch_factor": 2,
        "recommended_num_workers": 8,
        "predicted_batches_per_second": 5.5,
    }


def test_what_is_unknown_is_left_out() -> None:
    """No recommendation, no workers, no number: no figure, not a zero."""
    empty = EpochSummary(0, LoaderSettings(0), 0, math.nan, 0.0, 0.0, 0.0)
    found = figures(empty, Answer(reason="The sidecar is away."))
    assert {"recommended_num_workers", "prefetch_factor", "epoch_seconds", "device_starvation"}.isdisjoint(
        found
    )


def test_function_gets_a_dict_and_the_epoch() -> None:
    """Names begin with the prefix and the loader."""
    got: list[tuple[dict[str, float], int]] = []
    EpochLogger(lambda values, step: got.append((values, step)))(SUMMARY, Answer())
    ((values, step),) = got
    assert (step, values["feedwater/train/num_workers"]) == (3, 4)
    assert all(name.startswith("feedwater/train/") for name in values)


def test_prefix_and_step_are_the_users() -> None:
    """A trainer that counts batches, not epochs."""
    got: list[tuple[dict[str, float], int]] = []
    EpochLogger(lambda values, step: got.append((values, step)), prefix="data", step=lambda: 160)(
        SUMMARY, Answer()
    )
    assert got[0][1] == 160
    assert "data/train/batches" in got[0][0]


@pytest.mark.parametrize("log", [None, "run", 3, object()])
def test_misuse_raises_at_once(log: object) -> None:
    """What cannot be logged to is said when it is given, not an epoch later."""
    with pytest.raises(TypeError, match="log must be a SummaryWriter"):
        EpochLogger(log)


def test_every_figure_is_documented() -> None:
    """Those that there can be are those in the table of docs/loggers.md."""
    page = (
        (Path(__file__).parents[3] / "docs/loggers.md").read_text().partition("after `feedwater/LOADER/`")[2]
    )
    known = figures(replace(SUMMARY, device_starvation=0.5), Answer(MADE))
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == list(known)
