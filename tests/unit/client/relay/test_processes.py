"""Processes, memory and steal on recorded trees."""

from __future__ import annotations

import contextlib
import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from feedwater.relay import machine
from feedwater.relay.processes import (
    CLOCK_TICK_SECONDS,
    PAGE_BYTES,
    ProcessReader,
    cpu_and_start,
    named_numbers,
    read_text,
)

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture
def reader(recorded):
    return ProcessReader(str(recorded / "machine" / "proc"))


def test_usage_holds_cpu_time_of_all_threads_and_run_delay_of_one(reader):
    """250 + 50 ticks; run delay 1.5 s of the main thread and 0.5 s of another; 2,560 pages."""
    usage = reader.usage(7, None, 5.0, thread_id=7)
    assert usage.cpu_seconds == pytest.approx(300 * CLOCK_TICK_SECONDS)
    assert usage.run_delay_seconds == pytest.approx(1.5)
    assert reader.usage(7, None, 5.0, thread_id=8).run_delay_seconds == pytest.approx(0.5)
    assert reader.usage(7, 0, 5.0).run_delay_seconds is None
    assert (usage.rss_bytes, usage.pss_bytes) == (2560 * PAGE_BYTES, None)
    assert (usage.read_chars, usage.read_bytes) == (MIB, MIB // 2)


def test_proportional_and_unique_memory_are_read_when_asked_for(reader):
    """Pss 6,144 KiB; private clean 1,024 and dirty 3,072 KiB."""
    usage = reader.usage(7, 0, 5.0, with_pss=True)
    assert (usage.pss_bytes, usage.uss_bytes) == (6144 * KIB, 4096 * KIB)


def test_name_with_parentheses_and_blanks_does_not_shift_the_fields(reader):
    """A process called ``((a b ) ( c d)`` has 120 ticks and started at 999."""
    assert cpu_and_start(read_text(f"{reader._proc}/8/stat")) == (
        pytest.approx(120 * CLOCK_TICK_SECONDS),
        999,
    )


@pytest.mark.parametrize("pid", [9, 4711])
def test_process_that_vanished_is_none(reader, pid):
    """Half a stat file, or none."""
    assert reader.usage(pid, None, 0.0) is None
    assert reader.started(pid) is None


def test_files_that_are_missing_are_unknown(reader):
    """Another user's process shows its stat alone."""
    usage = reader.usage(8, None, 0.0, with_pss=True)
    assert (usage.rss_bytes, usage.run_delay_seconds, usage.read_bytes, usage.pss_bytes) == (None,) * 4


@pytest.mark.parametrize(("pid", "limit"), [(7, 1024), (10, None), (8, None)])
def test_open_files_are_the_soft_limit(reader, pid, limit):
    """1,024; unlimited; unknown."""
    assert reader.open_files(pid) == limit


def test_own_process_is_read_for_real():
    """The real /proc of this very process."""
    usage = ProcessReader().usage(os.getpid(), None, 1.0, with_pss=True)
    assert usage.rss_bytes > MIB
    assert usage.uss_bytes <= usage.rss_bytes


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


@given(st.text(max_size=200))
@example(":²")
def test_readers_raise_nothing_but_value_error(text):
    """Whatever a file holds."""
    named_numbers(text)
    with contextlib.suppress(ValueError):
        cpu_and_start(text)
