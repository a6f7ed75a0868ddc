"""The programs that `.ci/run tools` obtains, and servers of them for the length of a ``with`` block."""

from __future__ import annotations

import contextlib
import os
import shutil
import ssl
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from tests.support.processes import eventually, terminate

TOOLS = Path(__file__).parents[2] / ".cache/tools"
READY_SECONDS = 60.0
"""For a server to answer: it takes three seconds alone, and there may be other tests beside it."""
wait_for = partial(eventually, seconds=READY_SECONDS, every=0.1)


@contextlib.contextmanager
def running(
    command: Sequence[str],
    directory: Path,
    is_ready: Callable[[], bool],
    *,
    seconds: float = READY_SECONDS,
    **environment: str,
) -> Iterator[None]:
    """Run a server in a directory, from when it is ready to the end of the block; its log lies there."""
    log = directory / f"{command[0]}.log"
    with log.open("w") as said:
        process = subprocess.Popen(
            [tool(command[0]), *command[1:]],
            stdout=said,
            stderr=said,
            cwd=directory,
            env=os.environ | environment,
        )

    def ready() -> bool:
        assert process.poll() is None, f"{command[0]} ended\n{log.read_text()[-3000:]}"
        return is_ready()

    try:
        wait_for(ready, seconds=seconds, said=lambda: log.read_text()[-3000:])
        yield
    finally:
        terminate(process)


def answers(url: str, token: str = "") -> bool:
    """Return whether a server on loopback answers with success, whoever signed its certificate."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(asked, timeout=5, context=trusting):
            return True
    except OSError:
        return False


def tool(name: str) -> str:
    """Return where a program is; fail with what obtains it."""
    path = shutil.which(name, path=f"{TOOLS}:{os.environ['PATH']}")
    assert path, f"{name} is missing: bash .ci/run tools"
    return path
