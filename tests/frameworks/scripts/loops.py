"""Training loops as people write them, with nothing but PyTorch: python loops.py LOOP."""

from __future__ import annotations

import itertools
import logging
import os
import queue
import sys
import threading
from collections.abc import Iterator

import torch
from synthetic import Journal, Samples, Validation, step, variant
from torch.utils.data import DataLoader, Sampler

COUNT = 120
BATCH = 4
SECONDS = 0.01
EPOCHS = 4
KEPT = 130
"""Loaders that "kept-loaders" makes: with two descriptors left of each they would break a limit of 256."""
KEPT_COUNT = 20
"""Samples of each. With fewer it is right to take no worker: starting one costs as much as it saves."""

journal = Journal()


def loader_of(dataset: Samples, **options: object) -> DataLoader:
    """Return a shuffled loader with one worker."""
    given = {"batch_size": BATCH, "shuffle": True, "num_workers": 1, **options}
    return DataLoader(dataset, **given)


def train(batches: Iterator[object] | DataLoader, name: str = "train") -> None:
    """Train for what is left of an epoch."""
    for _, codes in batches:
        journal.batch(name, codes)
        step()
    journal.epoch()


def enumerated() -> None:
    """Run the plainest loop."""
    loader = loader_of(Samples(COUNT, SECONDS))
    for _ in range(EPOCHS):
        for _, (_, codes) in enumerate(loader):
            journal.batch("train", codes)
            step()
        journal.epoch()


def from_zero() -> None:
    """Run the same from no workers at all."""
    loader = loader_of(Samples(COUNT, SECONDS), num_workers=0)
    for _ in range(EPOCHS):
        train(loader)


def while_next() -> None:
    """Ask for batches by hand."""
    loader = loader_of(Samples(COUNT, SECONDS))
    for _ in range(EPOCHS):
        batches = iter(loader)
        while (batch := next(batches, None)) is not None:
            journal.batch("train", batch[1])
            step()
        journal.epoch()


def broken_off() -> None:
    """Leave each epoch after 25 of its 30 batches."""
    loader = loader_of(Samples(COUNT, SECONDS))
    for _ in range(EPOCHS):
        train(itertools.islice(loader, 25))


def broken_off_with_generator() -> None:
    """Leave each epoch after 25 of its 30 batches, and shuffle by a generator of one's own.

    PyTorch's sampler draws from it once more when it is asked beyond the epoch's last index, as workers that
    load far ahead do, and those that load little ahead do not.
    """
    loader = loader_of(Samples(COUNT, SECONDS), generator=torch.Generator().manual_seed(0))
    for _ in range(EPOCHS):
        train(itertools.islice(loader, 25))


def short() -> None:
    """Leave each epoch after 10 batches: no epoch alone shows enough."""
    loader = loader_of(Samples(COUNT, SECONDS))
    for _ in range(12):
        train(itertools.islice(loader, 10))


def anew() -> None:
    """Make the loader anew for each epoch, over the same data set."""
    dataset = Samples(COUNT, SECONDS)
    for _ in range(EPOCHS):
        train(loader_of(dataset))


def all_anew() -> None:
    """Make loader and data set anew for each epoch, as shards are read."""
    for _ in range(EPOCHS + 2):
        train(loader_of(Samples(COUNT, SECONDS)))


def kept() -> None:
    """Make a new loader for each evaluation and keep all the old ones, as Accelerate does."""
    dataset = Validation(KEPT_COUNT, SECONDS)
    loaders = []
    for _ in range(KEPT):
        loaders.append(loader_of(dataset))
        train(loaders[-1], "val")


def zipped() -> None:
    """Take a batch of each of two loaders for a step."""
    one, other = loader_of(Samples(COUNT, SECONDS)), loader_of(Validation(COUNT, SECONDS))
    for _ in range(EPOCHS + 2):
        for (_, codes), (_, others) in zip(one, other, strict=True):
            journal.batch("train", codes)
            journal.batch("val", others)
            step()
        journal.epoch()


def peeked() -> None:
    """Look at one batch before each epoch, by an iterator that is thrown away."""
    loader = loader_of(Samples(COUNT, SECONDS))
    for _ in range(EPOCHS):
        journal.batch("train", next(iter(loader))[1])
        train(loader)


