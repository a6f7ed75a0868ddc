"""What the demo concludes from its runs."""

from __future__ import annotations

import pytest

from docs.examples.demo import text
from docs.examples.demo.runs import Epoch, Run


def run(name: str, *epochs: tuple[int, float]) -> Run:
    """Return a run of epochs given as (workers, seconds), 40 batches each."""
    made = [Epoch(n, workers, seconds, 40, 0.5, 1.0, "0") for n, (workers, seconds) in enumerate(epochs)]
    return Run(name, tuple(made))


def test_settled_time_is_the_median_under_the_last_setting() -> None:
    """Of 9, 4, 2, 3 and 1 s with 1, 2, 4, 4 and 4 workers the last three count: 2 s."""
    assert run("x", (1, 9.0), (2, 4.0), (4, 2.0), (4, 3.0), (4, 1.0)).settled_seconds == 2.0


def test_settled_time_leaves_the_cold_first_epoch_out() -> None:
    """Of 9, 4 and 2 s with one setting the last two count: 3 s."""
    assert run("x", (2, 9.0), (2, 4.0), (2, 2.0)).settled_seconds == 3.0


@pytest.mark.parametrize(
    ("without", "said"),
    [
        (6.0, "3.0 times as fast as the starting setting (8 workers, 6.0 s)"),
        (2.4, "20% faster than the starting setting (8 workers, 2.4 s)"),
        (2.0, "as fast as the starting setting (8 workers, 2.0 s)"),
        (1.0, "50% slower than the starting setting (8 workers, 1.0 s)"),
    ],
)
def test_gain_is_said_as_it_is(without: float, said: str) -> None:
    """Against 2 s an epoch: a factor when it is large, a share when it is not, and a loss is a loss."""
    assert text.gain(run("with Feedwater", (1, 2.0)), run("starting setting", (8, without))) == said
