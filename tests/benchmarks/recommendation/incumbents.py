"""What others would do: rules in use today, played on the same measured table.

Each returns the settings of its epochs, one an epoch. All counts are taken to the nearest measured one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.benchmarks.recommendation.oracle import Setting, Table

EPOCHS = 10
GRID = (0, 1, 2, 4, 8, 16)
"""What a user who takes the trouble tries, one epoch each."""
CLIMB_GAIN = 0.0
"""tf.data's hill climbing went on as long as throughput did not fall."""


@dataclass(frozen=True)
class Machine:
    """What the rules look at."""

    cpus: int
    """``len(os.sched_getaffinity(0))``: none of them sees the quota."""
    ranks: int = 1


def fixed(table: Table, workers: int) -> list[Setting]:
    """Return one count for all epochs."""
    return [table.nearest(workers)] * EPOCHS


def torch_maximum(table: Table, start: int, machine: Machine) -> list[Setting]:
    """Return the count that PyTorch's warning suggests: the CPUs that the process may run on."""
    return fixed(table, machine.cpus)


def lightning(table: Table, start: int, machine: Machine) -> list[Setting]:
    """Return Lightning's ``max(1, cpu_count // local_world_size - 1)``."""
    return fixed(table, max(1, machine.cpus // machine.ranks - 1))


def four(table: Table, start: int, machine: Machine) -> list[Setting]:
    """Return 4, which scripts copy from each other."""
    return fixed(table, 4)


def hill_climbing(table: Table, start: int, machine: Machine) -> list[Setting]:
    """Return one worker more each epoch until the rate falls, then the one before for good."""
    counts = sorted({n for n, p in table.rates if p == 2})
    at = counts.index(table.nearest(start)[0])
    went = [(counts[at], 2)]
    while len(went) < EPOCHS and at + 1 < len(counts):
        at += 1
        went.append((counts[at], 2))
        if table.rates[went[-1]] <= table.rates[went[-2]] * (1 + CLIMB_GAIN):
            return _filled(went, went[-2])
    return _filled(went, went[-1])


def grid_search(table: Table, start: int, machine: Machine) -> list[Setting]:
    """Return an epoch of each count of the grid, then the best of them."""
    tried = list(dict.fromkeys(table.nearest(n) for n in GRID))
    return _filled(tried, max(tried, key=lambda s: table.rates[s]))


def _filled(went: list[Setting], rest: Setting) -> list[Setting]:
    return [*went, *([rest] * (EPOCHS - len(went)))][:EPOCHS]


Rule = Callable[[Table, int, Machine], list[Setting]]
RULES: dict[str, Rule] = {
    "PyTorch's suggested maximum": torch_maximum,
    "Lightning's cpu_count // local_world_size - 1": lightning,
    "fixed 4": four,
    "hill climbing by one": hill_climbing,
    "grid search": grid_search,
}
