"""A state directory with damaged bytes: the sidecar starts, and what it restored can be shown and stored.

A directory of two loaders is written once; the bytes decide what is damaged: raw bytes, or single values of
the checkpoint's JSON and bytes of the journal's records, with checksums that fit, or as the older format.
"""

from __future__ import annotations

import atexit
import json
import logging
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from zlib import crc32

from feedwater_service.metrics.collector import StateCollector
from feedwater_service.metrics.exposition import Exposition
from feedwater_service.rpc import wire
from feedwater_service.rpc.calls import APPLIED, REGISTERED, REPORTED, record_decision, restore
from feedwater_service.state.sessions import Decision, State
from feedwater_service.store.checkpoint import FORMAT, OLDER_FORMAT, StateStore
from feedwater_service.store.journal import Journal, JournalRecord, read_journal
from feedwater_service.termination_message import exit_line, termination_message
from tests.fuzz.draw import COUNTS, REALS, TEXTS, Draw, damaged
from tests.support.shown import watch_message
from tests.unit.service.conftest import Clock, recommendation, registration, report

_CLOCK = Clock()
_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Each case syncs two checkpoints, which a disk takes longer for than all else together."""


def check(data: bytes) -> None:
    """Run one test case.

    Raises:
        Exception: Whatever a restart with this directory raised, or whoever reads the restored state.
    """
    logging.disable(logging.WARNING)
    draw = Draw(data)
    with tempfile.TemporaryDirectory(prefix="feedwater-fuzz-", dir=_MEMORY) as directory:
        path = Path(directory) / "state"
        shutil.copytree(_WHOLE, path)
        _damage(path, draw)
        state = _state()
        store = StateStore(path)
        restore(state, store)
        _use(state)
        assert store.checkpoint(state)
        store.close()
        again, store = _state(), StateStore(path)
        restore(again, store)
        store.close()
        # A checkpoint that this version wrote is read whole.
        assert again.sessions.keys() == state.sessions.keys()


def _state() -> State:
    return State(clock=_CLOCK, monotonic=_CLOCK, boot=_CLOCK)


def _write_whole() -> Path:
    """Return a directory with a checkpoint of two loaders and a journal of what followed."""
    path = Path(tempfile.mkdtemp(prefix="feedwater-fuzz-whole-", dir=_MEMORY))
    state, store = _state(), StateStore(path)
    store.restore(state, lambda record: None)
    sessions = []
    for rank in (0, 1):
        message = registration(client_id=f"client-{rank}", rank=rank)
        sessions.append(
            state.register(wire.read_register_request(message.SerializeToString()), f"{rank:016d}")
        )
    for session in sessions:
        state.report(wire.read_report(report(session.loader_id, 1, count=4, end=True).SerializeToString()))
    decision = Decision("0-aa", 0, recommendation())
    state.decide(sessions[0].group, decision)
    assert store.checkpoint(state)
    record_decision(store, state, sessions[0].group, Decision("1-bb", 1, replace(recommendation(), epoch=1)))
    third = registration(client_id="client-2", loader="second").SerializeToString()
    store.record(JournalRecord(REGISTERED, 1000.0, b"2" * 16 + third, 1000.0))
    data = report(sessions[0].loader_id, 2, epoch=1, count=4).SerializeToString()
    store.record(JournalRecord(REPORTED, 1000.0, data, 1000.0))
    store.close()
    return path


_WHOLE = _write_whole()
atexit.register(shutil.rmtree, _WHOLE, ignore_errors=True)


def _damage(path: Path, draw: Draw) -> None:
    checkpoint = path / "state.json"
    (journal,) = path.glob("journal-*.bin")
    kind = draw.byte() % 5
    if kind == 0:
        checkpoint.write_bytes(damaged(checkpoint.read_bytes(), draw))
    elif kind == 1:
        checkpoint.write_bytes(b"".join(map(_sealed, _changed_lines(checkpoint, draw))))
    elif kind == 2:
        older = (line.replace(FORMAT, OLDER_FORMAT) for line in _changed_lines(checkpoint, draw))
        checkpoint.write_text("".join(f"{line}\n" for line in older))
    elif kind == 3:
        journal.write_bytes(damaged(journal.read_bytes(), draw))
    else:
        _damage_records(journal, draw)


def _changed_lines(path: Path, draw: Draw) -> list[str]:
    """Return the JSON of the checkpoint's lines, with one value changed."""
    lines = [line[line.index("{") :] for line in path.read_text().splitlines()]
    number = draw.place(len(lines))
    lines[number] = json.dumps(_changed(json.loads(lines[number]), draw))
    return lines


def _sealed(line: str) -> bytes:
    """Return a line with checksum and length, as the checkpoint has it."""
    data = line.encode()
    return b"%08x %08d %s\n" % (crc32(data), len(data), data)


def _damage_records(path: Path, draw: Draw) -> None:
    """Write the journal's records again, damaged, with checksums that fit."""
    records = list(read_journal(path))
    journal = Journal(path)
    for record in records:
        kind = draw.choose((record.kind, REGISTERED, REPORTED, APPLIED, 4, 0, 200))
        time_seconds = draw.choose((record.time_seconds, 0.0, -1.0, 1e300, float("nan"), float("inf")))
        boot = draw.choose((record.boot_seconds, 0.0, -1.0, 1e300, float("nan"), float("inf")))
        journal.append(JournalRecord(kind, time_seconds, damaged(record.data, draw), boot))
    journal.close()


def _changed(value: object, draw: Draw) -> object:
    """Return a JSON value with one value in it replaced."""
    if isinstance(value, dict) and value and draw.byte() % 16:
        key = draw.choose(sorted(value))
        return {**value, key: _changed(value[key], draw)}
    if isinstance(value, list) and value and draw.byte() % 16:
        at = draw.byte() % len(value)
        return [*value[:at], _changed(value[at], draw), *value[at + 1 :]]
    kind = draw.byte() % 12
    if kind < 6:
        return (None, [], {}, True, [value], {"typecode": "d", "base64": "AAAAAAAA+H8="})[kind]
    if kind == 6:
        return json.loads("[" * 500 + "]" * 500)
    if kind == 7:
        return draw.choose(TEXTS)
    return (
        draw.choose((*COUNTS, -1, -7, 1 << 70)) if kind < 10 else draw.real() * draw.choose((1, -1, *REALS))
    )


def _use(state: State) -> None:
    wire.write_state_json(watch_message(state), b"key")
    Exposition(StateCollector(state, "0", "3")).render("")
    termination_message(state, "0")
    exit_line(state)
    snapshot = state.snapshot()
    if snapshot is not None:
        snapshot.pod()
    for session in list(state.sessions.values()):
        data = report(session.loader_id, session.accepted_sequence + 1, epoch=9, count=4, end=True)
        state.report(wire.read_report(data.SerializeToString()))
    state.expire(3600.0)
