"""What the training process says: few lines, each once per change of state."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator

log = logging.getLogger("feedwater")
_said: set[str] = set()


def say(text: str, level: int = logging.INFO) -> None:
    """Log one line; on stderr where the user has configured no logging at all.

    Python's own last resort prints warnings and above only. The sentence at an epoch's end is what the user
    asked for by calling `watch`, so it is shown from INFO on. Any handler silences it, a ``NullHandler`` too.
    """
    if level >= logging.INFO and not log.hasHandlers():
        if level < log.level:  # Set by the user, who wants less.
            return
        with contextlib.suppress(OSError, ValueError, AttributeError):
            _print(f"feedwater: {text}")
        return
    log.log(level, "%s", text)


def _print(line: str) -> None:
    """Print to stderr; above a progress bar of tqdm's, which would otherwise have the line in its middle."""
    write = _writer_above_a_bar()
    if write is not None:
        try:
            write(line, file=sys.stderr)
            return
        except Exception:  # Another tqdm than expected: the line matters more than the bar.
            log.debug("tqdm.write failed", exc_info=True)
    print(line, file=sys.stderr, flush=True)


def _writer_above_a_bar() -> Callable[..., object] | None:
    """Return ``tqdm.write`` where a bar is being drawn on a terminal; tqdm itself is never imported."""
    tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
    if not getattr(tqdm, "_instances", None) or not sys.stderr.isatty():
        return None
    return getattr(tqdm, "write", None)


def heard_level() -> int:
    """Return INFO where somebody hears it, else WARNING: no change of a loader is made in silence.

    ``logging.basicConfig()``, as example scripts call it, leaves the root logger at WARNING.
    """
    if not log.hasHandlers():
        return logging.INFO if log.level <= logging.INFO else logging.WARNING
    heard = log.isEnabledFor(logging.INFO) and any(handler.level <= logging.INFO for handler in _handlers())
    return logging.INFO if heard else logging.WARNING


def _handlers() -> Iterator[logging.Handler]:
    logger: logging.Logger | None = log
    while logger is not None:
        yield from logger.handlers
        logger = logger.parent if logger.propagate else None


def say_once(key: str, text: str, level: int = logging.WARNING) -> None:
    """Log one line the first time that ``key`` comes."""
    if is_first(key):
        say(text, level)


def is_first(key: str) -> bool:
    """Say whether ``key`` comes for the first time, and note that it came."""
    if key in _said:
        return False
    _said.add(key)
    return True


def absorbed(where: str) -> None:
    """Note an error of Feedwater's own, which must not reach training: one line per place."""
    error = sys.exc_info()[1]
    if where not in _said:
        log.debug("feedwater: %s failed", where, exc_info=True)
    say_once(where, f"{where} failed ({type(error).__name__}: {error}); training continues as configured")


def forget_all() -> None:
    """Say everything anew, as a process that was forked does."""
    _said.clear()
