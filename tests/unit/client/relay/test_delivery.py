"""One call at a time: when it is tried, given up, tried again."""

from __future__ import annotations

import pytest

from feedwater import ring
from feedwater.relay import delivery as delivery_module
from feedwater.relay import wire
from feedwater.relay.channel import Call, Failure
from feedwater.relay.delivery import Delivery
from feedwater.relay.measurements import ContainerUsage, Identity, Limits
from feedwater.relay.sessions import LoaderSession
from feedwater.relay.tracker import EpochTracker
from feedwater.values import LoaderDescription, LoaderSettings, Mode

DESCRIBED = LoaderDescription("train", LoaderSettings(2), Mode.AUTO, "map")


class FakeChannel:
    """Ends each call at once with what ``outcomes`` says of its kind; "hang" never ends it."""

    address = "unix:/fake"

    def __init__(self) -> None:
        self.outcomes: dict[type[object], object] = {
            wire.RegisterLoaderRequest: wire.RegisterLoaderResponse(loader_id="l1", accepted_sequence=0),
            wire.ReportRequest: object(),
            wire.ReportAppliedRequest: object(),
        }
        self.sent: list[object] = []
        self.listens = True

    def start(self, message, timeout_seconds, wait_for_ready=False):
        """Take a message."""
        self.sent.append(message)
        call = Call(message, timeout_seconds, wait_for_ready)
        outcome = self.outcomes[type(message)]
        if outcome != "hang":
            call.end(outcome)
        return call

    def is_listening(self):
        """Say what the test says."""
        return self.listens


class Clock:
    """Time that stands still until the test moves it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Return now."""
        return self.now


@pytest.fixture
def channel():
    return FakeChannel()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def delivery(channel, clock):
    def register(session):
        return wire.register_loader_request(Identity("c"), session.description, Limits())

    return Delivery(channel, register, clock)


@pytest.fixture
def session(words):
    made = LoaderSession(DESCRIBED, EpochTracker(ring.RingReader(words)))
    flush(made)
    return made


def flush(session: LoaderSession) -> None:
    session.flush(0.0, Limits(), ContainerUsage(0.0), [])


def kinds(channel: FakeChannel) -> list[str]:
    return [type(message).__name__ for message in channel.sent]


def test_loader_is_registered_before_its_first_report(delivery, channel, session, clock):
    """One registration, then the report under the id that came back."""
    assert delivery.deliver(session, clock.now + 1)
    assert kinds(channel) == ["RegisterLoaderRequest", "ReportRequest"]
    assert channel.sent[1].loader_id == "l1"


def test_pump_never_waits(delivery, channel, session):
    """A call that hangs is left alone, and no second one is started beside it."""
    channel.outcomes[wire.RegisterLoaderRequest] = "hang"
    for _ in range(3):
        delivery.pump([session])
    assert len(channel.sent) == 1


def test_absent_sidecar_is_tried_again_later_and_later(delivery, channel, session, clock):
    """0.1, 0.2, 0.4 s and so on, up to 2 s."""
    channel.outcomes[wire.RegisterLoaderRequest] = Failure.UNAVAILABLE
    waits = []
    for _ in range(7):
        delivery.pump([session])
        delivery.pump([session])
        waits.append(delivery.due() - clock.now)
        clock.now = delivery.due()
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])


def test_absent_sidecar_that_does_not_listen_is_given_up_at_once(delivery, channel, session, clock):
    """Known to be away, and nobody accepts: a boundary tries no call."""
    channel.outcomes[wire.RegisterLoaderRequest] = Failure.UNAVAILABLE
    assert not delivery.deliver(session, clock.now + 1)
    tried = len(channel.sent)
    channel.listens = False
    assert not delivery.deliver(session, clock.now + 1)
    assert len(channel.sent) == tried


def test_sidecar_that_listens_again_is_tried_at_the_boundary(delivery, channel, session, clock):
    """Known to be away, but somebody accepts now: all is delivered without waiting for the next try."""
    channel.outcomes[wire.RegisterLoaderRequest] = Failure.UNAVAILABLE
    delivery.deliver(session, clock.now + 1)
    channel.outcomes[wire.RegisterLoaderRequest] = wire.RegisterLoaderResponse(loader_id="l1")
    assert delivery.deliver(session, clock.now + 1)
    assert delivery.down is None


