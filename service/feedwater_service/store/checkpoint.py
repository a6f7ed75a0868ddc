"""What survives a restart of the sidecar: a checkpoint of the whole state, and the journal since.

A checkpoint has one line per session, written to a temporary file, synced and renamed. Each line is a
checksum, a length and JSON; the first one names the journal that follows. Both may hold the same report:
sequence numbers make reading it twice harmless. What is damaged is skipped, kept aside and logged; nothing
that lies in the directory keeps the sidecar from starting.

    state.json       the newest checkpoint       journal-000017.bin   messages accepted since then
    lock             held by the writer          *.broken             an unreadable file, moved aside
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

from feedwater_service.model.types import GroupKey
from feedwater_service.state.sessions import Decision, RankKey, Session, State
from feedwater_service.store.codec import from_json, to_json
from feedwater_service.store.files import NotOursError, create, keep_aside, move_aside, open_ours
from feedwater_service.store.journal import (
    FULL_JOURNAL_BYTES,
    MAX_JOURNAL_BYTES,
    Damage,
    Journal,
    JournalRecord,
    read_parts,
)
from feedwater_service.store.validity import check, check_session

FORMAT = "feedwater-state-3"
OLDER_FORMAT = "feedwater-state-2"
"""Without checksums; it is read, not written."""
MAX_CHECKPOINT_BYTES = 256 << 20
"""Older versions wrote 136 MB for 256 loaders."""
MAX_LINE_BYTES = 8 << 20
"""The line of one loader in full detail has 1.1 MB; the first line has all decisions."""
MAX_PROBLEMS = 4096
"""Damaged lines after which the rest of a checkpoint is not read: a sidecar holds no more loaders."""
MAX_JOURNALS = 10**12
"""Numbers of journals; a larger one was not given by a sidecar."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Head:
    """The first line of a checkpoint."""

    format: str
    journal: int
    """Number of the journal that follows."""
    decisions: list[tuple[GroupKey, int, Decision]] = field(default_factory=list)
    frozen: list[tuple[RankKey, str]] = field(default_factory=list)
    sessions: int | None = None
    """Lines that follow; None in a checkpoint of an older version."""
    monotonic_seconds: float | None = None
    """The sidecar's monotonic clock when it was written, which the sessions' stamps are compared with; None
    in a checkpoint of an older version."""
    boot_seconds: float = 0.0
    """CLOCK_BOOTTIME then."""


