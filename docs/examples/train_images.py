"""Train a small image classifier from a folder or an object store; the trainer of ``make demo``.

    python docs/examples/train_images.py --source DIR --workers 2
    python docs/examples/train_images.py --source http://127.0.0.1:9000 --workers 2

An ordinary PyTorch script: JPEG files are decoded and augmented in the dataset, a CNN learns their class from
the file names. The whole integration with Feedwater is one line in `main`.

The accelerator is a stand-in: each step takes at least ``--step-seconds``, during which the CPU is free,
as it is while a GPU computes. That makes the example the same on every machine.
"""

from __future__ import annotations

import argparse
import io
import json
import pathlib
import random
import time
import urllib.request
import zlib
from dataclasses import asdict, dataclass, field

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

import feedwater

Item = tuple[torch.Tensor, int, int]
"""Image of shape (3, height, width), class, index of the file."""


class Folder:
    """JPEG files in a directory."""

    def __init__(self, path: str) -> None:
        self._path = pathlib.Path(path)

    def names(self) -> list[str]:
        """Return the names of all files, sorted."""
        return sorted(file.name for file in self._path.glob("*.jpg"))

    def read(self, name: str) -> bytes:
        """Return the content of one file."""
        return (self._path / name).read_bytes()


class Bucket:
    """JPEG files behind HTTP, one GET each, as an object store serves them."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def names(self) -> list[str]:
        """Return the names of all files, sorted."""
        return sorted(self.read("").decode().split())

    def read(self, name: str) -> bytes:
        """Return the content of one object."""
        with urllib.request.urlopen(f"{self._url}/{name}", timeout=30) as response:
            content: bytes = response.read()
        return content


class Photos(Dataset[Item]):
    """JPEG photos; the class of ``forest-0012.jpg`` is ``forest``."""

    def __init__(self, source: Folder | Bucket, size: int) -> None:
        self._source = source
        self._size = size
        self._names = source.names()
        self.classes = sorted({name.partition("-")[0] for name in self._names})

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Item:
        name = self._names[index]
        photo = Image.open(io.BytesIO(self._source.read(name))).convert("RGB")
        pixels = torch.frombuffer(bytearray(augmented(photo, self._size).tobytes()), dtype=torch.uint8)
        image = pixels.view(self._size, self._size, 3).permute(2, 0, 1).float().div_(255)
        return image, self.classes.index(name.partition("-")[0]), index


def augmented(photo: Image.Image, size: int) -> Image.Image:
    """Return a random crop of the photo, mirrored half of the time, scaled to ``size`` by ``size`` pixels."""
    side = int(min(photo.size) * random.uniform(0.6, 1.0))
    left, top = random.randint(0, photo.width - side), random.randint(0, photo.height - side)
    cropped = photo.resize(
        (size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side), reducing_gap=None
    )
    return cropped.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else cropped


class Network(nn.Sequential):
    """A CNN small enough for a CPU; it tells the demo's scenes apart within a few epochs."""

    def __init__(self, classes: int) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 5, stride=4),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, classes),
        )