def test_hanging_sidecar_is_known_after_one_deadline(delivery, channel, session, clock):
    """The second question is not put while the first call hangs."""
    channel.outcomes[wire.RegisterLoaderRequest] = "hang"
    assert not delivery.deliver(session, clock.now + 0.01)
    assert delivery.down is Failure.DEADLINE_EXCEEDED
    assert not delivery.deliver(session, clock.now + 1000)


def test_forgotten_loader_is_registered_again_and_all_that_is_held_sent(delivery, channel, session, clock):
    """NOT_FOUND for a report: a second registration, then both reports."""
    delivery.deliver(session, clock.now + 1)
    session.forget_registration()
    flush(session)
    channel.sent.clear()
    delivery.deliver(session, clock.now + 1)
    assert kinds(channel) == ["RegisterLoaderRequest", "ReportRequest", "ReportRequest"]
    assert [message.sequence for message in channel.sent[1:]] == [1, 2]


def test_report_that_breaks_the_sidecar_is_thrown_away_after_four_tries(delivery, channel, session, clock):
    """INTERNAL each time: it would block all that follow."""
    channel.outcomes[wire.ReportRequest] = Failure.INTERNAL
    for _ in range(2 * delivery_module.MAX_ATTEMPTS + 2):
        delivery.pump([session])
        clock.now += 10
    assert session.outbox.waiting == 0
    assert kinds(channel).count("ReportRequest") == delivery_module.MAX_ATTEMPTS


def test_question_with_a_forgotten_loader_registers_it_next_time(delivery, channel, session, clock):
    """NOT_FOUND for the question itself."""
    delivery.deliver(session, clock.now + 1)
    channel.outcomes[wire.GetRecommendationRequest] = Failure.UNKNOWN_LOADER
    assert delivery.get_recommendation(session, 0, clock.now + 1) is Failure.UNKNOWN_LOADER
    assert session.loader_id == ""


def test_number_that_the_wire_cannot_hold_costs_one_report(session):
    """A negative count of the kernel: nothing is raised, the next report goes."""
    held = session.outbox.size_bytes
    session.flush(0.0, Limits(), ContainerUsage(0.0, oom_kills=-1), [])
    assert session.outbox.size_bytes == held
    flush(session)
    assert session.outbox.size_bytes > held


def test_busy_sidecar_gets_the_report_later(delivery, channel, session, clock):
    """A sidecar full of others' calls refuses no report: none is dropped, and it comes when there is room."""
    channel.outcomes[wire.ReportRequest] = Failure.BUSY
    for _ in range(10):
        delivery.pump([session])
        clock.now = max(clock.now, delivery.due())
    assert session.outbox.refused_batches == 0
    assert session.outbox.waiting == 1
    assert delivery.due() - clock.now <= 2.0
    channel.outcomes[wire.ReportRequest] = object()
    for _ in range(3):
        delivery.pump([session])
        clock.now = max(clock.now, delivery.due())
    assert session.outbox.waiting == 0


def test_registration_at_a_busy_sidecar_waits_two_seconds_at_most(delivery, channel, session, clock):
    """Room may be there at any moment: not the 30 s that another version of the sidecar takes to go."""
    channel.outcomes[wire.RegisterLoaderRequest] = Failure.BUSY
    for _ in range(20):
        delivery.pump([session])
        assert delivery.due() - clock.now <= 2.0
        clock.now = max(clock.now, delivery.due())


def test_report_that_is_too_large_is_refused(delivery, channel, session):
    """One of more than 4 MiB would block all that follow."""
    channel.outcomes[wire.ReportRequest] = Failure.BUSY
    session.outbox.next().message.batches.add(wait_seconds=[0.5] * (1 << 20))
    for _ in range(4):
        delivery.pump([session])
    assert session.outbox.waiting == 0
