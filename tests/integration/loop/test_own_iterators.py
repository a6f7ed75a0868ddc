"""Loaders that make their iterators past ``DataLoader.__iter__`` are seen all the same."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter, _SingleProcessDataLoaderIter

import feedwater
from feedwater.loop.attach import autowatch, hooks
from feedwater.loop.boundary import boundary
from feedwater.testing import FakeTransport
from feedwater.values import Outcome
from tests.integration.loop.loop_datasets import Numbers


class Repeating:
    """A batch sampler that never ends, as Ultralytics' ``_RepeatSampler``."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[object]:
        while True:
            yield from iter(self.sampler)


class Infinite(DataLoader):
    """Ultralytics' ``InfiniteDataLoader`` to its essentials: one iterator, made by ``_get_iterator``."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        object.__setattr__(self, "batch_sampler", Repeating(self.batch_sampler))
        self.iterator: Any = None

    def __len__(self) -> int:
        return len(self.batch_sampler.sampler)

    def __iter__(self) -> Iterator[object]:  # type: ignore[override]
        if self.iterator is None:
            self.iterator = self._get_iterator()
        for _ in range(len(self)):
            yield next(self.iterator)

    def reset(self) -> None:
        """Make the next epoch's iterator anew."""
        if hasattr(self.iterator, "_shutdown_workers"):
            self.iterator._shutdown_workers()
        self.iterator = None


class StandIn(IterableDataset):
    """fastai's ``_FakeLoader`` to its essentials: no ``DataLoader``, but PyTorch makes iterators of it."""

    _IterableDataset_len_called = None
    _auto_collation, drop_last, in_order, timeout = False, False, True, 0
    _dataset_kind, generator, prefetch_factor = 1, None, 2
    pin_memory, pin_memory_device, persistent_workers = False, "", False
    multiprocessing_context = worker_init_fn = None
    _index_sampler = range(10**9)

    def __init__(self, num_workers: int) -> None:
        self.dataset, self.num_workers = self, num_workers

    def collate_fn(self, batch: object) -> object:
        """Return it as it is."""
        return batch

    def _get_shared_seed(self) -> None: ...

    def __iter__(self) -> Iterator[int]:
        yield from range(6)


class Framework:
    """fastai's ``DataLoader`` to its essentials."""

    def __init__(self, num_workers: int) -> None:
        self.fake_l = StandIn(num_workers)

    def __iter__(self) -> Iterator[object]:
        iterator = _MultiProcessingDataLoaderIter if self.fake_l.num_workers else _SingleProcessDataLoaderIter
        yield from iterator(self.fake_l)  # type: ignore[arg-type]


@pytest.fixture
def every(monkeypatch: pytest.MonkeyPatch) -> FakeTransport:
    """Watch every loader, as ``feedwater run`` does."""
    fake = FakeTransport({0: 3})
    monkeypatch.setattr("feedwater.loop.process._transport", fake)
    hooks.install()
    monkeypatch.setattr(hooks, "_find", autowatch.find)
    return fake


def test_an_infinite_loader_is_measured_and_advised(every: FakeTransport) -> None:
    """Two epochs of its one iterator, cut by the loader's length; the second one's settings are advice."""
    loader = Infinite(Numbers(12), batch_size=4, num_workers=2)
    assert [len(list(loader)) for _ in range(3)] == [3, 3, 3]
    assert len(feedwater.history(loader)) == 2
    (name,) = (d.name for d in every.loaders.values())
    assert [b.settings.num_workers for b in every.begins(name)] == [2, 2, 2]
    assert [a.outcome for a in every.outcomes(name)] == [Outcome.ADVISED]
    assert len(every.loads(name)) >= 9
    loader.reset()


