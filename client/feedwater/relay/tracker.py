"""Assigns the batches and loads in a loader's ring to epochs, and reports them."""

from __future__ import annotations

import math
import platform
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from feedwater.relay import wire
from feedwater.relay.measurements import ProcessUsage
from feedwater.ring import MAIN_SLOTS, WORKER_SLOTS, WORKER_WORDS, DeviceTiming, RingReader, rings_of
from feedwater.values import LoaderSettings

NANO = 1e-9
STORES_ARE_ORDERED = platform.machine() in {"x86_64", "AMD64", "i686"}
"""Here all slots below a head are stored once the head is seen; on ARM, below the head of the poll before."""


@dataclass(slots=True)
class OpenEpoch:
    """An epoch that has not ended, or the one that ended last."""

    number: int
    settings: LoaderSettings
    start_ns: int
    """When ``iter()`` was called."""
    iter_seconds: float
    worker_pids: tuple[int, ...]
    rings: tuple[tuple[int, int], ...]
    """(worker, ring) pairs of its iterator."""
    thread_id: int = 0
    """The thread that iterates, as the kernel numbers it; 0 is unknown."""
    first: int = 0
    """Number of its first batch over the life of the loader."""
    batches: int = 0
    missed: int = 0
    """Batches that were overwritten before they were read."""
    last: tuple[int, int, int] | None = None
    """(enter, exit, ready) of the newest batch: its step ends when the next batch is asked for."""


