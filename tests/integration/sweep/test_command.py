"""``feedwater sweep``: the real command on a real loader, with a real sidecar, under real limits."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.processes import cgroup, clean_environment, enter, limit_cores

MODULE = """
import os, time, torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

class Blocked(Dataset):
    def __len__(self):
        return 480
    def __getitem__(self, index):
        time.sleep(0.002)
        return torch.full((16,), float(index))

class Fragile(Blocked):
    def __getitem__(self, index):
        info = get_worker_info()
        if info and info.num_workers == 2:
            raise OSError("disk on fire")
        if info and info.num_workers == 3:
            os.kill(os.getpid(), 9)
        return super().__getitem__(index)

class Hungry(Blocked):
    def __getitem__(self, index):
        if get_worker_info() and not hasattr(self, "kept"):
            self.kept = bytearray(120 << 20)
        return super().__getitem__(index)

class Stream(IterableDataset):
    def __iter__(self):
        info = get_worker_info()
        for index in range(info.id if info else 0, 480, info.num_workers if info else 1):
            time.sleep(0.002)
            yield index

def make_loader(dataset=Blocked, **options):
    print("made")
    return DataLoader(dataset(), batch_size=4, num_workers=1, **options)

def fragile():
    return make_loader(Fragile)

def hungry():
    return make_loader(Hungry)

def stream():
    return make_loader(Stream)

def persistent():
    return make_loader(persistent_workers=True)

def watched():
    import feedwater
    return feedwater.watch(make_loader(), name="mine", mode="auto")

def step(batch):
    time.sleep(0.001)

def marking(batch):
    if os.environ.get("FEEDWATER_DISABLED"):
        with open("steps", "a") as file:
            file.write("x")

def never():
    return DataLoader([], batch_size=4)
"""
QUICK = ("--batches", "40", "--rounds", "2", "--max-workers", "2")
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """What starts ``feedwater sweep`` in a directory with the module ``mine``."""
    (tmp_path / "mine.py").write_text(textwrap.dedent(MODULE))
    started = []

    def begin(*arguments: str, groups: tuple[Path, ...] = (), prefix: tuple[str, ...] = ()) -> object:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "feedwater", "sweep", *arguments],
            env=clean_environment() | {"COLUMNS": "100"},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=partial(_enter_all, groups) if groups else None,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate()


def _enter_all(groups: tuple[Path, ...]) -> None:
    for group in groups:
        enter(group)


@pytest.fixture
def sweep(start: Start) -> Callable[..., tuple[int, str, str]]:
    """What runs ``feedwater sweep`` and returns exit code, standard output and standard error."""

    def run(*arguments: str, **options: object) -> tuple[int, str, str]:
        process = start(*arguments, **options)
        out, errors = process.communicate(timeout=200)
        return process.returncode, out, errors

    return run


@pytest.mark.cgroup
@pytest.mark.timeout(240)
def test_sweep_under_a_quota_measures_predicts_and_draws(sweep, tmp_path):
    """Under half a core: three counts measured in two rounds, each predicted; table and JSON agree."""
    with cgroup("cpu") as group:
        limit_cores(group, 0.5)
        code, out, errors = sweep(
            "mine:make_loader",
            *QUICK,
            *("--step", "mine:step", "--json", "found.json", "--plot", "found.png"),
            groups=(group,),
        )
    assert code == 0, errors
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["limits"]["cpu_quota_cores"] == 0.5
    assert found["own_settings"]["num_workers"] == 1
    assert (found["batches"], found["epoch_batches"], found["stopped"]) == (40, 120, None)
    rows = {row["num_workers"]: row for row in found["rows"]}
    assert sorted(rows) == [0, 1, 2]
    for workers, row in rows.items():
        assert len(row["batches_per_second_by_round"]) == 2
        low, high = sorted(row["batches_per_second_by_round"])
        assert row["batches_per_second"] == pytest.approx((low + high) / 2)
        made = row["prediction"]
        assert made["settings"]["num_workers"] == workers
        lower, upper = made["batches_per_second_lower"], made["batches_per_second_upper"]
        assert lower <= made["batches_per_second"] <= upper
        assert row["error"] == pytest.approx(made["batches_per_second"] / row["batches_per_second"] - 1)
    assert rows[2]["worker_bytes"] > rows[1]["worker_bytes"] > 1 << 20
    best = max(rows.values(), key=lambda row: row["batches_per_second"])
    assert found["best"]["num_workers"] == best["num_workers"]
    assert "a quota of 0.5 cores" in out
    assert "mine:step, called with each batch" in out
    assert "each epoch the first 40 of 120 batches" in out
    assert "Best: num_workers=" in out
    assert "Feedwater, from one epoch at your setting, would choose num_workers=" in out
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_json_alone_on_standard_output(sweep):
    """``--json -``: one object, though the user's code prints; the table is on standard error."""
    code, out, errors = sweep("mine:make_loader", *QUICK, "--json", "-")
    assert code == 0, errors
    assert len(json.loads(out)["rows"]) == 3
    assert "made" in errors
    assert "predicted" in errors


