"""One epoch at one setting, by the loop's own clock and nothing else: no Feedwater in it."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from feedwater import worker
from feedwater.loop import dataloader
from feedwater.loop.change import apply
from feedwater.relay.processes import ProcessReader
from feedwater.sweep.interrupt import Interrupt, started
from feedwater.sweep.target import First
from feedwater.values import LoaderSettings

HUNG_SECONDS = 60.0
"""Without a batch: longer than any load that a loop would bear."""
LEAST_BATCHES = 20
"""Before a slow epoch is cut: fewer say nothing of the spread of load times."""

LONGEST_REASON = 120
"""Characters: it stands at the end of a line of the table."""

Step = Callable[[object], object]


class HungError(Exception):
    """No batch came for `HUNG_SECONDS`."""


@dataclass(frozen=True, slots=True)
class MeasuredEpoch:
    """One measured epoch."""

    batches: int
    """Of the whole epoch."""
    seconds: float
    """From asking for the iterator to its end, the workers' end included."""
    start_up_seconds: float
    wait_seconds: float
    """Blocked in ``next()``, the first batch apart."""
    step_seconds: float
    worker_bytes: int | None = None
    """Memory of all workers (PSS) after the last batch; None where not read."""
    batch_bytes: int | None = None
    """Of one batch, as Feedwater's workers measure it; None where not read."""
    is_cut: bool = False
    """It took so long that its rest was not waited for; it counts as the part before went."""

    @property
    def batches_per_second(self) -> float:
        """Batches over the whole epoch, start-up included."""
        return self.batches / self.seconds if self.seconds > 0 else 0.0

    @property
    def starvation(self) -> float:
        """Share of iteration time spent waiting, 0 to 1, the first batch apart."""
        whole = self.wait_seconds + self.step_seconds
        return self.wait_seconds / whole if whole > 0 else 0.0


@dataclass(slots=True)
class Bench:
    """A loader of our own, and what is done with its batches."""

    loader: object
    first: First
    """Its sampler: how long its epochs are."""
    step: Step
    batches: int | None = None
    """Of one epoch; None is not known."""
    interrupt: Interrupt = field(default_factory=Interrupt)

    def set(self, wanted: LoaderSettings) -> str:
        """Give the loader other settings; return why it does not take them, empty if it does."""
        now = dataloader.settings_of(self.loader)
        why = apply.refusal(self.loader, now, wanted, True)
        if why:
            return why
        apply.change(self.loader, wanted)
        taken = dataloader.settings_of(self.loader)
        if (taken.num_workers, taken.prefetch_factor) != (wanted.num_workers, wanted.prefetch_factor):
            return f"the loader did not take num_workers={wanted.num_workers}"
        return ""

    def warm(self) -> None:
        """Start workers that persist, which training starts once and not each epoch."""
        settings = dataloader.settings_of(self.loader)
        if not (settings.persistent_workers and settings.num_workers):
            return
        count, self.first.count = self.first.count, settings.num_workers
        try:
            with alarmed() as progress:
                for _ in started(self.loader):
                    progress[0] += 1
        finally:
            self.first.count = count

    def epoch(self, longest_seconds: float, with_memory: bool) -> MeasuredEpoch:
        """Measure one epoch.

        Args:
            longest_seconds: After that, and `LEAST_BATCHES`, the rest is not waited for.
            with_memory: Read the workers' memory after the last batch, off the clock.

        Raises:
            HungError: No batch came.
            KeyboardInterrupt: Ctrl-C was pressed; the workers are ended.
            Exception: What the loader or the step raised.
        """
        with alarmed() as progress:
            return _EpochRun(self, longest_seconds, with_memory).epoch(progress)

    def close(self) -> None:
        """End workers that persist."""
        with contextlib.suppress(Exception):
            apply.change(self.loader, dataloader.settings_of(self.loader))


