"""Marks survive what frameworks do to a loader."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

import feedwater
from feedwater.testing import FakeTransport
from tests.integration.loop.loop_datasets import Numbers, Sharded
from tests.support.processes import root_environment


def test_accelerate_prepare_carries_the_mark_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader that prepare built is measured under the name given to the one before, and changed."""
    accelerate = pytest.importorskip("accelerate")
    fake = FakeTransport({0: 2})
    loader = feedwater.watch(DataLoader(Numbers(), batch_size=4, num_workers=1), name="train", transport=fake)
    prepared = accelerate.Accelerator(cpu=True).prepare(loader)
    assert prepared is not loader
    for _ in range(2):
        assert len(list(prepared)) == 12
    assert fake.begins("train")[0].settings.num_workers == 1
    assert [e.head for e in fake.ends("train")] == [12, 24]
    assert len(feedwater.history(prepared)) == 2


def test_watching_what_accelerate_prepared_is_the_same() -> None:
    """watch() of a prepared loader returns it, and marks the loader inside."""
    accelerate = pytest.importorskip("accelerate")
    fake = FakeTransport({0: 2})
    prepared = accelerate.Accelerator(cpu=True).prepare(DataLoader(Numbers(), batch_size=4))
    assert feedwater.watch(prepared, name="train", transport=fake, allow_workers=True) is prepared
    for _ in range(2):
        assert len(list(prepared)) == 12
    assert prepared.num_workers == 2


def test_an_iterable_in_a_shard_wrapper_keeps_its_mark() -> None:
    """Accelerate's IterableDatasetShard hides the dataset; the mark is found through it."""
    data_loader = pytest.importorskip("accelerate.data_loader")
    fake = FakeTransport()
    dataset = Sharded()
    feedwater.watch(DataLoader(dataset, batch_size=4), name="train", transport=fake)
    shard = DataLoader(data_loader.IterableDatasetShard(dataset, batch_size=4), batch_size=4)
    list(shard)
    assert [e.head for e in fake.ends("train")] == [6]


def test_a_loader_built_anew_each_epoch_is_one_loader() -> None:
    """Three loaders over one dataset, one after the other, are epochs 0, 1, 2; our count is carried over."""
    fake = FakeTransport({0: 2})
    dataset = Numbers()
    for _ in range(3):
        for _batch in feedwater.watch(
            DataLoader(dataset, batch_size=4, num_workers=1), transport=fake, allow_workers=True
        ):
            pass
    (description,) = fake.loaders.values()
    assert [(b.epoch, b.settings.num_workers) for b in fake.begins(description.name)] == [
        (0, 1),
        (1, 2),
        (2, 2),
    ]


def test_two_loaders_in_use_over_one_dataset_keep_apart() -> None:
    """A validation loader over the training loader's dataset does not take its mark."""
    fake = FakeTransport()
    dataset = Numbers()
    train = feedwater.watch(DataLoader(dataset, batch_size=4), name="train", transport=fake)
    list(train)
    other = DataLoader(dataset, batch_size=8)
    list(other)
    list(train)
    assert [e.head for e in fake.ends("train")] == [12, 24]
    with pytest.raises(ValueError, match="must be one that"):
        feedwater.history(other)


LIGHTNING = """
import json, os, sys, warnings, logging
warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
import lightning as L, torch
import feedwater
from feedwater.testing import FakeTransport
from tests.integration.loop.loop_datasets import Numbers
from torch.utils.data import DataLoader
class Model(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
    def training_step(self, batch, index):
        return self.layer(batch.float()).sum()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-6)
fake = FakeTransport({0: 2})
loader = feedwater.watch(DataLoader(Numbers(), batch_size=4, num_workers=1, shuffle=True), name="train",
                         transport=fake, allow_workers=True)
L.Trainer(accelerator="cpu", devices=DEVICES, strategy=STRATEGY, max_epochs=3, logger=False,
          enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
          ).fit(Model(), loader)
told = [int(os.environ.get("LOCAL_RANK", 0)), [b.settings.num_workers for b in fake.begins("train")],
        [[e.head, e.complete] for e in fake.ends("train")]]
# One write: the ranks share the pipe.
os.write(1, f"{json.dumps(told)}\\n".encode())
"""


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("devices", "strategy"), [(1, "auto"), pytest.param(2, "ddp", marks=pytest.mark.slow)]
)
def test_lightning_is_measured_and_changed(tmp_path: Path, devices: int, strategy: str) -> None:
    """Under Lightning, also with DDP on two processes, each rank changes after epoch 0; no batch lacks."""
    pytest.importorskip("lightning")
    import json

    path = tmp_path / "train.py"
    text = LIGHTNING.replace("DEVICES", str(devices)).replace("STRATEGY", repr(strategy))
    path.write_text(text)
    done = subprocess.run(
        [sys.executable, str(path)],
        env=root_environment()
        | {"FEEDWATER_RUN_DIR": str(tmp_path), "FEEDWATER_JOB": "t", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ranks = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert sorted(rank for rank, _, _ in ranks) == list(range(devices))
    per_epoch = 12 // devices
    for _, workers, ended in ranks:
        assert workers[:3] == [1, 2, 2]
        assert ended[:3] == [[per_epoch * n, True] for n in (1, 2, 3)]


def test_distributed_sampler_keeps_its_shards() -> None:
    """A DistributedSampler's epoch and shard are those of the unwatched loader."""
    from torch.utils.data.distributed import DistributedSampler

    def run(transport: FakeTransport | None) -> list[list[int]]:
        sampler = DistributedSampler(Numbers(), num_replicas=2, rank=1, seed=4)
        loader = DataLoader(Numbers(), batch_size=4, sampler=sampler)
        if transport is not None:
            feedwater.watch(loader, transport=transport, allow_workers=True)
        epochs = []
        for epoch in range(3):
            sampler.set_epoch(epoch)
            epochs.append(torch.cat(list(loader)).flatten().tolist())
        return epochs

    assert run(FakeTransport({0: 2, 1: 1})) == run(None)


def test_a_list_as_dataset_built_into_a_loader_each_epoch_is_one_loader() -> None:
    """A list takes no weak reference; its loaders, one after the other, are still one loader's epochs."""
    fake = FakeTransport()
    numbers = [torch.tensor(i) for i in range(8)]
    for _ in range(3):
        for _batch in feedwater.watch(DataLoader(numbers, batch_size=4), transport=fake):  # type: ignore[arg-type]
            pass
    (description,) = fake.loaders.values()
    assert [e.head for e in fake.ends(description.name)] == [2, 4, 6]


def test_only_the_depth_changes_for_an_iterable_dataset() -> None:
    """The order of its data depends on the count, not on prefetch_factor: that is applied."""
    from feedwater.testing import Advice

    fake = FakeTransport({0: Advice(2, prefetch_factor=4)})
    loader = DataLoader(Sharded(), batch_size=4, num_workers=2)
    feedwater.watch(loader, name="t", transport=fake)
    epochs = [[b.tolist() for b in loader] for _ in range(2)]
    assert epochs[0] == epochs[1]
    assert loader.prefetch_factor == 4
