"""Processes of the trainer's container: what they use, read by psutil, and the run delay of a thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import psutil

from feedwater.relay.measurements import ProcessUsage
from feedwater.relay.procfs import run_delay_seconds

MAX_PROCESSES = 1024
"""Remembered: a training that starts workers in each epoch would otherwise grow the relay for ever."""

Read = TypeVar("Read")


class ProcessReader:
    """Reads processes by psutil; what has vanished or is forbidden is None.

    Another ``/proc`` is read where ``psutil.PROCFS_PATH`` names one.
    """

    def __init__(self) -> None:
        self._first: dict[int, psutil.Process] = {}
        """The process that each pid was when it was first read."""

    def usage(
        self, pid: int, worker: int | None, stamp: float, with_pss: bool = False, thread_id: int = 0
    ) -> ProcessUsage | None:
        """Return what a process uses; None where it has ended, though another may have its pid by now.

        Args:
            pid: The process.
            worker: Its number as a worker; None is the trainer.
            stamp: Now, in seconds on the monotonic clock.
            with_pss: Read its proportional and unique memory too, 4 to 7 ms per GB.
            thread_id: The thread whose run delay is read; 0 is none.
        """
        process = self._same_process(pid)
        cpu = None if process is None else _known(process.cpu_times)
        if process is None or cpu is None:
            return None
        memory = _known(process.memory_full_info) if with_pss else None
        rss = memory or _known(process.memory_info)
        io = _known(process.io_counters)
        return ProcessUsage(
            pid=pid,
            stamp_seconds=stamp,
            worker=worker,
            cpu_seconds=cpu.user + cpu.system,
            run_delay_seconds=run_delay_seconds(pid, thread_id, psutil.PROCFS_PATH) if thread_id else None,
            rss_bytes=rss.rss if rss else None,
            pss_bytes=getattr(memory, "pss", None),
            uss_bytes=getattr(memory, "uss", None),
            read_chars=io.read_chars if io else None,
            read_bytes=io.read_bytes if io else None,
        )

    def _same_process(self, pid: int) -> psutil.Process | None:
        # The kernel gives a pid to another process some time after its own has ended; the start time differs.
        process = _known(lambda: psutil.Process(pid))
        if len(self._first) > MAX_PROCESSES:
            self._first.clear()
        return process if process and self._first.setdefault(pid, process) == process else None


def _known(read: Callable[[], Read]) -> Read | None:
    try:
        return read()
    except (psutil.Error, OSError, ValueError, IndexError, RuntimeError):
        # Ended, another user's, or half a file: psutil lets the errors of its parsers through.
        return None
