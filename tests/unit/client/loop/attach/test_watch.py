"""The public surface: what misuse says, what importing it costs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from torch.utils.data import DataLoader, TensorDataset

import feedwater
from feedwater.testing import FakeTransport


def loader() -> DataLoader[Any]:
    import torch

    return DataLoader(TensorDataset(torch.arange(8)), batch_size=2)


def test_importing_and_the_in_process_part_load_the_standard_library_only() -> None:
    """After ``import feedwater`` and all of the loop no third-party module is loaded."""
    code = (
        "import sys; before = set(sys.modules); import feedwater, feedwater.loop.attach.watch,"
        "feedwater.loop.attach.hooks,"
        "feedwater.testing, feedwater.worker, feedwater.loop.attach.autowatch, feedwater.loop.link;"
        "added = {m.partition('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names);"
        "print(sorted(added))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['feedwater']"


def test_importing_feedwater_alone_loads_few_modules() -> None:
    """The package itself loads its values, not the loop: no socket, no subprocess."""
    code = "import sys; b = set(sys.modules); import feedwater; print(' '.join(set(sys.modules) - b))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    added = set(done.stdout.split())
    assert {m for m in added if m.startswith("feedwater")} == {
        "feedwater",
        "feedwater.loggers",
        "feedwater.values",
    }
    assert not added & {"socket", "subprocess", "logging", "json"}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (None, "got None"),
        (3, "got int"),
        ("data", "got str"),
        (DataLoader, "got the class DataLoader"),
        (TensorDataset(), "pass the DataLoader, not its dataset"),
    ],
)
def test_what_is_no_loader_raises_and_says_what_to_pass(bad: Any, message: str) -> None:
    """A TypeError that names what came."""
    with pytest.raises(TypeError, match="loader must be a DataLoader or another iterable") as raised:
        feedwater.watch(bad)
    assert message in str(raised.value)


def test_an_iterator_of_a_loader_is_refused() -> None:
    """``watch(iter(loader))`` says to pass the loader itself."""
    with pytest.raises(TypeError, match="must be the DataLoader itself"):
        feedwater.watch(iter(loader()))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"name": ""}, ValueError, "name must be a non-empty string, got ''"),
        ({"name": 3}, TypeError, "name must be a string, got int"),
        ({"mode": "fast"}, ValueError, "mode must be one of off, observe, advise, auto, got 'fast'"),
        ({"mode": 2}, TypeError, "mode must be a string, got int"),
        ({"allow_workers": 1}, TypeError, "allow_workers must be True or False, got int"),
        ({"on_epoch": 3}, TypeError, "on_epoch must be callable"),
        ({"transport": object()}, TypeError, "transport must be a feedwater.Transport, got object"),
    ],
)
def test_misused_options_raise_at_once(options: dict[str, Any], error: type[Exception], message: str) -> None:
    """Before anything is marked, with what was expected and what came."""
    with pytest.raises(error) as raised:
        feedwater.watch(loader(), **options)
    assert message in str(raised.value)


def test_a_loader_comes_back_as_the_very_object() -> None:
    """Identity, class and attributes are those from before."""
    watched = loader()
    attributes = dict(vars(watched))
    assert feedwater.watch(watched, transport=FakeTransport()) is watched
    assert type(watched) is DataLoader
    assert vars(watched) == attributes


def test_disabled_does_nothing_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """FEEDWATER_DISABLED=1 returns even a plain iterable as it is."""
    monkeypatch.setenv("FEEDWATER_DISABLED", "1")
    numbers = [1, 2]
    assert feedwater.watch(numbers) is numbers


def test_unwatched_loaders_have_no_history() -> None:
    """A loader that was never watched is named as misuse."""
    with pytest.raises(ValueError, match="must be one that feedwater"):
        feedwater.history(loader())


def test_the_argument_beats_the_environment_which_beats_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Observe in the environment: asked nothing; auto in the argument: asked."""
    monkeypatch.setenv("FEEDWATER_MODE", "observe")
    quiet, asked = FakeTransport(), FakeTransport()
    first = feedwater.watch(loader(), transport=quiet)
    second = feedwater.watch(loader(), mode="auto", transport=asked)
    for watched in (first, second):
        for _ in range(2):
            list(watched)
    assert quiet.requests == []
    assert len(asked.requests) == 1


