"""The state of the loaders that report to the sidecar; every collection in it is bounded.

A session is one loader of one training process. `Session` and `State` hold what is restored after a restart,
`counters` what only Prometheus counts.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace

from feedwater.values import Mode, Outcome
from feedwater_service.errors import MalformedError, TooManyError, UnknownLoaderError
from feedwater_service.model.types import (
    Budget,
    Change,
    ContainerUsage,
    GroupKey,
    Loader,
    LoaderSettings,
    NoRecommendation,
    Pod,
    Recommendation,
    Verdict,
)
from feedwater_service.state.counters import Counters, LoaderCounters
from feedwater_service.state.limits import StatedLimits, budget_of, smallest
from feedwater_service.state.reports import AppliedReport, Limits, RegisterRequest, Report
from feedwater_service.state.traces import KEPT_BATCHES, KEPT_OLDER, Trace

KEPT_EPOCHS = 8
"""Epochs kept of a loader: one before a change and one after it that verifies it, and some more of both."""
FULL_EPOCHS = 2
"""Epochs kept in full detail: the running one and the one before it."""
MEASURED_BYTES = 24 << 20
"""Memory for the measurements of all loaders together, with the copy that the model works on. With 256
loaders the process took 100 MiB of the manifests' 128Mi, a scrape and the page's state included
(`tests/benchmarks/sidecar_full.py`). Five loaders are kept in full detail, of 16 a third of it."""
TRIMMED_SHARE = 0.9
"""Share of `MEASURED_BYTES` that is left when it was exceeded, so that not every report trims."""
KEPT_CHANGES = 16
"""Changes, failed settings and decision records kept of a loader; the default policy allows 6 changes."""
KEPT_DECISIONS = 256
"""Decisions kept for all loaders together; a client asks for its newest one, or again after a lost reply."""
SILENT_SECONDS = 25.0
"""Time without a report after which a process counts as dead: clients report each 10 s between epochs."""
MAX_LOADERS_OF_CLIENT = 64
"""Loaders of one training process held at once: a script has a few, and one client that registers in a loop
leaves room for three others within the default `max_sessions`."""
MAX_SEQUENCE_JUMP = 1 << 20
"""Reports that may be missing between two: at one a second, 12 days."""
MAX_PER_SAMPLE = 64
"""Batches that one sampled step of the device may represent. Clients sample one in 16; after a pause in the
sampling one step would represent thousands."""
MAX_DROP = 1 << 53
"""Above this a float does not count exactly, and Prometheus stores floats."""

RankKey = tuple[str, str, int, str]
"""(job, pod, rank, loader name): one rank's loader, whichever process it runs in."""


def effective_mode(mode: Mode, highest: Mode) -> Mode:
    """Return the mode in effect: the lower of the one asked for and the highest that policy allows."""
    return min(mode, highest, key=lambda m: m.rank)


