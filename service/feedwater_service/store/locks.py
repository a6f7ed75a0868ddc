"""One live server per socket, one writer per state directory.

gRPC replaces any socket at its path: a second server would take over the path of a running one, which would
not notice. A lock file beside the socket tells a stale socket from one in use.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

from feedwater_service.errors import UnusableError
from feedwater_service.store.files import move_aside

SOCKET_MODE = 0o666
"""Any user in the pod's containers may connect: only the pod sees the directory, and 0660 would exclude a
trainer with another uid."""


class Lock:
    """An advisory lock, which the kernel releases however the process ends."""

    def __init__(self, path: Path, refusal: str) -> None:
        """Take the lock.

        Raises:
            UnusableError: Another process holds the lock, or the file cannot be made.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = _open_lock(path)
        except OSError as error:
            raise UnusableError(f"{path}: cannot be made: {error.strerror}") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise UnusableError(refusal) from None

    def release(self) -> None:
        """Release the lock.

        The file stays: after a removal two processes could lock two files of the same name.
        """
        os.close(self._fd)


def _open_lock(path: Path) -> int:
    """Return a descriptor of a lock file; what no sidecar has made is moved aside.

    Raises:
        OSError: It cannot be made.
    """
    flags = os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        # A FIFO, a link or a directory: no sidecar makes any of them.
        move_aside(path)
    try:
        return os.open(path, os.O_RDWR | flags, 0o644)
    except PermissionError:
        if not path.lstat().st_mode & stat.S_IROTH:
            # Another user's, who kept it from us: a sidecar's can be read.
            move_aside(path)
            return os.open(path, os.O_RDWR | flags, 0o644)
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)


def take_socket(path: Path) -> Lock:
    """Make sure that ``path`` can be bound and that no other process serves there.

    Returns:
        The lock to hold while serving.

    Raises:
        UnusableError: Another sidecar serves there, or the path is a file that is not a socket.
    """
    lock = Lock(path.with_name(path.name + ".lock"), f"{path}: another sidecar serves on this socket")
    try:
        remove_socket(path)
    except UnusableError:
        lock.release()
        raise
    return lock


def remove_socket(path: Path) -> None:
    """Remove a socket's file, if there is one.

    Raises:
        UnusableError: The path is a file that is not a socket.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise UnusableError(f"{path}: exists and is not a socket; remove it or choose another path")
    path.unlink(missing_ok=True)


def open_to_the_pod(path: Path) -> None:
    """Let every user in the pod connect: the umask was applied when the socket was made."""
    path.chmod(SOCKET_MODE)
