"""The sweep as text: what it ran under, the table, a plot of characters, and what it comes to."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from feedwater.relay.measurements import ContainerUsage, Limits
from feedwater.sweep.experiment import SweepResult, words
from feedwater.sweep.figures import AS_GOOD, Row, best_of, row_of, thriftiest_of
from feedwater.sweep.plan import depth_of, mib
from feedwater.sweep.predict import Baseline
from feedwater.values import Recommendation

PLOT_WIDTH = 60
"""Characters of the longest bar at most; fewer on a narrow terminal."""
NOISY = 0.2
"""Difference between rounds over their median that asks for a word; quiet ones are 8 % apart at most."""
LONGEST_SECONDS = 10.0
"""An epoch that takes longer is cut short."""
AS_FAST = (
    "none: batches are taken as fast as they come, which is the loader's own speed, always starved.\n"
    "        What a training would get: --step-seconds X, or --step MODULE:FUNCTION"
)


@dataclass(frozen=True, slots=True)
class Sweep:
    """Everything there is to tell."""

    target: str
    step: str
    """What was done with each batch."""
    observation: Baseline
    limits: Limits
    usage: ContainerUsage
    """Before the sweep."""
    rounds: int
    rows: Sequence[Row]
    outcome: SweepResult

    @property
    def has_depths(self) -> bool:
        """More than one prefetch factor was tried."""
        return len({r.settings.prefetch_factor for r in self.rows if r.settings.num_workers}) > 1


def before(sweep: Sweep) -> str:
    """Return what the sweep runs under, to be shown before it begins."""
    lines = [
        ("loader", f"{sweep.target}, its own setting {words(sweep.observation.settings)}"),
        ("limits", limits_text(sweep.limits, sweep.usage)),
        ("step", sweep.step),
        ("epochs", _epochs_text(sweep)),
    ]
    if sweep.observation.is_iterable:
        note = (
            "an IterableDataset: which batches come, and in which order, can depend on the number of workers"
        )
        lines.append(("note", note))
    lines.append(("time", f"{_minutes(sweep)}; Ctrl-C ends it and shows what was measured until then"))
    if sweep.observation.recommendation is None:
        lines.append(("note", sweep.observation.reason))
    return "\n".join(f"{name:7} {text}" for name, text in lines)


def limits_text(limits: Limits, usage: ContainerUsage) -> str:
    """Return the limits of the process in words."""
    cpus = f"{limits.cpus} CPUs" if limits.cpus else "CPUs unknown"
    quota = f"a quota of {cores_text(limits.cpu_quota_cores)}" if limits.cpu_quota_cores else "no quota"
    parts = [f"{cpus}, {quota}"]
    if limits.memory_bytes is not None:
        used = f", {mib(usage.memory_bytes)} used" if usage.memory_bytes is not None else ""
        parts.append(f"memory {mib(limits.memory_bytes)}{used}")
    if limits.shm_bytes is not None:
        parts.append(f"/dev/shm {mib(limits.shm_bytes)}, {mib(usage.shm_bytes or 0)} used")
    return "; ".join(parts)


def cores_text(cores: float) -> str:
    """Return ``0.5 cores``, ``1 core``, ``2 cores``."""
    return f"{cores:g} core{'' if cores == 1 else 's'}"


def _epochs_text(sweep: Sweep) -> str:
    seen = sweep.observation
    whole = f" of {seen.epoch_batches}" if seen.epoch_batches and seen.epoch_batches > seen.batches else ""
    cut = (
        f"the first {seen.batches}{whole} batches"
        if whole or not seen.epoch_batches
        else f"{seen.batches} batches"
    )
    rounds = f"{sweep.rounds} round{'s' if sweep.rounds > 1 else ''}"
    return f"{rounds} of {len(sweep.rows)} settings, each epoch {cut}, start-up included"


def _minutes(sweep: Sweep) -> str:
    """Return how long the rounds take, from what is predicted; settings without that take a mean."""
    known = [sweep.observation.batches / r.prediction.batches_per_second for r in sweep.rows if r.prediction]
    if not known:
        return "some minutes"
    seconds = sweep.rounds * len(sweep.rows) * sum(min(k, LONGEST_SECONDS) for k in known) / len(known)
    return f"about {max(1, round(seconds / 60))} min"


def table(sweep: Sweep) -> str:
    """Return the table of all settings."""
    head = ["workers", *(["prefetch"] if sweep.has_depths else []), "batches/s", "range"]
    head += ["predicted", "bounds", "error", "starved", "start-up", "memory", ""]
    rows = [head, *(_cells(row, sweep) for row in sweep.rows)]
    widths = [max(len(cells[at]) for cells in rows if len(cells) > at) for at in range(len(head))]
    lines = []
    for cells in rows:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=False)]
        # The last cell is words.
        padded[-1] = cells[-1]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _cells(row: Row, sweep: Sweep) -> list[str]:
    depth = depth_of(row.settings) or "-"
    cells = [str(row.settings.num_workers), *([str(depth)] if sweep.has_depths else [])]
    if row.epochs:
        cells += [rate(row.rate), _range(row.rates)]
    else:
        cells += ["-", "-"]
    made = row.prediction
    if made is not None:
        bounds = f"{rate(made.batches_per_second_lower)}-{rate(made.batches_per_second_upper)}"
        cells += [rate(made.batches_per_second), bounds]
    else:
        cells += ["-", "-"]
    cells.append("-" if row.error is None else f"{row.error:+.0%}")
    cells += [f"{row.starvation:.0%}", f"{row.start_up_seconds:.2f} s"] if row.epochs else ["-", "-"]
    cells.append(mib(row.worker_bytes) if row.worker_bytes else "-")
    return [*cells, ", ".join(_marks(row, sweep))]


def _marks(row: Row, sweep: Sweep) -> list[str]:
    marks = []
    if row is best_of(sweep.rows):
        marks.append("best")
    if row is row_of(sweep.rows, sweep.observation.settings):
        marks.append("yours")
    made = sweep.observation.recommendation
    if made is not None and row is row_of(sweep.rows, made.settings):
        marks.append("Feedwater's choice")
    if row.is_cut:
        marks.append("epochs cut short")
    if row.failure:
        marks.append(f"not run: {row.failure}" if row.is_refused else f"failed: {row.failure}")
    return marks


def _range(rates: Sequence[float]) -> str:
    return f"{rate(min(rates))}-{rate(max(rates))}"


def rate(value: float) -> str:
    """Return batches per second with three digits or so."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def plot(sweep: Sweep, width: int | None = None) -> str:
    """Return the curve in characters: a bar is measured, the rest is predicted."""
    columns = shutil.get_terminal_size((100, 24)).columns if width is None else width
    space = max(20, min(PLOT_WIDTH, columns - 30))
    top = max([row.rate for row in sweep.rows] + [_upper(row) for row in sweep.rows], default=0.0)
    if top <= 0:
        return ""
    lines = [
        f"batches/s  █ measured  {'◆ predicted  ▒ ─ within its bounds' if _has_curve(sweep) else ''}".rstrip()
    ]
    for row in sweep.rows:
        name = str(row.settings.num_workers)
        if sweep.has_depths and row.settings.num_workers:
            name += f"x{depth_of(row.settings)}"
        text = (
            rate(row.rate)
            if row.epochs
            else ("not run" if row.is_refused else "failed")
            if row.failure
            else "-"
        )
        lines.append(f"{name:>6} {_bar(row, top, space)} {text}".rstrip())
    return "\n".join(lines)


