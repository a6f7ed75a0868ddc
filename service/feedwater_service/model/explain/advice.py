"""Advice: what the user can change that Feedwater does not, with the evidence and the gain.

A piece of advice is one sentence: what to set, and its simulated gain over the recommended settings. Advice
whose gain is too small to name is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from feedwater_service.model.choose.choose import gain
from feedwater_service.model.explain.verdict import Diagnosis
from feedwater_service.model.fit.memory import footprint
from feedwater_service.model.numbers import costs, floors, thresholds
from feedwater_service.model.text import (
    bytes_text_rounded_up,
    gain_text,
    seconds_text,
    truncated,
    workers_text,
)
from feedwater_service.model.types import Verdict


def advice(s: Diagnosis, named: Verdict) -> dict[str, str]:
    """Return the advice by topic, causes first, at most `text.SENTENCE` characters each."""
    found: dict[str, str] = {}
    if named is not Verdict.UNKNOWN:
        found = {topic: _say(rule(s)) for topic, rule in _RULES.items()}
    if named is not Verdict.CPU_LIMIT and not s.machine.quota_cores:
        found.pop("cpu_limit", None)
    ours = s.group.slowest
    if not ours.map_style and not ours.can_apply and s.settings != s.current.settings:
        found["order"] = "An IterableDataset's order depends on num_workers: change it between runs."
    if not s.estimate.known.loads:
        found["load_times"] = "Load times were not measured in the workers; bounds are wide."
    return {topic: text for topic, text in found.items() if text}


def _say(text: str) -> str:
    return truncated(text) if text else ""


def _larger_shm(s: Diagnosis) -> str:
    more = _uncapped_gain(s, "shm")
    batch = footprint(s.group).batch_bytes
    if not more or batch is None:
        return ""
    wanted = s.choice.best_uncapped.settings
    size = s.group.ranks * batch * (wanted.queue_batches + costs.HELD_BATCHES) / thresholds.SHM_PLANNED_SHARE
    return (
        f"Enlarge /dev/shm to {bytes_text_rounded_up(size)} (an emptyDir with medium: Memory):"
        f" {wanted.num_workers} workers would fit, for {more} batches/s."
    )


def _more_memory(s: Diagnosis) -> str:
    more = _uncapped_gain(s, "memory")
    foot, wanted = footprint(s.group), s.choice.best_uncapped.settings
    each = foot.memory_bytes(wanted.num_workers, wanted.prefetch_factor or 2)
    if not more or each is None or foot.rest_bytes is None:
        return ""
    size = (foot.rest_bytes + s.group.ranks * each) / (1 - s.policy.memory_margin)
    return (
        f"Raise the memory limit to {bytes_text_rounded_up(size)}:"
        f" {wanted.num_workers} workers would fit, for {more} batches/s."
    )


def _uncapped_gain(s: Diagnosis, kind: str) -> str:
    """The gain without a limit, as text; empty where that limit does not bind."""
    binding = s.choice.binding
    if binding is None or binding.kind != kind:
        return ""
    return _percent(s, gain(s.choice.best_uncapped, s.deeper or s.choice.chosen))


def _more_cores(s: Diagnosis) -> str:
    more = _percent(s, s.at_recommended.more_cores)
    if not more or not s.estimate.known.loads:
        return ""
    limit = "CPU limit" if s.machine.quota_cores is not None else "machine"
    there, wanted = f"{s.machine.cores:.2g}", f"{s.at_recommended.cores:.2g} cores"
    return f"A {limit} of {wanted} instead of {there} would give {more} batches/s."


def _own_cpus(s: Diagnosis) -> str:
    more = _percent(s, s.gain_over_recommended(lambda c: c.own_cpus))
    if not more or s.machine.obtainable >= thresholds.CONTENDED_CPU_SHARE:
        return ""
    return (
        "Reserve CPUs that others use now: a CPU request as large as the limit, a static CPU manager,"
        f" fewer pods on this node; {more} batches/s."
    )


def _one_thread(s: Diagnosis) -> str:
    width = s.estimate.work.load_width
    more = _percent(s, s.gain_over_recommended(lambda c: c.one_thread))
    if not more or width <= floors.MIN_LOAD_WIDTH:
        return ""
    return (
        f"Set OMP_NUM_THREADS=1 and OPENBLAS_NUM_THREADS=1, cv2.setNumThreads(0) in workers:"
        f" each keeps {min(width, s.group.pod.budget.cpus):.2g} CPUs busy; up to {more} batches/s."
    )


def _persistent(s: Diagnosis) -> str:
    more = _percent(s, s.gain_over_recommended(lambda c: c.no_start_up))
    if not more:
        return ""
    lasting = max((s.at_recommended, s.at_current), key=lambda c: c.rate_without(c.no_start_up))
    now, then = s.at_recommended.outcome, lasting.rate_without(lasting.no_start_up)
    return (
        f"Set persistent_workers=True with {workers_text(lasting.settings.num_workers)}: an epoch would take"
        f" {seconds_text(now.batches / then)} instead of {seconds_text(now.seconds)} ({more} batches/s)."
    )


def _any_order(s: Diagnosis) -> str:
    more = _percent(s, s.gain_over_recommended(lambda c: c.any_order))
    if not more:
        return ""
    return (
        f"Set in_order=False for {more} batches/s: fast batches pass slow ones,"
        " so the order of samples changes."
    )


def _light_batches(s: Diagnosis) -> str:
    more = _percent(s, s.gain_over_recommended(lambda c: c.light_batches))
    tensors = max((x.batch_tensors for x in s.group.epoch.loads), default=0)
    size = max((x.batch_bytes for x in s.group.epoch.loads), default=0)
    if not more or not s.estimate.known.transport or s.may_wait_for_gil:
        return ""
    if tensors > thresholds.SMALL_BATCH_TENSORS:
        return (
            f"Send fewer, larger tensors than {tensors} a batch: up to {more} batches/s in the main process."
        )
    if size > thresholds.SMALL_BATCH_BYTES:
        amount = bytes_text_rounded_up(size)
        return f"Send less than {amount} a batch (uint8, smaller images): up to {more} batches/s."
    takes = seconds_text(s.estimate.work.receive_seconds)
    return (
        f"Receiving a small batch takes {takes}: Python threads beside the loop, if any, belong in"
        f" another process, for up to {more} batches/s."
    )


def _nearer_storage(s: Diagnosis) -> str:
    more = _percent(s, s.at_recommended.no_ceiling)
    if not more:
        return ""
    return (
        "Cache samples nearer or pack them into larger files:"
        f" storage that keeps up would give {more} batches/s."
    )


_RULES: dict[str, Callable[[Diagnosis], str]] = {
    "threads": _one_thread,
    "storage": _nearer_storage,
    "cpu_request": _own_cpus,
    "cpu_limit": _more_cores,
    "shared_memory": _larger_shm,
    "memory": _more_memory,
    "transfer": _light_batches,
    "persistent_workers": _persistent,
    "in_order": _any_order,
}
"""By what each is about."""


def _percent(s: Diagnosis, found: float | None) -> str:
    """A gain as text; empty where it is too small to name."""
    if found is None or not math.isfinite(found) or not s.costs(found):
        return ""
    return gain_text(found)
