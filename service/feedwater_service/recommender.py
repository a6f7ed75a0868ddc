"""When the model runs, and which answer a client gets.

The model runs in one thread beside the event loop: drafts while an epoch runs, within a share of a core; the
decision at the boundary. There is one decision per loader name and epoch; all ranks get it, whenever they
ask.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from time import perf_counter, thread_time
from typing import Protocol, TypeVar

from feedwater.values import Mode
from feedwater_service.model import Draft
from feedwater_service.model.types import NoRecommendation, Pod, Policy, Reason, Recommendation
from feedwater_service.state.reports import Question
from feedwater_service.state.sessions import Decision, Group, Session, State
from feedwater_service.state.traces import Trace

T = TypeVar("T")
Answer = Recommendation | NoRecommendation

ARRIVAL_SECONDS = 0.2
"""How long an answer waits for the reports of the epoch: they were sent before the question, so what is
missing after this was lost."""
PEERS_SECONDS = 0.02
"""How long it waits for other ranks to end the epoch, so that the decision covers them; they do at the same
step."""
KEPT_DRAFTS = 64
PREVIEW_BATCHES = 100
"""Batches of a loader's first epoch after which it is looked at for the first time: who watches an epoch of
hours gets a number long before its end."""
RENEWED = 1.5
"""Times the batches of the last look at an epoch, after which it is looked at again where its client asks."""
DRAFT_AT = 0.5
"""Share of an epoch's expected batches at which it is drafted: early enough to be done at its end, late
enough to stand for the whole of it."""

log = logging.getLogger(__name__)


class Model(Protocol):
    """The pure model, as the adviser needs it: `feedwater_service.model` is one."""

    def draft(self, pod: Pod, name: str, policy: Policy) -> Draft | NoRecommendation:
        """Return what can be computed before the epoch's end, to be handed to `recommend`."""

    def recommend(self, pod: Pod, name: str, policy: Policy, draft: Draft | None = None) -> Answer:
        """Return the answer for all ranks of a loader."""


class ModelThread:
    """One daemon thread: a simulation that runs long must not hold up the end of the process."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()
        threading.Thread(target=self._work, name="model", daemon=True).start()

    async def run(self, call: Callable[[], T]) -> T:
        """Return what ``call`` returns, or raise what it raises."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._tasks.put(lambda: _settle(loop, future, call))
        return await future

    def _work(self) -> None:
        while True:
            self._tasks.get()()


def _settle(loop: asyncio.AbstractEventLoop, future: asyncio.Future[T], call: Callable[[], T]) -> None:
    try:
        result = call()
    except BaseException as error:
        _tell(loop, future, lambda error=error: future.set_exception(error))  # type: ignore[misc]
    else:
        _tell(loop, future, lambda: future.set_result(result))


