"""Gives a loader a ring and a transport before it is iterated, and registers it with the sidecar."""

from __future__ import annotations

import logging
from time import perf_counter_ns

from feedwater.loop import dataloader, process
from feedwater.loop.boundary import describe, rings
from feedwater.loop.change import probation
from feedwater.loop.log import log_line, log_once
from feedwater.loop.watched import WatchedLoader
from feedwater.values import Mode


def ensure_open(watched: WatchedLoader, loader: object) -> bool:
    """Give a loader its ring and transport where it lacks them; return False if it cannot be measured."""
    recording = watched.recording
    if recording.is_broken or effective_mode(watched) is Mode.OFF:
        return False
    recording.release_lost_ring()
    had_ring = recording.words is not None
    try:
        if not rings.ensure(watched, perf_counter_ns()):
            return False
    except OSError as error:
        recording.stop()
        log_once("ring", f"nothing is measured: no memory for the timings ({error})", logging.WARNING)
        return False
    if recording.transport is None:
        _connect(watched, loader)
    if not had_ring or watched.tuning.is_new_loader:
        _register(watched, loader, is_new_ring=not had_ring)
    return True


def effective_mode(watched: WatchedLoader) -> Mode:
    """Return the mode: the argument's, else the environment's, else the default; policy only lowers it."""
    options, policy = watched.options, watched.history.policy_mode
    asked = options.mode or process.settings().mode or options.default_mode
    return asked if policy is None else min(asked, policy, key=lambda m: m.rank)


def _connect(watched: WatchedLoader, loader: object) -> None:
    watched.tuning.start(dataloader.settings_of(loader))
    watched.recording.connect(watched.options.transport or process.transport(), watched.key)
    _read_probation(watched, loader)


def _register(watched: WatchedLoader, loader: object, is_new_ring: bool) -> None:
    """Register the loader with the sidecar, unless it continues one with the same description."""
    description = describe.describe(watched.options, watched.tuning, loader, effective_mode(watched))
    if is_new_ring or description != watched.description:
        watched.description = description
        watched.recording.register(description)


def _read_probation(watched: WatchedLoader, loader: object) -> None:
    if effective_mode(watched) is not Mode.AUTO or dataloader.dataset_kind(loader) == "none":
        return
    record = probation.read(process.settings(), watched.name)
    if record is None:
        return
    tuning = watched.tuning
    tuning.keep_after_crash(record)
    log_line(
        f"{watched.name}: the last run of this job died while num_workers={record.after.num_workers} was "
        f"tried; num_workers={tuning.proven_workers} is kept for the rest of the job ({record.path} says so)",
        logging.WARNING,
    )
