"""Brings what the sessions hold to the sidecar: one call at a time, never waiting but when asked to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from feedwater.relay import wire
from feedwater.relay.channel import Call, Channel, Failure, Request
from feedwater.relay.outbox import Held
from feedwater.relay.sessions import LoaderSession

CALL_SECONDS = 5.0
"""A report takes a millisecond; a sidecar at a tenth of a core, starved, was seen to take 300."""
BACKOFF_FIRST_SECONDS = 0.1
BACKOFF_MOST_SECONDS = 2.0
"""A refused connection costs the relay 0.3 ms; a sidecar that is back should be found soon."""
VERSION_MISMATCH_SECONDS = 30.0
"""A sidecar of another version stays one until it is replaced."""
MAX_ATTEMPTS = 4
"""A report that breaks the sidecar this often is thrown away: it would block all that follow."""


@dataclass(slots=True)
class _Underway:
    session: LoaderSession
    held: Held | None
    """None: a registration."""
    call: Call


class Delivery:
    """The one way to the sidecar."""

    def __init__(
        self,
        channel: Channel,
        register: Callable[[LoaderSession], wire.RegisterLoaderRequest],
        clock: Callable[[], float],
    ) -> None:
        self._channel = channel
        self._register = register
        self._clock = clock
        self._underway: _Underway | None = None
        self._backoff = 0.0
        self._not_before = 0.0
        self.down: Failure | None = None
        """Why the sidecar does not answer; None while it does, or nothing is known."""

    @property
    def address(self) -> str:
        """Where the sidecar is, or should be."""
        return self._channel.address

    def due(self) -> float:
        """Return when `pump` should be called again, though nothing else happens."""
        return self._not_before

    def pump(self, sessions: Iterable[LoaderSession]) -> None:
        """Take the outcome of the call under way, if it is done, and start the next."""
        self._settle()
        if self._underway is None and self._clock() >= self._not_before:
            for session in sessions:
                if session.outbox.waiting or not session.loader_id:
                    self._start(session, CALL_SECONDS)
                    return

    def deliver(self, session: LoaderSession, until: float) -> bool:
        """Deliver all that ``session`` holds before the moment ``until``; return whether that was done."""
        if not self._worth_trying():
            return False
        may_try_again = True
        while session.outbox.waiting or not session.loader_id:
            if self._underway is None:
                if self._clock() < self._not_before:
                    # The sidecar was replaced since the last call: older versions of gRPC learn only by a
                    # failed call that the connection has ended.
                    if not (may_try_again and self._worth_trying()):
                        return False
                    may_try_again = False
                self._start(session, CALL_SECONDS)
            if not self._wait(until):
                self.down = Failure.DEADLINE_EXCEEDED
                return False
        return True

    def get_recommendation(
        self, session: LoaderSession, epoch: int, until: float, is_preview: bool = False
    ) -> wire.GetRecommendationResponse | Failure:
        """Ask for the recommendation made from ``epoch``; all of it must have been delivered."""
        message = wire.get_recommendation_request(
            session.loader_id, epoch, session.outbox.last_sequence, is_preview
        )
        call = self._channel.start(message, max(0.001, until - self._clock()))
        if not call.wait(until - self._clock()):
            return Failure.DEADLINE_EXCEEDED
        reply = call.outcome()
        if isinstance(reply, wire.GetRecommendationResponse):
            return reply
        failure = reply if isinstance(reply, Failure) else Failure.INTERNAL
        if failure is Failure.UNKNOWN_LOADER:
            session.forget()
        elif failure is Failure.UNAVAILABLE:
            self._is_down(failure)
        return failure

    def _worth_trying(self) -> bool:
        if self.down is None:
            return True
        if self.down is Failure.UNAVAILABLE and self._channel.is_listening():
            self._not_before = 0.0
            return True
        return False

    def _wait(self, until: float) -> bool:
        if self._underway is None or not self._underway.call.wait(until - self._clock()):
            return False
        self._settle()
        return True

    def _start(self, session: LoaderSession, seconds: float) -> None:
        held: Held | None = None
        message: Request
        if not session.loader_id:
            message = self._register(session)
        else:
            held = session.outbox.next()
            if held is None:
                return
            held.message.loader_id = session.loader_id
            message = held.message
        # After "nobody listens" the channel waits a while before it tries again, and calls fail at once.
        call = self._channel.start(
            message, seconds, wait_for_ready=self.down is Failure.UNAVAILABLE and self._not_before == 0.0
        )
        self._underway = _Underway(session, held, call)

    def _settle(self) -> None:
        underway = self._underway
        if underway is None or not underway.call.done():
            return
        self._underway = None
        reply = underway.call.outcome()
        if isinstance(reply, Failure):
            self._failed(underway, reply)
        else:
            self._succeeded(underway, reply)

    def _succeeded(self, underway: _Underway, reply: object) -> None:
        self._is_up()
        if underway.held is not None:
            underway.session.outbox.delivered(underway.held)
        elif isinstance(reply, wire.RegisterLoaderResponse):
            underway.session.registered(reply)

    def _failed(self, underway: _Underway, failure: Failure) -> None:
        held = underway.held
        if failure is Failure.UNKNOWN_LOADER and held is not None:
            self._is_up()
            underway.session.forget()
        elif held is not None and (failure is Failure.REFUSED or _is_poison(failure, held)):
            self._is_up()
            underway.session.outbox.refused(held)
        else:
            self._is_down(failure)

    def _is_up(self) -> None:
        self.down = None
        self._backoff = self._not_before = 0.0

    def _is_down(self, failure: Failure) -> None:
        self.down = failure
        self._backoff = min(BACKOFF_MOST_SECONDS, max(BACKOFF_FIRST_SECONDS, 2 * self._backoff))
        wait = (
            VERSION_MISMATCH_SECONDS
            if failure in (Failure.VERSION_MISMATCH, Failure.REFUSED)
            else self._backoff
        )
        self._not_before = self._clock() + wait


def _is_poison(failure: Failure, held: Held) -> bool:
    return failure is Failure.INTERNAL and held.attempts >= MAX_ATTEMPTS
