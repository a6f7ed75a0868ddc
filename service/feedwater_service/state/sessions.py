"""All that the sidecar knows of the loaders that report to it, bounded in every direction.

A session is one loader of one training process. What is restored after a restart lives in `Session` and
`State`; what only Prometheus counts lives in `tallies`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from feedwater.values import Mode, Outcome
from feedwater_service.errors import MalformedError, TooManyError, UnknownLoaderError
from feedwater_service.model.types import (
    Budget,
    Change,
    ContainerUsage,
    Loader,
    LoaderSettings,
    NoRecommendation,
    Pod,
    Recommendation,
    Verdict,
)
from feedwater_service.state.counters import Tallies, Tally
from feedwater_service.state.reports import AppliedReport, Limits, RegisterRequest, Report
from feedwater_service.state.traces import Trace

KEPT_EPOCHS = 8
"""Epochs kept of a loader: enough for a change, its verification, and one more of each."""
FULL_EPOCHS = 2
"""Epochs kept in full detail: the one that runs and the one before it."""
KEPT_CHANGES = 16
KEPT_DECISIONS = 256
"""Answers kept for all loaders together; a client asks for the newest only, and again after a lost reply."""
SILENT_SECONDS = 25.0
"""Without a report, after which a process is taken for dead: clients report each 10 s between epochs."""
MAX_SEQUENCE_JUMP = 1 << 32
MAX_PER_SAMPLE = 64
"""Batches that one sampled step of the device may stand for. Clients sample one in 16; where sampling paused,
more would be guessed."""
MAX_DROP = 1 << 53
"""Beyond, a float no longer counts exactly, and neither does Prometheus."""

Group = tuple[str, str, str]
"""(job, pod, loader name): the ranks that change together."""
Place = tuple[str, str, int, str]
"""(job, pod, rank, loader name): one rank's loader, whichever process it runs in."""


def policy_reads(mode: Mode, highest: Mode) -> Mode:
    """Return the mode that policy makes of the one asked for: never more than that."""
    return min(mode, highest, key=lambda m: m.rank)


@dataclass(slots=True)
class Probation:
    """A change that was applied and whose first epoch has not ended cleanly yet."""

    first_epoch: int
    settings: LoaderSettings


@dataclass(frozen=True, slots=True)
class Decision:
    """The one answer for a loader of all ranks after an epoch; it never changes once given."""

    id: str
    epoch: int
    answer: Recommendation | NoRecommendation


@dataclass(slots=True)
class DecisionRecord:
    """What was said after an epoch, and what became of it: for people, not for the model."""

    epoch: int
    before: LoaderSettings
    """In use when it was said."""
    settings: LoaderSettings | None
    """None where nothing was recommended."""
    verdict: Verdict
    sentence: str
    rolls_back: bool = False
    outcome: Outcome | None = None
    """None until the client tells."""
    detail: str = ""


