"""What the benchmark loads: datasets whose cost per item is known, each slow for one reason."""

from __future__ import annotations

import http.client
import io
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

Blocked = Callable[[int], float]


def burn(seconds: float) -> None:
    """Use so much CPU time of this thread, however long that takes."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def constant(seconds: float) -> Blocked:
    """Return the same blocked time for each item."""
    return lambda index: seconds


def lognormal(mean: float, sigma: float) -> Blocked:
    """Return heavy-tailed blocked times; drawn by index, so that each epoch costs the same."""
    return lambda index: mean * random.Random(index).lognormvariate(-(sigma**2) / 2, sigma)


def pareto(mean: float, alpha: float) -> Blocked:
    """Return blocked times with a power-law tail; ``alpha`` above 1, else there is no mean."""
    least = mean * (alpha - 1) / alpha
    return lambda index: least * random.Random(index).paretovariate(alpha)


def bursty(usual: float, opening: float, every: int) -> Blocked:
    """Return short times, and a long one for each item that opens a shard."""
    return lambda index: opening if index % every == 0 else usual


class Timed(Dataset[torch.Tensor]):
    """Items that block and compute for given times."""

    def __init__(self, items: int, blocked: Blocked, cpu: float, shape: Sequence[int] = (64,)) -> None:
        self.items, self.blocked, self.cpu, self.shape = items, blocked, cpu, tuple(shape)

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> torch.Tensor:
        blocked = self.blocked(index)
        if blocked > 0:
            time.sleep(blocked)
        if self.cpu > 0:
            burn(self.cpu)
        return torch.full(self.shape, float(index))


class Several(Timed):
    """The same in many tensors: each is moved by itself."""

    tensors = 20

    def __getitem__(self, index: int) -> list[torch.Tensor]:  # type: ignore[override]
        first = super().__getitem__(index)
        return [first.clone() for _ in range(self.tensors)]


class Capped(Timed):
    """Storage that serves only so many reads at once, over all workers."""

    def __init__(self, items: int, blocked: Blocked, cpu: float, reads: int) -> None:
        super().__init__(items, blocked, cpu)
        self.slots = multiprocessing.get_context("fork").Semaphore(reads)

    def __getitem__(self, index: int) -> torch.Tensor:
        with self.slots:
            time.sleep(self.blocked(index))
        # Outside, so that who waits for a slot gets it before this process asks again: storage is fair.
        burn(self.cpu)
        return torch.full(self.shape, float(index))


class SlowStart(Timed):
    """The first item in each process costs extra: a tokenizer, an index, an import."""

    def __init__(self, items: int, blocked: Blocked, cpu: float, first_cpu: float) -> None:
        super().__init__(items, blocked, cpu)
        self.first_cpu = first_cpu
        self.pid = 0

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.pid != os.getpid():
            self.pid = os.getpid()
            burn(self.first_cpu)
        return super().__getitem__(index)


class Hungry(Timed):
    """Each process keeps a cache of its own."""

    def __init__(self, items: int, blocked: Blocked, cpu: float, cache_bytes: int) -> None:
        super().__init__(items, blocked, cpu)
        self.cache_bytes = cache_bytes
        self.caches: dict[int, bytearray] = {}

    def __getitem__(self, index: int) -> torch.Tensor:
        if os.getpid() not in self.caches:
            cache = bytearray(self.cache_bytes)
            # Zeroed pages are not there until they are written.
            cache[::4096] = b"x" * len(range(0, self.cache_bytes, 4096))
            self.caches = {os.getpid(): cache}
        return super().__getitem__(index)


class Cold(Timed):
    """Items whose first reading, by whichever process, is slower: the page cache."""

    def __init__(self, items: int, blocked: Blocked, cpu: float, factor: float) -> None:
        super().__init__(items, blocked, cpu)
        self.factor = factor
        self.seen = torch.zeros(items, dtype=torch.uint8).share_memory_()

    def __getitem__(self, index: int) -> torch.Tensor:
        if not self.seen[index]:
            self.seen[index] = 1
            time.sleep(self.blocked(index) * (self.factor - 1))
        return super().__getitem__(index)


class Turning(Timed):
    """Items that become slower from a given epoch on, as when a curriculum turns to long samples."""

    def __init__(self, items: int, blocked: Blocked, cpu: float, factor: float, epoch: int) -> None:
        super().__init__(items, blocked, cpu)
        self.factor, self.turns_at, self.epoch = factor, epoch, 0

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.epoch >= self.turns_at:
            time.sleep(self.blocked(index) * (self.factor - 1))
        return super().__getitem__(index)


class Threaded(Dataset[torch.Tensor]):
    """Matrix products by a library that starts threads of its own in every worker."""

    def __init__(self, items: int, size: int, products: int) -> None:
        self.items, self.size, self.products = items, size, products

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> torch.Tensor:
        import numpy

        matrix = numpy.full((self.size, self.size), 0.5, dtype=numpy.float32)
        for _ in range(self.products):
            matrix = matrix @ matrix
            matrix *= 1.0 / self.size
        return torch.full((64,), float(index))


class Jpegs(Dataset[torch.Tensor]):
    """JPEG files in memory, decoded and shrunk by Pillow."""

    def __init__(self, items: int, width: int = 480, height: int = 360) -> None:
        from PIL import Image

        self.items = items
        noise = random.Random(7)
        self.files = []
        for _ in range(16):
            small = Image.frombytes("RGB", (32, 32), noise.randbytes(32 * 32 * 3))
            out = io.BytesIO()
            small.resize((width, height), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
            self.files.append(out.getvalue())

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> torch.Tensor:
        from PIL import Image

        image = Image.open(io.BytesIO(self.files[index % len(self.files)])).convert("RGB").resize((128, 128))
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(128, 128, 3)
        pixels[0, 0, 0] = self.mark(index)
        return pixels

    def mark(self, index: int) -> int:
        """Return the number that shows which sample it is: one byte holds no more."""
        return index % 251


class Objects(Dataset[torch.Tensor]):
    """Objects fetched over HTTP, one connection per process, then decoded for a while."""

    def __init__(self, items: int, cpu: float) -> None:
        self.items, self.cpu = items, cpu
        self.port = int(os.environ["OBJECT_STORE_PORT"])
        self.connections: dict[int, http.client.HTTPConnection] = {}

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> torch.Tensor:
        if os.getpid() not in self.connections:
            self.connections = {os.getpid(): http.client.HTTPConnection("127.0.0.1", self.port)}
        connection = self.connections[os.getpid()]
        connection.request("GET", f"/{index}")
        body = connection.getresponse().read()
        burn(self.cpu)
        assert body
        return torch.full((64,), float(index))


class Tiny(Dataset[torch.Tensor]):
    """Rows of one tensor in memory."""

    def __init__(self, items: int) -> None:
        self.rows = torch.arange(items * 8, dtype=torch.float32).view(items, 8)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.rows[index]

    def mark(self, index: int) -> int:
        """Return the first number of a row."""
        return 8 * index


class Opened(Dataset[torch.Tensor]):
    """Records of a file opened in ``__init__``: forked workers share its offset, and read wrong records."""

    def __init__(self, items: int, blocked: float) -> None:
        import tempfile

        self.items, self.blocked = items, blocked
        with tempfile.NamedTemporaryFile("wb", delete=False, prefix="feedwater-records-") as out:
            out.write(b"".join(i.to_bytes(8, "little") for i in range(items)))
        # Unbuffered: each read moves the shared offset.
        self.file = open(out.name, "rb", buffering=0)  # noqa: SIM115
        os.unlink(out.name)

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> torch.Tensor:
        self.file.seek(index * 8)
        time.sleep(self.blocked)
        return torch.full((1,), float(int.from_bytes(self.file.read(8), "little")))


class Shards(IterableDataset[torch.Tensor]):
    """A stream in a few shards, which workers divide among them: more workers than shards have nothing."""

    def __init__(self, items: int, blocked: float, cpu: float, shards: int) -> None:
        self.items, self.blocked, self.cpu, self.shards = items, blocked, cpu, shards

    def __len__(self) -> int:
        return self.items

    def __iter__(self) -> Iterator[torch.Tensor]:
        info = get_worker_info()
        mine = range(self.shards)[info.id :: info.num_workers] if info else range(self.shards)
        for shard in mine:
            for index in range(shard, self.items, self.shards):
                time.sleep(self.blocked)
                burn(self.cpu)
                yield torch.full((64,), float(index))


class Background:
    """Python threads beside the training loop that want the interpreter for a share of the time."""

    def __init__(self, threads: int, busy: float, idle: float) -> None:
        self.busy, self.idle = busy, idle
        self.threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]

    def start(self) -> None:
        """Start them; they end with the process."""
        for thread in self.threads:
            thread.start()

    def _work(self) -> None:
        while True:
            burn(self.busy)
            time.sleep(self.idle)
