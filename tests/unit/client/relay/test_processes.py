"""Processes, read by psutil from recorded trees."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedwater.relay.processes import ProcessReader
from feedwater.relay.procfs import CLOCK_TICK_SECONDS

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture
def reader(recorded, monkeypatch):
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(recorded / "machine" / "proc"))
    return ProcessReader()


def test_usage_holds_cpu_time_of_all_threads_and_run_delay_of_one(reader):
    """250 + 50 ticks; run delay 1.5 s of the main thread and 0.5 s of another; 2,560 pages."""
    usage = reader.usage(7, None, 5.0, thread_id=7)
    assert usage.cpu_seconds == pytest.approx(300 * CLOCK_TICK_SECONDS)
    assert usage.run_delay_seconds == pytest.approx(1.5)
    assert reader.usage(7, None, 5.0, thread_id=8).run_delay_seconds == pytest.approx(0.5)
    assert reader.usage(7, 0, 5.0).run_delay_seconds is None
    assert (usage.rss_bytes, usage.pss_bytes) == (2560 * os.sysconf("SC_PAGE_SIZE"), None)
    assert (usage.read_chars, usage.read_bytes) == (MIB, MIB // 2)


def test_proportional_and_unique_memory_are_read_when_asked_for(reader):
    """Pss 6,144 KiB; private clean 1,024 and dirty 3,072 KiB."""
    usage = reader.usage(7, 0, 5.0, with_pss=True)
    assert (usage.pss_bytes, usage.uss_bytes) == (6144 * KIB, 4096 * KIB)


def test_name_with_parentheses_and_blanks_does_not_shift_the_fields(reader):
    """A process called ``((a b ) ( c d)`` has 120 ticks and started at 999."""
    assert reader.usage(8, None, 0.0).cpu_seconds == pytest.approx(120 * CLOCK_TICK_SECONDS)
    started = psutil.Process(8).create_time() - psutil.boot_time()
    assert started == pytest.approx(999 * CLOCK_TICK_SECONDS, abs=1e-3)


@pytest.mark.parametrize("pid", [9, 4711])
def test_process_that_vanished_is_none(reader, pid):
    """Half a stat file, or none."""
    assert reader.usage(pid, None, 0.0) is None


def test_files_that_are_missing_are_unknown(reader):
    """Another user's process shows its stat alone."""
    usage = reader.usage(8, None, 0.0, with_pss=True)
    assert (usage.rss_bytes, usage.run_delay_seconds, usage.read_bytes, usage.pss_bytes) == (None,) * 4


def test_own_process_is_read_for_real():
    """The real /proc of this very process."""
    usage = ProcessReader().usage(os.getpid(), None, 1.0, with_pss=True)
    assert usage.rss_bytes > MIB
    assert usage.uss_bytes <= usage.rss_bytes


@given(st.text(max_size=200))
def test_process_whose_stat_cannot_be_read_is_none(text):
    """Whatever its file holds, nothing is raised."""
    with tempfile.TemporaryDirectory() as proc, pytest.MonkeyPatch.context() as patch:
        Path(proc, "7").mkdir()
        Path(proc, "stat").write_text("btime 1700000000\n")
        Path(proc, "7/stat").write_text(text)
        patch.setattr(psutil, "PROCFS_PATH", proc)
        assert ProcessReader().usage(7, None, 0.0, with_pss=True) is None