@dataclass(slots=True)
class Probation:
    """A change that was applied and whose first epoch has not ended yet."""

    first_epoch: int
    settings: LoaderSettings


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to all ranks of a loader after an epoch; once made it does not change."""

    id: str
    epoch: int
    answer: Recommendation | NoRecommendation


@dataclass(slots=True)
class DecisionRecord:
    """A decision and its outcome, as people are shown them; the model does not read it."""

    epoch: int
    before: LoaderSettings
    """In use when the decision was made."""
    settings: LoaderSettings | None
    """Recommended; None where nothing was."""
    verdict: Verdict
    sentence: str
    rolls_back: bool = False
    outcome: Outcome | None = None
    """None until the client reports it."""
    detail: str = ""


@dataclass(slots=True)
class Session:
    """One loader of one training process."""

    loader_id: str
    registration: RegisterRequest
    mode: Mode
    """In effect: the lower of the one asked for and the highest that policy allows."""
    settings: LoaderSettings
    """In use now."""
    last_seen_seconds: float
    """When it was last heard of, in seconds since 1970: people are shown it."""
    heard_stamp_seconds: float = 0.0
    """The same on the sidecar's monotonic clock: silence is measured with it."""
    progress_stamp_seconds: float = 0.0
    """When a report last had a batch, or the beginning or end of an epoch; on the monotonic clock."""
    accepted_sequence: int = 0
    """Sequence number of the last report that was counted."""
    limits: Limits | None = None
    epochs: list[Trace] = field(default_factory=list)
    container: ContainerUsage | None = None
    drops: dict[str, int] = field(default_factory=dict)
    """Batches lost, by cause, since the client started: the client's own counts."""
    changes: list[Change] = field(default_factory=list)
    failed: list[LoaderSettings] = field(default_factory=list)
    probation: Probation | None = None
    frozen: str = ""
    """Why nothing is recommended any more, a full sentence; empty otherwise."""
    decision: Decision | None = None
    """The newest."""
    preview: Recommendation | None = None
    """Made from a running epoch, or from the last one, after which no client asks for a decision."""
    preview_wanted: int = -1
    """The newest epoch of which the client requested a preview."""
    outcome: Outcome | None = None
    records: list[DecisionRecord] = field(default_factory=list)
    """Of the newest decisions, oldest first."""
    ended: bool = False
    """Its trainer has ended, or was replaced by a newer process."""
    has_cuda: bool = False
    """The trainer has initialised CUDA since it registered."""
    superseded_by: str = ""
    """Id of the session that took this one's place; empty while none did."""
    assigned_rank: int | None = None
    """The rank that it counts as, where another process that runs at the same time claims the same rank."""

    @property
    def uses_cuda(self) -> bool:
        """CUDA is initialised: the host runs ahead of the device, so host wait is not starvation."""
        return self.has_cuda or self.registration.uses_cuda

    @property
    def answer(self) -> Recommendation | NoRecommendation | None:
        """The newest answer: the decision, or a preview of a later epoch; None if there is neither."""
        if self.decision is None or (self.preview is not None and self.preview.epoch > self.decision.epoch):
            return self.preview
        return self.decision.answer

    @property
    def name(self) -> str:
        """The loader's name."""
        return self.registration.loader

    @property
    def rank(self) -> int:
        """The rank that it counts as."""
        return self.registration.identity.rank if self.assigned_rank is None else self.assigned_rank

    @property
    def claimed_rank_key(self) -> RankKey:
        """The key with the rank that its client states, whether or not another process has that rank."""
        return (*self.group[:2], self.registration.identity.rank, self.name)

    @property
    def group(self) -> GroupKey:
        """The ranks that share one decision."""
        identity = self.registration.identity
        return identity.job, identity.pod, self.name

    @property
    def rank_key(self) -> RankKey:
        """The same for every restart of a trainer."""
        return (*self.group[:2], self.rank, self.name)

    def trace(self, epoch: int) -> Trace | None:
        """Return the trace of an epoch, None if it is not kept."""
        return next((t for t in reversed(self.epochs) if t.number == epoch), None)

    @property
    def measured_bytes(self) -> int:
        """Memory that its measurements take, an estimate (`Trace.measured_bytes`)."""
        return sum(trace.measured_bytes for trace in self.epochs)

    def trim(self, most_bytes: float) -> None:
        """Drop older measurements until the rest takes so many bytes; the newest epochs keep most of them."""
        full = KEPT_BATCHES // KEPT_OLDER
        weights = [1 if at < len(self.epochs) - FULL_EPOCHS else full for at in range(len(self.epochs))]
        for trace, weight in zip(self.epochs, weights, strict=True):
            trace.trim(most_bytes * weight / sum(weights))

    def copy(self) -> Session:
        """Return a copy whose epochs later reports do not change."""
        return replace(self, epochs=[trace.copy() for trace in self.epochs])

    def freeze(self) -> Loader:
        """Return the loader as the model's value."""
        registration = self.registration
        return Loader(
            name=self.name,
            rank=self.rank,
            settings=self.settings,
            epochs=tuple(t.freeze() for t in self.epochs),
            batches_per_epoch=registration.batches_per_epoch,
            map_style=registration.dataset_kind == "map",
            start_method=registration.start_method or "fork",
            tunable=registration.dataset_kind != "none",
            can_apply=registration.can_apply,
            uses_cuda=self.uses_cuda,
            shards=registration.shards,
            changes=tuple(self.changes),
            failed=tuple(self.failed),
            job=registration.identity.job,
            pod=registration.identity.pod,
        )


