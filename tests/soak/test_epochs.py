"""Epochs by the dozen while reporting to a real sidecar: nothing hangs, crashes, leaks or prints.

``FEEDWATER_SOAK_EPOCHS`` epochs each (default 50; 3 in CI), trained by ``FEEDWATER_SOAK_PYTHON`` (default:
this Python), which needs torch, grpcio and protobuf.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from feedwater.relay.channel import SidecarUnavailableError
from feedwater.relay.views import LoaderView
from feedwater.status.follow import read_loaders
from tests.support.processes import eventually

EPOCHS = int(os.environ.get("FEEDWATER_SOAK_EPOCHS") or ("3" if os.environ.get("CI") else "50"))
PYTHON = os.environ.get("FEEDWATER_SOAK_PYTHON", sys.executable)
SECONDS_PER_EPOCH = 20.0
"""A spawned worker imports torch, 1.2 s alone on two cores; more than this is a hang."""
SUM = sum(range(32))
BATCHES = 8
CLIENT = Path(__file__).parents[2] / "client"

pytestmark = [pytest.mark.soak, pytest.mark.timeout(0)]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A real sidecar's address."""
    directory = tempfile.mkdtemp(prefix="fw-", dir="/tmp")
    settings = {
        "FEEDWATER_SOCKET": f"{directory}/api.sock",
        "FEEDWATER_STATE_DIR": f"{directory}/state",
        "FEEDWATER_HTTP_PORT": "0",
        "FEEDWATER_HTTP_HOST": "127.0.0.1",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "feedwater_service"],
        env=os.environ | settings,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    made = f"unix:{directory}/api.sock"
    eventually(lambda: _loaders(made) is not None)
    yield made
    process.terminate()
    process.wait(10)
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    """The address of a gRPC server that answers what it is sent."""
    handler = grpc.method_handlers_generic_handler(
        "echo", {"Echo": grpc.unary_unary_rpc_method_handler(lambda request, _: request)}
    )
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


@pytest.mark.parametrize("uses_grpc", [False, True], ids=["plain", "grpc-in-workers"])
@pytest.mark.parametrize("is_persistent", [False, True], ids=["anew", "persistent"])
@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_epochs_leave_no_trace(start_method, is_persistent, uses_grpc, address, echo):
    """Every epoch is whole, stderr is empty, no process stays, and the sidecar knows every batch."""
    arguments = ["--start-method", start_method, *(["--persistent"] if is_persistent else [])]
    told, errors, job = train(address, arguments + (["--echo", echo] if uses_grpc else []))
    assert errors == ""
    assert told["sums"] == [SUM] * EPOCHS
    # PyTorch's own: one feeds each persistent worker's queue.
    assert set(told["threads"]) <= {"MainThread", "QueueFeederThread"}
    assert (told["zombies"], told["has_grpc"]) == (0, False)
    assert left_running(job) == []
    loader = known(address, job)
    assert [epoch.summary.epoch for epoch in loader.epochs][-1] == EPOCHS - 1
    assert {epoch.summary.batches for epoch in loader.epochs} == {BATCHES}


@pytest.mark.parametrize("is_persistent", [False, True], ids=["anew", "persistent"])
def test_epochs_under_changing_workers_leave_no_trace(is_persistent, address, echo):
    """The same in mode auto, where the count changes: only Feedwater's own sentences are printed."""
    arguments = ["--start-method", "fork", "--mode", "auto", "--echo", echo]
    told, errors, job = train(address, arguments + (["--persistent"] if is_persistent else []))
    assert [line for line in errors.splitlines() if not line.startswith("feedwater: ")] == []
    assert told["sums"] == [SUM] * EPOCHS
    assert told["zombies"] == 0
    assert left_running(job) == []


def train(address: str, arguments: list[str]) -> tuple[dict[str, object], str, str]:
    """Run the trainer; return what it printed, its stderr, and the name of its job."""
    job = f"soak-{secrets.token_hex(4)}"
    environ = os.environ | {
        "FEEDWATER_ADDRESS": address,
        "FEEDWATER_JOB": job,
        "PYTHONPATH": str(CLIENT),
        # From Python 3.12 PyTorch alone draws this warning now and then: the feeder thread of an epoch's
        # index queue may still be ending when the next forks. That no other thread is there is asserted.
        "PYTHONWARNINGS": "default,ignore:This process:DeprecationWarning",
    }
    done = subprocess.run(
        [PYTHON, str(Path(__file__).with_name("epochs_trainer.py")), "--epochs", str(EPOCHS), *arguments],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60 + EPOCHS * SECONDS_PER_EPOCH,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout), done.stderr, job


def known(address: str, job: str) -> LoaderView:
    """Return the job's loader as the sidecar knows it, once its last report has arrived."""

    def found() -> LoaderView | None:
        of_job = [loader for loader in _loaders(address) or () if loader.job == job]
        return of_job[0] if of_job and not of_job[0].connected else None

    loader = eventually(found)
    assert isinstance(loader, LoaderView)
    return loader


def left_running(job: str) -> list[str]:
    """Return what still runs of a job some seconds after its end."""
    with contextlib.suppress(AssertionError):
        eventually(lambda: not _running(job), 10)
    return _running(job)


def _loaders(address: str) -> list[LoaderView] | None:
    try:
        return read_loaders(address, 2)
    except SidecarUnavailableError:
        return None


def _running(job: str) -> list[str]:
    found = []
    for path in glob.glob("/proc/[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if job.encode() in Path(path).read_bytes():
                found.append(Path(path).with_name("cmdline").read_text())
    return found