def _has_curve(sweep: Sweep) -> bool:
    return any(row.prediction is not None for row in sweep.rows)


def _upper(row: Row) -> float:
    # A bound twice as high as anything measured would squeeze the rest: it runs out of the picture.
    made = row.prediction
    return min(made.batches_per_second_upper, 1.3 * max(row.rate, made.batches_per_second)) if made else 0.0


def _bar(row: Row, top: float, space: int) -> str:
    cells = ["█" if at < round(row.rate / top * space) else " " for at in range(space + 1)]
    made = row.prediction
    if made is not None:
        low, middle, high = (
            max(0, min(space, round(value / top * space)))
            for value in (
                made.batches_per_second_lower,
                made.batches_per_second,
                made.batches_per_second_upper,
            )
        )
        for at in range(low, high + 1):
            cells[at] = "▒" if cells[at] == "█" else "─"
        cells[middle] = "◆"
    return "".join(cells)


def conclusion(sweep: Sweep) -> str:
    """Return what the sweep comes to, in sentences."""
    best = best_of(sweep.rows)
    if best is None:
        return "Nothing was measured" + (f": {sweep.outcome.stopped}." if sweep.outcome.stopped else ".")
    lines = [f"Stopped early: {sweep.outcome.stopped}."] if sweep.outcome.stopped else []
    lines.append(_best_text(sweep, best))
    lines += _choice_lines(sweep, best)
    lines += _error_lines(sweep)
    lines += _noise_lines(sweep)
    seen = sweep.observation
    if seen.epoch_batches and seen.epoch_batches > 2 * seen.batches:
        lines.append(
            f"Your epochs are {seen.epoch_batches / seen.batches:.0f} times as long, so start-up weighs less "
            f"there: --batches {min(seen.epoch_batches, 4 * seen.batches)} comes nearer."
        )
    return "\n".join(lines)


