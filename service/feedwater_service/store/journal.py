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
        """Make a new file, or truncate an old one.

        Raises:
            OSError: The file cannot be made.
        """
        self.path = path
        self.size = 0
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

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


def read_journal(path: Path) -> Iterator[JournalRecord]:
    """Yield the records of a journal, up to the first that is incomplete or corrupted."""
    data = memoryview(path.read_bytes())
    offset = 0
    while (found := _record_at(data, offset)) is not None:
        record, offset = found
        yield record


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
    if magic != MAGIC or len(body) != length or crc32(body, crc32(header)) != checksum:
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
