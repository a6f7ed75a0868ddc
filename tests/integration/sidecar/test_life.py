"""How a sidecar starts, ends, dies and comes back."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from feedwater.v1 import feedwater_pb2 as pb

if TYPE_CHECKING:
    from tests.integration.sidecar.conftest import Client, Process

SLOW_IMPORT = """
import pathlib, time, weakref

class Gone:
    pass

def called(_):
    pathlib.Path(__file__).with_name("reached").touch()
    time.sleep(60)

gone = Gone()
kept = weakref.ref(gone, called)
del gone
"""


def test_bad_settings_end_with_all_problems_and_code_2(
    launch: Callable[..., Process], directory: Path
) -> None:
    """Two bad settings are two lines and exit code 2, and no socket was opened."""
    process = launch(FEEDWATER_MAX_MODE="turbo", FEEDWATER_MAX_WORKERS="many")
    assert process.code() == 2
    assert "FEEDWATER_MAX_MODE: expected one of off, observe, advise, auto, got 'turbo'" in process.log
    assert "FEEDWATER_MAX_WORKERS: expected a whole number from 0 to 1024, got 'many'" in process.log
    assert not (directory / "api.sock").exists()


def test_socket_is_open_to_every_user_of_the_pod(sidecar: Process) -> None:
    """The socket's mode is 0666, whatever the umask."""
    assert stat.S_IMODE(sidecar.socket.stat().st_mode) == 0o666


def test_stale_socket_is_replaced(
    launch: Callable[..., Process], connect: Callable[..., Client], directory: Path
) -> None:
    """A socket that a dead process left behind does not keep the next one from serving."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(directory / "api.sock"))
    launch().ready()
    assert connect().register().loader_id


def test_other_file_at_the_socket_path_is_refused(launch: Callable[..., Process], directory: Path) -> None:
    """A regular file is not ours to remove: exit code 2, and the file is untouched."""
    (directory / "api.sock").write_text("precious")
    process = launch()
    assert process.code() == 2
    assert "exists and is not a socket" in process.log
    assert (directory / "api.sock").read_text() == "precious"


def test_second_live_sidecar_is_refused(
    sidecar: Process, launch: Callable[..., Process], connect: Callable[..., Client]
) -> None:
    """A second sidecar on the same socket ends with code 2, and the first still serves."""
    second = launch()
    assert second.code() == 2
    assert "another sidecar serves on this socket" in second.log
    assert connect().register().loader_id


@pytest.mark.parametrize(
    ("taking", "message"),
    [
        ({"FEEDWATER_HTTP_PORT": "{port}"}, "FEEDWATER_HTTP_PORT: [127.0.0.1]:{port} cannot be bound"),
        ({"FEEDWATER_LISTEN": "127.0.0.1:{port}"}, "127.0.0.1:{port}: cannot be bound"),
    ],
)
def test_taken_port_is_refused(launch: Callable[..., Process], taking: dict[str, str], message: str) -> None:
    """A port in use ends the start with code 2 and says which."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = launch(**{name: value.format(port=port) for name, value in taking.items()})
        assert process.code() == 2
        assert message.format(port=port) in process.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_with_a_verdict(
    launch: Callable[..., Process], connect: Callable[..., Client], directory: Path, number: signal.Signals
) -> None:
    """It ends with code 0 within the pod's two seconds, and the verdict is JSON of at most 4 KiB."""
    verdict = directory / "verdict"
    process = launch(FEEDWATER_TERMINATION_MESSAGE=str(verdict)).ready()
    client = connect()
    for i in range(40):
        client.register(f"loader-{i}-" + "x" * 90)
    client.register()
    client.report(client.message(1, end=True))
    assert client.recommend(0, 1).recommendation.id
    watching = client.stub.Watch(pb.WatchRequest(interval_seconds=60), timeout=60)
    next(watching)
    began = time.monotonic()
    process.popen.send_signal(number)
    assert process.code() == 0
    assert time.monotonic() - began < 1.5 + 3.5, "1.5 s asked for; this machine may be busy"
    text = verdict.read_bytes()
    assert len(text) <= 4096
    told = json.loads(text)
    assert told["loaders_seen"] == 41
    assert told["loaders"][0]["loader"] == "train"
    assert told["loaders"][0]["recommended_num_workers"] > 2
    assert process.log.count("ended: ") == 1
    said = process.log.partition("ended: ")[2].splitlines()[0]
    assert said.startswith("train: 1 epoch, 2 workers, 66% starvation, TOO_FEW_WORKERS; loader-")
    assert said.endswith("; 38 more loaders")


