"""Files of a directory that others may write to: regular files of our own, opened without waiting.

Another container of the pod can share the volume. A FIFO would hold an open for ever, a link would lead out
of the directory, and a file of another user's is nothing that a sidecar wrote.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import BinaryIO


class NotOursError(OSError):
    """The file is no regular file of this user's, or larger than a sidecar writes."""


def open_ours(path: Path, most_bytes: int) -> BinaryIO:
    """Open a regular file of our own for reading.

    Raises:
        FileNotFoundError: There is none.
        NotOursError: It is a link, a FIFO or a directory, another user's, or larger than ``most_bytes``.
        OSError: It cannot be opened.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise NotOursError(error.errno, error.strerror) from None
    found = os.fstat(fd)
    problem = (
        "is not a regular file"
        if not stat.S_ISREG(found.st_mode)
        else f"belongs to user {found.st_uid}"
        if found.st_uid != os.geteuid()
        else f"has {found.st_size} bytes, at most {most_bytes} are read"
        if found.st_size > most_bytes
        else ""
    )
    if problem:
        os.close(fd)
        raise NotOursError(0, problem)
    return os.fdopen(fd, "rb")


def create(path: Path) -> int:
    """Return the descriptor of a new file; what has its name is moved aside.

    Raises:
        OSError: It cannot be made.
    """
    if os.path.lexists(path):
        move_aside(path)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def move_aside(path: Path) -> None:
    """Give whatever has this name the name with ``.broken`` appended.

    Raises:
        OSError: It cannot be moved.
    """
    aside = path.with_name(path.name + ".broken")
    if aside.is_dir() and not aside.is_symlink():
        # A directory takes no file's place.
        aside = path.with_name(f"{path.name}.{os.urandom(4).hex()}.broken")
    path.rename(aside)


def keep_aside(path: Path, name: str) -> None:
    """Keep a file that is read further under another name as well, if that can be done.

    What had that name is deleted: of files that are damaged time and again the newest takes space.
    """
    aside = path.with_name(name)
    with contextlib.suppress(OSError):
        aside.unlink(missing_ok=True)
        os.link(path, aside, follow_symlinks=False)
