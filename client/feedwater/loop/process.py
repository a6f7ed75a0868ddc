"""What there is once per process: settings, the transport, and what happens at a fork and at the end."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from feedwater.loop import log, ranks
from feedwater.settings import Settings, read_settings
from feedwater.values import Transport

if TYPE_CHECKING:
    from feedwater.loop.link import RelayTransport

_settings: Settings | None = None
_transport: Transport | None = None
_link: RelayTransport | None = None
"""The same, where it is no test's."""
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
    """Return the process's transport, opened at the first call; it is told of the rank as it is known now."""
    global _transport, _link, _settings
    _settings = ranks.identified(settings())
    if _transport is None:
        from feedwater.loop.link import open_transport

        _transport = _link = open_transport(_settings)
        if _is_prepared:
            # The link closes at exit too; the last epoch must be ended before that.
            atexit.unregister(_end)
            atexit.register(_end)
    elif _link is not None:
        _link.identify(_settings)
    return _transport


def lacks() -> str:
    """Return what this system lacks for measuring; empty if nothing."""
    if not hasattr(os, "memfd_create") or not sys.platform.startswith("linux"):
        return f"{sys.platform} has no memfd"
    if getattr(sys, "frozen", False):
        return "the application is frozen"
    return ""


def prepare(at_exit: Callable[[], None], in_child: Callable[[], None]) -> None:
    """Have both called in time; the same functions a second time change nothing.

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
    """Let go of the parent's transport, which is a shared socket, and of all that it logged."""
    global _settings, _transport, _link
    for call in _in_child:
        call()
    log.forget_all()
    _settings = _transport = _link = None


def _end() -> None:
    for call in _at_exit:
        try:
            call()
        except Exception:
            log.log_swallowed("ending")
    if _transport is not None:
        _transport.close()
