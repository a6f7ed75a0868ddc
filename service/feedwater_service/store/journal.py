"""What was accepted since the last checkpoint, appended as it came: a SIGKILL loses nothing.

A record is a header (kind, length, checksum, wall clock) and the bytes of the message. The page cache keeps
what was written when the process dies; only the node's death loses it, and that takes the pod along, so
nothing is synced.
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
"""Then a checkpoint is due: 16 ranks x 1,000 batches/s write this in 30 s, a usual rank in hours. Read back
in half a second."""


@dataclass(frozen=True, slots=True)
class Record:
    """One accepted message."""

    kind: int
    stamp: float
    """Seconds since 1970."""
    data: bytes


class Journal:
    """One file that is appended to."""

    def __init__(self, path: Path) -> None:
        """Make a new file, or empty an old one.

        Raises:
            OSError: It cannot be made.
        """
        self.path = path
        self.size = 0
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def append(self, record: Record) -> None:
        """Write a record.

        Raises:
            OSError: The disk is full; what was written of the record is taken back.
        """
        header = HEADER.pack(MAGIC, record.kind, len(record.data), crc32(record.data), record.stamp)
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


def read_journal(path: Path) -> Iterator[Record]:
    """Yield the records of a journal, up to the first that is torn or was changed."""
    data = memoryview(path.read_bytes())
    at = 0
    while at + HEADER.size <= len(data):
        magic, kind, length, checksum, stamp = HEADER.unpack_from(data, at)
        body = bytes(data[at + HEADER.size : at + HEADER.size + length])
        if magic != MAGIC or len(body) != length or crc32(body) != checksum:
            return
        yield Record(kind, stamp, body)
        at += HEADER.size + length
