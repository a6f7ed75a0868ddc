"""Which open files are a reason to refuse, on a recorded /proc."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from feedwater.loop.change import safety

RDONLY, WRONLY, RDWR = "0100000", "0100001", "02100002"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc with no open file."""
    root = tmp_path / "proc"
    for name in ("fd", "fdinfo"):
        (root / "self" / name).mkdir(parents=True)
    (root / "self" / "maps").write_text("")
    return root


def opened(proc: Path, fd: int, target: Path | str, flags: str) -> None:
    (proc / "self" / "fd" / str(fd)).symlink_to(target)
    (proc / "self" / "fdinfo" / str(fd)).write_text(f"pos:\t0\nflags:\t{flags}\nmnt_id:\t28\n")


def test_files_open_for_reading_are_found(proc: Path, tmp_path: Path) -> None:
    """Of three files, that for reading and that for both count; the log does not."""
    for number, (name, flags) in enumerate({"a": RDONLY, "b": RDWR, "log": WRONLY}.items(), 3):
        (tmp_path / name).write_text("")
        opened(proc, number, tmp_path / name, flags)
    assert [(f.fd, Path(f.path).name) for f in safety.open_files(proc)] == [(3, "a"), (4, "b")]


def test_standard_streams_devices_pipes_and_the_vanished_are_left_out(proc: Path, tmp_path: Path) -> None:
    """Stdin from a file, /dev/null, a pipe and a file closed meanwhile are no reason."""
    (tmp_path / "stdin").write_text("")
    opened(proc, 0, tmp_path / "stdin", RDONLY)
    opened(proc, 3, "/dev/null", RDONLY)
    opened(proc, 4, "pipe:[123]", RDONLY)
    opened(proc, 5, tmp_path / "gone", RDONLY)
    assert list(safety.open_files(proc)) == []


def test_a_mapped_file_is_read_without_its_offset(proc: Path, tmp_path: Path) -> None:
    """A file whose inode is in maps is left out."""
    path = tmp_path / "array.npy"
    path.write_bytes(bytes(10))
    opened(proc, 3, path, RDONLY)
    inode = os.stat(path).st_ino
    line = f"7f0000000000-7f0000001000 r--s 00000000 08:01 {inode}      {path}\n"
    (proc / "self" / "maps").write_text(line)
    assert list(safety.open_files(proc)) == []
