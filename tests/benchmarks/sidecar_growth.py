"""Does the sidecar's memory level off, however long a training is?

Four ranks report 2,000 epochs of 1,000 batches each as fast as the sidecar takes them, each rank asks for its
recommendation after each epoch, and every tenth epoch is followed by a scrape and a look at the live page's
state: as much as comes in eleven hours of epochs of 20 s. Measured: its resident memory after each epoch.
Not measured: how fast it is. Warm-up: the first half, in which histories fill up to their bounds.

    python -m tests.benchmarks.sidecar_growth --json tests/benchmarks/results/sidecar_growth.json
"""

from __future__ import annotations

import urllib.request
from contextlib import ExitStack, closing
from statistics import median

import psutil

from feedwater.v1 import feedwater_pb2 as pb
from tests.support.benchmark import Options, Row, log, options, publish, row
from tests.support.processes import sidecar
from tests.support.rank import Rank

RANKS = 4
BATCHES = 1000
EPOCHS = 2000


def measure_all(chosen: Options) -> list[Row]:
    """Measure one run."""
    epochs = EPOCHS // 50 if chosen.quick else EPOCHS
    resident = []
    with ExitStack() as stack:
        one = stack.enter_context(sidecar())
        process = psutil.Process(one.pid)
        ranks = [Rank(one.address, rank=rank, world=RANKS, batches=BATCHES) for rank in range(RANKS)]
        for rank in ranks:
            stack.enter_context(closing(rank))
            rank.register(mode=pb.MODE_ADVISE)
        for number in range(epochs):
            for rank in ranks:
                rank.epoch(number=number)
            for rank in ranks:
                rank.ask(epoch=number)
            if number % 10 == 9:
                one.metrics()
                urllib.request.urlopen(f"http://127.0.0.1:{one.http_port()}/api/v1/state", timeout=10).read()
            resident.append(process.memory_info().rss / 2**20)
            if number % (epochs // 20) == 0:
                log(f"epoch {number}: {resident[-1]:.1f} MiB")
    quarter = epochs // 4
    third, last = median(resident[2 * quarter : 3 * quarter]), median(resident[3 * quarter :])
    note = f"{RANKS} ranks, {epochs} epochs of {BATCHES} batches"
    return [
        row("resident memory, most", "MiB", [max(resident)], bar="<= 128", note=note),
        row("growth from the third quarter to the last", "%", [100 * (last / third - 1)], bar="<= 2"),
    ]


if __name__ == "__main__":
    chosen_options = options(__doc__)
    publish(__doc__, measure_all(chosen_options), chosen_options)