@pytest.mark.parametrize("path", ["/dev/full", "/proc/1/nowhere/verdict", "/"])
def test_verdict_that_cannot_be_written_is_a_warning(launch: Callable[..., Process], path: str) -> None:
    """A full disk, no such directory, a directory: it ends with code 0, and its log has the line."""
    process = launch(FEEDWATER_TERMINATION_MESSAGE=path).ready()
    process.popen.terminate()
    assert process.code() == 0
    assert f"{path} cannot be written: " in process.log
    assert "ended: no loader has reported" in process.log


def test_full_disk_leaves_no_half_verdict(
    small_disk: Path, launch: Callable[..., Process], connect: Callable[..., Client]
) -> None:
    """Where 4 KiB do not fit, the file stays empty: half of the JSON would parse for nobody."""
    process = launch(FEEDWATER_TERMINATION_MESSAGE=str(small_disk / "verdict")).ready()
    client = connect()
    for i in range(64):
        client.register(f"loader-{i}-" + "x" * 90)
    # All but less than a page of the disk.
    with contextlib.suppress(OSError), (small_disk / "ballast").open("wb", buffering=0) as ballast:
        while ballast.write(b"x" * 512):
            pass
    process.popen.terminate()
    assert process.code() == 0
    verdict = small_disk / "verdict"
    assert not verdict.exists() or verdict.read_bytes() == b""
    assert "verdict cannot be written: No space left on device" in process.log


def test_sigterm_is_heard_before_the_heavy_imports(launch: Callable[..., Process], directory: Path) -> None:
    """As a container's first process it would be deaf without a handler: code 0 while gRPC is imported.

    Also in a weakref's callback, of which imports run many: exceptions are ignored there.
    """
    (directory / "slow").mkdir()
    (directory / "slow/grpc.py").write_text(SLOW_IMPORT)
    process = launch(PYTHONPATH=str(directory / "slow"))
    process.until((directory / "slow/reached").exists, "gRPC is not imported")
    process.popen.terminate()
    assert process.code() == 0
    assert "ready" not in process.log


@pytest.mark.parametrize("after_seconds", [0.2, 0.4, 0.6, 0.8, 1.0])
def test_sigterm_during_the_start_leaves_a_whole_verdict_or_none(
    launch: Callable[..., Process], directory: Path, after_seconds: float
) -> None:
    """Wherever it was: code 0 and JSON that parses, or nothing written at all."""
    verdict = directory / "verdict"
    process = launch(FEEDWATER_TERMINATION_MESSAGE=str(verdict))
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.popen.wait(after_seconds)
    process.popen.terminate()
    # Python itself takes a moment until it can hear anything.
    assert process.code() in (0, -signal.SIGTERM)
    assert "Traceback" not in process.log
    assert not verdict.exists() or json.loads(verdict.read_bytes())["loaders"] == []


def _lasting(client: Client) -> list[pb.LoaderState]:
    """Return the state but for when each client was last heard of, which a new connection moves."""
    loaders = client.state()
    for loader in loaders:
        loader.ClearField("last_seen_seconds")
    return loaders


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_state_survives_a_restart(
    launch: Callable[..., Process], connect: Callable[..., Client], how: str
) -> None:
    """After a SIGKILL or SIGTERM state and answers are as before; counters start at zero."""
    first = launch().ready()
    client = connect()
    client.register()
    client.report(client.message(1, end=True))
    answer = client.recommend(0, 1)
    client.applied(answer.recommendation.id, answer.recommendation.settings.num_workers)
    client.report(client.message(2, epoch=1))
    before = _lasting(client)
    getattr(first, how)()

    second = launch().ready()
    again = connect()
    assert "1 loaders restored" in second.log
    assert again.register().accepted_sequence == 2
    assert again.loader_id == client.loader_id
    assert _lasting(again) == before
    assert again.recommend(0, 1) == answer
    assert second.metric("feedwater_batches_total") == 0
    assert again.report(again.message(3, epoch=1, first=60)) == 3


