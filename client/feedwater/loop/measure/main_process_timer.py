"""Times the loads of the main process at ``num_workers=0``, where no worker times them."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from feedwater.guard import timed_class
from feedwater.loop.measure.probe import LONG_WAIT_NS
from feedwater.worker import Slots

LIGHT_IN_A_ROW = 32
"""Loads below `LONG_WAIT_NS` after which timing, 3 µs a load, stops until a load takes longer again."""


@dataclass(slots=True)
class MainProcessLoads:
    """Facts of the main process' loads that outlive an iterator. Assigned in this module alone."""

    last_index: object = None
    """The index or indices that the fetcher loaded last; a trial load takes the same."""
    is_heavy: bool = False
    """Loads took longer than `LONG_WAIT_NS`: the next iterator times them from its first batch."""


class MainProcessTimer:
    """Replaces the class of an iterator's fetcher with one that times its loads, while these are heavy."""

    def __init__(self, loads: MainProcessLoads, words: memoryview, number: int) -> None:
        self._loads = loads
        self._words = words
        self._number = number
        self._slots: Slots | None = None
        self._thread = 0
        self._light = 0
        self._fetcher: object = None
        self._plain: type | None = None
        self._timed: type | None = None

    def on_long_wait(self, iterator: object, wait_ns: int) -> None:
        """Time the loads from the next on, because the loop waited long for one."""
        fetcher = getattr(iterator, "_dataset_fetcher", None)
        if fetcher is None or self._fetcher is fetcher:
            return
        self._plain = type(fetcher)
        if self._timed is None or not issubclass(self._timed, self._plain):
            self._timed = timed_class(self._plain, self._before, self._after)
        fetcher.__class__ = self._timed
        self._fetcher, self._light = fetcher, 0
        self._loads.is_heavy = True

    def _before(self, index: object) -> None:
        if threading.get_ident() != self._thread:
            self._bind()
        self._loads.last_index = index
        assert self._slots is not None
        self._slots.begin()

    def _bind(self) -> None:
        """Open the run delay of the thread that loads, which can be another one than before."""
        self.close()
        self._slots = Slots(self._words, self._number)
        self._thread = threading.get_ident()

    def _after(self, batch: object) -> None:
        assert self._slots is not None
        load_ns = self._slots.store(batch)
        self._light = self._light + 1 if load_ns < LONG_WAIT_NS else 0
        if self._light > LIGHT_IN_A_ROW:
            self._loads.is_heavy = False
            self.stop()

    def stop(self) -> None:
        """Restore the class of the fetcher."""
        if self._fetcher is not None and self._plain is not None:
            self._fetcher.__class__ = self._plain
        self._fetcher = None

    def close(self) -> None:
        """Close the file of the run delay."""
        if self._slots is not None:
            self._slots.close()
            self._slots = None
