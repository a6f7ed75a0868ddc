"""The shared memory between a training loop, its DataLoader workers and the relay.

One ring file per loader, a ``memfd`` allocated in full: a sparse file on a full tmpfs is a SIGBUS at the
first store. Everything is little words of 64 bits, one writer for each, no lock and no system call:

    header   [0] magic and layout version  [1] main head: batches stored so far by the loop
             [2] worker rings  [3] slots of a worker ring  [4] slots of the main ring
             [5] number of the next batch to read, kept by the relay for one that replaces it
    main     MAIN_SLOTS x (enter_ns, exit_ns)             written by the loop at each batch
    ready    MAIN_SLOTS x (((n + 1) << 16) | ready batches)   written by the loop after a long wait only
    workers  WORKER_RINGS x (head, pid, boot_ns, 4 spare words, next to read, WORKER_SLOTS x 8 words) written
             by one worker each, but for "next to read", which the relay keeps as [5] above; boot_ns is the
             CPU time of its process before its first load, 0 until then
    device   DEVICE_HEADER_WORDS (head, 1 once CUDA is initialised, next to read, UUID of the device in two
             words, 3 spare), then DEVICE_SLOTS x (batch, idle_ns, busy_ns, spare)  written by the loop, but
             for "next to read", which the relay keeps

Batch ``n`` (counted over the life of the loader) is in main slot ``n % MAIN_SLOTS``. A worker writes to
ring ``(first + worker_id) % WORKER_RINGS``, ``first`` being drawn anew for each iterator, so that two live
iterators of one loader never share one. A ring's head counts over all its successive workers.

Stores may reach another core unordered (ARM), so a reader trusts only what was below the head at its
*previous* poll, or what a socket message (a barrier) vouched for.

Stamps are ``time.perf_counter_ns()``, which on Linux is CLOCK_MONOTONIC: one clock for all processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from collections.abc import Iterator
from typing import NamedTuple

MAGIC = 0x4657_5249_4E47_0002
"""``FWRING`` and the layout's version; another version is refused by the reader."""
HEADER_WORDS = 8
MAIN_SLOTS = 8192
"""At 1,000 batches/s eight seconds, so that a relay polling each second can miss several polls."""
MAIN_WORDS = 2
WORKER_RINGS = 128
WORKER_SLOTS = 512
WORKER_HEADER_WORDS = 8
WORKER_WORDS = 8
WORKER_STRIDE = WORKER_HEADER_WORDS + WORKER_SLOTS * WORKER_WORDS
MAIN_AT = HEADER_WORDS
READY_AT = MAIN_AT + MAIN_SLOTS * MAIN_WORDS
WORKERS_AT = READY_AT + MAIN_SLOTS
DEVICE_AT = WORKERS_AT + WORKER_RINGS * WORKER_STRIDE
DEVICE_HEADER_WORDS = 8
DEVICE_SLOTS = 1024
"""One step in 16 at 1,000 batches/s fills them in 16 s; the relay polls each second."""
DEVICE_WORDS = 4
WORDS = DEVICE_AT + DEVICE_HEADER_WORDS + DEVICE_SLOTS * DEVICE_WORDS
SIZE_BYTES = WORDS * 8
"""4.5 MB."""
HEAD_MASK = (1 << 48) - 1
"""Bits of a head that are used: 8,900 years at 1,000 batches/s. Whoever can write the memory can write any
number, and one batch more than 2^63 - 1 is an error."""
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
"""Nobody can truncate the memory: a store beyond the end of the file is a SIGBUS."""


class BatchTiming(NamedTuple):
    """One batch as the loop saw it."""

    enter_ns: int
    exit_ns: int
    ready: int
    """Batches ready in the main process after the wait; -1 where not read."""


class BatchColumns(NamedTuple):
    """Consecutive batches as the loop saw them, one list per quantity."""

    first: int
    """Number of the first one, over the life of the loader."""
    enter_ns: list[int]
    exit_ns: list[int]
    ready: list[int]
    """-1 where not read; empty where read for none."""


class DeviceTiming(NamedTuple):
    """One sampled step as the accelerator saw it."""

    batch: int
    """Number of the batch, over the life of the loader."""
    idle_ns: int
    busy_ns: int


class LoadTiming(NamedTuple):
    """One batch as the worker that made it saw it."""

    start_ns: int
    end_ns: int
    cpu_ns: int
    run_delay_ns: int
    batch_bytes: int
    batch_tensors: int
    pid: int
    spare: int


