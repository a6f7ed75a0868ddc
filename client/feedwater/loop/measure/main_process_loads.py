"""Times the loads of the main process itself, which has no worker to do it at ``num_workers=0``."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from feedwater.loop.measure.probe import LONG_WAIT_NS
from feedwater.worker import Slots, timed_class

LIGHT_IN_A_ROW = 32
"""Loads below `LONG_WAIT_NS` after which timing them, 3 µs each, is given up until one is heavy again."""


@dataclass(slots=True)
class MainProcessLoads:
    """What is kept of the main process' loads from one iterator of a loader to the next."""

    last_index: object = None
    """What the fetcher was last asked for; a trial load asks for the same."""
    is_heavy: bool = False
    """They are worth timing."""


class OwnLoads:
    """Switches an iterator's fetcher to a timed class while its loads are heavy, and back."""

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

    def long_wait(self, iterator: object, wait_ns: int) -> None:
        """Time the fetches from the next on."""
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
        """Open the run delay of the thread that loads; it can be another one than the first time."""
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
        """Switch the fetcher back."""
        if self._fetcher is not None and self._plain is not None:
            self._fetcher.__class__ = self._plain
        self._fetcher = None

    def close(self) -> None:
        """Give back what it holds open."""
        if self._slots is not None:
            self._slots.close()
            self._slots = None
