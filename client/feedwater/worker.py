"""What runs inside a DataLoader worker: times each batch and stores it in the worker's ring.

Also used by the main process, which loads by itself at ``num_workers=0``. What fails here ends the timing,
not the loading (`feedwater.guard`).

The words of a slot are those of `feedwater.ring.LoadTiming`. Its last word has bit 0 set where the run delay
is unknown (a kernel without ``schedstat``), since a missing signal is not a zero, and bit 1 where CPU time
and run delay are estimated from the loads before.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from struct import Struct
from time import perf_counter_ns, process_time_ns, thread_time_ns
from typing import Any, cast

from feedwater import guard, ring
from feedwater.descriptors import Descriptor

SIZED_ALWAYS = 8
"""Batches of a worker whose bytes are always measured: enough for a median on the first epoch."""
SIZED_EVERY = 16
"""After that one batch in this many: walking a batch of 100 tensors costs 60 µs."""
MAX_ITEMS = 4096
"""Parts of a batch looked at; more are not counted, so that a list of a million numbers costs no second."""
MAX_BYTES = 1 << 53
"""Most bytes of a batch, 9 PB: the largest count that a double, and with it JSON, holds exactly."""
NO_RUN_DELAY = 1
ESTIMATED = 2
SPLIT_NS = 5_000_000
"""How often CPU time and run delay are read at most; between, they are estimated, only wall time is read.
Reading costs 8 to 13 µs a load beside real work (two CPU clocks, two files of ``/proc``): more than a percent
of a core at 1,000 batches/s. Loads of 5 ms and more are all read."""
SMOOTHING = 1 / 8
"""Weight of the newest reading in the estimate: enough readings to outlive one burst of run delay."""

InitFn = Callable[[int], None]
_STORE = Struct(f"@{ring.WORKER_WORDS}q").pack_into


class Slots:
    """One worker's ring, written by one thread."""

    def __init__(self, words: memoryview, number: int) -> None:
        self._words = ring.worker_ring_words(words, number)
        self._head = self._words[0]
        self._seen = 0
        self._pid = os.getpid()
        self._words[2] = 0
        self._words[1] = self._pid
        self._is_new = True
        self._delay_fd = _open_run_delay()
        self._delay_file = Descriptor.of(self._delay_fd) if self._delay_fd >= 0 else None
        self._flags = NO_RUN_DELAY if self._delay_fd < 0 else 0
        self._start_ns = self._start_cpu_ns = self._start_delay_ns = 0
        self._split_due_ns = 0
        self._is_splitting = False
        self._cpu_ns = self._delay_share = 0.0

    def begin(self, index: object = None) -> None:
        """Note that a load begins; ``index`` is what the fetcher is asked for."""
        if self._is_new:
            # What starting up and the user's worker_init_fn took: no part of any load.
            self._is_new = False
            self._words[2] = process_time_ns()
        self._start_ns = now = perf_counter_ns()
        self._is_splitting = now >= self._split_due_ns
        if self._is_splitting:
            self._split_due_ns = now + SPLIT_NS
            self._start_cpu_ns = thread_time_ns()
            self._start_delay_ns = self.run_delay_ns()

    def store(self, batch: object) -> int:
        """Store the load that began, which made ``batch``; return its wall time in nanoseconds."""
        end_ns = perf_counter_ns()
        load_ns = end_ns - self._start_ns
        cpu_ns, delay_ns = self._split(load_ns) if self._is_splitting else self._estimate(load_ns)
        size_bytes, tensors = self._size(batch)
        flags = self._flags if self._is_splitting else self._flags | ESTIMATED
        words, head = self._words, self._head
        at = 8 * (ring.WORKER_HEADER_WORDS + head % ring.WORKER_SLOTS * ring.WORKER_WORDS)
        _STORE(words, at, self._start_ns, end_ns, cpu_ns, delay_ns, size_bytes, tensors, self._pid, flags)
        self._head = words[0] = head + 1
        return load_ns

    def _split(self, load_ns: int) -> tuple[int, int]:
        # Read after the load's end stamp, so what the reading itself took is cut off.
        cpu_ns = min(load_ns, thread_time_ns() - self._start_cpu_ns)
        excess_ns = load_ns - cpu_ns
        delay_ns = min(excess_ns, max(0, self.run_delay_ns() - self._start_delay_ns))
        weight = SMOOTHING if self._seen else 1.0
        self._cpu_ns += (cpu_ns - self._cpu_ns) * weight
        if excess_ns > 0:
            self._delay_share += (min(1.0, delay_ns / excess_ns) - self._delay_share) * weight
        return cpu_ns, delay_ns

    def _estimate(self, load_ns: int) -> tuple[int, int]:
        # The same work takes the same CPU time; what is beyond it was waited for, in the usual proportion.
        cpu_ns = min(load_ns, int(self._cpu_ns))
        return cpu_ns, int((load_ns - cpu_ns) * self._delay_share)

    def _size(self, batch: object) -> tuple[int, int]:
        self._seen += 1
        if self._seen > SIZED_ALWAYS and self._seen % SIZED_EVERY:
            return 0, 0
        return measure(batch)

    def run_delay_ns(self) -> int:
        """Return how long the thread that made this was runnable but did not run, throttling included."""
        if self._delay_fd < 0:
            return 0
        try:
            # "run_ns delay_ns timeslices"; 0.8 µs.
            return int(os.pread(self._delay_fd, 64, 0).split()[1])
        except (OSError, ValueError, IndexError):
            return 0

    def close(self) -> None:
        """Give the file descriptor back."""
        if self._delay_file is not None:
            self._delay_file.close()
        self._delay_file, self._delay_fd = None, -1


