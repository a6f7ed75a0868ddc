"""Ultralytics' YOLO, from its own small description and a few pictures made here: python yolo.py."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy
from PIL import Image

PICTURES = 64
EPOCHS = 3
SECONDS = 0.08
"""Four of them are three times a training step on one CPU."""
SIDE = 32


def draw(directory: Path) -> Path:
    """Make pictures with a label each; return the description of the data set."""
    random = numpy.random.default_rng(0)
    for part in ("images", "labels"):
        (directory / part).mkdir()
    for index in range(PICTURES):
        picture = random.integers(0, 255, (SIDE, SIDE, 3), dtype=numpy.uint8)
        Image.fromarray(picture).save(directory / f"images/{index:03}.png")
        (directory / f"labels/{index:03}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    described = directory / "data.yaml"
    described.write_text(f"path: {directory}\ntrain: images\nval: images\nnames: {{0: thing}}\n")
    return described


def main(directory: Path) -> None:
    """Train."""
    os.environ |= {"YOLO_CONFIG_DIR": str(directory), "YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true"}
    from synthetic import Journal
    from torch.utils.data import get_worker_info
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.models.yolo.detect import DetectionTrainer

    journal = Journal()

    class Slow(YOLODataset):
        def __getitem__(self, index: int) -> dict[str, object]:
            time.sleep(SECONDS)
            info = get_worker_info()
            return {**super().__getitem__(index), "workers": 0 if info is None else info.num_workers}

    class Noting(DetectionTrainer):
        def build_dataset(self, *arguments: object, **more: object) -> YOLODataset:
            dataset = super().build_dataset(*arguments, **more)
            dataset.__class__ = Slow
            return dataset

        def preprocess_batch(self, batch: dict[str, object]) -> dict[str, object]:
            journal.note("train", [int(Path(file).stem) for file in batch["im_file"]], max(batch["workers"]))
            return super().preprocess_batch(batch)

    trainer = Noting(
        overrides={
            "model": "yolov8n.yaml",
            "data": str(draw(directory)),
            "project": str(directory / "runs"),
            "epochs": EPOCHS,
            "batch": 4,
            "imgsz": SIDE,
            "device": "cpu",
            "mosaic": 0.0,
            "amp": False,
            "val": False,
            "plots": False,
            "save": False,
            "verbose": False,
            "seed": 0,
        }
    )
    trainer.args.workers = 1  # Ultralytics sets 0 where the device is a CPU.
    trainer.add_callback("on_train_epoch_end", lambda _: journal.epoch())
    trainer.train()
    journal.write()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        main(Path(made))
