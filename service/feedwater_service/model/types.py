"""The model's input and output: what was measured, the pod's limits, the recommendation.

Seconds, bytes and cores throughout; stamps are seconds on the trainer's monotonic clock. Nothing here reads a
clock, a file or a socket.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

GroupKey = tuple[str, str, str]
"""(job, pod, loader name): the ranks that change together."""


class Verdict(enum.Enum):
    """The named bottleneck."""

    UNKNOWN = "UNKNOWN"
    NOT_STARVED = "NOT_STARVED"
    TOO_FEW_WORKERS = "TOO_FEW_WORKERS"
    TOO_MANY_WORKERS = "TOO_MANY_WORKERS"
    CPU_LIMIT = "CPU_LIMIT"
    CPU_CONTENTION = "CPU_CONTENTION"
    STORAGE = "STORAGE"
    MAIN_PROCESS = "MAIN_PROCESS"
    SLOW_BATCHES = "SLOW_BATCHES"
    START_UP = "START_UP"
    MEMORY = "MEMORY"
    SHARED_MEMORY = "SHARED_MEMORY"
    OVERSUBSCRIBED = "OVERSUBSCRIBED"
    STRAGGLER_RANK = "STRAGGLER_RANK"


class NoRecommendationReason(enum.Enum):
    """Why there is no recommendation."""

    TOO_FEW_BATCHES = "TOO_FEW_BATCHES"
    LIMIT_UNKNOWN = "LIMIT_UNKNOWN"
    FROZEN = "FROZEN"
    NOT_REPORTED = "NOT_REPORTED"
    NOT_TUNABLE = "NOT_TUNABLE"
    MODE = "MODE"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, slots=True)
class LoaderSettings:
    """A ``DataLoader``'s settings, under PyTorch's names."""

    num_workers: int
    prefetch_factor: int | None = None
    """None is PyTorch's default: 2 with workers."""
    persistent_workers: bool = False
    pin_memory: bool = False
    in_order: bool = True

    @property
    def queue_batches(self) -> int:
        """Batches in flight at most: ``num_workers * prefetch_factor``; 0 without workers."""
        return self.num_workers * (self.prefetch_factor or 2)


@dataclass(frozen=True, slots=True)
class Budget:
    """The pod's limits. None is unknown or unlimited."""

    cpus: int
    """CPUs that the trainer may run on at once (affinity and cpuset)."""
    cpu_quota_cores: float | None = None
    """The smallest CFS quota of all visible levels."""
    cpu_period_seconds: float = 0.1
    """The kernel's default period."""
    memory_bytes: int | None = None
    shm_bytes: int | None = None
    pids: int | None = None
    open_files: int | None = None

    @property
    def cores(self) -> float:
        """The smaller of quota and CPUs."""
        return min(self.cpu_quota_cores or self.cpus, self.cpus)


@dataclass(frozen=True, slots=True)
class Load:
    """One batch made by a worker (or by the main process, at ``num_workers=0``)."""

    worker: int
    start: float
    seconds: float
    """Fetch, transform and collate; transport to the main process is not in it."""
    cpu_seconds: float
    run_delay_seconds: float
    """Runnable but not running; throttling included."""
    batch_bytes: int = 0
    """0 where not measured."""
    batch_tensors: int = 0

    @property
    def blocked_seconds(self) -> float:
        """Neither running nor runnable: waiting for storage, network, a lock."""
        return max(0.0, self.seconds - self.cpu_seconds - self.run_delay_seconds)

    @property
    def own_seconds(self) -> float:
        """Its undisturbed time: blocked and CPU time."""
        return self.blocked_seconds + self.cpu_seconds


