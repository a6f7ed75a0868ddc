"""The messages for the sidecar: bounded, in order, kept for a while after delivery.

A delivered report stays until newer ones need its room: a sidecar that is killed and restored from a
checkpoint states which report it counted last, and the reports after that one are sent again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from feedwater.relay import wire

MAX_REPORTS = 64
"""At one every two seconds two minutes; twenty while the sidecar is away, because reports are merged then."""
MAX_BYTES = 4 << 20
"""At 1,000 batches/s a second takes 50 kB: 80 s. A tenth of the relay's resident memory."""
KEPT_BYTES = 1 << 20
"""Of delivered reports. The sidecar journals each report: these serve one whose disk was lost."""
MERGED_BYTES = 256 << 10
"""Largest merged report; gRPC's receive limit is 4 MiB."""
MERGED_REPORTS = 10
"""Most reports in a merged one: losing it costs ten seconds, not the whole outage."""


@dataclass(slots=True)
class Held:
    """One message that waits for delivery, or that was delivered and is kept."""

    message: wire.ReportRequest | wire.ReportAppliedRequest
    batches: int
    size_bytes: int
    sequence: int = 0
    """0 before it is first sent, and for messages that are no reports."""
    merged: int = 1
    attempts: int = 0


class Outbox:
    """The messages of one loader."""

    def __init__(self, max_reports: int = MAX_REPORTS, max_bytes: int = MAX_BYTES) -> None:
        self._max_reports = max_reports
        self._max_bytes = max_bytes
        self._held: deque[Held] = deque()
        self._sent = 0
        self._bytes = 0
        self._next_sequence = 1
        self.dropped_batches = 0
        """In reports that were dropped before they were delivered."""
        self.refused_batches = 0
        """In reports that the sidecar refused."""

    @property
    def last_sequence(self) -> int:
        """Number of the newest report sent, or 0."""
        return self._next_sequence - 1

    @property
    def waiting(self) -> int:
        """Messages not delivered yet."""
        return len(self._held) - self._sent

    @property
    def size_bytes(self) -> int:
        """Of all messages here."""
        return self._bytes

    def add_report(self, message: wire.ReportRequest, batches: int) -> None:
        """Queue a report; while another waits, merge it into the last one."""
        size = message.ByteSize()
        last = self._held[-1] if self.waiting else None
        if last is not None and _can_merge(last, size):
            last.message.MergeFrom(message)  # type: ignore[arg-type]
            last.batches += batches
            last.merged += 1
            last.size_bytes += size
            self._bytes += size
        else:
            self._add(Held(message, batches, size))
        self._trim()

    def add_report_applied(self, message: wire.ReportAppliedRequest) -> None:
        """Queue the outcome of a recommendation, in order with the reports around it."""
        self._add(Held(message, 0, message.ByteSize()))
        self._trim()

    def next(self) -> Held | None:
        """Return the oldest undelivered message, with its sequence number; None if there is none."""
        if not self.waiting:
            return None
        held = self._held[self._sent]
        if isinstance(held.message, wire.ReportRequest) and not held.sequence:
            held.sequence = held.message.sequence = self._next_sequence
            self._next_sequence += 1
        held.attempts += 1
        return held

    def mark_delivered(self, held: Held) -> None:
        """Keep a message as delivered."""
        if self._is_next(held):
            self._sent += 1

    def remove_refused(self, held: Held) -> None:
        """Remove a message that the sidecar will never take, and count its batches."""
        if self._is_next(held):
            self.refused_batches += held.batches
            del self._held[self._sent]
            self._bytes -= held.size_bytes

    def resume_after(self, accepted_sequence: int) -> None:
        """Send again what follows ``accepted_sequence``, the last report that the sidecar counted."""
        self._next_sequence = max(self._next_sequence, accepted_sequence + 1)
        # An outcome after that report may have been delivered already: sent again, it still counts once.
        counted = (at for at, held in enumerate(self._held, 1) if 0 < held.sequence <= accepted_sequence)
        self._sent = max(counted, default=0)

    def _is_next(self, held: Held) -> bool:
        return self._sent < len(self._held) and self._held[self._sent] is held

    def _add(self, held: Held) -> None:
        self._held.append(held)
        self._bytes += held.size_bytes

    def _exceeds_bounds(self) -> bool:
        if self._sent and self._bytes > KEPT_BYTES:
            return True
        return len(self._held) > self._max_reports or self._bytes > self._max_bytes

    def _trim(self) -> None:
        while len(self._held) > 1 and self._exceeds_bounds():
            held = self._held.popleft()
            self._bytes -= held.size_bytes
            if self._sent:
                self._sent -= 1
            else:
                self.dropped_batches += held.batches


def _can_merge(last: Held, size: int) -> bool:
    return (
        isinstance(last.message, wire.ReportRequest)
        and not last.sequence
        and last.merged < MERGED_REPORTS
        and last.size_bytes + size <= MERGED_BYTES
    )