class _EpochRun:
    def __init__(self, bench: Bench, longest_seconds: float, with_memory: bool) -> None:
        self._bench = bench
        self._longest = longest_seconds
        self._with_memory = with_memory
        self._batch_bytes: int | None = None

    def epoch(self, progress: list[int]) -> MeasuredEpoch:
        clock, step = time.perf_counter, self._bench.step
        began = asked = clock()
        iterator = started(self._bench.loader)
        batches, start_up, wait, worked = 0, 0.0, 0.0, 0.0
        expected = self._bench.batches
        off_clock, memory = 0.0, None
        is_cut = False
        interrupt = self._bench.interrupt
        while not interrupt.is_asked:
            try:
                batch = next(iterator)
            except StopIteration:
                break
            got = clock()
            if batches:
                wait += got - asked
            else:
                start_up = got - began
            batches += 1
            progress[0] = batches
            if batches == 1 and self._with_memory:
                self._batch_bytes, _ = worker.measure(batch)
                off_clock += clock() - got
                got = clock()
            step(batch)
            asked = clock()
            worked += asked - got
            if self._with_memory and batches == expected:
                memory = workers_bytes(iterator)
                off_clock += clock() - asked
            if asked - began > self._longest and batches >= LEAST_BATCHES and batches != expected:
                is_cut = True
                break
        seconds = clock() - began - off_clock
        del iterator
        interrupt.check()
        made = MeasuredEpoch(batches, seconds, start_up, wait, worked, memory, self._batch_bytes)
        return whole(made, expected) if is_cut else made


def whole(part: MeasuredEpoch, batches: int | None) -> MeasuredEpoch:
    """Return the epoch that ``part`` was cut from, its rest as the part after the first batch went.

    Example: 21 batches in 12 s, 2 s of them start-up, are 0.5 s each; 41 batches are 22 s.
    """
    if batches is None or part.batches < 2:
        return replace(part, is_cut=True)
    grow = (batches - 1) / (part.batches - 1)
    return replace(
        part,
        batches=batches,
        seconds=part.start_up_seconds + (part.seconds - part.start_up_seconds) * grow,
        wait_seconds=part.wait_seconds * grow,
        step_seconds=part.step_seconds * grow,
        is_cut=True,
    )


@contextlib.contextmanager
def alarmed(seconds: float = HUNG_SECONDS) -> Iterator[list[int]]:
    """Yield a counter of batches that must move; where it does not, `HungError` is raised in the body.

    A timer costs nothing per batch, and ends a ``next()`` that would never return.
    """
    progress, seen = [0], [-1]

    def look(*_: object) -> None:
        if progress[0] == seen[0]:
            raise HungError(f"no batch for {seconds:g} s")
        seen[0] = progress[0]

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield progress
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def workers_bytes(iterator: object) -> int | None:
    """Return the memory of an iterator's workers, shared pages divided among those that share them."""
    pids = [pid for pid in (getattr(w, "pid", None) for w in getattr(iterator, "_workers", ())) if pid]
    reader = ProcessReader()
    usages = [reader.usage(pid, None, 0.0, with_pss=True) for pid in pids]
    sizes = [u.pss_bytes if u.pss_bytes is not None else u.uss_bytes for u in usages if u is not None]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(pids) else None


def reason_of(error: BaseException) -> str:
    """Return one line on why a setting failed."""
    text = f"{type(error).__name__}: {error}".strip().rstrip(":")
    if "Bus error" in text or "No space left" in text:
        return "out of /dev/shm: batches in flight do not fit, or a worker died of one"
    return _first_line(text)


def _first_line(text: str) -> str:
    line = next((line for line in text.splitlines() if line.strip()), "")
    # Errors of workers come as a message around the traceback, whose last line says what happened.
    if "Caught" in line and "Traceback" in text:
        where = line.partition(" in ")[2].rstrip(".")
        line = text.strip().splitlines()[-1] + (f" (in {where})" if where else "")
    return line if len(line) <= LONGEST_REASON else line[: LONGEST_REASON - 1] + "…"


def sleeping(seconds: float) -> Step:
    """Return a step that only waits, as for a device that computes; 0 does nothing."""
    if seconds <= 0:
        return lambda batch: None
    return lambda batch: time.sleep(seconds)
