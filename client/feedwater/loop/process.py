"""State of the process: settings and transport, and the calls at a fork and at exit."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from feedwater import guard
from feedwater.loop import log, ranks
from feedwater.settings import Settings, read_settings
from feedwater.values import Transport

if TYPE_CHECKING:
    from feedwater.loop.link import RelayTransport

_settings: Settings | None = None
_transport: Transport | None = None
_link: RelayTransport | None = None
"""The transport, where it is not a test's."""
_at_exit: list[Callable[[], None]] = []
_in_child: list[Callable[[], None]] = []
_is_prepared = False


def settings() -> Settings:
    """Return the client's settings, read at the first call."""
    global _settings
    if _settings is None:
        _settings = read_settings()
    return _settings


def transport() -> Transport:
    """Return the transport of the process, opened at the first call, after telling it the present rank."""
    global _transport, _link, _settings
    _settings = ranks.with_ranks(settings())
    if _transport is None:
        from feedwater.loop.link import open_transport

        _transport = _link = open_transport(_settings)
        if _is_prepared:
            # The link registers its own exit call, before which the last epoch must end.
            atexit.unregister(_end)
            atexit.register(_end)
    elif _link is not None:
        _link.identify(_settings)
    return _transport


def missing_feature() -> str:
    """Return why this process cannot be measured, without a full stop; empty if it can."""
    if not hasattr(os, "memfd_create") or not sys.platform.startswith("linux"):
        return f"{sys.platform} has no memfd"
    if getattr(sys, "frozen", False):
        return "the application is frozen"
    return ""


def prepare(at_exit: Callable[[], None], in_child: Callable[[], None]) -> None:
    """Register calls at exit and in forked children. A function that is registered already is not added.

    Args:
        at_exit: Called when the process exits, before the transport is closed.
        in_child: Called in each child that is forked, before it forgets the settings and the transport.
    """
    global _is_prepared
    if not _is_prepared:
        _is_prepared = True
        os.register_at_fork(after_in_child=_detach)
        atexit.register(_end)
    for calls, call in ((_at_exit, at_exit), (_in_child, in_child)):
        if call not in calls:
            calls.append(call)


def _detach() -> None:
    """Forget the parent's transport in a forked child, because the socket is shared, and what was logged."""
    global _settings, _transport, _link
    for call in _in_child:
        with guard.swallow("forgetting the parent's loaders"):
            call()
    _settings = _transport = _link = None
    with guard.swallow("forgetting what was logged"):
        log.forget_all()


def _end() -> None:
    for call in _at_exit:
        with guard.swallow("ending"):
            call()
    with guard.swallow("ending"):
        if _transport is not None:
            _transport.close()
