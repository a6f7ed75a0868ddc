"""What the user names on the command line: ``module:make_loader``, ``module:loader``, ``module:step``."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from itertools import islice
from typing import cast

EXAMPLE = "expected MODULE:NAME, such as train:make_loader"


class TargetError(Exception):
    """What was named cannot be had; the message says why, and what to do."""


def load_loader(target: str) -> object:
    """Return the ``DataLoader`` that ``target`` names, or that the function it names returns.

    Raises:
        TargetError: There is none.
    """
    found = _load(target)
    from torch.utils.data import DataLoader

    if callable(found) and not isinstance(found, DataLoader):
        found = _called(target, found)
    if not isinstance(found, DataLoader):
        raise TargetError(f"{target}: expected a DataLoader, got {_kind(found)}{_hint(found)}")
    if not issubclass(type(found), DataLoader) or hasattr(found, "base_dataloader"):
        raise TargetError(f"{target}: got a loader prepared by Accelerate; name the one before prepare()")
    return found


def load_step(target: str) -> Callable[[object], object]:
    """Return the function that ``target`` names, to be called with each batch.

    Raises:
        TargetError: There is none.
    """
    found = _load(target)
    if not callable(found):
        raise TargetError(f"{target}: expected a function to call with each batch, got {_kind(found)}")
    return cast(Callable[[object], object], found)


def _load(target: str) -> object:
    name, colon, attribute = target.partition(":")
    if not (name and colon and attribute):
        raise TargetError(f"{target!r}: {EXAMPLE}")
    if name.endswith(".py"):
        raise TargetError(f"{target!r}: {EXAMPLE}, with the module as import names it: without .py")
    _put_here_first()
    found: object = _module(name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise TargetError(f"{target}: module {name!r} has no {attribute!r}{_similar(found, part)}")
        found = getattr(found, part)
    return found


def _put_here_first() -> None:
    """Have the current directory first on the path, as ``python -m`` does."""
    here = os.getcwd()
    if sys.path[:1] not in ([here], [""]):
        sys.path.insert(0, here)


def _module(name: str) -> object:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (error.name == name or name.startswith(f"{error.name}.")):
            raise TargetError(
                f"no module {error.name!r}, looked for in {os.getcwd()} and on sys.path"
            ) from None
        raise TargetError(f"importing {name!r} failed:\n{_trace()}") from None
    except (Exception, SystemExit):
        raise TargetError(f"importing {name!r} failed:\n{_trace()}") from None


def _called(target: str, make: Callable[[], object]) -> object:
    try:
        return make()
    except (Exception, SystemExit):
        raise TargetError(f"{target}() failed:\n{_trace()}") from None


def _trace() -> str:
    """Return the traceback of the error at hand, from the user's own code on."""
    error = sys.exc_info()[1]
    assert error is not None
    at = error.__traceback__
    while at is not None and at.tb_frame.f_code.co_filename in (__file__, importlib.__file__):
        at = at.tb_next
    lines = traceback.format_exception(type(error), error, at or error.__traceback__)
    return "".join(line for line in lines if "<frozen importlib" not in line).rstrip()


def _kind(value: object) -> str:
    if value is None:
        return "None"
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _hint(value: object) -> str:
    if value is None:
        return "; does the function end with a return?"
    if isinstance(value, tuple):
        return "; name a function that returns the one loader to sweep"
    return "; a dataset is not enough" if hasattr(value, "__getitem__") else ""


def _similar(holder: object, name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, dir(holder), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


class First:
    """A sampler that stops after the first ``count`` items of another, so that an epoch ends there.

    PyTorch ends the epoch as it ends any: what is in flight is delivered, then the workers are stopped.
    """

    def __init__(self, inner: object) -> None:
        self._inner = inner
        self.count: int | None = None
        """None: all."""

    def __iter__(self) -> Iterator[object]:
        return islice(iter(cast("list[object]", self._inner)), self.count)

    def __len__(self) -> int:
        length = len(cast("list[object]", self._inner))
        return length if self.count is None else min(length, self.count)

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


def shortened(loader: object) -> First:
    """Put a `First` before the loader's batch sampler (or sampler, where that makes the batches)."""
    name = "batch_sampler" if getattr(loader, "batch_sampler", None) is not None else "sampler"
    first = First(getattr(loader, name))
    # Past __setattr__, which refuses samplers; PyTorch reads them back from the instance.
    vars(loader)[name] = first
    return first