def test_off_measures_nothing() -> None:
    """In mode off the transport never hears of the loader."""
    fake = FakeTransport()
    watched = feedwater.watch(loader(), mode="off", transport=fake)
    assert len(list(watched)) == 4
    assert fake.loaders == {}


def test_two_loaders_of_one_name_are_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    """While the first is in use the second gets a name of its own, and that is said."""
    fake = FakeTransport()
    first = feedwater.watch(loader(), name="same", transport=fake)
    iterator: Iterator[Any] = iter(first)
    next(iterator)
    second = feedwater.watch(loader(), name="same", transport=fake)
    list(second)
    names = [d.name for d in fake.loaders.values()]
    assert names[0] == "same"
    assert names[1].startswith("same-")
    assert "two loaders are called 'same'" in caplog.text
    list(iterator)


def test_a_name_given_to_two_loaders_in_turn_is_split_once_both_are_used() -> None:
    """The second takes the name over; the first, iterated again, gets a name of its own."""
    fake = FakeTransport()
    first = feedwater.watch(loader(), name="same", transport=fake)
    list(first)
    second = feedwater.watch(loader(), name="same", transport=fake)
    for watched in (second, first, second, first):
        list(watched)
    names = sorted(d.name for d in fake.loaders.values())
    assert names[0] == "same"
    assert names[1].startswith("same-")
    assert [len(fake.ends(name)) for name in names] == [3, 2]


def test_the_default_start_method_stays_open() -> None:
    """Watching and iterating without workers must not keep the user from setting a start method."""
    code = (
        "import multiprocessing, torch, feedwater; from feedwater.testing import FakeTransport;"
        "from torch.utils.data import DataLoader;"
        "list(feedwater.watch(DataLoader([1, 2]), transport=FakeTransport()));"
        "multiprocessing.set_start_method('spawn'); print('set')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("set\n", "")


def test_without_memory_for_the_ring_nothing_is_measured_and_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full memory limit is no reason to end a training: all batches come, with one line."""
    from feedwater import ring

    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ring, "create", full)
    fake = FakeTransport()
    watched = feedwater.watch(loader(), transport=fake)
    assert [len(list(watched)) for _ in range(2)] == [4, 4]
    assert fake.loaders == {}
    assert caplog.text.count("no memory for the timings") == 1


def test_a_dataset_whose_length_raises_is_measured_all_the_same() -> None:
    """``__len__`` is the user's code, and may raise what it likes."""
    from torch.utils.data import Dataset

    class Lengthless(Dataset[int]):
        def __getitem__(self, index: int) -> int:
            return index

        def __len__(self) -> int:
            raise ValueError("not known yet")

    fake = FakeTransport()
    watched = feedwater.watch(DataLoader(Lengthless(), sampler=[1, 2, 3]), name="t", transport=fake)
    assert len(list(watched)) == 3
    assert [e.head for e in fake.ends("t")] == [3]
    assert next(iter(fake.loaders.values())).batches_per_epoch == 3


def test_systems_that_lack_what_it_needs_get_a_no_op_that_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A frozen application: loaders come back unmarked, with one line."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    fake = FakeTransport()
    for _ in range(2):
        assert len(list(feedwater.watch(loader(), transport=fake))) == 4
    assert fake.loaders == {}
    assert caplog.text.count("the application is frozen") == 1


def test_where_pytorch_moved_its_private_names_loaders_are_wrapped_and_measured(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The client degrades to the wrapper, says which name is gone, and the batches still come."""
    from feedwater.loop.attach import hooks

    monkeypatch.setattr(hooks, "missing_name", lambda: "_BaseDataLoaderIter.__next__")
    fake = FakeTransport()
    plain = loader()
    watched = feedwater.watch(plain, name="wrapped", transport=fake)
    assert watched is not plain
    assert len(list(watched)) == len(watched) == 4
    assert len(fake.timings("wrapped")) == 4
    assert "this PyTorch has no _BaseDataLoaderIter.__next__" in caplog.text
