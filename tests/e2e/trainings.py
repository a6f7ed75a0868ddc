"""A real training beside a sidecar, for the length of a ``with`` block."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from tests.support.processes import Sidecar, enter, trainer_environment


@contextlib.contextmanager
def training(
    trainer: str,
    request: Mapping[str, object],
    watcher: Sidecar,
    *,
    group: Path | None = None,
    **environment: str,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a module that trains, in a control group if one is given; fail if it ends before the block does."""
    process = subprocess.Popen(
        [sys.executable, "-m", trainer, json.dumps(request)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=trainer_environment(watcher.address, watcher.directory) | environment,
        preexec_fn=None if group is None else partial(enter, group),
    )
    try:
        yield process
        assert process.poll() is None, "the training ended by itself"
    finally:
        process.kill()
        process.communicate()
