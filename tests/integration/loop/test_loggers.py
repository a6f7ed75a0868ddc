"""Real loggers beside a real loader: TensorBoard's writer, W&B's run, Lightning's loggers, a broken one."""

from __future__ import annotations

import csv
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
from torch.utils.data import DataLoader

import feedwater
from feedwater.testing import FakeTransport
from tests.support.processes import eventually

with warnings.catch_warnings():
    # Their own imports draw warnings of deprecation.
    warnings.simplefilter("ignore")
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter
    from wandb.proto import wandb_internal_pb2

EPOCHS = 3


def train(log: feedwater.EpochLogger, *names: str) -> None:
    """Train three epochs of 8 batches with each loader, with advice after the first."""
    loaders = [watched(log, name) for name in names]
    for _ in range(EPOCHS):
        for loader in loaders:
            list(loader)
    log.finish(*loaders)


def watched(log: feedwater.EpochLogger, name: str) -> DataLoader:
    """Return a loader of 8 batches, with advice after its first epoch."""
    return feedwater.watch(
        DataLoader(range(32), batch_size=4),
        name=name,
        mode="advise",
        transport=FakeTransport({0: 2}),
        on_epoch=log,
    )


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


@pytest.fixture
def run(tmp_path: Path) -> Iterator[wandb.Run]:
    """A run that keeps to this machine."""
    quiet = wandb.Settings(silent=True, console="off")
    with wandb.init(project="feedwater", mode="offline", dir=tmp_path, settings=quiet) as one:
        yield one


def rows(directory: Path) -> list[dict[str, float]]:
    """Return the rows that a run has written, without its own columns."""
    found = []
    for record in records(directory, "history"):
        items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        found.append({name: json.loads(value) for name, value in items.items() if name[0] != "_"})
    return found


def records(directory: Path, kind: str) -> list[wandb_internal_pb2.Record]:
    """Return a run's records of one kind, once all are written: in 1 of 8 runs that is after ``finish()``."""
    (file,) = directory.glob("wandb/offline-run-*/*.wandb")
    found = eventually(lambda: ended(file))
    return [record for record in found if record.WhichOneof("record_type") == kind]


def ended(file: Path) -> list[wandb_internal_pb2.Record]:
    """Return the records of a run that has ended, which the last one says; none while it has not."""
    found = [wandb_internal_pb2.Record.FromString(entry) for entry in entries(file.read_bytes())]
    return found if any(record.WhichOneof("record_type") == "exit" for record in found) else []


def entries(data: bytes) -> Iterator[bytes]:
    """Yield what a run's file holds: a header, then LevelDB's log format, in blocks of 32 KiB."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        left = 2**15 - at % 2**15
        if left < 7:
            at += left
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        # Whole, or the last piece of one.
        if kind in (1, 4):
            yield whole
            whole = b""


def test_wandb_has_every_epoch_on_the_users_rows(run: wandb.Run, tmp_path: Path) -> None:
    """Rows and steps stay the user's own; two loaders share one row, each on an axis of its epochs."""
    log = feedwater.EpochLogger(run)
    loaders = [watched(log, name) for name in ("train", "validation")]
    for epoch in range(EPOCHS):
        for loader in loaders:
            list(loader)
        run.log({"loss": 0.5, "batch": 8 * epoch})
    log.finish(*loaders)
    run.finish()
    found = rows(tmp_path)
    assert [row.get("loss") for row in found] == [0.5, 0.5, 0.5, None]
    for name in ("train", "validation"):
        assert [row.get(f"feedwater/{name}/epoch") for row in found] == [None, 0, 1, 2]
        assert [row.get(f"feedwater/{name}/batches") for row in found] == [None, 8, 8, 8]
    axes = [(r.metric.glob_name, r.metric.step_metric) for r in records(tmp_path, "metric")]
    assert [axis for axis in axes if axis[0]] == [
        (f"feedwater/{name}/*", f"feedwater/{name}/epoch") for name in ("train", "validation")
    ]


def test_wandb_loses_no_epoch_of_a_training_that_logs_nothing(run: wandb.Run, tmp_path: Path) -> None:
    """Figures that wait for the user's row are not replaced by those of the next epoch."""
    train(feedwater.EpochLogger(run), "train", "validation")
    run.finish()
    found = rows(tmp_path)
    for name in ("train", "validation"):
        epochs = [row[f"feedwater/{name}/epoch"] for row in found if f"feedwater/{name}/epoch" in row]
        assert epochs == [0, 1, 2]


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