class StateStore:
    """Writes a state directory and reads it back. A failure is logged once and never stops the sidecar."""

    def __init__(self, directory: Path | None) -> None:
        """Keep state in ``directory``; with None nothing is written."""
        self._is_enabled = directory is not None
        self._directory = directory or Path()
        self._number = 0
        self._journal: Journal | None = None
        self._failing = False
        self._has_hole = False
        """A record was lost: later ones wait for a checkpoint, or a restart would count past the lost one."""
        self._is_full = False
        """The journal takes no more records until the next checkpoint."""
        self.failures = 0

    @property
    def journal_bytes(self) -> int:
        """Bytes since the last checkpoint."""
        return self._journal.size if self._journal is not None else 0

    @property
    def is_checkpoint_due(self) -> bool:
        """The journal is so large that a checkpoint should take its place."""
        return self._is_full or self.journal_bytes > MAX_JOURNAL_BYTES

    def restore(self, state: State, replay: Callable[[JournalRecord], None]) -> None:
        """Fill a state from the checkpoint and the journals that follow it, then begin a new journal."""
        if not self._is_enabled:
            return
        first = self._restore_checkpoint(state)
        for number, path in self._journals():
            # A number that no sidecar gave is none to count on from.
            if number < first or self._replay(path, replay):
                self._number = max(self._number, number)
        self._guarded(self._rotate)

    def record(self, record: JournalRecord) -> None:
        """Append an accepted message; after a failure nothing is appended until the next checkpoint.

        A full journal takes none either: with a record left out, later ones would count past it.
        """
        journal = self._journal
        if journal is not None and journal.size + len(record.data) > FULL_JOURNAL_BYTES:
            self._is_full = self._has_hole = True
            self.close()
            return
        if journal is not None and not self._guarded(lambda: journal.append(record)):
            self._has_hole = True
            self.close()

    def begin_checkpoint(self, state: State) -> list[str]:
        """Begin a new journal, and return the first line of the checkpoint that it follows."""
        self._guarded(self._rotate)
        self._is_full = False
        head = Head(
            FORMAT,
            self._number,
            [(group, epoch, decision) for (group, epoch), decision in state.decisions.items()],
            list(state.frozen.items()),
            len(state.sessions),
            state.monotonic(),
            state.boot(),
        )
        return [json.dumps(to_json(head))]

    def write_checkpoint(self, lines: Iterable[str]) -> bool:
        """Replace the checkpoint by one of these lines; return whether that worked.

        Only this method may run in another thread; `end_checkpoint` follows in the thread that records.
        """
        return not self._is_enabled or self._guarded(lambda: self._write(lines))

    def end_checkpoint(self, written: bool) -> None:
        """Resume after a checkpoint; ``written`` says whether it succeeded."""
        if written:
            if self._failing:
                log.warning("%s is writable again", self._directory)
            # Where the new journal became full meanwhile, the next checkpoint is due.
            self._failing, self._has_hole = False, self._is_full
        elif self._has_hole and self._journal is not None:
            path = self._journal.path
            self.close()
            path.unlink(missing_ok=True)

    def checkpoint(self, state: State) -> bool:
        """Write a whole checkpoint at once; return whether that worked."""
        lines = [*self.begin_checkpoint(state), *map(session_line, state.sessions.values())]
        written = self.write_checkpoint(lines)
        self.end_checkpoint(written)
        return written

    def close(self) -> None:
        """Close the journal."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _restore_checkpoint(self, state: State) -> int:
        """Add the checkpoint's sessions that are whole; return the number of the journal that follows."""
        path = self._directory / "state.json"
        try:
            with open_ours(path, MAX_CHECKPOINT_BYTES) as file:
                head = _read_head(file)
                problems = _read_sessions(file, head, state)
        except FileNotFoundError:
            return 0
        except Exception as error:
            log.warning(
                "%s cannot be read and is moved aside; starting without state: %s",
                path,
                str(error)[:200],
            )
            self._guarded(lambda: move_aside(path))
            return 0
        if problems:
            log.warning(
                "%s: %d loaders are damaged and skipped; the file is kept as state.json.broken: %s",
                path,
                len(problems),
                problems[0][:200],
            )
            keep_aside(path, "state.json.broken")
        state.decisions.update({(group, epoch): decision for group, epoch, decision in head.decisions})
        state.frozen.update(head.frozen)
        return head.journal

    def _replay(self, path: Path, replay: Callable[[JournalRecord], None]) -> bool:
        """Replay a journal; return whether it is a file of ours."""
        damaged, failed, problem = 0, 0, "checksum"
        try:
            for part in read_parts(path):
                if isinstance(part, Damage):
                    damaged += part.length
                    continue
                try:
                    replay(part)
                except Exception as error:
                    failed, problem = failed + 1, f"{type(error).__name__}: {error}"
        except NotOursError as error:
            log.warning("%s cannot be read and is moved aside: %s", path, error.strerror)
            self._guarded(lambda: move_aside(path))
            return False
        except OSError as error:
            log.warning("%s cannot be read: %s", path, error)
        if damaged or failed:
            log.warning(
                "%s: %d damaged bytes and %d records are ignored; the file is kept as journal.broken: %s",
                path,
                damaged,
                failed,
                problem[:200],
            )
            keep_aside(path, "journal.broken")
        return True

    def _journals(self) -> list[tuple[int, Path]]:
        found = []
        try:
            for path in self._directory.glob("journal-*.bin"):
                number = path.stem.removeprefix("journal-")
                if number.isdecimal() and int(number) < MAX_JOURNALS:
                    found.append((int(number), path))
        except OSError as error:
            log.warning("%s cannot be read: %s", self._directory, error)
        return sorted(found)

    def _rotate(self) -> None:
        """Begin the next journal; the old one is deleted when a checkpoint covers it."""
        if not self._is_enabled:
            return
        self.close()
        self._number += 1
        self._directory.mkdir(parents=True, exist_ok=True)
        self._journal = Journal(self._directory / f"journal-{self._number:06d}.bin")

    def _write(self, lines: Iterable[str]) -> None:
        path = self._directory / "state.json"
        # A file left by an earlier failure would occupy the space that this attempt needs.
        for left in self._directory.glob("state.json.*.new"):
            with contextlib.suppress(OSError):
                left.unlink()
        temporary = path.with_name(f"state.json.{secrets.token_hex(4)}.new")
        try:
            with os.fdopen(create(temporary), "wb") as file:
                file.writelines(map(_sealed, lines))
                file.flush()
                os.fsync(file.fileno())
            if path.is_dir():
                move_aside(path)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        for number, journal in self._journals():
            if number < self._number:
                # What cannot be removed, as a directory of this name, is moved aside at the next start.
                with contextlib.suppress(OSError):
                    journal.unlink()

    def _guarded(self, action: Callable[[], object]) -> bool:
        """Run an action; return whether it worked, and log the first failure of a series."""
        try:
            action()
        except OSError as error:
            self.failures += 1
            if not self._failing:
                log.warning(
                    "%s cannot be written: %s; the sidecar continues without saving its state",
                    self._directory,
                    error.strerror or error,
                )
            self._failing = True
            return False
        return True


