"""Loaders that a framework or a script makes anew are one loader, and leave nothing behind."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset, RandomSampler

import feedwater
from feedwater.loop import registry
from feedwater.loop.attach import autowatch, hooks
from feedwater.loop.boundary import rings
from feedwater.testing import FakeTransport
from tests.integration.loop.loop_datasets import Numbers
from tests.support.processes import root_environment


@pytest.fixture
def every(monkeypatch: pytest.MonkeyPatch) -> FakeTransport:
    """Watch every loader, as ``feedwater run --mode auto`` does."""
    fake = FakeTransport({0: 3})
    monkeypatch.setattr("feedwater.loop.process._transport", fake)
    monkeypatch.setattr(registry, "_names", itertools.count())
    monkeypatch.setenv("FEEDWATER_MODE", "auto")
    monkeypatch.setattr("feedwater.loop.process._settings", None)
    hooks.install()
    monkeypatch.setattr(hooks, "_find", autowatch.find)
    return fake


def descriptors() -> int:
    """Return how many this process holds."""
    return len(os.listdir("/proc/self/fd"))


def evaluate(dataset: Dataset[object], kept: list[object]) -> None:
    """Make a loader, iterate it and keep it, as Hugging Face's Trainer does at each evaluation."""
    loader = DataLoader(dataset, batch_size=4, num_workers=2)
    kept.append(loader)
    list(loader)


def test_an_evaluation_each_time_by_a_new_loader_is_one_loader(every: FakeTransport) -> None:
    """Twelve evaluations, all loaders kept: one name, twelve epochs, three workers from the second on."""
    dataset, kept = Numbers(8), []
    evaluate(dataset, kept)
    before = descriptors()
    for _ in range(11):
        evaluate(dataset, kept)
    assert [d.name for d in every.loaders.values()] == ["loader-0"]
    assert [b.epoch for b in every.begins("loader-0")] == list(range(12))
    assert [b.settings.num_workers for b in every.begins("loader-0")] == [2] + [3] * 11
    assert descriptors() <= before + 4


def test_an_evaluation_of_data_made_anew_is_one_loader_too(every: FakeTransport) -> None:
    """The dataset is another object of the same class and about the same length; the old loaders are kept."""
    kept: list[object] = []
    for length in (8, 8, 12, 8):
        evaluate(Numbers(length), kept)
    assert [d.name for d in every.loaders.values()] == ["loader-0"]
    assert [b.settings.num_workers for b in every.begins("loader-0")] == [2, 3, 3, 3]


def test_what_the_sidecar_knows_of_a_loader_follows_the_one_that_continues_it(every: FakeTransport) -> None:
    """A shard of 12 samples after one of 8 has three batches, and the user's setting stays the first one."""
    kept: list[object] = []
    for length in (8, 12):
        evaluate(Numbers(length), kept)
    (described,) = every.loaders.values()
    assert (described.batches_per_epoch, described.settings.num_workers) == (3, 2)
    assert described.label.startswith("Numbers[12], batches of 4, test_made_anew.py:")


def test_loaders_that_were_there_together_stay_two(every: FakeTransport) -> None:
    """Made in one comprehension and iterated in turn, they are alike in all but that both were there."""
    both = [DataLoader(Numbers(8), batch_size=4) for _ in range(2)]
    for _ in range(2):
        for loader in both:
            list(loader)
    assert [len(every.begins(name)) for name in ("loader-0", "loader-1")] == [2, 2]


def test_training_and_evaluation_over_the_same_data_stay_two(every: FakeTransport) -> None:
    """A loader of another order made between two epochs of the other continues nothing."""
    dataset = Numbers(8)
    train = DataLoader(dataset, sampler=RandomSampler(dataset), batch_size=4)
    for _ in range(3):
        list(train)
        list(DataLoader(dataset, batch_size=4))
    assert [len(every.begins(name)) for name in ("loader-0", "loader-1")] == [3, 3]


def test_a_loader_in_the_middle_of_its_epoch_is_continued_by_nobody(every: FakeTransport) -> None:
    """An evaluation of the same data within the epoch has a mark of its own."""
    dataset = Numbers(8)
    iterator = iter(DataLoader(dataset, batch_size=4))
    next(iterator)
    list(DataLoader(dataset, batch_size=4))
    assert len(every.loaders) == 2


