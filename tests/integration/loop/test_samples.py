"""The same samples in the same order with and without Feedwater, whatever it changes."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SubsetRandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader

import feedwater
from feedwater.testing import FakeTransport
from feedwater.values import Outcome
from tests.integration.loop.loop_datasets import EagerBatches, EagerSampler, Numbers, Sharded, seed_worker

Make = Callable[[], "DataLoader[Any]"]
EPOCHS = 4


def run(make: Make, transport: FakeTransport | None, **options: Any) -> tuple[list[list[Any]], torch.Tensor]:
    """Return the batches of each epoch, and the main generator's state at the end."""
    torch.manual_seed(5)
    random.seed(5)
    loader = make()
    if transport is not None:
        loader = feedwater.watch(loader, name="train", transport=transport, **options)
    epochs = [[plain(batch) for batch in loader] for _ in range(EPOCHS)]
    return epochs, torch.get_rng_state()


def plain(batch: Any) -> Any:
    return batch.tolist() if isinstance(batch, torch.Tensor) else batch


def loader(dataset: Any = None, **options: Any) -> Make:
    return functools.partial(DataLoader, dataset if dataset is not None else Numbers(), **options)


FAMILIES: dict[str, Make] = {
    "map, in order": loader(batch_size=4),
    "map, shuffled": loader(batch_size=4, shuffle=True),
    "map, shuffled by its own generator": lambda: DataLoader(
        Numbers(), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(3)
    ),
    "map, drop_last": loader(Numbers(50), batch_size=4, shuffle=True, drop_last=True),
    "without batches": loader(batch_size=None),
    "without batches, eager sampler": loader(batch_size=None, sampler=EagerSampler(48)),
    "sampler": loader(batch_size=4, sampler=SubsetRandomSampler(range(40))),
    "eager sampler": loader(batch_size=4, sampler=EagerSampler(48)),
    "batch sampler": lambda: DataLoader(
        Numbers(), batch_sampler=BatchSampler(RandomSampler(Numbers()), 6, False)
    ),
    "eager batch sampler": loader(batch_sampler=EagerBatches(48, 4)),
    "list of batches": loader(batch_sampler=[[0, 1], [2], [5, 4, 3]]),
    "workers from the start": loader(batch_size=4, shuffle=True, num_workers=2),
    "workers from the start, eager": loader(batch_sampler=EagerBatches(48, 4), num_workers=2),
    "persistent": loader(batch_size=4, shuffle=True, num_workers=2, persistent_workers=True),
    "persistent, eager": loader(batch_sampler=EagerBatches(48, 4), num_workers=2, persistent_workers=True),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("counts", [(2, 1, 2), (1, 0, 2), (0, 2, 0)], ids=str)
def test_changed_counts_keep_samples_order_and_main_generator(family: str, counts: tuple[int, ...]) -> None:
    """Three changes in four epochs: every batch and the main generator's state are as without Feedwater."""
    expected, state = run(FAMILIES[family], None)
    fake = FakeTransport(dict(enumerate(counts)))
    seen, state_seen = run(FAMILIES[family], fake, allow_workers=True)
    assert [b.settings.num_workers for b in fake.begins("train")][1:] == list(counts)
    assert seen == expected
    assert torch.equal(state_seen, state)


@pytest.mark.parametrize("family", FAMILIES)
def test_watching_alone_changes_nothing(family: str) -> None:
    """In mode observe no setting moves and nothing is asked."""
    expected, state = run(FAMILIES[family], None)
    fake = FakeTransport({0: 2, 1: 1})
    seen, state_seen = run(FAMILIES[family], fake, mode="observe")
    assert (seen, fake.requests) == (expected, [])
    assert torch.equal(state_seen, state)


@pytest.mark.parametrize(
    ("method", "persistent"),
    [
        ("fork", False),
        ("fork", True),
        ("spawn", True),
        pytest.param("spawn", False, marks=pytest.mark.slow),
        pytest.param("forkserver", True, marks=pytest.mark.slow),
        pytest.param("forkserver", False, marks=pytest.mark.slow),
    ],
)
# Spawned workers import torch one after another: over 120 s at a load of 10 on two cores.
@pytest.mark.timeout(300)
def test_each_start_method_is_timed_and_changed(method: str, persistent: bool) -> None:
    """Workers started any way store their loads, before and after a change from 1 to 2."""
    make = functools.partial(loader, batch_size=8, num_workers=1, persistent_workers=persistent, shuffle=True)
    # By fork, where a worker starts in 28 ms and not in 1 s: PyTorch gives the same by any method.
    expected, state = run(make(multiprocessing_context="fork"), None)
    fake = FakeTransport({1: 2})
    # pytest itself holds a readable temporary file open, which would be a reason to refuse.
    seen, state_seen = run(make(multiprocessing_context=method), fake, allow_workers=True)
    assert seen == expected
    assert torch.equal(state_seen, state)
    assert [b.settings.num_workers for b in fake.begins("train")] == [1, 1, 2, 2]
    loads = fake.loads("train")
    assert len(loads) == EPOCHS * 6
    assert {load.pid for load in loads} == {pid for b in fake.begins("train") for pid in b.worker_pids}
    assert all(load.end_ns > load.start_ns for load in loads)


def test_zero_workers_are_timed_in_the_main_process() -> None:
    """From the second batch on, heavy loads of the main process are stored, and light ones are not."""
    fake = FakeTransport()
    heavy = feedwater.watch(DataLoader(Numbers(16, load_seconds=0.001)), name="heavy", transport=fake)
    for _ in range(3):
        assert len(list(heavy)) == 16
    assert len(fake.timings("heavy")) == 3 * 16
    assert len(fake.loads("heavy")) == 3 * 16 - 1
    # An interruption makes a load heavy, and the 33 after it are timed too: on a busy machine, often.
    assert min(_loads_of_light(f"light-{attempt}") for attempt in range(5)) < 3 * 150 / 2


def _loads_of_light(name: str) -> int:
    """Return how many of 450 light loads are stored; the ring would hold all."""
    fake = FakeTransport()
    light = feedwater.watch(DataLoader(Numbers(150)), name=name, transport=fake)
    for _ in range(3):
        assert len(list(light)) == 150
    assert len(fake.timings(name)) == 3 * 150
    return len(fake.loads(name))


def test_iterable_datasets_are_advised_not_changed() -> None:
    """The order of an IterableDataset depends on the count: the advice is refused with that reason."""
    fake = FakeTransport({0: 2})
    expected, _ = run(loader(Sharded(), batch_size=4), None)
    seen, _ = run(loader(Sharded(), batch_size=4), fake)
    assert seen == expected
    (applied,) = fake.outcomes("train")
    assert applied.outcome is Outcome.REFUSED
    assert "IterableDataset" in applied.detail


SET_VITAL = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
"""torchdata 0.11 calls it in each constructor."""


@SET_VITAL
def test_stateful_loaders_are_measured_and_advised() -> None:
    """A StatefulDataLoader resumes only under its count: nothing is changed, its state dict works on."""
    fake = FakeTransport({0: 2})
    torch.manual_seed(5)
    stateful = StatefulDataLoader(Numbers(), batch_size=4, num_workers=1)
    feedwater.watch(stateful, name="train", transport=fake)
    first = [b.tolist() for b in stateful]
    half = list(itertools.islice(stateful, 6))
    state = stateful.state_dict()
    assert fake.outcomes("train")[0].outcome is Outcome.REFUSED
    again = feedwater.watch(
        StatefulDataLoader(Numbers(), batch_size=4, num_workers=1), name="again", transport=fake
    )
    again.load_state_dict(state)
    assert [b.tolist() for b in half] + [b.tolist() for b in again] == first
    assert len(fake.loads("train")) >= 12 + 6


@SET_VITAL
def test_stateful_loader_changes_when_the_user_allows_it_and_no_resume_is_pending() -> None:
    """allow_workers lets the count change, but never between load_state_dict and the iteration it is for."""
    fake = FakeTransport({0: 2, 1: 2})
    stateful = StatefulDataLoader(Numbers(), batch_size=4, num_workers=1)
    feedwater.watch(stateful, name="train", transport=fake, allow_workers=True)
    expected = [b.tolist() for b in stateful]
    state = stateful.state_dict()
    stateful.load_state_dict(state)
    list(stateful)
    assert [b.tolist() for b in stateful] == expected
    assert [a.outcome for a in fake.outcomes("train")] == [Outcome.REFUSED, Outcome.APPLIED]


def test_frozen_count_of_a_partial_moves_along() -> None:
    """Hugging Face's partial(seed_worker, num_workers=1) is rebuilt for 2, as its worker checks."""
    init = functools.partial(seed_worker, num_workers=1, rank=3)
    fake = FakeTransport({0: 2})
    trained = DataLoader(Numbers(), batch_size=4, num_workers=1, worker_init_fn=init)
    feedwater.watch(trained, name="train", transport=fake, allow_workers=True)
    assert [len(list(trained)) for _ in range(2)] == [12, 12]
    assert isinstance(trained.worker_init_fn, functools.partial)
    assert trained.worker_init_fn.keywords == {"num_workers": 2, "rank": 3}


def test_augmentation_of_rebuilt_persistent_workers_does_not_repeat() -> None:
    """Workers rebuilt twice are seeded anew each time: no epoch's noise equals another's."""
    from tests.integration.loop.loop_datasets import Noisy

    fake = FakeTransport({0: 2, 1: 1, 2: 2})
    noisy = DataLoader(Noisy(), batch_size=4, num_workers=1, persistent_workers=True)
    feedwater.watch(noisy, name="train", transport=fake, allow_workers=True)
    epochs = [torch.cat(list(noisy)).flatten() for _ in range(4)]
    assert [b.settings.num_workers for b in fake.begins("train")] == [1, 2, 1, 2]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(epochs, 2))


