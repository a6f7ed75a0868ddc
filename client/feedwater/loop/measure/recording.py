"""The recording of one loader: the ring that its timings are stored in, and the epoch under way."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from feedwater import guard, ring
from feedwater.descriptors import Descriptor
from feedwater.loop.measure.device import DeviceSampler, Sums
from feedwater.loop.measure.main_process_timer import MainProcessLoads
from feedwater.loop.measure.probe import Probe
from feedwater.values import LoaderDescription, LoaderSettings, Transport


@dataclass(eq=False, kw_only=True)
class Recording:
    """The ring, the transport and the present epoch of one loader. Assigned in this module alone."""

    transport: Transport | None = None
    """None until the first iteration, and in a forked child."""
    key: int = -1
    """Identifies the loader to the transport."""
    ring_file: Descriptor | None = None
    """The ring's memfd; None as `words`."""
    words: memoryview | None = None
    """The ring; None while the loader has none."""
    device: DeviceSampler | None = None
    """None as `words`."""
    close_ring: Callable[[], object] | None = None
    """Closes the ring's descriptor; None as `words`."""
    head: int = 0
    """Batches stored by all iterators before the present one."""
    next_worker_ring: int = 0
    """First worker ring of the next iterator."""
    first_worker_ring: int = 0
    """First worker ring of the present iterator."""
    epoch: int = -1
    """The present epoch, or the last one; -1 before the first."""
    settings: LoaderSettings | None = None
    """The settings that the present epoch, or the last one, began with."""
    probe: Probe | None = None
    """Of the iterator in use; None between epochs."""
    iterator: weakref.ref[object] | None = None
    """The iterator in use, where it is PyTorch's."""
    ended_ns: int = 0
    """When the last epoch was closed, by ``perf_counter_ns``; 0 before the first."""
    is_endless: bool = False
    """The last iterator went on beyond the loader's length: its sampler is read for ever."""
    is_broken: bool = False
    """This loader is no longer measured, because of an error of ours or no memory for the ring."""
    main_process: MainProcessLoads = field(default_factory=MainProcessLoads)

    @property
    def uses_cuda(self) -> bool:
        """CUDA is initialised: host wait is then not starvation."""
        return self.device is not None and self.device.is_used

    @property
    def is_iterating(self) -> bool:
        """An epoch has begun and not ended."""
        return self.probe is not None

    @property
    def rests_since_ns(self) -> int | None:
        """When the last epoch ended, or its last batch came if it was not closed; None while one runs."""
        if self.probe is None:
            return self.ended_ns
        return self.probe.newest_exit_ns() if self.probe.next_batch >= self.probe.roll_over_at else None

    @contextmanager
    def guarded(self, where: str) -> Iterator[None]:
        """Catch and log an error of ours within the context, and measure no more of this loader after it.

        Args:
            where: What the context does, for the log: ``"the epoch boundary"``.
        """
        try:
            yield
        except Exception:
            self.is_broken = True
            guard.report(where)

    def stop(self) -> None:
        """Measure no more of this loader."""
        self.is_broken = True

    def connect(self, transport: Transport, key: int) -> None:
        """Use ``transport``, which identifies the loader by ``key``."""
        self.transport, self.key = transport, key

    def detach(self) -> None:
        """Forget the ring and the transport in a forked child, because its parent goes on using them."""
        self._release_iterator()
        self.probe, self.transport, self.is_broken = None, None, True

    def open_ring(self) -> None:
        """Make a ring.

        Raises:
            OSError: No memory for a ring, or no descriptor.
        """
        ring_fd, self.words = ring.create()
        self.ring_file = Descriptor.of(ring_fd)
        closing = weakref.finalize(self, _close_ring, self.ring_file, self.words)
        closing.atexit = False
        self.close_ring = closing
        self.head = self.next_worker_ring = self.first_worker_ring = 0
        self.device = DeviceSampler(self.words)

    def release_ring(self) -> None:
        """Close the ring; the next epoch gets a new one."""
        if self.close_ring is None:
            return
        self.tell_ring_released()
        self.close_ring()
        self.close_ring = self.words = self.device = self.ring_file = None

    def release_lost_ring(self) -> None:
        """Release the ring if its descriptor was closed by others: nobody can be given it any more."""
        if self.ring_file is not None and not self.ring_file.is_ours():
            self.release_ring()

    @property
    def ring_path(self) -> str:
        """Where workers find the ring; empty where there is none."""
        is_there = self.ring_file is not None and self.ring_file.is_ours()
        return f"/proc/{os.getpid()}/fd/{self.ring_file.fd}" if self.ring_file and is_there else ""

    def tell_ring_released(self) -> None:
        """Have the transport stop reading the ring, if there is one."""
        if self.transport is not None and self.close_ring is not None:
            self.transport.release_ring(self.key)

    def register(self, description: LoaderDescription) -> None:
        """Register the loader and its ring with the transport."""
        assert self.transport is not None
        assert self.ring_file is not None
        self.transport.register_loader(self.key, description, self.ring_file.fd)

    def take_worker_rings(self, workers: int) -> None:
        """Choose worker rings for the next iterator that no other live iterator uses."""
        self.first_worker_ring = self.next_worker_ring
        self.next_worker_ring = (self.next_worker_ring + max(1, workers)) % ring.WORKER_RINGS

    def begin_epoch(
        self,
        head: int,
        settings: LoaderSettings | None,
        iter_seconds: float = 0.0,
        worker_pids: Sequence[int] = (),
    ) -> None:
        """Begin an epoch at batch ``head``, with ``settings`` or, where None, those of the epoch before."""
        assert self.transport is not None
        self.epoch += 1
        self.settings = settings = settings or self.settings or LoaderSettings(0)
        self.transport.begin_epoch(
            self.key, self.epoch, settings, iter_seconds, worker_pids, self.first_worker_ring, head
        )

    def attach(self, probe: Probe, iterator: weakref.ref[object] | None, batches: int | None) -> None:
        """Use ``probe`` for the present iterator, and sample its steps on the device.

        Args:
            probe: Of the iterator.
            iterator: None where it is not PyTorch's.
            batches: How many the epoch will have; None where unknown.
        """
        self.probe, self.iterator = probe, iterator
        if self.device is not None:
            probe.device = self.device
            self.device.begin(probe, batches)

    def take_device_sums(self) -> Sums:
        """Return the sums of the device's samples since the last call."""
        return self.device.take_sums() if self.device is not None else Sums()

    def end_epoch(self, complete: bool, teardown_ns: int, stamp_ns: int) -> None:
        """End the present epoch at ``stamp_ns``, after a last ``next()`` that took ``teardown_ns``."""
        assert self.transport is not None
        self.ended_ns = stamp_ns
        self.transport.end_epoch(self.key, self.epoch, self.head, complete, teardown_ns / 1e9, stamp_ns)

    def store_head(self, probe: Probe) -> None:
        """Keep the number of batches that ``probe`` has stored."""
        self.head = probe.head

    def note_endless(self) -> None:
        """Keep that the iterator went on beyond the loader's length."""
        self.is_endless = True

    def release_probe(self, probe: Probe) -> None:
        """Stop using ``probe``: the iterator's next batches are not measured."""
        self._release_iterator()
        probe.close()
        if self.device is not None:
            self.device.stop()
        self.probe = self.iterator = None

    def note_collected(self, probe: Probe) -> None:
        """Keep that the iterator of ``probe`` was deleted."""
        if self.probe is probe:
            self.iterator = None

    def _release_iterator(self) -> None:
        iterator = self.iterator() if self.iterator is not None else None
        if iterator is not None:
            iterator._feedwater_probe = None  # type: ignore[attr-defined]


_unmappable: list[memoryview] = []


def _close_ring(ring_file: Descriptor, words: memoryview) -> None:
    """Close a ring's descriptor. Where others closed it, keep its mapping for the rest of the process.

    Python's ``mmap`` has a duplicate of the descriptor, which it closes by number: that is another's then.
    """
    with guard.swallow("closing a ring"):
        if not ring_file.close():
            _unmappable.append(words)