def test_an_infinite_loader_is_tuned_where_it_makes_its_iterator_anew() -> None:
    """Where Ultralytics resets the loader, the next iterator takes what is recommended, if that is allowed.

    By itself the change is refused: how far its sampler was read may decide the order after the reset.
    """
    fake = FakeTransport({1: 3})
    loader = Infinite(Numbers(12), batch_size=4, num_workers=2)
    feedwater.watch(loader, name="t", transport=fake, allow_workers=True)
    expected = [b.tolist() for b in DataLoader(Numbers(12), batch_size=4)]
    seen = []
    for epoch in range(4):
        seen.append([b.tolist() for b in loader])
        if epoch == 1:
            loader.reset()
    assert seen == [expected] * 4
    assert loader.iterator._num_workers == 3
    assert [a.outcome for a in fake.outcomes("t")] == [Outcome.APPLIED]
    loader.reset()


def test_an_endless_sampler_keeps_the_order_after_a_reset() -> None:
    """A sampler that is read for ever gives what comes next: the change is refused, and says why."""
    fake = FakeTransport({0: 3})
    loader = feedwater.watch(Infinite(Numbers(12), batch_size=4, num_workers=2), name="t", transport=fake)
    for _ in range(2):
        list(loader)
    loader.reset()
    list(loader)
    refused = fake.outcomes("t")[-1]
    assert loader.iterator._num_workers == 2
    assert refused.outcome is Outcome.ADVISED or "shuffled otherwise" in refused.detail
    loader.reset()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_framework_that_makes_its_own_iterators_is_measured_and_advised(
    every: FakeTransport, workers: int
) -> None:
    """Each epoch has an iterator of its own; what the workers load is timed, and nothing is changed."""
    loader = Framework(workers)
    count = 6 * max(1, workers)
    assert [len(list(loader)) for _ in range(2)] == [count, count]
    (described,) = every.loaders.values()
    assert (described.dataset_kind, described.can_apply) == ("iterable", False)
    assert [(e.head, e.complete) for e in every.ends(described.name)] == [(count, True), (2 * count, True)]
    assert [a.outcome for a in every.outcomes(described.name)] == [Outcome.ADVISED]
    if workers:
        assert len(every.loads(described.name)) >= 2 * count


def test_a_watched_framework_loader_stays_the_object_that_it_was() -> None:
    """watch() of fastai's loader marks the stand-in, whose workers are then known."""
    fake = FakeTransport()
    loader = Framework(2)
    assert feedwater.watch(loader, name="train", transport=fake) is loader
    list(loader)
    assert fake.begins("train")[0].settings.num_workers == 2
    assert len(feedwater.history(loader)) == 1


def test_what_an_ordinary_loader_is_made_of_is_no_epoch_of_its_own(every: FakeTransport) -> None:
    """``__iter__``, ``_get_iterator`` and the iterator's constructor are one boundary."""
    loader = DataLoader(Numbers(8), batch_size=4)
    for _ in range(2):
        list(loader)
    (described,) = every.loaders.values()
    assert [b.epoch for b in every.begins(described.name)] == [0, 1]


def test_a_loader_that_was_watched_and_never_iterated_is_told_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its epochs pass by another object: nothing is measured, which the end of the process says."""
    caplog.set_level(logging.INFO, "feedwater")
    watched, iterated = (DataLoader(Numbers(8)) for _ in range(2))
    feedwater.watch(watched, name="idle", transport=FakeTransport())
    list(iterated)
    for _ in range(2):
        boundary.end_all()
    assert caplog.text.count("idle: nothing is measured") == 1


class Odd(DataLoader):
    """A loader whose own code fails where Feedwater looks at it."""

    @property
    def sampler(self) -> object:
        raise RuntimeError("not for you")

    @sampler.setter
    def sampler(self, value: object) -> None: ...


def test_a_loader_that_cannot_be_looked_at_is_iterated_all_the_same(
    every: FakeTransport, caplog: pytest.LogCaptureFixture
) -> None:
    """Its batches come, nothing is measured, and the log says once what failed."""
    loader = Odd(Numbers(8), batch_sampler=[[0, 1], [2, 3]])
    assert [[b.flatten().tolist() for b in loader] for _ in range(2)] == [[[0, 1], [2, 3]]] * 2
    assert every.loaders == {}
    assert caplog.text.count("looking at a loader failed (RuntimeError: not for you)") == 1
