"""A small sidecar that records, and a loop that stores timings as the real one does."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from functools import partial
from pathlib import Path

import grpc
import pytest

from feedwater import ring
from feedwater.loop.link import RelayTransport
from feedwater.settings import Settings
from feedwater.v1 import feedwater_pb2 as pb
from feedwater.v1 import feedwater_pb2_grpc as pb_grpc
from feedwater.values import Answer, LoaderDescription, LoaderSettings, Mode
from tests.support import processes

MS = 1_000_000
TWO_WORKERS = LoaderSettings(num_workers=2, prefetch_factor=2)
eventually = partial(processes.eventually, every=0.01)


class RecordingSidecar(pb_grpc.FeedwaterServiceServicer):
    """Answers as the contract says, and keeps what it was sent."""

    def __init__(self, path: str) -> None:
        self.address = f"unix:{path}"
        self.registered: list[pb.RegisterLoaderRequest] = []
        self.received: list[pb.ReportRequest] = []
        """Every report that came, resent ones included."""
        self.applied: list[pb.ReportAppliedRequest] = []
        self.asked: list[pb.GetRecommendationRequest] = []
        self.order: list[str] = []
        self.recommended: pb.Recommendation | None = None
        self.refuse_reports = 0
        self.may_answer = threading.Event()
        self.may_answer.set()
        self._known: dict[str, int] = {}
        self._server: grpc.Server | None = None

    def start(self) -> None:
        """Listen."""
        self._server = grpc.server(futures.ThreadPoolExecutor(8))
        pb_grpc.add_FeedwaterServiceServicer_to_server(self, self._server)
        self._server.add_insecure_port(self.address)
        self._server.start()

    def stop(self) -> None:
        """Stop listening; what was received is kept for the test."""
        if self._server is not None:
            self._server.stop(0).wait()
            self._server = None

    def forget(self, accepted: int = 0) -> None:
        """Know no loader any more, as after a restart; ``accepted`` is the last report of the checkpoint."""
        self._known.clear()
        self._accepted_at_register = accepted

    _accepted_at_register = 0

    @property
    def reports(self) -> dict[int, pb.ReportRequest]:
        """The reports by sequence, each once."""
        return {report.sequence: report for report in self.received}

    def waits(self, epoch: int) -> list[float]:
        """The waits of an epoch, in order."""
        runs = [run for _, r in sorted(self.reports.items()) for run in r.batches if run.epoch == epoch]
        return [wait for run in sorted(runs, key=lambda run: run.first) for wait in run.wait_seconds]

    def steps(self, epoch: int) -> list[float]:
        """The steps of an epoch, in order."""
        runs = [run for _, r in sorted(self.reports.items()) for run in r.batches if run.epoch == epoch]
        return [step for run in sorted(runs, key=lambda run: run.first) for step in run.step_seconds]

    def loads(self, epoch: int) -> list[pb.WorkerLoads]:
        """The worker loads of an epoch."""
        return [run for _, r in sorted(self.reports.items()) for run in r.loads if run.epoch == epoch]

    def ends(self) -> list[pb.EpochEnd]:
        """The ends of epochs."""
        return [end for _, r in sorted(self.reports.items()) for end in r.ends]

    def drops(self) -> dict[int, int]:
        """The newest total by cause."""
        return {drop.cause: drop.total for _, r in sorted(self.reports.items()) for drop in r.drops}

    def RegisterLoader(  # noqa: N802
        self, request: pb.RegisterLoaderRequest, context: grpc.ServicerContext
    ) -> pb.RegisterLoaderResponse:
        """Give the loader's name as its id."""
        self.may_answer.wait()
        self.registered.append(request)
        self.order.append("register")
        self._known.setdefault(request.loader, self._accepted_at_register)
        return pb.RegisterLoaderResponse(
            loader_id=request.loader, mode=request.mode, accepted_sequence=self._known[request.loader]
        )

    def Report(self, request: pb.ReportRequest, context: grpc.ServicerContext) -> pb.ReportResponse:  # noqa: N802
        """Keep the report."""
        self.may_answer.wait()
        self._check(request.loader_id, context)
        if self.refuse_reports:
            self.refuse_reports -= 1
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "refused by the test")
        self.received.append(request)
        self.order.append("begin" if request.begins else "report")
        self._known[request.loader_id] = max(self._known[request.loader_id], request.sequence)
        return pb.ReportResponse(accepted_sequence=self._known[request.loader_id])

    def GetRecommendation(  # noqa: N802
        self, request: pb.GetRecommendationRequest, context: grpc.ServicerContext
    ) -> pb.GetRecommendationResponse:
        """Answer with what the test put there."""
        self.may_answer.wait()
        self._check(request.loader_id, context)
        self.asked.append(request)
        if self.recommended is not None:
            self.recommended.epoch = request.epoch
            return pb.GetRecommendationResponse(recommendation=self.recommended)
        return pb.GetRecommendationResponse(none=pb.NoRecommendation(message="Too few batches were seen."))

    def ReportApplied(  # noqa: N802
        self, request: pb.ReportAppliedRequest, context: grpc.ServicerContext
    ) -> pb.ReportAppliedResponse:
        """Keep the outcome."""
        self.may_answer.wait()
        self.applied.append(request)
        self.order.append("applied")
        return pb.ReportAppliedResponse()

    def _check(self, loader_id: str, context: grpc.ServicerContext) -> None:
        if loader_id not in self._known:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no loader {loader_id}")


