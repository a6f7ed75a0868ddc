"""What each call does: bytes in, state changed, bytes out. No gRPC here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

from feedwater import __version__
from feedwater_service.errors import RefusedError, TooManyError
from feedwater_service.recommender import Recommender
from feedwater_service.rpc import wire
from feedwater_service.state.counters import Tallies
from feedwater_service.state.sessions import Decision, Group, State
from feedwater_service.store.checkpoint import Keeper
from feedwater_service.store.codec import from_json, to_json
from feedwater_service.store.journal import Record

REGISTERED, REPORTED, APPLIED, DECIDED = 1, 2, 3, 4
MAX_WATCHERS = 16
"""A page or a command line each; a message holds the whole state."""
MIN_INTERVAL_SECONDS = 0.2
ID_BYTES = 16
FINAL_SECONDS = 1.5
"""How long a single watch message waits for loaders that just ended: `feedwater run` asks at its end."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A decision as the journal holds it."""

    group: Group
    decision: Decision


class Calls:
    """The service's calls over one state."""

    def __init__(self, state: State, recommender: Recommender, keeper: Keeper) -> None:
        self._state = state
        self._recommender = recommender
        self._keeper = keeper
        self._watchers = 0
        self._stopping = asyncio.Event()

    def register_loader(self, data: bytes) -> bytes:
        """Make a loader known."""
        session = self._state.register(wire.read_register_request(data))
        self._keep(REGISTERED, session.loader_id.encode() + data)
        return wire.write_register_response(session)

    def report(self, data: bytes) -> bytes:
        """Count a report."""
        report = wire.read_report(data)
        before = self._state.find(report.loader_id).accepted
        session = self._state.report(report)
        if session.accepted != before:
            self._keep(REPORTED, data)
            self._recommender.on_report(session)
        return wire.write_report_response(session.accepted)

    async def get_recommendation(self, data: bytes) -> bytes:
        """Answer a request at an epoch boundary, or in a running epoch."""
        request = wire.read_recommendation_request(data)
        return wire.write_decision(await self._recommender.get_recommendation(request))

    def report_applied(self, data: bytes) -> bytes:
        """Note what became of a recommendation: the probation record, so it is kept before it is answered."""
        self._state.report_applied(wire.read_applied_report(data))
        self._keep(APPLIED, data)
        return wire.write_applied_response()

    async def watch(self, data: bytes) -> AsyncIterator[bytes]:
        """Yield the state, once or again and again."""
        interval = wire.read_watch_request(data)
        if self._watchers >= MAX_WATCHERS:
            raise TooManyError(f"{MAX_WATCHERS} watch already")
        self._watchers += 1
        try:
            if interval == 0:
                await self._recommender.wait_for_final(FINAL_SECONDS)
            yield wire.write_watch_response(self._state, __version__)
            while interval > 0 and not await self._stops_within(max(interval, MIN_INTERVAL_SECONDS)):
                yield wire.write_watch_response(self._state, __version__)
        finally:
            self._watchers -= 1

    def stop(self) -> None:
        """End the watches."""
        self._stopping.set()

    def _keep(self, kind: int, data: bytes) -> None:
        self._keeper.record(Record(kind, self._state.clock(), data))

    async def _stops_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        return True


def keep_decision(keeper: Keeper, state: State, group: Group, decision: Decision) -> None:
    """Append a decision to the journal before it is given out, so that it stays the same after a restart."""
    data = json.dumps(to_json(Kept(group, decision))).encode()
    keeper.record(Record(DECIDED, state.clock(), data))


def restore(state: State, keeper: Keeper) -> None:
    """Bring a state back from its directory; the counts of its former process are not ours."""
    clock = state.clock
    keeper.restore(state, lambda record: _replay(state, record))
    state.clock, state.tallies = clock, Tallies()
    for session in state.active():
        state.tally(session)


def _replay(state: State, record: Record) -> None:
    state.clock = lambda: record.stamp
    try:
        if record.kind == REGISTERED:
            loader_id, request = record.data[:ID_BYTES].decode(), record.data[ID_BYTES:]
            state.register(wire.read_register_request(request), loader_id)
        elif record.kind == REPORTED:
            state.report(wire.read_report(record.data))
        elif record.kind == APPLIED:
            state.report_applied(wire.read_applied_report(record.data))
        elif record.kind == DECIDED:
            kept = from_json(Kept, json.loads(record.data))
            state.decide(kept.group, kept.decision)
    except (RefusedError, ValueError):
        # Accepted once, so it belongs to a session that has expired since.
        return