@pytest.mark.slow
def test_setting_that_fails_is_a_row_and_the_sweep_goes_on(sweep, tmp_path):
    """At 2 workers the dataset raises, at 3 a worker is killed; 0, 1 and 4 are measured."""
    code, out, errors = sweep(
        "mine:fragile", "--batches", "40", "--rounds", "2", "--max-workers", "4", "--json", "found.json"
    )
    assert code == 0, errors
    rows = {row["num_workers"]: row for row in json.loads((tmp_path / "found.json").read_text())["rows"]}
    assert [n for n, row in sorted(rows.items()) if row["batches_per_second"]] == [0, 1, 4]
    assert rows[2]["failure"] == "OSError: disk on fire (in DataLoader worker process 0)"
    assert "worker" in rows[3]["failure"]
    assert "failed: OSError: disk on fire" in out


@pytest.mark.slow
@pytest.mark.parametrize("target", ["mine:stream", "mine:persistent", "mine:watched"])
def test_other_loaders_are_swept_as_well(sweep, tmp_path, target):
    """A stream, workers that persist, and a loader that the user's own code watches in mode auto."""
    code, out, errors = sweep(target, *QUICK, "--json", "found.json")
    assert code == 0, errors
    found = json.loads((tmp_path / "found.json").read_text())
    assert [row["num_workers"] for row in found["rows"]] == [0, 1, 2]
    assert all(len(row["batches_per_second_by_round"]) == 2 for row in found["rows"])
    assert found["recommendation"] is not None, found["no_recommendation"]
    assert found["is_iterable"] == ("IterableDataset" in out) == (target == "mine:stream")


@pytest.mark.slow
def test_prefetch_factors_are_settings_of_their_own(sweep, tmp_path):
    """Two depths for 1 and 2 workers, none without; only the loader's own depth is predicted."""
    code, out, errors = sweep("mine:make_loader", *QUICK, "--prefetch", "2,4", "--json", "found.json")
    assert code == 0, errors
    found = json.loads((tmp_path / "found.json").read_text())
    rows = {(row["num_workers"], row["prefetch_factor"]): row for row in found["rows"]}
    assert sorted(rows, key=str) == [(0, None), (1, 2), (1, 4), (2, 2), (2, 4)]
    assert rows[2, 2]["prediction"] is not None
    assert rows[2, 4]["prediction"] is None
    assert rows[2, 4]["batches_per_second"] > 0
    assert "prefetch" in out


@pytest.mark.slow
def test_budget_of_time_ends_it_with_what_there_is(sweep, tmp_path):
    """A hundred rounds do not fit into 15 s: some were measured, and the reason is said."""
    code, out, errors = sweep(
        "mine:make_loader",
        *("--batches", "40", "--rounds", "100", "--max-workers", "1", "--budget-seconds", "15"),
        *("--json", "found.json"),
    )
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["stopped"] == "the time set by --budget-seconds is up"
    measured = [len(row["batches_per_second_by_round"]) for row in found["rows"]]
    assert max(measured) < 100
    assert code == (0 if any(measured) else 1), errors
    assert "--budget-seconds" in out


