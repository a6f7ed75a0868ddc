"""Real loggers beside a real loader: TensorBoard's writer, Lightning's loggers, one that is broken."""

from __future__ import annotations

import csv
import logging
import warnings
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

import feedwater
from feedwater.testing import FakeTransport

with warnings.catch_warnings():
    # Their own imports draw warnings of deprecation.
    warnings.simplefilter("ignore")
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

EPOCHS = 3


def train(log: feedwater.EpochLogger, *names: str) -> None:
    """Train three epochs of 8 batches with each loader, with advice after the first."""
    loaders = [
        feedwater.watch(
            DataLoader(range(32), batch_size=4),
            name=name,
            mode="advise",
            transport=FakeTransport({0: 2}),
            on_epoch=log,
        )
        for name in names
    ]
    for _ in range(EPOCHS):
        for loader in loaders:
            list(loader)
    log.finish(*loaders)


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Return what TensorBoard itself reads: for each tag its steps and values."""
    events = EventAccumulator(str(directory))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_has_every_epoch_once(tmp_path: Path) -> None:
    """The last one too, which no next one followed; the recommendation where there was one."""
    with SummaryWriter(str(tmp_path)) as writer:
        train(feedwater.EpochLogger(writer), "train")
    found = scalars(tmp_path)
    assert found["feedwater/train/batches"] == [(0, 8), (1, 8), (2, 8)]
    assert found["feedwater/train/recommended_num_workers"] == [(0, 2)]
    assert all(value > 0 for _, value in found["feedwater/train/batches_per_second"])


def test_one_object_serves_several_loaders(tmp_path: Path) -> None:
    """Each under its own name."""
    with SummaryWriter(str(tmp_path)) as writer:
        train(feedwater.EpochLogger(writer), "train", "validation")
    found = scalars(tmp_path)
    assert len(found["feedwater/train/epoch"]) == len(found["feedwater/validation/epoch"]) == EPOCHS


def test_lightnings_tensorboard_logger(tmp_path: Path) -> None:
    """By ``log_metrics``, as Lightning's own callbacks do."""
    logger = TensorBoardLogger(str(tmp_path))
    train(feedwater.EpochLogger(logger), "train")
    logger.finalize("success")
    assert scalars(Path(logger.log_dir))["feedwater/train/epoch"] == [(0, 0), (1, 1), (2, 2)]


def test_lightnings_csv_logger(tmp_path: Path) -> None:
    """One row for each epoch."""
    logger = CSVLogger(str(tmp_path))
    train(feedwater.EpochLogger(logger), "train")
    logger.finalize("success")
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["feedwater/train/batches"]) for row in rows] == [
        ("0", "8"),
        ("1", "8"),
        ("2", "8"),
    ]


def test_broken_logger_does_not_end_training(caplog: pytest.LogCaptureFixture) -> None:
    """It raises at each epoch, the last one too: three epochs are trained, and one line says so."""

    def broken(values: dict[str, float], step: int) -> None:
        raise ConnectionError("the server is down")

    with caplog.at_level(logging.WARNING, "feedwater"):
        train(feedwater.EpochLogger(broken), "train")
    assert sum("the server is down" in record.getMessage() for record in caplog.records) == 1