def create() -> tuple[int, memoryview]:
    """Return a new ring: its memfd and its words, all zero but the header.

    Raises:
        OSError: No memory for all of it, or no ``memfd_create`` on this system.
    """
    fd = os.memfd_create("feedwater", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(fd, 0, SIZE_BYTES)
        with contextlib.suppress(OSError):  # A kernel or sandbox without seals: measured all the same.
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
        words = _map(fd)
    except BaseException:
        os.close(fd)
        raise
    words[0], words[2], words[3], words[4] = MAGIC, WORKER_RINGS, WORKER_SLOTS, MAIN_SLOTS
    return fd, words


def empty() -> memoryview:
    """Return the words of a ring that nobody stores into: pages that are only read take no memory."""
    return memoryview(mmap.mmap(-1, SIZE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)).cast("q")


def attach(path: str) -> memoryview:
    """Return the words of the ring at ``path``, as ``/proc/<pid>/fd/<n>``.

    Raises:
        OSError: It is gone, or another user's.
        ValueError: It is no ring of this layout.
    """
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_size < SIZE_BYTES:
            raise ValueError(
                f"{path}: not a feedwater ring: {os.fstat(fd).st_size} bytes, expected {SIZE_BYTES}"
            )
        words = _map(fd)
    finally:
        os.close(fd)
    if words[0] != MAGIC:
        raise ValueError(
            f"{path}: not a feedwater ring of this version: magic {words[0]:#x}, expected {MAGIC:#x}"
        )
    return words


def _map(fd: int) -> memoryview:
    return memoryview(mmap.mmap(fd, SIZE_BYTES)).cast("q")


class RingReader:
    """Reads what a loop and its workers store, each batch once."""

    def __init__(self, words: memoryview) -> None:
        self._words = words
        self._next = 0
        self._worker_next = [0] * WORKER_RINGS
        self._device_next = 0
        self.overrun = 0
        """Batches overwritten in the main ring before they were read."""
        self.worker_overrun = 0
        """Batches overwritten in worker rings before they were read."""

    @property
    def position(self) -> int:
        """The number of the next batch to read."""
        return self._next

    def head(self) -> int:
        """Return how many batches the loop has stored."""
        return int(self._words[1]) & HEAD_MASK

    def worker_heads(self) -> list[int]:
        """Return how many batches were stored in each worker ring."""
        return [head & HEAD_MASK for head in self._words[WORKERS_AT:DEVICE_AT:WORKER_STRIDE].tolist()]

    def boot_ns(self, ring: int, pid: int) -> int | None:
        """Return the CPU time of the process ``pid`` before its first load; None where that is not known."""
        base = WORKERS_AT + ring * WORKER_STRIDE
        found = int(self._words[base + 2])
        # Read after: the next worker of this ring clears it before it writes its pid.
        return found if found > 0 and int(self._words[base + 1]) == pid else None

    def device_head(self) -> int:
        """Return how many steps of the device were stored."""
        return int(self._words[DEVICE_AT]) & HEAD_MASK

    @property
    def uses_cuda(self) -> bool:
        """The trainer has initialised CUDA."""
        return bool(self._words[DEVICE_AT + 1])

    @property
    def device_uuid(self) -> str:
        """The device that the loop runs on, as NVML calls it; empty where unknown."""
        high, low = (int(word) & 0xFFFF_FFFF_FFFF_FFFF for word in self._words[DEVICE_AT + 3 : DEVICE_AT + 5])
        digits = f"{high << 64 | low:032x}"
        groups = (digits[at:end] for at, end in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))
        return f"GPU-{'-'.join(groups)}" if high or low else ""

    def resume(self) -> None:
        """Go on where the reader before this one stopped: its relay died, the loop did not."""
        self._next = max(0, min(int(self._words[5]), self.head()))
        read = (int(self._words[_read_at(ring)]) for ring in range(WORKER_RINGS))
        self._worker_next = [max(0, min(*pair)) for pair in zip(read, self.worker_heads(), strict=True)]
        self._device_next = max(0, min(int(self._words[DEVICE_AT + 2]), self.device_head()))

    def batches(self, until: int) -> list[BatchTiming]:
        """Return the batches from `position` up to number ``until``, and move on.

        What the loop overwrote meanwhile is left out and counted in `overrun`.
        """
        columns = self.columns(until)
        ready = columns.ready or [-1] * len(columns.enter_ns)
        return [BatchTiming(*row) for row in zip(columns.enter_ns, columns.exit_ns, ready, strict=True)]

    def columns(self, until: int) -> BatchColumns:
        """Return what `batches` returns as columns: a tenth of the CPU time.

        The values are copied first and the head read after, so that a torn slot is never returned.
        """
        if until <= self._next:
            return BatchColumns(self._next, [], [], [])
        first = max(self._next, until - MAIN_SLOTS)
        flat: list[int] = []
        ready: list[int] = []
        for start, end in _spans(first, until, MAIN_SLOTS):
            flat += self._words[MAIN_AT + start * MAIN_WORDS : MAIN_AT + end * MAIN_WORDS].tolist()
            ready += self._words[READY_AT + start : READY_AT + end].tolist()
        # The slot being written now is that of batch `head`: one more is unsafe.
        lost = max(0, min(self.head() - MAIN_SLOTS + 1, until) - first)
        self.overrun += first + lost - self._next
        self._next = self._words[5] = until
        first += lost
        return BatchColumns(
            first,
            flat[lost * MAIN_WORDS :: MAIN_WORDS],
            flat[lost * MAIN_WORDS + 1 :: MAIN_WORDS],
            _ready(ready[lost:], first),
        )

    def loads(self, ring: int, until: int) -> list[LoadTiming]:
        """Return the batches of one worker ring up to number ``until``, and move on."""
        flat = self.load_words(ring, until)
        return [LoadTiming(*flat[at : at + WORKER_WORDS]) for at in range(0, len(flat), WORKER_WORDS)]

    def load_words(self, ring: int, until: int) -> list[int]:
        """Return what `loads` returns as one flat list, `WORKER_WORDS` words for each batch."""
        words, before = self._words, self._worker_next[ring]
        if until <= before:
            return []
        base = WORKERS_AT + ring * WORKER_STRIDE
        slots = base + WORKER_HEADER_WORDS
        first = max(before, until - WORKER_SLOTS)
        flat: list[int] = []
        for start, end in _spans(first, until, WORKER_SLOTS):
            flat += words[slots + start * WORKER_WORDS : slots + end * WORKER_WORDS].tolist()
        lost = max(0, min((int(words[base]) & HEAD_MASK) - WORKER_SLOTS + 1, until) - first)
        self.worker_overrun += first + lost - before
        self._worker_next[ring] = words[_read_at(ring)] = until
        return flat[lost * WORKER_WORDS :]

    def device_steps(self, until: int) -> list[DeviceTiming]:
        """Return the device's steps up to number ``until``, and move on.

        What was overwritten is left out and not counted: these are samples, and fewer of them do no harm.
        """
        if until <= self._device_next:
            return []
        first = max(self._device_next, until - DEVICE_SLOTS)
        slots = DEVICE_AT + DEVICE_HEADER_WORDS
        flat: list[int] = []
        for start, end in _spans(first, until, DEVICE_SLOTS):
            flat += self._words[slots + start * DEVICE_WORDS : slots + end * DEVICE_WORDS].tolist()
        lost = max(0, min(self.device_head() - DEVICE_SLOTS + 1, until) - first)
        self._device_next = self._words[DEVICE_AT + 2] = until
        return [
            DeviceTiming(*flat[at : at + 3]) for at in range(lost * DEVICE_WORDS, len(flat), DEVICE_WORDS)
        ]


