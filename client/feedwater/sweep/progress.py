"""What the user sees meanwhile: bars where there is a terminal and `rich`, else one line per round."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from typing import Protocol


class Progress(Protocol):
    """Where the sweep tells how far it is."""

    def say(self, text: str) -> None:
        """Show a line that stays."""

    def doing(self, text: str) -> None:
        """Show what is being done."""

    def expect(self, epochs: int) -> None:
        """Add epochs to come."""

    def done(self) -> None:
        """Count one epoch."""


class PlainProgress:
    """Lines on standard error, for logs."""

    def say(self, text: str) -> None:
        """Show a line that stays."""
        print(text, file=sys.stderr, flush=True)

    def doing(self, text: str) -> None:
        """Show nothing: a line per epoch would drown the table."""

    def expect(self, epochs: int) -> None:
        """Show nothing."""

    def done(self) -> None:
        """Show nothing."""


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """Yield bars on a terminal if `rich` is installed, else lines."""
    if not sys.stderr.isatty() or importlib.util.find_spec("rich") is None:
        yield PlainProgress()
        return
    with _Bars() as bars:
        yield bars


class _Bars:
    def __init__(self) -> None:
        console = importlib.import_module("rich.console").Console(stderr=True)
        columns = importlib.import_module("rich.progress")
        self._bars = columns.Progress(
            columns.TextColumn("{task.description}", markup=False),
            columns.BarColumn(),
            columns.MofNCompleteColumn(),
            columns.TimeRemainingColumn(),
            console=console,
            transient=True,
            # No thread beside forks, and nothing that works while an epoch is measured.
            auto_refresh=False,
        )
        self._task = self._bars.add_task("starting", total=None)
        self._epochs = 0

    def __enter__(self) -> _Bars:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        """Show a line that stays."""
        self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def doing(self, text: str) -> None:
        """Show what is being done."""
        self._bars.update(self._task, description=text, refresh=True)

    def expect(self, epochs: int) -> None:
        """Add epochs to come."""
        self._epochs += epochs
        self._bars.update(self._task, total=self._epochs, refresh=True)

    def done(self) -> None:
        """Count one epoch."""
        self._bars.update(self._task, advance=1, refresh=True)
