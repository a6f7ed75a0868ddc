"""Which loaders are watched: marks in a weak map, so that a loader stays the very object it was."""

from __future__ import annotations

import itertools
import os
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from feedwater.loop.say import say_once
from feedwater.values import Answer, EpochSummary, LoaderSettings, Mode, Recommendation, Transport

if TYPE_CHECKING:
    from feedwater.loop.device import Device
    from feedwater.loop.probation import Record
    from feedwater.loop.probe import Probe

OnEpoch = Callable[[EpochSummary, Answer], None]

HISTORY_EPOCHS = 1000
"""Epochs remembered of one loader; beyond that the oldest go."""
ORPHANS = 4
"""Marks kept whose loader is gone, for a framework that rebuilds it; each holds 4.5 MB of ring."""

_keys = itertools.count()
_names = itertools.count()


@dataclass(eq=False)
class Mark:
    """All that is known of one watched loader, through all its incarnations."""

    name: str
    named_by_user: bool = False
    label: str = ""
    """What a person recognises the loader by: its dataset, length and batch size; empty before `opening`."""
    mode: Mode | None = None
    """What `watch` said; None: the environment's word, or the entry point's default."""
    default_mode: Mode = Mode.AUTO
    allow_workers: bool = False
    on_epoch: OnEpoch | None = None
    given_transport: Transport | None = None
    key: int = field(default_factory=lambda: next(_keys))
    transport: Transport | None = None
    """None until the first iteration, and where nothing can be measured."""
    ring_fd: int = -1
    words: memoryview | None = None
    device: Device | None = None
    """None as `words`."""
    head: int = 0
    """Batches stored by all iterators before the present one."""
    next_ring: int = 0
    """First worker ring of the next iterator."""
    first_ring: int = 0
    """First worker ring of the present iterator."""
    loader: weakref.ref[object] | None = None
    """The loader in use."""
    dataset: Callable[[], object] | None = None
    dataset_kind: str = "none"
    can_apply: bool = True
    is_broken: bool = False
    """Nothing more is measured of this loader: an error of ours, or no memory for the ring."""
    epoch: int = -1
    """The present epoch, or the last one; -1 before the first."""
    probe: Probe | None = None
    """Of the iterator in use; None between epochs."""
    iterator: weakref.ref[object] | None = None
    began_with: LoaderSettings | None = None
    own_settings: LoaderSettings | None = None
    """The user's."""
    chosen: LoaderSettings | None = None
    """Ours, in use since a change; None: the user's."""
    proven_workers: int = 0
    """The largest count under which an epoch ended cleanly, or the user's own."""
    unanswered: EpochSummary | None = None
    """The epoch that ended and that no recommendation was asked for yet."""
    history: deque[EpochSummary] = field(default_factory=lambda: deque(maxlen=HISTORY_EPOCHS))
    recommendation: Recommendation | None = None
    policy_mode: Mode | None = None
    is_connected: bool | None = None
    probation: Record | None = None
    held_by: Record | None = None
    """The last incarnation of this process died under this change: the user's own setting is kept."""
    canaries: dict[bool, str] = field(default_factory=dict)
    """What a trial came to, by whether it was in a worker; empty: it loaded."""
    said: set[object] = field(default_factory=set)
    """The recommendations with what was done with them, and the advice, that were logged."""
    last_index: object = None
    """What the fetcher was last asked for; a canary asks for the same."""
    is_loading_heavy: bool = False
    """The main process itself loads, and its loads are worth timing."""
    is_fresh: bool = True
    """No iterator was made yet from the loader in use."""
    is_rebuilding: bool = False
    """The next iterator is made anew because of a change of ours."""
    base_seed: int = 0
    """What the last iterator's workers were seeded from."""

    def close_ring_when_gone(self) -> None:
        """Give the ring's descriptor back with the mark."""
        weakref.finalize(self, os.close, self.ring_fd).atexit = False

    @property
    def uses_cuda(self) -> bool:
        """CUDA is initialised: host wait is then not starvation."""
        return self.device is not None and self.device.is_used

    @property
    def is_iterating(self) -> bool:
        """An epoch has begun and not ended."""
        return self.probe is not None


_of_loader: dict[int, tuple[weakref.ref[object], Mark]] = {}
_all: list[Mark] = []
_excluded: weakref.WeakSet[object] = weakref.WeakSet()


