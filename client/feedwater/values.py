"""The values that the training loop and its transport exchange. Standard library only."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol, cast


class Mode(str, enum.Enum):
    """What a user allows Feedwater to do, in rising order."""

    OFF = "off"
    OBSERVE = "observe"
    ADVISE = "advise"
    AUTO = "auto"

    @property
    def rank(self) -> int:
        """Position in the order off, observe, advise, auto."""
        return list(Mode).index(self)


class Outcome(str, enum.Enum):
    """What became of a recommendation in the training process."""

    APPLIED = "applied"
    ADVISED = "advised"
    REFUSED = "refused"
    FAILED = "failed"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class LoaderSettings:
    """A ``DataLoader``'s settings, under PyTorch's names."""

    num_workers: int
    prefetch_factor: int | None = None
    """Batches each worker keeps ready; None is PyTorch's default (2 with workers)."""
    persistent_workers: bool = False
    pin_memory: bool = False
    in_order: bool | None = None
    """None in versions of PyTorch without it, which deliver in order."""


@dataclass(frozen=True, slots=True)
class LoaderDescription:
    """A loader as it is when it is first iterated."""

    name: str
    settings: LoaderSettings
    mode: Mode
    dataset_kind: str
    """``"map"``, ``"iterable"``, or ``"none"`` for an iterable that is no ``DataLoader``."""
    batch_size: int | None = None
    batches_per_epoch: int | None = None
    start_method: str = ""
    can_apply: bool = True
    uses_cuda: bool = False
    label: str = ""
    """Its data for a person: ``"MNIST[60000], batches of 64"``."""
    shards: int | None = None
    """Shards of an ``IterableDataset``, as the dataset states them; None is not known."""


@dataclass(frozen=True, slots=True)
class EpochSummary:
    """One epoch of one loader, as it went."""

    epoch: int
    """0 for the first."""
    settings: LoaderSettings
    batches: int
    seconds: float
    """From asking for the iterator to its end."""
    wait_seconds: float
    """Blocked in ``next()``, the first batch apart."""
    step_seconds: float
    """The trainer's own work between batches."""
    start_up_seconds: float
    """Making the iterator and waiting for its first batch."""
    complete: bool = True
    verdict: str = "UNKNOWN"
    device_starvation: float | None = None
    """Share of its time that the accelerator waited for batches, 0 to 1, from a sample of its steps; None
    where it was not measured. Where CUDA is used, `starvation` is the host's wait and says less."""
    loader: str = ""
    """The name of its loader."""

    @property
    def batches_per_second(self) -> float:
        """Batches divided by the whole epoch, start-up included; 0 for an empty epoch."""
        return self.batches / self.seconds if self.seconds > 0 else 0.0

    @property
    def starvation(self) -> float:
        """Share of iteration time spent waiting, 0 to 1; 0 where there was none."""
        iteration = self.wait_seconds + self.step_seconds
        return self.wait_seconds / iteration if iteration > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the sidecar expects of one setting, in epochs as long as the one that it was made from."""

    settings: LoaderSettings
    batches_per_second: float
    """Over the whole epoch, start-up included."""
    batches_per_second_lower: float
    batches_per_second_upper: float
    starvation: float
    """Share of iteration time spent waiting, 0 to 1."""
    memory_bytes: int | None = None
    """Of the loader's workers and queues; None is not known."""
    shm_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What the sidecar expects of the best setting under another CPU limit."""

    cpu_limit_cores: float
    """Of the container, with all its ranks."""
    best: Prediction
    """With the settings that would be chosen under that limit."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The sidecar's answer at an epoch boundary, as far as the training process needs it."""

    id: str
    epoch: int
    settings: LoaderSettings
    verdict: str
    sentence: str
    """What changes and why, at most 160 characters."""
    changes: bool
    rolls_back: bool = False
    batches_per_second: float = 0.0
    """Predicted with ``settings``."""
    batches_per_second_now: float = 0.0
    """Predicted with the settings in use."""
    advice: tuple[str, ...] = ()
    curve: tuple[Prediction, ...] = ()
    """What is expected of other counts, by rising count; empty from sidecars that do not say."""
    what_if: tuple[WhatIf, ...] = ()
    """What is expected under other CPU limits, by rising limit; empty from sidecars that do not say."""
    action: str = ""
    """What changes, a phrase; empty from sidecars that state the sentence alone."""
    cause: str = ""
    """Why, a phrase, without the share of waiting."""
    advice_topics: tuple[str, ...] = ()
    """What each advice is about: the same from epoch to epoch while its figures change. Empty from sidecars
    that do not say."""
    cpu_limit_needed_cores: float | None = None
    """CPU limit of the container at which starvation ends, or beyond which nothing is gained where none ends
    it; None where neither was found, and from sidecars that do not say."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The transport's answer at an epoch boundary; its ``recommendation`` can be None."""

    recommendation: Recommendation | None = None
    reason: str = ""
    """Why there is no recommendation: a full sentence."""
    mode: Mode | None = None
    """The mode that policy allows; None where the sidecar has not stated it."""
    connected: bool = False
    """The sidecar answered."""
    address: str = ""
    """Where the sidecar is expected."""
    late: bool = False
    """No answer came in time: the sidecar may be there."""

    def __bool__(self) -> bool:
        """Refuse to be a condition: "no recommendation" is a value with a reason, not falsehood."""
        raise TypeError("an Answer has no truth value: test answer.recommendation is not None")