@dataclass(frozen=True, slots=True)
class PodSnapshot:
    """The pod at one moment. Later reports do not change it, so another thread may read it."""

    budget: Budget
    sessions: tuple[Session, ...]
    """Copies."""
    container: ContainerUsage | None

    def pod(self) -> Pod:
        """Return the pod as the model's value.

        It has an object for each load: half a second of CPU time for 16 ranks with 8 epochs of 5,000
        batches, where copying their columns took 10 ms.
        """
        loaders = tuple(session.freeze() for session in self.sessions)
        return Pod(budget=self.budget, loaders=loaders, container=self.container)


@dataclass(slots=True)
class State:
    """All sessions, and the decisions that their ranks share."""

    highest_mode: Mode = Mode.AUTO
    max_sessions: int = 256
    clock: Callable[[], float] = lambda: 0.0
    """Seconds since 1970: what people are shown."""
    monotonic: Callable[[], float] = lambda: 0.0
    """Seconds of a clock that never steps: silence is measured with it. A laptop that slept for an hour, or a
    wall clock that is set, would else end loaders that report every two seconds."""
    boot: Callable[[], float] = lambda: 0.0
    """Seconds since the node's boot, suspension included (CLOCK_BOOTTIME): comparable after a restart."""
    counters: Counters = field(default_factory=Counters)
    sessions: dict[str, Session] = field(default_factory=dict)
    decisions: dict[tuple[GroupKey, int], Decision] = field(default_factory=dict)
    frozen: dict[RankKey, str] = field(default_factory=dict)
    """Why nothing is recommended to a rank any more, of ranks whose sessions have expired."""
    by_client: dict[tuple[str, str], str] = field(default_factory=dict)
    most_measured_bytes: int = MEASURED_BYTES
    """Memory for the measurements of all loaders together."""
    measured_bytes: int = 0
    """Memory that they take."""
    trim_above_bytes: int = 0
    """Above the budget where the least that is kept of so many loaders exceeds it: not every report trims."""

    def find(self, loader_id: str) -> Session:
        """Return a session.

        Raises:
            UnknownLoaderError: There is no session with this id.
        """
        session = self.sessions.get(loader_id)
        if session is None:
            raise UnknownLoaderError(f"no loader has the id {loader_id[:64]!r}: register it (again)")
        return session

    def counters_of(self, session: Session) -> LoaderCounters:
        """Return the counts of a session's loader and rank."""
        return self.counters.of(session.name, session.rank)

    def active(self) -> Iterator[Session]:
        """Yield the sessions whose trainers have not ended."""
        return (s for s in self.sessions.values() if not s.ended)

    def peers(self, group: GroupKey) -> list[Session]:
        """Return the active sessions that share a group's decisions."""
        return [s for s in self.active() if s.group == group]

    def registered(self, registration: RegisterRequest) -> Session | None:
        """Return the session that the same client and name have already."""
        known = self.by_client.get((registration.identity.client_id, registration.loader))
        return None if known is None else self.sessions[known]

    def register(self, registration: RegisterRequest, loader_id: str = "") -> Session:
        """Register a loader; the same client and name get the same session back.

        Raises:
            TooManyError: `max_sessions` are active already, or `MAX_LOADERS_OF_CLIENT` of this client.
        """
        session = self.registered(registration)
        if session is not None:
            self._hear(session)
            session.ended = False
            session.mode = effective_mode(registration.mode, self.highest_mode)
            # The script made the loader again; the settings stay those that the user gave it first.
            session.registration = replace(registration, settings=session.registration.settings)
            self.counters_of(session)
            return session
        session = Session(
            loader_id=loader_id or secrets.token_hex(8),
            registration=registration,
            mode=effective_mode(registration.mode, self.highest_mode),
            settings=registration.settings,
            limits=registration.limits,
            last_seen_seconds=self.clock(),
            heard_stamp_seconds=self.monotonic(),
        )
        self._check_client(registration.identity.client_id)
        # First, as a rank that was started again replaces its own session, and needs no room besides.
        self._supersede(session)
        self._make_room()
        self.add(session)
        return session

    def add(self, session: Session) -> None:
        """Add a session."""
        self.sessions[session.loader_id] = session
        # A restored session brings its measurements: an older version's checkpoint had 136 MB of them.
        self._keep_to_budget(session.measured_bytes)
        # Prometheus sees no increase in a counter whose first value is 1: it must be exported at 0 before.
        self.counters_of(session)
        identity = session.registration.identity
        self.by_client[identity.client_id, session.name] = session.loader_id

    def report(self, report: Report) -> Session:
        """Count a report; one that was counted before changes nothing.

        Raises:
            UnknownLoaderError: There is no such loader.
            MalformedError: The report contradicts earlier ones; nothing is changed.
        """
        session = self.find(report.loader_id)
        self._hear(session)
        counters = self.counters_of(session)
        if report.sequence <= session.accepted_sequence:
            counters.replayed += 1
            return session
        _check_report(session, report)
        counters.reports += 1
        counters.missing += report.sequence - session.accepted_sequence - 1
        session.accepted_sequence = report.sequence
        before = session.measured_bytes
        _add_report(session, report)
        self._keep_to_budget(session.measured_bytes - before)
        if report.begins or report.batches or report.loads or report.ends:
            session.progress_stamp_seconds = session.heard_stamp_seconds
        _count_report(counters, session, report)
        session.ended = report.last
        if session.superseded_by and not session.ended:
            self._reinstate(session)
        self._settle_rank(session)
        return session

    def decide(self, group: GroupKey, decision: Decision) -> None:
        """Keep the decision of an epoch; the first one stays."""
        decision = self.decisions.setdefault((group, decision.epoch), decision)
        while len(self.decisions) > KEPT_DECISIONS:
            del self.decisions[next(iter(self.decisions))]
        for session in self.peers(group):
            if session.decision is None or session.decision.epoch <= decision.epoch:
                session.decision, session.outcome = decision, None
                _record_decision(session, decision)

    def report_applied(self, applied: AppliedReport) -> Session:
        """Record what became of a recommendation.

        Raises:
            UnknownLoaderError: There is no such loader.
        """
        session = self.find(applied.loader_id)
        self._hear(session)
        if any(c.recommendation_id == applied.recommendation_id for c in session.changes):
            return session
        decision = session.decision
        known = decision is not None and decision.id == applied.recommendation_id
        answer = decision.answer if known and decision is not None else None
        if applied.outcome is Outcome.APPLIED:
            _record_change(session, applied, answer if isinstance(answer, Recommendation) else None)
        elif (
            applied.outcome is Outcome.FAILED
            and isinstance(answer, Recommendation)
            and answer.settings not in session.failed
        ):
            session.failed = [*session.failed, answer.settings][-KEPT_CHANGES:]
        session.outcome = applied.outcome
        if known and session.records:
            session.records[-1].outcome, session.records[-1].detail = applied.outcome, applied.detail
        self.counters_of(session).outcomes[applied.outcome.value] += 1
        return session

    def expire(self, silence_seconds: float) -> list[str]:
        """Remove the sessions that were silent for too long; return their ids."""
        horizon = self.monotonic() - silence_seconds
        gone = [s.loader_id for s in self.sessions.values() if s.heard_stamp_seconds < horizon]
        for loader_id in gone:
            self._forget(loader_id)
        return gone

    def budget(self, of: Session | None = None) -> Budget | None:
        """Return the smallest of the limits that a loader's ranks reported; None if they reported none.

        Args:
            of: One of the ranks; it counts even if it has ended. None is all loaders of the pod.
        """
        return budget_of(
            [StatedLimits(s.limits, s.container) for s in self._ranks(of) if s.limits is not None]
        )

    def snapshot(self, of: Session | None = None, also: Collection[Session] = ()) -> PodSnapshot | None:
        """Return the pod as it is now, with the limits of one loader; None where these are unknown.

        Args:
            of: One of the loader's ranks; it counts even if it has ended. None is all loaders of the pod.
            also: More sessions that count even if they have ended.
        """
        budget = self.budget(of)
        if budget is None:
            return None
        ended = {s.loader_id for s in also}
        sessions = tuple(
            s.copy() for s in self.sessions.values() if not s.ended or s is of or s.loader_id in ended
        )
        return PodSnapshot(budget, sessions, self.newest_container(of))

    def newest_container(self, of: Session | None = None) -> ContainerUsage | None:
        """Return the newest reading of the container of a loader's ranks, or of any loader of the pod."""
        readings = [s.container for s in self._ranks(of) if s.container is not None]
        return max(readings, key=lambda c: c.stamp_seconds, default=None)

    def _ranks(self, of: Session | None) -> list[Session]:
        """Return the active sessions of a session's group, and itself; of all groups for None.

        What another loader's client states of its container is no limit of ours.
        """
        if of is None:
            return list(self.active())
        return [s for s in self.sessions.values() if s is of or (not s.ended and s.group == of.group)]

    def _check_client(self, client_id: str) -> None:
        count = sum(s.registration.identity.client_id == client_id for s in self.active())
        if count >= MAX_LOADERS_OF_CLIENT:
            raise TooManyError(
                f"{count} loaders of this client report already, the most that are held of one"
            )

    def _keep_to_budget(self, added_bytes: int) -> None:
        """Trim the loaders that have most measurements once all have more than the budget."""
        self.measured_bytes += added_bytes
        if self.measured_bytes <= max(self.most_measured_bytes, self.trim_above_bytes):
            return
        most = _even_share(
            [s.measured_bytes for s in self.sessions.values()], TRIMMED_SHARE * self.most_measured_bytes
        )
        for session in self.sessions.values():
            if session.measured_bytes > most:
                session.trim(most)
        self.measured_bytes = sum(s.measured_bytes for s in self.sessions.values())
        self.trim_above_bytes = int(self.measured_bytes / TRIMMED_SHARE)

    def _hear(self, session: Session) -> None:
        session.last_seen_seconds, session.heard_stamp_seconds = self.clock(), self.monotonic()

    def _make_room(self) -> None:
        if len(self.sessions) < self.max_sessions:
            return
        ended = [s for s in self.sessions.values() if s.ended]
        if not ended:
            raise TooManyError(f"{len(self.sessions)} loaders report already, the most that are held")
        self._forget(min(ended, key=lambda s: s.heard_stamp_seconds).loader_id)

    def _forget(self, loader_id: str) -> None:
        session = self.sessions.pop(loader_id)
        self.measured_bytes -= session.measured_bytes
        # That a trainer is silent proves no crash: it may be paused, or its sidecar unreachable.
        why = _why_frozen(session) if session.ended else session.frozen
        if why:
            self.frozen[session.rank_key] = why
            while len(self.frozen) > KEPT_DECISIONS:
                del self.frozen[next(iter(self.frozen))]
        self.by_client.pop((session.registration.identity.client_id, session.name), None)

    def _supersede(self, session: Session) -> None:
        """End the sessions of an earlier process of the same rank, and freeze this one if that one crashed.

        A process that still runs and claims the same rank is not an earlier one: this session then counts as
        a rank of its own.
        """
        session.frozen = self.frozen.get(session.rank_key, "")
        held = [old for old in self.sessions.values() if old.rank_key == session.rank_key]
        if any(_runs_beside(old, session, self.monotonic()) for old in held):
            session.assigned_rank, session.frozen = self._free_rank(session), ""
            return
        for old in held:
            session.frozen = session.frozen or _why_frozen(old)
            old.ended, old.superseded_by = True, session.loader_id
            # Epochs are counted from 0 again: decisions of the old ones do not hold for the new.
            self.decisions = {k: v for k, v in self.decisions.items() if k[0] != session.group}

    def _free_rank(self, session: Session) -> int:
        """Return the rank that was assigned to this process already, or one that no loader of the pod has."""
        identity = session.registration.identity
        others = [s for s in self.active() if s.group[:2] == session.group[:2] and s is not session]
        known = [
            s.rank
            for s in others
            if s.registration.identity.client_id == identity.client_id and s.assigned_rank is not None
        ]
        return known[0] if known else 1 + max(s.rank for s in others)

    def _reinstate(self, session: Session) -> None:
        """Give a session its rank back: it reports, so its trainer neither crashed nor was replaced.

        The other one counts as a rank of its own from now on.
        """
        other = self.sessions.get(session.superseded_by)
        session.superseded_by = ""
        if other is None or other.ended or other.rank_key != session.rank_key:
            return
        other.frozen = "" if other.frozen == _why_frozen(session) else other.frozen
        other.assigned_rank = self._free_rank(other)
        self.counters_of(other)

    def _settle_rank(self, session: Session) -> None:
        """Give a process the rank that it claims once the process that had it was silent for too long."""
        if session.assigned_rank is None:
            return
        holders = [s for s in self.active() if s.rank_key == session.claimed_rank_key and s is not session]
        silent = [s for s in holders if self.monotonic() - s.heard_stamp_seconds > SILENT_SECONDS]
        if silent and len(silent) == len(holders):
            for old in silent:
                session.frozen = session.frozen or _why_frozen(old)
                old.ended = True
            session.assigned_rank = None
            self.counters_of(session)