@dataclass(slots=True)
class Session:
    """One loader of one training process."""

    loader_id: str
    registration: RegisterRequest
    mode: Mode
    """What policy made of the mode asked for."""
    settings: LoaderSettings
    """In use now."""
    last_seen: float
    """Seconds on the sidecar's wall clock."""
    progressed: float = 0.0
    """The same, of the last report that brought a batch, or the begin or end of an epoch."""
    accepted: int = 0
    """Sequence of the last report counted."""
    limits: Limits | None = None
    epochs: list[Trace] = field(default_factory=list)
    container: ContainerUsage | None = None
    drops: dict[str, int] = field(default_factory=dict)
    """The client's own counts, which start with it."""
    changes: list[Change] = field(default_factory=list)
    failed: list[LoaderSettings] = field(default_factory=list)
    probation: Probation | None = None
    frozen: str = ""
    """Why nothing is recommended any more: a full sentence; empty if it is."""
    decision: Decision | None = None
    """The newest."""
    preview: Recommendation | None = None
    """What an epoch says that runs, or that was the last one: nobody asks for a decision after it."""
    preview_wanted: int = -1
    """The newest epoch of which the client asked what it says so far."""
    outcome: Outcome | None = None
    records: list[DecisionRecord] = field(default_factory=list)
    """Of the decisions so far, oldest first, bounded."""
    ended: bool = False
    """Its trainer has ended, or a newer one took its place."""
    has_cuda: bool = False
    """The trainer has initialised CUDA since it registered."""
    assigned_rank: int | None = None
    """The rank that it counts as, where another process that runs beside it claims the same; else None."""

    @property
    def uses_cuda(self) -> bool:
        """Host wait is not starvation: under CUDA the host runs ahead of the device."""
        return self.has_cuda or self.registration.uses_cuda

    @property
    def answer(self) -> Recommendation | NoRecommendation | None:
        """The newest: the decision, or what a later epoch says so far. None if nothing was said yet."""
        if self.decision is None or (self.preview is not None and self.preview.epoch > self.decision.epoch):
            return self.preview
        return self.decision.answer

    @property
    def name(self) -> str:
        """The loader's name."""
        return self.registration.loader

    @property
    def rank(self) -> int:
        """The rank it belongs to."""
        return self.registration.identity.rank if self.assigned_rank is None else self.assigned_rank

    @property
    def claimed_place(self) -> Place:
        """The place that its client states, whether or not another process holds it."""
        return (*self.group[:2], self.registration.identity.rank, self.name)

    @property
    def group(self) -> Group:
        """Job, pod and loader name: the ranks that share one decision."""
        identity = self.registration.identity
        return identity.job, identity.pod, self.name

    @property
    def place(self) -> Place:
        """Job, pod, rank and loader name: the same for every incarnation of a trainer."""
        return (*self.group[:2], self.rank, self.name)

    def trace(self, epoch: int) -> Trace | None:
        """Return the trace of an epoch, None if it is not kept."""
        return next((t for t in reversed(self.epochs) if t.number == epoch), None)

    def freeze(self) -> Loader:
        """Return the loader as the model's value: a copy that later reports do not change."""
        registration = self.registration
        return Loader(
            name=self.name,
            rank=self.rank,
            settings=self.settings,
            initial=registration.settings,
            epochs=tuple(t.freeze() for t in self.epochs),
            batches_per_epoch=registration.batches_per_epoch,
            batch_size=registration.batch_size,
            map_style=registration.dataset_kind == "map",
            start_method=registration.start_method or "fork",
            tunable=registration.dataset_kind != "none",
            can_apply=registration.can_apply,
            uses_cuda=self.uses_cuda,
            shards=registration.shards,
            changes=tuple(self.changes),
            failed=tuple(self.failed),
        )


