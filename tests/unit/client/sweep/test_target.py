"""What can be named on the command line, and what is said where it cannot be had."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from feedwater.sweep.target import TargetError, load_loader, load_step, shortened

MODULE = """
from torch.utils.data import DataLoader

loader = DataLoader(range(20), batch_size=2)

class Data:
    loaders = [loader]
    def make():
        return loader

def make_loader():
    return loader

def pair():
    return loader, loader

def nothing():
    pass

def broken():
    raise ValueError("no such data set")

def step(batch):
    pass
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A current directory with the modules ``mine``, ``torn`` and ``needy``, forgotten afterwards."""
    (tmp_path / "mine.py").write_text(MODULE)
    (tmp_path / "torn.py").write_text("def x(:")
    (tmp_path / "needy.py").write_text("import not_there_at_all")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("mine", "torn", "needy"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("target", ["mine:make_loader", "mine:loader", "mine:Data.make"])
def test_function_object_and_dotted_name_are_found_in_the_current_directory(target):
    """All three are the loader of 10 batches."""
    found = load_loader(target)
    assert isinstance(found, DataLoader)
    assert len(found) == 10


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("mine", "expected MODULE:NAME"),
        (":make_loader", "expected MODULE:NAME"),
        ("mine.py:make_loader", "without .py"),
        ("nowhere:make_loader", "no module 'nowhere'"),
        ("mine:make_loadr", "no 'make_loadr'; did you mean 'make_loader'?"),
        ("mine:nothing", "got None; does the function end with a return?"),
        ("mine:pair", "got tuple; name a function that returns the one loader to sweep"),
        ("mine:Data.loaders", "got list"),
        ("mine:broken", "ValueError: no such data set"),
        ("torn:make_loader", "SyntaxError"),
        ("needy:make_loader", "No module named 'not_there_at_all'"),
    ],
)
def test_what_cannot_be_had_is_said(target, said):
    """Each message names what was asked for and what is wrong with it."""
    with pytest.raises(TargetError) as caught:
        load_loader(target)
    assert said in str(caught.value)
    assert "sweep/target.py" not in str(caught.value)


def test_step_must_be_a_function():
    """A loader cannot be called with a batch."""
    assert callable(load_step("mine:step"))
    with pytest.raises(TargetError, match="expected a function to call with each batch"):
        load_step("mine:loader")


@pytest.mark.parametrize("workers", [0, 2])
def test_shortened_epoch_ends_after_its_batches_and_alters_none(workers):
    """The first 4 of 10 batches are those of a whole epoch, and ``len`` says 4."""
    loader = DataLoader(range(20), batch_size=2, num_workers=workers)
    whole = [batch.tolist() for batch in loader]
    shortened(loader).count = 4
    assert [batch.tolist() for batch in loader] == whole[:4]
    assert len(loader) == 4


def test_shortened_epoch_of_a_stream_ends_likewise():
    """An `IterableDataset` has no sampler of its own; PyTorch's stands in, and is cut."""

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(range(100))

    loader = DataLoader(Stream(), batch_size=2, num_workers=1)
    shortened(loader).count = 3
    assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3], [4, 5]]


def test_shortened_epoch_without_automatic_batches_ends_likewise():
    """``batch_size=None``: the sampler makes the batches."""
    loader = DataLoader(range(20), batch_size=None)
    shortened(loader).count = 3
    assert list(loader) == [0, 1, 2]
