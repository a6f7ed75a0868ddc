"""The sidecar's state as plain values: what ``feedwater status`` and the end of ``feedwater run`` show."""

from __future__ import annotations

from dataclasses import dataclass

from feedwater.relay.measurements import ContainerUsage, Limits
from feedwater.values import EpochSummary, LoaderSettings, Recommendation


@dataclass(frozen=True, slots=True)
class EpochView:
    """One epoch of one loader, with what its container did meanwhile."""

    summary: EpochSummary
    cpu_used_cores: float | None = None
    """Of the trainer's container, mean over the epoch."""
    throttled_ratio: float | None = None
    """Share of the container's CFS periods in which it was throttled, 0 to 1."""


@dataclass(frozen=True, slots=True)
class WorkerMemory:
    """The memory of one worker, as last read."""

    worker: int
    rss_bytes: int | None = None
    pss_bytes: int | None = None
    """Shared pages divided among their users. Read seldom."""
    uss_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class DecisionView:
    """What was said after an epoch, and what became of it."""

    epoch: int
    before: LoaderSettings
    """In use when it was said."""
    settings: LoaderSettings | None
    """None: nothing was recommended."""
    verdict: str
    sentence: str
    outcome: str
    """``applied``, ``advised``, ``refused``, ``failed``, ``unchanged``; empty until the client tells."""
    detail: str
    """Why it was refused, or how it failed: a full sentence."""
    rolls_back: bool


@dataclass(frozen=True, slots=True)
class Evidence:
    """One fact behind a verdict."""

    name: str
    """Ends in its unit: ``cpu_limit_cores``."""
    value: float
    text: str
    """How to read it, a phrase."""


@dataclass(frozen=True, slots=True)
class LoaderView:
    """One loader as the sidecar sees it. An older sidecar leaves out what has a default here."""

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
    """What became of the recommendation: ``applied``, ``advised``; empty where nothing was said."""
    uses_cuda: bool = False
    """The starvation of its epochs is the host's wait."""
    uncapped_num_workers: int | None = None
    """What would be recommended without the pod's limits."""
    evidence: tuple[Evidence, ...] = ()
    container: ContainerUsage | None = None
    """The trainer's, as last read."""
    workers: tuple[WorkerMemory, ...] = ()
    recent_wait_seconds: tuple[float, ...] = ()
    """Of the newest batches of the running or last epoch, start-up apart."""
    recent_step_seconds: tuple[float, ...] = ()
    """Of the same batches."""
    decisions: tuple[DecisionView, ...] = ()
    """Oldest first."""
    last_seen_seconds: float | None = None
    """When its client was last heard of: seconds since 1970 on the sidecar's clock."""
    stalled_seconds: float | None = None
    """Time without a batch while workers owe some; None where that cannot be told."""
    frozen: str = ""
    """Why nothing is recommended any more, a full sentence; empty if it is."""
    initial_settings: LoaderSettings | None = None
    """The user's."""
    batches_per_epoch: int | None = None
    label: str = ""
    """What a person recognises it by; empty where nothing is known."""


@dataclass(frozen=True, slots=True)
class PodView:
    """All that the sidecar knows, at one moment."""

    loaders: tuple[LoaderView, ...]
    version: str = ""
    """The sidecar's; empty where it is older than this field."""
    time_seconds: float | None = None
    """Of the message: seconds since 1970 on the sidecar's clock."""
