"""The line of an epoch: 160 characters at most, with as many of its reasons as fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

MAX_LINE = 160 - len("feedwater: ")
"""Characters of a line, so that it has 160 with what stands before it on stderr: two lines of a terminal."""
MAX_NAME = 32
"""Characters of a loader's name, so that there is room for what is said of it."""
MAX_WHOLE = 600
"""Characters of a reason in a line of its own. A refusal has some 200; an exception's text or a path in it
can be of any length."""


class Reason(NamedTuple):
    """Why something is so, or what helps: a full sentence."""

    text: str
    is_whole: bool = False
    """Never cut: half of a remedy is none."""
    prefix: str = ""
    """What stands before it in a line of its own."""
    topic: str = ""
    """What it is about, where its figures change from epoch to epoch."""


def compose(start: str, reasons: Sequence[Reason]) -> tuple[str, list[Reason]]:
    """Return the line, and the reasons that it does not hold whole."""
    line, separator, left = start.rstrip("."), ": ", []
    for reason in reasons:
        longer = f"{line}{separator}{reason.text}"
        is_fit = len(longer) <= MAX_LINE
        # Half a cause is better than none, but not after another.
        if is_fit or (separator == ": " and not reason.is_whole):
            line, separator = longer, " "
        if not is_fit:
            left.append(reason)
    return cut(line if reasons else start, MAX_LINE), left


def cut(text: str, longest: int) -> str:
    """Return ``text`` in at most ``longest`` characters, cut after a word where one ends."""
    if len(text) <= longest:
        return text
    kept = text[: longest - 1]
    at = kept.rfind(" ")
    return kept[: at if at > longest // 2 else None].rstrip(" ,;:.(") + "…"


def clean(text: str) -> str:
    """Return ``text`` on one line: a name with a line end would make two of it."""
    return "".join(c if c.isprintable() else "?" for c in text)