def _even_share(sizes: list[int], total: float) -> float:
    """Return the most that each may have so that all together have ``total``; who needs less leaves the rest.

    Example: of 100 for 10, 60 and 80 the two large ones may have 45 each.
    """
    left, others = total, len(sizes)
    for size in sorted(sizes):
        if size >= left / others:
            return left / others
        left, others = left - size, others - 1
    return left


def _runs_beside(old: Session, new: Session, now: float) -> bool:
    """Whether a session is of another process that runs at the same time in the same container."""
    one, other = old.registration.identity, new.registration.identity
    return (
        not old.ended
        and bool(one.pid_namespace)
        and one.pid_namespace == other.pid_namespace
        and one.trainer_pid != other.trainer_pid
        and now - old.heard_stamp_seconds <= SILENT_SECONDS
    )


def _record_decision(session: Session, decision: Decision) -> None:
    """Record a decision once, however often it is given."""
    answer = decision.answer
    recommendation = answer if isinstance(answer, Recommendation) else None
    record = DecisionRecord(
        epoch=decision.epoch,
        before=session.settings,
        settings=recommendation.settings if recommendation else None,
        verdict=recommendation.verdict if recommendation else Verdict.UNKNOWN,
        sentence=answer.sentence,
        rolls_back=recommendation is not None and recommendation.rolls_back,
    )
    if not session.records or session.records[-1].epoch != decision.epoch:
        session.records = [*session.records, record][-KEPT_CHANGES:]


