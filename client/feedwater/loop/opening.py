"""The first iteration of a loader: its ring, its transport, and what the sidecar is told of it."""

from __future__ import annotations

import logging
import sys

from feedwater import ring
from feedwater.loop import apply, epochs, probation, process, safety
from feedwater.loop.device import Device
from feedwater.loop.marks import Mark
from feedwater.loop.say import say, say_once
from feedwater.values import LoaderDescription, Mode


def is_open(mark: Mark, loader: object) -> bool:
    """Make the ring and the transport of ``mark`` if need be; False if nothing can be measured."""
    if mark.is_broken or effective_mode(mark) is Mode.OFF:
        return False
    if mark.transport is None:
        _open(mark, loader)
    return not mark.is_broken


def effective_mode(mark: Mark) -> Mode:
    """Return the mode: the argument's, else the environment's, else the default; policy only lowers it."""
    asked = mark.mode or process.settings().mode or mark.default_mode
    return asked if mark.policy_mode is None else min(asked, mark.policy_mode, key=lambda m: m.rank)


def _open(mark: Mark, loader: object) -> None:
    try:
        mark.ring_fd, mark.words = ring.create()
    except OSError as error:
        mark.is_broken = True
        say_once("ring", f"nothing is measured: no memory for the timings ({error})", logging.WARNING)
        return
    mark.close_ring_when_gone()
    mark.device = Device(mark.words)
    mark.own_settings = apply.settings_of(loader)
    mark.proven_workers = mark.own_settings.num_workers
    mark.dataset_kind = _dataset_kind(loader)
    mark.transport = mark.given_transport or process.transport()
    _read_probation(mark)
    mark.transport.open_loader(mark.key, describe(mark, loader), mark.ring_fd)


def _dataset_kind(loader: object) -> str:
    kind = getattr(loader, "_dataset_kind", None)
    return "none" if kind is None else "map" if kind == 0 else "iterable"


def describe(mark: Mark, loader: object) -> LoaderDescription:
    """Return what the sidecar is told of a loader."""
    torch = sys.modules.get("torch")
    is_loader = mark.dataset_kind != "none"
    return LoaderDescription(
        name=mark.name,
        settings=apply.settings_of(loader),
        mode=effective_mode(mark),
        dataset_kind=mark.dataset_kind,
        dataset_length=epochs.length_of(getattr(loader, "dataset", None)),
        batch_size=getattr(loader, "batch_size", None),
        batches_per_epoch=epochs.length_of(loader) if mark.dataset_kind == "map" else None,
        start_method=safety.start_method(loader) if is_loader else "",
        can_apply=mark.can_apply and not safety.depends_on_count(mark, loader),
        uses_cuda=torch is not None and bool(torch.cuda.is_initialized()),
        torch_version=str(getattr(torch, "__version__", "")),
    )


def _read_probation(mark: Mark) -> None:
    if effective_mode(mark) is not Mode.AUTO or mark.dataset_kind == "none":
        return
    record = probation.read(process.settings(), mark.name)
    if record is None:
        return
    mark.held_by = record
    say(
        f"{mark.name}: the last run of this job died while num_workers={record.after.num_workers} was tried; "
        f"num_workers={mark.proven_workers} is kept for the rest of the job ({record.path} says so)",
        logging.WARNING,
    )
