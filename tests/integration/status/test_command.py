"""``feedwater status`` against a real sidecar: what it prints, how it goes on, how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path

import grpc
import pytest

from feedwater.v1 import feedwater_pb2 as pb
from feedwater.v1 import feedwater_pb2_grpc as pb_grpc
from tests.support.processes import Sidecar, clean_environment, sidecar

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-7]|9[0-7])m")
COMMAND = [sys.executable, "-m", "feedwater", "status"]
QUICK = ("--watch", "--interval", "0.2")
DEADLINE_SECONDS = 30


@pytest.fixture
def running() -> Iterator[Sidecar]:
    """A sidecar with one loader that has ended an epoch."""
    with sidecar() as one:
        report(one.address)
        yield one


def report(address: str, loader: str = "train", count: int = 1, epochs: int = 1) -> None:
    """Have ``count`` loaders report epochs of 60 batches that wait 20 ms and step 10 ms."""
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = pb_grpc.FeedwaterServiceStub(channel)
        for number in range(count):
            _report(stub, f"{loader}-{number}" if count > 1 else loader, epochs)


def _report(stub: pb_grpc.FeedwaterServiceStub, loader: str, epochs: int) -> None:
    settings = pb.LoaderSettings(num_workers=2, prefetch_factor=2)
    request = pb.RegisterLoaderRequest(
        identity=pb.Identity(client_id=f"client of {loader}", job="job", pod="pod"),
        loader=loader,
        settings=settings,
        mode=pb.MODE_AUTO,
        dataset_kind=pb.DATASET_KIND_MAP,
        can_apply=True,
        limits=pb.Limits(cpus=8, memory_bytes=8 << 30, shm_bytes=1 << 30),
    )
    answer = stub.RegisterLoader(request, timeout=20, wait_for_ready=True)
    for epoch in range(epochs):
        at = 100 + 3 * epoch
        message = pb.ReportRequest(loader_id=answer.loader_id, sequence=epoch + 1)
        message.begins.add(epoch=epoch, stamp_seconds=at, settings=settings, iter_seconds=0.05)
        message.batches.add(epoch=epoch, start_seconds=at, wait_seconds=[0.02] * 60, step_seconds=[0.01] * 60)
        # Nearly all of the limit, which is shown in red.
        message.container.stamp_seconds = at + 2
        message.container.memory_bytes = (8 << 30) - (100 << 20)
        message.ends.add(epoch=epoch, stamp_seconds=at + 2, batches=60, complete=True)
        stub.Report(message, timeout=20)


def environment(**changed: str) -> dict[str, str]:
    """Return the environment without what concerns Feedwater and colours."""
    hidden = {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"}
    return {name: value for name, value in clean_environment().items() if name not in hidden} | changed


def status(*arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        env=environment(**changed),
    )


class Watching:
    """The command with ``--watch``, its output a pipe."""

    def __init__(self, *arguments: str) -> None:
        self.popen = subprocess.Popen(
            [*COMMAND, *QUICK, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    def until(self, text: str) -> str:
        """Return the output up to the line that holds ``text``."""
        assert self.popen.stdout is not None
        lines = []
        for line in self.popen.stdout:
            lines.append(line)
            if text in line:
                return "".join(lines)
        raise AssertionError(f"{text!r} did not come: {''.join(lines)!r}")

    def interrupt(self) -> tuple[int, str]:
        """Press Ctrl-C; return the exit code and what it said on standard error."""
        self.popen.send_signal(signal.SIGINT)
        _, errors = self.popen.communicate(timeout=DEADLINE_SECONDS)
        return self.popen.returncode, errors


@pytest.fixture
def watching(running: Sidecar) -> Iterator[Watching]:
    """The command, watching the sidecar."""
    one = Watching("--address", running.address)
    yield one
    if one.popen.poll() is None:
        one.popen.kill()
        one.popen.communicate()


def test_page_is_printed_without_escape_codes(running: Sidecar) -> None:
    """To a pipe of 80 columns: loader, its epoch, its share of waiting."""
    done = status("--address", running.address, COLUMNS="80")
    assert (done.returncode, done.stderr) == (0, "")
    assert "train: " in done.stdout
    assert "66%" in done.stdout, "59 waits of 20 ms, the first apart, beside 60 steps of 10 ms"
    assert all(line.isprintable() and len(line) <= 80 for line in done.stdout.splitlines())


def test_address_comes_from_the_environment(running: Sidecar) -> None:
    """As in the sidecar's own container, where no flag is given."""
    assert status(FEEDWATER_ADDRESS=running.address).returncode == 0


