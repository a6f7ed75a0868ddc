"""The sweep for machines: one JSON object."""

from __future__ import annotations

from dataclasses import asdict

import feedwater
from feedwater.sweep.figures import Row, best_of, thriftiest_of
from feedwater.sweep.table import Sweep
from feedwater.values import LoaderSettings


def as_object(sweep: Sweep) -> dict[str, object]:
    """Return everything there is to tell, as JSON knows it: seconds, bytes, cores, shares."""
    seen, outcome = sweep.observation, sweep.outcome
    made = seen.recommendation
    return {
        "feedwater": feedwater.__version__,
        "target": sweep.target,
        "step": sweep.step,
        "limits": asdict(sweep.limits),
        "usage": asdict(sweep.usage),
        "own_settings": asdict(seen.settings),
        "batches": seen.batches,
        "epoch_batches": seen.epoch_batches,
        "is_iterable": seen.is_iterable,
        "rounds": sweep.rounds,
        "rows": [_row(row) for row in sweep.rows],
        "best": _settings(best_of(sweep.rows)),
        "thriftiest": _settings(thriftiest_of(sweep.rows)),
        "recommendation": asdict(made) if made is not None else None,
        "no_recommendation": seen.reason if made is None else None,
        "regret": asdict(outcome.regret) | {"is_fresh": outcome.is_fresh} if outcome.regret else None,
        "stopped": outcome.stopped or None,
    }


def _settings(row: Row | None) -> dict[str, object] | None:
    return _named(row.settings) if row is not None else None


def _named(settings: LoaderSettings) -> dict[str, object]:
    return {"num_workers": settings.num_workers, "prefetch_factor": settings.prefetch_factor}


def _row(row: Row) -> dict[str, object]:
    measured = bool(row.epochs)
    return {
        **_named(row.settings),
        "batches_per_second": row.rate if measured else None,
        "batches_per_second_by_round": row.rates,
        "starvation": row.starvation if measured else None,
        "start_up_seconds": row.start_up_seconds if measured else None,
        "worker_bytes": row.worker_bytes,
        "prediction": asdict(row.prediction) if row.prediction is not None else None,
        "error": row.error,
        "is_within_bounds": row.is_within_bounds,
        "is_cut": row.is_cut,
        "failure": row.failure or None,
        "is_refused": row.is_refused,
    }
