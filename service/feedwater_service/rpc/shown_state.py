"""The state as readers are shown it: a message of a watch, and the same as JSON."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from hashlib import blake2b

from feedwater_service.rendering import Rendering
from feedwater_service.rpc import wire
from feedwater_service.state.sessions import State


@dataclass(frozen=True, slots=True)
class StateJson:
    """The state as JSON, with its entity tag."""

    body: bytes
    tag: str


class ShownState:
    """Renderings of one state."""

    def __init__(self, state: State, version: str) -> None:
        self._state = state
        self._version = version
        self._key = secrets.token_bytes(16)
        self.message = Rendering(self._make_message)
        self.json = Rendering(self._make_json)

    async def _make_message(self) -> bytes:
        """Return the message, made loader by loader: calls are answered between them."""
        parts = []
        for session in list(self._state.sessions.values()):
            parts.append(wire.write_loader_state(session))
            await asyncio.sleep(0)
        return b"".join([*parts, wire.write_watch_end(self._version, self._state.clock())])

    async def _make_json(self) -> StateJson:
        message = await self.message.get()
        return await asyncio.to_thread(self._json_of, message)

    def _json_of(self, message: bytes) -> StateJson:
        body = wire.write_state_json(message, self._key)
        return StateJson(body, f'"{blake2b(body, digest_size=8).hexdigest()}"')