def test_json_is_one_object(running: Sidecar) -> None:
    """With version, time and loaders."""
    record = json.loads(status("--json", "--address", running.address).stdout)
    assert set(record) == {"version", "time_seconds", "loaders"}
    assert record["loaders"][0]["epochs"][0]["starvation"] == pytest.approx(59 * 20 / (59 * 20 + 60 * 10))


def test_absent_sidecar_is_code_1_and_says_what_to_do(tmp_path: Path) -> None:
    """Nobody listens: one line with the address and where to ask instead."""
    done = status("--address", f"unix:{tmp_path}/none.sock")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{tmp_path}/none.sock" in done.stderr
    assert "kubectl exec POD -c feedwater -- feedwater status" in done.stderr
    assert "Traceback" not in done.stderr
    assert status("--watch", "--address", f"unix:{tmp_path}/none.sock").returncode == 1


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon", "4000"])
def test_bad_interval_is_code_2(value: str) -> None:
    """It is usage, and nothing is asked of any sidecar."""
    done = status("--watch", f"--interval={value}")
    assert done.returncode == 2
    assert f"expected 0.2 to 3600 seconds, got '{value}'" in done.stderr


def test_frozen_sidecar_is_given_up_in_time(running: Sidecar) -> None:
    """It accepts and never answers: code 1 after 5 s."""
    running.freeze()
    done = status("--address", running.address)
    assert done.returncode == 1
    assert "no answer from" in done.stderr


def test_watch_prints_a_block_for_each_change(running: Sidecar, watching: Watching) -> None:
    """What stays the same is printed once, although it is looked at five times a second."""
    watching.until("train: ")
    report(running.address, "validation")
    second = watching.until("validation: ")
    assert second.count("train: ") == 1
    assert watching.interrupt() == (0, "")


def test_watch_survives_a_restart_and_says_so(running: Sidecar, watching: Watching) -> None:
    """Killed and started again on its state: away, then back with its loader, and Ctrl-C still ends it."""
    watching.until("train: ")
    running.kill()
    watching.until("The sidecar is away")
    running.start()
    watching.until("train: ")
    assert watching.interrupt() == (0, "")


def test_ctrl_c_ends_it_while_the_sidecar_is_away(running: Sidecar, watching: Watching) -> None:
    """No traceback, code 0."""
    watching.until("train: ")
    running.stop()
    watching.until("The sidecar is away")
    assert watching.interrupt() == (0, "")


def test_json_watch_is_one_object_a_line(running: Sidecar) -> None:
    """Three states, then the sidecar's end: each line parses, the last says that it is away."""
    one = Watching("--json", "--address", running.address)
    assert one.popen.stdout is not None
    for _ in range(3):
        assert json.loads(one.popen.stdout.readline())["loaders"][0]["loader"] == "train"
    running.kill()
    last = json.loads(one.until("unavailable").splitlines()[-1])
    assert set(last) == {"time_seconds", "unavailable"}
    assert one.interrupt()[0] == 0


def test_reader_that_has_seen_enough_ends_it_quietly(running: Sidecar) -> None:
    """As in ``feedwater status --json --watch | head -1``."""
    one = Watching("--json", "--address", running.address)
    assert one.popen.stdout is not None
    one.popen.stdout.readline()
    one.popen.stdout.close()
    assert one.popen.wait(DEADLINE_SECONDS) == 0
    assert one.popen.stderr is not None
    assert one.popen.stderr.read() == ""
    one.popen.stderr.close()


def test_hostile_loader_names_are_text(running: Sidecar) -> None:
    """Escape codes, markup, line ends and 10 KB in a name: printable lines, nothing a terminal obeys."""
    report(running.address, "\x1b[2J\x1b[31m[red]\r\n<b>\u202e" + "x" * 10_000)
    done = status("--address", running.address, COLUMNS="80")
    assert done.returncode == 0
    assert all(line.isprintable() and len(line) <= 80 for line in done.stdout.splitlines())
    assert "?[2J?[31m[red]" in done.stdout


