"""The relay's event loop: reads rings, sends reports, answers at epoch boundaries, ends with its trainer."""

from __future__ import annotations

import contextlib
import os
import selectors
import time
from dataclasses import replace

from feedwater import packets
from feedwater.relay import wire
from feedwater.relay.channel import Channel, Failure
from feedwater.relay.control import ControlSocket, Packet, description
from feedwater.relay.delivery import Delivery
from feedwater.relay.measurements import Identity
from feedwater.relay.observer import Observer
from feedwater.relay.sessions import LoaderSession
from feedwater.relay.tracker import EpochTracker, open_epoch
from feedwater.ring import RingReader, attach
from feedwater.values import Answer, Outcome, settings_from_json

REPORT_SECONDS = 2.0
"""A report costs the relay 2.5 ms of CPU time, most of it in gRPC: one a second is 0.25 % of a core."""
BEGIN_SECONDS = 0.5
"""The begin of an epoch is reported at once if the last report is older: ten epochs a second must not make
twenty reports."""
POLL_FIRST_SECONDS = 0.1
"""At the begin of an epoch its speed is not known yet, and a worker's ring holds 512 batches."""
POLL_LEAST_SECONDS = 0.02
POLL_MOST_SECONDS = 1.0
TARGET_FILL = 0.4
"""Share of a ring that one poll should find filled, so that one late poll loses nothing. A poll costs 0.2 ms;
two workers that make 1,000 batches/s fill their rings in a second."""
HEARTBEAT_SECONDS = 10.0
"""Between reports outside epochs: they show the sidecar that the trainer is alive."""
IDLE_SECONDS = 5.0
LAST_SECONDS = 1.5
"""For the last timings: the trainer has ended, and its container may end at any moment."""
ANSWER_MARGIN_SECONDS = 0.02
"""Part of the deadline that is left for the answer to reach the trainer on a loaded machine."""
MAX_LOADERS = 32
"""A script that makes a new unnamed loader in each epoch would otherwise grow the relay without bound."""


