"""What the training process says: few lines, each once per change of state."""

from __future__ import annotations

import contextlib
import logging
import sys

log = logging.getLogger("feedwater")
_said: set[str] = set()


def say(text: str, level: int = logging.INFO) -> None:
    """Log one line; on stderr where the user has configured no logging at all.

    Python's own last resort prints warnings and above only. The sentence at an epoch's end is what the user
    asked for by calling `watch`, so it is shown from INFO on. Any handler silences it, a ``NullHandler`` too.
    """
    if level >= logging.INFO and not log.hasHandlers():
        with contextlib.suppress(OSError, ValueError, AttributeError):
            print(f"feedwater: {text}", file=sys.stderr, flush=True)
        return
    log.log(level, "%s", text)


def say_once(key: str, text: str, level: int = logging.WARNING) -> None:
    """Log one line the first time that ``key`` comes."""
    if key not in _said:
        _said.add(key)
        say(text, level)


def absorbed(where: str) -> None:
    """Note an error of Feedwater's own, which must not reach training: one line per place."""
    error = sys.exc_info()[1]
    if where not in _said:
        log.debug("feedwater: %s failed", where, exc_info=True)
    say_once(where, f"{where} failed ({type(error).__name__}: {error}); training continues as configured")


def forget_all() -> None:
    """Say everything anew, as a process that was forked does."""
    _said.clear()
