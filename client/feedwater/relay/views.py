"""The sidecar's state as plain values: what ``feedwater status`` and the end of ``feedwater run`` show."""

from __future__ import annotations

from dataclasses import dataclass

from feedwater.relay.measurements import ContainerUsage, Limits
from feedwater.values import EpochSummary, LoaderSettings, Recommendation


@dataclass(frozen=True, slots=True)
class EpochView:
    """One epoch of one loader, with the CPU use of its container."""

    summary: EpochSummary
    cpu_used_cores: float | None = None
    """Of the trainer's container, mean over the epoch."""
    throttled_ratio: float | None = None
    """Share of the container's CFS periods in which it was throttled, 0 to 1."""


@dataclass(frozen=True, slots=True)
class WorkerMemory:
    """The memory of one worker at its last reading."""

    worker: int
    rss_bytes: int | None = None
    pss_bytes: int | None = None
    """Shared pages are divided among their users. Read at long intervals."""
    uss_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class DecisionView:
    """The sidecar's decision after an epoch, and its outcome."""

    epoch: int
    before: LoaderSettings
    """The settings in use at the decision."""
    settings: LoaderSettings | None
    """None if nothing was recommended."""
    verdict: str
    sentence: str
    outcome: str
    """``applied``, ``advised``, ``refused``, ``failed``, ``unchanged``; empty until the client reports it."""
    detail: str
    """Why it was refused or how it failed: a full sentence."""
    rolls_back: bool


@dataclass(frozen=True, slots=True)
class Evidence:
    """One fact behind a verdict."""

    name: str
    """Ends in its unit: ``cpu_limit_cores``."""
    value: float
    text: str
    """Its meaning, a phrase."""


@dataclass(frozen=True, slots=True)
class LoaderView:
    """One loader in the sidecar's state. An older sidecar leaves out the fields with a default."""

    loader: str
    job: str
    namespace: str
    pod: str
    rank: int
    mode: str
    settings: LoaderSettings
    limits: Limits
    connected: bool
    """Its client reports."""
    epochs: tuple[EpochView, ...]
    recommendation: Recommendation | None
    reason: str
    """Why there is no recommendation."""
    outcome: str
    """The outcome of the recommendation: ``applied``, ``advised``; empty without a recommendation."""
    uses_cuda: bool = False
    """The starvation of its epochs is then the host's wait."""
    uncapped_num_workers: int | None = None
    """The recommended count without the pod's limits."""
    evidence: tuple[Evidence, ...] = ()
    container: ContainerUsage | None = None
    """The trainer's, at its last reading."""
    workers: tuple[WorkerMemory, ...] = ()
    recent_wait_seconds: tuple[float, ...] = ()
    """Of the newest batches of the running or last epoch, start-up apart."""
    recent_step_seconds: tuple[float, ...] = ()
    """Of the same batches."""
    decisions: tuple[DecisionView, ...] = ()
    """Oldest first."""
    last_seen_seconds: float | None = None
    """Time of the last call of its client: seconds since 1970 on the sidecar's clock."""
    stalled_seconds: float | None = None
    """Time without a batch while batches are outstanding; None where that is unknown."""
    frozen: str = ""
    """Why nothing is recommended any more, a full sentence; empty while recommendations are made."""
    initial_settings: LoaderSettings | None = None
    """The user's."""
    batches_per_epoch: int | None = None
    label: str = ""
    """Its data for a person; empty where unknown."""
    reason_code: str = ""
    """The kind of the reason why there is no recommendation: ``TOO_FEW_BATCHES``; empty where unknown."""


@dataclass(frozen=True, slots=True)
class PodView:
    """The sidecar's state at one moment."""

    loaders: tuple[LoaderView, ...]
    version: str = ""
    """Of the sidecar; empty if it is older than this field."""
    time_seconds: float | None = None
    """Of the message: seconds since 1970 on the sidecar's clock."""
