"""When the model runs, and which recommendation a client gets.

The model runs in one thread beside the event loop: drafts while an epoch runs, limited to a share of a core,
and the decision at the epoch boundary. There is one decision per loader of a job and epoch; every rank gets
the same one, whenever it asks.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter, thread_time
from typing import Protocol, TypeVar

from feedwater.values import Mode
from feedwater_service.model import Analysis
from feedwater_service.model.simulator.engine import SimulationLimitError
from feedwater_service.model.types import (
    GroupKey,
    NoRecommendation,
    NoRecommendationReason,
    Pod,
    Policy,
    Recommendation,
)
from feedwater_service.model_queue import ModelQueue
from feedwater_service.state.reports import RecommendationRequest
from feedwater_service.state.sessions import Decision, Session, State
from feedwater_service.state.traces import Trace

T = TypeVar("T")

REPORT_SECONDS = 0.2
"""How long a request waits for the reports of its epoch: the client sent them first, so a report that is
missing after this time was lost."""
PEERS_SECONDS = 0.02
"""How long a decision waits for the other ranks to end the epoch, so that it covers them: ranks of one job
end an epoch at the same step."""
KEPT_DRAFTS = 64
PREVIEW_BATCHES = 100
"""Batches of a loader's first epoch after which it is drafted for the first time, so that an epoch of hours
has a recommendation long before its end."""
RENEW_FACTOR = 1.5
"""A preview is made again when the epoch has this many times the batches of the last preview."""
DRAFT_AT = 0.5
"""Share of an epoch's expected batches at which it is drafted: the draft is finished before the epoch ends,
and has seen enough of it to stand for the whole."""

_LIMIT_UNKNOWN = NoRecommendation(
    NoRecommendationReason.LIMIT_UNKNOWN, "The trainer has not reported how many CPUs it may use."
)

log = logging.getLogger(__name__)


class Model(Protocol):
    """The pure model, as the recommender needs it: `feedwater_service.model` is one."""

    def analyse(self, pod: Pod, loader: GroupKey, policy: Policy) -> Analysis | NoRecommendation:
        """Return what can be computed before the epoch's end, to be handed to `recommend`."""

    def recommend(
        self, pod: Pod, loader: GroupKey, policy: Policy, analysis: Analysis | None = None
    ) -> Recommendation | NoRecommendation:
        """Return the recommendation for all ranks of a loader."""


@dataclass(slots=True, eq=False)
class PendingDecision:
    """A decision in the making, which the ranks of a group wait for."""

    epoch: int
    task: asyncio.Task[Decision] | None = None
    waiting: int = 0
    """Calls that wait for it."""
    is_running: bool = False
    """The thread has taken it."""