class Trainer:
    """A network, its optimizer, and an accelerator that takes its time."""

    def __init__(self, classes: int, step_seconds: float) -> None:
        self._network = Network(classes)
        self._optimizer = torch.optim.Adam(self._network.parameters(), lr=0.01)
        self._step_seconds = step_seconds

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        """Learn from one batch and return its loss."""
        began = time.perf_counter()
        self._optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self._network(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        time.sleep(max(0.0, self._step_seconds - (time.perf_counter() - began)))
        return loss.item()


@dataclass
class Epoch:
    """One epoch as the script itself sees it, by its own clock."""

    epoch: int
    workers: int = 0
    seconds: float = 0.0
    batches: int = 0
    wait_seconds: float = 0.0
    """Between a step's end and the next batch; the first batch of an epoch is start-up and not in it."""
    step_seconds: float = 0.0
    loss: float = 0.0
    samples: str = "0"
    """Checksum of the indices of the samples, in order."""
    losses: list[float] = field(default_factory=list, repr=False)

    @property
    def starvation(self) -> float:
        """Share of the time between the first batch and the last that was spent waiting, 0 to 1."""
        return self.wait_seconds / max(1e-9, self.wait_seconds + self.step_seconds)


def train(loader: DataLoader[Item], trainer: Trainer, number: int, report: Reporter) -> Epoch:
    """Train one epoch and return how it went."""
    epoch, checksum = Epoch(number), 0
    began = asked = time.perf_counter()
    for images, labels, indices in loader:
        got = time.perf_counter()
        epoch.wait_seconds += got - asked if epoch.batches else 0.0
        epoch.losses.append(trainer.step(images, labels))
        epoch.batches += 1
        checksum = zlib.crc32(indices.numpy().tobytes(), checksum)
        report.batch(epoch, len(loader))
        asked = time.perf_counter()
        epoch.step_seconds += asked - got
    epoch.seconds = time.perf_counter() - began
    epoch.workers = loader.num_workers
    epoch.loss = sum(epoch.losses) / max(1, epoch.batches)
    epoch.samples = f"{checksum:08x}"
    return epoch


class Reporter:
    """Prints one line per epoch: a sentence, or JSON for the program that compares runs."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._advised_epoch = -1

    def batch(self, epoch: Epoch, batches: int) -> None:
        """Say how far the epoch has come."""
        if self._as_json:
            self._print("progress", {"epoch": epoch.epoch, "batches": epoch.batches, "of": batches})

    def epoch(self, epoch: Epoch) -> None:
        """Say how the epoch went."""
        if self._as_json:
            values = {key: value for key, value in asdict(epoch).items() if key != "losses"}
            self._print("epoch", values | {"starvation": epoch.starvation})
        else:
            rate = epoch.batches / epoch.seconds
            print(
                f"epoch {epoch.epoch}: {epoch.seconds:.1f} s, {rate:.1f} batches/s, "
                f"{epoch.workers} workers, waiting {epoch.starvation:.0%}, loss {epoch.loss:.3f}",
                flush=True,
            )

    def advice(self, loader: DataLoader[Item]) -> None:
        """Say what Feedwater recommended at the last epoch boundary, once."""
        said = feedwater.recommendation(loader)
        if said is None or said.epoch <= self._advised_epoch:
            return
        self._advised_epoch = said.epoch
        if self._as_json:
            self._print("advice", asdict(said))
        else:
            print(f"  feedwater, after epoch {said.epoch}: {said.verdict}: {said.sentence}")

    def history(self, loader: DataLoader[Item]) -> None:
        """Say how Feedwater saw each epoch, for comparison with the script's own clock."""
        if self._as_json:
            for seen in feedwater.history(loader):
                self._print("history", asdict(seen) | {"starvation": seen.starvation})

    @staticmethod
    def _print(kind: str, values: dict[str, object]) -> None:
        print(json.dumps({"event": kind} | values), flush=True)


def main() -> None:
    """Train as the command line says."""
    options = parsed()
    # The CNN is tiny: more threads cost more than they bring, and would eat the loader's CPU limit.
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    source = Bucket(options.source) if options.source.startswith("http") else Folder(options.source)
    photos = Photos(source, options.size)
    loader = DataLoader(
        photos,
        batch_size=options.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=options.workers,
        generator=torch.Generator().manual_seed(options.seed),
    )
    if not options.plain:
        loader = feedwater.watch(loader, name="train")  # <- the whole integration

    trainer, report = Trainer(len(photos.classes), options.step_seconds), Reporter(options.json)
    for number in range(options.epochs):
        report.epoch(train(loader, trainer, number, report))
        if not options.plain:
            report.advice(loader)
    if not options.plain:
        report.history(loader)


def parsed() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description="Train a small image classifier.")
    parser.add_argument("--source", required=True, metavar="DIR|URL", help="where the JPEG files are")
    parser.add_argument("--workers", type=int, default=0, help="num_workers to start with")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--size", type=int, default=128, help="side of the images trained on, in pixels")
    parser.add_argument("--step-seconds", type=float, default=0.02, help="shortest time of a training step")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--plain", action="store_true", help="train without Feedwater")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    return parser.parse_args()


if __name__ == "__main__":
    main()
