"""Checks an answer before anything acts on it: what the sidecar says may be wrong, or another's.

An answer that fails a check is refused as a whole: counted by cause, logged once for each cause, and reported
to the sidecar as refused. Training goes on as it is.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import NamedTuple

from feedwater.ring import WORKER_RINGS
from feedwater.values import Answer, LoaderSettings, Mode, Prediction, Recommendation

USUAL_WORKERS = 64
"""Count up to which a recommendation is taken on any machine: workers that wait for storage can be many times
the CPUs, and the sidecar considers no more by default."""
WORKERS_PER_CPU = 4
"""Beyond `USUAL_WORKERS`, workers allowed for each CPU besides the user's own. `WORKER_RINGS` at most:
the load of more would not be measured."""
MAX_PREFETCH = 64
"""Batches for each worker. The sidecar considers 8; with 2^32 PyTorch does not return from ``iter()``."""
MAX_TEXT = 4096
"""Characters of a text. The longest advice has some 300."""
MAX_ITEMS = 1024
"""Items of a list. A curve of all counts up to `WORKER_RINGS` has 129."""


class Refusal(NamedTuple):
    """Why an answer is refused."""

    cause: str
    """What is counted: "count", "prefetch", "text", "number", "list" or "kind"."""
    sentence: str


def refusal(answer: object, current: LoaderSettings, cpus: int | None = None) -> Refusal | None:
    """Return why ``answer`` is refused; None if it can be used.

    Args:
        answer: The transport's.
        current: The loader's settings: what they are already is never too much.
        cpus: CPUs that the process may run on; None: read.
    """
    if not isinstance(answer, Answer):
        return _refuse("kind", "the answer", answer)
    if answer.mode is not None and not isinstance(answer.mode, Mode):
        return _refuse("kind", "mode", answer.mode)
    if why := _of_texts("reason", [answer.reason, answer.address]):
        return why
    recommendation = answer.recommendation
    if recommendation is None:
        return None
    if not isinstance(recommendation, Recommendation):
        return _refuse("kind", "the recommendation", recommendation)
    return (
        _of_limits(recommendation.settings, current, cpus)
        or _of_fields(recommendation)
        or _of_predictions(recommendation)
    )


def most_workers(current: LoaderSettings, cpus: int | None = None) -> int:
    """Return the largest count that is applied."""
    allowed = WORKERS_PER_CPU * (cpus or len(os.sched_getaffinity(0))) + current.num_workers
    return max(current.num_workers, min(WORKER_RINGS, max(USUAL_WORKERS, allowed)))


def _of_limits(settings: LoaderSettings, current: LoaderSettings, cpus: int | None) -> Refusal | None:
    if why := _of_settings(settings):
        return why
    if settings.num_workers > (most := most_workers(current, cpus)):
        return _refuse("count", "num_workers", settings.num_workers, f"; at most {most} are started here")
    if (settings.prefetch_factor or 0) > (most := max(MAX_PREFETCH, current.prefetch_factor or 0)):
        return _refuse("prefetch", "prefetch_factor", settings.prefetch_factor, f"; at most {most} is set")
    return None


def _of_settings(settings: object) -> Refusal | None:
    if not isinstance(settings, LoaderSettings):
        return _refuse("kind", "settings", settings)
    if not _is_count(settings.num_workers, 0):
        return _refuse("count", "num_workers", settings.num_workers)
    if settings.prefetch_factor is not None and not _is_count(settings.prefetch_factor, 0):
        return _refuse("prefetch", "prefetch_factor", settings.prefetch_factor)
    for name in ("persistent_workers", "pin_memory", "in_order"):
        value = getattr(settings, name)
        if not isinstance(value, bool) and not (name == "in_order" and value is None):
            return _refuse("kind", name, value)
    return None


def _of_fields(recommendation: Recommendation) -> Refusal | None:
    for name in ("changes", "rolls_back"):
        if not isinstance(getattr(recommendation, name), bool):
            return _refuse("kind", name, getattr(recommendation, name))
    if not isinstance(recommendation.epoch, int):
        return _refuse("kind", "epoch", recommendation.epoch)
    for name in ("id", "verdict", "sentence", "action", "cause"):
        if why := _of_texts(name, [getattr(recommendation, name)]):
            return why
    for name in ("advice", "advice_topics", "curve", "what_if"):
        items = getattr(recommendation, name)
        if not isinstance(items, tuple) or len(items) > MAX_ITEMS:
            return _refuse("list", name, items)
    return _of_texts("advice", recommendation.advice) or _of_texts("topic", recommendation.advice_topics)


def _of_predictions(recommendation: Recommendation) -> Refusal | None:
    limits = [what_if.cpu_limit_cores for what_if in recommendation.what_if]
    numbers = [recommendation.batches_per_second, recommendation.batches_per_second_now, *limits]
    if recommendation.cpu_limit_needed_cores is not None:
        numbers.append(recommendation.cpu_limit_needed_cores)
    for prediction in (*recommendation.curve, *(what_if.best for what_if in recommendation.what_if)):
        if not isinstance(prediction, Prediction):
            return _refuse("kind", "a prediction", prediction)
        if why := _of_settings(prediction.settings):
            return why
        numbers += [prediction.batches_per_second, prediction.batches_per_second_lower]
        numbers += [prediction.batches_per_second_upper, prediction.starvation]
        numbers += [n for n in (prediction.memory_bytes, prediction.shm_bytes) if n is not None]
    wrong = next((n for n in numbers if not _is_amount(n)), None)
    return None if wrong is None else _refuse("number", "a prediction", wrong)


def _of_texts(name: str, texts: Iterable[object]) -> Refusal | None:
    for text in texts:
        if not isinstance(text, str):
            return _refuse("kind", name, text)
        if len(text) > MAX_TEXT:
            return _refuse("text", name, text, f"; {len(text)} characters")
    return None


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_amount(value: object) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value >= 0  # type: ignore[arg-type,operator]


def _refuse(cause: str, name: str, value: object, more: str = "") -> Refusal:
    # `repr` of an integer of more than 4,300 digits raises.
    is_huge = isinstance(value, int) and value.bit_length() > 64
    shown = f"a number of {value.bit_length()} bits" if is_huge else f"{value!r:.40}"  # type: ignore[attr-defined]
    return Refusal(cause, f"The sidecar's answer is refused: {name} is {shown}{more}.")
