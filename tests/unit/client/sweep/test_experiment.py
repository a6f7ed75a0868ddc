"""A sweep in rounds, of which one setting fails."""

from __future__ import annotations

import multiprocessing

from torch.utils.data import DataLoader

from feedwater.sweep.experiment import Experiment
from feedwater.sweep.figures import Row
from feedwater.sweep.measure import Bench
from feedwater.sweep.progress import PlainProgress
from feedwater.sweep.target import shortened
from feedwater.values import LoaderSettings


class _Broken:
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        raise OSError("disk on fire")


def test_workers_of_a_setting_that_fails_are_gone_at_once():
    """Not when the garbage collector comes, which then waits 5 s for each."""
    before = set(multiprocessing.active_children())
    loader = DataLoader(_Broken(), batch_size=2, num_workers=1)
    row = Row(LoaderSettings(1, 2))
    experiment = Experiment(
        Bench(loader, shortened(loader), lambda _: None), [row], 1, 5.0, None, PlainProgress()
    )
    experiment.run()
    assert row.failure == "OSError: disk on fire (in DataLoader worker process 0)"
    assert set(multiprocessing.active_children()) <= before
