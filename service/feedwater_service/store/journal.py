"""The messages that were accepted since the last checkpoint, in order: a SIGKILL loses none of them.

A record is a header (kind, length, wall clock, boot clock, checksum) and the bytes of the message. Data in
the page cache survives the process; it is lost only when the node fails, and the pod is lost with it. So
nothing is synced.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from feedwater_service.store.files import create, open_ours

HEADER = struct.Struct("<4sBxxxIdd")
CHECKSUM = struct.Struct("<I")
"""Of header and message, between the two."""
MAGIC = b"FWJ2"
OLDER_HEADER = struct.Struct("<4sBxxxIId")
OLDER_MAGIC = b"FWJ1"
"""Of records without a boot clock, whose checksum covers the message alone. They are read, not written."""
MAX_JOURNAL_BYTES = 16 << 20
"""Size at which a checkpoint is due: 16 ranks at 1,000 batches/s write it in 30 s, a usual rank in hours. It
is read back in half a second."""
FULL_JOURNAL_BYTES = 20 << 20
"""Size above which nothing more is appended until the next checkpoint, which is then due at once: two
journals and two checkpoints of 256 loaders fit the manifests' volume of 64Mi."""
MAX_RECORD_BYTES = 5 << 20
"""A message has 4 MiB at most."""
MAX_DAMAGES = 64
"""Damaged places after which the rest of a journal is ignored, and places tried for the next record after
each: a hostile file of nothing but beginnings of records would else take hours to read."""
MAX_READ_BYTES = 64 << 20
"""More than this no sidecar writes into one journal: the manifests' volume holds no more."""


@dataclass(frozen=True, slots=True)
class JournalRecord:
    """One accepted message."""

    kind: int
    time_seconds: float
    """Seconds since 1970."""
    data: bytes
    boot_seconds: float = math.inf
    """CLOCK_BOOTTIME; infinite in a journal of an older version, so that no time has passed since."""


class Journal:
    """One file that is appended to."""

    def __init__(self, path: Path) -> None:
        """Make a new file; what has its name is moved aside.

        Raises:
            OSError: The file cannot be made.
        """
        self.path = path
        self.size = 0
        self._fd = create(path)

    def append(self, record: JournalRecord) -> None:
        """Write a record.

        Raises:
            OSError: The disk is full; a part of the record that was written is removed again.
        """
        header = HEADER.pack(MAGIC, record.kind, len(record.data), record.time_seconds, record.boot_seconds)
        header += CHECKSUM.pack(crc32(record.data, crc32(header)))
        length = len(header) + len(record.data)
        try:
            written = os.writev(self._fd, (header, record.data))
            if written != length:
                raise OSError(28, "No space left on device")
        except OSError:
            os.ftruncate(self._fd, self.size)
            os.lseek(self._fd, self.size, os.SEEK_SET)
            raise
        self.size += length

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes of a journal that are no record."""

    offset: int
    length: int


def read_journal(path: Path) -> Iterator[JournalRecord]:
    """Yield the whole records of a journal.

    Raises:
        OSError: It cannot be read, or is no regular file of our own.
    """
    return (part for part in read_parts(path) if isinstance(part, JournalRecord))


def read_parts(path: Path) -> Iterator[JournalRecord | Damage]:
    """Yield the records of a journal, and what lies between them and is damaged.

    Raises:
        OSError: It cannot be read, or is no regular file of our own.
    """
    with open_ours(path, MAX_READ_BYTES) as file:
        data = file.read(MAX_READ_BYTES)
    return _parts(data)


def _parts(data: bytes) -> Iterator[JournalRecord | Damage]:
    view, offset, damages = memoryview(data), 0, 0
    while offset < len(data):
        found = _record_at(view, offset)
        if found is not None:
            record, offset = found
            yield record
            continue
        damages += 1
        begin, offset = offset, _next_record(data, offset) if damages <= MAX_DAMAGES else len(data)
        yield Damage(begin, offset - begin)


def _next_record(data: bytes, damaged: int) -> int:
    """Return where the next whole record begins after damage; the end where there is none."""
    view, offset = memoryview(data), damaged
    for _ in range(MAX_DAMAGES):
        offset = _next_magic(data, offset + 1)
        if offset == len(data) or _record_at(view, offset) is not None:
            return offset
    return len(data)


def _next_magic(data: bytes, begin: int) -> int:
    found = [at for magic in (MAGIC, OLDER_MAGIC) if (at := data.find(magic, begin)) >= 0]
    return min(found, default=len(data))


def _record_at(data: memoryview, offset: int) -> tuple[JournalRecord, int] | None:
    """Return the record at an offset, and where it ends; None where there is no whole one."""
    if bytes(data[offset : offset + 4]) == OLDER_MAGIC:
        return _older_record_at(data, offset)
    begin = offset + HEADER.size + CHECKSUM.size
    if begin > len(data):
        return None
    header = data[offset : offset + HEADER.size]
    magic, kind, length, time_seconds, boot_seconds = HEADER.unpack(header)
    (checksum,) = CHECKSUM.unpack_from(data, offset + HEADER.size)
    body = bytes(data[begin : begin + length])
    if (
        magic != MAGIC
        or length > MAX_RECORD_BYTES
        or len(body) != length
        or crc32(body, crc32(header)) != checksum
    ):
        return None
    return JournalRecord(kind, time_seconds, body, boot_seconds), begin + length


def _older_record_at(data: memoryview, offset: int) -> tuple[JournalRecord, int] | None:
    begin = offset + OLDER_HEADER.size
    if begin > len(data):
        return None
    _, kind, length, checksum, time_seconds = OLDER_HEADER.unpack_from(data, offset)
    body = bytes(data[begin : begin + length])
    if len(body) != length or crc32(body) != checksum:
        return None
    return JournalRecord(kind, time_seconds, body), begin + length
