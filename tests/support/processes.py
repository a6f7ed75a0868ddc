"""The real sidecar as a process, and cgroups to count and to limit CPU time with."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from feedwater.v1 import feedwater_pb2, feedwater_pb2_grpc
from tests import ROOT

if TYPE_CHECKING:
    from feedwater.v1.feedwater_pb2 import LoaderState

CGROUPS = Path("/sys/fs/cgroup")


class Sidecar:
    """One real sidecar process on a Unix socket, which can be frozen, killed and started again."""

    def __init__(
        self, directory: Path, *, environment: Mapping[str, str] | None = None, group: Path | None = None
    ) -> None:
        self.directory = directory
        self._group = group
        self.socket = directory / "api.sock"
        self.log = directory / "sidecar.log"
        self._environment = {
            **os.environ,
            "FEEDWATER_SOCKET": str(self.socket),
            "FEEDWATER_STATE_DIR": str(directory / "state"),
            "FEEDWATER_HTTP_PORT": "0",
            **(environment or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """What a client is given as ``FEEDWATER_ADDRESS``."""
        return f"unix:{self.socket}"

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None
        return self._process.pid

    def start(self, deadline_seconds: float = 20) -> None:
        """Start it and return once its socket answers.

        Raises:
            RuntimeError: It ended, or did not answer in time; with the last lines of its log.
        """
        (self.directory / "state").mkdir(exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "feedwater_service"],
                env=self._environment,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=None if self._group is None else functools.partial(enter, self._group),
            )
        until = time.monotonic() + deadline_seconds
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"sidecar not ready: {self.log.read_text()[-2000:]}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            try:
                probe.connect(str(self.socket))
            except OSError:
                return False
        return True

    def freeze(self) -> None:
        """Stop it in its tracks: its socket still accepts, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it as the out-of-memory killer would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End it the polite way, and at once if it does not go."""
        if self._process is None or self._process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.thaw()
        terminate(self._process)

    def http_port(self) -> int:
        """Return the port that it chose, as its newest log line about it says.

        Raises:
            RuntimeError: It says nothing; with the last lines of its log.
        """
        # The socket answers a moment before the line is written.
        until = time.monotonic() + 10
        while not (said := re.findall(r"metrics on port (\d+)", self.log.read_text())):
            if time.monotonic() > until:
                raise RuntimeError(f"no HTTP port: {self.log.read_text()[-2000:]}")
            time.sleep(0.01)
        return int(said[-1])

    def metrics(self) -> str:
        """Return the text of ``/metrics``."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port()}/metrics", timeout=10) as answer:
            return str(answer.read().decode())


@contextlib.contextmanager
def sidecar(environment: Mapping[str, str] | None = None) -> Iterator[Sidecar]:
    """Run a sidecar in a directory of its own for the length of the body."""
    # A socket's path may have at most 107 bytes: a short directory, not a test's long one.
    with tempfile.TemporaryDirectory(prefix="fw-", dir="/tmp") as name:
        one = Sidecar(Path(name), environment=environment)
        try:
            one.start()
            yield one
        finally:
            one.stop()


@contextlib.contextmanager
def cgroup(controller: str) -> Iterator[Path]:
    """Make a control group of one v1 controller for the length of the body.

    Raises:
        OSError: This machine does not let us.
    """
    group = CGROUPS / controller / f"feedwater-{uuid.uuid4().hex[:8]}"
    group.mkdir()
    try:
        yield group
    finally:
        remove_group(group)


def remove_group(group: Path) -> None:
    """End what still runs in a control group, and remove it.

    Raises:
        OSError: It is still in use after 10 s.
    """
    until = time.monotonic() + 10
    while True:
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        try:
            group.rmdir()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return


def limit_cores(group: Path, cores: float | None) -> None:
    """Set a CFS quota on a ``cpu`` group; None is none."""
    period = int((group / "cpu.cfs_period_us").read_text())
    (group / "cpu.cfs_quota_us").write_text(str(-1 if cores is None else int(cores * period)))


def enter(group: Path) -> None:
    """Move this process into ``group``; its children to come are born there. For ``preexec_fn``."""
    (group / "cgroup.procs").write_text(str(os.getpid()))


def cpu_seconds(group: Path) -> float:
    """Return the CPU time of everything that ever ran in a ``cpuacct`` group."""
    return int((group / "cpuacct.usage").read_text()) / 1e9


def end(process: subprocess.Popen[str]) -> None:
    """Tell a trainer to end by closing its stdin; kill one that has not within 20 s."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()


PATIENT = {"FEEDWATER_DEADLINE_SECONDS": "20"}
"""For a trainer: an answer that comes too late leaves a loader as it is for an epoch, which is not for a busy
machine to decide."""


def clean_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return an environment, our own unless another is given, without any setting of Feedwater."""
    return {name: value for name, value in environment.items() if not name.startswith("FEEDWATER_")}


def root_environment() -> dict[str, str]:
    """Return our own environment, in which a program imports ``tests`` wherever it is run."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return os.environ | {"PYTHONPATH": path}


def trainer_environment(address: str, directory: Path) -> dict[str, str]:
    """Return `root_environment` with no other setting of Feedwater than patience and the sidecar."""
    own = {"FEEDWATER_ADDRESS": address, "FEEDWATER_RUN_DIR": str(directory)}
    return clean_environment(root_environment()) | PATIENT | own


def terminate(process: subprocess.Popen[Any]) -> None:
    """End a process the polite way, and at once if it does not go."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def eventually(
    claim: Callable[[], object], seconds: float = 20.0, said: Callable[[], str] = str, every: float = 0.05
) -> Any:
    """Return the first true value of ``claim``; fail with what is ``said`` when none comes in time."""
    until = time.monotonic() + seconds
    while not (value := claim()):
        assert time.monotonic() < until, f"not within {seconds:g} s\n{said()}"
        time.sleep(every)
    return value


def free_port() -> int:
    """Return a TCP port of the loopback that nobody listens on, and that no outgoing connection is given."""
    while True:
        port = random.randrange(20_000, 30_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def scratch() -> Path:
    """Return a new short directory; the caller removes it."""
    return Path(tempfile.mkdtemp(prefix="fw-", dir="/tmp"))


def remove(directory: Path) -> None:
    """Remove what `scratch` made."""
    shutil.rmtree(directory, ignore_errors=True)


def watch_state(address: str) -> list[LoaderState]:
    """Return what the sidecar at ``address`` knows of its loaders.

    Raises:
        ConnectionError: It does not answer.
    """
    with grpc.insecure_channel(address) as channel:
        stub = feedwater_pb2_grpc.FeedwaterServiceStub(channel)
        try:
            for answer in stub.Watch(feedwater_pb2.WatchRequest(interval_seconds=0), timeout=5):
                return list(answer.loaders)
        except grpc.RpcError as error:
            raise ConnectionError(f"{address}: {error}") from error
    return []
