"""Delivers the outboxes of all sessions to the sidecar: one call at a time, without waiting for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from feedwater.relay import wire
from feedwater.relay.channel import Call, Channel, Failure, Request
from feedwater.relay.outbox import Held
from feedwater.relay.sessions import LoaderSession

CALL_SECONDS = 5.0
"""A report takes 1 ms; a sidecar limited to a tenth of a core was measured to take 300 ms."""
BACKOFF_FIRST_SECONDS = 0.1
BACKOFF_MOST_SECONDS = 2.0
"""A refused connection costs the relay 0.3 ms, and a sidecar that is back must be found soon."""
VERSION_MISMATCH_SECONDS = 30.0
"""The version of a sidecar changes only when it is replaced."""
MAX_ATTEMPTS = 4
"""A report that fails the sidecar this often is dropped: it would block all that follow."""

MAX_MESSAGE_BYTES = 4 << 20
"""Largest message that the sidecar takes."""


@dataclass(slots=True)
class _PendingCall:
    session: LoaderSession
    held: Held | None
    """None for a registration."""
    call: Call


class Delivery:
    """Makes the calls to the sidecar and decides when to try again."""

    def __init__(
        self,
        channel: Channel,
        register: Callable[[LoaderSession], wire.RegisterLoaderRequest],
        clock: Callable[[], float],
    ) -> None:
        self._channel = channel
        self._register = register
        self._clock = clock
        self._pending: _PendingCall | None = None
        self._backoff = 0.0
        self._not_before = 0.0
        self.down: Failure | None = None
        """Why the sidecar does not answer; None while it answers or has not been called."""

    @property
    def address(self) -> str:
        """Where the sidecar is expected."""
        return self._channel.address

    def due(self) -> float:
        """Return when `pump` must be called again if nothing else happens, on the clock given."""
        return self._not_before

    def pump(self, sessions: Iterable[LoaderSession]) -> None:
        """Take the outcome of the pending call, if it has ended, and start the next one."""
        self._finish_pending()
        if self._pending is None and self._clock() >= self._not_before:
            for session in sessions:
                if session.outbox.waiting or not session.loader_id:
                    self._start(session, CALL_SECONDS)
                    return

    def deliver(self, session: LoaderSession, until: float) -> bool:
        """Deliver all messages of ``session``; return False if that was not done by the moment ``until``."""
        if not self._clear_back_off():
            return False
        may_try_again = True
        while session.outbox.waiting or not session.loader_id:
            if self._pending is None:
                if self._clock() < self._not_before:
                    # The sidecar was replaced since the last call: older versions of gRPC find that the
                    # connection has ended only by a call that fails.
                    if not (may_try_again and self._clear_back_off()):
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
        """Ask for the recommendation made from ``epoch``, which must have been delivered."""
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
            session.forget_registration()
        elif failure is Failure.UNAVAILABLE:
            self._mark_down(failure)
        return failure

    def _clear_back_off(self) -> bool:
        """Return whether a call is worth trying; end the back-off where the sidecar listens again."""
        if self.down is None:
            return True
        if self.down is Failure.UNAVAILABLE and self._channel.is_listening():
            self._not_before = 0.0
            return True
        return False

    def _wait(self, until: float) -> bool:
        if self._pending is None or not self._pending.call.wait(until - self._clock()):
            return False
        self._finish_pending()
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
        # After UNAVAILABLE the channel waits before it connects again, and meanwhile calls fail at once.
        call = self._channel.start(
            message, seconds, wait_for_ready=self.down is Failure.UNAVAILABLE and self._not_before == 0.0
        )
        self._pending = _PendingCall(session, held, call)

    def _finish_pending(self) -> None:
        pending = self._pending
        if pending is None or not pending.call.done():
            return
        self._pending = None
        reply = pending.call.outcome()
        if isinstance(reply, Failure):
            self._handle_failure(pending, reply)
        else:
            self._handle_reply(pending, reply)

    def _handle_reply(self, pending: _PendingCall, reply: object) -> None:
        self._mark_up()
        if pending.held is not None:
            pending.session.outbox.mark_delivered(pending.held)
        elif isinstance(reply, wire.RegisterLoaderResponse):
            pending.session.accept_registration(reply)

    def _handle_failure(self, pending: _PendingCall, failure: Failure) -> None:
        held = pending.held
        if failure is Failure.UNKNOWN_LOADER and held is not None:
            self._mark_up()
            pending.session.forget_registration()
        elif held is not None and _is_hopeless(failure, held):
            self._mark_up()
            pending.session.outbox.remove_refused(held)
        else:
            self._mark_down(failure)

    def _mark_up(self) -> None:
        self.down = None
        self._backoff = self._not_before = 0.0

    def _mark_down(self, failure: Failure) -> None:
        self.down = failure
        self._backoff = min(BACKOFF_MOST_SECONDS, max(BACKOFF_FIRST_SECONDS, 2 * self._backoff))
        wait = (
            VERSION_MISMATCH_SECONDS
            if failure in (Failure.VERSION_MISMATCH, Failure.REFUSED)
            else self._backoff
        )
        self._not_before = self._clock() + wait


def _is_hopeless(failure: Failure, held: Held) -> bool:
    """Return whether the sidecar will never take a message, by how a call with it failed."""
    if failure is Failure.BUSY:
        # Calls of others fill the sidecar; the message is not at fault, unless it is too large.
        return held.message.ByteSize() > MAX_MESSAGE_BYTES
    return failure is Failure.REFUSED or (failure is Failure.INTERNAL and held.attempts >= MAX_ATTEMPTS)
