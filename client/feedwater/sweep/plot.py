"""The sweep as a picture; the only importer of matplotlib."""

from __future__ import annotations

import importlib
import importlib.util

from feedwater.sweep.figures import row_of
from feedwater.sweep.plan import depth_of
from feedwater.sweep.table import Sweep, cores_text

NO_MATPLOTLIB = "--plot needs matplotlib, which is not installed here: pip install matplotlib"
MEASURED, PREDICTED = "#1f77b4", "#ff7f0e"


def can_draw() -> bool:
    """Say whether matplotlib is there."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(sweep: Sweep, path: str) -> None:
    """Write the measured points over the predicted curve; the ending of ``path`` says the format.

    Raises:
        ValueError: matplotlib does not know the format.
        OSError: The file cannot be written.
    """
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    plt = importlib.import_module("matplotlib.pyplot")
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    try:
        for depth in sorted({depth_of(row.settings) for row in sweep.rows}) if sweep.has_depths else [None]:
            _measured(axes, sweep, depth)
        _predicted(axes, sweep)
        _choices(axes, sweep)
        axes.set(xlabel="num_workers", ylabel="batches/s", ylim=(0, None), title=_title(sweep))
        axes.set_xticks(sorted({row.settings.num_workers for row in sweep.rows}))
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(path, dpi=130)
    finally:
        plt.close(figure)


def _title(sweep: Sweep) -> str:
    cores = sweep.limits.cpu_quota_cores or sweep.limits.cpus
    return f"{sweep.target}" + (f", {cores_text(cores)}" if cores else "")


def _predicted(axes: object, sweep: Sweep) -> None:
    rows = [row for row in sweep.rows if row.prediction is not None]
    made = [row.prediction for row in rows if row.prediction is not None]
    if not made:
        return
    counts = [row.settings.num_workers for row in rows]
    lower, upper = [p.batches_per_second_lower for p in made], [p.batches_per_second_upper for p in made]
    axes.fill_between(counts, lower, upper, color=PREDICTED, alpha=0.2, label="its bounds")  # type: ignore[attr-defined]
    axes.plot(counts, [p.batches_per_second for p in made], "--", color=PREDICTED, label="predicted")  # type: ignore[attr-defined]


def _measured(axes: object, sweep: Sweep, depth: int | None) -> None:
    rows = [row for row in sweep.rows if row.epochs and depth in (None, depth_of(row.settings))]
    counts = [row.settings.num_workers for row in rows]
    label = f"measured, prefetch_factor={depth}" if depth else "measured"
    middles = [row.rate for row in rows]
    ranges = [
        [m - min(r.rates) for m, r in zip(middles, rows, strict=True)],
        [max(r.rates) - m for m, r in zip(middles, rows, strict=True)],
    ]
    colour = {} if sweep.has_depths else {"color": MEASURED}
    axes.errorbar(counts, middles, yerr=ranges, fmt="o", capsize=3, label=label, **colour)  # type: ignore[attr-defined]


def _choices(axes: object, sweep: Sweep) -> None:
    made = sweep.observation.recommendation
    chosen = row_of(sweep.rows, made.settings) if made is not None else None
    if chosen is not None:
        axes.axvline(  # type: ignore[attr-defined]
            chosen.settings.num_workers, color=PREDICTED, linestyle=":", label="Feedwater's choice"
        )
    own = row_of(sweep.rows, sweep.observation.settings)
    if own is not None and own is not chosen:
        axes.axvline(own.settings.num_workers, color="grey", linestyle=":", label="your setting")  # type: ignore[attr-defined]