def _why_frozen(old: Session) -> str:
    if old.frozen or old.probation is None:
        return old.frozen
    return (
        f"The trainer ended in the first epoch with num_workers={old.probation.settings.num_workers}; "
        "your own setting is kept for the rest of the job."
    )


def _check_report(session: Session, report: Report) -> None:
    """Refuse a report that contradicts earlier ones."""
    if report.sequence - session.accepted_sequence > MAX_SEQUENCE_JUMP:
        raise MalformedError(f"sequence {report.sequence} after {session.accepted_sequence}: too large a gap")
    expected: dict[int, int] = {}
    for run in report.batches:
        trace = session.trace(run.epoch)
        next_batch = expected.get(run.epoch, trace.next_batch if trace else 0)
        if run.first < next_batch:
            raise MalformedError(
                f"epoch {run.epoch}: batch {run.first} was reported before, expected {next_batch} or later"
            )
        expected[run.epoch] = run.first + len(run.wait_seconds.values)
    for cause, total in report.drops.items():
        if not session.drops.get(cause, 0) <= total <= MAX_DROP:
            raise MalformedError(
                f"drops by {cause}: {total} after {session.drops.get(cause, 0)}, a count that falls"
            )


def _add_report(session: Session, report: Report) -> None:
    """Add a report that `_check_report` accepted."""
    if report.limits is not None:
        session.limits = report.limits
    for begin in report.begins:
        trace = _open_trace(session, begin.epoch)
        trace.begin(begin)
        trace.follow(session.trace(begin.epoch - 1))
        session.settings = begin.settings
        _lift_probation(session, begin.epoch - 1)
    for run in report.batches:
        _open_trace(session, run.epoch).add_batches(run)
    for loads in report.loads:
        _open_trace(session, loads.epoch).add_loads(loads)
    for steps in report.device_steps:
        # The last samples of an epoch come with the next epoch; samples of epochs not kept are dropped.
        sampled = session.trace(steps.epoch)
        if sampled is not None:
            sampled.add_device(steps)
    session.has_cuda = session.has_cuda or report.uses_cuda
    _add_readings(session, report)
    for end in report.ends:
        _open_trace(session, end.epoch).end(end)
        if end.complete:
            _lift_probation(session, end.epoch)


