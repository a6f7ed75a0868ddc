"""Measured costs of PyTorch, Python and Linux, in seconds and bytes; they differ between machines.

Measured on two cores of an AMD EPYC with PyTorch 2.13 to 2.15 and Python 3.11, unless a line says otherwise.
``tests/benchmarks/costs.py`` measures them again. They stand in where a trace does not show its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

FORK_CPU_SECONDS: Final = 0.014
"""Per worker, in the main process, within ``iter()``: 11 to 19 ms for fork with torch loaded."""
BOOT_CPU_SECONDS: Final[Mapping[str, float]] = MappingProxyType(
    {"fork": 0.016, "spawn": 1.1, "forkserver": 0.9}
)
"""CPU time of a worker before its first batch, by start method: spawn and forkserver import torch again."""
TEARDOWN_SECONDS: Final = 0.008
"""At the end of an epoch with workers, whatever their number."""
EXIT_CPU_SECONDS: Final = 0.0045
"""CPU time of each worker at the end of an epoch, to give its memory back: 4 to 6 ms."""

SEND_SECONDS: Final = 0.0003
"""In a worker, to hand over a batch of one tensor: 0.2 to 0.3 ms."""
RECEIVE_SECONDS: Final = 0.0009
"""In the main process, to take a batch of one tensor, two wake-ups included: 0.6 to 1.2 ms."""
RECEIVE_SECONDS_HOT: Final = 0.00035
"""The same in a loop that does nothing else: 0.37 ms at 1,000 batches/s."""
COLD_STEP_SECONDS: Final = 0.002
"""Length of a step after which caches and CPUs have cooled down, so that `RECEIVE_SECONDS` holds."""
EXTRA_TENSOR_SECONDS: Final = 0.00027
"""In the main process, for each tensor beyond the first: its descriptor is asked for and passed by itself."""
RECEIVE_MAIN_CPU_SHARE: Final = 0.55
"""Share of a reception that is CPU time of the main process, from the CPU times of both processes for batches
of 1 and of 20 tensors."""
RECEIVE_WORKER_CPU_SHARE: Final = 0.3
"""Share that is CPU time of the worker's thread that passes the descriptors. The rest is waking up."""
SHARE_SECONDS_PER_BYTE: Final = 0.8e-9
"""In a worker: fresh shared memory is filled with zeros, then written. Loads of 17 MB took 4 ms of CPU time
in the main process, 16 to 20 ms in a worker."""
UNMAP_SECONDS_PER_BYTE: Final = 0.25e-9
"""In the main process: to map those pages and to give them back."""
PIN_SECONDS_PER_BYTE: Final = 0.25e-9
"""To copy a batch to pinned memory that exists already: 4 GB/s for one thread."""
GIL_SWITCH_SECONDS: Final = 0.005
"""How long a computing thread keeps the interpreter lock from others.

Source: https://docs.python.org/3/library/sys.html#sys.getswitchinterval
"""

HELD_BATCHES: Final = 2
"""Batches that a loop usually holds: the current one, and the last one until its name is bound anew."""
PIDS_PER_WORKER: Final = 3
"""A worker, its thread that pickles batches and the one that passes their descriptors; ``pids.max`` counts
threads."""
FILES_PER_WORKER: Final = 6
"""Open files in the main process for each worker, at most: pipes of its index queue, and its sentinel. 3 to 4
with fork."""
FILES_OF_TRAINER: Final = 256
"""Open files left to the training itself. Assumed, not measured."""
FIRST_WORKER_BYTES: Final = 256 * 2**20
"""Memory that must be free for a first worker: what one with torch takes of its own where it copies
little."""
MIN_WORKER_BYTES: Final = 16 * 2**20
"""Memory that a worker is planned for at least: a forked one that did next to nothing took 11 MiB."""
