"""What each call does: it reads bytes, changes the state, writes bytes. No gRPC here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

from feedwater import __version__
from feedwater_service.errors import RefusedError, TooManyError
from feedwater_service.model.types import GroupKey
from feedwater_service.recommender import Recommender
from feedwater_service.rpc import wire
from feedwater_service.rpc.shown_state import ShownState
from feedwater_service.state.counters import Counters
from feedwater_service.state.sessions import Decision, Session, State
from feedwater_service.store.checkpoint import StateStore
from feedwater_service.store.codec import from_json, to_json
from feedwater_service.store.journal import JournalRecord
from feedwater_service.store.validity import check

REGISTERED, REPORTED, APPLIED, DECIDED = 1, 2, 3, 4
MAX_WATCHERS = 16
"""Command lines that watch at once; each message holds the whole state."""
MIN_INTERVAL_SECONDS = 0.2
ID_BYTES = 16
FINAL_SECONDS = 1.5
"""How long a single watch message waits for loaders that just ended: `feedwater run` asks at its end."""


@dataclass(frozen=True, slots=True)
class JournaledDecision:
    """A decision as the journal records it."""

    group: GroupKey
    decision: Decision


class Calls:
    """The calls of the service, on one state."""

    def __init__(self, state: State, recommender: Recommender, store: StateStore) -> None:
        self._state = state
        self._recommender = recommender
        self._store = store
        self.shown = ShownState(state, __version__)
        self._watchers = 0
        self._stopping = asyncio.Event()

    def register_loader(self, data: bytes) -> bytes:
        """Register a loader."""
        registration = wire.read_register_request(data)
        known = self._state.registered(registration)
        before = None if known is None or known.ended else (known.registration, known.mode)
        session = self._state.register(registration)
        # A client registers again after each pause: only what that changes is worth the journal's space.
        if before != (session.registration, session.mode):
            self._record(REGISTERED, session.loader_id.encode() + wire.write_register_request(registration))
        return wire.write_register_response(session)

    def report(self, data: bytes) -> bytes:
        """Count a report."""
        report = wire.read_report(data)
        before = self._state.find(report.loader_id).accepted_sequence
        session = self._state.report(report)
        if session.accepted_sequence != before:
            self._record(REPORTED, wire.write_report(data))
            self._recommender.on_report(session)
        return wire.write_report_response(session.accepted_sequence)

    async def get_recommendation(self, data: bytes) -> bytes:
        """Answer a request at an epoch boundary, or in a running epoch."""
        request = wire.read_recommendation_request(data)
        return wire.write_decision(await self._recommender.get_recommendation(request))

    def report_applied(self, data: bytes) -> bytes:
        """Record what became of a recommendation, in the journal before the answer: it starts a probation."""
        applied = wire.read_applied_report(data)
        before = _applied_state(self._state.find(applied.loader_id))
        if _applied_state(self._state.report_applied(applied)) != before:
            self._record(APPLIED, wire.write_applied_report(applied))
        return wire.write_applied_response()

    async def watch(self, data: bytes) -> AsyncIterator[bytes]:
        """Yield the state once, or at an interval."""
        interval = wire.read_watch_request(data)
        if self._watchers >= MAX_WATCHERS:
            raise TooManyError(f"{MAX_WATCHERS} clients watch already, the most that are served")
        self._watchers += 1
        try:
            if interval == 0:
                await self._recommender.wait_for_final(FINAL_SECONDS)
            yield await self.shown.message.get()
            while interval > 0 and not await self._stops_within(max(interval, MIN_INTERVAL_SECONDS)):
                yield await self.shown.message.get()
        finally:
            self._watchers -= 1

    def stop(self) -> None:
        """End the watches."""
        self._stopping.set()

    def _record(self, kind: int, data: bytes) -> None:
        self._store.record(_journaled(self._state, kind, data))

    async def _stops_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        return True


def _applied_state(session: Session) -> object:
    """Return what a report of an outcome changes in a session."""
    newest = session.records[-1] if session.records else None
    return (
        tuple(session.changes),
        tuple(session.failed),
        session.settings,
        session.outcome,
        newest and (newest.outcome, newest.detail),
    )


def record_decision(store: StateStore, state: State, group: GroupKey, decision: Decision) -> None:
    """Append a decision to the journal before a client gets it, so that a restart does not change it."""
    data = json.dumps(to_json(JournaledDecision(group, decision))).encode()
    store.record(_journaled(state, DECIDED, data))


def restore(state: State, store: StateStore) -> None:
    """Restore a state from its directory; counters start at zero with each process."""
    clock, monotonic = state.clock, state.monotonic
    now, boot = monotonic(), state.boot()

    def replay(record: JournalRecord) -> None:
        # At least 0: after a reboot of the node, which no trainer survives, the boot clock began again.
        stamp = now - max(0.0, boot - record.boot_seconds)
        state.clock, state.monotonic = lambda: record.time_seconds, lambda: stamp
        _replay(state, record)

    store.restore(state, replay)
    state.clock, state.monotonic, state.counters = clock, monotonic, Counters()
    for session in state.active():
        state.counters_of(session)


def _journaled(state: State, kind: int, data: bytes) -> JournalRecord:
    return JournalRecord(kind, state.clock(), data, state.boot())


def _replay(state: State, record: JournalRecord) -> None:
    try:
        if record.kind == REGISTERED:
            loader_id, request = record.data[:ID_BYTES].decode(), record.data[ID_BYTES:]
            state.register(wire.read_register_request(request), loader_id)
        elif record.kind == REPORTED:
            state.report(wire.read_report(record.data))
        elif record.kind == APPLIED:
            state.report_applied(wire.read_applied_report(record.data))
        elif record.kind == DECIDED:
            decided = from_json(JournaledDecision, json.loads(record.data))
            check(decided)
            state.decide(decided.group, decided.decision)
    except RefusedError:
        # It was accepted before, so its session has expired since.
        return
