"""Processes of the trainer's container, as ``/proc`` tells them."""

from __future__ import annotations

import os

from feedwater.relay.measurements import ProcessUsage

CLOCK_TICK_SECONDS = 1.0 / os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
KIB = 1024
NANOSECONDS = 1e9
"""In a second."""


def read_text(path: str) -> str:
    """Return a file of the kernel's: one open, one read, half of what ``open()`` costs.

    Raises:
        OSError: It is not there, or vanished while it was read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(fd, 65536)
        # Files of /proc hand out a page or so at a time where they are long.
        while len(text) >= 4096:
            more = os.read(fd, 65536)
            if not more:
                break
            text += more
    finally:
        os.close(fd)
    return text.decode("utf-8", "replace")


def stat_fields(text: str) -> list[str]:
    """Return the fields of ``/proc/<pid>/stat`` after the name, the state first.

    The name may hold anything, as in ``1 (((a b ) ( c d) ) R 0``: it ends at the last parenthesis.

    Raises:
        ValueError: No name in parentheses.
    """
    end = text.rfind(")")
    if end < 0:
        raise ValueError(f"stat: expected a name in parentheses, got {text[:80]!r}")
    return text[end + 1 :].split()


def cpu_and_start(text: str) -> tuple[float, int]:
    """Return user plus system time in seconds, and the start in clock ticks since boot.

    Raises:
        ValueError: Fewer fields than any kernel writes.

    Source: proc(5), fields utime (14), stime (15), starttime (22).
    """
    found = stat_fields(text)
    if len(found) < 20:
        raise ValueError(f"stat: expected 20 fields after the name, got {len(found)}")
    return (int(found[11]) + int(found[12])) * CLOCK_TICK_SECONDS, int(found[19])


def named_numbers(text: str) -> dict[str, int]:
    """Return the first number after each name, as in ``rchar: 12`` or ``Pss:  34 kB``; skip the rest."""
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        number = rest.split(None, 1)
        if number and number[0].isdecimal():
            found[name] = int(number[0])
    return found


class ProcessReader:
    """Reads processes below one ``/proc``; what vanished or is forbidden is None."""

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc

    def started(self, pid: int) -> int | None:
        """Return when a process started: with the pid it names the process for good."""
        try:
            return cpu_and_start(read_text(f"{self._proc}/{pid}/stat"))[1]
        except (OSError, ValueError):
            return None

    def usage(
        self, pid: int, worker: int | None, stamp: float, with_pss: bool = False, thread_id: int = 0
    ) -> ProcessUsage | None:
        """Return what a process uses; None where it is gone.

        Args:
            pid: The process.
            worker: Its number as a worker; None is the trainer.
            stamp: Now, in seconds on the monotonic clock.
            with_pss: Read its proportional and unique memory too, 4 to 7 ms per GB.
            thread_id: The thread whose run delay is read; 0 is none.
        """
        at = f"{self._proc}/{pid}"
        try:
            cpu_seconds, _ = cpu_and_start(read_text(f"{at}/stat"))
        except (OSError, ValueError):
            return None
        io = self._numbers(f"{at}/io")
        smaps = self._numbers(f"{at}/smaps_rollup") if with_pss else {}
        return ProcessUsage(
            pid=pid,
            stamp_seconds=stamp,
            worker=worker,
            cpu_seconds=cpu_seconds,
            run_delay_seconds=_run_delay(f"{at}/task/{thread_id}") if thread_id else None,
            rss_bytes=self._rss(at),
            pss_bytes=_kib(smaps, "Pss"),
            uss_bytes=_kib(smaps, "Private_Clean", "Private_Dirty"),
            read_chars=io.get("rchar"),
            read_bytes=io.get("read_bytes"),
        )

    def open_files(self, pid: int) -> int | None:
        """Return how many files a process may have open; None if unlimited or unknown."""
        try:
            lines = read_text(f"{self._proc}/{pid}/limits").splitlines()
        except OSError:
            return None
        soft = [
            line.split()[3] for line in lines if line.startswith("Max open files") and len(line.split()) > 3
        ]
        return int(soft[0]) if soft and soft[0].isdecimal() else None

    def _rss(self, at: str) -> int | None:
        try:
            return int(read_text(f"{at}/statm").split()[1]) * PAGE_BYTES
        except (OSError, ValueError, IndexError):
            return None

    def _numbers(self, path: str) -> dict[str, int]:
        try:
            return named_numbers(read_text(path))
        except OSError:
            return {}


def _run_delay(thread: str) -> float | None:
    """Return the seconds that a thread was runnable but not running, throttling included.

    Source: https://docs.kernel.org/scheduler/sched-stats.html#proc-pid-schedstat
    """
    try:
        return int(read_text(f"{thread}/schedstat").split()[1]) / NANOSECONDS
    except (OSError, ValueError, IndexError):
        return None


def _kib(numbers: dict[str, int], *names: str) -> int | None:
    found = [numbers[name] for name in names if name in numbers]
    return sum(found) * KIB if found else None