def _add_readings(session: Session, report: Report) -> None:
    if report.container is not None:
        session.container = report.container
    if not session.epochs:
        return
    trace = session.epochs[-1]
    if report.container is not None:
        trace.add_container(report.container)
    for reading in report.processes:
        trace.add_process(reading)


def _open_trace(session: Session, epoch: int) -> Trace:
    """Return the trace of an epoch, after adding one if there is none."""
    trace = session.trace(epoch)
    if trace is not None:
        return trace
    trace = Trace(epoch, session.settings, budget=smallest([session.limits]) if session.limits else None)
    session.epochs.append(trace)
    session.epochs.sort(key=lambda t: t.number)
    del session.epochs[:-KEPT_EPOCHS]
    for older in session.epochs[:-FULL_EPOCHS]:
        older.shrink()
    return trace


def _lift_probation(session: Session, epoch: int) -> None:
    """End the probation of a change when its first epoch has ended, or the next one has begun."""
    if session.probation is not None and epoch >= session.probation.first_epoch:
        session.probation = None


def _record_change(session: Session, applied: AppliedReport, answer: Recommendation | None) -> None:
    epoch = answer.epoch if answer else max((t.number for t in session.epochs), default=-1)
    change = Change(
        first_epoch=epoch + 1,
        before=session.settings,
        after=applied.settings,
        recommendation_id=applied.recommendation_id,
        rolls_back=answer.rolls_back if answer else False,
        budget=smallest([session.limits]) if session.limits else None,
    )
    if change.rolls_back:
        session.failed = [*session.failed, change.before][-KEPT_CHANGES:]
    session.changes = [*session.changes, change][-KEPT_CHANGES:]
    session.settings = applied.settings
    session.probation = Probation(change.first_epoch, applied.settings)


