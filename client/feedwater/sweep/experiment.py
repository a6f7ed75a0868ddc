"""The sweep itself: rounds over all settings, then fresh pairs of the best and of Feedwater's choice."""

from __future__ import annotations

import gc
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from feedwater.relay import machine
from feedwater.relay.observer import Observer
from feedwater.sweep.figures import Regret, Row, best_of, regret, row_of
from feedwater.sweep.measure import Bench, reason_of
from feedwater.sweep.plan import Needs, Room, depth_of, order_of
from feedwater.sweep.progress import Progress
from feedwater.values import LoaderSettings

SLOWEST = 2.0
"""Times the planned length of an epoch, beyond which the rest of a slow one is not waited for."""


@dataclass(frozen=True, slots=True)
class SweepResult:
    """How the sweep ended."""

    regret: Regret | None = None
    """Of Feedwater's choice; None where it is the best, or one of them was not measured."""
    is_fresh: bool = False
    """Its pairs were measured for it, after the best was known."""
    stopped: str = ""
    """Why it ended early, a phrase; empty if it did not."""
    is_interrupted: bool = False
    """By Ctrl-C."""


class _SpentError(Exception):
    """The time is up."""


@dataclass(slots=True)
class Experiment:
    """What is measured, and how."""

    bench: Bench
    rows: list[Row]
    rounds: int
    epoch_seconds: float
    """Planned length of an epoch at the user's own setting."""
    chosen: LoaderSettings | None
    """By Feedwater."""
    progress: Progress
    deadline: float | None = None
    """On the clock; None: as long as it takes."""
    clock: Callable[[], float] = time.monotonic
    needs: Needs = field(default_factory=Needs)
    observer: Observer = field(default_factory=lambda: Observer(os.getpid()))

    def run(self) -> SweepResult:
        """Measure; what was measured is in the rows, however it ends."""
        try:
            self._rounds()
            return self._judge(fresh=True)
        except _SpentError:
            return self._ended("the time set by --budget-seconds is up")
        except KeyboardInterrupt:
            return self._ended("interrupted", is_interrupted=True)
        finally:
            self.bench.close()

    def _rounds(self) -> None:
        self.progress.expect(self.rounds * len(self.rows))
        for number in range(self.rounds):
            for row in self._in_order(number):
                if not row.failure:
                    self._measure(row, f"round {number + 1} of {self.rounds}")
                self.progress.done()

    def _in_order(self, number: int) -> list[Row]:
        found = (
            row_of(self.rows, settings) for settings in order_of(number, [r.settings for r in self.rows])
        )
        return [row for row in found if row is not None]

    def _measure(self, row: Row, what: str) -> float | None:
        """Return batches per second of one more epoch; None where there was none, and the row says why."""
        self.bench.interrupt.check()
        self._check_time(row)
        # What an epoch left in cycles may hold batches in /dev/shm.
        gc.collect()
        row.failure = self.needs.refusal(row.settings, self._room())
        row.is_refused = bool(row.failure)
        if not row.failure:
            self.progress.doing(f"{what}: {words(row.settings)}")
            row.failure = self._epoch(row)
        return None if row.failure else row.rates[-1]

    def _epoch(self, row: Row) -> str:
        """Add an epoch to the row; return why there is none."""
        try:
            why = self.bench.set(row.settings)
            if why:
                return why
            self.bench.warm()
            made = self.bench.epoch(SLOWEST * self.epoch_seconds, with_memory=not row.epochs)
        except Exception as error:
            # Its traceback holds the iterator, in a cycle whose collection waits 5 s for each worker.
            traceback.clear_frames(error.__traceback__)
            self.bench.close()
            self.bench.interrupt.check()
            return reason_of(error)
        if not made.batches:
            return "no batch came"
        row.epochs.append(made)
        self.needs.learn(row.settings.num_workers, made.worker_bytes, made.batch_bytes)
        return ""

    def _check_time(self, row: Row) -> None:
        expected = row.epochs[-1].seconds if row.epochs else self.epoch_seconds
        if self.deadline is not None and self.clock() + expected > self.deadline:
            raise _SpentError

    def _room(self) -> Room:
        limit, used = self.observer.limits().memory_bytes, self.observer.container().memory_bytes
        shm = machine.shared_memory()
        return Room(
            memory_bytes=limit - used if limit is not None and used is not None else None,
            memory_limit_bytes=limit,
            shm_bytes=shm.size_bytes - shm.used_bytes if shm else None,
            shm_size_bytes=shm.size_bytes if shm else None,
        )

    def _judge(self, fresh: bool) -> SweepResult:
        """Return what Feedwater's choice loses: by fresh pairs, since the best of many is partly luck."""
        best, chosen = best_of(self.rows), row_of(self.rows, self.chosen)
        if best is None or chosen is None or best is chosen or not chosen.epochs:
            return SweepResult()
        if not fresh:
            return SweepResult(regret(best.rates, chosen.rates))
        return SweepResult(regret(*self._pairs(best, chosen)), is_fresh=True)

    def _pairs(self, best: Row, chosen: Row) -> tuple[list[float], list[float]]:
        found: tuple[list[float], list[float]] = ([], [])
        # Pairs of their own: the table's medians stay those of the rounds, alike for all settings.
        rows = (Row(best.settings), Row(chosen.settings))
        self.progress.expect(2 * self.rounds)
        for number in range(self.rounds):
            for at in (0, 1) if number % 2 == 0 else (1, 0):
                rate = self._measure(rows[at], "best against Feedwater's choice")
                self.progress.done()
                if rate is not None:
                    found[at].append(rate)
        return found

    def _ended(self, why: str, is_interrupted: bool = False) -> SweepResult:
        judged = self._judge(fresh=False)
        return SweepResult(judged.regret, False, why, is_interrupted)


def words(settings: LoaderSettings) -> str:
    """Return a setting as PyTorch spells it."""
    if not settings.num_workers:
        return "num_workers=0"
    return f"num_workers={settings.num_workers}, prefetch_factor={depth_of(settings)}"
