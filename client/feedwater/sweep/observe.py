"""One epoch at the user's own setting, watched by Feedwater as any training is: a process of its own.

Apart from the sweep's own measurements, which nothing watches; and through before they begin, so that two
copies of a large dataset never share the memory limit.
"""

from __future__ import annotations

import json
import math
import os
import socket
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import cast

import feedwater
from feedwater.loop import dataloader
from feedwater.sweep.measure import Bench, HungError, Step, alarmed, reason_of, sleeping
from feedwater.sweep.target import TargetError, load_loader, load_step, shortened
from feedwater.values import Answer

LEAST_BATCHES = 60
"""Of an epoch, if the loader has them: at 20 the sidecar predicts at all, at 60 with some certainty."""
SIDECAR_SECONDS = 20.0
"""For it to start: 0.2 s of CPU time, much more under a tight quota."""
ANSWER_SECONDS = 20.0
NOT_WATCHED = "Feedwater cannot watch this loader with this version of PyTorch."


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be observed."""

    target: str
    step: str
    """``module:function``; empty: ``step_seconds``."""
    step_seconds: float
    batches: int | None
    """Of an epoch; None: as many as take ``epoch_seconds``; 0: all."""
    epoch_seconds: float
    address: str
    """Of the sidecar; empty: nothing is predicted."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the loader goes at the user's own setting, as far as it was tried."""

    batches: int
    per_second: float
    has_ended: bool
    """That was all of the epoch."""


def main() -> None:
    """Observe what the first argument asks for, as JSON; write the result to the descriptor in the second."""
    request = Request(**json.loads(sys.argv[1]))
    with os.fdopen(int(sys.argv[2]), "w") as out:
        try:
            json.dump(observed(request), out)
        except TargetError as error:
            json.dump({"error": str(error)}, out)


def observed(request: Request) -> dict[str, object]:
    """Return the user's settings, the length of an epoch, and what Feedwater recommends after it.

    Raises:
        TargetError: There is no such loader, or it gives no batches.
    """
    step = step_of(request.step, request.step_seconds)
    loader = load_loader(request.target)
    bench = Bench(loader, shortened(loader), step)
    # Off, whatever the user's own `watch` says: what is tried first is not to be learned from.
    is_watched = feedwater.watch(cast("Iterable[object]", loader), mode="off") is loader
    pace = _pace(bench, request.epoch_seconds, request.batches or math.inf)
    whole = _length(loader) or (pace.batches if pace.has_ended else None)
    bench.batches = bench.first.count = batches_of(request, pace, whole)
    answer = Answer(reason=NOT_WATCHED)
    if request.address and is_watched:
        answer = _answer(bench, request.address)
    made = answer.recommendation
    return {
        "settings": asdict(dataloader.settings_of(loader)),
        "batches": bench.batches,
        "epoch_batches": whole,
        "is_iterable": getattr(loader, "_dataset_kind", 0) != 0,
        "recommendation": asdict(made) if made is not None else None,
        "reason": answer.reason,
    }


def step_of(target: str, seconds: float) -> Step:
    """Return what is done with each batch."""
    return load_step(target) if target else sleeping(seconds)


def batches_of(request: Request, pace: Pace, whole: int | None) -> int:
    """Return how many batches an epoch of the sweep has.

    Example: at 30 batches/s, 3 s asked for: 90, or all if the loader has fewer.
    """
    wanted = request.batches
    if wanted is None:
        wanted = max(LEAST_BATCHES, math.ceil(pace.per_second * request.epoch_seconds))
    if wanted == 0 and whole is None:
        raise TargetError("--batches 0 (whole epochs) needs a loader with a length; give a number")
    return min(wanted or cast(int, whole), whole or wanted)


def _pace(bench: Bench, seconds: float, most: float) -> Pace:
    """Try the loader for some seconds or batches, which also warms what would be cold in the first epoch."""
    batches, first, now = 0, 0.0, 0.0
    has_ended = True
    try:
        with alarmed() as progress:
            for batch in cast("Iterable[object]", bench.loader):
                bench.step(batch)
                now = time.perf_counter()
                first = first or now
                batches += 1
                progress[0] = batches
                if now - first > seconds or batches >= most:
                    has_ended = False
                    break
    except HungError as error:
        raise TargetError(f"the loader hangs at its own setting: {error}") from None
    except Exception as error:
        raise TargetError(f"the loader fails at its own setting: {reason_of(error)}") from None
    bench.close()
    if not batches:
        raise TargetError("the loader gives no batch")
    return Pace(batches, (batches - 1) / (now - first) if now > first else float(batches), has_ended)


def _answer(bench: Bench, address: str) -> Answer:
    from feedwater.loop.attach.watch import state_of

    _await_sidecar(address)
    feedwater.watch(cast("Iterable[object]", bench.loader), name="sweep", mode="advise")
    if dataloader.settings_of(bench.loader).persistent_workers:
        # Workers that persist are started once in a training: its usual epoch is one that finds them there.
        bench.epoch(math.inf, False)
    bench.epoch(math.inf, False)
    recording = state_of(bench.loader).recording
    if recording.transport is None:
        return Answer(reason=NOT_WATCHED)
    until = time.perf_counter() + ANSWER_SECONDS
    answer = recording.transport.get_recommendation(recording.key, recording.epoch, ANSWER_SECONDS)
    # Under a tight quota the last report can arrive later than the sidecar waits for it.
    while "not arrived" in answer.reason and time.perf_counter() < until:
        answer = recording.transport.get_recommendation(recording.key, recording.epoch, ANSWER_SECONDS)
    return answer


def _await_sidecar(address: str) -> None:
    until = time.perf_counter() + SIDECAR_SECONDS
    while time.perf_counter() < until:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(address.removeprefix("unix:")) == 0:
                return
        time.sleep(0.02)


def _length(loader: object) -> int | None:
    try:
        return len(loader)  # type: ignore[arg-type]
    except Exception:  # A dataset's or a sampler's __len__ is the user's code.
        return None


if __name__ == "__main__":
    main()