def _count_report(counters: LoaderCounters, session: Session, report: Report) -> None:
    for begin in report.begins:
        counters.start_up_seconds += begin.iter_seconds
    for run in report.batches:
        counters.wait.add(run.wait_seconds)
        counters.step.add(run.step_seconds)
        first = run.wait_seconds.values[0] if run.first == 0 and run.wait_seconds.values else 0.0
        counters.start_up_seconds += first
        counters.starved_seconds += run.wait_seconds.total - first
    for loads in report.loads:
        counters.load.add(loads.load_seconds)
        counters.load_cpu.add(loads.cpu_seconds)
        counters.load_run_delay.add(loads.run_delay_seconds)
    _count_device_steps(counters, report)
    counters.epochs += len(report.ends)
    for cause, total in report.drops.items():
        counters.dropped[cause] += total - session.drops.get(cause, 0)
        session.drops[cause] = total


def _count_device_steps(counters: LoaderCounters, report: Report) -> None:
    """Count each sampled step for all batches since the last one."""
    counters.unsampled_batches += sum(len(run.wait_seconds.values) for run in report.batches)
    steps = sum(len(run.batch) for run in report.device_steps)
    if not steps:
        return
    each = min(counters.unsampled_batches / steps, MAX_PER_SAMPLE)
    counters.unsampled_batches = 0
    counters.device_steps += steps
    counters.device_idle_seconds += each * sum(run.idle_seconds.total for run in report.device_steps)
    counters.device_busy_seconds += each * sum(run.busy_seconds.total for run in report.device_steps)
