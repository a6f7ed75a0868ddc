"""How long does a scrape of 64 loaders with 64 workers each take, and how large is it?

Timed: wall time of `GET /metrics` on loopback, from connecting to the last byte, in both formats. Every
loader has all that a loader can have: two epochs, memory of 64 workers, sampled steps of a device, a
recommendation that was applied, batches lost. Not timed: taking the reports. Warm-up: one scrape of each
case. Beside it, in the same run and interleaved: the same families written by prometheus_client's own
encoder, as a ratio.

    python -m tests.benchmarks.scrape --json tests/benchmarks/results/scrape.json
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import threading
import time
import urllib.request
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest

from feedwater.v1 import feedwater_pb2 as pb
from feedwater.values import Outcome
from feedwater_service.metrics.collector import StateCollector
from feedwater_service.metrics.exposition import OPENMETRICS, PLAIN, Exposition
from feedwater_service.model.types import LoaderSettings, Prediction, Recommendation, Verdict
from feedwater_service.rpc import wire
from feedwater_service.state.reports import AppliedReport
from feedwater_service.state.sessions import Decision, State
from feedwater_service.web.http import HttpRequest, HttpResponse, HttpServer
from tests.support.benchmark import Row, interleaved, options, percentile, publish, row

LOADERS = 64
WORKERS = 64
BATCHES = 256
SETTINGS = pb.LoaderSettings(num_workers=WORKERS, prefetch_factor=2)


def _registration(number: int) -> bytes:
    return pb.RegisterLoaderRequest(
        identity=pb.Identity(client_id=f"rank-{number}", job="job", pod="pod", rank=number % 8, world_size=8),
        loader=f"loader-{number // 8}",
        settings=SETTINGS,
        mode=pb.MODE_AUTO,
        dataset_kind=pb.DATASET_KIND_MAP,
        batches_per_epoch=BATCHES,
        can_apply=True,
        limits=pb.Limits(cpus=192, cpu_quota_cores=128, memory_bytes=1 << 40, shm_bytes=1 << 38),
    ).SerializeToString()


def _report(loader_id: str, epoch: int) -> bytes:
    """Return one epoch: waits of 20 ms, steps of 10 ms, and all that is told of 64 workers and a device."""
    message = pb.ReportRequest(loader_id=loader_id, sequence=epoch + 1)
    message.begins.add(epoch=epoch, stamp_seconds=100, settings=SETTINGS, iter_seconds=0.05)
    message.batches.add(
        epoch=epoch,
        start_seconds=100.05,
        wait_seconds=[0.02] * BATCHES,
        step_seconds=[0.01] * BATCHES,
        ready=[3] * BATCHES,
    )
    for worker in range(WORKERS):
        each = BATCHES // WORKERS
        message.loads.add(
            epoch=epoch,
            worker=worker,
            start_seconds=[100.0] * each,
            load_seconds=[0.06] * each,
            cpu_seconds=[0.01] * each,
            run_delay_seconds=[0.0] * each,
            batch_bytes=[1 << 20] * each,
            batch_tensors=[2] * each,
        )
        message.processes.add(
            pid=500 + worker, worker=worker, stamp_seconds=101, rss_bytes=1 << 28, pss_bytes=1 << 27
        )
    message.container.CopyFrom(_usage())
    message.device_steps.add(
        epoch=epoch, batch=[0, 16, 32, 48], idle_seconds=[0.01] * 4, busy_seconds=[0.02] * 4
    )
    message.drops.add(cause=1, total=3)
    message.ends.add(epoch=epoch, stamp_seconds=108, batches=BATCHES, complete=True)
    return message.SerializeToString()


def _usage() -> pb.ContainerUsage:
    return pb.ContainerUsage(
        stamp_seconds=101,
        cpu_seconds=4,
        periods=10,
        throttled_periods=4,
        throttled_seconds=0.5,
        memory_bytes=1 << 30,
        shm_bytes=1 << 20,
        oom_kills=0,
        device_utilisation=0.75,
    )


def _answer() -> Recommendation:
    now = Prediction(LoaderSettings(WORKERS, 2), 30.0, 28.0, 32.0, 0.6)
    then = Prediction(LoaderSettings(48, 2), 60.0, 50.0, 70.0, 0.1)
    return Recommendation(0, LoaderSettings(48, 2), 96, Verdict.CPU_LIMIT, "64 → 48 workers.", now, then)


def full_state() -> State:
    """Return a state in which every loader has every figure."""
    state = State(clock=time.time)
    for number in range(LOADERS):
        session = state.register(wire.read_register_request(_registration(number)))
        state.report(wire.read_report(_report(session.loader_id, 0)))
        state.decide(session.group, Decision(f"r{number}", 0, _answer()))
        state.report_applied(
            AppliedReport(session.loader_id, f"r{number}", Outcome.APPLIED, LoaderSettings(48, 2))
        )
        state.report(wire.read_report(_report(session.loader_id, 1)))
    return state


@contextlib.contextmanager
def served(exposition: Exposition) -> Iterator[str]:
    """Serve the metrics as the sidecar does, for the length of the body; yield the address."""
    loop = asyncio.new_event_loop()

    async def metrics(request: HttpRequest) -> HttpResponse:
        return HttpResponse(*exposition.render(request.headers.get("accept", "")))

    server = HttpServer({"/metrics": metrics})
    port = loop.run_until_complete(server.start("127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}/metrics"
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _get(url: str, accept: str) -> bytes:
    with urllib.request.urlopen(
        urllib.request.Request(url, headers={"Accept": accept}), timeout=30
    ) as answer:
        return bytes(answer.read())


def _milliseconds(url: str, accept: str) -> float:
    began = time.perf_counter()
    _get(url, accept)
    return 1000 * (time.perf_counter() - began)


def measure_all(runs: int) -> list[Row]:
    """Scrape again and again, all cases in turn."""
    state = full_state()
    collector = StateCollector(state, "0.0.0", "3")
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)

    def theirs() -> float:
        began = time.perf_counter()
        generate_latest(registry)
        return 1000 * (time.perf_counter() - began)

    with served(Exposition(collector)) as url:
        size = len(_get(url, PLAIN))
        series = sum(not line.startswith(b"#") for line in _get(url, PLAIN).splitlines())
        taken = interleaved(
            {
                "plain": lambda: _milliseconds(url, PLAIN),
                "openmetrics": lambda: _milliseconds(url, OPENMETRICS),
                "prometheus_client": theirs,
            },
            runs,
        )
    note = f"{LOADERS} loaders x {WORKERS} workers, {series:,} series"
    ratio = statistics.median(taken["prometheus_client"]) / statistics.median(taken["plain"])
    return [
        row("scrape, text", "ms", taken["plain"], bar="<= 50", note=note),
        row("scrape, text, 95th percentile", "ms", [percentile(taken["plain"], 0.95)]),
        row("scrape, OpenMetrics", "ms", taken["openmetrics"], bar="<= 50", note=note),
        row("size", "MB", [size / 1e6], bar="<= 3", note=note),
        row("prometheus_client's encoder, without HTTP, over ours with it", "ratio", [ratio]),
    ]


if __name__ == "__main__":
    chosen_options = options(__doc__)
    publish(__doc__, measure_all(5 if chosen_options.quick else 50), chosen_options)
