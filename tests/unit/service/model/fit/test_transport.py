"""How batches are handed over, read off the stamps of both sides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from feedwater_service.model import Budget, LoaderSettings
from feedwater_service.model.fit.transport import deliveries_of, gap_between_loads
from tests.unit.service.model.synthetic import work


@pytest.mark.parametrize("known", [10, 40, 96, 100])
def test_loads_may_be_reported_before_their_batches(play_epoch, known):
    """100 loads are known and fewer batches, as after a restart of the sidecar: no error, the same gap."""
    whole = play_epoch(work(0.01, 0.002, 0.001, 0.0), LoaderSettings(2, 2), Budget(cpus=4), batches=100)
    part = replace(whole, waits=whole.waits[:known], steps=whole.steps[:known], batches=known)
    assert len(deliveries_of(part)) == known - 1
    assert gap_between_loads(part) == pytest.approx(gap_between_loads(whole), abs=1e-3)