def _best_text(sweep: Sweep, best: Row) -> str:
    text = f"Best: {words(best.settings)} with {rate(best.rate)} batches/s."
    own = row_of(sweep.rows, sweep.observation.settings)
    if own is best:
        text = text[:-1] + ", which is your own setting."
    elif own is not None and own.epochs:
        text = text[:-1] + f", {best.rate / own.rate - 1:+.0%} against your own setting."
    thrifty = thriftiest_of(sweep.rows)
    if thrifty is not None and thrifty is not best:
        text += f" {words(thrifty.settings)} is within {AS_GOOD:.0%} of it."
    return text


def _choice_lines(sweep: Sweep, best: Row) -> list[str]:
    made = sweep.observation.recommendation
    if made is None:
        return []
    return [_choice_text(sweep, best, made), f"  It says: {made.sentence}"]


def _choice_text(sweep: Sweep, best: Row, made: Recommendation) -> str:
    chosen, outcome = row_of(sweep.rows, made.settings), sweep.outcome
    text = f"Feedwater, from one epoch at your setting, would choose {words(made.settings)} ({made.verdict})"
    if chosen is best:
        return f"{text}: the best."
    if outcome.regret is None:
        return f"{text}; what that loses was not measured."
    lost = outcome.regret
    how = f"{lost.pairs} {'fresh ' if outcome.is_fresh else ''}pair{'s' if lost.pairs > 1 else ''} of epochs"
    noise = f" ± {lost.noise:.1%}" if lost.pairs > 1 else ""
    loses = f"loses {lost.share:.1%}" if lost.share >= 0 else f"gains {-lost.share:.1%}"
    verdict = " (no difference beyond noise)" if lost.pairs > 1 and lost.is_noise else ""
    rates = f"{rate(lost.other)} against {rate(lost.best)} batches/s"
    return f"{text}: {loses}{noise} against the best, {rates} in {how}{verdict}."


def _noise_lines(sweep: Sweep) -> list[str]:
    noisiest = max((row for row in sweep.rows if row.epochs), key=lambda row: row.spread)
    if noisiest.spread <= NOISY:
        return []
    return [
        f"Rounds of {words(noisiest.settings)} differ by {noisiest.spread:.0%}: did something else use the "
        "machine? More --rounds make medians surer."
    ]


def _error_lines(sweep: Sweep) -> list[str]:
    errors = [abs(row.error) for row in sweep.rows if row.error is not None]
    if not errors:
        return []
    inside = sum(1 for row in sweep.rows if row.is_within_bounds)
    return [
        f"Predictions are off by {median(errors):.1%} in the median, {max(errors):.1%} at worst; "
        f"{inside} of {len(errors)} settings lie within their bounds."
    ]