def test_trainer_that_died_under_a_change_is_not_changed_again(
    launch: Callable[..., Process], connect: Callable[..., Client]
) -> None:
    """Sidecar and trainer die together under a change: the next incarnation keeps the user's own setting."""
    first = launch().ready()
    client = connect()
    client.register()
    client.report(client.message(1, end=True))
    answer = client.recommend(0, 1).recommendation
    client.applied(answer.id, answer.settings.num_workers)
    first.kill()

    launch().ready()
    second = connect("client-2")
    second.register()
    second.report(second.message(1, end=True))
    none = second.recommend(0, 1).none
    assert none.reason == pb.NO_RECOMMENDATION_REASON_FROZEN
    assert none.message.endswith("your own setting is kept for the rest of the job.")


def test_corrupt_state_is_moved_aside(
    launch: Callable[..., Process], connect: Callable[..., Client], directory: Path
) -> None:
    """A state file of something else is kept aside, said once, and the sidecar serves."""
    (directory / "state").mkdir()
    (directory / "state" / "state.json").write_bytes(b"\x00\xff not ours")
    process = launch().ready()
    assert process.log.count("is moved aside") == 1
    assert (directory / "state" / "state.json.broken").read_bytes() == b"\x00\xff not ours"
    assert connect().register().loader_id


@pytest.fixture
def small_disk(directory: Path) -> Iterator[Path]:
    """A file system of 64 KB."""
    path = directory / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_full_disk_does_not_end_it(
    small_disk: Path, launch: Callable[..., Process], connect: Callable[..., Client]
) -> None:
    """With the state directory's disk full all reports are counted, and the log says so once."""
    process = launch(FEEDWATER_STATE_DIR=str(small_disk / "state"), FEEDWATER_CHECKPOINT_SECONDS="1").ready()
    client = connect()
    client.register()
    for i in range(30):
        assert client.report(client.message(i + 1, first=i * 300, count=300)) == i + 1
    process.until(lambda: process.metric("feedwater_checkpoint_failures_total") > 1, "no failure counted")
    assert process.log.count("continues without saving its state") == 1
    assert process.metric("feedwater_batches_total") == 9000


def test_silent_loader_is_forgotten(launch: Callable[..., Process], connect: Callable[..., Client]) -> None:
    """A client that is silent for longer than the time-out is forgotten, and registers again when told."""
    process = launch(FEEDWATER_SESSION_TIMEOUT_SECONDS="3").ready()
    client = connect()
    client.register()
    process.until(lambda: not client.state(), "not forgotten")
    with pytest.raises(grpc.RpcError) as refused:
        client.report(client.message(1))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    client.register()
    assert client.report(client.message(1)) == 1


def test_heavy_libraries_are_not_imported() -> None:
    """What costs 70 MB or belongs to training is not loaded by the sidecar."""
    heavy = ("kubernetes", "torch", "numpy", "psutil", "grpc_reflection.v1alpha")
    code = f"import sys, feedwater_service.app; print(sorted(set({heavy}) & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"


@pytest.mark.parametrize("with_what", ["nothing", "another socket"])
def test_socket_that_is_removed_comes_back(
    sidecar: Process, connect: Callable[..., Client], with_what: str
) -> None:
    """Within seconds, open to all again: the client from before and a new one report, nothing is lost."""
    before = connect("before")
    before.register()
    before.report(before.message(1))
    sidecar.socket.unlink()
    with contextlib.ExitStack() as stack:
        if with_what == "another socket":
            other = stack.enter_context(socket.socket(socket.AF_UNIX))
            other.bind(str(sidecar.socket))
        sidecar.until(lambda: "was removed or replaced" in sidecar.log, "not seen")
        new = connect("new")
        new.register("other")
    assert stat.S_IMODE(sidecar.socket.stat().st_mode) == 0o666
    message = before.message(2, first=60)
    assert before.stub.Report(message, timeout=20, wait_for_ready=True).accepted_sequence == 2
    sidecar.until(lambda: sidecar.http("/healthz")[0] == 200, "not healthy")
    assert len(new.state()) == 2


def test_file_in_the_place_of_the_socket_makes_the_sidecar_unhealthy(sidecar: Process) -> None:
    """It is not ours to remove; the log says so, and the probe of liveness fails until it is gone."""
    sidecar.socket.unlink()
    sidecar.socket.write_text("precious")
    sidecar.until(lambda: sidecar.http("/healthz")[0] == 503, "healthy")
    sidecar.until(lambda: "clients cannot connect" in sidecar.log, "not said")
    assert sidecar.socket.read_text() == "precious"
    sidecar.socket.unlink()
    sidecar.until(lambda: sidecar.http("/healthz")[0] == 200, "not healthy again")
