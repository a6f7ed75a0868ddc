"""CPU time as the kernel hands it out: shared by runnable threads, and under a quota from a token bucket.

Without a quota the runnable threads share the CPUs evenly (processor sharing). With one, they also drain a
bucket that holds ``quota x period`` seconds of CPU time and is filled anew each period; what is left is lost.
Once it is empty *every* thread of the container stands still until the refill. Sharing the quota evenly over
time instead, as if a core had become slower, erred by -16 to +17 % at half a core.

Source: https://docs.kernel.org/scheduler/sched-bwc.html
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace

from feedwater_service.model.types import Budget

NEVER = float("inf")
_EPSILON = 1e-9
"""A nanosecond: below what any clock here resolves, above the rounding of sums up to a million seconds."""
_EXACT_SECONDS = 1e6
"""Beyond this time a float of 53 bits rounds sums of seconds by more than a quarter of `_EPSILON`."""
_RELATIVE = 1e-15
"""Of the time, beyond that: more than four roundings. A remainder that is smaller never ends, as adding it to
the time changes nothing."""
MIN_PERIOD_SECONDS, MAX_PERIOD_SECONDS = 1e-3, 1.0
"""The shortest and the longest period that the kernel takes.

Source: https://docs.kernel.org/scheduler/sched-bwc.html"""


@dataclass(frozen=True, slots=True)
class Machine:
    """What runs the loader's threads."""

    cpus: float
    """CPUs to run on at once; a fraction where they are shared with others."""
    quota_cores: float | None = None
    """CPU seconds per second; None is without limit."""
    period_seconds: float = 0.1
    obtainable: float = 1.0
    """Share of the CPUs' time that can be had; below 1 where other containers compute on them, too."""

    @property
    def cores(self) -> float:
        """CPU seconds per second that can be had."""
        left = self.cpus * self.obtainable
        return left if self.quota_cores is None else min(left, self.quota_cores)

    def with_even_quota(self) -> Machine:
        """Return a machine that gives the quota evenly: enough where work spans many periods."""
        return Machine(self.cores / self.obtainable, obtainable=self.obtainable)

    def times(self, count: int) -> Machine:
        """Return the machine that several such machines make together."""
        if count == 1:
            return self
        quota = None if self.quota_cores is None else self.quota_cores * count
        return replace(self, cpus=self.cpus * count, quota_cores=quota)

    def share(self, part: float, used_cores: float = 0.0) -> Machine:
        """Return the part of one of several equal consumers, less the cores that others use.

        Never less than a twentieth of a core: the others yield too.
        """

        def left(amount: float) -> float:
            return max(amount * part * 0.25, amount * part - used_cores, 0.05)

        quota = None if self.quota_cores is None else left(self.quota_cores)
        return replace(self, cpus=left(self.cpus), quota_cores=quota)


def machine_of(budget: Budget) -> Machine:
    """Return the machine that a budget describes; a quota of all CPUs or more is none."""
    quota = budget.cpu_quota_cores
    return Machine(
        float(max(1, budget.cpus)),
        None if quota is None or quota >= budget.cpus else max(quota, 0.01),
        min(max(budget.cpu_period_seconds, MIN_PERIOD_SECONDS), MAX_PERIOD_SECONDS)
        if budget.cpu_period_seconds > 0
        else 0.1,
    )


class CpuScheduler:
    """The CPUs of one container, running threads' bursts of work side by side.

    All runnable threads advance at one common rate, so a single counter of *work done by each* (``_done``)
    orders all completions, and an event costs the logarithm of the number of threads.
    """

    __slots__ = (
        "_bursts",
        "_cpus",
        "_done",
        "_frozen",
        "_full",
        "_is_limited",
        "_period",
        "_rate",
        "_refill",
        "_tokens",
        "_tolerance",
        "_width",
        "busy_seconds",
        "frozen_seconds",
        "now",
        "refills",
        "runnable_seconds",
    )

    def __init__(self, machine: Machine) -> None:
        self.now = 0.0
        self.busy_seconds = 0.0
        """CPU time used so far."""
        self.frozen_seconds = 0.0
        """Time that runnable threads were frozen because the quota was used up."""
        self.runnable_seconds = 0.0
        """CPU time that threads used or waited for."""
        self.refills = 0
        """Periods of the quota that threads computed in."""
        self._cpus = machine.cpus * machine.obtainable
        self._full = NEVER if machine.quota_cores is None else machine.quota_cores * machine.period_seconds
        self._is_limited = machine.quota_cores is not None
        self._period = machine.period_seconds
        self._tokens = self._full
        self._refill = NEVER if machine.quota_cores is None else machine.period_seconds
        self._frozen = False
        self._done = 0.0
        self._rate = 1.0
        self._width = 0.0
        self._bursts: list[tuple[float, int, float]] = []
        self._tolerance = _EPSILON

    def start(self, thread: int, work: float, width: float = 1.0) -> None:
        """Make a thread runnable.

        Args:
            thread: Its number, which `run` returns when the work is done.
            work: Seconds that it would run undisturbed.
            width: CPUs that it keeps busy (native threads).
        """
        if self.now >= self._refill:
            self._fill()
        heapq.heappush(self._bursts, (self._done + work, thread, width))
        width = self._width = self._width + width
        self._rate = 1.0 if width <= self._cpus else self._cpus / width

    @property
    def is_idle(self) -> bool:
        """No thread is runnable."""
        return not self._bursts

    def run(self, until: float) -> int:
        """Advance time to the next event, or to ``until`` if that is earlier.

        Returns:
            The thread whose work is done; -1 if it is none's.
        """
        # One method finds the next event and advances to it: it is called for each event of each simulation,
        # and two calls took a fifth of all time.
        bursts, at, done = self._bursts, until, self._done
        if bursts:
            if self._frozen:
                at = min(at, self._refill)
                self.frozen_seconds += at - self.now
            else:
                rate, width, now = self._rate, self._width, self.now
                soonest = now + (bursts[0][0] - done) / rate
                if soonest < at:
                    at = soonest
                if self._is_limited:
                    at = min(at, now + self._tokens / (width * rate), self._refill)
                used = (at - now) * rate
                done += used
                self._done = done
                used *= width
                self.busy_seconds += used
                self._tokens -= used
            self.runnable_seconds += (at - self.now) * self._width
        self.now = at
        tolerance = self._tolerance
        if self._is_limited and at >= self._refill - tolerance:
            self._fill()
        # While threads are frozen, not even a burst of no work ends: it has to run for that.
        if bursts and bursts[0][0] <= done + tolerance and not self._frozen:
            _, thread, width = heapq.heappop(bursts)
            width = self._width = self._width - width if bursts else 0.0
            self._rate = 1.0 if width <= self._cpus else self._cpus / width
            return thread
        # Tokens are used by as many CPUs as threads keep busy, so their rounding is that of the time on each.
        if self._is_limited and self._tokens <= tolerance * max(1.0, self._cpus):
            self._frozen = True
        if at > _EXACT_SECONDS:
            # Only where no thread is through: a remainder that is lost in the time comes here each time.
            self._tolerance = at * _RELATIVE
        return -1

    def _fill(self) -> None:
        self._tokens = self._full
        self._frozen = False
        # The bucket is filled at fixed times, however much was used.
        tolerance = self._tolerance
        self._refill = (int((self.now + tolerance) / self._period) + 1) * self._period
        if self._refill <= self.now + tolerance:
            self._refill = self.now + self._period
        self.refills += 1
