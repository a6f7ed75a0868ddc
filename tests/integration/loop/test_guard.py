"""Whatever of Feedwater's own fails, training and loading go on: each entry, with a failure behind it.

The entries are found, not listed: a profile function sees each call into the client's code while a training
runs. A call is an entry where its caller is PyTorch, Python's runtime or the script. Then the training is
run once for each function that an entry reaches, which raises at its first call. Each run is a forked
process, with its handlers at exit and its workers.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import sys
import sysconfig
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import feedwater
from feedwater.loop import link, process
from feedwater.testing import FakeTransport
from tests.integration.loop.loop_datasets import Numbers

CLIENT = os.path.dirname(feedwater.__file__) + os.sep
STANDARD_LIBRARY = sysconfig.get_paths()["stdlib"] + os.sep
PACKAGES = sysconfig.get_paths()["purelib"] + os.sep
UNGUARDED = {"guard.py", "testing.py"}
"""The guard itself, whose failure nothing catches, and the fake transport, which is the test's."""

Train = Callable[[], list[Any]]


class InjectedError(Exception):
    """The failure that a test injects."""


class Profile:
    """A profile function that writes the client's functions to a file, and raises in one of them, once."""

    def __init__(self, path: Path, target: str = "") -> None:
        self.seen: set[str] = set()
        self.target = target
        self.fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if event != "call" or not frame.f_code.co_filename.startswith(CLIENT):
            return
        kind = "entry" if is_entry(frame) else "inner"
        name = f"{frame.f_code.co_filename.removeprefix(CLIENT)} {_name(frame)}"
        if kind == "inner" and name == self.target:
            os.write(self.fd, b"raised\n")
            raise InjectedError(name)  # Python ends the profiling with it.
        if f"{kind} {name}" not in self.seen:
            self.seen.add(f"{kind} {name}")
            os.write(self.fd, f"{kind} {name}\n".encode())


def _name(frame: FrameType) -> str:
    code = frame.f_code
    # Python 3.10 has the name alone, which is not unique.
    return getattr(code, "co_qualname", f"{code.co_name}:{code.co_firstlineno}")


def is_entry(frame: FrameType) -> bool:
    """Return whether a call into the client comes from outside; what lies between may be the library's."""
    caller = frame.f_back
    while caller is not None and _is_library(caller.f_code.co_filename):
        caller = caller.f_back
    return caller is None or not caller.f_code.co_filename.startswith(CLIENT)


def _is_library(path: str) -> bool:
    is_standard = path.startswith((STANDARD_LIBRARY, "<")) and not path.startswith(PACKAGES)
    return is_standard or path.endswith(f"{os.sep}guard.py")


class Heavy(Numbers):
    """Few items that take long enough for the main process to time its loads."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> int:
        time.sleep(0.0005)
        return super().__getitem__(index)


def loop(loader: Any, epochs: int = 3) -> list[Any]:
    """Return the batches of some epochs, the second of which is left early."""
    lengths = [3 if epoch == 1 else None for epoch in range(epochs)]
    return [[batch.tolist() for batch in itertools.islice(loader, length)] for length in lengths]


def in_main_process() -> list[Any]:
    loader = DataLoader(Heavy(), batch_size=4)
    watched = feedwater.watch(loader, name="t", on_epoch=lambda summary, answer: None)
    seen = loop(watched)
    with contextlib.suppress(ValueError):  # Not watched, where `watch` failed.
        feedwater.history(watched)
        feedwater.recommendation(watched)
    iterator = iter(watched)
    next(iterator)
    del iterator, watched, loader
    return seen


def of_an_iterable() -> list[Any]:
    return loop(feedwater.watch([torch.tensor([number]) for number in range(12)], name="t"))


def with_workers() -> list[Any]:
    loader = DataLoader(Numbers(), batch_size=4, num_workers=1)
    return loop(feedwater.watch(loader, name="t", transport=FakeTransport({0: 2})), 2)


def over_a_relay() -> list[Any]:
    process._transport = process._link = None
    return loop(feedwater.watch(DataLoader(Numbers(), batch_size=4), name="t"), 2)


TRAININGS: dict[str, Train] = {
    f.__name__: f for f in (in_main_process, of_an_iterable, with_workers, over_a_relay)
}


def stand_in(fd: int) -> int:
    """Start a relay that takes packets and answers none."""
    pid = os.fork()
    if pid == 0:
        sys.setprofile(None)
        os.closerange(3, fd)
        with contextlib.suppress(OSError):
            while os.read(fd, 1 << 16):
                pass
        os._exit(0)
    return pid


def run(train: Train, path: Path, target: str = "") -> str:
    """Return what went wrong in a forked training, empty if nothing; what it called is in the file."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            text = _trouble(train, Profile(path, target), str(path.with_suffix(".run")))
        except BaseException:
            text = traceback.format_exc()
        os.write(write, text.encode()[-8000:])
        os._exit(0)
    os.close(write)
    with open(read) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return text


