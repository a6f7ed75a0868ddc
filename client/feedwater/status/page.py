"""What is shown of a pod: its container, and for each loader what it does, why, and what was done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from feedwater.relay.views import DecisionView, EpochView, LoaderView, PodView
from feedwater.status.judgement import judgement
from feedwater.status.layout import Prose, Section, Table, Words
from feedwater.status.words import (
    MAX_LABEL,
    MAX_NAME,
    bar,
    clean,
    cores,
    counted,
    ranks,
    rate,
    seconds,
    setting,
    size,
    verdict_phrase,
)
from feedwater.values import EpochSummary, Prediction

EPOCHS = 8
"""Newest epochs that are shown: with the rest of a loader they fit on a screen of 50 lines."""
DECISIONS = 5
STALLED_SECONDS = 10.0
"""Without a batch while some are outstanding, from which it is shown; slow storage makes seconds of it."""
SILENT_SECONDS = 10.0
"""Without a word of a client that reports every second."""
BAR_COLUMNS = 18


@dataclass(frozen=True, slots=True)
class Group:
    """One loader of a pod, in all its ranks."""

    views: tuple[LoaderView, ...]
    """By rank."""

    @property
    def first(self) -> LoaderView:
        """The rank that speaks for all: ranks change together and are told the same."""
        return self.views[0]


def page(pod: PodView) -> list[Section]:
    """Return everything there is to show."""
    groups = grouped(pod.loaders)
    if not groups:
        return [_head(pod, groups), Section(Words("No loader has reported yet."))]
    return [_head(pod, groups), *(_loader(group, pod.time_seconds) for group in groups)]


def grouped(loaders: Sequence[LoaderView]) -> list[Group]:
    """Return the loaders by name, their ranks together."""
    found: dict[tuple[str, ...], list[LoaderView]] = {}
    for view in sorted(
        loaders, key=lambda view: (view.namespace, view.pod, view.job, view.loader, view.rank)
    ):
        found.setdefault((view.namespace, view.pod, view.job, view.loader), []).append(view)
    return [Group(tuple(views)) for views in found.values()]


def _head(pod: PodView, groups: Sequence[Group]) -> Section:
    parts = [f"feedwater {pod.version}".strip()]
    parts += sorted({f"pod {clean(view.pod, MAX_NAME)}" for view in pod.loaders if view.pod})[:3]
    parts.append(counted(len(groups), "loader"))
    if pod.time_seconds is not None:
        parts.append(time.strftime("%H:%M:%S", time.localtime(pod.time_seconds)))
    return Section(Words(", ".join(parts), "title"), list(_container(pod.loaders)))


def _container(loaders: Sequence[LoaderView]) -> Iterator[Prose]:
    """Yield what the trainer's container may use and uses: of the loader whose reading is the newest."""
    if not loaders:
        return
    view = max(loaders, key=lambda view: view.container.stamp_seconds if view.container else 0.0)
    limits, usage = view.limits, view.container
    yield Prose(_cpu(view), "CPU")
    if usage is not None and usage.memory_bytes is not None:
        yield Prose(_share(usage.memory_bytes, limits.memory_bytes), "memory")
    elif limits.memory_bytes is not None:
        yield Prose(Words(f"limit {size(limits.memory_bytes)}"), "memory")
    if usage is not None and usage.shm_bytes is not None:
        yield Prose(_share(usage.shm_bytes, limits.shm_bytes), "/dev/shm")


def _cpu(view: LoaderView) -> Words:
    limits = view.limits
    limit = f"limit {cores(limits.cpu_quota_cores)}" if limits.cpu_quota_cores else "no limit"
    parts = [limit + (f" on {limits.cpus} CPUs" if limits.cpus else "")]
    measured = next((e for e in reversed(view.epochs) if e.cpu_used_cores is not None), None)
    if measured is None or measured.cpu_used_cores is None:
        return Words(parts[0])
    parts.append(f"{cores(measured.cpu_used_cores)} used in epoch {measured.summary.epoch}")
    throttled = measured.throttled_ratio
    if throttled is not None:
        parts.append(f"throttled in {throttled:.0%} of periods")
    return Words(", ".join(parts), "warn" if throttled is not None and throttled > 0.25 else "")


def _share(used: int, limit: int | None) -> Words:
    if not limit:
        return Words(f"{size(used)} used, no limit known")
    share = used / limit
    kind = "bad" if share > 0.9 else "warn" if share > 0.75 else ""
    return Words(f"{size(used)} of {size(limit)} used ({share:.0%})", kind)


def _loader(group: Group, now: float | None) -> Section:
    view = group.first
    items: list[Prose | Table] = [*_said(group), *_advice(group), *_doing(group, now)]
    items.append(Prose(_workers(view), "workers"))
    items += [item for item in (_epochs(view), _curve(view)) if item is not None]
    items += _decisions(view)
    what_if = _what_if(view)
    if what_if is not None:
        items.append(what_if)
    return Section(_title(group), items)


