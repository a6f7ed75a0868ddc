"""A state directory that two users can write to: another user's files do not stop the sidecar."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from feedwater_service.rpc.calls import restore
from feedwater_service.state.sessions import State
from feedwater_service.store.checkpoint import StateStore
from feedwater_service.store.locks import Lock

SIDECAR, STRANGER = 65532, 1234
NAMES = ("state.json", "state.json.new", "journal-000001.bin", "journal-000002.bin", "lock")


def _as_user(user: int, action: Callable[[], object]) -> int:
    """Run an action in a process of another user; return its exit code."""

    def run() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
        try:
            action()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    # Not spawn: the interpreter need not be readable by the other user.
    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(20)
    if process.is_alive():
        process.kill()
        return -1
    return process.exitcode if process.exitcode is not None else -1


def _plant(directory: Path, what: str) -> None:
    for name in NAMES:
        path = directory / name
        if what == "fifo":
            os.mkfifo(path)
        elif what == "link":
            path.symlink_to(directory.parent / "victim")
        else:
            path.write_bytes(b"planted")
            path.chmod(0o600 if what == "private" else 0o644)


def _serve(directory: Path) -> None:
    lock = Lock(directory / "lock", "another sidecar")
    state, store = State(), StateStore(directory)
    restore(state, store)
    assert store.checkpoint(state)
    assert store.failures == 0
    assert (directory / "state.json").lstat().st_uid == os.geteuid()
    store.close()
    lock.release()


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that other users can reach: pytest's own are for one user alone."""
    with tempfile.TemporaryDirectory(prefix="fw-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize("what", ["fifo", "link", "private", "readable"])
def test_files_of_another_user_do_not_keep_the_sidecar_from_starting(shared: Path, what: str) -> None:
    """With all its names taken by another user the sidecar locks, restores, writes, and follows no link."""
    directory, victim = shared / "state", shared / "victim"
    directory.mkdir()
    directory.chmod(0o777)
    victim.write_text("not ours")
    victim.chmod(0o666)
    assert _as_user(STRANGER, lambda: _plant(directory, what)) == 0
    assert _as_user(SIDECAR, lambda: _serve(directory)) == 0
    assert victim.read_text() == "not ours"
