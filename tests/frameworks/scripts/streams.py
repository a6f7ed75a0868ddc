"""Data sets that stream shards, which are made first: python streams.py (webdataset | mosaicml | litdata)."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
import time
from pathlib import Path

import torch
from synthetic import FEATURES, Journal, code_of, step, variant

COUNT = 120
SHARDS = 8
BATCH = 4
EPOCHS = 3
SECONDS = 0.01


def load(index: int) -> tuple[torch.Tensor, int]:
    """Stand for the decoding of a sample."""
    time.sleep(SECONDS)
    return torch.full((FEATURES,), index / COUNT), code_of(index)


def webdataset(directory: Path) -> object:
    """Return webdataset's loader over eight tar files."""
    import webdataset as wds

    for shard in range(SHARDS):
        with tarfile.open(directory / f"{shard:03}.tar", "w") as file:
            for index in range(shard * COUNT // SHARDS, (shard + 1) * COUNT // SHARDS):
                content = str(index).encode()
                member = tarfile.TarInfo(f"{index:06}.txt")
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))
    urls = [str(path) for path in sorted(directory.glob("*.tar"))]
    dataset = wds.WebDataset(urls, shardshuffle=False).map(lambda sample: load(int(sample["txt"])))
    return wds.WebLoader(dataset.batched(BATCH), batch_size=None, num_workers=1)


def mosaicml(directory: Path) -> object:
    """Return a loader over MosaicML's shards."""
    from streaming import MDSWriter, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory
    from torch.utils.data import DataLoader

    class Slow(StreamingDataset):
        def __getitem__(self, at: int) -> tuple[torch.Tensor, int]:
            return load(super().__getitem__(at)["index"])

    clean_stale_shared_memory()
    size = COUNT // SHARDS * 8
    with MDSWriter(out=str(directory), columns={"index": "int64"}, size_limit=size + 200) as writer:
        for index in range(COUNT):
            writer.write({"index": index})
    dataset = Slow(local=str(directory), batch_size=BATCH, shuffle=False, num_canonical_nodes=1)
    return DataLoader(dataset, batch_size=BATCH, num_workers=1)


def litdata(directory: Path) -> object:
    """Return litdata's loader over its chunks."""
    import numpy
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming.writer import BinaryWriter

    class Slow(StreamingDataset):
        def __next__(self) -> tuple[torch.Tensor, int]:
            return load(int(super().__next__()["index"]))

    os.environ["DATA_OPTIMIZER_CACHE_FOLDER"] = str(directory / "cache")
    writer = BinaryWriter(str(directory), chunk_size=COUNT // SHARDS)
    for index in range(COUNT):
        writer[index] = {"index": numpy.int64(index)}
    writer.done()
    writer.merge()
    return StreamingDataLoader(Slow(str(directory), shuffle=False), batch_size=BATCH, num_workers=1)


def main(make: str) -> None:
    """Train."""
    journal = Journal()
    with tempfile.TemporaryDirectory() as directory:
        loader = {"webdataset": webdataset, "mosaicml": mosaicml, "litdata": litdata}[make](Path(directory))
        for _ in range(EPOCHS):
            for _, codes in loader:
                journal.batch("train", codes)
                step()
            journal.epoch()
        del loader
    journal.write()


if __name__ == "__main__":
    torch.manual_seed(0)
    main(variant(("webdataset", "mosaicml", "litdata")))
