"""Files of ``/proc`` that psutil does not read, on recorded trees."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from feedwater.relay.procfs import named_numbers, open_files, run_delay_seconds


@pytest.mark.parametrize(("pid", "limit"), [(7, 1024), (10, None), (8, None)])
def test_open_files_are_the_soft_limit(recorded, pid, limit):
    """1,024; unlimited; unknown."""
    assert open_files(pid, str(recorded / "machine/proc")) == limit


@pytest.mark.parametrize(("thread_id", "seconds"), [(7, 1.5), (8, 0.5), (9, None)])
def test_run_delay_is_that_of_one_thread(recorded, thread_id, seconds):
    """1,500,000,000 ns of the main thread, 500,000,000 ns of another; None of one that has ended."""
    assert run_delay_seconds(7, thread_id, str(recorded / "machine/proc")) == seconds


@given(st.text(max_size=200))
@example(":²")
def test_named_numbers_of_any_text_raise_nothing(text):
    """Whatever a file holds: names and numbers come out, or nothing."""
    named_numbers(text)
