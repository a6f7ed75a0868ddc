"""What goes wrong in a training process goes wrong exactly as it does without Feedwater."""

from __future__ import annotations

import copy
import gc
import itertools
import logging
import os
import pickle
import subprocess
import sys
import threading
import time
import traceback
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import feedwater
from feedwater.loop import process, registry
from feedwater.testing import Advice, FakeTransport
from feedwater.values import Answer, EpochSummary, Outcome
from tests.integration.loop.loop_datasets import Failing, Nested, Numbers
from tests.support.processes import root_environment


def outcome(loader: Any) -> tuple[list[Any], str]:
    """Return the batches that came, and what ended them."""
    seen: list[Any] = []
    try:
        for batch in loader:
            seen.append(batch.tolist())
    except Exception as error:
        lines = [line for line in str(error).splitlines() if "pid" not in line and "File" not in line]
        # What holds the iterator: PyTorch waits 5 s for each worker of one that is left to the collector.
        traceback.clear_frames(error.__traceback__)
        return seen, f"{type(error).__name__}: {lines[0] if lines else ''}"
    return seen, "ended"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataset_that_raises_raises_the_same(workers: int) -> None:
    """The same batches come, then the same error; the epoch is reported as incomplete."""
    fake = FakeTransport()
    plain = DataLoader(Failing(), batch_size=4, num_workers=workers)
    watched = feedwater.watch(
        DataLoader(Failing(), batch_size=4, num_workers=workers), name="t", transport=fake
    )
    assert outcome(watched) == outcome(plain)
    gc.collect()
    list(itertools.islice(watched, 1))
    assert (fake.ends("t")[0].epoch, fake.ends("t")[0].complete) == (0, False)


KILLED = """
import feedwater
from feedwater.testing import FakeTransport
from tests.integration.loop.loop_datasets import Dying
from torch.utils.data import DataLoader
loader = DataLoader(Dying(), batch_size=4, num_workers=1, persistent_workers={persistent})
if {watched}:
    feedwater.watch(loader, transport=FakeTransport())
try:
    for batch in loader:
        pass
except (RuntimeError, EOFError, ConnectionError) as error:
    # Which of them comes is a race between the queue and SIGCHLD in PyTorch itself.
    print("killed", isinstance(error, (RuntimeError, OSError, EOFError)))
"""


