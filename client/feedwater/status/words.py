"""Text that is fit for a terminal, and figures as people read them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from feedwater.values import LoaderSettings
from feedwater.verdicts import VERDICTS

MAX_TEXT = 400
"""Characters shown of anything that came over the wire: a sentence has 160, a refusal's reason 300."""
MAX_NAME = 32
"""Columns of a name: what an 80-column line spares for it."""
MAX_LABEL = 60
"""Columns of what a loader is: a class' name, its length, its batch size, the line that made it."""
EIGHTHS = " ▏▎▍▌▋▊▉█"


def verdict_phrase(name: str) -> str:
    """Return what a verdict means; its name, where a newer sidecar has one that is not known here."""
    return VERDICTS[name].phrase if name in VERDICTS else name


def clean(text: str, longest: int = MAX_TEXT) -> str:
    """Return ``text`` on one line, without anything that a terminal would obey, cut to ``longest`` columns.

    Control characters, line ends and marks that turn the direction of writing become ``?``.
    """
    shown = "".join(c if c.isprintable() else "?" for c in text[: 4 * longest])
    return cut(shown, longest)


def cut(text: str, columns: int) -> str:
    """Return ``text`` in at most ``columns`` columns; what is cut ends in an ellipsis."""
    if width(text) <= columns:
        return text
    kept, used = [], 0
    for character in text:
        used += width(character)
        if used > columns - 1:
            break
        kept.append(character)
    return "".join(kept).rstrip() + "…"


def width(text: str) -> int:
    """Return the columns that a terminal gives to ``text``: East Asian characters take two, accents none."""
    if text.isascii():
        return len(text)
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def bar(value: float, top: float, columns: int) -> str:
    """Return a bar of ``value`` in ``columns`` columns, the whole of which is ``top``."""
    eighths = round(8 * columns * min(1.0, max(0.0, value / top))) if top > 0 else 0
    return (EIGHTHS[8] * (eighths // 8) + EIGHTHS[eighths % 8]).strip()


def rate(value: float) -> str:
    """Return batches per second with three digits or so."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def seconds(value: float) -> str:
    """Return ``12.1 ms``, ``4.2 s``, ``7 min``."""
    if value < 1:
        return f"{value * 1e3:.3g} ms"
    return f"{value:.3g} s" if value < 120 else f"{value / 60:.0f} min"


def size(value: int) -> str:
    """Return ``640 MiB`` or ``4.0 GiB``."""
    mib = value / 2**20
    return f"{mib:.0f} MiB" if mib < 1024 else f"{mib / 1024:.1f} GiB"


def cores(value: float) -> str:
    """Return ``0.5 cores``, ``1 core``."""
    return f"{value:.3g} core{'' if value == 1 else 's'}"


def counted(count: int, word: str, plural: str = "") -> str:
    """Return ``1 loader``, ``2 loaders``."""
    return f"{count} {word if count == 1 else plural or f'{word}s'}"


def setting(settings: LoaderSettings) -> str:
    """Return the count of workers, and how far each works ahead where that is not PyTorch's 2."""
    depth = settings.prefetch_factor
    return f"{settings.num_workers}" + (
        f"x{depth}" if settings.num_workers and depth not in (None, 2) else ""
    )


def ranks(of: Iterable[int]) -> str:
    """Return ``rank 0``, ``ranks 0, 1``."""
    numbers = list(of)
    return f"rank{'' if len(numbers) == 1 else 's'} {', '.join(map(str, numbers))}"
