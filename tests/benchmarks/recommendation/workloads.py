"""The workloads: what is loaded, how it is consumed, under which limits, and what is to be found.

`TUNED` are those that the model's constants may be set on; `HELD_OUT` are the same families with other
parameters, never looked at while tuning.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.data import Dataset

FEW = (0, 1, 2, 3, 4, 8)
SOME = (0, 1, 2, 3, 4, 6, 8, 12)
LONG = (0, 1, 2, 4, 6, 8, 12, 16)
DEEP = {4: (4, 8), 6: (4, 8), 8: (4, 8), 12: (4,)}
BOTH = {4: (4,), 8: (4,)}
MANY = (0, 1, 2, 3, 4, 5, 6, 8, 16)


@dataclass(frozen=True)
class Workload:
    """One training on one machine."""

    name: str
    family: str
    held_out: bool
    make: Callable[[int], Dataset[Any]]
    """From the number of items."""
    batch_size: int
    batches: int
    """Of an epoch: for 1 to 2 s at a good count, start-up included."""
    step_cpu: float = 0.0
    step_timed: float = 0.0
    """Seconds of CPU time and of waiting for an accelerator, per batch."""
    quota_cores: float | None = None
    memory_bytes: int | None = None
    shm_bytes: int | None = None
    counts: tuple[int, ...] = SOME
    """Values of num_workers that are measured."""
    prefetch: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """Values of prefetch_factor beyond the usual 2, by num_workers."""
    verdicts: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """By starting count: the verdicts that name the cause which was built in. Only where there is one."""
    ranks: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    store: tuple[float, int] | None = None
    """Latency in seconds and bytes of a body of the object store that it needs."""
    background: tuple[int, float, float] | None = None
    """Python threads in the trainer: how many, seconds busy, seconds idle."""
    other_quota: float | None = None
    """A second limit to measure the sweep under, for what-if."""
    validation: bool = False
    """A second loader runs after each epoch."""
    init_cpu: float = 0.0
    """CPU seconds of each worker's ``worker_init_fn``, as importing or building a tokenizer takes."""

    def step(self) -> None:
        """Consume one batch."""
        from tests.benchmarks.recommendation.datasets import burn

        if self.step_cpu:
            burn(self.step_cpu)
        if self.step_timed:
            time.sleep(self.step_timed)

    @property
    def step_seconds(self) -> float:
        """What the step alone takes, on a core of its own."""
        return self.step_cpu + self.step_timed


def _timed(
    blocked: tuple[Any, ...], cpu: float, shape: tuple[int, ...] = (64,), kind: str = "Timed", *more: Any
) -> Callable[[int], Any]:
    """Return a maker of a dataset of the module `datasets`, which imports torch and so only workers need."""

    def make(items: int) -> Any:
        from tests.benchmarks.recommendation import datasets

        times = getattr(datasets, blocked[0])(*blocked[1:])
        made = getattr(datasets, kind)
        return made(items, times, cpu, *more) if more else made(items, times, cpu, shape)

    return make


def _of(kind: str, *arguments: Any) -> Callable[[int], Any]:
    def make(items: int) -> Any:
        from tests.benchmarks.recommendation import datasets

        return getattr(datasets, kind)(items, *arguments)

    return make


ENOUGH = ("NOT_STARVED", "TOO_MANY_WORKERS")
STARVED = ("TOO_FEW_WORKERS",)
NO_CPU = ("CPU_LIMIT",)
MIB = 1 << 20


def _w(
    name: str, family: str, held_out: bool, make: Callable[[int], Any], size: int, batches: int, **rest: Any
) -> Workload:
    return Workload(name, family, held_out, make, size, batches, **rest)