def _trouble(train: Train, profile: Profile, run_dir: str) -> str:
    sys.stderr = sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    expected = train_plainly(train)
    unraisable: list[str] = []
    sys.unraisablehook = lambda args: unraisable.append(repr(args.exc_value))
    os.environ["FEEDWATER_DEADLINE_SECONDS"] = "0.01"
    os.environ["FEEDWATER_RUN_DIR"] = run_dir
    process._transport = FakeTransport()
    link._start = stand_in
    process.prepare(lambda: None, lambda: None)
    sys.setprofile(profile)
    seen = train()
    atexit._run_exitfuncs()
    sys.setprofile(None)
    return "\n".join(unraisable) if seen == expected else f"{seen} instead of {expected}"


def train_plainly(train: Train) -> list[Any]:
    """Return what the training gives where Feedwater is disabled."""
    process._settings = None
    os.environ["FEEDWATER_DISABLED"] = "1"
    seen = train()
    del os.environ["FEEDWATER_DISABLED"]
    process._settings = None
    return seen


def calls(path: Path) -> set[str]:
    return set(path.read_text().splitlines())


@pytest.fixture(scope="module")
def reached(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Return the client's functions that each training calls, as "entry" or "inner", file and name."""
    found = {}
    for name, train in TRAININGS.items():
        path = tmp_path_factory.mktemp("calls") / name
        assert run(train, path) == ""
        found[name] = calls(path)
    return found


def injections(reached: dict[str, set[str]]) -> Iterator[tuple[str, str]]:
    """Yield each function that an entry reaches, once, with the first training that calls it."""
    done: set[str] = set()
    for name, found in reached.items():
        for call in sorted(found):
            kind, target = call.split(" ", 1)
            if kind == "inner" and target not in done and target.split()[0] not in UNGUARDED:
                done.add(target)
                yield name, target


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("in_main_process", marks=pytest.mark.slow),
        "of_an_iterable",
        pytest.param("with_workers", marks=pytest.mark.slow),
        "over_a_relay",
    ],
)
def test_training_goes_on_whatever_of_ours_fails(
    name: str, reached: dict[str, set[str]], tmp_path: Path
) -> None:
    """Each of the functions behind an entry raises once: the same batches come, and nothing is raised."""
    trouble = {}
    targets = [target for first, target in injections(reached) if first == name]
    raised = 0
    for number, target in enumerate(targets):
        path = tmp_path / str(number)
        if text := run(TRAININGS[name], path, target):
            trouble[target] = text
        raised += "raised" in calls(path)
    # A few are called by the pace of the machine alone.
    assert raised >= 0.9 * len(targets) > 0
    assert not trouble, "\n".join(f"{target}: {text}" for target, text in trouble.items())


def test_entries_of_every_kind_are_found(reached: dict[str, set[str]]) -> None:
    """The search finds what it must to mean anything: loop, boundary, workers, exit, forks."""
    found = {call for calls in reached.values() for call in calls if call.startswith("entry")}
    entries = {call.split()[-1].split(".")[-1].split(":")[0] for call in found}
    assert entries >= {"__next__", "__iter__", "__init__", "_end", "_close_all", "_detach_all", "watch"}
    assert entries >= {"timed_fetch", "create_fetcher", "__call__", "history", "recommendation"}
