"""Pictures: predicted curves over measured points, and what a run costs under each rule."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from PIL import Image

from tests.benchmarks.recommendation.figures import OURS
from tests.benchmarks.recommendation.oracle import Table
from tests.benchmarks.recommendation.score import Prediction, Scored

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SEEN = 2
"""Workers of the epoch that was learned from; where that was not measured, the first that was."""
COLUMNS = 4
PALETTE = 32
"""Colours of a picture: it looks as with all of them, in a quarter of the bytes, 128 KB instead of 507."""
BLUE, GREY, INK, ORANGE = "#2364aa", "#9aa5b1", "#1f2933", "#d9822b"


def curves(scores: Mapping[str, Scored], tables: Mapping[str, Table], path: Path) -> None:
    """Write the picture: one panel for each workload."""
    lines = -(-len(scores) // COLUMNS)
    figure, axes = plt.subplots(lines, COLUMNS, figsize=(3.3 * COLUMNS, 2.4 * lines), squeeze=False)
    for ax, (name, one) in zip(axes.flat, scores.items(), strict=False):
        settled = next((r.settings[-1][0] for r in one.runs if r.start == SEEN), None)
        _panel(ax, name, _from_one(one.predictions), tables[name], settled)
    for ax in list(axes.flat)[len(scores) :]:
        ax.axis("off")
    height = figure.get_figheight()
    handles, labels = axes.flat[0].get_legend_handles_labels()
    at = (0.0, 1 - 0.3 / height)
    figure.legend(handles, labels, loc="upper left", bbox_to_anchor=at, ncols=5, frameon=False, fontsize=9)
    title = f"Batches per second by num_workers: predicted from one epoch at {SEEN} workers, and measured"
    figure.suptitle(title, x=0.01, y=1 - 0.08 / height, ha="left", va="top", fontsize=12, color=INK)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.55 / height))
    _save(figure, path)


def _from_one(points: Sequence[Prediction]) -> list[Prediction]:
    singles = [p for p in points if len(p.seen) == 1]
    seen = (
        SEEN if any(p.seen == (SEEN,) for p in singles) else min((p.seen[0] for p in singles), default=SEEN)
    )
    return sorted((p for p in singles if p.seen == (seen,)), key=lambda p: p.workers)


def _panel(ax: Axes, name: str, points: Sequence[Prediction], table: Table, settled: int | None) -> None:
    measured = {n: rate for (n, p), rate in table.rates.items() if p == 2}
    place = {n: i for i, n in enumerate(measured)}
    at = [place[p.workers] for p in points]
    bounds = [p.lower for p in points], [p.upper for p in points]
    ax.fill_between(at, *bounds, color=BLUE, alpha=0.15, lw=0, label="bounds")
    ax.plot(at, [p.null for p in points], color=GREY, ls=":", label="max(step, load/n, cpu/cores)")
    ax.plot(at, [p.predicted for p in points], color=BLUE, label="predicted")
    ax.plot(list(place.values()), list(measured.values()), "o", ms=4, color=INK, label="measured")
    if settled is not None:
        ax.axvline(place[settled], color=ORANGE, lw=6, alpha=0.25, label="settled on")
    ax.set_xticks(list(place.values()), [str(n) for n in measured])
    ax.set_ylim(0, 1.25 * max([*measured.values(), *(p.predicted for p in points)]))
    held = "" if not points or not points[0].held_out else " (held out)"
    ax.set_title(name + held, fontsize=10, loc="left", color=INK)
    _plain(ax)


def totals(relative: Mapping[str, tuple[float, float]], path: Path) -> None:
    """Write the picture: mean total time of ten epochs over the oracle's, and mean regret at the end."""
    names = sorted(relative, key=lambda n: relative[n][0], reverse=True)
    figure, axes = plt.subplots(1, 2, figsize=(10, 0.42 * len(names) + 1.2), sharey=True)
    colours = [BLUE if n == OURS else ORANGE if OURS in n else GREY for n in names]
    _bars(axes[0], names, [relative[n][0] - 1 for n in names], colours, "10 epochs: time beyond the oracle's")
    _bars(axes[1], names, [relative[n][1] for n in names], colours, "regret of the last epoch's setting")
    figure.tight_layout()
    _save(figure, path)


def _bars(
    ax: Axes, names: Sequence[str], values: Sequence[float], colours: Sequence[str], title: str
) -> None:
    ax.barh(names, [100 * v for v in values], color=colours, height=0.65)
    for i, value in enumerate(values):
        ax.text(100 * value, i, f" {value:.1%}", va="center", fontsize=9, color=INK)
    ax.set_title(title, fontsize=10, loc="left", color=INK)
    ax.set_xlim(0, 118 * max(values))
    ax.set_xticks([])
    _plain(ax)
    ax.spines["bottom"].set_visible(False)


def _plain(ax: Axes) -> None:
    ax.tick_params(labelsize=8.5)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=110)
    plt.close(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(drawn).convert("RGB").quantize(PALETTE, dither=Image.Dither.NONE).save(path, optimize=True)
