"""One measured epoch, and what is said of one that failed."""

from __future__ import annotations

import math
import time
import traceback
from dataclasses import dataclass

import pytest
import torch
from torch.utils.data import DataLoader

from feedwater.sweep.measure import Bench, HungError, alarmed, reason_of
from feedwater.sweep.target import shortened
from feedwater.values import LoaderSettings


def bench(steps: list[object], batches: int = 10, **options: object) -> Bench:
    loader = DataLoader(range(80), batch_size=4, **options)
    first = shortened(loader)
    first.count = batches
    return Bench(loader, first, steps.append, batches)


def test_epoch_counts_each_batch_once_and_adds_up():
    """10 batches, 10 steps; start-up, wait and step are no more than the whole."""
    steps: list[object] = []
    made = bench(steps, num_workers=1).epoch(math.inf, with_memory=True)
    assert (made.batches, len(steps), made.is_cut) == (10, 10, False)
    assert made.start_up_seconds + made.wait_seconds + made.step_seconds <= made.seconds
    assert made.batch_bytes == 4 * 8
    assert made.worker_bytes is not None
    assert made.worker_bytes > 1 << 20


def test_slow_epoch_is_cut_after_twenty_batches():
    """Of 20 batches none is left out, of 21 one: cut at 20, it counts as 21."""
    steps: list[object] = []
    one = Bench((loader := DataLoader(range(100), batch_size=1)), shortened(loader), steps.append, 21)
    one.first.count = 21
    made = one.epoch(0.0, with_memory=False)
    assert (len(steps), made.batches, made.is_cut) == (20, 21, True)


@pytest.mark.parametrize("persistent", [False, True])
def test_settings_change_between_epochs(persistent):
    """2 workers, then none, then 1: each epoch has its batches, workers that persist make way."""
    steps: list[object] = []
    one = bench(steps, num_workers=1, persistent_workers=persistent)
    for workers in (2, 0, 1):
        settings = LoaderSettings(workers, 2 if workers else None, persistent_workers=persistent)
        assert one.set(settings) == ""
        one.warm()
        assert one.epoch(math.inf, with_memory=False).batches == 10
        iterator = getattr(one.loader, "_iterator", None)
        assert iterator is None or len(iterator._workers) == workers
    assert len(steps) == 30
    one.close()


def test_no_workers_with_a_timeout_is_refused_not_tried():
    """PyTorch asserts there; the reason is a sentence."""
    one = bench([], num_workers=1, timeout=5)
    assert "timeout" in one.set(LoaderSettings(0))


def test_loader_that_gives_nothing_is_ended():
    """Two looks without a batch in between, 0.02 s apart here."""
    with pytest.raises(HungError, match=r"no batch for 0.02 s"), alarmed(0.02):
        time.sleep(30)


@dataclass
class _Pair:
    """A batch of a user's own kind."""

    one: torch.Tensor
    rest: dict[str, object]


def test_batches_of_any_kind_have_their_size():
    """Two tensors of 10 floats, one in a dictionary, in a class of the user's, and 2 letters: 82 bytes."""
    pair = _Pair(torch.zeros(10), {"x": torch.zeros(10), "names": ["a", "b"], "count": 3})
    made = bench([], collate_fn=lambda samples: pair).epoch(math.inf, with_memory=True)
    assert made.batch_bytes == 82


def test_a_batch_that_holds_itself_does_not_end_the_sweep():
    """Its size is not known, and its epoch is measured all the same."""
    endless: list[object] = []
    endless.append(endless)
    made = bench([], collate_fn=lambda samples: endless).epoch(math.inf, with_memory=True)
    assert (made.batches, made.batch_bytes) == (10, 0)


def test_reason_is_one_line_that_names_what_happened():
    """Of a worker's error its last line and the worker; a bus error is shared memory."""
    loader = DataLoader(_Broken(), batch_size=2, num_workers=1)
    with pytest.raises(OSError, match="disk on fire") as caught:
        list(loader)
    assert reason_of(caught.value) == "OSError: disk on fire (in DataLoader worker process 0)"
    traceback.clear_frames(caught.tb)
    bus = RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible")
    assert reason_of(bus).startswith("out of /dev/shm: ")
    assert reason_of(AssertionError()) == "AssertionError"


class _Broken:
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        raise OSError("disk on fire")
