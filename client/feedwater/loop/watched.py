"""A loader that is watched: its state in parts, each of which is written by one module.

===============  ==============================================  ==================================
part             holds                                           written by
===============  ==============================================  ==================================
`WatchOptions`   the arguments of `watch`; frozen                `feedwater.loop.attach.watch`
`LoaderIdentity` how a loader that continues it is recognised    `feedwater.loop.registry`
`Recording`      the ring, and the epoch that is stored in it    `feedwater.loop.measure.recording`
`Tuning`         the settings, the user's and ours               `feedwater.loop.change.tuning`
`History`        epochs that ended, their answers, what is       `feedwater.loop.history`
                 logged
===============  ==============================================  ==================================

A function takes the part that it works on. It takes the whole where it needs more than two.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

from feedwater.loop.change.tuning import Tuning
from feedwater.loop.dataloader import Shape
from feedwater.loop.history import History
from feedwater.loop.measure.recording import Recording
from feedwater.loop.origin import Origin
from feedwater.values import Answer, EpochSummary, LoaderDescription, Mode, Transport

OnEpoch = Callable[[EpochSummary, Answer], None]

_keys = itertools.count()


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOptions:
    """The options of one loader, as `feedwater.watch` was called."""

    name: str
    is_named_by_user: bool = False
    is_watch_called: bool = False
    """`feedwater.watch` was called for this loader, not for all loaders alike."""
    mode: Mode | None = None
    """The argument of `watch`; None: the environment's mode, or `default_mode`."""
    default_mode: Mode = Mode.AUTO
    allow_workers: bool = False
    on_epoch: OnEpoch | None = None
    transport: Transport | None = None
    """None: the one of the process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderIdentity:
    """How a loader that continues another one is recognised."""

    origin: Origin | None
    """How it was made; None where that was not seen."""
    shape: Shape | None
    """None where it has no dataset."""
    dataset: Callable[[], object]
    """Returns the dataset without keeping it alive."""


@dataclass(eq=False, kw_only=True)
class WatchedLoader:
    """The state of one watched loader, also across the loaders that it is rebuilt as."""

    options: WatchOptions
    key: int = field(default_factory=lambda: next(_keys))
    """Identifies it to the transport."""
    loader: weakref.ref[object] | None = None
    """The loader in use."""
    identity: LoaderIdentity | None = None
    """Of the loader in use; None for an iterable that is no ``DataLoader``."""
    description: LoaderDescription | None = None
    """The last description sent to the sidecar; None before the first."""
    recording: Recording = field(default_factory=Recording)
    tuning: Tuning = field(default_factory=Tuning)
    history: History = field(default_factory=History)

    @property
    def name(self) -> str:
        """What logs and metrics call it."""
        return self.options.name

    @property
    def dataset_kind(self) -> str:
        """``"map"`` or ``"iterable"``; ``"none"`` for what is no ``DataLoader``, and before it is opened."""
        return self.description.dataset_kind if self.description is not None else "none"

    @property
    def label(self) -> str:
        """Dataset, length and batch size for a person; empty before it is opened."""
        return self.description.label if self.description is not None else ""

    def loader_in_use(self) -> object | None:
        """Return the loader in use; None where it is gone."""
        return self.loader() if self.loader is not None else None
