"""What a fuzzer's bytes decide: choices, hostile values, whole protobuf messages.

After the last byte each choice is the first one: any bytes are a test case, and fewer make a simpler one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

T = TypeVar("T")
M = TypeVar("M", bound=Message)

COUNTS = (0, 1, 2, 4, 16, 100, 255, 4096, 4097, 1 << 15, 1 << 20, (1 << 31) - 1, (1 << 32) - 1)
LARGE_COUNTS = (*COUNTS, 1 << 40, 1 << 53, (1 << 53) + 1, (1 << 63) - 1, (1 << 64) - 1)
SIGNED = (0, 1, -1, 2, 7, 32767, 32768, -32768, -(1 << 31), (1 << 31) - 1)
REALS = (0.0, 1e-9, 1e-3, 0.01, 0.1, 1.0, 30.0, 300.0, 3600.0, 1e6, 1e7, 1e12, 5e-324, 1e308, -1.0)
NOT_FINITE = (float("nan"), float("inf"), -float("inf"), -0.0)
TEXTS = ("", "train", "job", "pod", "other", "a" * 200, "\x1b[2J", '"\\\n', "é\u202e\x00", "{x='1'}", "../..")
REPEATS = (0, 1, 2, 5, 40, 130)
"""Items of a repeated field."""

_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: SIGNED,
    FieldDescriptor.CPPTYPE_INT64: (*SIGNED, -(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: COUNTS,
    FieldDescriptor.CPPTYPE_UINT64: LARGE_COUNTS,
    FieldDescriptor.CPPTYPE_ENUM: (0, 1, 2, 3, 4, 5, 14, 99, -1),
}


class Draw:
    """Reads choices from bytes."""

    def __init__(self, data: bytes, texts: Sequence[str] = TEXTS) -> None:
        self._data = data
        self._at = 0
        self.texts = texts
        """What a text field holds: one of these."""

    def __bool__(self) -> bool:
        """Return whether bytes are left."""
        return self._at < len(self._data)

    def byte(self) -> int:
        """Return the next byte, 0 after the last."""
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def choose(self, options: Sequence[T]) -> T:
        """Return one of the options."""
        return options[self.byte() % len(options)]

    def take(self, count: int) -> bytes:
        """Return the next bytes as they are, at most ``count``."""
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken

    def place(self, length: int) -> int:
        """Return an index below ``length``."""
        return int.from_bytes(self.take(3), "little") % length

    def real(self) -> float:
        """Return a number, one time in 16 one that is not finite."""
        number = self.byte()
        if number % 16 == 15:
            return NOT_FINITE[number // 16 % len(NOT_FINITE)]
        return REALS[number % 16] * (1 + number // 16 / 8)

    def fill(self, message: M, depth: int = 0) -> M:
        """Give fields of a message values; most repeated numbers of one message have one length."""
        length = self.choose(REPEATS)
        for field in message.DESCRIPTOR.fields:
            kept = self.byte()
            # Deep messages are rare, so that one message does not take all bytes.
            if kept % 8 > 5 - depth:
                continue
            if field.is_repeated:
                self._fill_repeated(message, field, length if kept < 224 else self.choose(REPEATS), depth)
            elif field.message_type is not None:
                self.fill(getattr(message, field.name), depth + 1)
                getattr(message, field.name).SetInParent()
            else:
                setattr(message, field.name, self._scalar(field))
        return message

    def _fill_repeated(self, message: Message, field: FieldDescriptor, length: int, depth: int) -> None:
        items = getattr(message, field.name)
        if field.message_type is not None:
            for _ in range(min(length, 3)):
                self.fill(items.add(), depth + 1)
        elif length:
            # Two values in turn: more would take a byte for each.
            pair = (self._scalar(field), self._scalar(field))
            items.extend(pair[i % 2] for i in range(length))

    def _scalar(self, field: FieldDescriptor) -> object:
        if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
            return self.real()
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return bool(self.byte() % 2)
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            text = self.choose(self.texts)
            return text if field.type == FieldDescriptor.TYPE_STRING else text.encode()
        return self.choose(_INTEGERS[field.cpp_type])


def damaged(data: bytes, draw: Draw) -> bytes:
    """Return the data with some bytes changed, removed, repeated or put in."""
    changed = bytearray(data)
    for _ in range(draw.byte() % 8):
        at, kind = draw.place(len(changed) + 1), draw.byte() % 6
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << draw.byte() % 8
        elif kind == 1:
            del changed[at:]
        elif kind == 2:
            del changed[at : at + draw.byte()]
        elif kind == 3:
            changed[at:at] = changed[at : at + draw.byte()]
        elif kind == 4:
            changed[at:at] = draw.take(draw.byte() % 16)
        else:
            written = draw.take(draw.byte() % 16)
            changed[at : at + len(written)] = written
    return bytes(changed)
