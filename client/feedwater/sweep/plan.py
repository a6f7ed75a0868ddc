"""Which settings are tried, in which order, and whether the budget carries one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from feedwater.values import LoaderSettings

COUNTS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128)
"""Steps of about a quarter, those of the predicted curve: finer ones differ by less than epochs do."""
PAST_BEST = 1.5
"""Times the predicted best: far enough to see the curve bend, near enough not to waste an hour."""
MOST_WORKERS = 32
"""Without ``--max-workers``: each more costs its start in every epoch of the sweep."""
MARGIN = 0.1
"""Share of the memory limit, and of ``/dev/shm``, that is never planned for."""
KEPT_BATCHES = 2
"""Batches that a loop usually holds: the current one, and the last one until its name is bound anew."""


def top_count(asked: int | None, own: int, cores: float, predicted: Iterable[int]) -> int:
    """Return the largest count to try.

    Args:
        asked: What the user wants; None: well past all that follows.
        own: The user's own count.
        cores: What the process may use.
        predicted: The best counts that Feedwater expects.

    Example: own 2, 2 cores, 6 predicted as best: ceil(1.5 x 6) + 2 = 11.
    """
    if asked is not None:
        return asked
    best = max(own, math.ceil(cores), *predicted, 1)
    return max(own, min(MOST_WORKERS, math.ceil(PAST_BEST * best) + 2))


def settings_to_try(
    own: LoaderSettings, top: int, prefetch: Sequence[int], also: Iterable[LoaderSettings]
) -> list[LoaderSettings]:
    """Return all settings, by rising count and prefetch factor.

    Args:
        own: The user's.
        top: The largest count.
        prefetch: Values of ``prefetch_factor``; none: the user's own.
        also: Settings that must be among them if their count is not above ``top``.
    """
    depths = list(prefetch) or [own.prefetch_factor or 2]
    grid = sorted({n for n in COUNTS if n < top} | {top, min(own.num_workers, top)})
    made = [with_count(own, n, depth) for n in grid for depth in (depths if n else depths[:1])]
    made += [with_count(own, s.num_workers, s.prefetch_factor) for s in also if s.num_workers <= top]
    return sorted(dict.fromkeys(made), key=lambda s: (s.num_workers, s.prefetch_factor or 0))


def with_count(own: LoaderSettings, count: int, prefetch: int | None) -> LoaderSettings:
    """Return the user's settings with another count: no prefetch factor without workers."""
    return replace(own, num_workers=count, prefetch_factor=(prefetch or 2) if count else None)


def depth_of(settings: LoaderSettings) -> int:
    """Return the prefetch factor in force: PyTorch's own 2 where none is given, 0 without workers."""
    return (settings.prefetch_factor or 2) if settings.num_workers else 0


def order_of(round_number: int, settings: Sequence[LoaderSettings]) -> list[LoaderSettings]:
    """Return the order of one round: rising, then falling, so that no drift is credited to a setting.

    The first round rises: what a worker takes is learned from few before many are started.
    """
    return list(settings) if round_number % 2 == 0 else list(reversed(settings))


@dataclass(frozen=True, slots=True)
class Room:
    """What is left of the limits. None is unknown or without limit."""

    memory_bytes: int | None
    memory_limit_bytes: int | None
    shm_bytes: int | None
    shm_size_bytes: int | None


@dataclass(slots=True)
class Needs:
    """What one worker and one batch take, as far as it is known; it only grows."""

    worker_bytes: int = 0
    """0: not known."""
    batch_bytes: int = 0
    """0: not known."""
    seen_workers: int = 0
    """The largest count whose memory was seen."""

    def learn(self, workers: int, memory_bytes: int | None, batch_bytes: int | None) -> None:
        """Take note of what a setting took."""
        self.batch_bytes = max(self.batch_bytes, batch_bytes or 0)
        if workers and memory_bytes is not None:
            self.worker_bytes = max(self.worker_bytes, memory_bytes // workers)
            self.seen_workers = max(self.seen_workers, workers)

    def refusal(self, settings: LoaderSettings, room: Room) -> str:
        """Return why a setting is not started, a phrase; empty if the budget carries it."""
        count = settings.num_workers
        queued = count * depth_of(settings) + KEPT_BATCHES if count else 0
        queue_bytes = queued * self.batch_bytes
        return (
            _unknown(count, self, room)
            or _too_much(
                "memory", count * self.worker_bytes + queue_bytes, room.memory_bytes, room.memory_limit_bytes
            )
            or _too_much("/dev/shm", queue_bytes, room.shm_bytes, room.shm_size_bytes)
        )


def _unknown(count: int, needs: Needs, room: Room) -> str:
    """Under a limit, at most double the count until the memory of a worker was seen."""
    if room.memory_limit_bytes is None or needs.worker_bytes or count <= max(2, 2 * needs.seen_workers):
        return ""
    return "what a worker takes of the memory limit is not known"


def _too_much(what: str, need: int, left: int | None, limit: int | None) -> str:
    if left is None or limit is None or need <= left - MARGIN * limit:
        return ""
    return f"needs {mib(need)} of {what}, {mib(max(0, left))} of {mib(limit)} are free"


def mib(amount: float) -> str:
    """Return bytes as people read them: ``1.5 GiB``, ``64 MiB``."""
    return f"{amount / 2**30:.1f} GiB" if amount >= 2**30 else f"{amount / 2**20:.0f} MiB"
