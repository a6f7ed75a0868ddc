"""The relay's end of the socket to the training process: packets in, answers out (`feedwater.packets`)."""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from feedwater import packets
from feedwater.values import Answer, LoaderDescription, Mode, settings_from_json

MAX_FDS = 4


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet from the training process."""

    op: str
    """One of the names in `feedwater.packets`."""
    values: dict[str, object]
    ring_fd: int | None = None
    """The descriptor of a loader's ring, which the receiver closes."""

    def integer(self, name: str, default: int = 0) -> int:
        """Return an integer, or the default if it is missing or no number."""
        value = self.values.get(name, default)
        return int(value) if isinstance(value, (int, float)) else default

    def number(self, name: str, default: float = 0.0) -> float:
        """Return a number, or the default if it is missing or no number."""
        value = self.values.get(name, default)
        return float(value) if isinstance(value, (int, float)) else default

    def text(self, name: str) -> str:
        """Return a string, empty if it is missing."""
        value = self.values.get(name, "")
        return value if isinstance(value, str) else ""

    def integers(self, name: str) -> list[int]:
        """Return a list of integers, empty if it is missing."""
        value = self.values.get(name, [])
        return [int(item) for item in value if isinstance(item, int)] if isinstance(value, list) else []

    def mapping(self, name: str) -> dict[str, object]:
        """Return a JSON object, empty if it is missing."""
        value = self.values.get(name, {})
        return value if isinstance(value, dict) else {}


class ControlSocket:
    """Receives packets from the trainer and sends answers to it."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self.is_open = True
        """False once the trainer has closed its end."""

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._end.fileno()

    def packets(self) -> Iterator[Packet]:
        """Yield the packets that have arrived."""
        while self.is_open:
            try:
                data, fds = _receive(self._end)
            except BlockingIOError:
                return
            except OSError:
                self.is_open = False
                return
            if not data:
                self.is_open = False
                return
            packet = _packet(data, fds)
            if packet is not None:
                yield packet

    def answer(self, request: int, answer: Answer) -> None:
        """Reply to question number ``request``; a trainer that has closed its end does not get it."""
        reply = {"op": packets.ANSWER, "id": request, "answer": asdict(answer)}
        if len(json.dumps(reply)) > packets.PACKET_BYTES:
            # The trainer would read the first part alone, and wait for another answer.
            reply["answer"] = asdict(
                replace(answer, recommendation=None, reason="The sidecar's answer is too large.")
            )
        self._send(reply)

    def _send(self, value: dict[str, object]) -> None:
        with contextlib.suppress(OSError):
            self._end.send(json.dumps(value).encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def close(self) -> None:
        """Close this end, which the trainer waits for while the last timings are sent."""
        self._end.close()
        self.is_open = False


def description(values: dict[str, object]) -> LoaderDescription:
    """Return the loader's description in the JSON object that `dataclasses.asdict` made.

    Raises:
        TypeError: A field is missing.
        ValueError: The mode is unknown.
    """
    fields = {name: value for name, value in values.items() if name in LoaderDescription.__dataclass_fields__}
    settings = fields.pop("settings")
    mode = fields.pop("mode")
    if not isinstance(settings, dict):
        raise TypeError(f"settings: expected an object, got {settings!r:.80}")
    return LoaderDescription(settings=settings_from_json(settings), mode=Mode(mode), **fields)  # type: ignore[arg-type]


def _receive(end: socket.socket) -> tuple[bytes, list[int]]:
    size = array.array("i").itemsize
    data, ancillary, _, _ = end.recvmsg(
        packets.PACKET_BYTES, socket.CMSG_SPACE(MAX_FDS * size), socket.MSG_CMSG_CLOEXEC
    )
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % size])
    return data, list(fds)


def _packet(data: bytes, fds: list[int]) -> Packet | None:
    for surplus in fds[1:]:
        os.close(surplus)
    ring_fd = fds[0] if fds else None
    try:
        values = json.loads(data)
        return Packet(str(values["op"]), values, ring_fd)
    except (ValueError, KeyError, TypeError):
        if ring_fd is not None:
            os.close(ring_fd)
        return None