TUNED = (
    _w(
        "io",
        "io",
        False,
        _timed(("constant", 0.005), 0.0003),
        4,
        190,
        step_timed=0.004,
        counts=MANY,
        verdicts={1: STARVED, 2: STARVED, 8: ENOUGH, 16: ENOUGH},
        prefetch=BOTH,
    ),
    _w(
        "io-cpu-step",
        "io",
        False,
        _timed(("constant", 0.006), 0.0003),
        4,
        210,
        step_cpu=0.003,
        step_timed=0.001,
        counts=MANY,
        verdicts={1: STARVED, 2: STARVED},
    ),
    _w(
        "lognormal-1.2",
        "tail",
        False,
        _timed(("lognormal", 0.02, 1.2), 0.0005),
        1,
        200,
        step_timed=0.004,
        counts=LONG,
        prefetch=DEEP,
        verdicts={1: STARVED, 2: (*STARVED, "SLOW_BATCHES")},
    ),
    _w(
        "bursty",
        "bursty",
        False,
        _timed(("bursty", 0.002, 0.15, 80), 0.0003),
        4,
        220,
        step_timed=0.004,
        counts=MANY,
        prefetch={3: (4, 8), 4: (4, 8), 6: (4, 8), 8: (4, 8)},
    ),
    _w(
        "cpu-1.0",
        "cpu",
        False,
        _timed(("constant", 0.0), 0.003),
        2,
        200,
        step_timed=0.003,
        quota_cores=1.0,
        other_quota=2.0,
        verdicts={2: NO_CPU, 4: NO_CPU, 8: NO_CPU},
    ),
    _w(
        "cpu-2.0",
        "cpu",
        False,
        _timed(("constant", 0.0), 0.004),
        2,
        240,
        step_timed=0.003,
        quota_cores=2.0,
        other_quota=1.0,
        verdicts={1: STARVED, 4: NO_CPU, 8: NO_CPU},
    ),
    _w(
        "heavy-1.0",
        "cpu-step",
        False,
        _timed(("constant", 0.0), 0.003),
        2,
        140,
        step_cpu=0.004,
        quota_cores=1.0,
        counts=FEW,
        verdicts={2: NO_CPU, 4: NO_CPU, 8: NO_CPU},
    ),
    _w(
        "mixed-1.0",
        "mixed",
        False,
        _timed(("constant", 0.006), 0.001),
        4,
        190,
        step_timed=0.002,
        quota_cores=1.0,
        other_quota=2.0,
        counts=MANY,
        verdicts={1: STARVED},
    ),
    _w("jpeg-2.0", "jpeg", False, _of("Jpegs"), 8, 200, step_timed=0.004, quota_cores=2.0, other_quota=1.0),
    _w(
        "http",
        "http",
        False,
        _of("Objects", 0.0005),
        2,
        220,
        step_timed=0.004,
        store=(0.008, 16384),
        counts=MANY,
        verdicts={1: STARVED, 2: STARVED},
    ),
    _w(
        "transfer",
        "transfer",
        False,
        _timed(("constant", 0.006), 0.0, (1 << 20,)),
        4,
        100,
        step_timed=0.004,
        verdicts={8: ("MAIN_PROCESS", "CPU_LIMIT", "NOT_STARVED", "TOO_MANY_WORKERS")},
    ),
    _w(
        "tiny",
        "tiny",
        False,
        _of("Tiny"),
        16,
        1400,
        step_timed=0.0005,
        counts=FEW,
        verdicts={0: ("NOT_STARVED", "MAIN_PROCESS")},
    ),
    _w(
        "start-up",
        "start-up",
        False,
        _timed(("constant", 0.01), 0.0005, (), "SlowStart", 0.12),
        2,
        60,
        step_timed=0.004,
        verdicts={4: ("START_UP",), 8: ("START_UP",)},
    ),
    _w(
        "native-threads",
        "native-threads",
        False,
        _of("Threaded", 192, 3),
        2,
        100,
        step_timed=0.002,
        environment={"OPENBLAS_NUM_THREADS": "8", "OMP_NUM_THREADS": "8"},
        counts=FEW,
        verdicts={2: ("OVERSUBSCRIBED",), 4: ("OVERSUBSCRIBED",)},
    ),
    _w(
        "ceiling-4",
        "ceiling",
        False,
        _timed(("constant", 0.005), 0.0003, (), "Capped", 4),
        4,
        190,
        step_timed=0.003,
        counts=MANY,
        prefetch=BOTH,
        verdicts={8: ("STORAGE", "UNKNOWN"), 1: STARVED},
    ),
)
HELD_OUT = (
    _w(
        "io-deep",
        "io",
        True,
        _timed(("constant", 0.012), 0.0005),
        2,
        260,
        step_timed=0.003,
        counts=LONG,
        verdicts={1: STARVED, 2: STARVED, 4: STARVED},
        prefetch={6: (4,)},
    ),
    _w(
        "io-barely",
        "io",
        True,
        _timed(("constant", 0.002), 0.0002),
        4,
        200,
        step_timed=0.007,
        verdicts={4: ENOUGH, 8: ENOUGH, 12: ENOUGH},
    ),
    _w(
        "pareto-1.8",
        "tail",
        True,
        _timed(("pareto", 0.014, 1.8), 0.0005),
        1,
        220,
        step_timed=0.003,
        counts=LONG,
        prefetch=DEEP,
        verdicts={1: STARVED},
    ),
    _w(
        "lognormal-1.5",
        "tail",
        True,
        _timed(("lognormal", 0.016, 1.5), 0.0003),
        1,
        200,
        step_timed=0.005,
        counts=LONG,
        prefetch=DEEP,
    ),
    _w(
        "bursty-rare",
        "bursty",
        True,
        _timed(("bursty", 0.003, 0.3, 200), 0.0005),
        4,
        210,
        step_timed=0.005,
        counts=MANY,
        prefetch={4: (4, 8), 6: (4, 8)},
    ),
    _w(
        "cpu-0.5",
        "cpu",
        True,
        _timed(("constant", 0.0), 0.003),
        2,
        100,
        step_timed=0.004,
        quota_cores=0.5,
        counts=FEW,
        verdicts={1: NO_CPU, 2: NO_CPU, 4: NO_CPU, 8: NO_CPU},
    ),
    _w(
        "cpu-1.5",
        "cpu",
        True,
        _timed(("constant", 0.0), 0.004),
        2,
        230,
        step_timed=0.005,
        quota_cores=1.5,
        verdicts={4: NO_CPU, 8: NO_CPU},
    ),
    _w(
        "heavy-0.5",
        "cpu-step",
        True,
        _timed(("constant", 0.0), 0.002),
        3,
        70,
        step_cpu=0.004,
        quota_cores=0.5,
        counts=FEW,
        verdicts={1: NO_CPU, 2: NO_CPU, 4: NO_CPU, 8: NO_CPU},
    ),
    _w(
        "mixed-2.0",
        "mixed",
        True,
        _timed(("constant", 0.008), 0.002),
        3,
        220,
        step_cpu=0.001,
        step_timed=0.003,
        quota_cores=2.0,
        counts=MANY,
        verdicts={1: STARVED, 2: STARVED},
    ),
    _w(
        "jpeg-1.0",
        "jpeg",
        True,
        _of("Jpegs", 640, 480),
        4,
        150,
        step_timed=0.003,
        quota_cores=1.0,
        verdicts={2: NO_CPU, 4: NO_CPU, 8: NO_CPU},
    ),
    _w(
        "http-far",
        "http",
        True,
        _of("Objects", 0.001),
        2,
        190,
        step_timed=0.005,
        store=(0.02, 65536),
        counts=MANY,
        verdicts={1: STARVED, 2: STARVED, 4: STARVED},
    ),
    _w(
        "many-tensors",
        "transfer",
        True,
        _timed(("constant", 0.006), 0.0, (256,), "Several"),
        2,
        140,
        step_timed=0.002,
        verdicts={8: ("MAIN_PROCESS", "CPU_LIMIT", "NOT_STARVED", "TOO_MANY_WORKERS")},
    ),
    _w(
        "shm-64",
        "transfer",
        True,
        _timed(("constant", 0.02), 0.0, (1 << 18,)),
        4,
        100,
        step_timed=0.008,
        shm_bytes=64 * MIB,
        counts=(0, 1, 2, 3, 4, 5, 6),
        verdicts={},
    ),
    _w(
        "memory",
        "memory",
        True,
        _timed(("constant", 0.02), 0.0003, (), "Hungry", 80 * MIB),
        2,
        160,
        step_timed=0.004,
        memory_bytes=900 * MIB,
        counts=(0, 1, 2, 3, 4, 5),
    ),
    _w("fast-step", "tiny", True, _timed(("constant", 0.0), 0.0), 8, 3000, counts=FEW, verdicts={}),
    _w(
        "start-up-long",
        "start-up",
        True,
        _timed(("constant", 0.008), 0.0005, (), "SlowStart", 0.25),
        3,
        60,
        step_timed=0.006,
        verdicts={4: ("START_UP",), 8: ("START_UP",)},
    ),
    _w(
        "native-threads-wide",
        "native-threads",
        True,
        _of("Threaded", 256, 2),
        2,
        100,
        step_timed=0.003,
        environment={"OPENBLAS_NUM_THREADS": "4", "OMP_NUM_THREADS": "4"},
        counts=FEW,
        verdicts={2: ("OVERSUBSCRIBED",), 4: ("OVERSUBSCRIBED",)},
    ),
    _w(
        "python-threads",
        "main",
        True,
        _timed(("constant", 0.004), 0.0005),
        2,
        60,
        step_cpu=0.002,
        background=(2, 0.02, 0.01),
        verdicts={4: ("MAIN_PROCESS", "CPU_LIMIT"), 8: ("MAIN_PROCESS", "CPU_LIMIT")},
    ),
    _w(
        "shards-3",
        "iterable",
        True,
        _of("Shards", 0.004, 0.0005, 3),
        4,
        200,
        step_timed=0.005,
        counts=(0, 1, 2, 3, 4, 6),
        verdicts={1: STARVED},
    ),
    _w(
        "ceiling-2",
        "ceiling",
        True,
        _timed(("constant", 0.004), 0.0005, (), "Capped", 2),
        3,
        200,
        step_timed=0.003,
        prefetch=BOTH,
        verdicts={8: ("STORAGE", "UNKNOWN"), 1: STARVED},
    ),
    _w(
        "two-ranks",
        "ranks",
        True,
        _timed(("constant", 0.008), 0.0005),
        2,
        190,
        step_timed=0.004,
        ranks=2,
        validation=True,
        counts=(0, 1, 2, 3, 4, 6, 8),
        verdicts={1: STARVED, 2: STARVED},
    ),
)
SWEPT = (*TUNED, *HELD_OUT)


def named(name: str) -> Workload:
    """Return the workload of that name."""
    return next(w for w in SWEPT if w.name == name)
