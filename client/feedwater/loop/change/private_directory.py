"""Files in a directory that nobody but this user can write, below one that others may be able to write.

The volume of the sidecar's socket is writable by each container of the pod. What another user put there is
never followed, opened or waited for; what lies in a directory of another user's is not looked at.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
MAX_BYTES = 4096
"""Largest file that is read; a record has some 400 bytes."""


class PrivateDirectory:
    """An open directory: a path could be another directory by the next call."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self.path = path

    def names(self, prefix: str) -> list[str]:
        """Return the names that begin with ``prefix``, sorted."""
        return sorted(name for name in os.listdir(self._fd) if name.startswith(prefix))

    def read(self, name: str) -> str:
        """Return the text of a regular file of this user's.

        Raises:
            OSError: There is none of that name, or it is a link, a FIFO, too large or another user's.
            ValueError: It is not UTF-8.
        """
        # O_NONBLOCK: opening a FIFO would otherwise wait for its writer for ever.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=self._fd)
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                raise PermissionError(f"{self.path / name} is no regular file of this user's")
            if status.st_size > MAX_BYTES:
                raise OSError(f"{self.path / name} has {status.st_size} bytes, at most {MAX_BYTES} are read")
            return file.read(MAX_BYTES).decode()

    def write(self, name: str, text: str) -> None:
        """Write a file, safe on storage when this returns, in the place of one that is there.

        Raises:
            OSError: It cannot be written.
        """
        # As mkstemp does, but below an open directory: a random name, made here or not at all.
        aside = f".{name}-{os.urandom(8).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(aside, flags, 0o600, dir_fd=self._fd), "w") as file:
            try:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                os.replace(aside, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            except BaseException:
                self.remove(aside)
                raise
        os.fsync(self._fd)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self._fd)


@contextmanager
def opened(
    parent: Path, *, is_configured: bool, is_made: bool = False, for_writing: bool = False
) -> Iterator[PrivateDirectory]:
    """Open ``parent``, or where others can write it ``feedwater-<uid>`` in it.

    Args:
        parent: The directory above, or the private one itself.
        is_configured: The user or the pod names ``parent``: it may be a link, and is made with what is above.
        is_made: ``parent`` is made if it is not there.
        for_writing: The directory in it is made if it is not there.

    Raises:
        OSError: The private one is a link, another user's, or writable by others; or there is none.
    """
    if is_made:
        parent.mkdir(mode=0o700, parents=is_configured, exist_ok=True)
    path = parent.resolve() if is_configured else parent
    if not _is_private(os.stat(path)):
        path = path / f"feedwater-{os.geteuid()}"
        if for_writing:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not _is_private(os.fstat(fd)):
            raise PermissionError(f"{path} is another user's, or others can write it")
        yield PrivateDirectory(fd, path)
    finally:
        os.close(fd)


def _is_private(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & WRITABLE_BY_OTHERS