def of(loader: object) -> Mark | None:
    """Return the mark of ``loader``; None if it has none."""
    entry = _of_loader.get(id(loader))
    return entry[1] if entry is not None and entry[0]() is loader else None


def find(loader: object) -> Mark | None:
    """Return the mark of ``loader``, or of the loader that it was rebuilt from; None if there is neither."""
    mark = of(loader)
    if mark is None and _all and not is_excluded(loader):
        mark = adopt(loader)
    return mark


def put(loader: object, mark: Mark) -> None:
    """Mark ``loader``."""
    identity = id(loader)

    def forget(reference: weakref.ref[object]) -> None:
        entry = _of_loader.get(identity)
        if entry is not None and entry[0] is reference:
            del _of_loader[identity]

    # By identity, not a WeakKeyDictionary: a subclass may define __eq__ and with it lose its hash.
    _of_loader[identity] = (weakref.ref(loader, forget), mark)
    mark.loader, mark.is_fresh = weakref.ref(loader), True
    mark.dataset = _weak(dataset_of(loader))
    if mark not in _all:
        _all.append(mark)
        _drop_old_orphans()


def own_mark(mark: Mark, loader: object) -> Mark:
    """Return ``mark``, or one of the loader's own where another loader took it over and both are in use."""
    in_use = mark.loader() if mark.loader is not None else None
    if in_use is None or in_use is loader:
        return mark
    own = Mark(
        f"{mark.name}-{new_name().rpartition('-')[2]}",
        mode=mark.mode,
        default_mode=mark.default_mode,
        allow_workers=mark.allow_workers,
        on_epoch=mark.on_epoch,
        given_transport=mark.given_transport,
    )
    say_once(f"name {mark.name}", f"two loaders are called {mark.name!r}; one of them is now {own.name!r}")
    put(loader, own)
    return own


def new_name() -> str:
    """Return the next default name: "loader-0", then "loader-1"."""
    return f"loader-{next(_names)}"


def named(name: str) -> Mark | None:
    """Return the mark that a user gave this name."""
    return next((m for m in _all if m.named_by_user and m.name == name), None)


def every() -> list[Mark]:
    """Return all marks of this process."""
    return list(_all)


def forget_all() -> None:
    """Forget all marks, as a process that was forked does."""
    _of_loader.clear()
    _all.clear()


def exclude(loader: object) -> None:
    """Never watch ``loader``: it is Feedwater's own."""
    _excluded.add(loader)


def is_excluded(loader: object) -> bool:
    """Say whether ``loader`` is Feedwater's own."""
    return bool(_excluded) and loader in _excluded


def adopt(loader: object) -> Mark | None:
    """Give ``loader`` the mark of the loader that it was rebuilt from; None if there is none.

    Accelerate's ``prepare`` and Lightning (under DDP) build a new loader around the same dataset object,
    perhaps in a shard wrapper, and never iterate the old one.
    """
    dataset = dataset_of(loader)
    mark = None if dataset is None else next((m for m in _all if _is_free(m) and _has(m, dataset)), None)
    if mark is not None:
        put(loader, mark)
    return mark


def dataset_of(loader: object) -> object:
    """Return the loader's dataset, out of its shard wrappers (Accelerate's ``IterableDatasetShard``)."""
    dataset = getattr(loader, "dataset", None)
    while type(dataset).__name__ in {"IterableDatasetShard", "_IterDataPipeSerializationWrapper"}:
        dataset = getattr(dataset, "dataset", None) or getattr(dataset, "_datapipe", None)
    return dataset


def _is_free(mark: Mark) -> bool:
    """Its loader is gone, or was never iterated: one that is alive and in use keeps its mark."""
    return mark.epoch < 0 or mark.loader is None or mark.loader() is None


def _has(mark: Mark, dataset: object) -> bool:
    known = mark.dataset() if mark.dataset is not None else None
    return known is dataset or (type(known) is tuple and known == _token(dataset))


def _weak(value: object) -> Callable[[], object]:
    try:
        return weakref.ref(value)
    except TypeError:  # A list is a fine dataset and takes no weak references.
        token = _token(value)
        return lambda: token


def _token(value: object) -> tuple[int, type, int] | None:
    return (id(value), type(value), len(value)) if isinstance(value, (list, tuple, range)) else None


def _drop_old_orphans() -> None:
    orphans = [m for m in _all if m.loader is not None and m.loader() is None and not m.is_iterating]
    for mark in orphans[:-ORPHANS]:
        _all.remove(mark)
