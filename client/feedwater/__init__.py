"""Measure a PyTorch ``DataLoader``, name its bottleneck, set its workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from feedwater.loggers import EpochLogger
from feedwater.values import (
    Answer,
    EpochSummary,
    LoaderDescription,
    LoaderSettings,
    Mode,
    Outcome,
    Prediction,
    Recommendation,
    Transport,
    WhatIf,
)

if TYPE_CHECKING:
    from feedwater.loop.watched import WatchedLoader

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "EpochLogger",
    "EpochSummary",
    "LoaderDescription",
    "LoaderSettings",
    "Mode",
    "Outcome",
    "Prediction",
    "Recommendation",
    "Transport",
    "WhatIf",
    "__version__",
    "history",
    "recommendation",
    "watch",
]

L = TypeVar("L", bound=Iterable[object])


def watch(
    loader: L,
    *,
    name: str | None = None,
    mode: Mode | str | None = None,
    allow_workers: bool = False,
    on_epoch: Callable[[EpochSummary, Answer], None] | None = None,
    transport: Transport | None = None,
) -> L:
    """Measure a loader and, at the boundaries of its epochs, set its workers.

    A ``DataLoader`` is registered and returned, the very same object. Any other iterable is wrapped, and only
    measured.

    Args:
        loader: The ``DataLoader``, or another iterable of batches.
        name: What logs and metrics call it; None: "loader-0", "loader-1", …
        mode: "off", "observe", "advise" or "auto"; None: ``FEEDWATER_MODE``, else "auto".
        allow_workers: True: any count of workers is safe for this dataset, try nothing out first.
        on_epoch: Called with each epoch's summary and answer when the next one begins; an `EpochLogger`
            hands them to W&B, TensorBoard and the like.
        transport: Where timings go and answers come from; None: the sidecar.

    Raises:
        TypeError: ``loader`` is nothing that can be watched, or an argument has another type.
        ValueError: ``name`` is empty, or ``mode`` is no mode.
    """
    from feedwater import guard

    try:
        from feedwater.loop.attach.watch import watch as watch_loader

        return watch_loader(loader, name, mode, allow_workers, on_epoch, transport)
    except (TypeError, ValueError):  # Misuse: beyond the check of the arguments all is guarded.
        raise
    except Exception:
        guard.report("watching a loader")
        return loader


def history(loader: object) -> list[EpochSummary]:
    """Return the epochs of a watched loader so far, oldest first.

    Raises:
        ValueError: ``loader`` is not watched.
    """
    from feedwater import guard

    with guard.swallow("storing the last batches", misuse=ValueError):
        return list(_watched(loader).history.epochs)
    return []


def recommendation(loader: object) -> Recommendation | None:
    """Return the last recommendation for a watched loader; None before the first.

    Raises:
        ValueError: ``loader`` is not watched.
    """
    from feedwater import guard

    with guard.swallow("storing the last batches", misuse=ValueError):
        return _watched(loader).history.recommendation
    return None


def _watched(loader: object) -> WatchedLoader:
    from feedwater.loop.attach.watch import state_of

    return state_of(loader)