def test_more_loaders_than_rings_are_measured_in_turn(
    every: FakeTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of five that are iterated in turn with three rings, all are measured; a resting one gives its ring."""
    monkeypatch.setattr(rings, "MAX_RINGS", 3)
    loaders = [DataLoader(Numbers(8 * (n + 1)), batch_size=4) for n in range(5)]
    for _ in range(2):
        for loader in loaders:
            list(loader)
    assert len(rings._holders) == 3
    assert [len(every.begins(f"loader-{n}")) for n in range(5)] == [2] * 5
    assert every.released_rings[:2] == ["loader-0", "loader-1"]


def test_more_loaders_in_use_than_rings_are_not_measured_and_that_is_said(
    every: FakeTransport, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The third of three iterators at once is not measured, and its batches come all the same."""
    caplog.set_level("INFO")
    monkeypatch.setattr(rings, "MAX_RINGS", 2)
    loaders = [DataLoader(Numbers(8 * (n + 1)), batch_size=4) for n in range(3)]
    running = [iter(loader) for loader in loaders]
    assert [len(list(iterator)) for iterator in running] == [2, 4, 6]
    assert [d.name for d in every.loaders.values()] == ["loader-0", "loader-1"]
    assert "more than 2 loaders are in use at once: loader-2 is not measured" in caplog.text


def test_a_loader_that_rests_gives_its_ring_back(
    every: FakeTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirty seconds after its last epoch another boundary closes it; its next epoch has a new one."""
    first, second = (DataLoader(Numbers(n), batch_size=4) for n in (8, 40))
    list(first)
    now = time.perf_counter_ns
    monkeypatch.setattr("feedwater.loop.boundary.registration.perf_counter_ns", lambda: now() + rings.REST_NS)
    list(second)
    assert every.released_rings == ["loader-0"]
    list(first)
    assert [b.head for b in every.begins("loader-0")] == [0, 0]
    assert [e.epoch for e in every.ends("loader-0")] == [0, 1]


def test_workers_that_persist_keep_their_ring(every: FakeTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    """They store into the ring that they were started with, however long the loader rests."""
    monkeypatch.setenv("FEEDWATER_MODE", "advise")
    monkeypatch.setattr("feedwater.loop.process._settings", None)
    first = DataLoader(Numbers(8), batch_size=4, num_workers=1, persistent_workers=True)
    list(first)
    now = time.perf_counter_ns
    monkeypatch.setattr("feedwater.loop.boundary.registration.perf_counter_ns", lambda: now() + rings.REST_NS)
    list(DataLoader(Numbers(40), batch_size=4))
    assert every.released_rings == []


MANY = """
import os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from tests.integration.loop.loop_datasets import Numbers
from torch.utils.data import DataLoader
train = DataLoader(Numbers(40), batch_size=4)
data, kept, seen = Numbers(8), [], []
for n in range(300):
    loader = DataLoader(data, batch_size=4)
    kept.append(loader)
    assert len(list(loader)) == 2
    if n % 50 == 0:
        list(train)
        seen.append(len(os.listdir("/proc/self/fd")))
print(seen[1], seen[-1])
"""


@pytest.mark.parametrize("mode", ["observe", "auto"])
def test_hundreds_of_evaluations_leave_nothing_behind(tmp_path: Path, mode: str) -> None:
    """300 loaders that are kept, with 256 descriptors and a real sidecar: as many descriptors as after 50."""
    script = tmp_path / "many.py"
    script.write_text(MANY)
    command = [sys.executable, "-W", "ignore", "-m", "feedwater", "run", "--mode", mode, str(script)]
    done = subprocess.run(
        command, env=root_environment(), capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    early, late = map(int, done.stdout.split())
    assert late <= early + 2
    table = done.stderr.partition("what the loaders did")[2]
    assert "loader-1" in table
    assert "loader-2" not in table


def test_marks_of_loaders_that_are_gone_are_forgotten(every: FakeTransport) -> None:
    """Eight unlike loaders, none of them kept, leave as many marks as a framework may need."""
    for n in range(8):
        list(DataLoader(Numbers(4 * 3**n), batch_size=4 + n))
    assert len(registry.every()) <= registry.ORPHANS + 1


def test_loaders_that_the_user_names_are_told_apart_by_their_names(every: FakeTransport) -> None:
    """Alike, and made by one line one after the other: two names are two loaders."""
    for _ in range(2):
        for name in ("train", "val"):
            list(feedwater.watch(DataLoader(Numbers(8), batch_size=4), name=name))
    assert [len(every.begins(name)) for name in ("train", "val")] == [2, 2]


def test_watching_by_name_goes_on_as_before(every: FakeTransport) -> None:
    """A loader made anew each epoch and watched under one name is that loader."""
    for _ in range(3):
        list(feedwater.watch(DataLoader(Numbers(8), batch_size=4), name="train"))
    assert [b.epoch for b in every.begins("train")] == [0, 1, 2]
