"""Do 128Mi of memory and a volume of 64Mi carry as many loaders as the default allows?

16 ranks with 16 loaders each, the default of `FEEDWATER_MAX_SESSIONS`: each reports nine epochs of 4,096
batches with two workers, their loads, and a reading of each process a second, as fast as the sidecar takes
them. Checkpoints are written each two seconds, and after each epoch one loader asks for its recommendation,
the metrics are scraped and the page's state is read. Measured: the sidecar's most resident memory (VmHWM)
and the most bytes of its state directory, sampled after each loader. Not measured: how fast it is. Warm-up:
none; the peak is what counts.

    python -m tests.benchmarks.sidecar_full --json tests/benchmarks/results/sidecar_full.json
"""

from __future__ import annotations

import re
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import grpc

from feedwater.v1 import feedwater_pb2 as pb
from feedwater.v1 import feedwater_pb2_grpc as pb_grpc
from tests.support.benchmark import Options, Row, log, options, publish, row
from tests.support.processes import Sidecar, sidecar

RANKS = 16
LOADERS = 16
BATCHES = 4096
EPOCHS = 9
WORKERS = 2
READINGS = 120
"""Of each worker in an epoch: 4,096 batches of 30 ms take two minutes."""


def measure_all(chosen: Options) -> list[Row]:
    """Measure one run."""
    ranks, epochs = (2, 3) if chosen.quick else (RANKS, EPOCHS)
    volume = 0
    with ExitStack() as stack:
        one = stack.enter_context(sidecar(environment={"FEEDWATER_CHECKPOINT_SECONDS": "2"}))
        channel = stack.enter_context(grpc.insecure_channel(one.address))
        stub = pb_grpc.FeedwaterServiceStub(channel)
        ids = [_register(stub, rank, loader) for rank in range(ranks) for loader in range(LOADERS)]
        for epoch in range(epochs):
            for loader_id in ids:
                stub.Report(_report(loader_id, epoch), timeout=30)
                volume = max(volume, _bytes_in(one.directory / "state"))
            _look(one, stub, ids[epoch], epoch)
            log(f"epoch {epoch}: {_most_resident(one):.0f} MiB, {volume / 2**20:.1f} MiB of state")
        resident = _most_resident(one)
    note = f"{len(ids)} loaders, {epochs} epochs of {BATCHES} batches"
    return [
        row("resident memory, most", "MiB", [resident], bar="<= 112", note=note),
        row("state directory, most", "MiB", [volume / 2**20], bar="<= 64", note=note),
    ]


def _register(stub: pb_grpc.FeedwaterServiceStub, rank: int, loader: int) -> str:
    identity = pb.Identity(client_id=f"client-{rank}", job="full", pod="full-0", rank=rank, world_size=RANKS)
    request = pb.RegisterLoaderRequest(
        identity=identity,
        loader=f"loader-{loader}",
        settings=pb.LoaderSettings(num_workers=WORKERS, prefetch_factor=2),
        mode=pb.MODE_ADVISE,
        dataset_kind=pb.DATASET_KIND_MAP,
        batches_per_epoch=BATCHES,
        can_apply=True,
        limits=pb.Limits(cpus=32, memory_bytes=64 << 30, shm_bytes=8 << 30),
    )
    answer: pb.RegisterLoaderResponse = stub.RegisterLoader(request, timeout=30, wait_for_ready=True)
    return answer.loader_id


def _report(loader_id: str, epoch: int) -> pb.ReportRequest:
    """Return a whole epoch: waits of 20 ms, steps of 10, loads of 60 by each worker."""
    began = 100 + epoch * 125.0
    message = pb.ReportRequest(loader_id=loader_id, sequence=epoch + 1)
    settings = pb.LoaderSettings(num_workers=WORKERS, prefetch_factor=2)
    message.begins.add(epoch=epoch, stamp_seconds=began, settings=settings, iter_seconds=0.05)
    message.batches.add(
        epoch=epoch,
        start_seconds=began,
        wait_seconds=[0.02] * BATCHES,
        step_seconds=[0.01] * BATCHES,
        ready=[0] * BATCHES,
    )
    count = BATCHES // WORKERS
    for worker in range(WORKERS):
        message.loads.add(
            epoch=epoch,
            worker=worker,
            pid=500 + worker,
            start_seconds=[began + i * 0.06 for i in range(count)],
            load_seconds=[0.06] * count,
            cpu_seconds=[0.01] * count,
            run_delay_seconds=[0.0] * count,
            batch_bytes=[1_000_000] * count,
            batch_tensors=[2] * count,
        )
        for second in range(READINGS):
            message.processes.add(
                pid=500 + worker,
                worker=worker,
                stamp_seconds=began + second,
                cpu_seconds=float(second),
                rss_bytes=(400 << 20) + second,
                pss_bytes=(180 << 20) + second,
                uss_bytes=(120 << 20) + second,
            )
    message.container.stamp_seconds = began + 120
    message.container.memory_bytes = 16 << 30
    message.ends.add(epoch=epoch, stamp_seconds=began + 123, batches=BATCHES, complete=True)
    return message


def _look(one: Sidecar, stub: pb_grpc.FeedwaterServiceStub, loader_id: str, epoch: int) -> None:
    """Ask for a recommendation, scrape, and read the page's state."""
    stub.GetRecommendation(
        pb.GetRecommendationRequest(loader_id=loader_id, epoch=epoch, end_sequence=epoch + 1), timeout=120
    )
    one.metrics()
    urllib.request.urlopen(f"http://127.0.0.1:{one.http_port()}/api/v1/state", timeout=60).read()


def _most_resident(one: Sidecar) -> float:
    (kib,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{one.pid}/status").read_text(), re.MULTILINE)
    return int(kib) / 1024


def _bytes_in(directory: Path) -> int:
    total = 0
    for path in directory.iterdir():
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            # A checkpoint took its place meanwhile.
            continue
    return total


if __name__ == "__main__":
    chosen_options = options(__doc__)
    publish(__doc__, measure_all(chosen_options), chosen_options)