class Relay:
    """Serves one trainer: its control socket, its rings and its calls to the sidecar."""

    def __init__(
        self, control: ControlSocket, identity: Identity, address: str, trainer_fd: int | None
    ) -> None:
        self._control = control
        self._identity = identity
        self._trainer_fd = trainer_fd
        self._observer = Observer(identity.trainer_pid)
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._delivery = Delivery(Channel(address, self._wake), self._register, time.monotonic)
        self._by_key: dict[int, LoaderSession] = {}
        self._by_name: dict[str, LoaderSession] = {}
        self._poll_seconds = POLL_FIRST_SECONDS
        self._poll_due = 0.0
        self._ended = False

    def run(self) -> None:
        """Serve the trainer until it ends, then send its last timings."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(self._wake_read, selectors.EVENT_READ)
            if self._trainer_fd is not None:
                selector.register(self._trainer_fd, selectors.EVENT_READ)
            while not self._ended:
                self._run_once(selector)
        self._finish()

    def _run_once(self, selector: selectors.BaseSelector) -> None:
        ready = {key.fd for key, _ in selector.select(self._timeout())}
        if self._wake_read in ready:
            _drain(self._wake_read)
        for session in self._sessions():
            session.tracker.note_heads()
        for packet in self._control.packets():
            # A packet that cannot be understood costs nothing but itself.
            with contextlib.suppress(ValueError, TypeError, KeyError):
                self._handle(packet)
        has_ended = self._trainer_fd in ready or os.getppid() != self._identity.trainer_pid
        self._ended = self._ended or has_ended or not self._control.is_open
        now = time.monotonic()
        if now >= self._poll_due:
            self._poll(now)
        self._delivery.pump(self._sessions())

    def _timeout(self) -> float:
        now = time.monotonic()
        due = self._poll_due if self._has_open_epoch() else now + IDLE_SECONDS
        if any(session.outbox.waiting or not session.loader_id for session in self._sessions()):
            retry = self._delivery.due()
            due = min(due, retry) if retry > now else due
        return max(0.0, due - now)

    def _sessions(self) -> list[LoaderSession]:
        return list(self._by_name.values())

    def _has_open_epoch(self) -> bool:
        return any(session.tracker.open_epoch is not None for session in self._sessions())

    def _handle(self, packet: Packet) -> None:
        if packet.op == packets.REGISTER_LOADER:
            self._register_loader(packet)
        elif packet.op == packets.CLOSE:
            self._ended = True
        elif packet.op == packets.SET_IDENTITY:
            self._set_identity(packet)
        elif session := self._by_key.get(packet.integer("key")):
            handler = {
                packets.BEGIN_EPOCH: self._begin_epoch,
                packets.END_EPOCH: self._end_epoch,
                packets.GET_RECOMMENDATION: self._get_recommendation,
                packets.REPORT_APPLIED: self._report_applied,
                packets.RELEASE_RING: self._release_ring,
            }.get(packet.op)
            if handler is not None:
                handler(session, packet)
        elif packet.op == packets.GET_RECOMMENDATION:
            self._control.answer(packet.integer("id"), self._no_answer("The relay does not know the loader."))

    def _register_loader(self, packet: Packet) -> None:
        if packet.ring_fd is None:
            return
        try:
            reader = RingReader(attach(f"/proc/self/fd/{packet.ring_fd}"))
            described = description(packet.mapping("description"))
        except (OSError, ValueError, TypeError, KeyError):
            return
        finally:
            os.close(packet.ring_fd)
        reader.resume()
        session = self._by_name.get(described.name)
        if session is None:
            session = self._by_name[described.name] = LoaderSession(described, EpochTracker(reader))
        else:
            self._close_epoch(session)
            session.replace(described, EpochTracker(reader))
        self._by_key[packet.integer("key")] = session
        self._forget_oldest()

    def _release_ring(self, session: LoaderSession, packet: Packet) -> None:
        """Report what a loader's ring holds, then stop reading it."""
        self._close_epoch(session)
        self._flush(session)
        session.release_ring()

    def _set_identity(self, packet: Packet) -> None:
        """Register all loaders again, under the rank that the trainer has learnt meanwhile."""
        self._identity = Identity(**packet.mapping("identity"))  # type: ignore[arg-type]
        for session in self._sessions():
            session.forget_registration()

    def _forget_oldest(self) -> None:
        while len(self._by_name) > MAX_LOADERS:
            idle = [name for name, session in self._by_name.items() if session.tracker.open_epoch is None]
            oldest = self._by_name.pop((idle or list(self._by_name))[0])
            self._by_key = {key: session for key, session in self._by_key.items() if session is not oldest}

    def _begin_epoch(self, session: LoaderSession, packet: Packet) -> None:
        epoch = open_epoch(
            packet.integer("epoch"),
            settings_from_json(packet.mapping("settings")),
            packet.number("iter_seconds"),
            packet.integers("worker_pids"),
            packet.integer("first_worker_ring", -1),
            packet.integer("stamp_ns"),
            packet.integer("thread_id"),
        )
        session.tracker.begin(epoch, packet.integer("head"))
        self._observer.begin_epoch()
        # A report that has just ended the epoch before holds the same counters.
        if time.monotonic() - session.reported_at > BEGIN_SECONDS:
            self._flush(session)
        self._poll_seconds = POLL_FIRST_SECONDS
        self._poll_due = time.monotonic() + self._poll_seconds

    def _end_epoch(self, session: LoaderSession, packet: Packet) -> None:
        has_ended = session.tracker.end(
            packet.integer("epoch"),
            packet.integer("head"),
            packet.values.get("complete") is True,
            packet.number("teardown_seconds"),
            packet.integer("stamp_ns"),
        )
        if has_ended:
            self._flush(session)

    def _report_applied(self, session: LoaderSession, packet: Packet) -> None:
        message = wire.report_applied_request(
            packet.text("recommendation_id"),
            Outcome(packet.text("outcome")),
            settings_from_json(packet.mapping("settings")),
            packet.text("detail"),
        )
        session.outbox.add_report_applied(message)

    def _get_recommendation(self, session: LoaderSession, packet: Packet) -> None:
        epoch, is_preview = packet.integer("epoch"), packet.values.get("preview") is True
        until = packet.number("until_seconds") - ANSWER_MARGIN_SECONDS
        if is_preview:
            session.tracker.poll()
            self._flush(session)
        answer = self._answer(session, epoch, until, is_preview)
        answer = replace(answer, mode=session.mode, address=self._delivery.address)
        self._control.answer(packet.integer("id"), answer)

    def _answer(self, session: LoaderSession, epoch: int, until: float, is_preview: bool) -> Answer:
        if not self._delivery.deliver(session, until):
            failure = self._delivery.down or Failure.DEADLINE_EXCEEDED
            if failure is Failure.DEADLINE_EXCEEDED:
                return replace(
                    self._no_answer(f"No answer from {self._delivery.address} in time."), late=True
                )
            return self._no_answer(f"No sidecar at {self._delivery.address}: {failure.value}.")
        if epoch < 0:
            return Answer(reason="No epoch has been measured yet.", connected=True)
        reply = self._delivery.get_recommendation(session, epoch, until, is_preview)
        if isinstance(reply, Failure):
            has_answered = reply is not Failure.UNAVAILABLE
            return replace(self._no_answer(f"No recommendation: {reply.value}."), connected=has_answered)
        return wire.answer(reply)

    def _no_answer(self, reason: str) -> Answer:
        return Answer(reason=reason, address=self._delivery.address)

    def _poll(self, now: float) -> None:
        fullest = max((session.tracker.poll() for session in self._sessions()), default=0.0)
        self._poll_seconds = _next_poll(self._poll_seconds, fullest)
        self._poll_due = now + self._poll_seconds
        for session in self._sessions():
            if session.tracker.uses_cuda:
                self._observer.read_device(session.tracker.device_uuid)
            # Reports are due between polls: the poll that is nearer to the due time sends it.
            wait = REPORT_SECONDS if session.tracker.open_epoch is not None else HEARTBEAT_SECONDS
            if now - session.reported_at >= wait - self._poll_seconds / 2:
                self._flush(session)

    def _flush(self, session: LoaderSession, last: bool = False) -> None:
        epoch = session.tracker.open_epoch
        pids = epoch.worker_pids if epoch else ()
        session.flush(
            time.monotonic(),
            self._observer.limits(),
            self._observer.container(),
            session.tracker.add_boot_cpu(self._observer.processes(pids, session.tracker.thread_id)),
            last,
        )

    def _close_epoch(self, session: LoaderSession) -> None:
        session.tracker.finish(time.perf_counter_ns())

    def _finish(self) -> None:
        until = time.monotonic() + LAST_SECONDS
        for session in self._sessions():
            self._close_epoch(session)
            self._flush(session, last=True)
        for session in self._sessions():
            self._delivery.deliver(session, until)
        self._control.close()

    def _register(self, session: LoaderSession) -> wire.RegisterLoaderRequest:
        return wire.register_loader_request(self._identity, session.description, self._observer.limits())

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"\0")


def _next_poll(seconds: float, fullest: float) -> float:
    if fullest > TARGET_FILL:
        return max(POLL_LEAST_SECONDS, seconds * TARGET_FILL / fullest)
    if fullest < TARGET_FILL / 2:
        return min(POLL_MOST_SECONDS, seconds * 2)
    return seconds


def _drain(fd: int) -> None:
    try:
        while len(os.read(fd, 4096)) == 4096:
            pass
    except BlockingIOError:
        pass