@dataclass(frozen=True, slots=True)
class WorkerMemory:
    """One worker's memory at one moment."""

    worker: int
    stamp_seconds: float
    rss_bytes: int | None = None
    pss_bytes: int | None = None
    uss_bytes: int | None = None
    cpu_seconds: float | None = None
    """User and system time of all its threads since it started."""
    boot_cpu_seconds: float | None = None
    """The part of it before its first load; None before that, or from an older client."""

    @property
    def own_bytes(self) -> int | None:
        """Memory that one more worker takes: USS, or else PSS; never RSS. None where neither was read.

        PSS holds a part of what is shared with the trainer, which is there already: where workers took 12 MiB
        each of the container's memory, and USS said 11, PSS said 107.
        """
        return self.uss_bytes if self.uss_bytes is not None else self.pss_bytes


@dataclass(frozen=True, slots=True)
class Reads:
    """Bytes that the loading processes read during an epoch, as far as they were watched."""

    chars: int
    """Bytes that passed through read calls."""
    from_storage_bytes: int
    """Those that the page cache did not hold."""


@dataclass(frozen=True, slots=True)
class ContainerUsage:
    """The trainer's container at one moment; counters since it started. None is unknown."""

    stamp_seconds: float
    cpu_seconds: float | None = None
    periods: int | None = None
    throttled_periods: int | None = None
    throttled_seconds: float | None = None
    memory_bytes: int | None = None
    """Anonymous, unreclaimable and shared memory."""
    shm_bytes: int | None = None
    oom_kills: int | None = None
    pids: int | None = None
    cpu_pressure_seconds: float | None = None
    """Time in which at least one task waited for a CPU (PSI, "some")."""
    io_pressure_seconds: float | None = None
    """The same for storage."""
    memory_pressure_seconds: float | None = None
    """The same for memory: reclaim, refaults, swap."""
    steal_seconds: float | None = None
    device_utilisation: float | None = None
    """Share of time, 0 to 1, in which the device executed anything."""


@dataclass(frozen=True, slots=True)
class DeviceStep:
    """One step as the accelerator saw it: sampled, about one in 16."""

    batch: int
    """Ordinal within the epoch."""
    idle_seconds: float
    """The device had nothing to do between the end of the step before and the start of this one's work."""
    busy_seconds: float
    """From the start of this step's work on the device to its end."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch of one loader in one rank, as measured: the trace that is simulated."""

    number: int
    settings: LoaderSettings
    start: float
    """When ``iter()`` was called."""
    iter_seconds: float
    """Time that ``iter()`` took."""
    waits: Sequence[float]
    """Shape (batches,), seconds. The first is start-up."""
    steps: Sequence[float]
    """Shape (batches,), seconds: from getting a batch to asking for the next."""
    ready: Sequence[int] = ()
    """Shape (batches,) or empty: batches ready after the wait, -1 where not read."""
    loads: Sequence[Load] = ()
    """In order of start, of all workers; possibly a part of the epoch."""
    device: Sequence[DeviceStep] = ()
    """In order of batch; empty where the device was not measured: then host wait is not starvation."""
    memory: Sequence[WorkerMemory] = ()
    containers: Sequence[ContainerUsage] = ()
    """In order of time, within the epoch or next to it."""
    trainer_cpu_seconds: float | None = None
    """CPU time of the training process during the epoch, all threads."""
    trainer_run_delay_seconds: float | None = None
    """Time of its main thread during the epoch that it was runnable but not running, throttling included."""
    batches: int = 0
    """All batches of the epoch; more than ``len(waits)`` where history was bounded."""
    complete: bool = True
    teardown_seconds: float = 0.0
    dropped: int = 0
    """Batches known to be lost in measurement."""
    budget: Budget | None = None
    """In force during the epoch."""
    reads: Reads | None = None
    """None where the kernel did not say."""
    parts: tuple[Epoch, ...] = ()
    """Of several short epochs that were joined (`pooling.joined`): these, oldest first; empty for one."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of settings that was applied, and at which epoch it took effect."""

    first_epoch: int
    before: LoaderSettings
    after: LoaderSettings
    recommendation_id: str = ""
    rolls_back: bool = False
    budget: Budget | None = None
    """In force when it was decided."""


