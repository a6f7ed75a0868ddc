"""Scripts close descriptors that are not theirs; Feedwater then leaves alone what gets the numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from feedwater.descriptors import Descriptor
from tests.support.processes import root_environment

SCRIPT = """
import atexit, gc, os, socket, sys

pairs = []

def check():
    lost = [end for pair in pairs for end, inode in pair if os.fstat(end.fileno()).st_ino != inode]
    written = []
    for pair in pairs:
        for end, _ in pair:
            end.setblocking(False)
            try:
                written.append(end.recv(1 << 16))
            except BlockingIOError:
                pass
    print("lost", lost, "written", written, flush=True)
    for pair in pairs:
        for end, _ in pair:
            end.close()

def check_safely():
    try:
        check()
    except OSError as error:
        print("lost", error, flush=True)

atexit.register(check_safely)

import torch
from torch.utils.data import DataLoader
import feedwater
from tests.integration.loop.loop_datasets import Numbers

loader = feedwater.watch(DataLoader(Numbers(), batch_size=4, num_workers=WORKERS), name="t")
other = feedwater.watch(DataLoader(Numbers(), batch_size=4), name="other")
expected = [batch.tolist() for batch in loader]
list(other)
os.closerange(3, 256)
for _ in range(40):
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pairs.append([(end, os.fstat(end.fileno()).st_ino) for end in ends])
for _ in range(3):
    assert [batch.tolist() for batch in loader] == expected
del other
gc.collect()
assert [batch.tolist() for batch in loader] == expected
del loader
gc.collect()
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_closed_descriptors_are_not_used_again(workers: int, tmp_path: Path) -> None:
    """After ``os.closerange`` the script's 80 sockets stay open, and nothing is written to them."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT.replace("WORKERS", str(workers))],
        env=root_environment()
        | {"FEEDWATER_RUN_DIR": str(tmp_path), "FEEDWATER_ADDRESS": f"unix:{tmp_path}/api.sock"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (0, "lost [] written []\n"), done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_reused_number_is_not_ours() -> None:
    """The number alone does not tell: another file under it is neither sent to nor closed."""
    read, write = os.pipe()
    ours = Descriptor.of(read)
    assert ours.is_ours()
    os.close(read)
    assert not ours.is_ours()
    others = os.pipe()
    os.dup2(others[0], read)
    assert not ours.is_ours()
    assert not ours.close()
    for fd in {read, write, *others}:
        os.close(fd)
