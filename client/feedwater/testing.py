"""A transport that needs no sidecar, so that scripts that use Feedwater can be tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from feedwater import ring
from feedwater.values import Answer, LoaderDescription, LoaderSettings, Mode, Outcome, Recommendation


class EpochBegin(NamedTuple):
    """A call of ``begin_epoch``."""

    epoch: int
    settings: LoaderSettings
    iter_seconds: float
    worker_pids: tuple[int, ...]
    first_worker_ring: int
    head: int


class EpochEnd(NamedTuple):
    """A call of ``end_epoch``."""

    epoch: int
    head: int
    complete: bool
    teardown_seconds: float
    stamp_ns: int


class AppliedReport(NamedTuple):
    """A call of ``report_applied``."""

    recommendation_id: str
    outcome: Outcome
    now: LoaderSettings
    detail: str


@dataclass(frozen=True, slots=True)
class Advice:
    """The answer after an epoch."""

    num_workers: int
    prefetch_factor: int | None = None
    """None: 2 with workers."""
    verdict: str = "TOO_FEW_WORKERS"
    sentence: str = ""
    """Empty: a sentence that states the count."""


class FakeTransport:
    """Answers with given advice and records all calls.

    Example:
        >>> fake = FakeTransport({0: 2})  # after epoch 0: two workers
        >>> for batch in feedwater.watch(loader, transport=fake): ...
        >>> fake.outcomes("loader-0")
    """

    def __init__(
        self,
        advice: Mapping[int, int | Advice] | None = None,
        *,
        mode: Mode | None = None,
        connected: bool = True,
    ) -> None:
        """Take the advice by epoch; after an epoch without an entry there is no recommendation.

        Args:
            advice: A number of workers, or an `Advice`, by epoch.
            mode: The mode that policy allows; None is not stated.
            connected: Whether the sidecar answers.
        """
        self.advice = dict(advice or {})
        self.mode = mode
        self.connected = connected
        self.loaders: dict[int, LoaderDescription] = {}
        self.requests: list[tuple[str, int]] = []
        """(loader, epoch) of each call of ``get_recommendation``."""
        self.preview_requests: list[tuple[str, int]] = []
        """(loader, epoch) of each call of ``request_preview``."""
        self.released_rings: list[str] = []
        """Loaders whose rings were released, in order."""
        self.is_closed = False
        self._rings: dict[int, memoryview] = {}
        self._begins: dict[int, list[EpochBegin]] = {}
        self._ends: dict[int, list[EpochEnd]] = {}
        self._applied: dict[int, list[AppliedReport]] = {}
        self._previews: dict[int, int] = {}

    def register_loader(self, key: int, description: LoaderDescription, ring_fd: int) -> None:
        """Record the description, and map the ring as the relay does."""
        self.loaders[key] = description
        self._rings[key] = ring.attach(f"/proc/self/fd/{ring_fd}")
        self._begins.setdefault(key, [])
        self._ends.setdefault(key, [])
        self._applied.setdefault(key, [])

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
        """Record the call."""
        pids = tuple(worker_pids)
        self._begins[key].append(EpochBegin(epoch, settings, iter_seconds, pids, first_worker_ring, head))

    def end_epoch(
        self, key: int, epoch: int, head: int, complete: bool, teardown_seconds: float, stamp_ns: int
    ) -> None:
        """Record the call."""
        self._ends[key].append(EpochEnd(epoch, head, complete, teardown_seconds, stamp_ns))

    def get_recommendation(self, key: int, epoch: int, deadline_seconds: float) -> Answer:
        """Answer with the advice for ``epoch``."""
        self.requests.append((self.loaders[key].name, epoch))
        address = "unix:/nowhere/feedwater.sock"
        if not self.connected:
            return Answer(reason="The sidecar is away.", address=address)
        recommendation = self._recommendation(key, epoch)
        reason = "" if recommendation is not None else "No advice was given for this epoch."
        return Answer(recommendation, reason, self.mode, connected=True, address=address)

    def _recommendation(self, key: int, epoch: int) -> Recommendation | None:
        given = self.advice.get(epoch)
        if given is None:
            return None
        advice = given if isinstance(given, Advice) else Advice(given)
        count = advice.num_workers
        prefetch = (advice.prefetch_factor or 2) if count else None
        now = self._begins[key][-1].settings
        return Recommendation(
            id=f"{key}-{epoch}",
            epoch=epoch,
            settings=LoaderSettings(count, prefetch),
            verdict=advice.verdict,
            sentence=advice.sentence or f"num_workers={count} was canned.",
            changes=(count, prefetch) != (now.num_workers, now.prefetch_factor),
        )

    def report_applied(
        self, key: int, recommendation_id: str, outcome: Outcome, now: LoaderSettings, detail: str
    ) -> None:
        """Record the call."""
        self._applied[key].append(AppliedReport(recommendation_id, outcome, now, detail))

    def release_ring(self, key: int) -> None:
        """Record the call, and unmap the ring."""
        self.released_rings.append(self.loaders[key].name)
        self._rings.pop(key, None)

    def request_preview(self, key: int, epoch: int) -> None:
        """Record the call."""
        self.preview_requests.append((self.loaders[key].name, epoch))
        self._previews[key] = epoch

    def take_preview(self, key: int) -> Answer | None:
        """Answer with the advice for the epoch, once."""
        epoch = self._previews.pop(key, None)
        if epoch is None:
            return None
        return Answer(self._recommendation(key, epoch), connected=self.connected)

    def close(self) -> None:
        """Record the call."""
        self.is_closed = True

    def begins(self, name: str) -> list[EpochBegin]:
        """Return the calls of ``begin_epoch`` for a loader."""
        return self._begins[self._key(name)]

    def ends(self, name: str) -> list[EpochEnd]:
        """Return the calls of ``end_epoch`` for a loader."""
        return self._ends[self._key(name)]

    def outcomes(self, name: str) -> list[AppliedReport]:
        """Return the calls of ``report_applied`` for a loader."""
        return self._applied[self._key(name)]

    def timings(self, name: str) -> list[ring.BatchTiming]:
        """Return the batches of a loader that its ring still holds."""
        reader = ring.RingReader(self._rings[self._key(name)])
        return reader.batches(reader.head())

    def loads(self, name: str) -> list[ring.LoadTiming]:
        """Return the loads of a loader's workers, worker by worker."""
        reader = ring.RingReader(self._rings[self._key(name)])
        heads = reader.worker_heads()
        return [load for number, head in enumerate(heads) for load in reader.loads(number, head)]

    def _key(self, name: str) -> int:
        for key, description in self.loaders.items():
            if description.name == name:
                return key
        known = ", ".join(sorted(d.name for d in self.loaders.values())) or "none"
        raise KeyError(f"no loader {name!r} was iterated; known: {known}")
