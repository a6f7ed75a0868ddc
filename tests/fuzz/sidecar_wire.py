"""The sidecar's calls under any messages: each is answered or refused, and other loaders' data stay.

The bytes decide a series of calls. A message is built field by field from hostile values, so that most are
valid, then in part damaged.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from feedwater.v1 import feedwater_pb2 as pb
from feedwater_service import recommender
from feedwater_service.errors import RefusedError
from feedwater_service.metrics.collector import StateCollector
from feedwater_service.metrics.exposition import Exposition
from feedwater_service.model.types import Policy
from feedwater_service.recommender import Recommender
from feedwater_service.rpc import wire
from feedwater_service.rpc.calls import Calls
from feedwater_service.state.sessions import Session, State
from feedwater_service.store.checkpoint import StateStore, session_line
from feedwater_service.store.codec import from_json
from feedwater_service.termination_message import exit_line, termination_message
from tests.fuzz.draw import TEXTS, Draw, damaged
from tests.support.shown import watch_message
from tests.unit.service.conftest import Clock, FakeModel, registration, report

# Requests for reports that never come would each wait for them.
recommender.REPORT_SECONDS = recommender.PEERS_SECONDS = 0.0

KINDS = (
    pb.ReportRequest,
    pb.RegisterLoaderRequest,
    pb.GetRecommendationRequest,
    pb.ReportAppliedRequest,
    pb.WatchRequest,
)
MAX_CALLS = 12


class InlineQueue:
    """Asks the model in the event loop: a test case begins no thread."""

    waiting = 0

    async def run(self, group: object, prepare: Callable[[], Callable[[], object]]) -> object:
        """Return what a call returns."""
        return prepare()()

    def answers(self) -> bool:
        """Return that it lives."""
        return True


_LOOP = asyncio.new_event_loop()


def check(data: bytes) -> None:
    """Run one test case.

    Raises:
        AssertionError: A call changed another loader, or left a state that cannot be shown or stored.
        Exception: Whatever a call raised that is no `RefusedError`.
    """
    _LOOP.run_until_complete(_check(Draw(data)))


async def _check(draw: Draw) -> None:
    clock = Clock()
    state = State(max_sessions=4, clock=clock, monotonic=clock, boot=clock)
    asked = Recommender(state, FakeModel(), Policy(), 0.1, lambda group, decision: None, InlineQueue())
    calls = Calls(state, asked, StateStore(None))
    victim = _victim(state, calls)
    attacker = state.register(wire.read_register_request(registration().SerializeToString()))
    texts = (attacker.loader_id, *TEXTS)
    before = _data(victim)
    for _ in range(MAX_CALLS):
        if not draw:
            break
        draw.texts = (*texts, *(d.id for d in state.decisions.values()))
        clock.now += draw.byte() % 32
        await _call(calls, draw)
        assert _data(victim) == before
    await asyncio.sleep(0)
    await asked.stop()
    state.expire(30.0)
    _show(state)


def _victim(state: State, calls: Calls) -> Session:
    registered = registration(client_id="victim", job="victim", pod="victim", loader="victim")
    victim = state.register(wire.read_register_request(registered.SerializeToString()))
    wire_report = report(victim.loader_id, 1, end=True).SerializeToString()
    state.report(wire.read_report(wire_report))
    return victim


def _data(session: Session) -> str:
    return session_line(replace(session, last_seen_seconds=0.0))


async def _call(calls: Calls, draw: Draw) -> None:
    kind = draw.choose(KINDS)
    message = draw.fill(kind())
    if isinstance(message, (pb.ReportRequest, pb.GetRecommendationRequest, pb.ReportAppliedRequest)):
        message.loader_id = draw.choose(draw.texts)
    data = message.SerializeToString()
    if draw.byte() % 8 == 7:
        data = damaged(data, draw)
    with contextlib.suppress(RefusedError):
        await _answered(calls, kind, data)


async def _answered(calls: Calls, kind: type, data: bytes) -> None:
    if kind is pb.RegisterLoaderRequest:
        pb.RegisterLoaderResponse.FromString(calls.register_loader(data))
    elif kind is pb.ReportRequest:
        pb.ReportResponse.FromString(calls.report(data))
    elif kind is pb.GetRecommendationRequest:
        pb.GetRecommendationResponse.FromString(await calls.get_recommendation(data))
    elif kind is pb.ReportAppliedRequest:
        pb.ReportAppliedResponse.FromString(calls.report_applied(data))
    else:
        watched: AsyncIterator[bytes] = calls.watch(data)
        pb.WatchResponse.FromString(await anext(watched))
        await watched.aclose()


def _show(state: State) -> None:
    """Make everything that is made of a state: each reader must be able to read it."""
    text = wire.write_state_json(watch_message(state), b"key").decode()
    json.loads(text, parse_constant=_no_number)
    assert '"Infinity"' not in text
    assert '"-Infinity"' not in text
    assert '"NaN"' not in text
    Exposition(StateCollector(state, "0", "3")).render("")
    termination_message(state, "0")
    exit_line(state)
    for session in state.sessions.values():
        line = session_line(session)
        assert session_line(from_json(Session, json.loads(line))) == line
    snapshot = state.snapshot()
    if snapshot is not None:
        snapshot.pod()


def _no_number(text: str) -> float:
    raise AssertionError(f"{text} in the JSON of the state")
