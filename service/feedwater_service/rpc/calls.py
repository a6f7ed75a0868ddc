"""What each call does: bytes in, state changed, bytes out. No gRPC here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

from feedwater import __version__
from feedwater_service.errors import RefusedError, TooManyError
from feedwater_service.recommender import Adviser
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
CONCLUDED_SECONDS = 1.5
"""For what is said of loaders that ended just now, to whoever asks once: ``feedwater run`` at its end."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A decision as the journal holds it."""

    group: Group
    decision: Decision


class Calls:
    """The service's calls over one state."""

    def __init__(self, state: State, adviser: Adviser, keeper: Keeper) -> None:
        self._state = state
        self._adviser = adviser
        self._keeper = keeper
        self._watchers = 0
        self._stopping = asyncio.Event()

    def register(self, data: bytes) -> bytes:
        """Make a loader known."""
        session = self._state.register(wire.read_registration(data))
        self._keep(REGISTERED, session.loader_id.encode() + data)
        return wire.write_registered(session)

    def report(self, data: bytes) -> bytes:
        """Count a report."""
        report = wire.read_report(data)
        before = self._state.find(report.loader_id).accepted
        session = self._state.report(report)
        if session.accepted != before:
            self._keep(REPORTED, data)
            self._adviser.reported(session)
        return wire.write_accepted(session.accepted)

    async def recommendation(self, data: bytes) -> bytes:
        """Answer an epoch boundary."""
        return wire.write_decision(await self._adviser.answer(wire.read_question(data)))

    def applied(self, data: bytes) -> bytes:
        """Note what became of a recommendation: the probation record, so it is kept before it is answered."""
        self._state.applied(wire.read_applied(data))
        self._keep(APPLIED, data)
        return wire.write_applied()

    async def watch(self, data: bytes) -> AsyncIterator[bytes]:
        """Yield the state, once or again and again."""
        interval = wire.read_interval(data)
        if self._watchers >= MAX_WATCHERS:
            raise TooManyError(f"{MAX_WATCHERS} watch already")
        self._watchers += 1
        try:
            if interval == 0:
                await self._adviser.concluded(CONCLUDED_SECONDS)
            yield wire.write_states(self._state, __version__)
            while interval > 0 and not await self._stops_within(max(interval, MIN_INTERVAL_SECONDS)):
                yield wire.write_states(self._state, __version__)
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
            state.register(wire.read_registration(record.data[ID_BYTES:]), record.data[:ID_BYTES].decode())
        elif record.kind == REPORTED:
            state.report(wire.read_report(record.data))
        elif record.kind == APPLIED:
            state.applied(wire.read_applied(record.data))
        elif record.kind == DECIDED:
            kept = from_json(Kept, json.loads(record.data))
            state.decide(kept.group, kept.decision)
    except (RefusedError, ValueError):
        # Accepted once, so it belongs to a session that has expired since.
        return
