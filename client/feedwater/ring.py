"""The shared memory between a training loop, its DataLoader workers and the relay.

One ring file per loader, a ``memfd`` allocated in full: a sparse file on a full tmpfs is a SIGBUS at the first
store. Everything is little words of 64 bits, one writer for each, no lock and no system call:

    header   [0] magic and layout version  [1] main head: batches stored so far by the loop
             [2] worker rings  [3] slots of a worker ring  [4] slots of the main ring
    main     MAIN_SLOTS x (enter_ns, exit_ns)             written by the loop at each batch
    ready    MAIN_SLOTS x (((n + 1) << 16) | ready batches)   written by the loop after a long wait only
    workers  WORKER_RINGS x (head, pid, 6 spare words, WORKER_SLOTS x 8 words) written by one worker each

Batch ``n`` (counted over the life of the loader) is in main slot ``n % MAIN_SLOTS``. A worker writes to ring
``(first + worker_id) % WORKER_RINGS``, ``first`` being drawn anew for each iterator, so that two live iterators
of one loader never share one. A ring's head counts over all its successive workers.

Stores may reach another core unordered (ARM), so a reader trusts only what was below the head at its *previous*
poll, or what a socket message (a barrier) vouched for.

Stamps are ``time.perf_counter_ns()``, which on Linux is CLOCK_MONOTONIC: one clock for all processes.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from typing import NamedTuple

MAGIC = 0x4657_5249_4E47_0001
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
WORDS = WORKERS_AT + WORKER_RINGS * WORKER_STRIDE
SIZE_BYTES = WORDS * 8
"""4.5 MB."""


class BatchTiming(NamedTuple):
    """One batch as the loop saw it."""

    enter_ns: int
    exit_ns: int
    ready: int
    """Batches ready in the main process after the wait; -1 where not read."""


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
    fd = os.memfd_create("feedwater", os.MFD_CLOEXEC)
    try:
        os.posix_fallocate(fd, 0, SIZE_BYTES)
        words = _map(fd)
    except BaseException:
        os.close(fd)
        raise
    words[0], words[2], words[3], words[4] = MAGIC, WORKER_RINGS, WORKER_SLOTS, MAIN_SLOTS
    return fd, words


def attach(path: str) -> memoryview:
    """Return the words of the ring at ``path``, as ``/proc/<pid>/fd/<n>``.

    Raises:
        OSError: It is gone, or another user's.
        ValueError: It is no ring of this layout.
    """
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_size < SIZE_BYTES:
            raise ValueError(f"{path}: not a feedwater ring: {os.fstat(fd).st_size} bytes, expected {SIZE_BYTES}")
        words = _map(fd)
    finally:
        os.close(fd)
    if words[0] != MAGIC:
        raise ValueError(f"{path}: not a feedwater ring of this version: magic {words[0]:#x}, expected {MAGIC:#x}")
    return words


def _map(fd: int) -> memoryview:
    return memoryview(mmap.mmap(fd, SIZE_BYTES)).cast("q")


class RingReader:
    """Reads what a loop and its workers store, each batch once."""

    def __init__(self, words: memoryview) -> None:
        self._words = words
        self._next = 0
        self._worker_next = [0] * WORKER_RINGS
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
        return int(self._words[1])

    def worker_heads(self) -> list[int]:
        """Return how many batches were stored in each worker ring."""
        return [int(self._words[WORKERS_AT + i * WORKER_STRIDE]) for i in range(WORKER_RINGS)]

    def batches(self, until: int) -> list[BatchTiming]:
        """Return the batches from `position` up to number ``until``, and move on.

        What the loop overwrote meanwhile is left out and counted in `overrun`: the values are copied first
        and the head read after, so that a torn slot is never returned.
        """
        words, first = self._words, self._next
        if until <= first:
            return []
        first = max(first, until - MAIN_SLOTS)
        copied: list[BatchTiming] = []
        for n in range(first, until):
            slot = n % MAIN_SLOTS
            at = MAIN_AT + slot * MAIN_WORDS
            ready = words[READY_AT + slot]
            # Word 0 of the array is zero before the first store, which would read as "batch 0, 0 ready".
            known = (ready >> 16) == n + 1
            copied.append(BatchTiming(words[at], words[at + 1], (ready & 0xFFFF) if known else -1))
        # The slot being written now is that of batch `head`: one more is unsafe.
        safe = self.head() - MAIN_SLOTS + 1
        lost = max(0, min(safe, until) - first)
        self.overrun += (first - self._next) + lost
        self._next = until
        return copied[lost:]

    def loads(self, ring: int, until: int) -> list[LoadTiming]:
        """Return the batches of one worker ring up to number ``until``, and move on."""
        words, first = self._words, self._worker_next[ring]
        if until <= first:
            return []
        base = WORKERS_AT + ring * WORKER_STRIDE
        copied_from = max(first, until - WORKER_SLOTS)
        copied = []
        for n in range(copied_from, until):
            at = base + WORKER_HEADER_WORDS + (n % WORKER_SLOTS) * WORKER_WORDS
            copied.append(LoadTiming(*words[at : at + WORKER_WORDS]))
        safe = int(words[base]) - WORKER_SLOTS + 1
        lost = max(0, min(safe, until) - copied_from)
        self.worker_overrun += (copied_from - first) + lost
        self._worker_next[ring] = until
        return copied[lost:]


def worker_ring_words(words: memoryview, ring: int) -> memoryview:
    """Return the words of one worker ring: head, pid, spare, then its slots."""
    at = WORKERS_AT + ring * WORKER_STRIDE
    return words[at : at + WORKER_STRIDE]


def rings_of(first: int, workers: int) -> Iterator[tuple[int, int]]:
    """Yield (worker id, ring) for the workers of an iterator whose first ring is ``first``."""
    for worker in range(min(workers, WORKER_RINGS)):
        yield worker, (first + worker) % WORKER_RINGS
