"""What do 16 ranks x 1,000 batches/s cost the sidecar, unlimited and at 250m, and how long is a scrape then?

Timed: CPU time of the sidecar's process (user and system) over the whole run, as a share of one core, drafts
of the model included; wall time of each scrape of `/metrics`, every five seconds, from connecting to the last
byte. Not timed: the senders, which are another process. Each rank sends one report each two seconds over its
own connection, as the relay does: 2,000 batches with wait, step and queue depth, what 8 workers tell of
making them, memory of the workers, and usage of the container. Warm-up: two seconds of reports before the
clock starts. Nothing may be lost: the counters of `/metrics` must equal what was sent.

    python -m tests.benchmarks.sidecar_load --json tests/benchmarks/results/sidecar_load.json
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio
import psutil

from feedwater.relay.relay import REPORT_SECONDS
from feedwater.v1 import feedwater_pb2 as pb
from feedwater.v1 import feedwater_pb2_grpc as pb_grpc
from tests.support.benchmark import Options, Row, log, options, percentile, publish, quiet, row
from tests.support.processes import Sidecar, cgroup, limit_cores, sidecar

RANKS = 16
RATE = 1000
"""Batches per second of each rank."""
BATCHES = int(RATE * REPORT_SECONDS)
"""Of one report."""
WORKERS = 8
WARM_UP_SECONDS = 2
SCRAPE_SECONDS = 5
SETTINGS = pb.LoaderSettings(num_workers=WORKERS, prefetch_factor=2)


@dataclass(slots=True)
class Rank:
    """One sender."""

    number: int
    stub: pb_grpc.FeedwaterServiceStub
    loader_id: str = ""
    sequence: int = 0
    sent: int = 0
    late: int = 0
    report: pb.ReportRequest = field(default_factory=pb.ReportRequest)

    async def register(self) -> None:
        """Make the loader known and its epoch begun."""
        answer = await self.stub.RegisterLoader(_registration(self.number))
        self.loader_id = answer.loader_id
        self.report = _report(random.Random(self.number))

    async def send(self) -> None:
        """Send what the relay gathers between two reports."""
        report = self.report
        self.sequence += 1
        report.loader_id, report.sequence = self.loader_id, self.sequence
        report.batches[0].first = self.sent
        report.batches[0].start_seconds = 1000.0 + self.sequence * REPORT_SECONDS
        report.container.stamp_seconds = 1000.0 + self.sequence * REPORT_SECONDS
        if self.sequence == 1:
            report.begins.add(epoch=0, stamp_seconds=1000.0, settings=SETTINGS, iter_seconds=0.05)
        answer = await self.stub.Report(report)
        del report.begins[:]
        assert answer.accepted_sequence == self.sequence
        self.sent += BATCHES

    async def run(self, seconds: int, begin: float) -> None:
        """Send as often as the relay, ranks spread over the time between two reports."""
        for turn in range(int(seconds / REPORT_SECONDS)):
            due = begin + (turn + self.number / RANKS) * REPORT_SECONDS
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            await self.send()
            self.late += time.perf_counter() > due + 1


def _registration(number: int) -> pb.RegisterLoaderRequest:
    return pb.RegisterLoaderRequest(
        identity=pb.Identity(
            client_id=f"rank-{number}", job="load", pod="pod", rank=number, world_size=RANKS
        ),
        loader="train",
        settings=SETTINGS,
        mode=pb.MODE_AUTO,
        dataset_kind=pb.DATASET_KIND_MAP,
        batches_per_epoch=60 * RATE,
        can_apply=True,
        limits=pb.Limits(
            cpus=64, cpu_quota_cores=32, cpu_period_seconds=0.1, memory_bytes=256 << 30, shm_bytes=64 << 30
        ),
    )


def _report(chance: random.Random) -> pb.ReportRequest:
    """Return one report of one rank: waits of 0.2 ms, steps of 0.8 ms, loads of 7 ms."""

    def times(mean: float, count: int) -> list[float]:
        return [chance.lognormvariate(0, 0.5) * mean for _ in range(count)]

    report = pb.ReportRequest()
    report.batches.add(
        epoch=0,
        wait_seconds=times(0.0002, BATCHES),
        step_seconds=times(0.0008, BATCHES),
        ready=[-1] * (BATCHES - 10) + [2] * 10,
    )
    each = BATCHES // WORKERS
    for worker in range(WORKERS):
        report.loads.add(
            epoch=0,
            worker=worker,
            pid=1000 + worker,
            start_seconds=[1000 + i / each for i in range(each)],
            load_seconds=times(0.007, each),
            cpu_seconds=times(0.004, each),
            run_delay_seconds=times(0.0005, each),
            batch_bytes=[1 << 20] * each,
            batch_tensors=[2] * each,
        )
        report.processes.add(
            pid=1000 + worker, worker=worker, stamp_seconds=1000.0, cpu_seconds=1.0, rss_bytes=1 << 28
        )
    report.processes.add(pid=999, stamp_seconds=1000.0, cpu_seconds=1.0)
    report.container.cpu_seconds = 1.0
    report.container.memory_bytes = 1 << 30
    return report


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run gave."""

    cpu_percent: float
    scrapes_ms: list[float]
    lost: int
    late: int
    rss_mib: float


