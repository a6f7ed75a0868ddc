"""A durable record of a change, so that a container which dies of the change does not die of it again.

The record is written before the change is made, and removed when an epoch has ended under it. A process that
starts and finds one was killed under the change, by ``SIGKILL``, the memory limit or a dead worker. It keeps
the user's own setting.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from feedwater.loop import ranks
from feedwater.settings import Settings
from feedwater.values import LoaderSettings, settings_from_json

MAX_AGE_SECONDS = 24 * 3600
"""Age up to which a record counts: a crash loop restarts within minutes (kubelet's back-off ends at 5)."""


@dataclass
class ProbationRecord:
    """One change under probation."""

    path: Path
    before: LoaderSettings
    after: LoaderSettings
    has_raised: bool = False
    """The loader raised an exception since: the record stays when the process exits."""

    def clear(self) -> None:
        """Remove the record: the change has not killed this process."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


def write(
    settings: Settings, loader_name: str, before: LoaderSettings, after: LoaderSettings
) -> ProbationRecord:
    """Write the record of a change from ``before`` to ``after``, safe on storage when this returns.

    Raises:
        OSError: None of the possible directories can be written.
    """
    body = {
        "loader": loader_name,
        "before": asdict(before),
        "after": asdict(after),
        "written": time.time(),
        "writer": asdict(process_identity(os.getpid())),
    }
    failure: OSError | None = None
    for directory in directories(settings):
        path = directory / f"{_file_stem(settings, loader_name)}.json"
        if _is_writer_alive(path):
            path = path.with_name(f"{path.stem}-{os.getpid()}.json")
        try:
            _make_directory(directory, is_named=bool(settings.run_dir))
            _write_atomically(path, json.dumps(body))
        except OSError as error:
            failure = error
            continue
        return ProbationRecord(path, before, after)
    raise failure or FileNotFoundError("no directory for the record of a change")


def read(settings: Settings, loader_name: str) -> ProbationRecord | None:
    """Return the record that an earlier process of this rank left; None if there is none younger than a day.

    A record of a process that still runs and claims the same rank is not returned.
    """
    for directory in directories(settings):
        records = [
            record
            for path in sorted(directory.glob(f"{_file_stem(settings, loader_name)}*.json"))
            if (record := _read(path)) is not None and not _is_writer_alive(path)
        ]
        for other in records[1:]:
            other.clear()
        if records:
            return records[0]
    return None


def _read(path: Path) -> ProbationRecord | None:
    try:
        body = json.loads(path.read_text())
        record = ProbationRecord(path, settings_from_json(body["before"]), settings_from_json(body["after"]))
        is_recent = 0 <= time.time() - body["written"] <= MAX_AGE_SECONDS
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return record if is_recent else None


def _is_writer_alive(path: Path) -> bool:
    """Return whether another process that still runs wrote a record."""
    try:
        writer = json.loads(path.read_text())["writer"]
        pid = int(writer["pid"])
        return pid != os.getpid() and writer == asdict(process_identity(pid))
    except (OSError, ValueError, KeyError, TypeError):
        # A record of an older version does not name its writer.
        return False


@dataclass(frozen=True)
class ProcessIdentity:
    """Identifies a process among all, also among later ones with the same pid."""

    pid: int
    pid_namespace: str
    started: str
    """Clock ticks since the kernel started."""


def process_identity(pid: int) -> ProcessIdentity:
    """Return the identity of a running process.

    Raises:
        OSError: No process has this pid.

    Source: proc(5), the 22nd field of ``/proc/<pid>/stat``; the second one may hold spaces and brackets.
    """
    started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ProcessIdentity(pid, ranks.pid_namespace(), started)


def directories(settings: Settings) -> list[Path]:
    """Return the directories for records, best first: a container's temporary directory ends with it."""
    if settings.run_dir:
        return [Path(settings.run_dir)]
    own = Path(tempfile.gettempdir()) / f"feedwater-{os.getuid()}"
    if settings.address.startswith("unix:"):
        return [Path(settings.address[len("unix:") :]).parent, own]
    return [own]


def _file_stem(settings: Settings, loader_name: str) -> str:
    who = f"{settings.namespace}\0{settings.job}\0{settings.rank}\0{loader_name}"
    return f"probation-{hashlib.sha256(who.encode()).hexdigest()[:16]}"


def _make_directory(directory: Path, is_named: bool) -> None:
    """Make the directory that the user named, or the one in the temporary directory; never the socket's."""
    is_own = directory.name == f"feedwater-{os.getuid()}"
    if is_named or is_own:
        directory.mkdir(mode=0o700, parents=is_named, exist_ok=True)
    if is_own and directory.stat().st_uid != os.getuid():
        raise PermissionError(f"{directory} belongs to another user")


def _write_atomically(path: Path, text: str) -> None:
    aside = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with open(aside, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
