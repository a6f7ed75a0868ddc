"""Which loaders are watched: marks in a weak map, so that a loader stays the very object it was."""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from feedwater.loop.attach import origin
from feedwater.loop.change import apply
from feedwater.loop.log import say_once
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
    from feedwater.loop.attach.origin import Origin
    from feedwater.loop.change.probation import Record
    from feedwater.loop.measure.device import Device
    from feedwater.loop.measure.probe import Probe

OnEpoch = Callable[[EpochSummary, Answer], None]

HISTORY_EPOCHS = 1000
"""Epochs remembered of one loader; beyond that the oldest go."""
ORPHANS = 4
"""Marks kept whose loader is gone, for a framework that makes it anew."""
SAME_LENGTH = 2.0
"""Times that the lengths of two data sets may differ of loaders that continue each other: shards are seldom
equal, and training and validation data seldom within it."""

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


@dataclass(frozen=True, slots=True)
class Shape:
    """What loaders have in common that continue each other."""

    dataset_class: type
    length: int
    """Of the data set; 0 where it has none."""
    batch_size: object
    sampler_class: type

    def is_like(self, other: Shape) -> bool:
        """Whether all is the same, the length of the data set roughly."""
        least, most = sorted((self.length, other.length))
        return replace(self, length=0) == replace(other, length=0) and most <= SAME_LENGTH * least


_of_loader: dict[int, _Entry] = {}
_all: list[Mark] = []
_excluded: weakref.WeakSet[object] = weakref.WeakSet()


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


def find(loader: object) -> Mark | None:
    """Return the mark of ``loader``, or of the loader that it was rebuilt from; None if there is neither."""
    mark = of(loader)
    if mark is None and _all and not is_excluded(loader):
        mark = adopt(loader)
    return mark


def put(loader: object, mark: Mark) -> None:
    """Mark ``loader``; whatever its own code raises, it has no mark then."""
    made, shape, dataset = origin.of(loader), shape_of(loader), _weak(dataset_of(loader))
    known = _entry(loader)
    if known is not None:
        known.mark = mark
    else:
        # By identity, not a WeakKeyDictionary: a subclass may define __eq__ and with it lose its hash.
        _of_loader[id(loader)] = _Entry(weakref.ref(loader, _forgetting(id(loader))), mark)
    mark.loader, mark.is_fresh = weakref.ref(loader), True
    mark.origin, mark.shape, mark.dataset = made, shape, dataset
    if mark not in _all:
        _all.append(mark)
        _drop_old_orphans()


def _forgetting(identity: int) -> Callable[[weakref.ref[object]], None]:
    def forget(reference: weakref.ref[object]) -> None:
        entry = _of_loader.get(identity)
        if entry is not None and entry.loader is reference:
            del _of_loader[identity]

    return forget


def own_mark(mark: Mark, loader: object) -> Mark:
    """Return ``mark``, or one of the loader's own where another loader took it over and both are in use."""
    in_use = mark.loader() if mark.loader is not None else None
    if in_use is loader:
        return mark
    if in_use is None:
        put(loader, mark)
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


def adopt(loader: object, name: str | None = None) -> Mark | None:
    """Give ``loader`` the mark of the loader that it continues; None if there is none.

    One that the user names continues none that the user named otherwise.

    Accelerate's ``prepare`` and Lightning (under DDP) build a new loader around the same dataset object,
    perhaps in a shard wrapper, and never iterate the old one. Hugging Face's Trainer makes a new loader for
    each evaluation and keeps the old ones; scripts make data set and loader anew for each shard.
    """
    dataset = dataset_of(loader)
    if dataset is None:
        return None
    possible = [m for m in _all if m.epoch < 0 or not (name and m.named_by_user and m.name != name)]
    same = [m for m in possible if _has(m, dataset)]
    others = [m for m in possible if m not in same]
    mark = next((m for m in same if _is_replaced_by(m, loader)), None)
    mark = mark or next((m for m in same if _is_free(m)), None)
    mark = mark or next((m for m in others if _is_made_anew(m, loader)), None)
    if mark is not None:
        put(loader, mark)
    return mark


def dataset_of(loader: object) -> object:
    """Return the loader's dataset, out of its shard wrappers (Accelerate's ``IterableDatasetShard``)."""
    dataset = getattr(loader, "dataset", None)
    if dataset is loader:  # fastai's stand-in for a DataLoader is its own data set.
        return getattr(getattr(loader, "d", None), "dataset", None)
    while type(dataset).__name__ in {"IterableDatasetShard", "_IterDataPipeSerializationWrapper"}:
        dataset = getattr(dataset, "dataset", None) or getattr(dataset, "_datapipe", None)
    return dataset


def shape_of(loader: object) -> Shape | None:
    """Return what a loader has in common with one that continues it; None where it has no dataset."""
    dataset = dataset_of(loader)
    if dataset is None:
        return None
    sampler = getattr(loader, "batch_sampler", None)
    inner = getattr(sampler, "sampler", None) or getattr(loader, "sampler", None)
    size = getattr(loader, "batch_size", None) or getattr(sampler, "batch_size", None)
    return Shape(type(dataset), apply.length_of(dataset) or 0, size, type(inner))


def _is_free(mark: Mark) -> bool:
    """Its loader was never iterated, or is gone with no batch to come: one in use keeps its mark."""
    is_gone = mark.loader is None or mark.loader() is None
    return mark.epoch < 0 or (is_gone and mark.rests_since_ns is not None)


def _is_replaced_by(mark: Mark, loader: object) -> bool:
    """Whether a loader over the same dataset was made when the mark's had no epoch left to run."""
    return _is_like(mark, loader) and _is_later(mark, loader)


def _is_made_anew(mark: Mark, loader: object) -> bool:
    """Whether a loader over a dataset of the same class and shape was made at the same place, later."""
    made = origin.of(loader)
    return (
        made is not None
        and mark.origin is not None
        and made.calls == mark.origin.calls
        and _is_like(mark, loader)
        and _is_later(mark, loader)
    )


def _is_like(mark: Mark, loader: object) -> bool:
    shape = shape_of(loader)
    return shape is not None and mark.shape is not None and shape.is_like(mark.shape)


def _is_later(mark: Mark, loader: object) -> bool:
    """Whether a loader was made after the mark's last epoch had ended: two that were there before are two."""
    made, rests = origin.of(loader), mark.rests_since_ns
    return made is not None and rests is not None and 0 < rests <= made.stamp_ns


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
        if mark.transport is not None and mark.close_ring is not None:
            mark.transport.release_ring(mark.key)
