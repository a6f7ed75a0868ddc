"""The state directory: what was accepted comes back, and nothing broken or full stops the sidecar."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feedwater.v1 import feedwater_pb2 as pb
from feedwater_service.model.types import Policy, Recommendation
from feedwater_service.recommender import Recommender
from feedwater_service.rpc.calls import Calls, record_decision, restore
from feedwater_service.state.counters import LoaderCounters
from feedwater_service.state.sessions import Decision, State
from feedwater_service.store import checkpoint as checkpoint_module
from feedwater_service.store import journal as journal_module
from feedwater_service.store.checkpoint import StateStore, session_line
from feedwater_service.store.codec import to_json
from feedwater_service.store.journal import Journal, JournalRecord, read_journal
from feedwater_service.store.locks import Lock

Make = Callable[..., pb.ReportRequest]
Describe = Callable[..., pb.RegisterLoaderRequest]
Begin = Callable[[], tuple[State, StateStore, Calls]]


@pytest.fixture
def begin(tmp_path: Path, model: object) -> Callable[[], tuple[State, StateStore, Calls]]:
    """Start a sidecar's inner part on the same directory, as often as asked."""

    def start() -> tuple[State, StateStore, Calls]:
        state = State(clock=lambda: 1000.0)
        store = StateStore(tmp_path / "state")
        recommender = Recommender(
            state, model, Policy(), 0.0, lambda group, one: record_decision(store, state, group, one)
        )  # type: ignore[arg-type]
        restore(state, store)
        return state, store, Calls(state, recommender, store)

    return start


def _fill(calls: Calls, registration: Describe, report: Make) -> str:
    loader_id = pb.RegisterLoaderResponse.FromString(
        calls.register_loader(registration().SerializeToString())
    ).loader_id
    calls.report(report(loader_id, 1, end=True).SerializeToString())
    second = report(loader_id, 2, epoch=1)
    second.uses_cuda = True
    second.device_steps.add(epoch=1, batch=[3, 19], idle_seconds=[0.5, 0.25], busy_seconds=[1, 2])
    calls.report(second.SerializeToString())
    applied = pb.ReportAppliedRequest(
        loader_id=loader_id, recommendation_id="r", outcome=1, settings=pb.LoaderSettings(num_workers=4)
    )
    calls.report_applied(applied.SerializeToString())
    return loader_id


@pytest.mark.parametrize("checkpoint_after", [None, "all", "half"])
def test_state_comes_back_after_a_kill(
    begin: Callable[[], tuple[State, StateStore, Calls]],
    registration: Describe,
    report: Make,
    recommendation: Callable[[], Recommendation],
    checkpoint_after: str | None,
) -> None:
    """From journal, checkpoint or both: sessions and decisions are the same, counters are zero."""
    state, store, calls = begin()
    if checkpoint_after == "half":
        calls.register_loader(registration(loader="other").SerializeToString())
        store.checkpoint(state)
    loader_id = _fill(calls, registration, report)
    group = state.sessions[loader_id].group
    decision = Decision("0-x", 0, recommendation())
    state.decide(group, decision)
    record_decision(store, state, group, decision)
    if checkpoint_after == "all":
        assert store.checkpoint(state)

    again, _, _ = begin()

    assert to_json(list(again.sessions.values())) == to_json(list(state.sessions.values()))
    assert again.sessions[loader_id].accepted_sequence == 2
    assert again.decisions == state.decisions
    assert again.by_client == state.by_client
    assert ("train", 0) in again.counters.by_series
    assert all(counters == LoaderCounters() for counters in again.counters.by_series.values())


def test_checkpoint_that_overlaps_its_journal_counts_once(
    begin: Callable[[], tuple[State, StateStore, Calls]], registration: Describe, report: Make
) -> None:
    """A report accepted while the checkpoint is written lies in both, and its 40 batches count once."""
    state, store, calls = begin()
    loader_id = _fill(calls, registration, report)
    lines = store.begin_checkpoint(state)
    calls.report(report(loader_id, 3, epoch=1, first=40).SerializeToString())
    store.end_checkpoint(store.write_checkpoint([*lines, *map(session_line, state.sessions.values())]))

    again, _, _ = begin()

    assert again.sessions[loader_id].accepted_sequence == 3
    assert again.sessions[loader_id].epochs[-1].batches == 80


def test_checkpoint_makes_old_journals_superfluous(
    begin: Callable[[], tuple[State, StateStore, Calls]], registration: Describe, report: Make, tmp_path: Path
) -> None:
    """After a checkpoint only the journal that follows it is left."""
    state, store, calls = begin()
    _fill(calls, registration, report)
    store.checkpoint(state)
    assert sorted(p.name for p in (tmp_path / "state").iterdir()) == ["journal-000002.bin", "state.json"]
    assert store.journal_bytes == 0