@dataclass(frozen=True, slots=True)
class Loader:
    """All that is known of one loader of one rank."""

    name: str
    rank: int
    settings: LoaderSettings
    """In use now."""
    epochs: Sequence[Epoch]
    """Oldest first, bounded; the last one is the one that just ended (or runs)."""
    batches_per_epoch: int | None = None
    map_style: bool = True
    """False: an ``IterableDataset``, whose order depends on the number of workers: advice only."""
    start_method: str = "fork"
    tunable: bool = True
    can_apply: bool = True
    """Its client can change it while it is in use; False: advice for the next start."""
    uses_cuda: bool = False
    shards: int | None = None
    """Shards of an ``IterableDataset``, as the dataset states them: more workers get nothing. None is not
    known."""
    changes: Sequence[Change] = ()
    failed: Sequence[LoaderSettings] = ()
    """LoaderSettings that were tried and did not help, or could not be applied."""
    job: str = ""
    """The training job of its process: several jobs of one pod may have loaders of the same name."""
    pod: str = ""

    @property
    def group(self) -> GroupKey:
        """The same for all ranks that change together."""
        return self.job, self.pod, self.name


@dataclass(frozen=True, slots=True)
class Pod:
    """The loaders and ranks that share one pod's budget."""

    budget: Budget
    loaders: Sequence[Loader]
    container: ContainerUsage | None = None
    """The newest reading."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The bounds of recommendations that the user sets. The defaults are the sidecar's."""

    max_workers: int = 64
    """No single pod was seen to gain beyond; an upper stop, not a target."""
    min_workers: int = 0
    memory_margin: float = 0.1
    """Share of the memory limit that is never planned for."""
    min_batches: int = 20
    """Fewer say nothing of the spread of load times."""
    min_gain: float = 0.02
    """Predicted gain below which nothing changes: hysteresis."""
    max_changes: int = 6
    """Over the life of a loader; then its setting is frozen."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One fact behind a verdict."""

    name: str
    """Ends in its unit: ``cpu_limit_cores``."""
    value: float
    text: str
    """How to read it: a phrase with the number in it."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the simulation expects of one setting in steady state."""

    settings: LoaderSettings
    batches_per_second: float
    batches_per_second_lower: float
    batches_per_second_upper: float
    starvation: float
    """0 to 1."""
    memory_bytes: int | None = None
    """Of the loader's workers and queues."""
    shm_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What the best setting under another CPU limit is expected to reach."""

    cpu_limit_cores: float
    best: Prediction
    """With the settings that would be chosen under that limit."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The answer: settings, verdict, evidence, prediction."""

    epoch: int
    settings: LoaderSettings
    uncapped_num_workers: int
    verdict: Verdict
    sentence: str
    """Action and cause as one sentence, at most 160 characters, with its full stop."""
    current: Prediction
    chosen: Prediction
    curve: tuple[Prediction, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    advice: tuple[str, ...] = ()
    rolls_back: bool = False
    what_if: tuple[WhatIf, ...] = ()
    """By rising CPU limit."""
    action: str = ""
    """What changes, a phrase: ``2 → 4 workers for +42% batches/s``."""
    cause: str = ""
    """Why, a phrase, without the share of waiting, which is a number of the epoch."""
    advice_topics: tuple[str, ...] = ()
    """Shape (len(advice),): what each is about, the same from epoch to epoch while its figures change."""
    cpu_limit_needed_cores: float | None = None
    """CPU limit of the container at which starvation ends, or beyond which nothing is gained where none ends
    it; None where neither was found."""

    @property
    def changes(self) -> bool:
        """The settings differ from those in use."""
        return self.settings != self.current.settings


@dataclass(frozen=True, slots=True)
class NoRecommendation:
    """No answer yet: a value with a reason."""

    reason: NoRecommendationReason
    message: str
    """A full sentence."""

    @property
    def sentence(self) -> str:
        """The message, by the name that it has in a recommendation."""
        return self.message

    def __bool__(self) -> bool:
        """Refuse to be a condition: "none yet" is neither true nor false."""
        raise TypeError("a NoRecommendation has no truth value: use isinstance()")
