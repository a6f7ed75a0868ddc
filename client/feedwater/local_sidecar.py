"""A sidecar in a private directory, for the time that a command runs."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import NamedTuple

END_SECONDS = 3.0
"""For the sidecar to end: it takes at most 1.5 s after a SIGTERM."""


class LocalSidecar(NamedTuple):
    """Addresses of a sidecar that has been started; it accepts connections within a second."""

    address: str
    """For clients and ``feedwater status``."""
    page: str
    """URL of its live page."""


@contextlib.contextmanager
def started(environment: Mapping[str, str] | None = None) -> Iterator[LocalSidecar]:
    """Run a sidecar for the body, and yield its addresses.

    Args:
        environment: Further settings of the sidecar, as ``FEEDWATER_*`` variables.
    """
    with _private_directory() as directory, contextlib.ExitStack() as stack:
        # Bound here and inherited: the port is known at once, without waiting for the sidecar. The loopback
        # address keeps the metrics of a private run on this machine.
        with socket.create_server(("127.0.0.1", 0)) as listener:
            page = "http://{}:{}/".format(*listener.getsockname())
            stack.enter_context(_process(directory, environment or {}, listener.fileno()))
        yield LocalSidecar(f"unix:{directory}/api.sock", page)


@contextlib.contextmanager
def _private_directory() -> Iterator[str]:
    # The path of a Unix socket has at most 107 bytes, too few for a long TMPDIR such as Slurm's.
    base = tempfile.gettempdir() if len(tempfile.gettempdir()) < 60 else "/tmp"
    directory = tempfile.mkdtemp(prefix="feedwater-", dir=base)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _process(directory: str, environment: Mapping[str, str], http_fd: int) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "feedwater", "sidecar"],
        env=os.environ
        | {
            "FEEDWATER_SOCKET": f"{directory}/api.sock",
            "FEEDWATER_STATE_DIR": f"{directory}/state",
            "FEEDWATER_HTTP_HOST": f"fd:{http_fd}",
            "FEEDWATER_HTTP_PORT": "0",
            "FEEDWATER_LOG_LEVEL": "error",
            # /dev/termination-log belongs to the training container.
            "FEEDWATER_TERMINATION_MESSAGE": f"{directory}/termination",
        }
        | dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Ctrl-C in the terminal ends the training; the sidecar must still take its last report.
        start_new_session=True,
        pass_fds=(http_fd,),
        preexec_fn=end_with_parent,
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def end_with_parent() -> None:
    """Have the kernel send SIGTERM when the parent ends: after a SIGKILL it cannot end its children itself.

    Source: prctl(2), PR_SET_PDEATHSIG.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