@pytest.mark.parametrize(
    "content",
    ["", "{", "null", '{"format": "feedwater-state-9", "journal": 1}', '{"format": 3}', "[" * 100_000],
)
def test_foreign_checkpoint_is_moved_aside(
    begin: Callable[[], tuple[State, StateStore, Calls]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    content: str,
) -> None:
    """What cannot be read is kept under another name, said once, and the sidecar starts afresh."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "state.json").write_text(content)
    with caplog.at_level(logging.WARNING):
        state, _, _ = begin()
    assert state.sessions == {}
    assert (tmp_path / "state" / "state.json.broken").read_text() == content
    assert [r.message for r in caplog.records if "moved aside" in r.message]


@pytest.mark.parametrize("in_checkpoint", [True, False])
@pytest.mark.parametrize(
    ("down_seconds", "wall_step", "booted_again", "expected"),
    [(100, 0, False, 0), (700, 0, False, 1), (100, 86400, False, 0), (100, 0, True, 0)],
    ids=["soon", "late", "wall clock set", "node booted again"],
)
def test_silence_is_counted_over_a_restart(
    tmp_path: Path,
    model: object,
    registration: Describe,
    in_checkpoint: bool,
    down_seconds: float,
    wall_step: float,
    booted_again: bool,
    expected: int,
) -> None:
    """A loader is silent for as long as the sidecar was down by the boot clock, whatever the others say."""

    def begin(wall: float, monotonic: float, boot: float) -> tuple[State, StateStore, Calls]:
        state = State(clock=lambda: wall, monotonic=lambda: monotonic, boot=lambda: boot)
        store = StateStore(tmp_path / "state")
        restore(state, store)
        recommender = Recommender(state, model, Policy(), 0.0, lambda *_: None)  # type: ignore[arg-type]
        return state, store, Calls(state, recommender, store)

    state, store, calls = begin(1e9, 5000.0, 9000.0)
    calls.register_loader(registration().SerializeToString())
    if in_checkpoint:
        store.checkpoint(state)
    boot = 30.0 if booted_again else 9000.0 + down_seconds
    again, _, _ = begin(1e9 + down_seconds + wall_step, 20.0, boot)
    assert len(again.sessions) == 1
    assert len(again.expire(600)) == expected


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, 400), st.integers(0, 255))
def test_damaged_journal_loses_the_damaged_record_alone(tmp_path: Path, at: int, byte: int) -> None:
    """One changed byte anywhere loses at most its record, never raises, never invents one."""
    path = tmp_path / "journal"
    written = [JournalRecord(2, 5.0, bytes([i]) * 40) for i in range(5)]
    journal = Journal(path)
    for record in written:
        journal.append(record)
    journal.close()
    data = bytearray(path.read_bytes())
    data[at % len(data)] = byte
    path.write_bytes(data)
    read = [r.data for r in read_journal(path)]
    hit = (at % len(data)) // (len(data) // 5)
    assert read in ([r.data for r in written], [r.data for r in written if r is not written[hit]])


def test_journal_keeps_what_changed_and_nothing_else(
    begin: Begin, registration: Describe, report: Make, recommendation: Callable[[], Recommendation]
) -> None:
    """Unknown fields of 1 MB, names of 1 MB, and what is told 40 times take no more than one record each."""
    _, store, calls = begin()
    unknown = b"\xfa\x7f" + bytes([0x80, 0x80, 0x40]) + b"x" * (1 << 20)
    request = registration(label="x" * (1 << 20)).SerializeToString() + unknown
    for _ in range(40):
        registered = pb.RegisterLoaderResponse.FromString(calls.register_loader(request))
    loader_id = registered.loader_id
    calls.report(report(loader_id, 1, count=2).SerializeToString() + unknown)
    for outcome in (pb.OUTCOME_APPLIED, pb.OUTCOME_ADVISED) * 20:
        applied = pb.ReportAppliedRequest(
            loader_id=loader_id, recommendation_id="r", outcome=outcome, detail="x" * (1 << 20)
        )
        calls.report_applied(applied.SerializeToString() + unknown)
    assert 0 < store.journal_bytes < 4096
    again, _, _ = begin()
    assert again.sessions[loader_id].accepted_sequence == 1
    assert len(again.sessions[loader_id].registration.label) == 128
    assert again.sessions[loader_id].changes


def test_registration_that_changes_something_is_journaled(begin: Begin, registration: Describe) -> None:
    """A loader made anew with another length comes back with that length."""
    _, _, calls = begin()
    for length in (10, 12):
        calls.register_loader(registration(batches_per_epoch=length, shards=3).SerializeToString())
    (session,) = begin()[0].sessions.values()
    assert (session.registration.batches_per_epoch, session.registration.shards) == (12, 3)


def test_full_journal_takes_no_more_until_a_checkpoint(
    begin: Begin, registration: Describe, report: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size is checked at each append; a checkpoint is then due, and covers what was left out."""
    monkeypatch.setattr(checkpoint_module, "FULL_JOURNAL_BYTES", 20_000)
    monkeypatch.setattr(checkpoint_module, "MAX_JOURNAL_BYTES", 16_000)
    state, store, calls = begin()
    loader_id = _fill(calls, registration, report)
    assert not store.is_checkpoint_due
    for sequence in range(3, 40):
        calls.report(report(loader_id, sequence, epoch=1, first=40 * sequence).SerializeToString())
    assert store.is_checkpoint_due
    assert sum(path.stat().st_size for path in (tmp_path / "state").glob("journal-*.bin")) <= 20_000
    assert store.checkpoint(state)
    assert not store.is_checkpoint_due
    calls.report(report(loader_id, 40, epoch=1, first=1600).SerializeToString())
    assert begin()[0].sessions[loader_id].accepted_sequence == 40


def test_journal_of_an_older_version_is_read(tmp_path: Path) -> None:
    """Records without a boot clock are read, and those after them."""
    journal = Journal(tmp_path / "journal")
    journal.append(JournalRecord(1, 5.0, b"new", 7.0))
    journal.close()
    older = struct.pack("<4sBxxxIId", b"FWJ1", 2, 3, crc32(b"old"), 4.0) + b"old"
    (tmp_path / "journal").write_bytes(older + (tmp_path / "journal").read_bytes())
    assert list(read_journal(tmp_path / "journal")) == [
        JournalRecord(2, 4.0, b"old", math.inf),
        JournalRecord(1, 5.0, b"new", 7.0),
    ]


def _two_sessions(begin: Begin, registration: Describe, report: Make, tmp_path: Path) -> Path:
    """Return a checkpoint of two loaders, `train` and `other`."""
    state, store, calls = begin()
    calls.register_loader(registration(loader="other").SerializeToString())
    _fill(calls, registration, report)
    assert store.checkpoint(state)
    store.close()
    return tmp_path / "state" / "state.json"


def _resealed(line: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """Return a line of a checkpoint after a change, with a checksum that fits."""
    value = json.loads(line[18:])
    change(value)
    return checkpoint_module._sealed(json.dumps(value))


def _unequal(session: dict[str, Any]) -> None:
    session["epochs"][0]["waits"] = {"typecode": "f", "base64": ""}


def _negative(session: dict[str, Any]) -> None:
    session["settings"]["num_workers"] = -7


def _not_a_number(session: dict[str, Any]) -> None:
    session["epochs"][0]["wait_seconds"] = float("nan")


def _other_type(session: dict[str, Any]) -> None:
    session["epochs"][0]["device_batches"] = {"typecode": "d", "base64": ""}


@pytest.mark.parametrize(
    "how", ["flip", "cut", _unequal, _negative, _not_a_number, _other_type, "deep", "garbage"]
)
def test_damaged_session_is_skipped_and_the_others_are_kept(
    begin: Begin,
    registration: Describe,
    report: Make,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    how: str | Callable[[dict[str, Any]], None],
) -> None:
    """A changed bit, a cut line, values that no client sends: one loader is lost, and that is said."""
    path = _two_sessions(begin, registration, report, tmp_path)
    head, other, train = path.read_bytes().splitlines(keepends=True)
    if callable(how):
        train = _resealed(train, how)
    elif how == "flip":
        at = train.index(b'"wait_seconds": ') + 16
        train = train[:at] + bytes([train[at] ^ 1]) + train[at + 1 :]
    else:
        deep = checkpoint_module._sealed('{"epochs":' + "[" * 100_000)
        train = {"cut": b"", "deep": deep, "garbage": b"\x00\xff\n"}[how]
    path.write_bytes(head + other + train)
    with caplog.at_level(logging.WARNING):
        state, _, _ = begin()
    assert [s.name for s in state.sessions.values()] == ["other"]
    assert [r.getMessage() for r in caplog.records if "1 loaders are damaged and skipped" in r.getMessage()]
    assert path.with_name("state.json.broken").read_bytes() == head + other + train


def test_damage_in_a_journal_is_said_and_kept(
    begin: Begin, registration: Describe, report: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A changed bit in the second of its reports loses that report; bytes and file are in the log."""
    _, store, calls = begin()
    loader_id = _fill(calls, registration, report)
    before = store.journal_bytes
    calls.report(report(loader_id, 3, epoch=1, first=40).SerializeToString())
    lost = store.journal_bytes - before
    calls.report(report(loader_id, 4, epoch=1, first=80).SerializeToString())
    path = tmp_path / "state" / "journal-000001.bin"
    data = bytearray(path.read_bytes())
    data[before + 100] ^= 1
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        state, _, _ = begin()
    session = state.sessions[loader_id]
    assert (session.accepted_sequence, session.epochs[-1].dropped) == (4, 40)
    assert f"{lost} damaged bytes" in caplog.text
    assert path.with_name("journal.broken").read_bytes() == data


def test_checkpoint_of_an_older_version_is_read(
    begin: Begin, registration: Describe, report: Make, tmp_path: Path
) -> None:
    """Lines without checksums, of the format before, bring both loaders back; silence counts from now."""
    path = _two_sessions(begin, registration, report, tmp_path)
    head, *sessions = (json.loads(line[18:]) for line in path.read_bytes().splitlines())
    older = {"format": "feedwater-state-2", **{k: head[k] for k in ("journal", "decisions", "frozen")}}
    path.write_text("".join(json.dumps(line) + "\n" for line in (older, *sessions)))
    state, store, _ = begin()
    assert {s.name for s in state.sessions.values()} == {"other", "train"}
    assert store.checkpoint(state)
    assert b"feedwater-state-3" in path.read_bytes()


@pytest.mark.parametrize("name", ["state.json", "journal-000001.bin", "journal-999999999999.bin", "lock"])
@pytest.mark.parametrize("what", ["fifo", "directory", "link", "huge", "foreign"])
def test_nothing_in_the_directory_keeps_the_sidecar_from_starting(
    begin: Begin, registration: Describe, report: Make, tmp_path: Path, name: str, what: str
) -> None:
    """Whatever lies there under our names is moved aside; state is written again, and links lead nowhere."""
    path = tmp_path / "state" / name
    path.parent.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("not ours")
    if what == "fifo":
        os.mkfifo(path)
    elif what == "directory":
        (path / "within").mkdir(parents=True)
    elif what == "link":
        path.symlink_to(victim)
    else:
        path.touch()
        if what == "huge":
            os.truncate(path, 1 << 40)
        elif os.geteuid() == 0:
            os.chown(path, 65532, 65532)
    Lock(tmp_path / "state" / "lock", "another sidecar").release()
    state, store, calls = begin()
    loader_id = _fill(calls, registration, report)
    assert store.checkpoint(state)
    assert store.failures == 0
    store.close()
    again, _, calls = begin()
    assert again.sessions[loader_id].accepted_sequence == 2
    calls.report(report(loader_id, 3, epoch=1, first=40).SerializeToString())
    assert begin()[0].sessions[loader_id].accepted_sequence == 3
    assert victim.read_text() == "not ours"


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=400), st.sampled_from(["state.json", "journal-000007.bin"]))
def test_any_bytes_in_the_directory_are_survived(tmp_path: Path, data: bytes, name: str) -> None:
    """Whatever a file holds, the state begins and is written."""
    directory = tmp_path / "any"
    directory.mkdir(exist_ok=True)
    (directory / name).write_bytes(data)
    state, store = State(), StateStore(directory)
    restore(state, store)
    assert store.checkpoint(state)
    store.close()


def test_torn_journal_is_read_up_to_the_tear(tmp_path: Path) -> None:
    """A record that was not written to its end is left out."""
    journal = Journal(tmp_path / "journal")
    journal.append(JournalRecord(1, 5.0, b"whole"))
    journal.append(JournalRecord(1, 5.0, b"torn"))
    journal.close()
    data = (tmp_path / "journal").read_bytes()
    (tmp_path / "journal").write_bytes(data[:-1])
    assert [r.data for r in read_journal(tmp_path / "journal")] == [b"whole"]


def test_full_disk_is_said_once_and_survived(
    begin: Callable[[], tuple[State, StateStore, Calls]],
    registration: Describe,
    report: Make,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With no space left calls are answered as ever; one warning is logged, one more when it works again."""
    state, store, calls = begin()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with caplog.at_level(logging.WARNING):
        with monkeypatch.context() as patched:
            patched.setattr(journal_module.os, "writev", full)
            loader_id = _fill(calls, registration, report)
        calls.report(report(loader_id, 3, epoch=1, first=40).SerializeToString())
        assert begin()[0].sessions == {}
        assert store.checkpoint(state)
    assert state.sessions[loader_id].accepted_sequence == 3
    assert begin()[0].sessions[loader_id].accepted_sequence == 3
    assert [r.getMessage().partition(": ")[2] for r in caplog.records][:1] == [
        "No space left on device; the sidecar continues without saving its state"
    ]
    assert len(caplog.records) == 2
    assert store.failures == 1


def test_state_of_no_directory_is_kept_nowhere(registration: Describe) -> None:
    """Without a directory nothing is written and nothing fails."""
    store = StateStore(None)
    state = State()
    restore(state, store)
    store.record(JournalRecord(1, 0.0, b""))
    assert store.write_checkpoint(store.begin_checkpoint(state))
    assert json.loads(store.begin_checkpoint(state)[0])["journal"] == 0
