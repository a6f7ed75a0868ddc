"""The rings of a process: one for each loader in use, released by loaders at rest, and limited in number."""

from __future__ import annotations

import logging
import weakref

from feedwater.loop.log import log_once
from feedwater.loop.watched import WatchedLoader

MAX_RINGS = 8
"""Rings of a process, for 36 MiB and 16 descriptors: training, validation and a few more at once. With more
loaders in use, one is measured when another one rests."""
REST_NS = 30 * 10**9
"""Time since the end of its last epoch after which a loader releases its ring; a new ring costs 2 ms."""

_holders: weakref.WeakSet[WatchedLoader] = weakref.WeakSet()


def forget_all() -> None:
    """Forget all rings, as a forked process does, because they are its parent's."""
    _holders.clear()


def ensure(watched: WatchedLoader, now_ns: int) -> bool:
    """Give a loader a ring if it has none; return False where `MAX_RINGS` are in use.

    Raises:
        OSError: No memory for a ring, or no descriptor.
    """
    for other in _resting(since=now_ns - REST_NS, but=watched):
        release(other)
    if watched.recording.words is not None:
        return True
    for other in _resting(since=now_ns, but=watched):
        if len(_holders) < MAX_RINGS:
            break
        release(other)
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


def release(watched: WatchedLoader) -> None:
    """Release the ring of a loader at rest; its next epoch gets a new one."""
    watched.recording.release_ring()
    _holders.discard(watched)


def _resting(since: int, but: WatchedLoader) -> list[WatchedLoader]:
    """Return the loaders with a ring that have rested since a time, the longest first."""
    resting = [other for other in _holders if other is not but and _can_release(other, since)]
    return sorted(resting, key=lambda other: other.recording.ended_ns)


def _can_release(watched: WatchedLoader, since: int) -> bool:
    recording = watched.recording
    # Persistent workers go on storing into the ring that they were started with.
    has_workers = getattr(watched.loader_in_use(), "_iterator", None) is not None
    return recording.probe is None and 0 < recording.ended_ns <= since and not has_workers
