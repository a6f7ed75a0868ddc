"""One live server per socket, one writer per state directory.

gRPC replaces whatever socket lies at its path: a second live server takes the path over and the first one
never learns of it. A lock beside the socket tells a stale one from one in use.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

from feedwater_service.errors import UnusableError

SOCKET_MODE = 0o666
"""Any user of the pod's containers may connect: the directory is visible to the pod alone, and 0660 would
lock out a trainer with another uid."""


class Lock:
    """An advisory lock that the kernel gives back however the process ends."""

    def __init__(self, path: Path, refusal: str) -> None:
        """Take the lock.

        Raises:
            UnusableError: Another process holds it, or the file cannot be made.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise UnusableError(f"{path}: cannot be made: {error.strerror}") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise UnusableError(refusal) from None

    def release(self) -> None:
        """Give the lock back.

        The file stays: removing it would let two processes lock two files of one name.
        """
        os.close(self._fd)


def take_socket(path: Path) -> Lock:
    """Make sure that ``path`` can be bound and that nobody else serves there.

    Returns:
        The lock to hold while serving.

    Raises:
        UnusableError: Another sidecar serves there, or something other than a socket lies there.
    """
    lock = Lock(path.with_name(path.name + ".lock"), f"{path}: another sidecar serves on this socket")
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return lock
    if not stat.S_ISSOCK(mode):
        lock.release()
        raise UnusableError(f"{path}: a file that is no socket lies there; remove it or choose another path")
    path.unlink()
    return lock


def open_to_the_pod(path: Path) -> None:
    """Let every user of the pod connect: a socket is made with the umask applied."""
    path.chmod(SOCKET_MODE)
