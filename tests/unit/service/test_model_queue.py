"""The queue of the model's thread: fair between groups, prepared late, left by who gives up, and limited."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from feedwater_service import model_queue
from feedwater_service.model.simulator.engine import BEFORE_EVENTS, SimulationLimitError
from feedwater_service.model_queue import ModelQueue


@pytest.fixture
def queue() -> ModelQueue:
    """A queue whose thread is free."""
    return ModelQueue()


def test_groups_take_turns(queue: ModelQueue) -> None:
    """Of three questions of one group and then two of another, every second is the other's."""
    order: list[str] = []

    def prepare(name: str) -> Callable[[], Callable[[], None]]:
        return lambda: lambda: order.append(name)

    async def run() -> None:
        asked = [("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1"), ("b", "b2")]
        await asyncio.gather(*(queue.run(group, prepare(name)) for group, name in asked))

    asyncio.run(run())
    assert order == ["a1", "a2", "b1", "a3", "b2"]


def test_question_is_prepared_when_the_thread_is_free(queue: ModelQueue) -> None:
    """While one question runs, the next one is not prepared: what it copies would wait with it."""
    goes_on = threading.Event()
    prepared: list[str] = []

    def second() -> Callable[[], int]:
        prepared.append("second")
        return lambda: 2

    async def run() -> None:
        first = asyncio.create_task(queue.run("a", lambda: goes_on.wait))
        later = asyncio.create_task(queue.run("b", second))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (prepared, queue.waiting) == ([], 1)
        goes_on.set()
        assert await later == 2
        await first

    asyncio.run(run())


def test_cancelled_question_leaves_the_queue(queue: ModelQueue) -> None:
    """Of 200 questions that are cancelled while they wait nothing is left, and none is prepared."""
    goes_on = threading.Event()

    def never() -> Callable[[], None]:
        raise AssertionError("prepared")

    async def run() -> None:
        first = asyncio.create_task(queue.run("a", lambda: goes_on.wait))
        asked = [asyncio.create_task(queue.run(number, never)) for number in range(200)]
        await asyncio.sleep(0)
        assert queue.waiting == 200
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        assert queue.waiting == 0
        goes_on.set()
        await first

    asyncio.run(run())


def test_failure_reaches_who_asked_and_the_next_question_runs(queue: ModelQueue) -> None:
    """A question that fails, in its preparation or in the thread, fails alone."""

    def broken() -> Callable[[], int]:
        raise ValueError("not prepared")

    async def run() -> list[int | BaseException]:
        calls = (broken, lambda: lambda: 1 // 0, lambda: lambda: 3)
        return await asyncio.gather(*(queue.run("a", call) for call in calls), return_exceptions=True)

    first, second, third = asyncio.run(run())
    assert isinstance(first, ValueError)
    assert isinstance(second, ZeroDivisionError)
    assert third == 3


def test_question_ends_at_its_deadline() -> None:
    """A simulation that looks at its limits for ever is ended after 10 ms of CPU time."""

    def simulate() -> None:
        while True:
            BEFORE_EVENTS.get()()

    async def run() -> None:
        queue = ModelQueue(cpu_deadline_seconds=0.01)
        with pytest.raises(SimulationLimitError, match=r"more than 0\.01 s of CPU time"):
            await queue.run("a", lambda: simulate)
        assert await queue.run("a", lambda: lambda: 1) == 1

    asyncio.run(run())


@pytest.mark.parametrize("limit", ["STUCK_SECONDS", "STUCK_CPU_SECONDS"])
def test_thread_that_is_busy_for_too_long_does_not_answer(
    queue: ModelQueue, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """With one question beyond a limit the thread counts as stuck, until that question has ended."""
    goes_on = threading.Event()

    async def run() -> None:
        asked = asyncio.create_task(queue.run("a", lambda: goes_on.wait))
        await asyncio.sleep(0)
        assert queue.answers()
        monkeypatch.setattr(model_queue, limit, 0.0)
        assert not queue.answers()
        goes_on.set()
        await asked
        assert queue.answers()

    asyncio.run(run())
