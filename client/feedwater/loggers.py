"""Each epoch's figures for the logger that a training has: W&B, TensorBoard, Lightning's, or a function."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from feedwater.values import Answer, EpochSummary

Figures = Mapping[str, float]


@runtime_checkable
class _ScalarWriter(Protocol):
    """TensorBoard's ``SummaryWriter``, and those that look like it."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object: ...


@runtime_checkable
class _MetricsLogger(Protocol):
    """Lightning's ``Logger``."""

    def log_metrics(self, metrics: dict[str, float], step: int) -> object: ...


@runtime_checkable
class _WandbRun(Protocol):
    """A run of Weights & Biases."""

    @property
    def step(self) -> int: ...

    def define_metric(self, name: str, step_metric: str) -> object: ...

    def log(self, data: dict[str, float], *, commit: bool) -> object: ...


class EpochLogger:
    """Hands each epoch's figures to a logger, under ``feedwater/LOADER/FIGURE``.

    Example:
        >>> log = feedwater.EpochLogger(SummaryWriter())
        >>> loader = feedwater.watch(loader, name="train", on_epoch=log)

    One object serves any number of loaders. What the logger raises does not reach the training: it is said
    once. An epoch's figures come when the next begins, with the recommendation made from it; `finish` hands
    over the last ones.
    """

    def __init__(
        self, log: object, *, prefix: str = "feedwater", step: Callable[[], int] | None = None
    ) -> None:
        """Take the logger.

        Args:
            log: A TensorBoard ``SummaryWriter``, a W&B run, a Lightning logger, or a function that is called
                with a dict of figures and the step.
            prefix: What all names begin with.
            step: Returns the step that the figures belong to, such as the trainer's; None: the number of the
                epoch. A W&B run does not need it: it has the epoch as a figure, and the run's own steps.

        Raises:
            TypeError: ``log`` is nothing that can be logged to.
        """
        self._log = _logging(log)
        self._prefix = prefix
        self._step = step
        self._next: dict[str, int] = {}

    def __call__(self, summary: EpochSummary, answer: Answer) -> None:
        """Log one epoch."""
        self._next[summary.loader] = summary.epoch + 1
        step = summary.epoch if self._step is None else self._step()
        start = f"{self._prefix}/{summary.loader}"
        self._log({f"{start}/{name}": value for name, value in figures(summary, answer).items()}, step)

    def finish(self, *loaders: object) -> None:
        """Log the epochs of ``loaders`` that no next one followed; call it before the logger is closed.

        Raises:
            ValueError: One of them is not watched.
        """
        from feedwater import history
        from feedwater.loop.log import log_swallowed

        for summary in [summary for loader in loaders for summary in history(loader)]:
            if summary.epoch >= self._next.get(summary.loader, 0):
                try:
                    self(summary, Answer(reason="The training has ended."))
                except Exception:
                    log_swallowed(f"{summary.loader}: on_epoch")


def figures(summary: EpochSummary, answer: Answer) -> dict[str, float]:
    """Return the figures of one epoch by name; what is unknown is left out."""
    settings, made = summary.settings, answer.recommendation
    found: dict[str, float | None] = {
        "epoch": summary.epoch,
        "batches": summary.batches,
        "batches_per_second": summary.batches_per_second,
        "epoch_seconds": summary.seconds,
        "wait_seconds": summary.wait_seconds,
        "step_seconds": summary.step_seconds,
        "start_up_seconds": summary.start_up_seconds,
        "starvation": summary.starvation,
        "device_starvation": summary.device_starvation,
        "num_workers": settings.num_workers,
        "prefetch_factor": settings.prefetch_factor,
        "recommended_num_workers": made.settings.num_workers if made is not None else None,
        "predicted_batches_per_second": made.batches_per_second or None if made is not None else None,
    }
    return {name: value for name, value in found.items() if value is not None and math.isfinite(value)}


def _logging(log: object) -> Callable[[dict[str, float], int], object]:
    """Return the way to log to ``log``."""
    if isinstance(log, _ScalarWriter):
        return lambda values, step: [log.add_scalar(name, value, step) for name, value in values.items()]
    if isinstance(log, _MetricsLogger):
        return lambda values, step: log.log_metrics(values, step)
    if isinstance(log, _WandbRun):
        return _to_run(log)
    if callable(log):
        return lambda values, step: log(values, step)
    raise TypeError(
        "log must be a SummaryWriter, a W&B run, a Lightning logger, or callable with (dict, step),"
        f" got {type(log).__name__}"
    )


def _to_run(run: _WandbRun) -> Callable[[dict[str, float], int], object]:
    open_at: dict[str, int] = {}
    """By loader, the run's step whose row its last figures are in."""

    def log(values: dict[str, float], step: int) -> None:
        start = next(iter(values)).rpartition("/")[0]
        if start not in open_at:
            # The horizontal axis; "*" takes all of one loader.
            run.define_metric(f"{start}/*", step_metric=f"{start}/epoch")
        elif open_at[start] == run.step:
            # The user has logged nothing for an epoch: the same row would lose the one before.
            run.log({}, commit=True)
        # Without a step and uncommitted, the figures join the run's next row: the steps of a run must not go
        # back, and the user's are batches, not epochs.
        open_at[start] = run.step
        run.log(values, commit=False)

    return log
