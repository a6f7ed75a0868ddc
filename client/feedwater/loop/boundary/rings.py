"""The rings of a process: one for each loader in use, given back by loaders that rest, and bounded in all."""

from __future__ import annotations

import logging
import weakref

from feedwater.loop.log import log_once
from feedwater.loop.watched import WatchedLoader

MAX_RINGS = 8
"""Of a process: 36 MiB and 16 descriptors. Training, validation and a few more at once; beyond it a loader
is measured when another one rests."""
REST_NS = 30 * 10**9
"""Since the end of its last epoch, after which a loader gives its ring back: a new one costs 2 ms."""

_holders: weakref.WeakSet[WatchedLoader] = weakref.WeakSet()


def forget_all() -> None:
    """Count no ring any more, as a process that was forked does: they are its parent's."""
    _holders.clear()


def ensure(watched: WatchedLoader, now_ns: int) -> bool:
    """Give a loader a ring if it has none; False where the process has as many as it may, all in use.

    Raises:
        OSError: No memory for a ring, or no descriptor.
    """
    for other in _resting(since=now_ns - REST_NS, but=watched):
        give_back(other)
    if watched.recording.words is not None:
        return True
    for other in _resting(since=now_ns, but=watched):
        if len(_holders) < MAX_RINGS:
            break
        give_back(other)
    if len(_holders) >= MAX_RINGS:
        log_once(
            "rings",
            f"more than {MAX_RINGS} loaders are in use at once: {watched.name} is not measured "
            "until one ends",
            logging.INFO,
        )
        return False
    watched.recording.open_ring()
    _holders.add(watched)
    return True


def give_back(watched: WatchedLoader) -> None:
    """Close the ring of a loader that rests; its next epoch gets a new one."""
    watched.recording.release_ring()
    _holders.discard(watched)


def _resting(since: int, but: WatchedLoader) -> list[WatchedLoader]:
    """Return the loaders with a ring that have rested since a moment, the longest first."""
    resting = [other for other in _holders if other is not but and _may_give_back(other, since)]
    return sorted(resting, key=lambda other: other.recording.ended_ns)


def _may_give_back(watched: WatchedLoader, since: int) -> bool:
    recording = watched.recording
    # Workers that persist keep storing into the ring that they were started with.
    has_workers = getattr(watched.loader_in_use(), "_iterator", None) is not None
    return recording.probe is None and 0 < recording.ended_ns <= since and not has_workers
