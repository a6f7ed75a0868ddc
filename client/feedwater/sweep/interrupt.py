"""Ctrl-C, held until nothing is half done.

In the middle of PyTorch's ``next()`` a `KeyboardInterrupt` cuts off the worker that is handing over a batch,
and a thread of that worker prints a traceback (`multiprocessing.resource_sharer`). In an iterator's
``__del__`` it prints one itself, and is lost.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Iterable, Iterator
from multiprocessing import resource_tracker
from typing import cast


class Interrupt:
    """Whether Ctrl-C was pressed, for those who ask between two batches."""

    def __init__(self) -> None:
        self.is_asked = False

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Only note the first Ctrl-C in the body; the second interrupts at once, whatever is half done.

        A command that a script starts in the background has it ignored, and goes on.
        """
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            yield
            return

        def note(*_: object) -> None:
            if self.is_asked:
                raise KeyboardInterrupt
            self.is_asked = True

        before = signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def check(self) -> None:
        """Raise `KeyboardInterrupt` if Ctrl-C was pressed."""
        if self.is_asked:
            raise KeyboardInterrupt


def started(loader: object) -> Iterator[object]:
    """Return the loader's iterator; its workers do not hear Ctrl-C, which a terminal sends to them as well.

    They inherit the blocked signal, however they are started; what comes meanwhile comes right after.
    """
    _start_tracker(loader)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return iter(cast("Iterable[object]", loader))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_tracker(loader: object) -> None:
    """Start what `multiprocessing` starts before the first spawned worker: it unblocks SIGINT afterwards."""
    context = getattr(loader, "multiprocessing_context", None) or multiprocessing
    if getattr(loader, "num_workers", 0) and context.get_start_method() != "fork":
        resource_tracker.ensure_running()
