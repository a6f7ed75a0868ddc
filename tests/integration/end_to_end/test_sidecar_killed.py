"""Training does not notice that its sidecar dies again and again, and nothing is lost."""

from __future__ import annotations

import pytest

from tests.benchmarks import sidecar_killed


@pytest.mark.slow
def test_a_sidecar_killed_every_second_costs_no_sample_and_no_count() -> None:
    """Six epochs under kills: the samples of a calm run, in its order, and every epoch known whole."""
    calm = sidecar_killed.run(epochs=6, kill_every=None)
    killed = sidecar_killed.run(epochs=6, kill_every=1.0)
    assert killed.kills >= 3
    assert sidecar_killed.wrong_samples(killed, calm) == 0
    assert sidecar_killed.wrong_batches(killed) == 0, killed.known


@pytest.mark.slow
def test_kills_in_auto_leave_the_samples_alone() -> None:
    """Whatever was or was not changed between the kills, each epoch has each sample once, in order."""
    calm = sidecar_killed.run(epochs=3, kill_every=None, mode="observe")
    killed = sidecar_killed.run(epochs=3, kill_every=0.7, mode="auto")
    assert sidecar_killed.wrong_samples(killed, calm) == 0
