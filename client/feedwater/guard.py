"""The guard of every entry from PyTorch's side into ours: what fails behind it ends our measuring alone.

An entry is a function of ours that PyTorch, Python's runtime or the user's loop calls. There are three kinds:

=============  ====================================================  =======================================
`around`       the entry makes what PyTorch would have made          on failure PyTorch's own function is
               (``iter()``)                                          called, unless it was already
`swallow`      all of the entry is ours (at exit, after a fork,      nothing is returned
               ``__init__`` before PyTorch's)
`timed_class`  the entry stands around a worker's ``fetch``          the class is PyTorch's again
=============  ====================================================  =======================================

``__next__`` is guarded where it is, in `feedwater.loop.attach.hooks`: a call more at each batch costs 60 ns.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")
Report = Callable[[str], None]
Make = Callable[[object], T]


def report_quietly(where: str) -> None:
    """Log the exception being handled at DEBUG: a line of each worker in each epoch would fill the log."""
    logging.getLogger("feedwater").debug("%s failed", where, exc_info=True)


_report: Report = report_quietly


def report_with(report: Report) -> None:
    """Have ``report`` log what fails, given where that was."""
    global _report
    _report = report


def report(where: str) -> None:
    """Log the exception being handled; never raise, although a handler of the user's may."""
    try:
        _report(where)
    except Exception:
        return


@contextmanager
def swallow(where: str, misuse: type[Exception] | tuple[()] = ()) -> Iterator[None]:
    """Log an exception of the context, and go on after it.

    Args:
        where: What failed, for the log; each is logged once.
        misuse: An exception that is meant for the user, and passes.
    """
    try:
        yield
    except misuse:
        raise
    except Exception:
        report(where)


class _Original(Generic[T]):
    """PyTorch's function, and what became of its last call."""

    def __init__(self, function: Make[T]) -> None:
        self._function = function
        self.error: BaseException | None = None
        self.results: list[T] = []

    def __call__(self, loader: object) -> T:
        try:
            result = self._function(loader)
        except BaseException as error:
            self.error = error
            raise
        self.results = [result]
        return result


def around(where: str, original: Make[T], loader: object, ours: Callable[[Make[T], object], T]) -> T:
    """Return ``ours(original, loader)``; where ours fails, what ``original(loader)`` returns.

    ``original`` is called once, unless ours calls it again after it raised. Its exceptions are PyTorch's or
    the user's, and pass.
    """
    call = _Original(original)
    try:
        return ours(call, loader)
    except Exception as error:
        if error is call.error:
            raise
        report(where)
    return call.results[0] if call.results else original(loader)


def timed_class(
    fetcher_class: type, before: Callable[[object], object], after: Callable[[object], object]
) -> type:
    """Return a fetcher's class with ``before(index)`` and ``after(batch)`` called around its ``fetch``.

    A subclass that the fetcher is switched to, not a wrapper: torchdata reads and writes the fetcher's
    attributes, and a wrapper that holds its fetcher's bound method would make a reference cycle. Where
    ``before`` or ``after`` raises, the fetcher is switched back for good.
    """
    fetch = cast(Any, fetcher_class).fetch

    def timed_fetch(self: object, index: object) -> object:
        is_timed = True
        try:
            before(index)
        except Exception:
            is_timed = False
            stop(self)
        # Not in the handler above: the user's own error would name ours as its context.
        batch = fetch(self, index)
        if is_timed:
            try:
                after(batch)
            except Exception:
                stop(self)
        return batch

    def stop(fetcher: object) -> None:
        report("timing a load")
        with swallow("timing a load"):
            fetcher.__class__ = fetcher_class

    return type(fetcher_class.__name__, (fetcher_class,), {"fetch": timed_fetch})
