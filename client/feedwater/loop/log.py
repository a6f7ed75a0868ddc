"""The log of the training process: few lines, each once per change of state."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator

from feedwater import guard

logger = logging.getLogger("feedwater")
_logged: set[str] = set()


def log_line(text: str, level: int = logging.INFO) -> None:
    """Log one line; print it to stderr where the user has configured no logging at all.

    Python's last resort prints warnings and above only. The user asked for the line at an epoch's end by
    calling `watch`, so it is printed from INFO on. Any handler replaces the printing, a ``NullHandler`` too.
    """
    if level >= logging.INFO and not logger.hasHandlers():
        if level < logger.level:  # The user set the logger's level, to have fewer lines.
            return
        with contextlib.suppress(OSError, ValueError, AttributeError):
            _print(f"feedwater: {text}")
        return
    logger.log(level, "%s", text)


def _print(line: str) -> None:
    """Print to stderr; above a progress bar of tqdm's, because the line would otherwise split the bar."""
    write = _tqdm_write()
    if write is not None:
        try:
            write(line, file=sys.stderr)
            return
        except Exception:  # Another tqdm than expected: the line matters more than the bar.
            logger.debug("tqdm.write failed", exc_info=True)
    print(line, file=sys.stderr, flush=True)


def _tqdm_write() -> Callable[..., object] | None:
    """Return ``tqdm.write`` where tqdm draws a bar on a terminal; tqdm is never imported for it."""
    tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
    if not getattr(tqdm, "_instances", None) or not sys.stderr.isatty():
        return None
    return getattr(tqdm, "write", None)


def visible_level() -> int:
    """Return INFO where a handler takes it, else WARNING: every change of a loader must be visible.

    ``logging.basicConfig()``, as example scripts call it, leaves the root logger at WARNING.
    """
    if not logger.hasHandlers():
        return logging.INFO if logger.level <= logging.INFO else logging.WARNING
    is_taken = logger.isEnabledFor(logging.INFO) and any(h.level <= logging.INFO for h in _handlers())
    return logging.INFO if is_taken else logging.WARNING


def _handlers() -> Iterator[logging.Handler]:
    """Yield the handlers that a line reaches."""
    current: logging.Logger | None = logger
    while current is not None:
        yield from current.handlers
        current = current.parent if current.propagate else None


def log_once(key: str, text: str, level: int = logging.WARNING) -> None:
    """Log one line, if none was logged under ``key`` before."""
    if note_logged(key):
        log_line(text, level)


def note_logged(key: str) -> bool:
    """Keep ``key`` as logged; return whether it was not logged before."""
    if key in _logged:
        return False
    _logged.add(key)
    return True


def log_swallowed(where: str) -> None:
    """Log the exception being handled, an error of Feedwater's own that must not reach training.

    Args:
        where: What failed; each is logged once.
    """
    error = sys.exc_info()[1]
    if where not in _logged:
        logger.debug("feedwater: %s failed", where, exc_info=True)
    log_once(where, f"{where} failed ({type(error).__name__}: {error}); training continues as configured")


guard.report_with(log_swallowed)


def forget_all() -> None:
    """Forget what was logged, as a forked process does, so that it is logged again."""
    _logged.clear()
