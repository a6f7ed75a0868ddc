"""Progress is shown without a thread: one beside a fork can hang a worker."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import textwrap

SHOWN = """
    import threading
    from feedwater.sweep.progress import progress
    with progress() as bars:
        bars.say("a line that stays")
        bars.expect(4)
        bars.doing("round 1 of 2: num_workers=0")
        bars.done()
        assert threading.active_count() == 1, threading.enumerate()
"""


def shown(fd: int) -> int:
    return subprocess.run([sys.executable, "-c", textwrap.dedent(SHOWN)], stderr=fd, timeout=60).returncode


def test_terminal_gets_bars_and_no_thread_runs():
    """One of four epochs, what is being done, and the line; the process has one thread."""
    ours, theirs = pty.openpty()
    code = shown(theirs)
    said = os.read(ours, 1 << 16).decode()
    os.close(ours)
    os.close(theirs)
    assert code == 0, said
    assert "a line that stays" in said
    assert "round 1 of 2: num_workers=0" in said
    assert "1/4" in said


def test_file_gets_lines_alone(tmp_path):
    """No control characters in a log."""
    with (tmp_path / "log").open("wb") as log:
        assert shown(log.fileno()) == 0
    assert (tmp_path / "log").read_text() == "a line that stays\n"
