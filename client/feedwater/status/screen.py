"""Where the page is shown: in colour and in place on a terminal that has `rich`, else as plain text."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

from feedwater.relay.views import PodView
from feedwater.status.layout import Line, Section, Words, as_text, lay_out
from feedwater.status.page import page
from feedwater.status.record import as_json, lost_as_json

COLUMNS = 100
"""Of a file or a pipe."""
STYLES = {"title": "bold", "good": "bold green", "warn": "bold yellow", "bad": "bold red", "dim": "dim"}


class Screen(Protocol):
    """Takes what is followed."""

    def __enter__(self) -> Screen:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last page standing."""

    def show(self, pod: PodView) -> None:
        """Show a state."""

    def lost(self, why: str, time_seconds: float) -> None:
        """Show that the sidecar does not answer."""


def screen(*, as_records: bool, indent: int | None = None) -> Screen:
    """Return the best screen that standard output can be."""
    if as_records:
        return Records(indent)
    return Terminal() if _is_terminal() else PlainScreen()


def _is_terminal() -> bool:
    return (
        sys.stdout.isatty()
        and os.environ.get("TERM") not in ("dumb", None)
        and importlib.util.find_spec("rich") is not None
    )


class Records:
    """JSON, one object for each state."""

    def __init__(self, indent: int | None) -> None:
        self._indent = indent

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, pod: PodView) -> None:
        """Print the state."""
        print(as_json(pod, self._indent), flush=True)

    def lost(self, why: str, time_seconds: float) -> None:
        """Print an object that says so."""
        print(lost_as_json(time_seconds, why), flush=True)


class PlainScreen:
    """One block of text for each state that differs from the one before; no escape codes."""

    def __init__(self) -> None:
        self._shown: Sequence[Line] = ()

    def __enter__(self) -> PlainScreen:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, pod: PodView) -> None:
        """Print the page, with an empty line before it if it is not the first."""
        lines = lay_out(page(pod), shutil.get_terminal_size((COLUMNS, 24)).columns)
        # The first line holds the time.
        if lines[1:] == list(self._shown)[1:]:
            return
        print(("\n" if self._shown else "") + as_text(lines), flush=True)
        self._shown = lines

    def lost(self, why: str, time_seconds: float) -> None:
        """Print a line that says so."""
        print(f"\n{_lost(why)}", flush=True)
        self._shown = [[Words("")]]


class Terminal:
    """The page in colour, renewed in place."""

    def __init__(self) -> None:
        self._text = importlib.import_module("rich.text").Text
        console = importlib.import_module("rich.console").Console(highlight=False, markup=False, emoji=False)
        self._console = console
        # Nothing works in the background: it is renewed when there is news. What does not fit on the screen
        # is cut while it runs, and stands in full at the end.
        live = importlib.import_module("rich.live").Live
        self._live = live(console=console, auto_refresh=False, vertical_overflow="crop")
        self._sections: list[Section] = []

    def __enter__(self) -> Terminal:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, pod: PodView) -> None:
        """Renew the page."""
        self._sections = page(pod)
        self._renew(self._sections)

    def lost(self, why: str, time_seconds: float) -> None:
        """Say so above the last page."""
        self._renew([Section(Words(_lost(why), "bad")), *self._sections])

    def _renew(self, sections: Sequence[Section]) -> None:
        lines = lay_out(sections, self._console.width)
        text = self._text("\n", no_wrap=True).join([self._styled(line) for line in lines])
        self._live.update(text, refresh=True)

    def _styled(self, line: Line) -> object:
        return self._text.assemble(*((words.text, STYLES.get(words.kind, "")) for words in line))


def _lost(why: str) -> str:
    return f"The sidecar is away ({why}); training goes on without it. Reconnecting."
