"""Have one epoch observed, in a process of its own beside a sidecar of its own; read what came of it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import cast

from feedwater import local_sidecar
from feedwater.sweep.observe import Request
from feedwater.sweep.target import TargetError
from feedwater.values import LoaderSettings, Recommendation, recommendation_from_json, settings_from_json

NO_SERVICE = "the sidecar is not installed here; install it with: pip install 'feedwater[sweep]'"
LAST_CHARACTERS = 2000
"""Of what a process wrote before it died."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What is known before the sweep begins."""

    settings: LoaderSettings
    """The user's own."""
    batches: int
    """Of each of the sweep's epochs."""
    epoch_batches: int | None
    """Of a whole epoch; None is not known."""
    is_iterable: bool
    recommendation: Recommendation | None
    reason: str
    """Why there is no recommendation, a sentence."""


def observation(request: Request) -> Baseline:
    """Return what one epoch at the user's own setting says.

    Raises:
        TargetError: There is no such loader, or it does not work.
    """
    with _sidecar() as address:
        value = _result(replace(request, address=address))
    if "error" in value:
        raise TargetError(str(value["error"]))
    made = value["recommendation"]
    return Baseline(
        settings=settings_from_json(cast("dict[str, object]", value["settings"])),
        batches=cast(int, value["batches"]),
        epoch_batches=cast("int | None", value["epoch_batches"]),
        is_iterable=value["is_iterable"] is True,
        recommendation=recommendation_from_json(made) if isinstance(made, dict) else None,
        reason=str(value["reason"]) if address else f"No prediction: {NO_SERVICE}.",
    )


@contextlib.contextmanager
def _sidecar() -> Iterator[str]:
    if importlib.util.find_spec("feedwater_service") is None:
        yield ""
        return
    # It shares the trainer's CPU limit here: what it works ahead would slow the epoch that it learns from.
    with local_sidecar.started({"FEEDWATER_MODEL_SHARE": "0"}) as (address, _):
        yield address


def _result(request: Request) -> dict[str, object]:
    read, write = os.pipe()
    with tempfile.TemporaryFile() as said, os.fdopen(read) as result:
        process = subprocess.Popen(
            [sys.executable, "-m", "feedwater.sweep.observe", json.dumps(asdict(request)), str(write)],
            env=_environment(request.address),
            stdin=subprocess.DEVNULL,
            # What the user's code says is said once, by the sweep itself.
            stdout=said,
            stderr=said,
            pass_fds=(write,),
            preexec_fn=local_sidecar.end_with_parent,
        )
        os.close(write)
        try:
            text = result.read()
            process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if not text:
            said.seek(0)
            words = said.read().decode(errors="replace")[-LAST_CHARACTERS:].strip()
            raise TargetError(f"observing one epoch ended with status {process.returncode}:\n{words}")
    return cast("dict[str, object]", json.loads(text))


def _environment(address: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FEEDWATER_")}
    return kept | ({"FEEDWATER_ADDRESS": address} if address else {})
