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
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from feedwater.loop import ranks
from feedwater.loop.change import private_directory
from feedwater.loop.change.private_directory import PrivateDirectory
from feedwater.settings import Settings
from feedwater.values import LoaderSettings, settings_from_json

MAX_NAME = 200
"""Characters of a loader's name in a record, for a person who reads it."""
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
        with contextlib.suppress(OSError), _opened_again(self.path.parent) as own:
            own.remove(self.path.name)


def write(
    settings: Settings, loader_name: str, before: LoaderSettings, after: LoaderSettings
) -> ProbationRecord:
    """Write the record of a change from ``before`` to ``after``, safe on storage when this returns.

    Raises:
        OSError: None of the possible directories can be written.
    """
    body = {
        "loader": loader_name[:MAX_NAME],
        "before": asdict(before),
        "after": asdict(after),
        "written": time.time(),
        "writer": asdict(process_identity(os.getpid())),
    }
    failure: OSError | None = None
    for directory in directories(settings):
        try:
            with _opened(settings, directory, for_writing=True) as own:
                name = f"{_file_stem(settings, loader_name)}.json"
                if _is_writer_alive(own, name):
                    name = f"{_file_stem(settings, loader_name)}-{os.getpid()}.json"
                own.write(name, json.dumps(body))
                return ProbationRecord(own.path / name, before, after)
        except OSError as error:
            failure = error
    raise failure or FileNotFoundError("no directory for the record of a change")


def read(settings: Settings, loader_name: str) -> ProbationRecord | None:
    """Return the record that an earlier process of this rank left; None if there is none younger than a day.

    A record of a process that still runs and claims the same rank is not returned.
    """
    for directory in directories(settings):
        with contextlib.suppress(OSError), _opened(settings, directory) as own:
            names = own.names(_file_stem(settings, loader_name))
            found = [(name, _read(own, name)) for name in names if not _is_writer_alive(own, name)]
            records = [(name, record) for name, record in found if record is not None]
            for name, _ in records[1:]:
                own.remove(name)
            if records:
                return records[0][1]
    return None


def _opened(
    settings: Settings, directory: Path, for_writing: bool = False
) -> AbstractContextManager[PrivateDirectory]:
    """Open one of `directories`; to write, make the one that the user named, or the temporary one."""
    is_temporary = directory == temporary_directory()
    is_made = for_writing and (is_temporary or bool(settings.run_dir))
    return private_directory.opened(
        directory, is_configured=not is_temporary, is_made=is_made, for_writing=for_writing
    )


def _opened_again(directory: Path) -> AbstractContextManager[PrivateDirectory]:
    """Open the private directory of a record."""
    return private_directory.opened(directory, is_configured=False)


def _read(own: PrivateDirectory, name: str) -> ProbationRecord | None:
    try:
        body = json.loads(own.read(name))
        record = ProbationRecord(own.path / name, _settings(body["before"]), _settings(body["after"]))
        is_recent = 0 <= time.time() - body["written"] <= MAX_AGE_SECONDS
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return record if is_recent else None


def _settings(value: dict[str, object]) -> LoaderSettings:
    """Return the settings in a record; the log shows them, and they must be what they say.

    Raises:
        TypeError: One of them is of another type.
    """
    if not isinstance(value, dict):
        raise TypeError(f"settings: expected an object, got {value!r:.80}")
    settings = settings_from_json(value)
    for field in fields(LoaderSettings):
        held = getattr(settings, field.name)
        kind = int if field.name in ("num_workers", "prefetch_factor") else bool
        may_be_none = field.name in ("prefetch_factor", "in_order")
        if type(held) is not kind and not (held is None and may_be_none):
            raise TypeError(f"{field.name}: expected {kind.__name__}, got {held!r:.80}")
    return settings


def _is_writer_alive(own: PrivateDirectory, name: str) -> bool:
    """Return whether another process that still runs wrote a record."""
    try:
        writer = json.loads(own.read(name))["writer"]
        pid = int(writer["pid"])
        return pid != os.getpid() and writer == asdict(process_identity(pid))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
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
    own = temporary_directory()
    if settings.address.startswith("unix:"):
        return [Path(settings.address[len("unix:") :]).parent, own]
    return [own]


def temporary_directory() -> Path:
    """Return the directory of this user's in the system's temporary one."""
    return Path(tempfile.gettempdir()) / f"feedwater-{os.getuid()}"


def _file_stem(settings: Settings, loader_name: str) -> str:
    who = f"{settings.namespace}\0{settings.job}\0{settings.rank}\0{loader_name}"
    return f"probation-{hashlib.sha256(who.encode()).hexdigest()[:16]}"
