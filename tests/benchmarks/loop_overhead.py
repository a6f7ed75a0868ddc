"""What does `watch` cost the training loop per batch, and what do others cost that do this job?

Timed: ``next()`` on the loop's thread, from the second batch of an epoch to its last, on a trivial dataset,
so that what Feedwater adds is not drowned in loading. Not timed: ``iter()``, the first batch and the end of
the epoch (see ``boundary.py``), and the relay, which is another process (see ``training_overhead.py``).

Watched, unwatched and the others' loops take turns within one process, in blocks of 2,000 batches, on one
and the same iterator: where its parts lie in memory matters more than the hook. For all but the watched
blocks PyTorch's own ``__next__`` is put back, because the hook sits on the class. One run is a fresh
process and gives the difference of the medians over its blocks.

That difference is two in eight microseconds of PyTorch's own, and a busy machine moves it by more. So the
figure for a ``DataLoader``, and every 99.9th percentile, is taken batch by batch: the caller stamps before
and after ``next()``, the ring holds the hook's own two stamps within, and the difference of the two spans
is what the hook spent outside its own stamps plus the caller's clock reads, which cost what the hook's
cost. The storing of the stamps, once in some dozens of batches, shows in the mean, which is beside it, and
in the percentile.

The others do what they do in the body of the same loops: a call between two batches of a ``DataLoader``
costs more than in an empty loop, because 8 µs of PyTorch lie between. The reference is two labelled
``prometheus_client`` ``Histogram.observe``, with ``labels()`` per call as in its documentation and, the
strictest reading, with the labelled children looked up beforehand. Others that are not installed are left
out: ``pip install 'feedwater[bench]'``.

    python -m tests.benchmarks.loop_overhead --json tests/benchmarks/results/loop_overhead.json
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tests.support.benchmark import Options, Row, log, options, percentile, publish, quiet, row
from tests.support.processes import Sidecar, end, remove, root_environment, scratch

BLOCK = 2_000
"""Batches in a block: 15 ms, short against the machine's moods, long against the clock."""
LENGTH = 1_000_000_000
"""Of the dataset: the epoch never ends, so that no boundary is in a block."""
SKIPPED = -1
SETTLE_SECONDS = 1.5
"""Until the relay has connected and polled once."""


# ---------------------------------------------------------------- players: a process told by lines on stdin


def play(name: str) -> None:
    """Answer each line, a number of batches, with a line of JSON, until stdin ends."""
    answer = PLAYERS[name]()
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(int(line))), flush=True)


class _Numbers:
    """A map-style dataset that costs nothing."""

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> int:
        return index


