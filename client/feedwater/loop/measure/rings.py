"""The rings of a process: one for each loader in use, given back by loaders that rest, and bounded in all."""

from __future__ import annotations

import logging
import os
import weakref

from feedwater import ring
from feedwater.loop.log import say_once
from feedwater.loop.measure.device import Device
from feedwater.loop.watched import Mark

MAX_RINGS = 8
"""Of a process: 36 MiB and 16 descriptors. Training, validation and a few more at once; beyond it a loader
is measured when another one rests."""
REST_NS = 30 * 10**9
"""Since the end of its last epoch, after which a loader gives its ring back: a new one costs 2 ms."""

_holders: weakref.WeakSet[Mark] = weakref.WeakSet()


def forget_all() -> None:
    """Count no ring any more, as a process that was forked does: they are its parent's."""
    _holders.clear()


def ensure(mark: Mark, now_ns: int) -> bool:
    """Give ``mark`` a ring if it has none; False where the process has as many as it may, all in use.

    Raises:
        OSError: No memory for a ring, or no descriptor.
    """
    for other in _resting(since=now_ns - REST_NS, but=mark):
        give_back(other)
    if mark.words is not None:
        return True
    for other in _resting(since=now_ns, but=mark):
        if len(_holders) < MAX_RINGS:
            break
        give_back(other)
    if len(_holders) >= MAX_RINGS:
        say_once(
            "rings",
            f"more than {MAX_RINGS} loaders are in use at once: {mark.name} is not measured until one ends",
            logging.INFO,
        )
        return False
    _create(mark)
    return True


def _create(mark: Mark) -> None:
    mark.ring_fd, mark.words = ring.create()
    closing = weakref.finalize(mark, os.close, mark.ring_fd)
    closing.atexit = False
    mark.close_ring = closing
    mark.head = mark.next_ring = mark.first_ring = 0
    mark.device = Device(mark.words)
    _holders.add(mark)


def give_back(mark: Mark) -> None:
    """Close the ring of a loader that rests; its next epoch gets a new one."""
    if mark.close_ring is None:
        return
    if mark.transport is not None:
        mark.transport.release_ring(mark.key)
    mark.close_ring()
    mark.close_ring = mark.words = mark.device = None
    mark.ring_fd = -1
    _holders.discard(mark)


def _resting(since: int, but: Mark) -> list[Mark]:
    """Return the loaders with a ring that have rested since a moment, the longest first."""
    found = [m for m in _holders if m is not but and _may_give_back(m, since)]
    return sorted(found, key=lambda m: m.ended_ns)


def _may_give_back(mark: Mark, since: int) -> bool:
    # Workers that persist keep storing into the ring that they were started with.
    loader = mark.loader() if mark.loader is not None else None
    return mark.probe is None and 0 < mark.ended_ns <= since and getattr(loader, "_iterator", None) is None
