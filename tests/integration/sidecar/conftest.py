"""The real sidecar as a process on a real socket, in a directory of its own."""

from __future__ import annotations

import contextlib
import http.client
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from feedwater.v1 import feedwater_pb2 as pb
from feedwater.v1 import feedwater_pb2_grpc as pb_grpc
from tests.support.processes import clean_environment, eventually

WORKERS = pb.LoaderSettings(num_workers=2, prefetch_factor=2)
DEADLINE_SECONDS = 20


class Process:
    """One sidecar process, its addresses and its log."""

    def __init__(self, directory: Path, pass_fds: tuple[int, ...] = (), **settings: str) -> None:
        self.directory = directory
        self.socket = directory / "api.sock"
        self.log_path = directory / "log"
        environ = {
            "FEEDWATER_SOCKET": str(self.socket),
            "FEEDWATER_STATE_DIR": str(directory / "state"),
            "FEEDWATER_HTTP_PORT": "0",
            "FEEDWATER_HTTP_HOST": "127.0.0.1",
            **settings,
        }
        with self.log_path.open("ab") as log:
            self.began_at = log.tell()
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "feedwater_service"],
                env=clean_environment() | environ,
                stderr=log,
                stdout=log,
                pass_fds=pass_fds,
            )

    @property
    def log(self) -> str:
        """What this process has logged."""
        return self.log_path.read_bytes()[self.began_at :].decode()

    def until(self, holds: Callable[[], object], what: str) -> None:
        """Wait until something holds, and fail with the log if it does not."""
        eventually(holds, DEADLINE_SECONDS, lambda: f"{what}; log:\n{self.log}", every=0.01)

    def ready(self) -> Process:
        """Wait until it serves."""
        self.until(lambda: " ready in " in self.log or self.popen.poll() is not None, "not ready")
        assert self.popen.poll() is None, self.log
        return self

    def code(self) -> int:
        """Wait until it has ended and return its exit code."""
        return self.popen.wait(DEADLINE_SECONDS)

    @property
    def http_port(self) -> int:
        """The port of its HTTP server."""
        found = re.search(r"metrics on port (\d+)", self.log)
        assert found, self.log
        return int(found[1])

    def http(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=10)
        with contextlib.closing(connection):
            connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()

    def metric(self, name: str) -> float:
        """Return the sum of a family's samples whose name and labels begin with ``name``."""
        text = self.http("/metrics")[2].decode()
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))

    def kill(self) -> None:
        """End it as the out-of-memory killer would."""
        self.popen.kill()
        self.popen.wait()

    def stop(self) -> None:
        """End it the polite way."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            try:
                self.popen.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()


class Client:
    """One rank that talks to a sidecar."""

    def __init__(self, address: str, client_id: str = "client-1") -> None:
        self._channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self.stub = pb_grpc.FeedwaterServiceStub(self._channel)
        self._client_id = client_id
        self.loader_id = ""

    @property
    def channel(self) -> grpc.Channel:
        """The connection."""
        return self._channel

    def register(
        self, loader: str = "train", mode: pb.Mode.ValueType = pb.MODE_AUTO
    ) -> pb.RegisterLoaderResponse:
        """Make a loader known."""
        answer = self.stub.RegisterLoader(
            pb.RegisterLoaderRequest(
                identity=pb.Identity(client_id=self._client_id, job="job", pod="pod"),
                loader=loader,
                settings=WORKERS,
                mode=mode,
                dataset_kind=pb.DATASET_KIND_MAP,
                can_apply=True,
                limits=pb.Limits(cpus=8, memory_bytes=8 << 30, shm_bytes=1 << 30),
            ),
            timeout=10,
            wait_for_ready=True,
        )
        self.loader_id = answer.loader_id
        return answer

    def message(
        self, sequence: int, *, epoch: int = 0, first: int = 0, count: int = 60, end: bool = False
    ) -> pb.ReportRequest:
        """Return a report: waits of 20 ms, steps of 10 ms, loads blocked for 55 of their 60 ms."""
        message = pb.ReportRequest(loader_id=self.loader_id, sequence=sequence)
        if first == 0:
            message.begins.add(epoch=epoch, stamp_seconds=100, settings=WORKERS, iter_seconds=0.05)
        message.batches.add(
            epoch=epoch,
            first=first,
            start_seconds=100.05 + first * 0.03,
            wait_seconds=[0.02] * count,
            step_seconds=[0.01] * count,
        )
        for worker in range(2):
            half = count // 2
            message.loads.add(
                epoch=epoch,
                worker=worker,
                pid=500 + worker,
                start_seconds=[100 + (first / 2 + i) * 0.06 for i in range(half)],
                load_seconds=[0.06] * half,
                cpu_seconds=[0.005] * half,
                run_delay_seconds=[0.0] * half,
                batch_bytes=[100_000] * half,
                batch_tensors=[2] * half,
            )
        if end:
            stamp = 100.05 + (first + count) * 0.03
            message.ends.add(epoch=epoch, stamp_seconds=stamp, batches=first + count, complete=True)
        return message

    def report(self, message: pb.ReportRequest) -> int:
        """Send a report and return what the sidecar has counted."""
        return self.stub.Report(message, timeout=10).accepted_sequence

    def recommend(self, epoch: int, end_sequence: int) -> pb.GetRecommendationResponse:
        """Ask at an epoch boundary."""
        return self.stub.GetRecommendation(
            pb.GetRecommendationRequest(loader_id=self.loader_id, epoch=epoch, end_sequence=end_sequence),
            timeout=30,
        )

    def applied(self, recommendation_id: str, workers: int) -> None:
        """Say that a recommendation was applied."""
        self.stub.ReportApplied(
            pb.ReportAppliedRequest(
                loader_id=self.loader_id,
                recommendation_id=recommendation_id,
                outcome=pb.OUTCOME_APPLIED,
                settings=pb.LoaderSettings(num_workers=workers, prefetch_factor=2),
            ),
            timeout=10,
        )

    def state(self) -> list[pb.LoaderState]:
        """Return what the sidecar knows."""
        (answer,) = self.stub.Watch(pb.WatchRequest(), timeout=10)
        return list(answer.loaders)

    def close(self) -> None:
        """End the connection."""
        self._channel.close()


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short directory: a socket's path may have at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="fw-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def launch(directory: Path) -> Iterator[Callable[..., Process]]:
    """Start sidecars; what still runs at the end is ended."""
    started: list[Process] = []

    def start(pass_fds: tuple[int, ...] = (), **settings: str) -> Process:
        started.append(Process(directory, pass_fds, **settings))
        return started[-1]

    yield start
    for process in started:
        process.stop()


@pytest.fixture
def sidecar(launch: Callable[..., Process]) -> Process:
    """One sidecar that is ready."""
    return launch().ready()


@pytest.fixture(scope="module")
def served() -> Iterator[Process]:
    """One sidecar that is ready, for all tests of a file that leave nothing behind in it."""
    with tempfile.TemporaryDirectory(prefix="fw-", dir="/tmp") as name:
        process = Process(Path(name))
        try:
            yield process.ready()
        finally:
            process.stop()


@pytest.fixture
def connect(directory: Path) -> Iterator[Callable[..., Client]]:
    """Make clients of the sidecar on the directory's socket."""
    made: list[Client] = []

    def client(client_id: str = "client-1", address: str = "") -> Client:
        made.append(Client(address or f"unix:{directory}/api.sock", client_id))
        return made[-1]

    yield client
    for one in made:
        one.close()