def _title(group: Group) -> Words:
    view = group.first
    name = clean(view.loader, MAX_NAME) + (f", {clean(view.label, MAX_LABEL)}" if view.label else "")
    several = f" ({counted(len(group.views), 'rank')})" if len(group.views) > 1 else ""
    verdict = judgement(view).verdict
    kind = {"NOT_STARVED": "good", "UNKNOWN": "title"}.get(verdict, "warn")
    return Words(f"{name}{several}: {verdict_phrase(verdict)}", kind)


def _said(group: Group) -> Iterator[Prose]:
    """Yield the verdict in words with its evidence; what all ranks are told is said once."""
    for text, of in told(group.views, lambda view: [judgement(view).sentence]):
        yield Prose(Words(f"{ranks(of)}: {text}" if of else text))
    view = group.first
    if view.evidence:
        yield Prose(Words("; ".join(e.text for e in view.evidence), "dim"), "because")
    if view.frozen:
        yield Prose(Words(view.frozen, "warn"))


def told(
    views: Sequence[LoaderView], texts: Callable[[LoaderView], Sequence[str]]
) -> list[tuple[str, list[int]]]:
    """Return each text once, with the ranks that it is for; none where it is for all."""
    found: dict[str, list[int]] = {}
    for view in views:
        for text in texts(view):
            if text:
                found.setdefault(text, []).append(view.rank)
    return [(text, [] if len(of) == len(views) else of) for text, of in found.items()]


def _doing(group: Group, now: float | None) -> Iterator[Prose | Table]:
    if len(group.views) == 1:
        yield Prose(_now(group.first, now), "now")
        return
    rows = [
        [Words(str(view.rank)), Words(setting(view.settings)), *_newest(view), _now(view, now)]
        for view in group.views
    ]
    yield Table(("rank", "workers", "batches/s", "starved", "now"), rows, frozenset({"now"}))


def _newest(view: LoaderView) -> tuple[Words, Words]:
    if not view.epochs:
        return Words("-"), Words("-")
    newest = view.epochs[-1].summary
    return Words(rate(newest.batches_per_second)), Words(starvation(newest, view.uses_cuda))


def _now(view: LoaderView, now: float | None) -> Words:
    if not view.connected:
        return Words("has ended", "dim")
    silent = now - view.last_seen_seconds if now and view.last_seen_seconds else 0.0
    if silent > SILENT_SECONDS:
        return Words(f"not heard of for {seconds(silent)}", "bad")
    if view.stalled_seconds is not None and view.stalled_seconds > STALLED_SECONDS:
        return Words(f"no batch for {seconds(view.stalled_seconds)}, and some are outstanding", "bad")
    if not view.epochs:
        return Words("no epoch has begun", "dim")
    newest = view.epochs[-1].summary
    if newest.complete:
        return Words(f"epoch {newest.epoch} is done{_recent(view)}")
    whole = f" of {view.batches_per_epoch}" if view.batches_per_epoch else ""
    return Words(f"epoch {newest.epoch}, batch {newest.batches}{whole}{_recent(view)}")


def _recent(view: LoaderView) -> str:
    waits, steps = view.recent_wait_seconds, view.recent_step_seconds
    if not waits or not steps:
        return ""
    share = sum(waits) / max(sum(waits) + sum(steps), 1e-12)
    means = f"wait {seconds(sum(waits) / len(waits))}, step {seconds(sum(steps) / len(steps))}"
    return f"; last {counted(len(waits), 'batch', 'batches')}: {means}, {share:.0%} waiting"


def _workers(view: LoaderView) -> Words:
    made = view.recommendation
    parts = [f"{setting(view.settings)} in use"]
    if made is not None:
        parts.append(f"{setting(made.settings)} recommended")
    if view.uncapped_num_workers is not None:
        parts.append(f"{view.uncapped_num_workers} without the pod's limits")
    if view.initial_settings is not None:
        parts.append(f"{setting(view.initial_settings)} in the script")
    parts.append(f"mode {view.mode or 'unknown'}")
    memory = _worker_memory(view)
    return Words(", ".join(parts) + (f"; {memory}" if memory else ""))


def _worker_memory(view: LoaderView) -> str:
    """Return what the workers take; a sum of RSS would count shared pages once for each worker."""
    pss = [memory.pss_bytes for memory in view.workers if memory.pss_bytes is not None]
    rss = [memory.rss_bytes for memory in view.workers if memory.rss_bytes is not None]
    if pss and len(pss) == len(view.workers):
        limit = view.limits.memory_bytes
        share = f", {sum(pss) / limit:.0%} of the limit" if limit else ""
        return f"they take {size(sum(pss))}{share}, the largest {size(max(pss))}"
    return f"the largest has {size(max(rss))} resident, shared pages included" if rss else ""