class EpochTracker:
    """Follows the epochs of one loader through its rings."""

    def __init__(self, reader: RingReader) -> None:
        self._reader = reader
        self._head, self._worker_heads = reader.position, reader.worker_heads()
        self._device_head = reader.device_head()
        self._early: dict[int, list[int]] = {}
        """By ring: loads that were read with an epoch but started after its end."""
        self._open: OpenEpoch | None = None
        self._closed: OpenEpoch | None = None
        self._ended_boots: list[ProcessUsage] = []
        """Boot CPU time of the workers of epochs that have ended."""
        self._reported_boots: set[int] = set()
        """Pids of workers whose boot CPU time was reported since the epoch began."""
        self._report = wire.ReportRequest()
        """Read since the last `take`."""

    @property
    def open_epoch(self) -> OpenEpoch | None:
        """The epoch that has not ended; None between epochs."""
        return self._open

    @property
    def overrun(self) -> int:
        """Batches overwritten before they were read."""
        return self._reader.overrun

    @property
    def worker_overrun(self) -> int:
        """Loads overwritten before they were read."""
        return self._reader.worker_overrun

    @property
    def uses_cuda(self) -> bool:
        """The trainer has initialised CUDA."""
        return self._reader.uses_cuda

    @property
    def device_uuid(self) -> str:
        """UUID of the device that the trainer runs on; empty where unknown."""
        return self._reader.device_uuid

    @property
    def thread_id(self) -> int:
        """The thread that iterates, or did in the epoch before; 0 is unknown."""
        epoch = self._open or self._closed
        return epoch.thread_id if epoch is not None else 0

    def add_boot_cpu(self, processes: Sequence[ProcessUsage]) -> list[ProcessUsage]:
        """Return readings with the CPU time that each worker used before its first load.

        Where an epoch has ended before its workers were read, a reading with this figure alone is added: the
        figure is in the ring and costs nothing.
        """
        boots, self._ended_boots = self._ended_boots, []
        if self._open is not None:
            boots += self._boots(self._open, 0)
        seconds = {boot.pid: boot.boot_cpu_seconds for boot in boots}
        self._reported_boots |= {usage.pid for usage in processes} & seconds.keys()
        readings = [
            usage if usage.worker is None else replace(usage, boot_cpu_seconds=seconds.get(usage.pid))
            for usage in processes
        ]
        # Those of the open epoch have no stamp: they are reported with the reading of their worker.
        unread = [boot for boot in boots if boot.stamp_seconds and boot.pid not in self._reported_boots]
        return [*readings, *unread]

    def _boots(self, epoch: OpenEpoch, stamp_ns: int) -> list[ProcessUsage]:
        pids = dict(enumerate(epoch.worker_pids))
        boots = ((w, pids[w], self._reader.boot_ns(ring, pids[w])) for w, ring in epoch.rings if w in pids)
        return [
            ProcessUsage(pid, stamp_ns * NANO, worker, boot_cpu_seconds=boot_ns * NANO)
            for worker, pid, boot_ns in boots
            if boot_ns is not None
        ]

    def take(self) -> wire.ReportRequest:
        """Return a report of what was read since the last call: begins and ends of epochs, batches, loads."""
        report, self._report = self._report, wire.ReportRequest()
        return report

    def begin(self, epoch: OpenEpoch, head: int) -> None:
        """Open an epoch whose batches start at ``head``; end one that is still open as abandoned."""
        if self._open is not None:
            self.end(self._open.number, head, False, 0.0, epoch.start_ns)
        self._skip_to(head)
        self._reported_boots = set()
        self._open, epoch.first = epoch, head
        begin = wire.epoch_begin(
            epoch=epoch.number,
            stamp_seconds=epoch.start_ns * NANO,
            settings=epoch.settings,
            iter_seconds=epoch.iter_seconds,
        )
        if begin is not None:
            self._report.begins.append(begin)

    def end(self, number: int, head: int, complete: bool, teardown_seconds: float, stamp_ns: int) -> bool:
        """Close the open epoch, whose batches end exactly at ``head``.

        Args:
            number: Number of the epoch.
            head: Count of batches at its end.
            complete: False if it was abandoned.
            teardown_seconds: Duration of the call that ended it.
            stamp_ns: When that call returned.

        Returns:
            False if epoch ``number`` is not the open one.
        """
        epoch = self._open
        if epoch is None or epoch.number != number:
            return False
        self._read_batches(epoch, head)
        self._read_loads(epoch, self._reader.worker_heads(), stamp_ns)
        self._flush_last(epoch, stamp_ns - int(teardown_seconds / NANO))
        self._read_device(epoch, self._reader.device_head())
        self._ended_boots += self._boots(epoch, stamp_ns)
        self._open, self._closed = None, epoch
        end = wire.epoch_end(
            epoch=number,
            stamp_seconds=stamp_ns * NANO,
            batches=epoch.batches + epoch.missed,
            complete=complete,
            teardown_seconds=teardown_seconds,
        )
        if end is not None:
            self._report.ends.append(end)
        return True

    def note_heads(self) -> None:
        """Read the heads of the rings; call it *before* reading the packets that have arrived.

        The packet that begins an epoch is sent before its first batch is stored: what `poll` then reads
        belongs to the epoch that is open after those packets.
        """
        if STORES_ARE_ORDERED:
            self._read_heads()

    def poll(self) -> float:
        """Read up to the heads of `note_heads`; return the fill of the fullest ring, over 1 if it overran."""
        head, worker_heads, device_head = self._head, self._worker_heads, self._device_head
        if not STORES_ARE_ORDERED:
            self._read_heads()
        if self._open is None:
            # The packet that begins their epoch has not arrived.
            return 0.0
        self._read_device(self._open, device_head)
        main = self._read_batches(self._open, head) / MAIN_SLOTS
        return max(main, self._read_loads(self._open, worker_heads) / WORKER_SLOTS)

    def finish(self, now_ns: int) -> None:
        """Read the last timings of a trainer that has ended; its open epoch ends as abandoned."""
        if self._open is not None:
            self.end(self._open.number, self._reader.head(), False, 0.0, now_ns)

    def _skip_to(self, head: int) -> None:
        # Batches between two epochs: the packet that ended the first or began the second was lost.
        self._reader.overrun += len(self._reader.columns(head).enter_ns)

    def _read_batches(self, epoch: OpenEpoch, until: int) -> int:
        before = self._reader.position
        columns = self._reader.columns(until)
        if not columns.enter_ns:
            return 0
        missed = columns.first - before
        if missed:
            self._drop_last(epoch)
            epoch.missed += missed
        enters, exits, ready = columns.enter_ns, columns.exit_ns, columns.ready
        if epoch.last is not None:
            enters.insert(0, epoch.last[0])
            exits.insert(0, epoch.last[1])
            if ready or epoch.last[2] >= 0:
                ready = [epoch.last[2], *(ready or [-1] * (len(enters) - 1))]
        epoch.last = (enters[-1], exits[-1], ready[-1] if ready else -1)
        steps = _spans(exits, enters[1:])
        # The newest batch waits for the next poll: its step has not ended.
        waits = _spans(enters, exits[:-1])
        self._add_run(epoch, enters[0], waits, steps, ready[:-1])
        return until - before

    def _drop_last(self, epoch: OpenEpoch) -> None:
        # The batch after it was overwritten, and with it the end of its step.
        if epoch.last is not None:
            epoch.last = None
            epoch.missed += 1
            self._reader.overrun += 1

    def _flush_last(self, epoch: OpenEpoch, stamp_ns: int) -> None:
        if epoch.last is not None:
            enter_ns, exit_ns, ready = epoch.last
            waits, steps = [_span(enter_ns, exit_ns)], [_span(exit_ns, stamp_ns)]
            self._add_run(epoch, enter_ns, waits, steps, [ready] if ready >= 0 else [])
            epoch.last = None

    def _add_run(
        self, epoch: OpenEpoch, start_ns: int, waits: list[float], steps: list[float], ready: list[int]
    ) -> None:
        if not waits:
            return
        run = wire.batches(
            epoch=epoch.number,
            first=epoch.batches + epoch.missed,
            start_seconds=start_ns * NANO,
            wait_seconds=waits,
            step_seconds=steps,
            ready=ready,
        )
        if run is None:
            epoch.missed += len(waits)
            self._reader.overrun += len(waits)
        else:
            epoch.batches += len(waits)
            self._report.batches.append(run)

    def _read_loads(self, epoch: OpenEpoch, heads: Sequence[int], end_ns: int | None = None) -> int:
        longest = 0
        for worker, ring in epoch.rings:
            words = self._early.pop(ring, []) + self._reader.load_words(ring, heads[ring])
            if end_ns is not None and words and words[-WORKER_WORDS] > end_ns:
                words, self._early[ring] = _split(words, end_ns)
            if words:
                longest = max(longest, len(words) // WORKER_WORDS)
                self._add_loads(epoch, worker, words)
        return longest

    def _read_heads(self) -> None:
        reader = self._reader
        self._head, self._worker_heads = reader.head(), reader.worker_heads()
        self._device_head = reader.device_head()

    def _read_device(self, epoch: OpenEpoch, until: int) -> None:
        """Read sampled steps; the device may finish an epoch's last steps after the next epoch has begun."""
        steps = self._reader.device_steps(until)
        for owner, end in ((self._closed, epoch.first), (epoch, math.inf)):
            rows = [step for step in steps if owner is not None and owner.first <= step.batch < end]
            if owner is not None and rows:
                self._add_device_steps(owner, rows)

    def _add_loads(self, epoch: OpenEpoch, worker: int, words: list[int]) -> None:
        starts = words[::WORKER_WORDS]
        # A persistent worker started these before this epoch's iter(): they belong to the epoch before.
        earlier = bisect_left(starts, epoch.start_ns)
        if earlier and self._closed is not None:
            self._add_worker_loads(self._closed.number, worker, words[: earlier * WORKER_WORDS])
        if earlier < len(starts):
            self._add_worker_loads(epoch.number, worker, words[earlier * WORKER_WORDS :])

    def _add_worker_loads(self, epoch: int, worker: int, words: list[int]) -> None:
        starts, ends, cpus, delays, sizes, tensors, pids = (words[at::WORKER_WORDS] for at in range(7))
        loads = wire.worker_loads(
            epoch=epoch,
            worker=worker,
            pid=max(0, pids[-1]),
            start_seconds=[start * NANO for start in starts],
            load_seconds=_spans(starts, ends),
            cpu_seconds=_not_negative([cpu * NANO for cpu in cpus]),
            run_delay_seconds=_not_negative([delay * NANO for delay in delays]),
            batch_bytes=sizes,
            batch_tensors=tensors,
        )
        if loads is None:
            self._reader.worker_overrun += len(starts)
        else:
            self._report.loads.append(loads)

    def _add_device_steps(self, epoch: OpenEpoch, rows: list[DeviceTiming]) -> None:
        steps = wire.device_steps(
            epoch=epoch.number,
            batch=[row.batch - epoch.first for row in rows],
            idle_seconds=_not_negative([row.idle_ns * NANO for row in rows]),
            busy_seconds=_not_negative([row.busy_ns * NANO for row in rows]),
        )
        if steps is not None:
            self._report.device_steps.append(steps)


def open_epoch(
    number: int,
    settings: LoaderSettings,
    iter_seconds: float,
    worker_pids: Sequence[int],
    first_worker_ring: int,
    stamp_ns: int,
    thread_id: int = 0,
) -> OpenEpoch:
    """Return an epoch whose ``iter()`` returned at ``stamp_ns`` in the thread ``thread_id``, 0 if unknown."""
    # At num_workers=0 the main process loads and counts as worker 0.
    rings = rings_of(first_worker_ring, max(1, settings.num_workers)) if first_worker_ring >= 0 else ()
    return OpenEpoch(
        number=number,
        settings=settings,
        start_ns=stamp_ns - int(iter_seconds / NANO),
        iter_seconds=iter_seconds,
        worker_pids=tuple(worker_pids),
        rings=tuple(rings),
        thread_id=thread_id,
    )


def _split(words: list[int], at_ns: int) -> tuple[list[int], list[int]]:
    at = bisect_left(words[::WORKER_WORDS], at_ns) * WORKER_WORDS
    return words[:at], words[at:]


def _span(start_ns: int, end_ns: int) -> float:
    return max(0.0, (end_ns - start_ns) * NANO)


def _spans(starts_ns: Sequence[int], ends_ns: Sequence[int]) -> list[float]:
    """Return the seconds from each start to its end, as many as the shorter list has."""
    return _not_negative([(end - start) * NANO for start, end in zip(starts_ns, ends_ns, strict=False)])


def _not_negative(seconds: list[float]) -> list[float]:
    # The clock of a virtual machine can jump back. Two passes in C are cheaper than a test of each value.
    return seconds if not seconds or min(seconds) >= 0 else [max(0.0, value) for value in seconds]
