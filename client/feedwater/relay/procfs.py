"""Files below ``/proc`` and ``/sys`` that psutil does not read, or reads at a higher cost."""

from __future__ import annotations

import os

CLOCK_TICK_SECONDS = 1.0 / os.sysconf("SC_CLK_TCK")
KIB = 1024
NANOSECONDS = 1e9
"""In a second."""


def read_text(path: str) -> str:
    """Return the text of a file of the kernel, at half the cost of ``open()``.

    Raises:
        OSError: It does not exist, or vanished while it was read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(fd, 65536)
        # A read of a long file in /proc returns about a page.
        while len(text) >= 4096:
            more = os.read(fd, 65536)
            if not more:
                break
            text += more
    finally:
        os.close(fd)
    return text.decode("utf-8", "replace")


def named_numbers(text: str) -> dict[str, int]:
    """Return the first number by name in lines such as ``rchar: 12`` or ``Pss:  34 kB``; skip others."""
    numbers = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        fields = rest.split(None, 1)
        if fields and fields[0].isdecimal():
            numbers[name] = int(fields[0])
    return numbers


def open_files(pid: int, proc: str = "/proc") -> int | None:
    """Return how many files a process may have open; None if unlimited or unknown."""
    # psutil asks prlimit(2), which is refused for another user's process; the file may be read.
    try:
        lines = read_text(f"{proc}/{pid}/limits").splitlines()
    except OSError:
        return None
    soft = [line.split()[3] for line in lines if line.startswith("Max open files") and len(line.split()) > 3]
    return int(soft[0]) if soft and soft[0].isdecimal() else None


def run_delay_seconds(pid: int, thread_id: int, proc: str = "/proc") -> float | None:
    """Return how long a thread was runnable but not running, throttling included; None where it has ended.

    Source: https://docs.kernel.org/scheduler/sched-stats.html#proc-pid-schedstat
    """
    try:
        text = read_text(f"{proc}/{pid}/task/{thread_id}/schedstat")
        return int(text.split()[1]) / NANOSECONDS
    except (OSError, ValueError, IndexError):
        return None
