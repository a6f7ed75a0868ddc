"""The messages that were accepted since the last checkpoint, in order: a SIGKILL loses none of them.

A record is a header (kind, length, checksum, wall clock) and the bytes of the message. Data in the page cache
survives the process; it is lost only when the node fails, and the pod is lost with it. So nothing is synced.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

HEADER = struct.Struct("<4sBxxxIId")
MAGIC = b"FWJ1"
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
        header = HEADER.pack(MAGIC, record.kind, len(record.data), crc32(record.data), record.time_seconds)
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
    while offset + HEADER.size <= len(data):
        magic, kind, length, checksum, time_seconds = HEADER.unpack_from(data, offset)
        body = bytes(data[offset + HEADER.size : offset + HEADER.size + length])
        if magic != MAGIC or len(body) != length or crc32(body) != checksum:
            return
        yield JournalRecord(kind, time_seconds, body)
        offset += HEADER.size + length
