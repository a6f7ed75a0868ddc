"""A long or endless epoch gets its word before its end, and the loop never waits for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
from torch.utils.data import DataLoader, IterableDataset, Sampler

import feedwater
from feedwater.loop.boundary import preview
from feedwater.testing import FakeTransport
from tests.integration.loop.loop_datasets import Numbers


class Endless(Sampler[int]):
    """Indices for ever, without a length, as detectron2's training sampler."""

    def __init__(self) -> None: ...

    def __iter__(self) -> Iterator[int]:
        while True:
            yield from range(8)


class Stream(IterableDataset[int]):
    """More samples than a test takes, and no length."""

    def __iter__(self) -> Iterator[int]:
        yield from range(1_000_000)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """Store stamps at every batch, so that each is looked at."""
    monkeypatch.setattr("feedwater.loop.measure.probe.STORE_BATCHES", 1)
    monkeypatch.setattr(preview, "RETRY_NS", 0)
    caplog.set_level(logging.INFO, "feedwater")
    return caplog


def take(loader: DataLoader[object], batches: int) -> None:
    """Take so many batches of one iterator."""
    iterator = iter(loader)
    for _ in range(batches):
        next(iterator)


def take_until(iterator: Iterator[object], holds: Callable[[], bool]) -> None:
    """Take batches until something holds; it comes with the stamps' next store, 0.1 s later at most."""
    for _ in range(100_000):
        next(iterator)
        if holds():
            return
    raise AssertionError("100,000 batches, and it does not hold")


def lines(said: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines about a batch within an epoch."""
    return [r.getMessage() for r in said.records if ", batch " in r.getMessage()]


def test_an_endless_loader_is_advised_after_a_hundred_batches(said: pytest.LogCaptureFixture) -> None:
    """A sampler without end on a map-style dataset: one line with the count, and `recommendation` has it."""
    fake = FakeTransport({0: 6})
    loader = DataLoader(Numbers(8), batch_size=2, sampler=Endless())
    feedwater.watch(loader, name="train", transport=fake, mode="advise")
    take_until(iter(loader), lambda: bool(lines(said)))
    (line,) = lines(said)
    assert int(line.partition(", batch ")[2].partition(":")[0]) >= 100
    assert "num_workers=6 was canned" in line
    found = feedwater.recommendation(loader)
    assert found is not None
    assert found.settings.num_workers == 6


def test_another_answer_is_another_line_and_the_same_is_none(
    said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked again and again, it speaks where other settings are recommended."""
    monkeypatch.setattr(preview, "MAX_INTERVAL_NS", 0)
    fake = FakeTransport({0: 6})
    loader = feedwater.watch(DataLoader(Numbers(8), sampler=Endless()), transport=fake, mode="advise")
    iterator = iter(loader)
    take_until(iterator, lambda: len(fake.preview_requests) >= 3)
    fake.advice[0] = 4
    take_until(iterator, lambda: len(lines(said)) == 2)
    assert ["num_workers=6" in line for line in lines(said)] == [True, False]


@pytest.mark.parametrize("mode", ["auto", "observe"])
def test_a_short_epoch_is_not_asked_for_before_its_end(said: pytest.LogCaptureFixture, mode: str) -> None:
    """200 batches that take no time are soon over: the line at the epoch's end says it all."""
    fake = FakeTransport({0: 6})
    take(feedwater.watch(DataLoader(Numbers(200)), transport=fake, mode=mode), 199)
    assert fake.preview_requests == []


def test_a_stream_is_asked_for_once_it_lasts(
    said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a length an epoch is long when it has lasted long."""
    fake = FakeTransport({0: 6})
    loader = feedwater.watch(DataLoader(Stream()), transport=fake, mode="advise")
    take(loader, 200)
    assert fake.preview_requests == []
    monkeypatch.setattr(preview, "MIN_REMAINING_NS", 0)
    take_until(iter(loader), lambda: bool(fake.preview_requests))


def test_an_answer_that_does_not_come_is_asked_for_again(
    said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen sidecar costs the loop nothing but the question, now and then."""
    monkeypatch.setattr(preview, "ANSWER_TIMEOUT_NS", 0)
    fake = FakeTransport({0: 6})
    monkeypatch.setattr(fake, "take_preview", lambda key: None)
    loader = feedwater.watch(DataLoader(Numbers(8), sampler=Endless()), transport=fake, mode="advise")
    take_until(iter(loader), lambda: len(fake.preview_requests) > 3)
    assert lines(said) == []
