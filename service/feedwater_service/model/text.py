"""Amounts as words: counts, cores, seconds and bytes as they stand in sentences, advice and evidence."""

from __future__ import annotations

import math

MIB, GIB = 2**20, 2**30
SENTENCE = 160
"""Characters of a sentence: a line of a terminal, two lines of a pod's status."""


MAX_GAIN = 10.0
"""Gains above it, 1,000 %, are not told apart: no measurement does."""


def number_text(amount: float) -> str:
    """Return a number with three significant digits and no exponent: "0.125", "12.3", "1230"."""
    if abs(amount) < 1e-4:
        return "0"
    text = f"{amount:.3g}"
    return f"{float(text):.0f}" if "e" in text else text


def gain_text(gain: float) -> str:
    """Return a relative gain in per cent: "+94%", "-20%", "over +1000%"."""
    return f"{gain:+.0%}" if gain <= MAX_GAIN else f"over {MAX_GAIN:+.0%}"


def workers_text(count: int) -> str:
    """Return a count in words: "1 worker", "2 workers"."""
    return "1 worker" if count == 1 else f"{count} workers"


def cores_text(amount: float) -> str:
    """Return an amount of CPU: "1 core", "1.5 cores"."""
    return "1 core" if amount == 1 else f"{number_text(amount)} cores"


def seconds_text(amount: float) -> str:
    """Return a duration in milliseconds below a second, else in seconds: "12.5 ms", "3.1 s"."""
    return f"{number_text(amount * 1e3)} ms" if amount < 1 else f"{number_text(amount)} s"


def bytes_text(amount: float) -> str:
    """Return an amount of memory: "64 MiB", "1.5 GiB"."""
    return f"{amount / GIB:.1f} GiB" if amount >= GIB else f"{amount / MIB:.0f} MiB"


def bytes_text_rounded_up(amount: float) -> str:
    """Return an amount of memory that must be enough: 64.1 MiB is "65 MiB"."""
    return f"{amount / GIB:.1f} GiB" if amount >= GIB else f"{math.ceil(amount / MIB)} MiB"


def percent_text(share: float) -> str:
    """Return a share in per cent, as exact as a setting states it: 0.02 is "2%", 0.025 "2.5%"."""
    return f"{number_text(share * 100)}%"


def truncated(text: str) -> str:
    """Return a sentence no longer than `SENTENCE`, its full stop kept."""
    return text if len(text) <= SENTENCE else text[: SENTENCE - 2].rstrip(" ,;:") + "…."
