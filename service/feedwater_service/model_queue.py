"""The model's one thread, and the questions that wait for it.

The queue is the event loop's: the thread gets one question at a time. So a question is prepared, which
copies the pod, when the thread is free and not before; groups take turns, however many questions one of them
has; and a question that nobody waits for any more leaves the queue.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, TypeVar, cast

from feedwater_service.model.simulator.engine import BEFORE_EVENTS, SimulationLimitError

T = TypeVar("T")

CPU_DEADLINE_SECONDS = 5.0
"""CPU time of one question: 16 times that of the largest pod in docs/benchmarks.md."""
STUCK_CPU_SECONDS = 3 * CPU_DEADLINE_SECONDS
"""CPU time of one question after which the thread counts as stuck: it is in code that does not look at the
deadline."""
STUCK_SECONDS = 600.0
"""The same in wall time: 15 s of CPU time at 25m, a tenth of what the manifests give."""

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Question(Generic[T]):
    """A call that waits for the thread."""

    prepare: Callable[[], Callable[[], T]]
    future: asyncio.Future[T]


@dataclass(frozen=True, slots=True)
class _Running:
    """When the question that runs was begun, on the wall and on the thread's CPU."""

    began_seconds: float
    began_cpu_seconds: float


class ModelQueue:
    """Runs one question after another in a daemon thread: a long one must not delay the process' exit."""

    def __init__(self, cpu_deadline_seconds: float = CPU_DEADLINE_SECONDS) -> None:
        self._cpu_deadline = cpu_deadline_seconds
        self._waiting: dict[Hashable, deque[_Question[Any]]] = {}
        """By group; the one that is next is first."""
        self._running: _Running | None = None
        self._tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    async def run(self, group: Hashable, prepare: Callable[[], Callable[[], T]]) -> T:
        """Return what a call returns, or raise what it raises.

        Args:
            group: Whose question it is; groups take turns.
            prepare: Returns the call. It runs in the event loop as soon as the thread is free.
        """
        question = _Question(prepare, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(group, deque()).append(question)
        self._start_next()
        try:
            result: T = await question.future
            return result
        finally:
            # Nothing is left of it after an answer; a cancelled question leaves the queue.
            self._withdraw(group, question)

    @property
    def waiting(self) -> int:
        """Questions that wait for the thread."""
        return sum(map(len, self._waiting.values()))

    def answers(self) -> bool:
        """Return whether the thread lives, and has not been busy with one question for much too long."""
        if not self._thread.is_alive():
            return False
        running = self._running
        if running is None:
            return True
        return (
            time.perf_counter() - running.began_seconds < STUCK_SECONDS
            and self._cpu_seconds() - running.began_cpu_seconds < STUCK_CPU_SECONDS
        )

    def _cpu_seconds(self) -> float:
        """CPU time of the thread, which must be alive."""
        assert self._thread.ident is not None
        return time.clock_gettime(time.pthread_getcpuclockid(self._thread.ident))

    def _withdraw(self, group: Hashable, question: _Question[T]) -> None:
        queue = self._waiting.get(group)
        if queue is not None and question in queue:
            queue.remove(question)
            if not queue:
                del self._waiting[group]

    def _start_next(self) -> None:
        while self._running is None and self._waiting:
            group, queue = next(iter(self._waiting.items()))
            question = queue.popleft()
            del self._waiting[group]
            if queue:
                # The end of the line.
                self._waiting[group] = queue
            self._start(question)

    def _start(self, question: _Question[T]) -> None:
        if question.future.done():
            return
        try:
            call = question.prepare()
        except Exception as error:
            question.future.set_exception(error)
            return
        self._running = _Running(time.perf_counter(), self._cpu_seconds())
        loop = asyncio.get_running_loop()
        self._tasks.put(lambda: self._answer(loop, question.future, call))

    # In the thread

    def _work(self) -> None:
        while True:
            self._tasks.get()()

    def _answer(
        self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[T], call: Callable[[], T]
    ) -> None:
        result, failure = None, None
        try:
            BEFORE_EVENTS.set(self._deadline())
            result = call()
        except BaseException as error:
            failure = error
        try:
            loop.call_soon_threadsafe(self._end, future, result, failure)
        except RuntimeError:
            self._running = None
            log.debug("the event loop ended before the model did")

    def _deadline(self) -> Callable[[], None]:
        end = time.thread_time() + self._cpu_deadline

        def check() -> None:
            if time.thread_time() > end:
                raise SimulationLimitError(f"more than {self._cpu_deadline:g} s of CPU time")

        return check

    # In the event loop again

    def _end(self, future: asyncio.Future[T], result: T | None, failure: BaseException | None) -> None:
        self._running = None
        if not future.done():
            if failure is None:
                future.set_result(cast("T", result))
            else:
                future.set_exception(failure)
        self._start_next()
