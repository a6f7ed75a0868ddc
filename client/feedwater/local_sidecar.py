"""A sidecar of one's own in a private directory, for as long as a command runs."""

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
"""It drains within 1.5 s of a SIGTERM."""


class LocalSidecar(NamedTuple):
    """Where it can be reached; it may be up in a second only."""

    address: str
    """For clients and ``feedwater status``."""
    page: str
    """Its live page."""


@contextlib.contextmanager
def started(environment: Mapping[str, str] | None = None) -> Iterator[LocalSidecar]:
    """Yield where a sidecar is that ends with the body.

    Args:
        environment: More settings of the sidecar, as ``FEEDWATER_*`` variables.
    """
    with _private_directory() as directory, contextlib.ExitStack() as stack:
        # Bound here and handed on, so that the port is known at once and nobody waits for the sidecar. Only
        # this machine's user is to see the metrics of a private run.
        with socket.create_server(("127.0.0.1", 0)) as listener:
            page = "http://{}:{}/".format(*listener.getsockname())
            stack.enter_context(_process(directory, environment or {}, listener.fileno()))
        yield LocalSidecar(f"unix:{directory}/api.sock", page)


@contextlib.contextmanager
def _private_directory() -> Iterator[str]:
    # A Unix socket's path has 107 bytes: a long TMPDIR, as Slurm's, would not do.
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
            # /dev/termination-log is the training container's own.
            "FEEDWATER_TERMINATION_MESSAGE": f"{directory}/termination",
        }
        | dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # A terminal's Ctrl-C is for the training; the sidecar is to hear its last words.
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
    """Have the kernel send SIGTERM when the parent is gone: a SIGKILL leaves it no time to end its children.

    Source: prctl(2), PR_SET_PDEATHSIG.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