async def _load(one: Sidecar, seconds: int) -> Outcome:
    """Send for ``seconds`` and watch the sidecar meanwhile."""
    process = psutil.Process(one.pid)
    async with contextlib.AsyncExitStack() as stack:
        ranks = []
        for number in range(RANKS):
            channel = await stack.enter_async_context(
                grpc.aio.insecure_channel(one.address, options=[("grpc.use_local_subchannel_pool", 1)])
            )
            ranks.append(Rank(number, pb_grpc.FeedwaterServiceStub(channel)))
        await asyncio.gather(*(rank.register() for rank in ranks))
        await asyncio.gather(*(rank.run(WARM_UP_SECONDS, time.perf_counter()) for rank in ranks))
        before, began = _cpu(process), time.perf_counter()
        senders = asyncio.gather(*(rank.run(seconds, began) for rank in ranks))
        scrapes = await _scrapes(one, seconds)
        await senders
        # The last reports come at the end of the last second: let it pass.
        await asyncio.sleep(max(0.0, began + seconds - time.perf_counter()))
        spent, wall = _cpu(process) - before, time.perf_counter() - began
    sent = sum(rank.sent for rank in ranks)
    return Outcome(
        cpu_percent=100 * spent / wall,
        scrapes_ms=scrapes,
        lost=sent - _counted(one.metrics()),
        late=sum(rank.late for rank in ranks),
        rss_mib=process.memory_info().rss / 2**20,
    )


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def _scrapes(one: Sidecar, seconds: int) -> list[float]:
    """Scrape every few seconds, oftener than any Prometheus; return the milliseconds each took."""
    port, taken = one.http_port(), []
    for _ in range(max(1, int(seconds / SCRAPE_SECONDS))):
        began = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        await reader.read()
        taken.append(1000 * (time.perf_counter() - began))
        writer.close()
        await asyncio.sleep(max(0.0, began + SCRAPE_SECONDS - time.perf_counter()))
    return taken


def _counted(metrics: str) -> int:
    return int(sum(float(n) for n in re.findall(r"^feedwater_batches_total\{.*\} (.*)$", metrics, re.M)))


@contextlib.contextmanager
def _limited(one: Sidecar, cores: float | None) -> Iterator[None]:
    """Put the sidecar under a CFS quota for the length of the body."""
    if cores is None:
        yield
        return
    with cgroup("cpu") as group:
        limit_cores(group, cores)
        (group / "cgroup.procs").write_text(str(one.pid))
        yield


def measure_all(chosen: Options) -> list[Row]:
    """Measure without a limit and at 250m."""
    seconds = 5 if chosen.quick else 60
    cases: Mapping[str, float | None] = {"": None} | ({", 250m": 0.25} if _may_limit() else {})
    rows = []
    for name, cores in cases.items():
        with quiet(chosen), sidecar() as one, _limited(one, cores):
            outcome = asyncio.run(_load(one, seconds))
        log(f"{name or 'unlimited'}: {outcome.cpu_percent:.1f} %")
        note = f"{RANKS} ranks x {RATE} batches/s, {seconds} s"
        rows += [
            row(f"CPU{name}", "%", [outcome.cpu_percent], bar="<= 5", note=note),
            row(
                f"scrape, median{name}", "ms", outcome.scrapes_ms, bar="<= 20", note="one every five seconds"
            ),
            row(f"scrape, 95th percentile{name}", "ms", [percentile(outcome.scrapes_ms, 0.95)]),
            row(f"batches lost{name}", "count", [outcome.lost], bar="<= 0"),
            row(f"reports late by a second{name}", "count", [outcome.late]),
            row(f"resident memory{name}", "MiB", [outcome.rss_mib]),
        ]
    return rows


def _may_limit() -> bool:
    try:
        with cgroup("cpu"):
            return Path("/sys/fs/cgroup/cpu").is_dir()
    except OSError:
        log("no CPU cgroup may be made here: the case at 250m is left out")
        return False


if __name__ == "__main__":
    chosen_options = options(__doc__)
    publish(__doc__, measure_all(chosen_options), chosen_options)