class DeviceWriter:
    """Stores what the loop learns of its device."""

    def __init__(self, words: memoryview) -> None:
        self._words = words

    def uses_cuda(self, device_uuid: int = 0) -> None:
        """Say that CUDA is initialised, and the device's UUID; 0 where that is unknown."""
        for offset, half in ((3, device_uuid >> 64), (4, device_uuid & 0xFFFF_FFFF_FFFF_FFFF)):
            # The ring's words are signed.
            self._words[DEVICE_AT + offset] = half - (1 << 64) if half >> 63 else half
        self._words[DEVICE_AT + 1] = 1

    def store(self, step: DeviceTiming) -> None:
        """Store a step."""
        head = self._words[DEVICE_AT] & HEAD_MASK
        at = DEVICE_AT + DEVICE_HEADER_WORDS + head % DEVICE_SLOTS * DEVICE_WORDS
        self._words[at], self._words[at + 1], self._words[at + 2] = step
        self._words[DEVICE_AT] = head + 1


def _read_at(ring: int) -> int:
    return WORKERS_AT + ring * WORKER_STRIDE + WORKER_HEADER_WORDS - 1


def _spans(first: int, until: int, slots: int) -> Iterator[tuple[int, int]]:
    """Yield the slots of batches ``first`` to ``until`` as one or two contiguous spans."""
    start, count = first % slots, until - first
    yield start, min(start + count, slots)
    if start + count > slots:
        yield 0, start + count - slots


def _ready(words: list[int], first: int) -> list[int]:
    # A word tells its batch: zero before the first store would otherwise read as "batch 0, 0 ready".
    if not words or max(words) < (first + 1) << 16:
        return []
    ready = [(word & 0xFFFF) if (word >> 16) == n else -1 for n, word in enumerate(words, first + 1)]
    return ready if max(ready) >= 0 else []


def worker_ring_words(words: memoryview, ring: int) -> memoryview:
    """Return the words of one worker ring: head, pid, spare, then its slots."""
    at = WORKERS_AT + ring * WORKER_STRIDE
    return words[at : at + WORKER_STRIDE]


def rings_of(first: int, workers: int) -> Iterator[tuple[int, int]]:
    """Yield (worker id, ring) for the workers of an iterator whose first ring is ``first``."""
    for worker in range(min(workers, WORKER_RINGS)):
        yield worker, (first + worker) % WORKER_RINGS
