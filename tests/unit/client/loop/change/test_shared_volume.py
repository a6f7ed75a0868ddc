"""The record of a change in a volume that another user can write: two real users, one on each side."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from feedwater.loop.change import private_directory, probation
from feedwater.settings import Settings
from feedwater.values import LoaderSettings

TRAINER, OTHER = 12001, 65532
BEFORE, AFTER = LoaderSettings(1, 2), LoaderSettings(4, 2)
PLANTED = {
    "before": {"num_workers": "\x1b[31m1"},
    "after": {"num_workers": "\x1b]0;owned\x07"},
    "written": time.time(),
}

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="root drops to two users")


@pytest.fixture
def volume() -> Iterator[Path]:
    """A directory as an emptyDir is: writable by all, without the sticky bit."""
    # pytest's own directory is closed to other users.
    directory = Path(tempfile.mkdtemp(prefix="feedwater-volume-"))
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


def as_user(uid: int, act: Callable[[], object]) -> object:
    """Return what ``act`` returns in a forked process of another user; its errors fail the test."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(10)  # A FIFO that is waited for ends the child.
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            text = json.dumps({"value": act()})
        except BaseException:
            text = json.dumps({"error": traceback.format_exc()})
        os.write(write, text.encode())
        os._exit(0)
    os.close(write)
    with open(read) as pipe:
        reply = json.loads(pipe.read() or '{"error": "hangs"}')
    os.waitpid(pid, 0)
    assert "error" not in reply, reply["error"]
    return reply["value"]


def trainer(volume: Path) -> Settings:
    return Settings(address=f"unix:{volume}/api.sock", job="job")


def outcome(volume: Path) -> object:
    """Write and read a record as the trainer does; return where it is, and which count it holds."""
    tempfile.tempdir = str(volume / "absent")  # No other directory is possible.
    settings = trainer(volume)
    found = probation.read(settings, "train")
    if found is not None:
        return f"read {found.after.num_workers}"
    try:
        path = probation.write(settings, "train", BEFORE, AFTER).path
    except OSError:
        return "none"
    found = probation.read(settings, "train")
    return str(path.relative_to(volume)) if found is not None and found.after == AFTER else "lost"


def name() -> str:
    return f"{probation._file_stem(Settings(job='job'), 'train')}.json"


def plant_fifo(place: Path, checkpoint: Path) -> None:
    os.mkfifo(place)


def plant_link(place: Path, checkpoint: Path) -> None:
    place.symlink_to(checkpoint)


def plant_sparse_file(place: Path, checkpoint: Path) -> None:
    with open(place, "wb") as file:
        file.truncate(2 << 30)


def plant_record(place: Path, checkpoint: Path) -> None:
    place.write_text(json.dumps(PLANTED))


Plant = Callable[[Path, Path], None]
PLANTS: list[Plant] = [plant_fifo, plant_link, plant_sparse_file, plant_record]


@needs_root
@pytest.mark.parametrize("plant", PLANTS)
def test_what_another_user_plants_in_the_volume_is_not_touched(plant: Plant, volume: Path) -> None:
    """At the record's name and at a draft's, as it once was: the record goes to the trainer's directory."""
    checkpoint = volume.parent / f"{volume.name}.checkpoint"
    checkpoint.write_bytes(b"x" * 8000)
    os.chown(checkpoint, TRAINER, TRAINER)

    def attack() -> None:
        plant(volume / name(), checkpoint)
        for pid in range(os.getpid(), os.getpid() + 50):  # The next pids: one is the trainer's.
            plant(volume / f"{name()[:-5]}.{pid}.tmp", checkpoint)

    try:
        as_user(OTHER, attack)
        assert as_user(TRAINER, lambda: outcome(volume)) == f"feedwater-{TRAINER}/{name()}"
        assert checkpoint.read_bytes() == b"x" * 8000
        own = volume / f"feedwater-{TRAINER}"
        assert stat.S_IMODE(own.stat().st_mode) == 0o700
        assert [path.name for path in own.iterdir()] == [name()]
    finally:
        checkpoint.unlink()


@needs_root
@pytest.mark.parametrize("plant", PLANTS)
def test_a_directory_of_another_users_is_refused(plant: Plant, volume: Path) -> None:
    """Where another one made the trainer's directory first, nothing in it is opened or changed."""

    def attack() -> None:
        own = volume / f"feedwater-{TRAINER}"
        own.mkdir(mode=0o777)
        own.chmod(0o777)
        plant(own / name(), volume / "checkpoint")

    as_user(OTHER, attack)
    assert as_user(TRAINER, lambda: outcome(volume)) == "none"


@needs_root
@pytest.mark.parametrize("plant", PLANTS)
def test_what_stands_in_the_place_of_the_directory_is_refused(plant: Plant, volume: Path) -> None:
    """A FIFO, a link or a file at the directory's name is not followed and not waited for."""
    checkpoint = volume / "checkpoint"
    checkpoint.mkdir()
    os.chown(checkpoint, TRAINER, TRAINER)
    as_user(OTHER, lambda: plant(volume / f"feedwater-{TRAINER}", checkpoint))
    assert as_user(TRAINER, lambda: outcome(volume)) == "none"
    assert list(checkpoint.iterdir()) == []


@needs_root
def test_another_user_cannot_plant_in_the_trainers_directory(volume: Path) -> None:
    """Once it is there it is closed, and the record in it is read by the next process of the trainer's."""
    as_user(TRAINER, lambda: outcome(volume))

    def attack() -> str:
        try:
            plant_record(volume / f"feedwater-{TRAINER}" / name(), volume)
        except PermissionError:
            return "closed"
        return "open"

    assert as_user(OTHER, attack) == "closed"
    assert as_user(TRAINER, lambda: outcome(volume)) == "read 4"


@pytest.mark.parametrize("plant", PLANTS)
def test_what_is_no_record_of_ours_is_not_read(plant: Plant, tmp_path: Path) -> None:
    """In a directory of one's own too a FIFO, a link, 2 GiB and text in the place of counts are no record."""
    tmp_path.chmod(0o700)
    settings = Settings(run_dir=str(tmp_path), job="job")
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text(probation.write(settings, "train", BEFORE, AFTER).path.read_text())
    (tmp_path / name()).unlink()
    plant(tmp_path / name(), elsewhere)
    assert probation.read(settings, "train") is None


@needs_root
def test_file_of_another_users_is_not_read(tmp_path: Path) -> None:
    """A record that belongs to another user is none."""
    tmp_path.chmod(0o700)
    settings = Settings(run_dir=str(tmp_path), job="job")
    path = probation.write(settings, "train", BEFORE, AFTER).path
    assert probation.read(settings, "train") is not None
    os.chown(path, OTHER, OTHER)
    assert probation.read(settings, "train") is None


def test_long_name_of_a_loader_fits_into_its_record(tmp_path: Path) -> None:
    """A name of 10,000 characters leaves a record that is read."""
    settings = Settings(run_dir=str(tmp_path), job="job")
    path = probation.write(settings, "x" * 10_000, BEFORE, AFTER).path
    assert path.stat().st_size < private_directory.MAX_BYTES
    assert probation.read(settings, "x" * 10_000) is not None
