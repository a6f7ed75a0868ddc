"""What clients report, as plain values: the messages of the wire without protobuf.

Seconds, bytes and cores; stamps are seconds on the trainer's monotonic clock.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from feedwater.values import Mode, Outcome
from feedwater_service.model.types import ContainerUsage, LoaderSettings
from feedwater_service.state.columns import Column

DROP_CAUSES = ("ring_overrun", "worker_ring_overrun", "buffer_full", "refused", "other")
"""Why batches were lost in measurement; ``other`` is what a newer client counts."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The process that reports."""

    client_id: str
    """Random, another for each training process."""
    job: str = ""
    namespace: str = ""
    pod: str = ""
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    trainer_pid: int = 0
    pid_namespace: str = ""
    """Of the training process; empty where its client does not state it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a container. None is unknown or without limit."""

    cpu_quota_cores: float | None = None
    cpus: int | None = None
    memory_bytes: int | None = None
    shm_bytes: int | None = None
    pids: int | None = None
    open_files: int | None = None
    cpu_period_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class RegisterRequest:
    """A loader as its client describes it: the message ``RegisterLoaderRequest``."""

    identity: Identity
    loader: str
    settings: LoaderSettings
    mode: Mode
    dataset_kind: str = "map"
    """``"map"``, ``"iterable"``, or ``"none"`` for what is not a ``DataLoader``."""
    batches_per_epoch: int | None = None
    start_method: str = "fork"
    can_apply: bool = True
    limits: Limits | None = None
    uses_cuda: bool = False
    label: str = ""
    """How a person recognises it: ``"MNIST[60000], batches of 64"``."""
    shards: int | None = None
    """Shards of an ``IterableDataset``, as the dataset states them; None is not known."""


@dataclass(frozen=True, slots=True)
class Batches:
    """Consecutive batches of one epoch."""

    epoch: int
    first: int
    """Ordinal within the epoch of the first batch here."""
    start_seconds: float
    """When the first batch here was asked for."""
    wait_seconds: Column
    step_seconds: Column
    ready: array[int]
    """Shape (batches,) or empty: batches ready after each wait, -1 where not read."""


@dataclass(frozen=True, slots=True)
class WorkerLoads:
    """The loads of one epoch, one row a batch, worker after worker."""

    epoch: int
    worker: array[int]
    start_seconds: array[float]
    load_seconds: Column
    cpu_seconds: Column
    run_delay_seconds: Column
    batch_bytes: array[int]
    batch_tensors: array[int]


@dataclass(frozen=True, slots=True)
class DeviceSteps:
    """Sampled steps of one epoch, timed on the device."""

    epoch: int
    batch: array[int]
    """Ordinals within the epoch, ascending."""
    idle_seconds: Column
    busy_seconds: Column


@dataclass(frozen=True, slots=True)
class EpochBegin:
    """An epoch has begun."""

    epoch: int
    stamp_seconds: float
    settings: LoaderSettings
    iter_seconds: float


@dataclass(frozen=True, slots=True)
class EpochEnd:
    """An epoch has ended."""

    epoch: int
    stamp_seconds: float
    batches: int
    complete: bool
    teardown_seconds: float


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """One process of the trainer's container at one moment."""

    pid: int
    worker: int | None
    """None is the training process itself."""
    stamp_seconds: float
    cpu_seconds: float | None = None
    run_delay_seconds: float | None = None
    """Of the training process: time that its main thread was runnable but not running, since it started."""
    rss_bytes: int | None = None
    pss_bytes: int | None = None
    uss_bytes: int | None = None
    read_chars: int | None = None
    """Bytes that passed through its read calls since it started."""
    read_bytes: int | None = None
    """Bytes of those that came from storage."""
    boot_cpu_seconds: float | None = None
    """CPU time of a worker before its first load."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one loader measured since its last report, usually for a second."""

    loader_id: str
    sequence: int
    begins: tuple[EpochBegin, ...] = ()
    batches: tuple[Batches, ...] = ()
    loads: tuple[WorkerLoads, ...] = ()
    ends: tuple[EpochEnd, ...] = ()
    container: ContainerUsage | None = None
    processes: tuple[ProcessUsage, ...] = ()
    limits: Limits | None = None
    drops: dict[str, int] = field(default_factory=dict)
    """Batches lost since the client started, by cause."""
    last: bool = False
    device_steps: tuple[DeviceSteps, ...] = ()
    uses_cuda: bool = False
    """The trainer has initialised CUDA by now."""


@dataclass(frozen=True, slots=True)
class RecommendationRequest:
    """A client asks at an epoch boundary: the message ``GetRecommendationRequest``."""

    loader_id: str
    epoch: int
    end_sequence: int
    preview: bool = False
    """The epoch is still running; nothing is decided."""


@dataclass(frozen=True, slots=True)
class AppliedReport:
    """What became of a recommendation: the message ``ReportAppliedRequest``."""

    loader_id: str
    recommendation_id: str
    outcome: Outcome
    settings: LoaderSettings
    """The settings in use from now on."""
    detail: str = ""
