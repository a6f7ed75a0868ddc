"""What the page and a watch are shown, made at once; the sidecar makes the same parts between calls."""

from __future__ import annotations

from feedwater_service.rpc import wire
from feedwater_service.state.sessions import State


def watch_message(state: State, version: str = "0") -> bytes:
    """Return one message of a watch."""
    loaders = map(wire.write_loader_state, state.sessions.values())
    return b"".join([*loaders, wire.write_watch_end(version, state.clock())])
