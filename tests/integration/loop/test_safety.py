"""The two rules of auto: do not corrupt data, do not crash-loop. Each beside the harm without it."""

from __future__ import annotations

import json
import multiprocessing
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import feedwater
from feedwater.testing import FakeTransport
from feedwater.values import Outcome
from tests.integration.loop.loop_datasets import NeedsNoWorker, NeedsWorker, Numbers, OneFile
from tests.support.processes import root_environment


def script(text: str, run_dir: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a training script in a process of its own, where pytest holds no file open."""
    return subprocess.run(
        [sys.executable, "-c", text],
        env=root_environment() | {"FEEDWATER_RUN_DIR": str(run_dir), "FEEDWATER_JOB": "test", **environ},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


ONE_FILE = """
import feedwater, json
from feedwater.testing import FakeTransport
from tests.integration.loop.loop_datasets import OneFile
from torch.utils.data import DataLoader
fake = FakeTransport({0: 2})
loader = DataLoader(OneFile(), batch_size=4)
feedwater.watch(loader, name="t", transport=fake, allow_workers=ALLOW)
wrong = []
for _ in range(2):
    seen = [int(i) for batch in loader for i in batch]
    wrong.append(sum(a != b for a, b in zip(seen, range(4000))))
a = fake.outcomes("t")[0]
print(json.dumps([wrong, loader.num_workers, a.outcome.value, a.detail]))
"""


def test_a_shared_file_offset_corrupts_samples_where_workers_are_forced(tmp_path: Path) -> None:
    """The harm: forced to 2 workers, a dataset that opened its file in __init__ yields wrong samples."""
    done = script(ONE_FILE.replace("ALLOW", "True"), tmp_path)
    (before, after), workers, _, _ = json.loads(done.stdout)
    assert (before, workers) == (0, 2)
    assert after > 0


def test_auto_refuses_workers_that_would_share_a_file(tmp_path: Path) -> None:
    """The rule: auto stays at 0 workers, names the file, and no sample is wrong."""
    done = script(ONE_FILE.replace("ALLOW", "False"), tmp_path)
    wrong, workers, outcome, detail = json.loads(done.stdout)
    assert (wrong, workers, outcome) == ([0, 0], 0, "refused")
    assert "/records is open for reading" in detail
    assert "allow_workers=True" in detail


CLEAN = """
import feedwater, json, torch
from feedwater.testing import FakeTransport
from tests.integration.loop.loop_datasets import *
from torch.utils.data import DataLoader
fake = FakeTransport({0: COUNT})
loader = DataLoader(DATASET(), batch_size=4, num_workers=START)
feedwater.watch(loader, name="t", transport=fake)
torch.manual_seed(1)
for _ in range(2):
    list(loader)
a = fake.outcomes("t")[0]
print(json.dumps([loader.num_workers, a.outcome.value, a.detail, torch.get_rng_state().sum().item()]))
"""


def fly(run_dir: Path, dataset: str, start: int, count: int) -> list[Any]:
    """Return workers in use, outcome and detail after one recommendation."""
    text = CLEAN.replace("COUNT", str(count)).replace("DATASET", dataset).replace("START", str(start))
    done = script(text, run_dir)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))[:3]


@pytest.mark.parametrize(
    ("dataset", "start", "count", "outcome"),
    [
        ("Numbers", 0, 2, "applied"),
        pytest.param("Numbers", 2, 0, "applied", marks=pytest.mark.slow),
        pytest.param("Numbers", 1, 3, "applied", marks=pytest.mark.slow),
        ("NeedsNoWorker", 0, 2, "refused"),
        pytest.param("NeedsWorker", 1, 0, "refused", marks=pytest.mark.slow),
        pytest.param("NeedsWorker", 1, 2, "applied", marks=pytest.mark.slow),
    ],
)
def test_a_trial_load_decides_where_no_file_is_open(
    tmp_path: Path, dataset: str, start: int, count: int, outcome: str
) -> None:
    """A count that the user has not proven is taken where one batch loads under it, refused where not."""
    workers, came, detail = fly(tmp_path, dataset, start, count)
    assert (workers, came) == (count if outcome == "applied" else start, outcome)
    assert bool(detail) == (outcome == "refused")


def test_a_trial_load_moves_no_generator() -> None:
    """Trying a worker out leaves the main generator where it was."""
    from feedwater.loop.change import safety

    loader = DataLoader(Numbers(), batch_size=4, shuffle=True)
    before = torch.get_rng_state()
    assert safety.trial_refusal(loader, in_worker=True) == ""
    assert torch.equal(torch.get_rng_state(), before)


def test_a_trial_load_that_dies_is_a_reason() -> None:
    """A worker that fails names its error in one line, and is gone before the garbage collector comes."""
    from feedwater.loop.change import safety

    before = set(multiprocessing.active_children())
    loader = DataLoader(NeedsNoWorker(), batch_size=4)
    why = safety.trial_refusal(loader, in_worker=True)
    assert "Cannot re-initialize CUDA" in why
    assert "\n" not in why
    assert set(multiprocessing.active_children()) <= before
    loader = DataLoader(NeedsWorker(), batch_size=4)
    assert "only in a worker" in safety.trial_refusal(loader, in_worker=False)


def test_open_files_are_named_and_mapped_ones_are_not(tmp_path: Path) -> None:
    """A file open for reading is found; one for writing, a mapping and a closed one are not."""
    from feedwater.loop.change import safety

    dataset = OneFile(4)
    (tmp_path / "mapped").write_bytes(bytes(4096))
    with open(tmp_path / "log", "w"):
        mapped = torch.from_file(str(tmp_path / "mapped"), size=4096, dtype=torch.uint8)
        found = {file.path for file in safety.open_files()}
    assert str(dataset.path) in found
    assert not found & {str(tmp_path / "log"), str(tmp_path / "mapped")}
    assert mapped.sum() == 0
    dataset.file.close()


CRASH = """
import feedwater, os, signal, sys
from feedwater.testing import FakeTransport
from tests.integration.loop.loop_datasets import Numbers
from torch.utils.data import DataLoader
class Fatal(Numbers):
    def __getitem__(self, index):
        if index == 30 and loader.num_workers > 1:
            os.kill(trainer, signal.SIGKILL)  # What the memory limit does to a container.
        return super().__getitem__(index)
trainer = os.getpid()
fake = FakeTransport({0: 2})
loader = DataLoader(Fatal(), batch_size=4, num_workers=1)
feedwater.watch(loader, name="t", transport=fake, allow_workers=True)
if "forget" in sys.argv:
    from feedwater.loop.change import probation
    probation.write = lambda *a: probation.ProbationRecord(probation.Path("/nowhere"), a[2], a[3])
for _ in range(3):
    list(loader)
print(loader.num_workers, [a.outcome.value for a in fake.outcomes("t")])
"""


def incarnations(run_dir: Path, text: str, most: int) -> list[subprocess.CompletedProcess[str]]:
    """Start the script again until it ends by itself, as a kubelet does, at most ``most`` times."""
    runs = []
    for _ in range(most):
        runs.append(script(text, run_dir))
        if runs[-1].returncode == 0:
            break
    return runs


@pytest.mark.slow
def test_a_change_that_kills_the_container_kills_it_each_time_without_the_record(tmp_path: Path) -> None:
    """The harm: with no record each incarnation tries the same change and dies of it."""
    text = CRASH.replace('"forget" in sys.argv', "True")
    runs = incarnations(tmp_path, text, 2)
    assert [r.returncode for r in runs] == [-signal.SIGKILL] * 2


def test_the_second_incarnation_keeps_the_users_setting(tmp_path: Path) -> None:
    """The rule: killed once under probation, the next run keeps 1 worker, says so, and ends cleanly."""
    runs = incarnations(tmp_path, CRASH, 3)
    assert [r.returncode for r in runs] == [-signal.SIGKILL, 0], runs[-1].stderr
    assert runs[1].stdout.split(maxsplit=1) == ["1", "['refused']\n"]
    assert "died while num_workers=2 was tried" in runs[1].stderr
    assert "num_workers=1 is kept" in runs[1].stderr
    # The job ended in order: the next one is another job.
    assert list(tmp_path.glob("probation-*")) == []


@pytest.mark.slow
def test_an_incarnation_that_is_held_and_fails_leaves_the_record(tmp_path: Path) -> None:
    """A held run that ends by an error of its own is not the end of the job: the third is held too."""
    text = CRASH + "raise RuntimeError('another reason')\n"
    runs = [script(text, tmp_path) for _ in range(3)]
    assert [r.returncode for r in runs] == [-signal.SIGKILL, 1, 1]
    assert all("num_workers=1 is kept" in r.stderr for r in runs[1:])


@pytest.mark.slow
def test_a_worker_killed_under_probation_is_remembered(tmp_path: Path) -> None:
    """PyTorch's error for a dead worker ends the script in order, and still the record stays."""
    text = CRASH.replace("os.kill(trainer,", "os.kill(os.getpid(),")
    runs = incarnations(tmp_path, text, 3)
    assert [r.returncode for r in runs] == [1, 0], runs[0].stderr


def test_an_epoch_that_ends_under_a_change_clears_the_record(tmp_path: Path) -> None:
    """While the first epoch with 2 workers runs there is a record; after it there is none."""
    run_dir = tmp_path / "run"
    fake = FakeTransport({0: 2})
    loader = DataLoader(Numbers(), batch_size=4, num_workers=1)
    feedwater.watch(loader, name="t", transport=fake, allow_workers=True)
    list(loader)
    assert list(run_dir.iterdir()) == []
    iterator = iter(loader)
    (record,) = run_dir.iterdir()
    assert json.loads(record.read_text())["after"]["num_workers"] == 2
    list(iterator)
    assert list(run_dir.iterdir()) == []
    assert fake.outcomes("t")[0].outcome is Outcome.APPLIED


def test_without_a_place_for_the_record_nothing_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that cannot be made is a reason to refuse: a file stands in its place."""
    (tmp_path / "absent").write_text("")
    monkeypatch.setenv("FEEDWATER_RUN_DIR", str(tmp_path / "absent"))
    fake = FakeTransport({0: 2})
    loader = DataLoader(Numbers(), batch_size=4, num_workers=1)
    feedwater.watch(loader, name="t", transport=fake, allow_workers=True)
    for _ in range(2):
        list(loader)
    assert "No record" in fake.outcomes("t")[0].detail
    assert loader.num_workers == 1