def _tell(loop: asyncio.AbstractEventLoop, future: asyncio.Future[T], tell: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(lambda: None if future.done() else tell())
    except RuntimeError:
        log.debug("the event loop has ended before the model")


@dataclass(slots=True)
class Adviser:
    """Asks the model, and keeps what it said."""

    state: State
    model: Model
    policy: Policy
    share: float
    """Share of one core that drafts may take."""
    decided: Callable[[Group, Decision], None]
    """Told of each new decision before it is given out."""
    thread: ModelThread = field(default_factory=ModelThread)
    _arrivals: dict[str, asyncio.Event] = field(default_factory=dict)
    _pending: dict[tuple[Group, int], asyncio.Task[Decision]] = field(default_factory=dict)
    _drafts: dict[Group, tuple[int, Draft]] = field(default_factory=dict)
    _drafted: dict[Group, tuple[int, int]] = field(default_factory=dict)
    """(epoch, batches) of the newest attempt."""
    _drafting: asyncio.Task[None] | None = None
    _concluding: set[asyncio.Task[None]] = field(default_factory=set)
    _rest_until: float = 0.0

    def reported(self, session: Session) -> None:
        """Take note of a report: wake who waits for it, and draft if it is time."""
        arrival = self._arrivals.get(session.loader_id)
        if arrival is not None:
            arrival.set()
        if session.ended:
            task = asyncio.create_task(self._conclude(session))
            self._concluding.add(task)
            task.add_done_callback(self._concluding.discard)
        else:
            self._draft_if_due(session)

    def _draft_if_due(self, session: Session) -> None:
        if self._may_draft(session):
            self._drafting = asyncio.create_task(self._draft(session))

    async def answer(self, question: Question) -> Decision:
        """Return the answer for the epoch that ended, the same for all ranks.

        Raises:
            UnknownLoaderError: There is no such loader.
        """
        session = self.state.find(question.loader_id)
        hurdle = self._hurdle(session)
        if hurdle is not None:
            return self._say(session, question.epoch, hurdle)
        if question.preview:
            return self._so_far(session, question.epoch)
        arrived = await self._arrive(session, question.end_sequence)
        known = self.state.decisions.get((session.group, question.epoch))
        if known is not None:
            return known
        if not arrived:
            message = f"The reports of epoch {question.epoch} have not arrived."
            # Not kept: they may arrive yet, and another rank may bring a decision.
            return Decision("", question.epoch, NoRecommendation(Reason.NOT_REPORTED, message))
        return await self._decision(session, question.epoch)

    async def stop(self) -> None:
        """Drop what runs."""
        tasks = [*self._pending.values(), *self._concluding, *([self._drafting] if self._drafting else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _hurdle(self, session: Session) -> NoRecommendation | None:
        """Return why the model is not asked, None if it is."""
        if session.mode.rank < Mode.ADVISE.rank:
            return NoRecommendation(Reason.MODE, f"The mode is {session.mode.value}: nothing is recommended.")
        if session.registration.dataset_kind == "none":
            return NoRecommendation(
                Reason.NOT_TUNABLE, f"{session.name} is no DataLoader: it can only be measured."
            )
        frozen = next((s.frozen for s in (session, *self.state.peers(session.group)) if s.frozen), "")
        if frozen:
            return NoRecommendation(Reason.FROZEN, frozen)
        if self.state.budget(session) is None:
            return NoRecommendation(
                Reason.LIMIT_UNKNOWN, "The trainer has not said how many CPUs it may use."
            )
        return None

    def _so_far(self, session: Session, epoch: int) -> Decision:
        """Return what a running epoch says so far, as far as it was looked at; nothing is decided."""
        session.preview_wanted = epoch
        self._draft_if_due(session)
        if session.preview is not None and session.preview.epoch == epoch:
            return Decision("", epoch, session.preview)
        return Decision("", epoch, NoRecommendation(Reason.NOT_REPORTED, f"Epoch {epoch} is looked at now."))

    async def _conclude(self, session: Session) -> None:
        """Say what the last epoch says, of a loader whose trainer has ended: nobody will ask for it."""
        epoch = session.epochs[-1].number if session.epochs else -1
        peers = [s for s in self.state.sessions.values() if s.group == session.group]
        known = any(s.preview is not None and s.preview.epoch == epoch and s.ended for s in peers)
        decided = session.decision is not None and session.decision.epoch >= epoch
        pod = self.state.pod(session)
        if epoch < 0 or known or decided or pod is None or self._hurdle(session) is not None:
            return
        try:
            answer = await self._run(lambda: self.model.recommend(pod, session.name, self.policy))
        except Exception:
            log.exception("the last recommendation for %s failed", session.name)
            return
        for peer in (session, *self.state.peers(session.group)):
            if isinstance(answer, Recommendation):
                peer.preview = answer
            elif peer.answer is None:
                self._say(peer, epoch, answer)

    async def concluded(self, seconds: float) -> None:
        """Wait, so long at most, until what is said of the loaders that have ended is there."""
        if self._concluding:
            await asyncio.wait(self._concluding, timeout=seconds)

    def _say(self, session: Session, epoch: int, none: NoRecommendation) -> Decision:
        decision = Decision("", epoch, none)
        session.decision, session.outcome = decision, None
        return decision

    async def _arrive(self, session: Session, sequence: int) -> bool:
        """Wait until a report has been counted; return whether it was."""
        deadline = perf_counter() + ARRIVAL_SECONDS
        while session.accepted < sequence:
            arrival = self._arrivals.setdefault(session.loader_id, asyncio.Event())
            arrival.clear()
            try:
                await asyncio.wait_for(arrival.wait(), max(0.0, deadline - perf_counter()))
            except asyncio.TimeoutError:
                break
        self._arrivals.pop(session.loader_id, None)
        return session.accepted >= sequence

    async def _decision(self, session: Session, epoch: int) -> Decision:
        """Return the decision of a group, made by whoever asks first."""
        key = (session.group, epoch)
        task = self._pending.get(key)
        if task is None:
            task = self._pending[key] = asyncio.create_task(self._decide(session, epoch))
            task.add_done_callback(lambda _: self._pending.pop(key, None))
        # A client that gave up must not cancel the answer of the others.
        return await asyncio.shield(task)

    async def _decide(self, session: Session, epoch: int) -> Decision:
        await self._await_peers(session, epoch)
        pod = self.state.pod()
        assert pod is not None
        drafted_epoch, newest = self._drafts.pop(session.group, (-1, None))
        draft = newest if drafted_epoch == epoch else None
        try:
            answer = await self._run(lambda: self.model.recommend(pod, session.name, self.policy, draft))
        except Exception:
            log.exception("the recommendation for %s failed", session.name)
            answer = NoRecommendation(Reason.INCONCLUSIVE, "The model failed; the sidecar's log says how.")
        decision = Decision(f"{epoch}-{secrets.token_hex(4)}", epoch, answer)
        self.state.decide(session.group, decision)
        self.decided(session.group, decision)
        return decision

    async def _await_peers(self, session: Session, epoch: int) -> None:
        deadline = perf_counter() + PEERS_SECONDS
        while perf_counter() < deadline and not all(
            _has_ended(s, epoch) for s in self.state.peers(session.group)
        ):
            await asyncio.sleep(PEERS_SECONDS / 10)

    def _may_draft(self, session: Session) -> bool:
        if self.share <= 0 or not session.epochs or session.epochs[-1].ended is not None:
            return False
        if self._drafting is not None and not self._drafting.done():
            return False
        return self._is_worth_a_draft(session, session.epochs[-1]) and self._hurdle(session) is None

    def _is_worth_a_draft(self, session: Session, running: Trace) -> bool:
        """Say whether the epoch has gone far enough on every rank, and far enough beyond the last draft.

        Where its length is known, one draft at half of it takes the work off the boundary, and costs nothing
        more. Where it is not, each doubling makes the last draft stale, so the share of a core is the bound.
        """
        expected = _expected_batches(session)
        enough = max(self.policy.min_batches, int(DRAFT_AT * expected))
        epoch, batches = self._drafted.get(session.group, (-1, 0))
        known = self._known_of_all(session, running)
        if session.preview_wanted == running.number:
            least = PREVIEW_BATCHES if epoch != running.number else RENEWED * batches
            return perf_counter() >= self._rest_until and known >= max(self.policy.min_batches, least)
        if expected:
            if session.decision is None and epoch != running.number:
                enough = min(enough, max(self.policy.min_batches, PREVIEW_BATCHES))
            return known >= enough and (epoch != running.number or batches < enough)
        rested = perf_counter() >= self._rest_until
        return rested and known >= max(enough, 2 * batches if epoch == running.number else 0)

    def _known_of_all(self, session: Session, running: Trace) -> int:
        """Return how many batches of a running epoch every rank has told: any may turn out the slowest."""
        traces = [s.trace(running.number) for s in self.state.peers(session.group)]
        return min((0 if t is None else t.batches for t in traces), default=0)

    async def _draft(self, session: Session) -> None:
        """Let the model work ahead, then rest for as long as its share demands."""
        pod, epoch = self.state.pod(), session.epochs[-1].number
        assert pod is not None
        self._drafted[session.group] = (epoch, self._known_of_all(session, session.epochs[-1]))
        before = self.state.tallies.model_seconds
        try:
            draft = await self._run(lambda: self.model.draft(pod, session.name, self.policy))
        except Exception:
            log.exception("the draft for %s failed", session.name)
        else:
            if not isinstance(draft, NoRecommendation):
                self._drafts[session.group] = (epoch, draft)
                # The first one, and others of which the client asks it.
                if session.decision is None or session.preview_wanted == epoch:
                    await self._preview(pod, session, draft)
        for kept in (self._drafts, self._drafted):
            while len(kept) > KEPT_DRAFTS:
                kept.pop(next(iter(kept)))
        spent = self.state.tallies.model_seconds - before
        self._rest_until = perf_counter() + max(1.0, spent / self.share)

    async def _preview(self, pod: Pod, session: Session, draft: Draft) -> None:
        """Say what an epoch says so far."""
        try:
            answer = await self._run(lambda: self.model.recommend(pod, session.name, self.policy, draft))
        except Exception:
            log.exception("the preview for %s failed", session.name)
            return
        for peer in (session, *self.state.peers(session.group)):
            peer.preview = answer if isinstance(answer, Recommendation) else None

    async def _run(self, call: Callable[[], T]) -> T:
        return await self.thread.run(lambda: self._timed(call))

    def _timed(self, call: Callable[[], T]) -> T:
        before = thread_time()
        try:
            return call()
        finally:
            self.state.tallies.model_runs += 1
            self.state.tallies.model_seconds += thread_time() - before


def _expected_batches(session: Session) -> int:
    """Return the running epoch's batches to come, as the loader says or as the last had; 0 if unknown."""
    if session.registration.batches_per_epoch:
        return session.registration.batches_per_epoch
    return next((t.batches for t in reversed(session.epochs) if t.complete), 0)


def _has_ended(session: Session, epoch: int) -> bool:
    trace = session.trace(epoch)
    return trace is None or trace.ended is not None
