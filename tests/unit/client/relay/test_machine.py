"""The machine's memory, stolen time and shared memory on recorded trees."""

from __future__ import annotations

import pytest

from feedwater.relay import machine
from feedwater.relay.procfs import CLOCK_TICK_SECONDS


def test_machine_needs_what_cannot_be_reclaimed(recorded):
    """8 GiB of which 6 are available: 2 are needed."""
    found = machine.memory(str(recorded / "machine"))
    assert (found.total_bytes, found.needed_bytes) == (8 << 30, 2 << 30)


def test_steal_is_over_all_cpus(recorded):
    """250 ticks in the first line."""
    assert machine.steal_seconds(str(recorded / "machine")) == pytest.approx(250 * CLOCK_TICK_SECONDS)


def test_machine_that_says_nothing_is_unknown(tmp_path):
    """An empty root."""
    root = str(tmp_path)
    assert (machine.memory(root), machine.steal_seconds(root)) == (None, None)


def test_shared_memory_is_a_file_system(tmp_path):
    """The real one, and one that is not there."""
    assert machine.shared_memory(str(tmp_path)).size_bytes > 0
    assert machine.shared_memory(str(tmp_path / "none")) is None
