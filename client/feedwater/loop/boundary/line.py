"""The line of an epoch: 160 characters at most, with as many of its reasons as fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

MAX_LINE = 160 - len("feedwater: ")
"""Characters of a line. With its prefix on stderr it has 160, two lines of a terminal."""
MAX_NAME = 32
"""Characters of a loader's name; the rest of the line is for its figures."""
MAX_REASON = 600
"""Characters of a reason in a line of its own. A refusal has some 200; an exception's text or a path in it
can be of any length."""


class Reason(NamedTuple):
    """A cause or a remedy, a full sentence."""

    text: str
    is_whole: bool = False
    """It must not be cut: half of a remedy is of no use."""
    prefix: str = ""
    """Precedes it in a line of its own."""
    topic: str = ""
    """Identifies it from epoch to epoch while its figures change; empty: its text does."""


def compose(start: str, reasons: Sequence[Reason]) -> tuple[str, list[Reason]]:
    """Return the line, and the reasons that do not fit into it as a whole."""
    line, separator, remaining = start.rstrip("."), ": ", []
    for reason in reasons:
        longer = f"{line}{separator}{reason.text}"
        fits = len(longer) <= MAX_LINE
        # A cause that is cut is better than none, but not after another one.
        if fits or (separator == ": " and not reason.is_whole):
            line, separator = longer, " "
        if not fits:
            remaining.append(reason)
    return cut(line if reasons else start, MAX_LINE), remaining


def cut(text: str, longest: int) -> str:
    """Return ``text`` in at most ``longest`` characters, cut between words where that keeps a half of it."""
    if len(text) <= longest:
        return text
    kept = text[: longest - 1]
    last_space = kept.rfind(" ")
    return kept[: last_space if last_space > longest // 2 else None].rstrip(" ,;:.(") + "…"


def clean(text: str) -> str:
    """Return ``text`` with ``?`` for what cannot be printed: a line end in a name would make two lines."""
    return "".join(c if c.isprintable() else "?" for c in text)