def _sealed(line: str) -> bytes:
    """Return a line with its checksum and length: ``"1c291ca3 00000042 {…}"``."""
    data = line.encode()
    return b"%08x %08d %s\n" % (crc32(data), len(data), data)


def _unsealed(line: bytes) -> bytes:
    """Return the JSON of a line; an older version wrote nothing else.

    Raises:
        ValueError: Checksum or length differ.
    """
    if line.startswith(b"{"):
        return line
    data = line[18:].removesuffix(b"\n")
    if line[:18] != b"%08x %08d " % (crc32(data), len(data)):
        raise ValueError("checksum or length differ")
    return data


def _read_head(file: BinaryIO) -> Head:
    line = file.readline(MAX_LINE_BYTES)
    head = from_json(Head, json.loads(_unsealed(line)))
    if head.format not in (FORMAT, OLDER_FORMAT) or line.startswith(b"{") != (head.format == OLDER_FORMAT):
        raise ValueError(f"format {head.format[:40]!r}, expected {FORMAT!r}")
    check(head)
    if not 0 <= head.journal < MAX_JOURNALS:
        raise ValueError(f"journal {head.journal}")
    return head


def _read_sessions(file: BinaryIO, head: Head, state: State) -> list[str]:
    """Add the sessions that are whole; return what is wrong with each of the others."""
    problems: list[str] = []
    count = 0
    while len(problems) < MAX_PROBLEMS and (line := file.readline(MAX_LINE_BYTES)):
        count += 1
        try:
            if line.startswith(b"{") != (head.format == OLDER_FORMAT):
                raise ValueError("a line of another format")
            session = from_json(Session, json.loads(_unsealed(line)))
            check_session(session)
            if session.loader_id in state.sessions or len(state.sessions) >= state.max_sessions:
                raise ValueError(f"loader {session.loader_id[:40]!r} is one too many")
        except Exception as error:
            problems.append(f"line {count + 1}: {type(error).__name__}: {error}")
            continue
        _move_stamps(session, state, head)
        state.add(session)
    missing = (head.sessions if head.sessions is not None else count) - count
    return problems + ["the file ends before its last line"] * min(MAX_PROBLEMS, max(0, missing))


def _move_stamps(session: Session, state: State, head: Head) -> None:
    """Move a session's stamps from the monotonic clock of an earlier life of the sidecar to this one's."""
    now = state.monotonic()
    if head.monotonic_seconds is None:
        session.heard_stamp_seconds = session.progress_stamp_seconds = now
        return
    moved = now - max(0.0, state.boot() - head.boot_seconds) - head.monotonic_seconds
    session.heard_stamp_seconds = min(now, session.heard_stamp_seconds + moved)
    session.progress_stamp_seconds = min(now, session.progress_stamp_seconds + moved)


def session_line(session: Session) -> str:
    """Return one session as a line of a checkpoint."""
    return json.dumps(to_json(session))