class WholeRun:
    """The batches of a whole run from one epoch to the next, as Megatron's sampler deals them."""

    def __init__(self, batches: int) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[list[int]]:
        for number in range(self._batches):
            yield [(number * BATCH + offset) % COUNT for offset in range(BATCH)]


def endless() -> None:
    """Make one iterator for the whole run, as Megatron does."""
    loader = DataLoader(Samples(COUNT, SECONDS), batch_sampler=WholeRun(100_000), num_workers=1)
    batches = iter(loader)
    for number in range(260):
        journal.batch("train", next(batches)[1])
        step()
        if number % 100 == 0:
            journal.epoch()


class Forever(Sampler):
    """Indices without an end, as detectron2's sampler deals them."""

    def __iter__(self) -> Iterator[int]:
        return (index % COUNT for index in itertools.count())


def infinite() -> None:
    """Sample without an end, and stop after a number of steps."""
    loader = DataLoader(Samples(COUNT, SECONDS), batch_size=BATCH, sampler=Forever(), num_workers=1)
    train(itertools.islice(loader, 260))


def long() -> None:
    """Train for the first batches of a single epoch of thousands, which would last for minutes."""
    train(itertools.islice(loader_of(Samples(16_000, SECONDS)), 260))


def cycled() -> None:
    """Let ``itertools.cycle`` repeat the batches, which asks the loader for an iterator only once."""
    loader = loader_of(Samples(COUNT, SECONDS))
    train(itertools.islice(itertools.cycle(loader), 4 * COUNT // BATCH))


def validated() -> None:
    """Validate after each epoch."""
    loader, validation = (
        loader_of(Samples(COUNT, SECONDS)),
        loader_of(Validation(COUNT, SECONDS), shuffle=False),
    )
    for _ in range(EPOCHS):
        train(loader)
        train(validation, "val")


def persistent() -> None:
    """Keep the workers from one epoch to the next."""
    loader = loader_of(Samples(COUNT, SECONDS), persistent_workers=True)
    for _ in range(EPOCHS):
        train(loader)


def threaded() -> None:
    """Load in a thread that fills a queue, and train from the queue."""
    loader = loader_of(Samples(COUNT, SECONDS))
    for _ in range(EPOCHS):
        filled: queue.Queue[object] = queue.Queue(maxsize=2)
        thread = threading.Thread(target=lambda to: [*map(to.put, loader), to.put(None)], args=(filled,))
        thread.start()
        train(iter(filled.get, None))
        thread.join()


def forked() -> None:
    """Fork, and train in both processes."""
    loader = loader_of(Samples(COUNT, SECONDS))
    train(loader)
    child = os.fork()
    for _ in range(EPOCHS - 1):
        train(loader)
    if child:
        _, status = os.waitpid(child, 0)
        assert status == 0


def configured() -> None:
    """Configure logging as scripts do, which hides what is below a warning."""
    logging.basicConfig()
    enumerated()


def exits() -> None:
    """End with a code of its own in the third epoch."""
    loader = loader_of(Samples(COUNT, SECONDS))
    train(loader)
    train(loader)
    train(itertools.islice(loader, 5))
    journal.write()
    sys.exit(3)


class Breaks(Samples):
    """Raises at one index."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index == 77:
            raise ValueError("the sample 77 cannot be read")
        return super().__getitem__(index)


def raises() -> None:
    """Meet a sample that cannot be read in the third epoch."""
    loader = loader_of(Samples(COUNT, SECONDS))
    train(loader)
    train(loader)
    journal.write()
    train(loader_of(Breaks(COUNT, SECONDS)))


LOOPS = {
    "enumerate": enumerated,
    "from-zero": from_zero,
    "while-next": while_next,
    "break": broken_off,
    "break-generator": broken_off_with_generator,
    "short-epochs": short,
    "loader-anew": anew,
    "all-anew": all_anew,
    "kept-loaders": kept,
    "zip": zipped,
    "peek": peeked,
    "endless": endless,
    "infinite-sampler": infinite,
    "long-epoch": long,
    "cycle": cycled,
    "validation": validated,
    "persistent": persistent,
    "thread": threaded,
    "fork": forked,
    "basic-config": configured,
    "exit-code": exits,
    "exception": raises,
}

if __name__ == "__main__":
    torch.manual_seed(0)
    LOOPS[variant(tuple(LOOPS))]()
    journal.write()