@dataclass(slots=True)
class State:
    """All sessions, and the decisions that their ranks share."""

    highest_mode: Mode = Mode.AUTO
    max_sessions: int = 256
    clock: Callable[[], float] = lambda: 0.0
    """Seconds since 1970."""
    tallies: Tallies = field(default_factory=Tallies)
    sessions: dict[str, Session] = field(default_factory=dict)
    decisions: dict[tuple[Group, int], Decision] = field(default_factory=dict)
    frozen: dict[Place, str] = field(default_factory=dict)
    """Why nothing is recommended to a rank any more, for ranks whose sessions have expired."""
    by_client: dict[tuple[str, str], str] = field(default_factory=dict)

    def find(self, loader_id: str) -> Session:
        """Return a session.

        Raises:
            UnknownLoaderError: There is none of this id.
        """
        session = self.sessions.get(loader_id)
        if session is None:
            raise UnknownLoaderError(f"no loader has the id {loader_id[:64]!r}: register it (again)")
        return session

    def tally(self, session: Session) -> Tally:
        """Return the counts of a session's loader and rank."""
        return self.tallies.of(session.name, session.rank)

    def active(self) -> Iterator[Session]:
        """Yield the sessions whose trainers are still there."""
        return (s for s in self.sessions.values() if not s.ended)

    def peers(self, group: Group) -> list[Session]:
        """Return the active sessions that share a group's decisions."""
        return [s for s in self.active() if s.group == group]

    def register(self, registration: RegisterRequest, loader_id: str = "") -> Session:
        """Make a loader known; the same client and name get the same session back.

        Raises:
            TooManyError: As many sessions are active as are held.
        """
        key = (registration.identity.client_id, registration.loader)
        known = self.by_client.get(key)
        if known is not None:
            session = self.sessions[known]
            session.last_seen, session.ended = self.clock(), False
            session.mode = policy_reads(registration.mode, self.highest_mode)
            # A loader that was made anew; the settings stay those that the user had first.
            session.registration = replace(registration, settings=session.registration.settings)
            self.tally(session)
            return session
        self._make_room()
        session = Session(
            loader_id=loader_id or secrets.token_hex(8),
            registration=registration,
            mode=policy_reads(registration.mode, self.highest_mode),
            settings=registration.settings,
            limits=registration.limits,
            last_seen=self.clock(),
        )
        self._supersede(session)
        self.add(session)
        return session

    def add(self, session: Session) -> None:
        """Hold a session."""
        self.sessions[session.loader_id] = session
        # A counter that is first seen at 1 has not risen, to Prometheus: it must be there at 0 before.
        self.tally(session)
        identity = session.registration.identity
        self.by_client[identity.client_id, session.name] = session.loader_id

    def report(self, report: Report) -> Session:
        """Count a report, or ignore it if it was counted before.

        Raises:
            UnknownLoaderError: There is no such loader.
            MalformedError: It contradicts what was reported before; nothing is changed.
        """
        session = self.find(report.loader_id)
        session.last_seen = self.clock()
        tally = self.tally(session)
        if report.sequence <= session.accepted:
            tally.replayed += 1
            return session
        _check(session, report)
        tally.reports += 1
        tally.missing += report.sequence - session.accepted - 1
        session.accepted = report.sequence
        _take(session, report)
        if report.begins or report.batches or report.loads or report.ends:
            session.progressed = session.last_seen
        _count(tally, session, report)
        session.ended = report.last
        self._settle_rank(session)
        return session

    def decide(self, group: Group, decision: Decision) -> None:
        """Keep the answer for an epoch; the one given first stays."""
        decision = self.decisions.setdefault((group, decision.epoch), decision)
        while len(self.decisions) > KEPT_DECISIONS:
            del self.decisions[next(iter(self.decisions))]
        for session in self.peers(group):
            if session.decision is None or session.decision.epoch <= decision.epoch:
                session.decision, session.outcome = decision, None
                _record(session, decision)

    def report_applied(self, applied: AppliedReport) -> Session:
        """Note what became of a recommendation.

        Raises:
            UnknownLoaderError: There is no such loader.
        """
        session = self.find(applied.loader_id)
        session.last_seen = self.clock()
        if any(c.recommendation_id == applied.recommendation_id for c in session.changes):
            return session
        decision = session.decision
        known = decision is not None and decision.id == applied.recommendation_id
        answer = decision.answer if known and decision is not None else None
        if applied.outcome is Outcome.APPLIED:
            _change(session, applied, answer if isinstance(answer, Recommendation) else None)
        elif applied.outcome is Outcome.FAILED and isinstance(answer, Recommendation):
            session.failed = [*session.failed, answer.settings][-KEPT_CHANGES:]
        session.outcome = applied.outcome
        if known and session.records:
            session.records[-1].outcome, session.records[-1].detail = applied.outcome, applied.detail
        self.tally(session).outcomes[applied.outcome.value] += 1
        return session

    def expire(self, silence_seconds: float) -> list[str]:
        """Forget the sessions that were silent for too long; return their ids."""
        horizon = self.clock() - silence_seconds
        gone = [s.loader_id for s in self.sessions.values() if s.last_seen < horizon]
        for loader_id in gone:
            self._forget(loader_id)
        return gone

    def budget(self, also: Session | None = None) -> Budget | None:
        """Return what the pod can carry, the smallest of all that was reported; None if nothing was.

        Args:
            also: A session that counts though it may have ended.
        """
        stated = [s.limits for s in self._with(also) if s.limits is not None]
        return _budget(stated)

    def pod(self, also: Session | None = None) -> Pod | None:
        """Return the pod as the model's value; None where its limits are unknown.

        Args:
            also: A session that counts though it may have ended.
        """
        budget = self.budget(also)
        if budget is None:
            return None
        loaders = tuple(s.freeze() for s in self._with(also))
        return Pod(budget=budget, loaders=loaders, container=self.newest_container(also))

    def newest_container(self, also: Session | None = None) -> ContainerUsage | None:
        """Return the newest reading of the trainer's container."""
        readings = [s.container for s in self._with(also) if s.container is not None]
        return max(readings, key=lambda c: c.stamp, default=None)

    def _with(self, also: Session | None) -> list[Session]:
        """Return the active sessions, and one more."""
        return [s for s in self.sessions.values() if not s.ended or s is also]

    def _make_room(self) -> None:
        if len(self.sessions) < self.max_sessions:
            return
        ended = [s for s in self.sessions.values() if s.ended]
        if not ended:
            raise TooManyError(f"{len(self.sessions)} loaders report already, as many as are held")
        self._forget(min(ended, key=lambda s: s.last_seen).loader_id)

    def _forget(self, loader_id: str) -> None:
        session = self.sessions.pop(loader_id)
        why = _why_frozen(session)
        if why:
            self.frozen[session.place] = why
            while len(self.frozen) > KEPT_DECISIONS:
                del self.frozen[next(iter(self.frozen))]
        self.by_client.pop((session.registration.identity.client_id, session.name), None)

    def _supersede(self, session: Session) -> None:
        """End what an earlier incarnation of the same rank left, and learn from how it left.

        A process that still runs beside this one, and claims the same rank, is no earlier incarnation: this
        one counts as a rank of its own.
        """
        session.frozen = self.frozen.get(session.place, "")
        held = [old for old in self.sessions.values() if old.place == session.place]
        if any(_runs_beside(old, session, self.clock()) for old in held):
            session.assigned_rank, session.frozen = self._free_rank(session), ""
            return
        for old in held:
            session.frozen = session.frozen or _why_frozen(old)
            old.ended = True
            # Its epochs are counted from 0 again, and are others.
            self.decisions = {k: v for k, v in self.decisions.items() if k[0] != session.group}

    def _free_rank(self, session: Session) -> int:
        """Return a rank that no loader of the pod has; the one that the same process has already."""
        identity = session.registration.identity
        others = [s for s in self.active() if s.group[:2] == session.group[:2]]
        known = [s.rank for s in others if s.registration.identity.client_id == identity.client_id]
        return known[0] if known else 1 + max(s.rank for s in others)

    def _settle_rank(self, session: Session) -> None:
        """Give a process the rank that it claims, once the one that held it was silent for too long."""
        if session.assigned_rank is None:
            return
        holders = [s for s in self.active() if s.place == session.claimed_place and s is not session]
        silent = [s for s in holders if self.clock() - s.last_seen > SILENT_SECONDS]
        if silent and len(silent) == len(holders):
            for old in silent:
                session.frozen = session.frozen or _why_frozen(old)
                old.ended = True
            session.assigned_rank = None
            self.tally(session)