def left_early(make: Make, advice: dict[int, int], left: int) -> tuple[list[list[Any]], FakeTransport]:
    """Return the batches of four epochs that are left after some of them, under advice."""
    torch.manual_seed(5)
    fake = FakeTransport(advice)
    loader = feedwater.watch(make(), name="train" if advice else "plain", transport=fake)
    return [[plain(batch) for batch in itertools.islice(loader, left)] for _ in range(EPOCHS)], fake


@pytest.mark.parametrize(("workers", "advised"), [(1, 3), (2, 1)])
def test_epochs_that_are_left_early_keep_the_order_of_later_ones(workers: int, advised: int) -> None:
    """With the user's generator the order depends on whether the sampler was read to its end: no change.

    Nine of 12 batches: one worker asks for two more, three workers ask for all of them.
    """

    def make() -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(3)
        return DataLoader(Numbers(), batch_size=4, shuffle=True, generator=generator, num_workers=workers)

    expected, _ = left_early(make, {}, 9)
    seen, fake = left_early(make, {0: advised}, 9)
    assert seen == expected
    assert [a.outcome for a in fake.outcomes("train")] == [Outcome.REFUSED]
    assert "shuffled otherwise" in fake.outcomes("train")[0].detail


def test_epochs_that_are_left_early_change_where_no_generator_outlives_them() -> None:
    """PyTorch's own shuffling draws a seed for each epoch, at its begin."""
    make = loader(batch_size=4, shuffle=True, num_workers=2)
    expected, _ = left_early(make, {}, 9)
    seen, fake = left_early(make, {0: 3}, 9)
    assert seen == expected
    assert [a.outcome for a in fake.outcomes("train")] == [Outcome.APPLIED]
