"""The relay and the real sidecar as processes: killed, frozen, restarted from its checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from feedwater.relay.channel import SidecarUnavailableError
from feedwater.status.follow import read_loaders


class Sidecar:
    """The real one, on a socket of its own."""

    def __init__(self, socket_path: str, state_dir: str, wait: Callable[..., object]) -> None:
        self.path = socket_path
        self.address = f"unix:{socket_path}"
        self._state_dir = state_dir
        self._wait = wait
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = {
            "FEEDWATER_SOCKET": self.path,
            "FEEDWATER_STATE_DIR": self._state_dir,
            "FEEDWATER_HTTP_PORT": "0",
            "FEEDWATER_HTTP_HOST": "127.0.0.1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "feedwater_service"],
            env=os.environ | settings,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._wait(self._answers)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it without a goodbye."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def epochs(self) -> dict[int, int]:
        """Batches by epoch, as it knows them."""
        return {
            epoch.summary.epoch: epoch.summary.batches
            for loader in read_loaders(self.address, 10)
            for epoch in loader.epochs
        }

    def _answers(self) -> bool:
        try:
            read_loaders(self.address, 1)
        except SidecarUnavailableError:
            return False
        return True


@pytest.fixture
def real(socket_path: str, tmp_path: Path, eventually: Callable[..., object]) -> Iterator[Sidecar]:
    """A real sidecar, started."""
    sidecar = Sidecar(socket_path, str(tmp_path / "state"), eventually)
    sidecar.start()
    yield sidecar
    sidecar.kill()


def test_killed_and_restarted_sidecar_knows_every_batch(real, new_loop, eventually):
    """Killed within every other epoch: all eight epochs, as many as it keeps, have their 30 batches."""
    loop = new_loop(real.address)
    loop.open()
    for epoch in range(8):
        loop.begin()
        for at in range(30):
            loop.batch()
            if at == 15 and epoch % 2:
                real.kill()
                real.start()
        loop.end()
        loop.ask()
    eventually(lambda: real.epochs() == dict.fromkeys(range(8), 30))


def test_epochs_while_the_sidecar_was_away_are_told_when_it_is_back(real, new_loop, eventually):
    """Three epochs without a sidecar cost no batch."""
    loop = new_loop(real.address)
    loop.open()
    loop.run_epoch(30)
    real.kill()
    for _ in range(3):
        assert not loop.run_epoch(30).connected
    real.start()
    eventually(lambda: real.epochs() == dict.fromkeys(range(4), 30))


def test_frozen_sidecar_is_waited_for_once_and_told_all_afterwards(real, new_loop, eventually):
    """SIGSTOP: the first boundary waits for its deadline; after SIGCONT nothing is missing."""
    loop = new_loop(real.address)
    loop.open()
    loop.run_epoch(30)
    real.signal(signal.SIGSTOP)
    try:
        for _ in range(3):
            loop.begin()
            for _ in range(30):
                loop.batch()
            loop.end()
            assert not loop.ask(0.3).connected
    finally:
        real.signal(signal.SIGCONT)
    eventually(lambda: real.epochs() == dict.fromkeys(range(4), 30))


def test_loader_counts_as_gone_when_its_trainer_has_ended(real, new_loop, eventually):
    """The last report says that the trainer ended: the sidecar shows it as not connected."""
    loop = new_loop(real.address)
    loop.open()
    loop.run_epoch(30)
    assert [loader.connected for loader in read_loaders(real.address, 10)] == [True]
    loop.transport.close()
    eventually(lambda: [loader.connected for loader in read_loaders(real.address, 10)] == [False])
