"""What a person recognises a loader by, and into how many shards its data set falls."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from torch.utils.data import BatchSampler, DataLoader, Dataset, Subset, TensorDataset

from feedwater.loop import origin
from feedwater.loop.attach import hooks
from feedwater.loop.boundary import describe


class Photos(Dataset[int]):
    """Ten numbers."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> int:
        return index


class Nameless(Photos):
    """Ten numbers that cannot be counted."""

    def __len__(self) -> int:
        raise RuntimeError("not yet")


@pytest.fixture(autouse=True)
def hooked() -> None:
    """Note where loaders are made."""
    hooks.install()


@pytest.mark.parametrize(
    ("made", "label"),
    [
        (lambda: DataLoader(Photos(), batch_size=4), "Photos[10], batches of 4"),
        (lambda: DataLoader(Subset(Photos(), range(6)), batch_size=2), "Subset of Photos[6], batches of 2"),
        (
            lambda: DataLoader(Photos(), batch_sampler=BatchSampler(range(9), 3, False)),
            "Photos[10], batches of 3",
        ),
        (lambda: DataLoader(Photos(), batch_size=None), "Photos[10]"),
        (lambda: DataLoader(Nameless(), batch_size=4, sampler=range(4)), "Nameless, batches of 4"),
        (lambda: DataLoader([1, 2, 3]), "list[3], batches of 1"),
    ],
)
def test_label_is_data_set_length_batch_size_and_place(made, label) -> None:
    """As far as each is known; the place is the line of the nearest caller that is no library's."""
    text, _, place = describe.label(made()).rpartition(", ")
    assert text == label
    assert place.startswith("test_describe.py:")


class Trainer:
    """Makes its loaders in a method, as a framework does."""

    def loader(self) -> DataLoader[int]:
        """Return a new one."""
        return DataLoader(Photos())


def test_loaders_made_at_one_place_have_the_same_callers() -> None:
    """In a loop each is later than the one before, and made by the same lines; on another line by others."""
    trainer = Trainer()
    first, second = (origin.of(trainer.loader()) for _ in range(2))
    third = origin.of(trainer.loader())
    assert first is not None
    assert second is not None
    assert third is not None
    assert first.calls == second.calls != third.calls
    assert first.stamp_ns < second.stamp_ns < third.stamp_ns


def test_constructors_of_a_subclass_are_no_callers() -> None:
    """The place is where the subclass was made, not where it calls its base."""

    class Loader(DataLoader[int]):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)

    made = origin.of(Loader(Photos()))
    assert made is not None
    line = made.place.partition(":")[2]
    assert "origin.of(Loader(Photos()))" in Path(__file__).read_text().splitlines()[int(line) - 1]


def _of_module(module: str, **values: object) -> object:
    return type("Stream", (), {"__module__": module, **values})()


@pytest.mark.parametrize(
    ("dataset", "shards"),
    [
        (_of_module("datasets.iterable_dataset", num_shards=8), 8),
        (_of_module("datasets.iterable_dataset", n_shards=4), 4),
        (_of_module("mine", num_shards=8), None),
        (SimpleNamespace(pipeline=[SimpleNamespace(urls=["a", "b", "c"]), object()]), 3),
        (SimpleNamespace(pipeline=[object()]), None),
        (TensorDataset(), None),
        (None, None),
    ],
)
def test_shards_are_those_that_the_data_set_states(dataset: object, shards: int | None) -> None:
    """Hugging Face's count and webdataset's URLs; what another class calls so may be something else."""
    assert describe.shards_of(dataset) == shards


def test_shards_of_litdata_are_the_chunks_of_its_index(tmp_path: Path) -> None:
    """Five chunks in index.json; no index, no number."""
    dataset = _of_module("litdata.streaming.dataset", input_dir=SimpleNamespace(path=str(tmp_path)))
    assert describe.shards_of(dataset) is None
    (tmp_path / "index.json").write_text(json.dumps({"chunks": [{}] * 5}))
    assert describe.shards_of(dataset) == 5
    mine = type("Mine", (type(dataset),), {"__module__": "train"})()
    assert describe.shards_of(mine) == 5


def test_urls_are_divided_among_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 7 shards each of 2 ranks has 3 at least."""
    group = ModuleType("torch.distributed")
    group.is_available = group.is_initialized = lambda: True  # type: ignore[attr-defined]
    group.get_world_size = lambda: 2  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.distributed", group)
    urls = SimpleNamespace(urls=list("abcdefg"))
    assert describe.shards_of(SimpleNamespace(pipeline=[urls])) == 3
