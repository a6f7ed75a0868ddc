"""``feedwater run``: a training with every ``DataLoader`` watched and no edit of its script.

The training is a child process with the same standard streams, signals and exit code. Its Pythons load
`feedwater/inject/site/sitecustomize.py`. Where no sidecar answers, one is started in a private directory and
ended after the training.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import feedwater
from feedwater import local_sidecar
from feedwater.settings import DEFAULT_ADDRESS

if TYPE_CHECKING:
    from feedwater.relay.views import LoaderView

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
FROM_KERNEL = 0x80
"""``SI_KERNEL``: a terminal's Ctrl-C, which went to the whole process group, the training included."""
SUMMARY_SECONDS = 2.0
LAST_REPORT_SECONDS = 1.5
"""As long as a relay tries to send the last timings of a trainer that has ended."""
NO_SERVICE = (
    "feedwater: no sidecar answers and none is installed here, so nothing is measured; "
    "install one with: pip install 'feedwater[service]'"
)


class Run:
    """One training under ``feedwater run``."""

    def __init__(
        self, program: Sequence[str], *, is_module: bool, mode: str | None, address: str | None
    ) -> None:
        self._command = command(program, is_module)
        self._environment = environment(os.environ, mode, address)
        self._given_address = self._environment.get("FEEDWATER_ADDRESS", "")

    def main(self) -> int:
        """Run the training; return its exit code, or die of the signal that it died of."""
        with _sidecar(self._given_address) as address:
            if address:
                self._environment["FEEDWATER_ADDRESS"] = address
                # What is on probation must outlive a crash, which the sidecar's own directory does not.
                self._environment.setdefault("FEEDWATER_RUN_DIR", _lasting_directory())
            try:
                status = _run(self._command, self._environment)
            except OSError as error:
                print(f"feedwater run: {self._command[0]}: {error.strerror}", file=sys.stderr)
                return 126 if isinstance(error, PermissionError) else 127
            _say_summary(address or self._given_address or DEFAULT_ADDRESS)
        return _exit_code(status)


def command(program: Sequence[str], is_module: bool) -> list[str]:
    """Return what is executed: a Python script or module by this Python, anything else by its name."""
    if is_module:
        return [sys.executable, "-m", *program]
    is_script = program[0].endswith((".py", ".pyc")) or os.path.isdir(program[0])
    if is_script or (os.path.isfile(program[0]) and not os.access(program[0], os.X_OK)):
        return [sys.executable, *program]
    return list(program)


def environment(
    inherited: dict[str, str] | os._Environ[str], mode: str | None, address: str | None
) -> dict[str, str]:
    """Return the training's environment."""
    found = dict(inherited)
    inject = os.path.join(os.path.dirname(os.path.abspath(feedwater.__file__)), "inject/site")
    found["PYTHONPATH"] = os.pathsep.join([inject, *filter(None, [found.get("PYTHONPATH", "")])])
    if mode:
        found["FEEDWATER_MODE"] = mode
    if address:
        found["FEEDWATER_ADDRESS"] = address
    return found


@contextlib.contextmanager
def _sidecar(given_address: str) -> Iterator[str]:
    """Yield the address of a sidecar started here; empty where one is given, answers, or none can be had."""
    if given_address or _answers(DEFAULT_ADDRESS):
        yield ""
    elif importlib.util.find_spec("feedwater_service") is None:
        print(NO_SERVICE, file=sys.stderr)
        yield ""
    else:
        with local_sidecar.started() as (address, page):
            # Before the training says anything: later it would come in the midst of a line of the user's.
            print(
                f"feedwater: live page {page}, in a terminal: feedwater status --address {address}",
                file=sys.stderr,
                flush=True,
            )
            yield address


def _lasting_directory() -> str:
    return os.path.join(tempfile.gettempdir(), f"feedwater-{os.getuid()}")


def _answers(address: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(address.removeprefix("unix:"))
        except OSError:
            return False
        return True


def _run(arguments: Sequence[str], environ: dict[str, str]) -> int:
    """Return the wait status of the training, to which signals are forwarded meanwhile."""
    waited = {*FORWARDED, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    try:
        process = subprocess.Popen(
            list(arguments),
            env=environ,
            # Blocked signals are inherited. One thread here: Python between fork and exec is safe.
            preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, before),
        )
        return _wait(process, waited)
    finally:
        # Meant for the training, which has ended: unblocked they would end this process too soon.
        while signal.sigtimedwait(waited, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(process: subprocess.Popen[bytes], waited: set[signal.Signals]) -> int:
    while True:
        ended, status = os.waitpid(process.pid, os.WNOHANG)
        if ended:
            process.returncode = os.waitstatus_to_exitcode(status)
            return status
        info = signal.sigwaitinfo(waited)
        if info.si_signo != signal.SIGCHLD and info.si_code != FROM_KERNEL:
            os.kill(process.pid, info.si_signo)


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return code
    # The shell, Slurm and the kubelet tell a killed training from one that failed.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):
        signal.signal(-code, signal.SIG_DFL)
    sys.stdout.flush()
    os.kill(os.getpid(), -code)
    return 128 - code


def _ended_loaders(address: str) -> list[LoaderView]:
    """Return the loaders once their last reports have come, which are sent when their trainer has ended."""
    from feedwater.status.follow import read_loaders

    until = time.monotonic() + LAST_REPORT_SECONDS
    while True:
        loaders = read_loaders(address, SUMMARY_SECONDS)
        if time.monotonic() >= until or not any(loader.connected for loader in loaders):
            return loaders
        time.sleep(0.1)


def _say_summary(address: str) -> None:
    from feedwater.relay.channel import SidecarUnavailableError
    from feedwater.status.table import as_table

    try:
        loaders = _ended_loaders(address)
    except SidecarUnavailableError:
        return
    ours = [loader for loader in loaders if loader.epochs]
    if ours:
        print("feedwater: what the loaders did\n" + as_table(ours), file=sys.stderr)