def _runs_beside(old: Session, new: Session, now: float) -> bool:
    """Whether a session is of another process that lives at the same time, in the same container."""
    one, other = old.registration.identity, new.registration.identity
    return (
        not old.ended
        and bool(one.pid_namespace)
        and one.pid_namespace == other.pid_namespace
        and one.trainer_pid != other.trainer_pid
        and now - old.last_seen <= SILENT_SECONDS
    )


def _record(session: Session, decision: Decision) -> None:
    """Note a decision; one that is given again, as after a lost reply, stands there once."""
    answer = decision.answer
    made = answer if isinstance(answer, Recommendation) else None
    record = DecisionRecord(
        epoch=decision.epoch,
        before=session.settings,
        settings=made.settings if made else None,
        verdict=made.verdict if made else Verdict.UNKNOWN,
        sentence=answer.sentence,
        rolls_back=made is not None and made.rolls_back,
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


def _check(session: Session, report: Report) -> None:
    """Refuse a report that contradicts what was reported before."""
    if report.sequence - session.accepted > MAX_SEQUENCE_JUMP:
        raise MalformedError(f"sequence {report.sequence} after {session.accepted}: an absurd gap")
    expected: dict[int, int] = {}
    for run in report.batches:
        trace = session.trace(run.epoch)
        at = expected.get(run.epoch, trace.expected if trace else 0)
        if run.first < at:
            raise MalformedError(
                f"epoch {run.epoch}: batch {run.first} was reported before, expected {at} or later"
            )
        expected[run.epoch] = run.first + len(run.waits.values)
    for cause, total in report.drops.items():
        if not session.drops.get(cause, 0) <= total <= MAX_DROP:
            raise MalformedError(
                f"drops by {cause}: {total} after {session.drops.get(cause, 0)}, a count that falls"
            )


def _take(session: Session, report: Report) -> None:
    """Add a report that was checked."""
    if report.limits is not None:
        session.limits = report.limits
    for begin in report.begins:
        trace = _open(session, begin.epoch)
        trace.begin(begin)
        trace.follow(session.trace(begin.epoch - 1))
        session.settings = begin.settings
        _lift_probation(session, begin.epoch - 1)
    for run in report.batches:
        _open(session, run.epoch).add_batches(run)
    for loads in report.loads:
        _open(session, loads.epoch).add_loads(loads)
    for steps in report.device:
        # The last ones of an epoch come with the next; of one that is not kept they are of no use.
        sampled = session.trace(steps.epoch)
        if sampled is not None:
            sampled.add_device(steps)
    session.has_cuda = session.has_cuda or report.uses_cuda
    _take_readings(session, report)
    for end in report.ends:
        _open(session, end.epoch).end(end)
        if end.complete:
            _lift_probation(session, end.epoch)


def _take_readings(session: Session, report: Report) -> None:
    if report.container is not None:
        session.container = report.container
    if not session.epochs:
        return
    trace = session.epochs[-1]
    if report.container is not None:
        trace.add_container(report.container)
    for reading in report.processes:
        trace.add_process(reading)


def _open(session: Session, epoch: int) -> Trace:
    """Return the trace of an epoch, a new one if there is none."""
    trace = session.trace(epoch)
    if trace is not None:
        return trace
    trace = Trace(epoch, session.settings, budget=_budget([session.limits]) if session.limits else None)
    session.epochs.append(trace)
    session.epochs.sort(key=lambda t: t.number)
    del session.epochs[:-KEPT_EPOCHS]
    for older in session.epochs[:-FULL_EPOCHS]:
        older.shrink()
    return trace


def _lift_probation(session: Session, epoch: int) -> None:
    """A change has proven itself when its first epoch ended, or the next one began."""
    if session.probation is not None and epoch >= session.probation.first_epoch:
        session.probation = None


def _change(session: Session, applied: AppliedReport, answer: Recommendation | None) -> None:
    epoch = answer.epoch if answer else max((t.number for t in session.epochs), default=-1)
    change = Change(
        first_epoch=epoch + 1,
        before=session.settings,
        after=applied.settings,
        recommendation_id=applied.recommendation_id,
        rolls_back=answer.rolls_back if answer else False,
        budget=_budget([session.limits]) if session.limits else None,
    )
    if change.rolls_back:
        session.failed = [*session.failed, change.before][-KEPT_CHANGES:]
    session.changes = [*session.changes, change][-KEPT_CHANGES:]
    session.settings = applied.settings
    session.probation = Probation(change.first_epoch, applied.settings)


def _count(tally: Tally, session: Session, report: Report) -> None:
    for begin in report.begins:
        tally.starting_seconds += begin.iter_seconds
    for run in report.batches:
        tally.wait.add(run.waits)
        tally.step.add(run.steps)
        first = run.waits.values[0] if run.first == 0 and run.waits.values else 0.0
        tally.starting_seconds += first
        tally.starved_seconds += run.waits.total - first
    for loads in report.loads:
        tally.load.add(loads.seconds)
        tally.load_cpu.add(loads.cpu_seconds)
        tally.load_run_delay.add(loads.run_delay_seconds)
    _count_device(tally, report)
    tally.epochs += len(report.ends)
    for cause, total in report.drops.items():
        tally.dropped[cause] += total - session.drops.get(cause, 0)
        session.drops[cause] = total


def _count_device(tally: Tally, report: Report) -> None:
    """Let each sampled step stand for the batches that came since the one before."""
    tally.unsampled += sum(len(run.waits.values) for run in report.batches)
    steps = sum(len(run.batches) for run in report.device)
    if not steps:
        return
    each = min(tally.unsampled / steps, MAX_PER_SAMPLE)
    tally.unsampled = 0
    tally.device_steps += steps
    tally.device_idle_seconds += each * sum(run.idle.total for run in report.device)
    tally.device_busy_seconds += each * sum(run.busy.total for run in report.device)


def _budget(stated: list[Limits]) -> Budget | None:
    """Return the smallest of each limit, for the containers of a pod may say different things.

    None where nobody said how many CPUs there are.
    """
    cpus = min((v.cpus for v in stated if v.cpus is not None), default=None)
    if cpus is None:
        return None
    return Budget(
        cpus=cpus,
        cpu_quota_cores=min(
            (v.cpu_quota_cores for v in stated if v.cpu_quota_cores is not None), default=None
        ),
        cpu_period_seconds=min((v.cpu_period_seconds for v in stated if v.cpu_period_seconds), default=0.1),
        cpu_request_cores=min(
            (v.cpu_request_cores for v in stated if v.cpu_request_cores is not None), default=None
        ),
        memory_bytes=min((v.memory_bytes for v in stated if v.memory_bytes is not None), default=None),
        shm_bytes=min((v.shm_bytes for v in stated if v.shm_bytes is not None), default=None),
        pids=min((v.pids for v in stated if v.pids is not None), default=None),
        open_files=min((v.open_files for v in stated if v.open_files is not None), default=None),
    )
