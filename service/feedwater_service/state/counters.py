"""Counts since this process started: what Prometheus calls counters and histograms.

They are kept apart from the sessions because their lifetime differs: a session is restored after a restart
and expires when its client is gone; a counter starts at zero with each process and never falls.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from feedwater_service.state.columns import BOUNDS, Column

KEPT_SERIES = 256
"""(loader, rank) pairs that have counters of their own; later pairs share those of ``other``."""
OTHER = ("other", 0)


@dataclass(slots=True)
class Histogram:
    """Counts of observations by upper bound."""

    cumulative: list[int] = field(default_factory=lambda: [0] * len(BOUNDS))
    """Observations at or below each of `BOUNDS`."""
    count: int = 0
    total: float = 0.0

    def add(self, column: Column) -> None:
        """Count all values of a column."""
        self.cumulative = [a + b for a, b in zip(self.cumulative, column.cumulative, strict=True)]
        self.count += len(column.values)
        self.total += column.total


@dataclass(slots=True)
class LoaderCounters:
    """The counters of one loader of one rank."""

    wait: Histogram = field(default_factory=Histogram)
    step: Histogram = field(default_factory=Histogram)
    load: Histogram = field(default_factory=Histogram)
    load_cpu: Histogram = field(default_factory=Histogram)
    load_run_delay: Histogram = field(default_factory=Histogram)
    epochs: int = 0
    starved_seconds: float = 0.0
    """Waits, without the wait for the first batch of each epoch."""
    start_up_seconds: float = 0.0
    """Making iterators and waiting for their first batches."""
    device_steps: int = 0
    """Steps that were sampled on the device."""
    device_idle_seconds: float = 0.0
    """Idle time of the device, scaled from the sampled steps to all batches."""
    device_busy_seconds: float = 0.0
    """Busy time of the device, scaled likewise."""
    unsampled_batches: int = 0
    """Batches since the last sampled step."""
    reports: int = 0
    replayed: int = 0
    missing: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Batches lost in measurement, by cause."""
    outcomes: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Counters:
    """All counts since this process started."""

    by_series: dict[tuple[str, int], LoaderCounters] = field(default_factory=dict)
    rejected: Counter[str] = field(default_factory=Counter)
    """Calls refused, by cause."""
    model_runs: int = 0
    model_seconds: float = 0.0
    model_given_up: int = 0
    """Runs that were given up because they took too much CPU time or too many events."""
    checkpoint_failures: int = 0

    def of(self, loader: str, rank: int) -> LoaderCounters:
        """Return the counters of a loader and rank, a new one for a new pair."""
        key = (loader, rank)
        if key not in self.by_series and len(self.by_series) >= KEPT_SERIES:
            key = OTHER
        return self.by_series.setdefault(key, LoaderCounters())
