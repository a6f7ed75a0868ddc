"""Renderings are shared by all who ask at once, and have a budget of time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from feedwater_service.rendering import BURST_SECONDS, KEPT_SECONDS, Rendering


@dataclass
class Renderer:
    """Makes numbered renderings, each of which takes some time on a clock of its own."""

    seconds: float
    now: float = 0.0
    made: int = 0

    def clock(self) -> float:
        return self.now

    async def render(self) -> int:
        await asyncio.sleep(0)
        self.now += self.seconds
        self.made += 1
        return self.made


def test_readers_at_once_share_one_rendering() -> None:
    """Eight readers that ask together get the same rendering, which was made once."""
    renderer = Renderer(0.01)

    async def run() -> list[int]:
        rendering = Rendering(renderer.render, renderer.clock)
        return await asyncio.gather(*(rendering.get() for _ in range(8)))

    assert asyncio.run(run()) == [1] * 8


def test_readers_in_a_loop_take_a_tenth_of_a_core() -> None:
    """A reader each millisecond for 20 s, renderings of 20 ms: a burst, then about five a second."""
    renderer = Renderer(0.02)

    async def run() -> None:
        rendering = Rendering(renderer.render, renderer.clock)
        while renderer.now < 20.0:
            await rendering.get()
            renderer.now += 0.001

    asyncio.run(run())
    assert 1.5 < renderer.made * renderer.seconds < BURST_SECONDS + 0.1 * 20.0


def test_reader_after_a_pause_gets_a_new_rendering() -> None:
    """Ten seconds apart each gets its own; within a millisecond, with the budget used up, the newest."""
    renderer = Renderer(0.5)

    async def run() -> list[int]:
        rendering = Rendering(renderer.render, renderer.clock)
        got = []
        for pause in (0.001, 10.0, 0.001, KEPT_SECONDS + 0.1):
            got.append(await rendering.get())
            renderer.now += pause
        return [*got, await rendering.get()]

    assert asyncio.run(run()) == [1, 1, 2, 2, 3]


def test_reader_that_goes_away_does_not_end_what_others_wait_for() -> None:
    """The first of two readers is cancelled; the second has the rendering that the first began."""
    renderer = Renderer(0.01)

    async def run() -> int:
        rendering = Rendering(renderer.render, renderer.clock)
        first, second = (asyncio.create_task(rendering.get()) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        return await second

    assert asyncio.run(run()) == 1


def test_rendering_that_failed_is_made_again() -> None:
    """A failure reaches who asked; the next one gets a new rendering."""
    calls = 0

    async def render() -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ValueError("broken")
        return calls

    async def run() -> int:
        rendering = Rendering(render)
        with pytest.raises(ValueError, match="broken"):
            await rendering.get()
        return await rendering.get()

    assert asyncio.run(run()) == 2