def test_many_loaders_are_more_than_grpcs_default_message(running: Sidecar) -> None:
    """200 loaders with 30 epochs each are read whole."""
    report(running.address, count=200, epochs=30)
    done = status("--json", "--address", running.address)
    assert len(json.loads(done.stdout)["loaders"]) == 201


def test_it_works_without_rich(running: Sidecar) -> None:
    """A bare install on a terminal prints the plain page."""
    code = (
        "import sys; sys.modules['rich'] = None; sys.modules['rich.console'] = None\n"
        "from feedwater.cli import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "status", "--address", running.address]
    with terminal(command) as screen:
        assert "train: " in screen.until("verdict")
        assert not ESCAPE.search(screen.seen)
        assert screen.end() == 0


class Screen:
    """A terminal of 80 columns with the command in it."""

    def __init__(self, descriptor: int, popen: subprocess.Popen[bytes]) -> None:
        self._descriptor = descriptor
        self.popen = popen
        self.seen = ""

    def until(self, text: str) -> str:
        """Return everything written, once ``text`` is in it."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while text not in self.seen:
            assert time.monotonic() < deadline, f"{text!r} did not come: {self.seen[-2000:]!r}"
            self._read()
        return self.seen

    def _read(self) -> bool:
        """Take what was written meanwhile; return whether there was any."""
        read = b""
        if select.select([self._descriptor], [], [], 0.05)[0]:
            with contextlib.suppress(OSError):
                read = os.read(self._descriptor, 1 << 16)
        self.seen += read.decode(errors="replace")
        return bool(read)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._descriptor, text.encode())

    def end(self) -> int:
        """Return the exit code."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while self.popen.poll() is None and time.monotonic() < deadline:
            self._read()
        while self._read():
            pass
        return self.popen.wait(1)


@contextlib.contextmanager
def terminal(command: list[str], **changed: str) -> Iterator[Screen]:
    """Run a command in a terminal of 80 columns and 50 lines."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 80, 0, 0))
    popen = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(**({"TERM": "xterm-256color"} | changed)),
        start_new_session=True,
        preexec_fn=lambda: ioctl(0, termios.TIOCSCTTY, 0) and None,
    )
    os.close(theirs)
    try:
        yield Screen(ours, popen)
    finally:
        if popen.poll() is None:
            popen.kill()
            popen.wait()
        os.close(ours)


def test_terminal_is_renewed_in_place_and_left_whole(running: Sidecar) -> None:
    """Colours and a hidden cursor while it runs; Ctrl-C gives the cursor back and ends with code 0."""
    with terminal([*COMMAND, *QUICK, "--address", running.address]) as screen:
        screen.until("verdict")
        report(running.address, "validation")
        screen.until("validation: ")
        screen.type("\x03")
        assert screen.end() == 0
    assert COLOUR.search(screen.seen)
    assert "\x1b[1A" in screen.seen, "lines are gone back to, not printed anew"
    assert screen.seen.rindex("\x1b[?25h") > screen.seen.rindex("\x1b[?25l")
    assert "Traceback" not in screen.seen
    widest = max(len(line) for line in ESCAPE.sub("", screen.seen).replace("\r", "\n").split("\n"))
    assert widest <= 80


def test_terminal_says_that_the_sidecar_is_away_above_the_last_page(running: Sidecar) -> None:
    """What was known stays on the screen."""
    with terminal([*COMMAND, *QUICK, "--address", running.address]) as screen:
        screen.until("verdict")
        before = len(screen.seen)
        running.kill()
        screen.until("The sidecar is away")
        screen.type("\x03")
        assert screen.end() == 0
    assert "train: " in screen.seen[before:]


@pytest.mark.parametrize("changed", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_are_left_out_where_not_wanted(running: Sidecar, changed: dict[str, str]) -> None:
    """NO_COLOR, and a terminal that knows nothing."""
    with terminal([*COMMAND, "--address", running.address], **changed) as screen:
        screen.until("verdict")
        assert screen.end() == 0
    assert not COLOUR.search(screen.seen)
    assert "TERM" not in changed or not ESCAPE.search(screen.seen)


def test_output_that_cannot_write_an_arrow_still_comes(running: Sidecar) -> None:
    """An ASCII locale: question marks, no traceback."""
    done = status("--address", running.address, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "train: " in done.stdout
