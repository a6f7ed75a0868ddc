"""What a worker measures."""

from __future__ import annotations

import os
import time
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from feedwater import ring
from feedwater.guard import timed_class
from feedwater.worker import MAX_BYTES, SIZED_ALWAYS, Slots, WorkerInit, measure

Pair = namedtuple("Pair", "image label")
FOUR = torch.zeros(4)  # 4 x 4 bytes


@dataclass
class Sample:
    image: Any


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (FOUR, (16, 1)),
        ([FOUR, FOUR], (32, 2)),
        ({"a": FOUR, "b": [FOUR, (FOUR,)]}, (48, 3)),
        (Pair(FOUR, 3), (16, 1)),
        (Sample(FOUR), (16, 1)),
        (b"12345", (5, 0)),
        (FOUR.numpy(), (16, 0)),
        (None, (0, 0)),
        (7, (0, 0)),
    ],
)
def test_bytes_and_tensors_of_a_batch(batch: Any, expected: tuple[int, int]) -> None:
    """Tensors, arrays and strings count, however nested."""
    assert measure(batch) == expected


def test_a_hostile_batch_is_unknown_and_an_endless_one_ends() -> None:
    """Errors in a batch's own code are 0, 0; a list that holds itself is left after 4,096 parts."""

    class Hostile:
        @property
        def nbytes(self) -> int:
            raise RuntimeError

    endless: list[Any] = []
    endless.append(endless)
    assert measure(Hostile()) == (0, 0)
    assert measure(endless) == (0, 0)


def test_slots_go_on_where_the_worker_before_left_off() -> None:
    """Two workers in turn on one ring: its head counts over both, each slot has its writer's pid."""
    _, words = ring.create()
    for _ in range(2):
        slots = Slots(words, 5)
        for _ in range(SIZED_ALWAYS + 1):
            slots.begin()
            slots.store(FOUR)
        slots.close()
    reader = ring.RingReader(words)
    loads = reader.loads(5, reader.worker_heads()[5])
    assert len(loads) == 2 * (SIZED_ALWAYS + 1)
    assert [load.batch_bytes for load in loads[: SIZED_ALWAYS + 1]] == [16] * SIZED_ALWAYS + [0]


def test_the_timed_class_calls_before_and_after() -> None:
    """A fetcher switched to it keeps its attributes; an error passes through with no call after."""

    class Fetcher:
        ended = False

        def fetch(self, index: int) -> int:
            return 10 // index

    calls: list[Any] = []
    fetcher: Any = Fetcher()
    fetcher.__class__ = timed_class(Fetcher, calls.append, calls.append)
    fetcher.ended = True
    assert fetcher.fetch(2) == 5
    with pytest.raises(ZeroDivisionError):
        fetcher.fetch(0)
    assert calls == [2, 5, 0]
    assert isinstance(fetcher, Fetcher)


def test_the_users_init_function_runs_first_and_its_errors_are_its_own() -> None:
    """Where the ring is gone nothing is raised; where the user's function raises, that is."""
    ran: list[int] = []
    WorkerInit(ran.append, "/proc/self/fd/999999", 0)(3)
    assert ran == [3]

    def failing(worker_id: int) -> None:
        raise LookupError(worker_id)

    with pytest.raises(LookupError):
        WorkerInit(failing, "/proc/self/fd/999999", 0)(0)


def test_cpu_time_before_the_first_load_is_stored_once() -> None:
    """What a process used until its first load began; the next worker of the ring starts at nothing."""
    _, words = ring.create()
    slots, reader = Slots(words, 5), ring.RingReader(words)
    assert reader.boot_ns(5, os.getpid()) is None
    before = time.process_time_ns()
    slots.begin()
    slots.store(FOUR)
    stored = reader.boot_ns(5, os.getpid())
    assert stored is not None
    assert before <= stored <= time.process_time_ns()
    slots.begin()
    assert reader.boot_ns(5, os.getpid()) == stored
    assert reader.boot_ns(5, os.getpid() + 1) is None
    slots.close()
    Slots(words, 5).close()
    assert reader.boot_ns(5, os.getpid()) is None


class Claiming:
    """A batch that claims a size that no machine has."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (torch.zeros(1).expand(1 << 31, 1 << 30), MAX_BYTES),  # 4 bytes of storage, 2^63 claimed
        (Claiming(1 << 200), MAX_BYTES),
        (Claiming(-5), 0),
    ],
)
def test_a_batch_of_any_claimed_size_is_stored(batch: Any, expected: int) -> None:
    """Sizes are clamped to what a word of the ring holds."""
    _, words = ring.create()
    slots = Slots(words, 5)
    slots.begin()
    slots.store(batch)
    slots.close()
    (load,) = ring.RingReader(words).loads(5, 1)
    assert load.batch_bytes == expected


@pytest.mark.parametrize("fails", ["before", "after"])
def test_a_fetch_whose_timing_fails_is_pytorchs_again(fails: str) -> None:
    """The batch comes, nothing is raised, and the class is the plain one from then on."""

    class Fetcher:
        def fetch(self, index: int) -> int:
            return index

    def hook(when: str, called: list[str]) -> Any:
        def record(value: object) -> None:
            called.append(when)
            if when == fails:
                raise LookupError(when)

        return record

    called: list[str] = []
    fetcher: Any = Fetcher()
    fetcher.__class__ = timed_class(Fetcher, hook("before", called), hook("after", called))
    assert (fetcher.fetch(1), fetcher.fetch(2)) == (1, 2)
    assert called == (["before"] if fails == "before" else ["before", "after"])
    assert type(fetcher) is Fetcher


def test_an_error_of_the_users_does_not_name_ours() -> None:
    """Where the timing failed before, the dataset's own error has no context."""

    class Fetcher:
        def fetch(self, index: int) -> int:
            raise LookupError(index)

    def failing(index: object) -> None:
        raise RuntimeError

    fetcher: Any = Fetcher()
    fetcher.__class__ = timed_class(Fetcher, failing, failing)
    with pytest.raises(LookupError) as caught:
        fetcher.fetch(1)
    assert caught.value.__context__ is None