class _Counter:
    """An iterable that is no ``DataLoader`` and costs nothing."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(LENGTH))


def _watch(loader: object) -> Iterator[object]:
    import feedwater

    return iter(feedwater.watch(loader, name="train", mode="observe"))  # type: ignore[type-var]


def _loader() -> object:
    import torch.utils.data

    return torch.utils.data.DataLoader(_Numbers(), batch_size=None, num_workers=0)


Loop = Callable[[Iterable[object]], None]
Turn = Callable[[], float]


def _loader_added(with_others: bool) -> Callable[[int], dict[str, float]]:
    import torch.utils.data

    iterator = _watch(_loader())
    next(iterator)
    base = torch.utils.data.dataloader._BaseDataLoaderIter
    hooked = base.__next__
    plain = hooked.__wrapped__

    def turn(hook: object, loop: Loop) -> Turn:
        def run() -> float:
            base.__next__ = hook
            # The first ones after a change of the class run unspecialised.
            _spend(loop, itertools.islice(iterator, 200), 200)
            return _spend(loop, itertools.islice(iterator, BLOCK), BLOCK)

        return run

    turns = {"bare": turn(plain, _for), "watch": turn(hooked, _for)}
    if with_others:
        turns |= {name: turn(plain, loop) for name, loop in others().items()}
    return _take_turns(turns)


def _plain_added(with_others: bool) -> Callable[[int], dict[str, float]]:
    watched, bare = _watch(_Counter()), iter(_Counter())

    def turn(iterator: Iterator[object], loop: Loop) -> Turn:
        return lambda: _spend(loop, itertools.islice(iterator, BLOCK), BLOCK)

    turns = {"bare": turn(bare, _for), "watch": turn(watched, _for)}
    if with_others:
        turns |= {name: turn(bare, loop) for name, loop in others().items()}
    return _take_turns(turns)


def _take_turns(turns: dict[str, Turn]) -> Callable[[int], dict[str, float]]:
    """Return what gives the nanoseconds per batch that each adds to the bare loop."""

    def added(blocks: int) -> dict[str, float]:
        spent: dict[str, list[float]] = {name: [] for name in turns}
        for _ in range(blocks):
            for name, run in turns.items():
                spent[name].append(run())
        medians = {name: statistics.median(values) for name, values in spent.items()}
        return {name: value - medians["bare"] for name, value in medians.items() if name != "bare"}

    return added


def _for(batches: Iterable[object]) -> None:
    for _ in batches:
        pass


def _spend(loop: Loop, batches: Iterable[object], count: int) -> float:
    started = time.perf_counter_ns()
    loop(batches)
    return (time.perf_counter_ns() - started) / count


def _each(loader: object, pause: Callable[[], None] | None = None) -> Callable[[int], dict[str, list[float]]]:
    """Return what gives the nanoseconds that the hook spent outside its own stamps, batch by batch.

    Beside them, under ``"idle"``, what as many clock reads as take as long took: the machine's own tail.
    """
    iterator = _watch(loader)
    next(iterator)
    from feedwater import ring

    reader = ring.RingReader(ring.attach(_own_ring()))
    clock = time.perf_counter_ns
    # From batch 1 on; the ring shows a batch some milliseconds after it was stamped.
    outer: list[int] = []
    inner: list[int] = []
    reader.batches(1)

    def spent(batches: int) -> dict[str, list[float]]:
        idle: list[float] = []
        given, wanted = len(inner), len(outer) + batches
        while len(outer) < wanted:
            for number in range(60 if pause else 510):
                if pause is not None:
                    pause()
                enter = clock()
                next(iterator)
                # Reading the ring has just emptied the caches: that is this benchmark's, not the hook's.
                outer.append(clock() - enter if number >= 10 else SKIPPED)
                enter = clock()
                clock(), clock(), clock(), clock(), clock()
                idle.append(clock() - enter)
            inner.extend(timing.exit_ns - timing.enter_ns for timing in reader.batches(reader.head()))
        pairs = zip(outer[given:], inner[given:], strict=False)
        hook = [float(o - i) for o, i in pairs if o != SKIPPED]
        return {"hook": hook, "idle": idle}

    return spent


def _own_ring() -> str:
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if "memfd:feedwater" in os.readlink(link):
                return str(link)
    raise RuntimeError("the watched loader has made no ring")


def _cold() -> Callable[[], None]:
    """Return a pause of a millisecond that empties the CPU's caches of us, as a training step does."""
    memory = bytearray(4 << 20)  # beyond a core's own cache

    def pause() -> None:
        until = time.perf_counter_ns() + 1_000_000
        memory[::64] = bytes(len(memory) // 64)
        while time.perf_counter_ns() < until:
            pass

    return pause


PLAYERS: dict[str, Callable[[], Callable[[int], object]]] = {
    "loader": lambda: _loader_added(with_others=False),
    "plain": lambda: _plain_added(with_others=False),
    "loader and others": lambda: _loader_added(with_others=True),
    "plain and others": lambda: _plain_added(with_others=True),
    "loader each": lambda: _each(_loader()),
    "plain each": lambda: _each(_Counter()),
    "loader cold": lambda: _each(_loader(), _cold()),
}


class Player:
    """A process that plays one of `PLAYERS`, warmed up."""

    def __init__(self, name: str, address: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, "--play", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=root_environment() | {"FEEDWATER_ADDRESS": address, "PYTHONWARNINGS": "ignore"},
            text=True,
        )
        self._read()
        self.ask(1)
        time.sleep(SETTLE_SECONDS)

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a player ended with status {self._process.wait(10)}")
        return line

    def ask(self, batches: int) -> object:
        """Return its answer for so many batches."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{batches}\n")
        self._process.stdin.flush()
        return json.loads(self._read())

    def end(self) -> None:
        """Close its stdin and wait."""
        end(self._process)


def ask(name: str, batches: int, sidecar: Sidecar, state: str) -> object:
    """Return a player's answer with the sidecar in one of `STATES`."""
    if state != "absent":
        sidecar.start()
    try:
        player = Player(name, sidecar.address)
        if state == "frozen":
            sidecar.freeze()
        try:
            return player.ask(batches)
        finally:
            player.end()
    finally:
        if state != "absent":
            sidecar.stop()


# ---------------------------------------------------------------- the others


def others() -> dict[str, Loop]:
    """Return what others do per batch, as loops; those that are not installed are left out."""
    found: dict[str, Loop] = {}
    for make in (_prometheus, _opentelemetry, _torch, _traceml, _clocks, _tqdm):
        with contextlib.suppress(ImportError):
            found.update(make())
    return found


def _prometheus() -> dict[str, Loop]:
    from prometheus_client import CollectorRegistry, Histogram

    registry = CollectorRegistry()
    wait = Histogram("wait_seconds", "Wait.", ["loader"], registry=registry)
    step = Histogram("step_seconds", "Step.", ["loader"], registry=registry)
    wait_train, step_train = wait.labels("train"), step.labels("train")

    def labels(batches: Iterable[object]) -> None:
        for _ in batches:
            wait.labels("train").observe(0.011)
            step.labels("train").observe(0.023)

    def children(batches: Iterable[object]) -> None:
        for _ in batches:
            wait_train.observe(0.011)
            step_train.observe(0.023)

    return {"prometheus_client observe x2": labels, "prometheus_client observe x2, children kept": children}


def _opentelemetry() -> dict[str, Loop]:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    meter = MeterProvider(metric_readers=[InMemoryMetricReader()]).get_meter("train")
    wait = meter.create_histogram("wait", unit="s")
    step = meter.create_histogram("step", unit="s")
    attributes = {"loader": "train"}

    def block(batches: Iterable[object]) -> None:
        for _ in batches:
            wait.record(0.011, attributes)
            step.record(0.023, attributes)

    return {"OpenTelemetry record x2": block}


def _torch() -> dict[str, Loop]:
    from torch.profiler import record_function

    def block(batches: Iterable[object]) -> None:
        for _ in batches:
            with record_function("next"):
                pass

    return {"torch.profiler.record_function": block}


def _traceml() -> dict[str, Loop]:
    from traceml_ai.instrumentation.step_events import abort_step_capture, begin_step_capture
    from traceml_ai.utils.timing import timed_region

    def region(gpu: bool) -> Loop:
        def block(batches: Iterable[object]) -> None:
            capture = begin_step_capture()
            for _ in batches:
                with timed_region("next", record_gpu_events=gpu):
                    pass
            abort_step_capture(capture)

        return block

    return {
        "TraceML timed region": region(gpu=True),
        "TraceML timed region, no GPU events": region(gpu=False),
    }


def _clocks() -> dict[str, Loop]:
    def timed(batches: Iterable[object], waits: list[int], steps: list[int]) -> Iterator[object]:
        clock = time.perf_counter_ns
        left = clock()
        for batch in batches:
            got = clock()
            waits.append(got - left)
            yield batch
            left = clock()
            steps.append(left - got)

    def block(batches: Iterable[object]) -> None:
        for _ in timed(batches, [], []):
            pass

    return {CLOCKS: block}


def _tqdm() -> dict[str, Loop]:
    from tqdm import tqdm

    def block(batches: Iterable[object]) -> None:
        with open(os.devnull, "w") as sink:
            for _ in tqdm(batches, file=sink):
                pass

    return {TQDM: block}


# ---------------------------------------------------------------- the question


CLOCKS = "a generator with two clock reads, two appends"
TQDM = "tqdm"
STATES = ("up", "absent", "frozen")
KINDS = {"loader": ("DataLoader", "<= 0.6"), "plain": ("plain iterable", "<= 0.4")}
Figures = dict[tuple[str, str], list[float]]


def main() -> None:
    chosen = options(__doc__)
    directory = scratch()
    try:
        publish(__doc__, measure_all(Sidecar(directory), chosen), chosen)
    finally:
        remove(directory)


def measure_all(sidecar: Sidecar, chosen: Options) -> list[Row]:
    """Measure `watch` with the sidecar up, absent and frozen, and the others beside it."""
    runs, states, blocks = (1, STATES[:1], 4) if chosen.quick else (5, STATES, 20)
    added: Figures = {}
    hooks: Figures = {}
    others_added: Figures = {}
    for turn in range(runs):
        for state in states:
            for kind in KINDS:
                player = f"{kind} and others" if state == "up" else kind
                with quiet(chosen):
                    spent = ask(player, blocks, sidecar, state)
                    each = ask(f"{kind} each", 5_000 if chosen.quick else 20_000, sidecar, state)
                added.setdefault((kind, state), []).append(spent.pop("watch") / 1e3)
                _take(hooks, kind, state, each)
                for name, value in spent.items():
                    others_added.setdefault((kind, name), []).append(value / 1e3)
        with quiet(chosen):
            each = ask("loader cold", 1_000 if chosen.quick else 4_000, sidecar, "up")
        _take(hooks, "cold", "up", each)
        log(f"run {turn + 1} of {runs}")
    return _rows(added, hooks) + _other_rows(added, hooks, others_added)


def _take(hooks: Figures, kind: str, state: str, each: dict[str, list[float]]) -> None:
    found = {
        "median": statistics.median(each["hook"]),
        "mean": statistics.mean(each["hook"]),
        "tail": percentile(each["hook"], 0.999),
        "idle": percentile(each["idle"], 0.999),
    }
    for name, value in found.items():
        hooks.setdefault((kind, f"{state} {name}"), []).append(value / 1e3)


def _rows(added: Figures, hooks: Figures) -> list[Row]:
    rows = []
    for kind, state in added:
        name, bar = KINDS[kind]
        figure = hooks[kind, f"{state} median"] if kind == "loader" else added[kind, state]
        rows.append(row(f"watch on a {name}, sidecar {state}", "µs", figure, bar=bar))
    for kind, state in added:
        tail = hooks[kind, f"{state} tail"]
        rows.append(row(f"99.9th percentile on a {KINDS[kind][0]}, sidecar {state}", "µs", tail, bar="<= 50"))
    note = "seven clock reads in a row: what the machine does to 0.3 µs of anything"
    rows.append(row("99.9th percentile without any hook", "µs", hooks["loader", "up idle"], note=note))
    rows.append(row("mean on a DataLoader, sidecar up", "µs", hooks["loader", "up mean"]))
    rows.append(row("watched loops less unwatched, on a DataLoader", "µs", added["loader", "up"]))
    note = "1 ms of other work before each batch"
    rows.append(row("watch on a DataLoader, caches cold", "µs", hooks["cold", "up median"], note=note))
    rows.append(row("99.9th percentile, caches cold", "µs", hooks["cold", "up tail"], bar="<= 50"))
    return rows


def _other_rows(added: Figures, hooks: Figures, others_added: Figures) -> list[Row]:
    rows = []
    for (kind, name), values in others_added.items():
        note = "asks torch.cuda.is_available() each time" if name == "TraceML timed region" else ""
        rows.append(row(f"{name}, on a {KINDS[kind][0]}", "µs", values, note=note))
    for (kind, name), values in others_added.items():
        if name in {CLOCKS, TQDM}:  # They measure nothing that leaves the loop.
            continue
        own = hooks["loader", "up median"] if kind == "loader" else added["plain", "up"]
        ratios = [other / ours for other, ours in zip(values, own, strict=True)]
        bar = ">= 6" if name.startswith("prometheus_client") else ""
        rows.append(row(f"{name} costs so many times watch, on a {KINDS[kind][0]}", "ratio", ratios, bar=bar))
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["--play"]:
        play(sys.argv[2])
    else:
        main()
