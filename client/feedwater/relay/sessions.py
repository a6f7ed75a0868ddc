"""One loader in the relay: its ring, its outbox, and its registration at the sidecar."""

from __future__ import annotations

from feedwater.relay import wire
from feedwater.relay.measurements import ContainerUsage, Limits, ProcessUsage
from feedwater.relay.outbox import Outbox
from feedwater.relay.tracker import EpochTracker
from feedwater.ring import RingReader, empty
from feedwater.values import LoaderDescription, Mode

NO_RING = empty()
"""Read by the trackers of all loaders whose ring was released."""


class LoaderSession:
    """State of one named loader; another loader of the same name continues it."""

    def __init__(self, description: LoaderDescription, tracker: EpochTracker) -> None:
        self.description = description
        self.tracker = tracker
        self.outbox = Outbox()
        self.loader_id = ""
        """Empty before the loader is registered, and when the sidecar no longer knows it."""
        self.mode: Mode | None = None
        self.reported_at = 0.0
        self._limits_sent: Limits | None = None
        self._overruns = (0, 0)
        self._drops_sent: dict[str, int] = {}

    def replace(self, description: LoaderDescription, tracker: EpochTracker) -> None:
        """Continue with another loader of this name."""
        self._overruns = (self.overrun, self.worker_overrun)
        self.description, self.tracker = description, tracker
        # Registered again, with the settings of the new loader, the same name gets the same id.
        self.forget_registration()

    def release_ring(self) -> None:
        """Read an empty ring until the loader has a new one."""
        self._overruns = (self.overrun, self.worker_overrun)
        self.tracker = EpochTracker(RingReader(NO_RING))

    def forget_registration(self) -> None:
        """Have the loader registered again: the sidecar does not know it, or knows what is out of date."""
        self.loader_id = ""
        self._limits_sent = None
        self._drops_sent = {}

    @property
    def overrun(self) -> int:
        """Batches overwritten before they were read, over all loaders of this name."""
        return self._overruns[0] + self.tracker.overrun

    @property
    def worker_overrun(self) -> int:
        """Loads overwritten before they were read, over all loaders of this name."""
        return self._overruns[1] + self.tracker.worker_overrun

    def accept_registration(self, reply: wire.RegisterLoaderResponse) -> None:
        """Take the loader's id and mode from the sidecar's response, and resend what it has not counted."""
        self.loader_id = reply.loader_id
        self.mode = wire.mode(reply)
        self.outbox.resume_after(reply.accepted_sequence)

    def flush(
        self,
        now: float,
        limits: Limits,
        container: ContainerUsage,
        processes: list[ProcessUsage],
        last: bool = False,
    ) -> None:
        """Queue a report of the timings and readings since the last one."""
        report = self.tracker.take()
        batches = wire.batch_count(report)
        report.last, report.uses_cuda = last, self.tracker.uses_cuda
        changed_limits = limits if limits != self._limits_sent else None
        self.reported_at = now
        try:
            wire.add_readings(report, container, processes, changed_limits, self._new_drops())
        except (ValueError, TypeError, OverflowError):
            # A counter of the kernel that a field cannot hold: the sidecar would refuse the whole report.
            self.outbox.refused_batches += batches
        else:
            self._limits_sent = limits
            self.outbox.add_report(report, batches)

    def _new_drops(self) -> dict[str, int]:
        totals = {
            "RING_OVERRUN": self.overrun,
            "WORKER_RING_OVERRUN": self.worker_overrun,
            "BUFFER_FULL": self.outbox.dropped_batches,
            "REFUSED": self.outbox.refused_batches,
        }
        if totals == self._drops_sent or not any(totals.values()):
            return {}
        self._drops_sent = totals
        return totals
