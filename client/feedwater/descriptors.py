"""A file descriptor that is ours as long as nobody closed it behind our back. Standard library only.

Scripts call ``os.closerange`` before they start a daemon or a sandbox. The numbers are then those of the next
files and sockets, and what is sent to or closed by the number alone is theirs.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A number, and what it stood for when it was opened."""

    fd: int
    device: int
    inode: int

    @classmethod
    def of(cls, fd: int) -> Descriptor:
        """Return the descriptor of what ``fd`` stands for now.

        Raises:
            OSError: It is not open.
        """
        status = os.fstat(fd)
        return cls(fd, status.st_dev, status.st_ino)

    def is_ours(self) -> bool:
        """Return whether the number still stands for the same, for 0.4 µs."""
        try:
            status = os.fstat(self.fd)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == (self.device, self.inode)

    def close(self) -> bool:
        """Close it if it is ours; return whether it was."""
        if not self.is_ours():
            return False
        with contextlib.suppress(OSError):
            os.close(self.fd)
        return True
