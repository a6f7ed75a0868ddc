"""A ceiling of storage shows at an epoch's ends, where few loads run at once."""

from __future__ import annotations

import heapq
import random

import pytest

from feedwater_service.model import Epoch, Load, LoaderSettings
from feedwater_service.model.fit.storage import ceiling_within, mean_concurrency

WORKERS, STAGGER = 8, 0.012


def starved(reads: int, seconds: float, spread: float = 0.0, starvation: float = 0.5) -> Epoch:
    """An epoch of 8 workers, started one after another, whose storage serves ``reads`` loads at once."""
    drawn = random.Random(1)
    slots = [0.0] * reads
    ready = [(i * STAGGER, i) for i in range(WORKERS)]
    loads = []
    for _ in range(240):
        start, worker = heapq.heappop(ready)
        served = max(start, heapq.heappop(slots))
        end = served + seconds * drawn.lognormvariate(0.0, spread)
        heapq.heappush(slots, end)
        heapq.heappush(ready, (end, worker))
        loads.append(Load(worker, start, end - start, 0.0005, 0.0))
    each = max(x.start + x.seconds for x in loads) / 240
    waits, steps = [each * starvation] * 240, [each * (1 - starvation)] * 240
    return Epoch(0, LoaderSettings(WORKERS, 2), 0.0, 0.0, waits, steps, loads=loads, batches=240)


def test_concurrency_is_the_mean_number_of_loads_at_once():
    """One second alone and one beside another is 1.5 on average; the other is never alone."""
    found = mean_concurrency([Load(0, 0.0, 2.0, 0.0, 0.0), Load(1, 1.0, 1.0, 0.0, 0.0)])
    assert found == pytest.approx([1.5, 2.0])


@pytest.mark.parametrize("reads", [2, 4])
def test_a_ceiling_shows_in_one_epoch(reads):
    """Loads of 20 ms, so many at once: 50 loads a second for each of them, and 20 ms alone."""
    found = ceiling_within(starved(reads, 0.02))
    assert found is not None
    assert found.loads_per_second == pytest.approx(50 * reads, rel=0.1)
    assert found.base_seconds < 0.02 * WORKERS / reads


@pytest.mark.parametrize("spread", [0.0, 0.3, 1.2])
def test_no_ceiling_shows_where_there_is_none(spread):
    """As many reads as workers, however heavy the tail is."""
    assert ceiling_within(starved(WORKERS, 0.02, spread)) is None


def test_no_ceiling_is_looked_for_where_nothing_is_short():
    """A loader that is ahead of its consumer is not held up by storage."""
    assert ceiling_within(starved(4, 0.02, starvation=0.05)) is None
