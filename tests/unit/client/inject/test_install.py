"""``feedwater install-client``: whole or not there at all, and once only."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from feedwater.inject import bundled_runtime, install
from feedwater.inject.install import PARTS, STAMP, UNFINISHED


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A client that was put together from this Python, under a umask that lets nobody else read."""
    directory = tmp_path_factory.mktemp("client")
    before = os.umask(0o077)
    try:
        assert install.install(directory)
    finally:
        os.umask(before)
    return directory


def test_client_is_a_site_and_a_relay(made: Path) -> None:
    """The site holds two modules and their byte code, no sweep; nothing else is in the directory."""
    assert sorted(path.name for path in made.iterdir()) == ["relay", "site"]
    assert {path.name for path in (made / "site").iterdir()} == {
        "__pycache__",
        "feedwater",
        "feedwater-client",
        "sitecustomize.py",
    }
    assert (made / "site/feedwater/loop/link.py").exists()
    assert not (made / "site/feedwater/sweep").exists()


def test_relay_python_takes_nothing_from_elsewhere(made: Path) -> None:
    """gRPC, protobuf and ctypes come from the directory; so does every shared library that is loaded."""
    code = "import grpc, google.protobuf, ctypes, encodings.idna; print(open('/proc/self/maps').read())"
    relay = str(made / "relay")
    said = subprocess.run(
        [*bundled_runtime.python_command(relay), "-I", "-S", "-c", code],
        env=bundled_runtime.environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    files = {line.split(maxsplit=5)[5] for line in said.splitlines() if " /" in line}
    assert len(files) > 10
    assert {file for file in files if not file.startswith(f"{relay}/")} == set()


def test_everybody_may_read_it(made: Path) -> None:
    """The trainer's uid is another one, whatever umask the installing process had."""
    for path in made.rglob("*"):
        assert path.stat().st_mode & 0o044 == 0o044, path
    assert (made / "relay/ld.so").stat().st_mode & 0o001


def test_second_install_leaves_it_alone(made: Path) -> None:
    """The init container runs again when a pod's sandbox is made anew: trainers may be running by then."""
    before = [(made / part).stat().st_ino for part in PARTS]
    assert not install.install(made)
    assert [(made / part).stat().st_ino for part in PARTS] == before


def test_prepared_client_is_copied(made: Path, tmp_path: Path) -> None:
    """What the image holds ready arrives file by file the same."""
    assert install.install(tmp_path / "volume", prepared=made)
    assert _content(tmp_path / "volume") == _content(made)


def test_other_client_is_replaced(tmp_path: Path, made: Path) -> None:
    """A volume that outlived an upgrade of the image gets the new client, whole."""
    prepared, volume = tmp_path / "prepared", tmp_path / "volume"
    _small_client(prepared, "0.1.0 1\n")
    assert install.install(volume, prepared)
    (prepared / "relay/added").write_text("")
    (prepared / STAMP).write_text("0.2.0 1\n")
    assert install.install(volume, prepared)
    assert _content(volume) == _content(prepared)


@pytest.mark.parametrize("part", PARTS)
def test_interrupted_install_is_never_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """Killed before a part is in place: no ``site`` for any Python to find; the next call completes it."""
    prepared, volume = tmp_path / "prepared", tmp_path / "volume"
    _small_client(prepared, "0.1.0 1\n")
    put = install._move_into_place

    def fail_at_part(made: Path, place: Path) -> None:
        if place.name == part:
            raise KeyboardInterrupt
        put(made, place)

    monkeypatch.setattr(install, "_move_into_place", fail_at_part)
    with pytest.raises(KeyboardInterrupt):
        install.install(volume, prepared)
    assert not (volume / "site").exists()

    monkeypatch.undo()
    (volume / UNFINISHED).mkdir()
    (volume / UNFINISHED / "left").write_text("by a SIGKILL")
    assert install.install(volume, prepared)
    assert _content(volume) == _content(prepared)


def test_failing_install_keeps_no_training_from_starting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the volume cannot be written to, the exit code is 0 and one line says why."""
    (tmp_path / "file").write_text("")
    assert install.main(str(tmp_path / "file/volume")) == 0
    said = capsys.readouterr().err
    assert "Not a directory" in said
    assert "training goes on without Feedwater" in said


def _small_client(directory: Path, stamp: str) -> None:
    for part in PARTS:
        (directory / part).mkdir(parents=True)
        (directory / part / "file").write_text(part)
    (directory / STAMP).write_text(stamp)


def _content(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}
