"""The record of a change under probation."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from feedwater.loop.change import probation
from feedwater.settings import Settings
from feedwater.values import LoaderSettings

BEFORE, AFTER = LoaderSettings(1, 2), LoaderSettings(4, 2)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A directory of this test's own, with nothing in it."""
    (tmp_path / "own").mkdir()
    return tmp_path / "own"


def settings(directory: Path) -> Settings:
    return Settings(run_dir=str(directory), job="job")


def test_what_is_written_is_read_and_cleared(run_dir: Path) -> None:
    """The next incarnation reads both settings; after clear() there is nothing, and no other file is left."""
    record = probation.write(settings(run_dir), "train", BEFORE, AFTER)
    found = probation.read(settings(run_dir), "train")
    assert found is not None
    assert (found.before, found.after) == (BEFORE, AFTER)
    assert list(run_dir.glob("*")) == [record.path]
    record.clear()
    assert probation.read(settings(run_dir), "train") is None


@pytest.mark.parametrize("other", [{"job": "other"}, {"rank": 1}, {"namespace": "elsewhere"}])
def test_others_do_not_read_it(run_dir: Path, other: dict[str, str]) -> None:
    """Another job, rank, namespace or loader keeps its own record."""
    mine = settings(run_dir)
    probation.write(mine, "train", BEFORE, AFTER)
    assert probation.read(replace(mine, **other), "train") is None  # type: ignore[arg-type]
    assert probation.read(mine, "val") is None


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"before": 1, "after": {}, "written": 0}', "\x00"])
def test_a_damaged_record_is_none(run_dir: Path, text: str) -> None:
    """What cannot be read is not a reason to hold a job."""
    probation.write(settings(run_dir), "train", BEFORE, AFTER).path.write_text(text)
    assert probation.read(settings(run_dir), "train") is None


def test_a_record_of_yesterday_is_none(run_dir: Path) -> None:
    """A crash loop comes round within minutes; 25 hours are another story."""
    record = probation.write(settings(run_dir), "train", BEFORE, AFTER)
    body = json.loads(record.path.read_text())
    body["written"] -= 25 * 3600
    record.path.write_text(json.dumps(body))
    assert probation.read(settings(run_dir), "train") is None


def test_the_sockets_directory_comes_first_and_a_temporary_one_second(run_dir: Path) -> None:
    """Beside unix:/run/x/api.sock, else in a directory of the user's own."""
    first, second = probation.directories(Settings(address="unix:/run/x/api.sock"))
    assert first == Path("/run/x")
    assert second.name == f"feedwater-{os.getuid()}"
    assert probation.directories(Settings(address="127.0.0.1:1"))[0] == second


def test_directory_that_the_user_named_is_made(run_dir: Path) -> None:
    """With what is above it, for this user alone; the record is found there."""
    named = run_dir / "job/feedwater"
    probation.write(settings(named), "train", BEFORE, AFTER)
    found = probation.read(settings(named), "train")
    assert found is not None
    assert found.after == AFTER
    assert named.stat().st_mode & 0o777 == 0o700


def written_by(pid: int, run_dir: Path) -> probation.ProbationRecord:
    """Return a record as a process of that pid leaves it, of which this one knows nothing."""
    record = probation.write(settings(run_dir), "train", BEFORE, AFTER)
    body = json.loads(record.path.read_text())
    body["writer"] = asdict(probation.process_identity(pid))
    record.path.write_text(json.dumps(body))
    return record


def test_process_that_lives_beside_this_one_keeps_its_own_record(run_dir: Path) -> None:
    """Two processes that claim one rank: neither reads the other's, and neither writes over it."""
    theirs = written_by(os.getppid(), run_dir)
    assert probation.read(settings(run_dir), "train") is None
    mine = probation.write(settings(run_dir), "train", BEFORE, LoaderSettings(8, 2))
    assert mine.path != theirs.path
    found = probation.read(settings(run_dir), "train")
    assert found is not None
    assert found.after.num_workers == 8


def test_records_of_processes_that_died_together_are_one_reason(run_dir: Path) -> None:
    """Of two that were left one is read, and cleared with it is the other, which would hold a later start."""
    theirs = written_by(os.getppid(), run_dir)
    probation.write(settings(run_dir), "train", BEFORE, AFTER)
    body = json.loads(theirs.path.read_text())
    body["writer"]["started"] = "1"
    theirs.path.write_text(json.dumps(body))
    found = probation.read(settings(run_dir), "train")
    assert found is not None
    found.clear()
    assert list(run_dir.glob("*")) == []


def test_no_directory_is_an_error(run_dir: Path) -> None:
    """The caller must know that nothing is recorded: a file stands where the directory should be."""
    (run_dir / "absent").write_text("")
    with pytest.raises(OSError, match="absent"):
        probation.write(settings(run_dir / "absent"), "train", BEFORE, AFTER)
