"""What a loader needs before it is iterated: a ring, a transport, and that the sidecar knows of it."""

from __future__ import annotations

import logging
from time import perf_counter_ns

from feedwater.loop import process
from feedwater.loop.boundary import describe
from feedwater.loop.change import apply, probation
from feedwater.loop.log import say, say_once
from feedwater.loop.measure import rings
from feedwater.loop.watched import Mark
from feedwater.values import Mode


def is_open(mark: Mark, loader: object) -> bool:
    """Make the ring and the transport of ``mark`` if need be; False if nothing can be measured."""
    if mark.is_broken or effective_mode(mark) is Mode.OFF:
        return False
    had_ring = mark.words is not None
    try:
        if not rings.ensure(mark, perf_counter_ns()):
            return False
    except OSError as error:
        mark.is_broken = True
        say_once("ring", f"nothing is measured: no memory for the timings ({error})", logging.WARNING)
        return False
    if mark.transport is None:
        _introduce(mark, loader)
    if not had_ring or mark.is_fresh:
        _announce(mark, loader, is_new_ring=not had_ring)
    return True


def effective_mode(mark: Mark) -> Mode:
    """Return the mode: the argument's, else the environment's, else the default; policy only lowers it."""
    asked = mark.mode or process.settings().mode or mark.default_mode
    return asked if mark.policy_mode is None else min(asked, mark.policy_mode, key=lambda m: m.rank)


def _introduce(mark: Mark, loader: object) -> None:
    mark.own_settings = apply.settings_of(loader)
    mark.proven_workers = mark.own_settings.num_workers
    mark.dataset_kind = describe.dataset_kind(loader)
    mark.transport = mark.given_transport or process.transport()
    _read_probation(mark)


def _announce(mark: Mark, loader: object, is_new_ring: bool) -> None:
    """Tell the sidecar of the loader; of one that continues another, where anything is new."""
    assert mark.transport is not None
    mark.label = describe.label(loader)
    description = describe.describe(mark, loader, effective_mode(mark))
    if is_new_ring or description != mark.description:
        mark.description = description
        mark.transport.register_loader(mark.key, description, mark.ring_fd)


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
