"""Which loaders are watched: marks in a weak map, so that a loader stays the very object it was."""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from feedwater.values import (
    Answer,
    EpochSummary,
    LoaderDescription,
    LoaderSettings,
    Mode,
    Recommendation,
    Transport,
)

if TYPE_CHECKING:
    from feedwater.loop.change.probation import Record
    from feedwater.loop.dataloader import Shape
    from feedwater.loop.measure.device import Device
    from feedwater.loop.measure.probe import Probe
    from feedwater.loop.origin import Origin

OnEpoch = Callable[[EpochSummary, Answer], None]

HISTORY_EPOCHS = 1000
"""Epochs remembered of one loader; beyond that the oldest go."""
ORPHANS = 4
"""Marks kept whose loader is gone, for a framework that makes it anew."""

_keys = itertools.count()
_names = itertools.count()


@dataclass(slots=True)
class Preview:
    """The question what the running epoch says so far."""

    asked_ns: int = 0
    """When it was asked, by ``perf_counter_ns``; 0 while no answer is awaited."""
    due_ns: int = 0
    """When it is to be asked next."""


@dataclass(eq=False)
class Mark:
    """All that is known of one watched loader, through all its incarnations."""

    name: str
    named_by_user: bool = False
    is_asked_for: bool = False
    """`feedwater.watch` was called for it, not for all loaders alike."""
    label: str = ""
    """What a person recognises the loader by: its dataset, length and batch size; empty before `opening`."""
    mode: Mode | None = None
    """What `watch` said; None: the environment's word, or the entry point's default."""
    default_mode: Mode = Mode.AUTO
    allow_workers: bool = False
    on_epoch: OnEpoch | None = None
    given_transport: Transport | None = None
    key: int = field(default_factory=lambda: next(_keys))
    description: LoaderDescription | None = None
    """What the sidecar was told of it last."""
    transport: Transport | None = None
    """None until the first iteration, and where nothing can be measured."""
    ring_fd: int = -1
    words: memoryview | None = None
    device: Device | None = None
    """None as `words`."""
    head: int = 0
    """Batches stored by all iterators before the present one."""
    close_ring: Callable[[], object] | None = None
    """Gives the ring's descriptor back; None while there is no ring."""
    next_ring: int = 0
    """First worker ring of the next iterator."""
    first_ring: int = 0
    """First worker ring of the present iterator."""
    loader: weakref.ref[object] | None = None
    """The loader in use."""
    origin: Origin | None = None
    """How it was made; None where that was not seen."""
    shape: Shape | None = None
    """What it has in common with one that continues it."""
    ended_ns: int = 0
    """When its last epoch was closed, by ``perf_counter_ns``; 0 before the first."""
    dataset: Callable[[], object] | None = None
    dataset_kind: str = "none"
    can_apply: bool = True
    makes_iterators: bool = False
    """Its class makes iterators past PyTorch's ``DataLoader``: nothing can be applied before that."""
    is_endless: bool = False
    """Its last iterator went on beyond the loader's length: its sampler is read for ever."""
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
    preview: Preview = field(default_factory=Preview)
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

    @property
    def uses_cuda(self) -> bool:
        """CUDA is initialised: host wait is then not starvation."""
        return self.device is not None and self.device.is_used

    @property
    def is_iterating(self) -> bool:
        """An epoch has begun and not ended."""
        return self.probe is not None

    @property
    def rests_since_ns(self) -> int | None:
        """When its last epoch ended, or its last batch came where nobody closed it; None while one runs."""
        if self.probe is None:
            return self.ended_ns
        return self.probe.newest_exit_ns() if self.probe.next_batch >= self.probe.roll_at else None


@dataclass(slots=True)
class _Entry:
    """A loader that has a mark."""

    loader: weakref.ref[object]
    mark: Mark
    given: LoaderSettings | None = None
    """What Feedwater assigned last to this very loader; None: nothing."""


_of_loader: dict[int, _Entry] = {}
_all: list[Mark] = []


def of(loader: object) -> Mark | None:
    """Return the mark of ``loader``; None if it has none."""
    entry = _entry(loader)
    return None if entry is None else entry.mark


def given(loader: object) -> LoaderSettings | None:
    """Return the settings that Feedwater assigned last to this very loader; None if it did not."""
    entry = _entry(loader)
    return None if entry is None else entry.given


def note_given(loader: object, settings: LoaderSettings) -> None:
    """Remember that Feedwater assigned ``settings`` to ``loader``."""
    entry = _entry(loader)
    if entry is not None:
        entry.given = settings


def _entry(loader: object) -> _Entry | None:
    entry = _of_loader.get(id(loader))
    return entry if entry is not None and entry.loader() is loader else None


def _forgetting(identity: int) -> Callable[[weakref.ref[object]], None]:
    def forget(reference: weakref.ref[object]) -> None:
        entry = _of_loader.get(identity)
        if entry is not None and entry.loader is reference:
            del _of_loader[identity]

    return forget


def register(loader: object, mark: Mark) -> None:
    """Make ``mark`` that of ``loader``, which is from now on the loader in use."""
    known = _entry(loader)
    if known is not None:
        known.mark = mark
    else:
        # By identity, not a WeakKeyDictionary: a subclass may define __eq__ and with it lose its hash.
        _of_loader[id(loader)] = _Entry(weakref.ref(loader, _forgetting(id(loader))), mark)
    mark.loader, mark.is_fresh = weakref.ref(loader), True
    if mark not in _all:
        _all.append(mark)
        _drop_old_orphans()


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


def _drop_old_orphans() -> None:
    orphans = [m for m in _all if m.loader is not None and m.loader() is None and not m.is_iterating]
    for mark in orphans[:-ORPHANS]:
        _all.remove(mark)
        if mark.transport is not None and mark.close_ring is not None:
            mark.transport.rest_loader(mark.key)