@pytest.mark.parametrize("persistent", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("watched", [False, True])
def test_a_killed_worker_ends_the_loop_as_pytorch_does(persistent: bool, watched: bool) -> None:
    """A dead worker raises out of the loop, watched or not; its SIGCHLD handler may raise again."""
    text = KILLED.format(persistent=persistent, watched=watched)
    done = subprocess.run(
        [sys.executable, "-c", text],
        env=root_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "killed True\n" or "DataLoader worker" in done.stderr
    assert "feedwater:" not in done.stderr


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("persistent", [False, True])
def test_break_reports_an_incomplete_epoch(workers: int, persistent: bool) -> None:
    """Three batches of an epoch that is left count as three, and the next epoch is whole."""
    if persistent and not workers:
        persistent = False
    fake = FakeTransport()
    loader = DataLoader(Numbers(), batch_size=4, num_workers=workers, persistent_workers=persistent)
    feedwater.watch(loader, name="t", transport=fake)
    for n, _ in enumerate(loader, 1):
        if n == 3:
            break
    assert len(list(loader)) == 12
    assert [(e.epoch, e.head, e.complete) for e in fake.ends("t")] == [(0, 3, False), (1, 15, True)]
    assert [e.batches for e in feedwater.history(loader)] == [3, 12]


def test_leaving_each_epoch_early_does_not_keep_persistent_workers_from_changing() -> None:
    """Nobody holds the iterator after a break: the change is applied, old workers go."""
    fake = FakeTransport({0: 2})
    loader = DataLoader(Numbers(), batch_size=4, num_workers=1, persistent_workers=True)
    feedwater.watch(loader, name="t", transport=fake, allow_workers=True)
    for _ in range(2):
        for n, _batch in enumerate(loader, 1):
            if n == 2:
                break
    assert [a.outcome for a in fake.outcomes("t")] == [Outcome.APPLIED]
    assert len(fake.begins("t")[1].worker_pids) == 2


def test_an_iterator_that_is_collected_ends_its_epoch() -> None:
    """Dropping the iterator is enough; nobody need begin another."""
    fake = FakeTransport()
    loader = feedwater.watch(DataLoader(Numbers()), name="t", transport=fake)
    iterator = iter(loader)
    next(iterator)
    assert fake.ends("t") == []
    del iterator
    gc.collect()
    assert [(e.head, e.complete) for e in fake.ends("t")] == [(1, False)]


@pytest.mark.parametrize("workers", [0, 2])
def test_two_iterators_of_one_loader_give_what_they_gave(workers: int) -> None:
    """zip(loader, loader) yields equal pairs, twelve of them, as without Feedwater."""
    fake = FakeTransport({0: 1, 1: 1})
    loader = DataLoader(Numbers(), batch_size=4, num_workers=workers)
    feedwater.watch(loader, name="t", transport=fake, allow_workers=True)
    for _ in range(2):
        pairs = list(zip(loader, loader, strict=True))
        assert [a.tolist() for a, _ in pairs] == [b.tolist() for _, b in pairs]
        assert len(pairs) == 12


def test_persistent_workers_in_use_elsewhere_are_left_alone() -> None:
    """While another iterator serves its workers a change is refused, and that iterator goes on."""
    fake = FakeTransport({0: 2})
    loader = DataLoader(Numbers(), batch_size=4, num_workers=1, persistent_workers=True)
    feedwater.watch(loader, name="t", transport=fake, allow_workers=True)
    first = iter(loader)
    for _ in range(2):
        next(first)
    second = iter(loader)
    assert second is first
    assert len(list(second)) == 12
    assert fake.outcomes("t")[0].outcome is Outcome.REFUSED


def test_keyboard_interrupt_arrives_and_leaves_no_probation(tmp_path: Any) -> None:
    """Ctrl-C in an epoch under probation is the user's wish, not the change's fault."""

    class Interrupted(Numbers):
        def __getitem__(self, index: int) -> torch.Tensor:
            if index == 20 and os.environ.get("INTERRUPT"):
                raise KeyboardInterrupt
            return super().__getitem__(index)

    fake = FakeTransport({0: Advice(0)})
    loader = DataLoader(Interrupted(), num_workers=1)
    feedwater.watch(loader, name="t", transport=fake, allow_workers=True)
    list(loader)
    iterator = iter(loader)
    assert list((tmp_path / "run").iterdir()) != []
    os.environ["INTERRUPT"] = "1"
    try:
        with pytest.raises(KeyboardInterrupt):
            list(iterator)
    finally:
        del os.environ["INTERRUPT"]
    assert list((tmp_path / "run").iterdir()) == []


def test_no_thread_and_no_grpc_in_the_process() -> None:
    """After epochs with workers no thread but PyTorch's feeders came, and no gRPC, protobuf or NumPy."""
    before, threads = set(sys.modules), set(threading.enumerate())
    loader = feedwater.watch(DataLoader(Numbers(), num_workers=1), transport=FakeTransport({0: 2}))
    for _ in range(2):
        list(loader)
    added = {name.partition(".")[0] for name in set(sys.modules) - before}
    assert {t.name for t in set(threading.enumerate()) - threads} <= {"QueueFeederThread"}
    assert not added & {"grpc", "google", "numpy", "psutil"}


def test_a_transport_that_raises_does_not_reach_training(caplog: pytest.LogCaptureFixture) -> None:
    """An error of ours ends the measuring with one line; all batches come."""

    class Broken(FakeTransport):
        def end_epoch(self, *args: Any) -> None:
            raise RuntimeError("boom")

    loader = feedwater.watch(DataLoader(Numbers(), batch_size=4), transport=Broken())
    with caplog.at_level(logging.WARNING, "feedwater"):
        assert [len(list(loader)) for _ in range(3)] == [12, 12, 12]
    assert len([r for r in caplog.records if "boom" in r.getMessage()]) == 1


def test_on_epoch_hears_each_boundary_and_its_errors_are_absorbed(caplog: pytest.LogCaptureFixture) -> None:
    """Two boundaries, two calls with the epoch's summary; a raising callback is logged once."""
    heard: list[tuple[EpochSummary, Answer]] = []

    def hear(summary: EpochSummary, answer: Answer) -> None:
        heard.append((summary, answer))
        raise RuntimeError("logger down")

    fake = FakeTransport({0: Advice(0, verdict="NOT_STARVED")})
    loader = feedwater.watch(DataLoader(Numbers(), batch_size=4), on_epoch=hear, transport=fake)
    with caplog.at_level(logging.WARNING, "feedwater"):
        for _ in range(3):
            list(loader)
    assert [(s.epoch, s.batches, s.verdict) for s, _ in heard] == [(0, 12, "NOT_STARVED"), (1, 12, "UNKNOWN")]
    assert heard[0][1].recommendation is not None
    assert sum("logger down" in r.getMessage() for r in caplog.records) == 1
    assert feedwater.recommendation(loader) is heard[0][1].recommendation


@pytest.mark.parametrize(
    ("mode", "policy", "expected"),
    [
        ("advise", None, Outcome.ADVISED),
        ("auto", "advise", Outcome.ADVISED),
        ("auto", "auto", Outcome.APPLIED),
        ("advise", "auto", Outcome.ADVISED),
    ],
)
def test_policy_lowers_the_mode_and_never_raises_it(mode: str, policy: str | None, expected: Outcome) -> None:
    """The lower of the script's and the policy's word holds."""
    policy_mode = feedwater.Mode(policy) if policy else None
    fake = FakeTransport({0: 1}, mode=policy_mode)
    loader = DataLoader(Numbers(), batch_size=4)
    feedwater.watch(loader, name="t", mode=mode, transport=fake, allow_workers=True)
    for _ in range(2):
        list(loader)
    assert [a.outcome for a in fake.outcomes("t")] == [expected]
    assert loader.num_workers == (1 if expected is Outcome.APPLIED else 0)


def test_the_change_is_said_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """At INFO there is one line for the epoch that brought a change, with the sentence, none for others."""
    fake = FakeTransport({0: Advice(1, sentence="num_workers 0 to 1: the loader is too slow.")})
    loader = feedwater.watch(DataLoader(Numbers(), batch_size=4), transport=fake, allow_workers=True)
    with caplog.at_level(logging.INFO, "feedwater"):
        for _ in range(3):
            list(loader)
    lines = [r.getMessage() for r in caplog.records if "epoch" in r.getMessage()]
    assert len(lines) == 1
    assert "num_workers 0 to 1: the loader is too slow." in lines[0]


def test_the_same_advice_is_said_once_and_other_ranks_are_silent(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three epochs of one refusal are one line; at rank 1 there is none."""
    advice = {n: Advice(2, sentence="2 workers would do.") for n in range(3)}
    for rank, lines in ((0, 1), (1, 0)):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setattr(process, "_settings", None)
        caplog.clear()
        loader = DataLoader(Numbers(), batch_size=4)
        feedwater.watch(loader, name=f"t{rank}", mode="advise", transport=FakeTransport(advice))
        with caplog.at_level(logging.INFO, "feedwater"):
            for _ in range(4):
                list(loader)
        assert sum("2 workers would do." in r.getMessage() for r in caplog.records) == lines


def test_an_absent_sidecar_is_said_once_per_change_of_state(caplog: pytest.LogCaptureFixture) -> None:
    """Away, away, back, away again: three lines."""
    fake = FakeTransport(connected=False)
    loader = feedwater.watch(DataLoader(Numbers(), batch_size=24), transport=fake)
    with caplog.at_level(logging.INFO, "feedwater"):
        for connected in (False, False, False, True, False):
            fake.connected = connected
            list(loader)
    lines = [r.getMessage() for r in caplog.records]
    assert [("unavailable" in line, "connected to" in line) for line in lines] == [
        (True, False),
        (False, True),
        (True, False),
    ]
    assert "training continues with num_workers=0" in lines[0]


def test_a_change_that_cannot_be_made_is_taken_back() -> None:
    """Where the iterator under the new count cannot be made, the old count goes on and FAILED is reported."""

    class Unpicklable(Numbers):
        def __reduce__(self) -> Any:
            raise TypeError("cannot be pickled")

    import multiprocessing

    fake = FakeTransport({0: 1})
    loader = DataLoader(Unpicklable(), batch_size=4)
    feedwater.watch(loader, name="t", transport=fake, allow_workers=True)
    list(loader)
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        with pytest.warns(UserWarning, match="pickle error"):
            assert len(list(loader)) == 12
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert [a.outcome for a in fake.outcomes("t")] == [Outcome.APPLIED, Outcome.FAILED]
    assert (loader.num_workers, loader.prefetch_factor) == (0, None)


def test_torch_warning_about_many_workers_is_silent_only_for_our_count() -> None:
    """Warnings are errors here: 64 of ours draw none, 64 of the user's do."""
    many = 3 * (os.cpu_count() or 1)
    loader = DataLoader(Numbers(), batch_size=1)
    feedwater.watch(loader, transport=FakeTransport({0: many}), allow_workers=True)
    for _ in range(2):
        assert len(list(loader)) == 48
    assert loader.num_workers == many
    with pytest.warns(UserWarning, match="might get DataLoader running slow"):
        DataLoader(Numbers(), num_workers=many)


def test_timeout_and_zero_workers_clash_is_refused() -> None:
    """PyTorch asserts that 0 workers have no timeout: the change is refused with that reason."""
    fake = FakeTransport({0: 0})
    loader = DataLoader(Numbers(), batch_size=4, num_workers=1, timeout=30)
    feedwater.watch(loader, name="t", transport=fake, allow_workers=True)
    for _ in range(2):
        list(loader)
    assert "timeout" in fake.outcomes("t")[0].detail


def test_persistent_workers_are_gone_after_a_change() -> None:
    """No worker of the old count lives on once the new ones were made."""
    fake = FakeTransport({0: 2, 1: 1})
    loader = DataLoader(Numbers(), batch_size=4, num_workers=1, persistent_workers=True)
    feedwater.watch(loader, name="t", transport=fake, allow_workers=True)
    for _ in range(3):
        list(loader)
    first, second, third = (b.worker_pids for b in fake.begins("t"))
    assert (len(first), len(second), len(third)) == (1, 2, 1)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in first + second)


def test_a_users_own_change_wins() -> None:
    """A count that the user assigns meanwhile becomes the user's own setting."""
    fake = FakeTransport({0: 1})
    loader = DataLoader(Numbers(), batch_size=4, num_workers=2)
    feedwater.watch(loader, name="t", transport=fake)
    list(loader)
    loader.num_workers = 3
    for _ in range(2):
        list(loader)
    loader.num_workers = 2
    list(loader)
    assert [b.settings.num_workers for b in fake.begins("t")] == [2, 1, 1, 2]


def test_watched_loaders_copy_and_pickle_as_before() -> None:
    """A pickled or copied loader is whole, and carries nothing of Feedwater."""
    loader = feedwater.watch(DataLoader(Numbers(), batch_size=4), transport=FakeTransport())
    list(loader)
    for twin in (pickle.loads(pickle.dumps(loader)), copy.copy(loader), copy.deepcopy(loader)):
        assert vars(twin).keys() == vars(DataLoader(Numbers())).keys()
        assert len(list(twin)) == 12


def test_nested_loaders_in_workers_write_nothing() -> None:
    """Each worker stores its own 12 batches, not those of the loaders inside its dataset."""
    fake = FakeTransport()
    loader = feedwater.watch(DataLoader(Nested(), batch_size=4, num_workers=1), name="t", transport=fake)
    list(loader)
    assert len(fake.loads("t")) == 12
    assert len(fake.timings("t")) == 12


def test_a_forked_child_writes_nothing() -> None:
    """A child that goes on with its parent's iterator leaves the parent's ring as it was."""
    fake = FakeTransport()
    loader = feedwater.watch(DataLoader(Numbers(), batch_size=4), name="t", transport=fake)
    iterator = iter(loader)
    next(iterator)
    child = os.fork()
    if child == 0:
        list(iterator)
        os._exit(0 if len(list(loader)) == 12 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(fake.timings("t")) == 1
    assert len(list(iterator)) == 11
    assert [e.head for e in fake.ends("t")] == [12]


def test_many_epochs_and_loaders_leak_no_descriptor_and_no_memory() -> None:
    """Forty loaders leave at most the descriptors of the four rings that are kept.

    Three for each: the ring's own, and one in the mapping of the mark and of the fake transport.
    """
    fake = FakeTransport({n: 1 + n % 2 for n in range(40)})
    loader = DataLoader(Numbers(8), batch_size=4, num_workers=1)
    feedwater.watch(loader, name="t", transport=fake, allow_workers=True)
    list(loader)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(40):
        list(loader)
    # A queue's are closed by its feeder thread, later; what leaks stays.
    until = time.monotonic() + 10
    while len(os.listdir("/proc/self/fd")) > before + 8 and time.monotonic() < until:
        time.sleep(0.05)
    assert len(os.listdir("/proc/self/fd")) <= before + 8
    for _ in range(40):
        list(feedwater.watch(DataLoader(Numbers(8)), transport=FakeTransport()))
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before + 3 * (registry.ORPHANS + 1)


def test_an_endless_iterator_is_cut_by_the_loaders_length() -> None:
    """A loader like timm's, whose iterator never ends, has epochs of len(loader) batches and gets advice."""

    class Repeat:
        def __init__(self, sampler: Any) -> None:
            self.sampler = sampler

        def __iter__(self) -> Any:
            while True:
                yield from iter(self.sampler)

    class MultiEpochs(DataLoader[Any]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._DataLoader__initialized = False
            self.batch_sampler = Repeat(self.batch_sampler)
            self._DataLoader__initialized = True
            self.iterator = super().__iter__()

        def __len__(self) -> int:
            return len(self.batch_sampler.sampler)

        def __iter__(self) -> Any:
            for _ in range(len(self)):
                yield next(self.iterator)

    fake = FakeTransport({0: 2})
    loader = MultiEpochs(Numbers(), batch_size=4, num_workers=1)
    assert feedwater.watch(loader, name="t", transport=fake) is loader
    for _ in range(3):
        assert len(list(loader)) == 12
    assert [e.batches for e in feedwater.history(loader)] == [12, 12]
    assert [(e.epoch, e.head, e.complete) for e in fake.ends("t")] == [(0, 12, True), (1, 24, True)]
    assert [(b.epoch, b.head) for b in fake.begins("t")] == [(0, 0), (1, 12), (2, 24)]
    assert [a.outcome for a in fake.outcomes("t")] == [Outcome.ADVISED]


def test_times_add_up() -> None:
    """Start-up, waits and steps of an epoch make its seconds; the numbers are those of the ring."""
    fake = FakeTransport()
    loader = DataLoader(Numbers(12, load_seconds=0.001), batch_size=4)
    feedwater.watch(loader, name="t", transport=fake)
    for _ in loader:
        time.sleep(0.002)
    (epoch,) = feedwater.history(loader)
    first, *others = fake.timings("t")
    waits = sum(b.exit_ns - b.enter_ns for b in others) / 1e9
    assert epoch.wait_seconds == pytest.approx(waits)
    assert epoch.step_seconds >= 3 * 0.002
    ended = fake.ends("t")[0]
    parts = epoch.start_up_seconds + epoch.wait_seconds + epoch.step_seconds + ended.teardown_seconds
    assert epoch.seconds == pytest.approx(parts)
    assert first.exit_ns > first.enter_ns


def test_queue_depth_is_read_after_a_long_wait_only() -> None:
    """Slow loads leave a depth beside their waits; batches that lay ready leave none."""
    fake = FakeTransport()
    slow = DataLoader(Numbers(8, load_seconds=0.01), batch_size=1, num_workers=1)
    feedwater.watch(slow, name="slow", transport=fake)
    list(slow)
    assert all(b.ready >= 0 for b in fake.timings("slow") if b.exit_ns - b.enter_ns > 200_000)
    assert any(b.ready >= 0 for b in fake.timings("slow"))


def test_a_look_at_the_data_before_each_epoch_asks_nothing() -> None:
    """``next(iter(loader))`` is an epoch of one batch; the sidecar is asked for the others alone."""
    fake = FakeTransport({0: 3})
    loader = feedwater.watch(DataLoader(Numbers(8), batch_size=4, num_workers=2), name="t", transport=fake)
    for _ in range(2):
        list(loader)
        next(iter(loader))
    list(loader)
    assert [epoch for _, epoch in fake.requests] == [0, 2]
    assert loader.num_workers == 3