class Loop:
    """Stores timings in a ring and tells a transport, as the training loop does."""

    def __init__(self, address: str, name: str = "train") -> None:
        settings = Settings(address=address, job="job-a", pod="pod-a", rank=3, world_size=4)
        self.transport = RelayTransport(settings)
        self.name = name
        self.fd, self.words = ring.create()
        self.head = 0
        self.now_ns = time.perf_counter_ns()
        self.epoch = -1

    def open(self, mode: Mode = Mode.AUTO) -> None:
        """Make the loader known."""
        described = LoaderDescription(
            name=self.name,
            settings=TWO_WORKERS,
            mode=mode,
            dataset_kind="map",
            batch_size=4,
            batches_per_epoch=250,
            start_method="fork",
        )
        self.transport.register_loader(1, described, self.fd)

    def begin(self, worker_pids: tuple[int, ...] = (), settings: LoaderSettings = TWO_WORKERS) -> None:
        """Begin the next epoch."""
        self.epoch += 1
        # The stamps of the last epoch ran ahead of the clock: 2 ms of teardown and 10 ms of iter() apart.
        eventually(lambda: time.perf_counter_ns() > self.now_ns + 12 * MS)
        self.now_ns = time.perf_counter_ns()
        self.transport.begin_epoch(1, self.epoch, settings, 0.010, worker_pids, 0, self.head)

    def batch(self, wait_ms: float = 3.0, step_ms: float = 5.0, ready: int = -1) -> None:
        """Store one batch; time passes in the stamps alone."""
        enter = self.now_ns
        leave = enter + int(wait_ms * MS)
        self.now_ns = leave + int(step_ms * MS)
        slot = self.head % ring.MAIN_SLOTS
        at = ring.MAIN_AT + slot * ring.MAIN_WORDS
        if ready >= 0:
            self.words[ring.READY_AT + slot] = ((self.head + 1) << 16) | ready
        self.words[at], self.words[at + 1] = enter, leave
        self.head += 1
        self.words[1] = self.head

    def load(self, worker: int, start_ns: int, wall_ms: float, cpu_ms: float, pid: int = 99) -> None:
        """Store one batch that a worker made."""
        words = ring.worker_ring_words(self.words, worker)
        at = ring.WORKER_HEADER_WORDS + (words[0] % ring.WORKER_SLOTS) * ring.WORKER_WORDS
        row = (start_ns, start_ns + int(wall_ms * MS), int(cpu_ms * MS), MS // 2, 4096, 2, pid, 0)
        for offset, word in enumerate(row):
            words[at + offset] = word
        words[0] += 1

    def end(self, complete: bool = True) -> None:
        """End the epoch, tearing down for 2 ms."""
        self.transport.end_epoch(1, self.epoch, self.head, complete, 0.002, self.now_ns + 2 * MS)

    def ask(self, seconds: float = 10.0) -> Answer:
        """Ask for the recommendation of the epoch that ended."""
        return self.transport.get_recommendation(1, self.epoch, seconds)

    def run_epoch(self, batches: int = 10) -> Answer:
        """Run one whole epoch and ask."""
        self.begin()
        for _ in range(batches):
            self.batch()
        self.end()
        return self.ask()

    def close(self) -> None:
        """End the relay and let go of the ring."""
        pid = self.transport.relay_pid
        self.transport.close()
        if pid and is_running(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        os.close(self.fd)


def is_running(pid: int) -> bool:
    """Say whether a process runs; a zombie does not, once the last of its threads is gone."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z" or len(list(Path(f"/proc/{pid}/task").iterdir())) > 1
    except OSError:
        return False


@pytest.fixture
def socket_path() -> Iterator[str]:
    """A path for a Unix socket, short enough for any machine."""
    directory = tempfile.mkdtemp(prefix="fw-", dir="/tmp")
    yield f"{directory}/api.sock"
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def absent(socket_path: str) -> RecordingSidecar:
    """A sidecar that does not listen yet."""
    return RecordingSidecar(socket_path)


@pytest.fixture
def sidecar(absent: RecordingSidecar) -> Iterator[RecordingSidecar]:
    """A sidecar that listens."""
    absent.start()
    yield absent
    absent.may_answer.set()
    absent.stop()


@pytest.fixture
def new_loop() -> Iterator[Callable[[str], Loop]]:
    """Makes loops whose relays report to an address."""
    with contextlib.ExitStack() as stack:
        yield lambda address: stack.enter_context(contextlib.closing(Loop(address)))


@pytest.fixture
def loop(absent: RecordingSidecar, new_loop: Callable[[str], Loop]) -> Loop:
    """A loop whose relay reports to the sidecar's address."""
    return new_loop(absent.address)


@pytest.fixture(name="eventually")
def _eventually() -> Callable[..., object]:
    return eventually


@pytest.fixture(name="is_running")
def _is_running() -> Callable[[int], bool]:
    return is_running
