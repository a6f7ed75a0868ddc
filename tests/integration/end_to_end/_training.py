"""The environment of a training process, and patience with what the sidecar comes to say of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from _processes import PATIENT, clean_environment


def environment(address: str, directory: Path) -> dict[str, str]:
    """Return our own environment with no other setting of Feedwater than patience and the sidecar."""
    return clean_environment() | PATIENT | {"FEEDWATER_ADDRESS": address, "FEEDWATER_RUN_DIR": str(directory)}


def eventually(claim: Callable[[], bool], seconds: float) -> None:
    """Return as soon as the claim holds; fail when it does not come true in time."""
    until = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < until, "it did not come true in time"
        time.sleep(0.05)
