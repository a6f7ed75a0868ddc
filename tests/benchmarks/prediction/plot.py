"""Draw predicted curves over measured points."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from score import Row

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

SEEN = 2
"""Workers of the epoch that was learned from."""
COLUMNS = 4
BLUE, GREY, INK = "#2364aa", "#9aa5b1", "#1f2933"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write the picture: one panel for each case, learned from one epoch at `SEEN` workers."""
    cases = list(dict.fromkeys(r.case for r in rows if r.seen_workers == SEEN))
    lines = -(-len(cases) // COLUMNS)
    figure, axes = plt.subplots(lines, COLUMNS, figsize=(3.1 * COLUMNS, 2.35 * lines), squeeze=False)
    for ax, case in zip(axes.flat, cases, strict=False):
        _panel(ax, case, [r for r in rows if r.case == case and r.seen_workers == SEEN])
    for ax in list(axes.flat)[len(cases) :]:
        ax.axis("off")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower right", ncols=2, frameon=False, fontsize=9)
    title = f"Batches per second by num_workers: predicted from one epoch at {SEEN} workers, and measured"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=INK)
    figure.tight_layout(rect=(0, 0, 1, 0.97))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(ax: Axes, case: str, rows: Sequence[Row]) -> None:
    at = list(range(len(rows)))
    ax.fill_between(
        at, [r.lower for r in rows], [r.upper for r in rows], color=BLUE, alpha=0.15, lw=0, label="bounds"
    )
    ax.plot(at, [r.null for r in rows], color=GREY, ls=":", label="max(step, load/n, cpu/cores)")
    ax.plot(at, [r.predicted for r in rows], color=BLUE, label="predicted")
    below = [r.measured - r.measured_low for r in rows]
    above = [r.measured_high - r.measured for r in rows]
    ax.errorbar(
        at,
        [r.measured for r in rows],
        (below, above),
        fmt="o",
        ms=4,
        color=INK,
        capsize=2,
        label="measured (range)",
    )
    ax.set_xticks(at, [str(r.workers) for r in rows])
    ax.set_ylim(0, 1.25 * max(max(r.measured_high for r in rows), max(r.predicted for r in rows)))
    ax.set_title(case, fontsize=10, loc="left", color=INK)
    ax.tick_params(labelsize=8)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
