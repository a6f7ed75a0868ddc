"""What readers are shown, made once for all who ask at about the same time.

A rendering takes CPU time in proportion to the loaders, and anybody may ask for it in a loop. So one is made
at a time, all who ask meanwhile get it, and renderings have a budget of time: while it is used up, readers
get the newest one, which is at most about a second old.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Generic, TypeVar

T = TypeVar("T")

SHARE = 0.1
"""Of one core: what renderings of one kind may take while they are asked for all the time."""
BURST_SECONDS = 0.25
"""Time of renderings that are made at once after a pause: one of 256 loaders, 80 of one loader."""
KEPT_SECONDS = 1.0
"""A reader is shown nothing older, unless a rendering takes over half of this time."""


class Rendering(Generic[T]):
    """One kind of rendering and its newest result."""

    def __init__(self, render: Callable[[], Awaitable[T]], clock: Callable[[], float] = perf_counter) -> None:
        """Make nothing yet.

        Args:
            render: Makes it, and leaves the event loop free meanwhile.
            clock: Seconds.
        """
        self._render = render
        self._clock = clock
        self._task: asyncio.Task[T] | None = None
        self._newest: list[T] = []
        """Empty or of one."""
        self._credit = BURST_SECONDS
        self._ended_at = clock()
        self._seconds = 0.0

    async def get(self) -> T:
        """Return the newest rendering, or a new one.

        Raises:
            Exception: What ``render`` raises.
        """
        if self._task is None:
            if self._newest and not self._is_due():
                return self._newest[0]
            self._task = asyncio.create_task(self._make())
        # A reader that goes away must not end what others wait for.
        return await asyncio.shield(self._task)

    def _is_due(self) -> bool:
        age = self._clock() - self._ended_at
        return self._credit + age * SHARE > 0 or age > max(KEPT_SECONDS, 2 * self._seconds)

    async def _make(self) -> T:
        began = self._clock()
        self._credit = min(BURST_SECONDS, self._credit + (began - self._ended_at) * SHARE)
        try:
            made = await self._render()
            self._newest = [made]
            asyncio.get_running_loop().call_later(2 * KEPT_SECONDS, self._drop, made)
            return made
        finally:
            self._ended_at = self._clock()
            self._seconds = self._ended_at - began
            self._credit -= self._seconds
            self._task = None

    def _drop(self, made: T) -> None:
        """Free the memory of a rendering that nobody may be shown any more."""
        if self._newest and self._newest[0] is made and self._task is None:
            self._newest = []