def _epochs(view: LoaderView) -> Table | None:
    if not view.epochs:
        return None
    wait = "host wait" if view.uses_cuda and not _has_device(view) else "starved"
    head = ("epoch", "workers", "batches/s", wait, "start-up", "CPU", "throttled", "verdict")
    judged = {decision.epoch for decision in view.decisions}
    rows = [_epoch_row(epoch, epoch.summary.epoch in judged) for epoch in view.epochs[-EPOCHS:]]
    return Table(head, rows, frozenset({"verdict"}))


def _has_device(view: LoaderView) -> bool:
    return any(epoch.summary.device_starvation is not None for epoch in view.epochs)


def _epoch_row(epoch: EpochView, is_judged: bool) -> list[Words]:
    of = epoch.summary
    starved = of.starvation if of.device_starvation is None else of.device_starvation
    used, throttled = epoch.cpu_used_cores, epoch.throttled_ratio
    verdict = of.verdict if is_judged or of.verdict != "UNKNOWN" else "-"
    return [
        Words(str(of.epoch)),
        Words(setting(of.settings)),
        Words(rate(of.batches_per_second)),
        Words(f"{starved:.0%}"),
        Words(seconds(of.start_up_seconds)),
        Words("-" if used is None else f"{used:.2f}"),
        Words("-" if throttled is None else f"{throttled:.0%}"),
        Words(verdict if of.complete else "not over", "" if of.complete else "dim"),
    ]


def starvation(epoch: EpochSummary, uses_cuda: bool) -> str:
    """Return the share of time lost: the device's where it was measured, else the host's wait."""
    if epoch.device_starvation is not None:
        return f"{epoch.device_starvation:.0%}"
    return f"{epoch.starvation:.0%} host wait" if uses_cuda else f"{epoch.starvation:.0%}"


def _curve(view: LoaderView) -> Table | None:
    made = view.recommendation
    if made is None or not made.curve:
        return None
    measured = _measured(view)
    top = max([point.batches_per_second for point in made.curve] + list(measured.values()))
    rows = [_curve_row(view, point, measured.get(setting(point.settings)), top) for point in made.curve]
    head = ("workers", "batches/s expected", "", "bounds", "measured", " ")
    return Table(head, rows, frozenset({"batches/s expected", " "}))


def _measured(view: LoaderView) -> dict[str, float]:
    """Return the median of the complete epochs of each setting, batches/s."""
    rates: dict[str, list[float]] = {}
    for epoch in view.epochs:
        if epoch.summary.complete:
            of = setting(epoch.summary.settings)
            rates.setdefault(of, []).append(epoch.summary.batches_per_second)
    return {of: median(values) for of, values in rates.items()}


def _curve_row(view: LoaderView, point: Prediction, measured: float | None, top: float) -> list[Words]:
    made = view.recommendation
    marks = ["in use"] if setting(point.settings) == setting(view.settings) else []
    is_chosen = made is not None and setting(point.settings) == setting(made.settings)
    marks += ["recommended"] if is_chosen else []
    return [
        Words(setting(point.settings)),
        Words(bar(point.batches_per_second, top, BAR_COLUMNS), "good" if is_chosen else "dim"),
        Words(rate(point.batches_per_second)),
        Words(f"{rate(point.batches_per_second_lower)}-{rate(point.batches_per_second_upper)}", "dim"),
        Words("-" if measured is None else rate(measured)),
        Words(", ".join(marks)),
    ]


def _decisions(view: LoaderView) -> Iterator[Prose]:
    for decision in view.decisions[-DECISIONS:]:
        kind = {"applied": "good", "refused": "warn", "failed": "bad"}.get(decision.outcome, "dim")
        yield Prose(Words(_decision(decision), kind), f"epoch {decision.epoch}")


def _decision(decision: DecisionView) -> str:
    if decision.settings is None:
        return f"nothing recommended: {decision.sentence}" if decision.sentence else "nothing recommended"
    if setting(decision.settings) == setting(decision.before):
        change = f"{setting(decision.before)} workers kept"
    else:
        change = f"{setting(decision.before)} → {setting(decision.settings)} workers"
    back = ", an earlier change taken back" if decision.rolls_back else ""
    outcome = decision.outcome if decision.outcome != "unchanged" else ""
    parts = [part for part in (f"{change}{back}", outcome, decision.verdict) if part]
    return ", ".join(parts) + (f". {decision.detail}" if decision.detail else "")


def _what_if(view: LoaderView) -> Table | None:
    made = view.recommendation
    if made is None or not made.what_if:
        return None
    rows = [
        [
            Words(cores(what.cpu_limit_cores)),
            Words(setting(what.best.settings)),
            Words(rate(what.best.batches_per_second)),
            Words(f"{what.best.starvation:.0%}"),
        ]
        for what in made.what_if
    ]
    return Table(("with a CPU limit of", "workers", "batches/s", "starved"), rows)


def _advice(group: Group) -> Iterator[Prose]:
    for text, of in told(group.views, lambda v: v.recommendation.advice if v.recommendation else ()):
        yield Prose(Words(f"{ranks(of)}: {text}" if of else text), "advice")