@pytest.mark.timeout(240)
def test_interrupted_sweep_shows_what_was_measured(start, tmp_path):
    """Ctrl-C once the rounds run: the table, and exit code 130."""
    process = start(
        "mine:make_loader",
        *("--batches", "40", "--rounds", "1000", "--max-workers", "1", "--step", "mine:marking"),
    )
    # Three processes import torch before; at a load of 25 on two cores that took over a minute.
    until = time.monotonic() + 150
    # Only the sweep's own steps are marked: after 215 there are five epochs of 40, and part of a sixth.
    while not (steps := tmp_path / "steps").exists() or steps.stat().st_size < 215:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Stopped early: interrupted." in out
    assert "Best: num_workers=" in out
    assert "Traceback" not in errors


@pytest.mark.slow
@pytest.mark.cgroup
def test_setting_that_memory_does_not_carry_is_not_started(sweep, tmp_path):
    """Workers of 120 MiB and more under a limit of 1,300 MiB: 1 and 2 run, 12 would not fit."""
    with cgroup("memory") as group:
        (group / "memory.limit_in_bytes").write_text(str(1300 << 20))
        code, out, errors = sweep(
            *(
                "mine:hungry",
                "--batches",
                "40",
                "--rounds",
                "1",
                "--max-workers",
                "12",
                "--json",
                "found.json",
            ),
            groups=(group,),
        )
    assert code == 0, errors
    rows = {row["num_workers"]: row for row in json.loads((tmp_path / "found.json").read_text())["rows"]}
    assert rows[1]["worker_bytes"] > 120 << 20
    assert rows[2]["batches_per_second"] > 0
    assert rows[12]["is_refused"]
    assert rows[12]["batches_per_second_by_round"] == []
    assert "not run: needs" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere:make_loader",), "no module 'nowhere'"),
        (("mine:make_loder",), "did you mean 'make_loader'?"),
        (("mine:Blocked",), "expected a DataLoader, got mine.Blocked"),
        (("mine:never",), "the loader gives no batch"),
        (("mine:make_loader", "--step", "mine:nothing"), "has no 'nothing'"),
        (("mine:make_loader", "--rounds", "0"), "expected 1 or more"),
        (("mine:make_loader", "--prefetch", "2,x"), "--prefetch"),
    ],
)
def test_misuse_is_said_with_exit_code_2(sweep, arguments, said):
    """One message, no traceback of ours, nothing on standard output."""
    code, out, errors = sweep(*arguments)
    assert (code, out) == (2, "")
    assert said in errors
    assert "Traceback" not in errors


def test_plot_without_matplotlib_is_said_before_anything_runs(tmp_path):
    """Exit code 2 and how to get it."""
    done = _with_hidden("matplotlib", tmp_path, "mine:make_loader", "--plot", "x.png")
    assert done.returncode == 2
    assert "pip install matplotlib" in done.stderr


@pytest.mark.slow
def test_without_the_service_it_measures_and_predicts_nothing(tmp_path):
    """The table has no predictions, and a note says how to get them."""
    (tmp_path / "mine.py").write_text(textwrap.dedent(MODULE))
    done = _with_hidden("feedwater_service", tmp_path, "mine:make_loader", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "pip install 'feedwater[sweep]'" in done.stdout
    assert "Best: num_workers=" in done.stdout


def test_help_needs_no_torch(tmp_path):
    """``--help`` and a bare import stay light: neither torch, numpy nor grpc is loaded."""
    code = """
    import sys
    from feedwater.cli import main
    try:
        main(["sweep", "--help"])
    finally:
        assert not {"torch", "numpy", "grpc", "rich", "matplotlib"} & set(sys.modules)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "MODULE:NAME" in done.stdout


def _with_hidden(module: str, directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    hide = f"""
    import importlib.util, sys
    find = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *rest: None if name == {module!r} else find(name, *rest)
    from feedwater.cli import main
    sys.exit(main(["sweep", *sys.argv[1:]]))
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(hide), *arguments],
        env=clean_environment(),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=100,
    )
