"""The real closed loop: mode auto, settings really applied, epoch after epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.recommendation.closed_loop import changes, settled_after
from tests.benchmarks.recommendation.harness import TrainerError, Training, training
from tests.benchmarks.recommendation.limits import Foreign
from tests.benchmarks.recommendation.oracle import Setting, Table
from tests.benchmarks.recommendation.workloads import Workload

EPOCHS = 6
PLAN: Mapping[str, tuple[int, ...]] = {
    "io": (0, 2, 32),
    "lognormal-1.2": (2,),
    "bursty": (2,),
    "cpu-1.0": (0, 8),
    "cpu-0.5": (8,),
    "heavy-1.0": (8,),
    "mixed-1.0": (0,),
    "jpeg-2.0": (2,),
    "http": (2,),
    "transfer": (2,),
    "tiny": (8,),
    "start-up": (2,),
    "native-threads": (2,),
    "python-threads": (2,),
    "ceiling-4": (2,),
    "shm-64": (2,),
    "memory": (2,),
    "two-ranks": (0,),
    "shards-3": (1,),
    "cold-first": (2,),
    "turning": (2,),
    "limit-changed": (8,),
    "open-file": (0,),
    "memory-tight": (1, 2),
}
"""Starting counts, by workload; a user may have set 0, 2, 8 or 32."""
LIMITS_LATER: Mapping[str, Mapping[int, float]] = {"limit-changed": {3: 0.5}}
"""By workload: the CPU limit that is set before an epoch."""
REFUSED = {"open-file", "shards-3"}
"""Workloads whose settings auto must leave alone: samples or their order depend on the count."""


@dataclass(frozen=True)
class Driven:
    """One real run."""

    workload: str
    family: str
    start: int
    settings: tuple[Setting, ...]
    seconds: tuple[float, ...]
    """Of each epoch, boundary included."""
    user_seconds: tuple[float, ...]
    """The same under the user's own setting: measured beside it, or the median of the sweep."""
    oracle_seconds: float | None
    """Of all epochs under the best setting of the sweep; None where there was no sweep."""
    noise: float
    in_order: bool
    """Every batch was the right one, in order, in every epoch."""
    out_of_memory_kills: int
    error: str
    foreign_cores: float
    """The most of an epoch."""

    @property
    def total(self) -> float:
        """Seconds of the run."""
        return sum(self.seconds)

    @property
    def settled_after(self) -> int:
        """Epochs observed before the final setting was in place."""
        return settled_after(self.settings)

    @property
    def changes(self) -> int:
        """How often the setting changed."""
        return changes(self.settings)

    @property
    def slower_epochs(self) -> int:
        """Settled epochs slower than the user's own setting, beyond noise."""
        settled = range(self.settled_after, len(self.settings))
        changed = (n for n in settled if self.settings[n][0] != self.start)
        return sum(self.seconds[n] > self.user_seconds[n] * (1 + 2 * self.noise) for n in changed)

    @property
    def did_harm(self) -> bool:
        """An error, a lost process, a wrong sample, or a change that had to be refused."""
        refused = self.workload in REFUSED and self.changes > 0
        return bool(self.error) or self.out_of_memory_kills > 0 or not self.in_order or refused


def drive(work: Workload, start: int, table: Table | None, epochs: int = EPOCHS) -> Driven:
    """Run one workload from one starting count.

    Args:
        work: What to train on.
        start: The user's own count.
        table: Of the sweep; None: the user's setting is run beside it.
        epochs: How many.
    """
    rows, kills, error, foreign = _run(work, "auto", start, epochs)
    ours = tuple((row["workers"], row["prefetch"] or 2) for row in rows)
    usual, oracle, noise = _references(work, start, table, epochs)
    return Driven(
        work.name,
        work.family,
        start,
        ours,
        tuple(row["seconds"] for row in rows),
        usual,
        oracle,
        noise,
        all(row["in_order"] for row in rows),
        kills,
        error,
        foreign,
    )


def _references(
    work: Workload, start: int, table: Table | None, epochs: int
) -> tuple[tuple[float, ...], float | None, float]:
    """Return the user's seconds by epoch, the oracle's of all, and the noise."""
    if table is None:
        rows, *_ = _run(work, "observe", start, epochs)
        return tuple(row["seconds"] for row in rows), None, 0.02
    usual = work.batches / table.rates[table.nearest(start)]
    return (usual,) * epochs, table.seconds([table.best] * epochs, work.batches), table.noise


def _run(work: Workload, mode: str, start: int, epochs: int) -> tuple[list[dict[str, Any]], int, str, float]:
    rows: list[dict[str, Any]] = []
    foreign = [0.0]
    later = LIMITS_LATER.get(work.name, {})
    with training(work, mode, start) as one:
        error = ""
        try:
            for number in range(epochs):
                if number in later:
                    one.group.set_cores(later[number])
                rows.append(_epoch(one, foreign))
        except TrainerError as lost:
            error = str(lost)[-300:]
        one.end()
        kills = one.group.out_of_memory_kills()
    failed = next((row["error"] for row in rows if "error" in row), "")
    return [row for row in rows if "error" not in row], kills, error or failed, max(foreign)


def _epoch(one: Training, foreign: list[float]) -> dict[str, Any]:
    others = Foreign(one.group)
    row = one.epoch({})
    foreign.append(round(others.cores(), 3))
    return row


def line(one: Driven) -> str:
    """Return one run in a line."""
    went = " ".join(str(n) if p == 2 else f"{n}/{p}" for n, p in one.settings)
    oracle = "" if one.oracle_seconds is None else f", oracle {one.oracle_seconds:.1f} s"
    harm = f" HARM: {one.error or 'wrong samples, a kill, or a change to be refused'}" if one.did_harm else ""
    return (
        f"{one.workload} from {one.start}: {went}; {one.total:.1f} s, user {sum(one.user_seconds):.1f} s"
        f"{oracle}, {one.slower_epochs} settled epochs slower{harm}"
    )


def from_json(body: Mapping[str, Any]) -> Driven:
    """Return the run that was written as JSON."""
    plain = dict(body)
    plain["settings"] = tuple((n, p) for n, p in plain["settings"])
    plain["seconds"], plain["user_seconds"] = tuple(plain["seconds"]), tuple(plain["user_seconds"])
    return Driven(**plain)