def _open_run_delay() -> int:
    try:
        return os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def measure(batch: object) -> tuple[int, int]:
    """Return the bytes of a batch's tensors and arrays, and how many tensors it has; 0, 0 where unknown."""
    try:
        size_bytes, tensors = _measure(batch)
        # Into what a word of the ring holds: an expanded tensor of one element can claim 2^63 bytes.
        return max(0, min(MAX_BYTES, size_bytes)), tensors
    except Exception:  # A batch can be anything; its size is not worth an error in loading.
        return 0, 0


def _measure(batch: object) -> tuple[int, int]:
    torch = sys.modules.get("torch")
    tensor_type: type = torch.Tensor if torch is not None else type(None)
    size_bytes = tensors = looked_at = 0
    parts: list[object] = [batch]
    while parts and looked_at < MAX_ITEMS:
        part = parts.pop()
        looked_at += 1
        if isinstance(part, tensor_type):
            tensors += 1
            size_bytes += cast(Any, part).nbytes
        elif isinstance(part, (bytes, bytearray, str)):
            size_bytes += len(part)
        elif isinstance(part, Mapping):
            parts.extend(part.values())
        elif isinstance(part, (list, tuple)):
            parts.extend(part[:MAX_ITEMS])
        elif hasattr(part, "nbytes"):
            size_bytes += int(part.nbytes)
        elif hasattr(part, "__dict__"):
            parts.extend(vars(part).values())
    return size_bytes, tensors


class WorkerInit:
    """A ``worker_init_fn`` that calls the user's, then sees to it that the worker's fetches are timed.

    Picklable, for spawn and forkserver. A fork alone would inherit the mapping, but one way for all three is
    one way to test.
    """

    def __init__(self, init: InitFn | None, ring_path: str, first_ring: int) -> None:
        self.init = init
        self.ring_path = ring_path
        """``/proc/<trainer>/fd/<n>``."""
        self.first_ring = first_ring

    def __call__(self, worker_id: int) -> None:
        """Run the user's function, whose errors are the user's, and then ours, which has none."""
        if self.init is not None:
            self.init(worker_id)
        if worker_id >= ring.WORKER_RINGS:
            return
        with guard.swallow("timing a worker"):  # A worker that cannot be timed loads all the same.
            _time_fetches(self.ring_path, (self.first_ring + worker_id) % ring.WORKER_RINGS)


def _time_fetches(ring_path: str, number: int) -> None:
    from torch.utils.data import _DatasetKind, get_worker_info

    info = get_worker_info()
    if info is not None:
        guard.report_with(guard.report_quietly)
    slots = Slots(ring.attach(ring_path), number)
    create = cast(Any, _DatasetKind).create_fetcher
    classes: dict[type, type] = {}

    def create_fetcher(kind: object, dataset: object, *rest: object) -> object:
        fetcher = create(kind, dataset, *rest)
        # A loader nested in the worker has another dataset, and is nobody's business.
        if info is not None and dataset is info.dataset:
            with guard.swallow("timing a worker"):
                switch(fetcher)
        return fetcher

    def switch(fetcher: object) -> None:
        plain = type(fetcher)
        if plain not in classes:
            classes[plain] = guard.timed_class(plain, slots.begin, slots.store)
        fetcher.__class__ = classes[plain]

    cast(Any, _DatasetKind).create_fetcher = staticmethod(create_fetcher)
