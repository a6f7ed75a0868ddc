"""The sidecar's state as JSON; the keys are described in docs/status.md."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

from feedwater.relay.views import EpochView, LoaderView, PodView


def as_json(pod: PodView, indent: int | None = None) -> str:
    """Return the pod as one JSON object: on one line, or indented for people."""
    loaders = [_loader(view) for view in pod.loaders]
    record = {"version": pod.version, "time_seconds": pod.time_seconds, "loaders": loaders}
    return json.dumps(_finite(record), indent=indent, allow_nan=False)


def lost_as_json(time_seconds: float, why: str) -> str:
    """Return what stands in the pod's place while the sidecar does not answer."""
    return json.dumps({"time_seconds": time_seconds, "unavailable": why})


def _loader(view: LoaderView) -> dict[str, object]:
    return {**asdict(view), "epochs": [_epoch(epoch) for epoch in view.epochs]}


def _epoch(epoch: EpochView) -> dict[str, object]:
    flat = asdict(epoch)
    summary = flat.pop("summary")
    del summary["loader"]
    derived = {
        "batches_per_second": epoch.summary.batches_per_second,
        "starvation": epoch.summary.starvation,
    }
    return {**summary, **derived, **flat}


def _finite(value: object) -> object:
    """Return the value without NaN and infinity, which JSON does not have: they become null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