class Transport(Protocol):
    """What the training loop calls: `feedwater.loop.link.RelayTransport`, or in tests a `FakeTransport`.

    No method raises. Only `get_recommendation` may take longer than a write to a socket.
    """

    def register_loader(self, key: int, description: LoaderDescription, ring_fd: int) -> None:
        """Register a loader. ``ring_fd`` is the memfd that holds its ring (`feedwater.ring`)."""

    def begin_epoch(
        self,
        key: int,
        epoch: int,
        settings: LoaderSettings,
        iter_seconds: float,
        worker_pids: Sequence[int],
        first_worker_ring: int,
        head: int,
    ) -> None:
        """Begin an epoch, whose iterator was made when the main ring's count of batches was ``head``."""

    def end_epoch(
        self, key: int, epoch: int, head: int, complete: bool, teardown_seconds: float, stamp_ns: int
    ) -> None:
        """End an epoch that is ``complete`` or was abandoned; its batches end at ``head``."""

    def get_recommendation(self, key: int, epoch: int, deadline_seconds: float) -> Answer:
        """Return the recommendation made from exactly ``epoch``, or within the deadline why there is none."""

    def report_applied(
        self, key: int, recommendation_id: str, outcome: Outcome, now: LoaderSettings, detail: str
    ) -> None:
        """Report what became of a recommendation, *before* the iterator with the new settings is built."""

    def release_ring(self, key: int) -> None:
        """Stop reading a loader's ring; `register_loader` is called again before its next epoch."""

    def request_preview(self, key: int, epoch: int) -> None:
        """Request a recommendation made from the running ``epoch``, without waiting for it."""

    def take_preview(self, key: int) -> Answer | None:
        """Return the answer to `request_preview`; None while there is none."""

    def close(self) -> None:
        """Send the last timings and end."""


def settings_from_json(value: dict[str, object]) -> LoaderSettings:
    """Return the settings that ``dataclasses.asdict`` made; unknown keys are ignored."""
    known = {f.name for f in fields(LoaderSettings)}
    return LoaderSettings(**{k: v for k, v in value.items() if k in known})  # type: ignore[arg-type]


def recommendation_from_json(value: dict[str, object]) -> Recommendation:
    """Return the recommendation that ``dataclasses.asdict`` made."""
    curve = cast("list[dict[str, object]]", value["curve"])
    made = {
        **value,
        "settings": _settings_in(value),
        "advice": tuple(cast("list[str]", value["advice"])),
        "advice_topics": tuple(cast("list[str]", value.get("advice_topics", ()))),
        "curve": tuple(map(_prediction_from_json, curve)),
        "what_if": tuple(map(_what_if_from_json, cast("list[dict[str, object]]", value.get("what_if", ())))),
    }
    return Recommendation(**made)  # type: ignore[arg-type]


def _prediction_from_json(value: dict[str, object]) -> Prediction:
    return Prediction(**{**value, "settings": _settings_in(value)})  # type: ignore[arg-type]


def _what_if_from_json(value: dict[str, object]) -> WhatIf:
    best = _prediction_from_json(cast("dict[str, object]", value["best"]))
    return WhatIf(cast("float", value["cpu_limit_cores"]), best)


def _settings_in(value: dict[str, object]) -> LoaderSettings:
    return settings_from_json(cast("dict[str, object]", value["settings"]))