@dataclass(slots=True)
class Recommender:
    """Runs the model when it is due, and keeps its decisions."""

    state: State
    model: Model
    policy: Policy
    share: float
    """Share of one core that drafts may take."""
    on_decision: Callable[[GroupKey, Decision], None]
    """Called with each new decision before a client gets it."""
    queue: ModelQueue = field(default_factory=ModelQueue)
    _report_events: dict[str, asyncio.Event] = field(default_factory=dict)
    _pending: dict[GroupKey, PendingDecision] = field(default_factory=dict)
    """One for each group: a question for another epoch waits for it."""
    _drafts: dict[GroupKey, tuple[int, Analysis]] = field(default_factory=dict)
    _drafted: dict[GroupKey, tuple[int, int]] = field(default_factory=dict)
    """(epoch, batches) of the newest draft or attempt at one."""
    _drafting: asyncio.Task[None] | None = None
    _final_tasks: dict[GroupKey, asyncio.Task[None]] = field(default_factory=dict)
    _ending: dict[str, Session] = field(default_factory=dict)
    """Sessions whose trainers have ended, and whose last recommendation is not made yet; by id."""
    _rest_until: float = 0.0

    def on_report(self, session: Session) -> None:
        """Wake the requests that wait for this report, and draft if that is due."""
        event = self._report_events.get(session.loader_id)
        if event is not None:
            event.set()
        if session.ended:
            self._ending[session.loader_id] = session
            if session.group not in self._final_tasks:
                task = asyncio.create_task(self._recommend_after_end(session))
                self._final_tasks[session.group] = task
                task.add_done_callback(lambda _: self._final_tasks.pop(session.group, None))
        else:
            self._draft_if_due(session)

    def _draft_if_due(self, session: Session) -> None:
        if self._may_draft(session):
            self._drafting = asyncio.create_task(self._draft(session))

    async def get_recommendation(self, request: RecommendationRequest) -> Decision:
        """Return the answer for the epoch that ended, the same for all ranks.

        Raises:
            UnknownLoaderError: There is no such loader.
        """
        session = self.state.find(request.loader_id)
        skipped = self._why_skipped(session)
        if skipped is not None:
            return self._decline(session, request.epoch, skipped)
        if request.preview:
            return self._preview_so_far(session, request.epoch)
        arrived = await self._wait_for_report(session, request.end_sequence)
        known = self.state.decisions.get((session.group, request.epoch))
        if known is not None:
            return known
        if not arrived:
            message = f"The reports of epoch {request.epoch} have not arrived."
            # Not kept: they may arrive yet, and another rank may bring a decision.
            return Decision("", request.epoch, NoRecommendation(NoRecommendationReason.NOT_REPORTED, message))
        trace = session.trace(request.epoch)
        if trace is None or trace.end_stamp_seconds is None:
            message = f"The end of epoch {request.epoch} has not been reported, or was too long ago."
            return Decision("", request.epoch, NoRecommendation(NoRecommendationReason.NOT_REPORTED, message))
        return await self._decision(session, request.epoch)

    async def stop(self) -> None:
        """Drop what runs."""
        decisions = [pending.task for pending in self._pending.values()]
        found = (*decisions, *self._final_tasks.values(), self._drafting)
        tasks = [task for task in found if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _why_skipped(self, session: Session) -> NoRecommendation | None:
        """Return why the model is not asked, None if it is."""
        if session.mode.rank < Mode.ADVISE.rank:
            return NoRecommendation(
                NoRecommendationReason.MODE, f"The mode is {session.mode.value}: nothing is recommended."
            )
        if session.registration.dataset_kind == "none":
            return NoRecommendation(
                NoRecommendationReason.NOT_TUNABLE,
                f"{session.name} is not a DataLoader: it can only be measured.",
            )
        frozen = next((s.frozen for s in (session, *self.state.peers(session.group)) if s.frozen), "")
        if frozen:
            return NoRecommendation(NoRecommendationReason.FROZEN, frozen)
        if self.state.budget(session) is None:
            return _LIMIT_UNKNOWN
        return None

    def _preview_so_far(self, session: Session, epoch: int) -> Decision:
        """Return the newest preview of a running epoch; nothing is decided."""
        session.preview_wanted = epoch
        self._draft_if_due(session)
        if session.preview is not None and session.preview.epoch == epoch:
            return Decision("", epoch, session.preview)
        return Decision(
            "",
            epoch,
            NoRecommendation(NoRecommendationReason.NOT_REPORTED, f"Epoch {epoch} is being analysed."),
        )

    async def _recommend_after_end(self, session: Session) -> None:
        """Recommend from the last epoch of a loader whose trainer has ended: no client will ask for it."""
        epoch = session.epochs[-1].number if session.epochs else -1
        peers = [s for s in self.state.sessions.values() if s.group == session.group]
        known = any(s.preview is not None and s.preview.epoch == epoch and s.ended for s in peers)
        is_decided = session.decision is not None and session.decision.epoch >= epoch
        try:
            if epoch < 0 or known or is_decided or self._why_skipped(session) is not None:
                return
            # Of the trainers that end together each is still part of the pod for the others.
            answer = await self._ask(session, also=lambda: tuple(self._ending.values()))
        except Exception:
            log.exception("the last recommendation for %s failed", session.name)
            return
        finally:
            ended = [s for s in self._ending.values() if s.group == session.group]
            for one in ended:
                del self._ending[one.loader_id]
        for peer in (*ended, *self.state.peers(session.group)):
            if isinstance(answer, Recommendation):
                peer.preview = answer
            elif peer.answer is None:
                self._decline(peer, epoch, answer)

    async def wait_for_final(self, seconds: float) -> None:
        """Wait at most ``seconds`` for the recommendations of loaders whose trainers have ended."""
        if self._final_tasks:
            await asyncio.wait(self._final_tasks.values(), timeout=seconds)

    def _decline(self, session: Session, epoch: int, none: NoRecommendation) -> Decision:
        """Record for one rank that there is no recommendation; other ranks are not bound by it."""
        decision = Decision("", epoch, none)
        if epoch > (session.epochs[-1].number if session.epochs else 0):
            # An epoch that was never reported: recorded, it would count as newer than all that follow.
            return decision
        session.decision, session.outcome = decision, None
        return decision

    async def _wait_for_report(self, session: Session, sequence: int) -> bool:
        """Wait until the report of this sequence number was counted; return whether it was."""
        deadline = perf_counter() + REPORT_SECONDS
        while session.accepted_sequence < sequence:
            event = self._report_events.setdefault(session.loader_id, asyncio.Event())
            event.clear()
            try:
                await asyncio.wait_for(event.wait(), max(0.0, deadline - perf_counter()))
            except asyncio.TimeoutError:
                break
        self._report_events.pop(session.loader_id, None)
        return session.accepted_sequence >= sequence

    async def _decision(self, session: Session, epoch: int) -> Decision:
        """Return the decision of a group; the first rank that asks starts it."""
        group = session.group
        while (pending := self._pending.get(group)) is not None and pending.epoch != epoch:
            assert pending.task is not None
            await asyncio.wait({pending.task})
            # Its own callback, which removes it, may be due only now.
            await asyncio.sleep(0)
        known = self.state.decisions.get((group, epoch))
        if known is not None:
            return known
        if pending is None:
            pending = self._pending[group] = PendingDecision(epoch)
            pending.task = asyncio.create_task(self._decide(session, pending))
            pending.task.add_done_callback(lambda _: self._forget(group, pending))
        assert pending.task is not None
        pending.waiting += 1
        try:
            # A client that gives up must not cancel the decision that other ranks wait for.
            return await asyncio.shield(pending.task)
        finally:
            pending.waiting -= 1
            if not pending.waiting and not pending.is_running:
                self._forget(group, pending)
                pending.task.cancel()

    def _forget(self, group: GroupKey, pending: PendingDecision) -> None:
        if self._pending.get(group) is pending:
            del self._pending[group]

    async def _decide(self, session: Session, pending: PendingDecision) -> Decision:
        epoch = pending.epoch
        await self._wait_for_peers(session, epoch)
        try:
            answer = await self._ask(session, pending)
        except Exception:
            log.exception("the recommendation for %s failed", session.name)
            answer = NoRecommendation(
                NoRecommendationReason.INCONCLUSIVE, "The model failed; the sidecar's log says how."
            )
        decision = Decision(f"{epoch}-{secrets.token_hex(4)}", epoch, answer)
        self.state.decide(session.group, decision)
        self.on_decision(session.group, decision)
        return decision

    async def _ask(
        self,
        session: Session,
        pending: PendingDecision | None = None,
        also: Callable[[], tuple[Session, ...]] = tuple,
    ) -> Recommendation | NoRecommendation:
        """Return the model's recommendation for the pod as it is when the thread takes the question.

        Args:
            session: Of the loader.
            pending: The decision that is made.
            also: Sessions that belong to the pod though they have ended.
        """

        def prepare() -> Callable[[], Recommendation | NoRecommendation]:
            draft = None
            if pending is not None:
                pending.is_running = True
                drafted_epoch, newest = self._drafts.pop(session.group, (-1, None))
                draft = newest if drafted_epoch == pending.epoch else None
            snapshot = self.state.snapshot(session, also())
            if snapshot is None:
                return lambda: _LIMIT_UNKNOWN
            return lambda: self._recommend(snapshot.pod(), session.group, draft)

        return await self.queue.run(session.group, prepare)

    async def _wait_for_peers(self, session: Session, epoch: int) -> None:
        deadline = perf_counter() + PEERS_SECONDS
        while perf_counter() < deadline and not all(
            _has_ended(s, epoch) for s in self.state.peers(session.group)
        ):
            await asyncio.sleep(PEERS_SECONDS / 10)

    def _may_draft(self, session: Session) -> bool:
        if self.share <= 0 or not session.epochs or session.epochs[-1].end_stamp_seconds is not None:
            return False
        if self._drafting is not None and not self._drafting.done():
            return False
        return self._is_worth_a_draft(session, session.epochs[-1]) and self._why_skipped(session) is None

    def _is_worth_a_draft(self, session: Session, running: Trace) -> bool:
        """Say whether every rank has reported enough of the epoch, and enough more than the last draft saw.

        An epoch of known length is drafted once, at half of its batches, which moves the work away from the
        boundary at no extra cost. In an epoch of unknown length each doubling of the batches makes the last
        draft stale; there the share of a core limits the cost.
        """
        expected = _expected_batches(session)
        enough = max(self.policy.min_batches, int(DRAFT_AT * expected))
        epoch, batches = self._drafted.get(session.group, (-1, 0))
        known = self._batches_of_all(session, running)
        if session.preview_wanted == running.number:
            least = PREVIEW_BATCHES if epoch != running.number else RENEW_FACTOR * batches
            return perf_counter() >= self._rest_until and known >= max(self.policy.min_batches, least)
        if expected:
            if session.decision is None and epoch != running.number:
                enough = min(enough, max(self.policy.min_batches, PREVIEW_BATCHES))
            return known >= enough and (epoch != running.number or batches < enough)
        rested = perf_counter() >= self._rest_until
        return rested and known >= max(enough, 2 * batches if epoch == running.number else 0)

    def _batches_of_all(self, session: Session, running: Trace) -> int:
        """Return how many batches of an epoch every rank has reported: any rank may be the slowest."""
        traces = [s.trace(running.number) for s in self.state.peers(session.group)]
        return min((0 if t is None else t.batches for t in traces), default=0)

    async def _draft(self, session: Session) -> None:
        """Analysis the running epoch, then pause for as long as the share of a core demands."""
        epoch = session.epochs[-1].number
        self._drafted[session.group] = (epoch, self._batches_of_all(session, session.epochs[-1]))
        before = self.state.counters.model_seconds

        def prepare() -> Callable[[], tuple[Pod | None, Analysis | NoRecommendation]]:
            snapshot = self.state.snapshot(session)
            if snapshot is None:
                return lambda: (None, _LIMIT_UNKNOWN)
            return lambda: self._analyse(snapshot.pod(), session.group)

        try:
            pod, draft = await self.queue.run(session.group, prepare)
        except Exception:
            log.exception("the draft for %s failed", session.name)
        else:
            if not isinstance(draft, NoRecommendation):
                self._drafts[session.group] = (epoch, draft)
                # A loader's first draft becomes a preview; a later one does if the client asked for it.
                wanted = session.decision is None or session.preview_wanted == epoch
                if wanted and pod is not None:
                    await self._preview(pod, session, draft)
        for kept in (self._drafts, self._drafted):
            while len(kept) > KEPT_DRAFTS:
                kept.pop(next(iter(kept)))
        spent = self.state.counters.model_seconds - before
        self._rest_until = perf_counter() + max(1.0, spent / self.share)

    async def _preview(self, pod: Pod, session: Session, draft: Analysis) -> None:
        """Keep the recommendation of a running epoch as the preview of every rank."""
        try:
            answer = await self.queue.run(
                session.group, lambda: lambda: self._recommend(pod, session.group, draft)
            )
        except Exception:
            log.exception("the preview for %s failed", session.name)
            return
        for peer in (session, *self.state.peers(session.group)):
            peer.preview = answer if isinstance(answer, Recommendation) else None

    # In the model's thread

    def _analyse(self, pod: Pod, group: GroupKey) -> tuple[Pod, Analysis | NoRecommendation]:
        """Return a draft and the pod that it was made from, which a preview needs as well."""
        return pod, self._limited(group, lambda: self.model.analyse(pod, group, self.policy))

    def _recommend(
        self, pod: Pod, group: GroupKey, draft: Analysis | None
    ) -> Recommendation | NoRecommendation:
        return self._limited(group, lambda: self.model.recommend(pod, group, self.policy, draft))

    def _limited(self, group: GroupKey, call: Callable[[], T]) -> T | NoRecommendation:
        """Return what a call of the model returns, or say that it was given up."""
        counters = self.state.counters
        before = thread_time()
        try:
            return call()
        except SimulationLimitError as error:
            counters.model_given_up += 1
            log.warning("the model gave up loader %s: %s", group[-1], error)
            message = f"The model gave up this epoch: {error}."
            return NoRecommendation(NoRecommendationReason.INCONCLUSIVE, message)
        finally:
            counters.model_runs += 1
            counters.model_seconds += thread_time() - before


def _expected_batches(session: Session) -> int:
    """Return an epoch's batches as registered, or else as in the last complete epoch; 0 if unknown."""
    if session.registration.batches_per_epoch:
        return session.registration.batches_per_epoch
    return next((t.batches for t in reversed(session.epochs) if t.complete), 0)


def _has_ended(session: Session, epoch: int) -> bool:
    trace = session.trace(epoch)
    return trace is None or trace.end_stamp_seconds is not None
