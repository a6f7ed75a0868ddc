"""What does `watch` cost the training loop per batch, and what do others cost that do this job?

Timed: ``next()`` on the loop's thread, from the second batch of an epoch to its last, on a trivial dataset,
so that what Feedwater adds is not drowned in loading. Not timed: ``iter()``, the first batch and the end of
the epoch (see ``boundary.py``), and the relay, which is another process (see ``training_overhead.py``).

Watched and unwatched loops run in processes of their own, because the hook is on PyTorch's class and would
touch an unwatched loader too; they take turns in blocks of 20,000 batches. One run is the difference of the
medians of one pair of processes; pairs are started anew for each run, so that the luck of a process' memory
layout is in the interval.

The 99.9th percentile is that of the hook alone, batch by batch: the caller stamps before and after
``next()``, the ring holds the hook's own two stamps within, and the difference of the two spans is what the
hook spent outside its own stamps, plus one clock read of the caller's: an upper bound.

The others' cost is that of the call in an otherwise empty loop, the empty loop subtracted, in one process,
in the same run. The reference is two labelled ``prometheus_client`` ``Histogram.observe``, with
``labels()`` per call as in its documentation and, the strictest reading, with the labelled children looked
up beforehand. Others that are not installed are left out: ``pip install 'feedwater[bench]'``.

    python tests/benchmarks/loop_overhead.py --json tests/benchmarks/results/loop_overhead.json
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

from _measure import Options, Row, log, options, percentile, publish, quiet, row
from _processes import Sidecar, remove, scratch

BLOCK = 20_000
"""Batches in a block: 0.2 s, long against a scheduler's slice, short against the machine's moods."""
SETTLE_SECONDS = 1.5
"""Until the relay has connected and polled once."""
Clock = Callable[[], int]


# ---------------------------------------------------------------- players: a process told by lines on stdin


def play(name: str) -> None:
    """Run blocks on command, one line of JSON for each, until stdin ends."""
    block = PLAYERS[name]()
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(block(int(line))), flush=True)


def _loader(watched: bool, workers: int = 0) -> Iterable[object]:
    import torch.utils.data

    loader: Iterable[object] = torch.utils.data.DataLoader(
        _Numbers(BLOCK + 100), batch_size=None, num_workers=workers
    )
    return _watch(loader) if watched else loader


def _watch(loader: Iterable[object]) -> Iterable[object]:
    import feedwater

    return feedwater.watch(loader, name="train", mode="observe")


class _Numbers:
    """A map-style dataset that costs nothing."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> int:
        return index


def _whole(loader: Iterable[object]) -> Callable[[int], float]:
    """Return a block that gives nanoseconds per batch of a plain ``for`` loop."""

    def block(batches: int) -> float:
        iterator = iter(loader)
        next(iterator)
        started = time.perf_counter_ns()
        for _ in itertools.islice(iterator, batches):
            pass
        spent = time.perf_counter_ns() - started
        for _ in iterator:  # to the end, so that the epoch is a complete one
            pass
        return spent / batches

    return block


def _each(loader: Iterable[object], pause: Callable[[], None] | None = None) -> Callable[[int], list[float]]:
    """Return a block that gives the nanoseconds that the hook spent outside its own stamps, per batch."""

    def block(batches: int) -> list[float]:
        iterator = iter(loader)
        next(iterator)
        clock = time.perf_counter_ns
        reader = _own_ring()
        spent: list[float] = []
        left = batches
        while left:
            some = min(left, 4_000)  # half of the ring: nothing is overwritten before it is read
            list(reader.batches(reader.head()))
            outer = []
            for _ in range(some):
                if pause is not None:
                    pause()
                enter = clock()
                next(iterator)
                outer.append(clock() - enter)
            inner = [timing.exit_ns - timing.enter_ns for timing in reader.batches(reader.head())]
            spent += [float(o - i) for o, i in zip(outer, inner, strict=True)]
            left -= some
        for _ in iterator:
            pass
        return spent

    return block


def _own_ring() -> RingReader:  # noqa: F821
    from feedwater import ring

    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if "memfd:feedwater" in os.readlink(link):
                return ring.RingReader(ring.attach(str(link)))
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


NUMBERS = list(range(BLOCK + 100))
PLAYERS: dict[str, Callable[[], Callable[[int], object]]] = {
    "loader": lambda: _whole(_loader(watched=False)),
    "loader watched": lambda: _whole(_loader(watched=True)),
    "loader each": lambda: _each(_loader(watched=True)),
    "loader cold": lambda: _each(_loader(watched=True), _cold()),
    "list": lambda: _whole(NUMBERS),
    "list watched": lambda: _whole(_watch(NUMBERS)),
    "list each": lambda: _each(_watch(NUMBERS)),
}


class Player:
    """A process that plays one of `PLAYERS`."""

    def __init__(self, name: str, address: str) -> None:
        environment = {**os.environ, "FEEDWATER_ADDRESS": address, "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--play", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        )
        self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a player ended with status {self._process.wait(10)}")
        return line

    def block(self, batches: int) -> float:
        """Return nanoseconds per batch."""
        return float(self._ask(batches))  # type: ignore[arg-type]

    def each(self, batches: int) -> list[float]:
        """Return nanoseconds of each batch."""
        return list(self._ask(batches))  # type: ignore[call-overload]

    def _ask(self, batches: int) -> object:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{batches}\n")
        self._process.stdin.flush()
        return json.loads(self._read())

    def end(self) -> None:
        """Close its stdin and wait."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()


@contextlib.contextmanager
def players(address: str, *names: str) -> Iterator[list[Player]]:
    """Run players for the length of the body, warmed up."""
    made = []
    try:
        for name in names:
            made.append(Player(name, address))
        for one in made:
            one._ask(2_000)
        time.sleep(SETTLE_SECONDS)
        yield made
    finally:
        for one in made:
            one.end()


def added(address: str, kind: str, blocks: int, after_start: Callable[[], None] = lambda: None) -> float:
    """Return nanoseconds per batch that `watch` adds: one pair of processes in turns."""
    with players(address, kind, f"{kind} watched") as (bare, watched):
        after_start()
        pairs = [(bare.block(BLOCK), watched.block(BLOCK)) for _ in range(blocks)]
    return statistics.median(w for _, w in pairs) - statistics.median(b for b, _ in pairs)


def hook(
    address: str, kind: str, batches: int, after_start: Callable[[], None] = lambda: None
) -> list[float]:
    """Return the hook's own nanoseconds, batch by batch."""
    with players(address, kind) as (one,):
        after_start()
        spent: list[float] = []
        while len(spent) < batches:
            spent += one.each(min(BLOCK, batches - len(spent)))
    return spent


# ---------------------------------------------------------------- the others


def others() -> dict[str, Callable[[int], None]]:
    """Return what others do per batch, as loops; those that are not installed are left out."""
    found: dict[str, Callable[[int], None]] = {}
    for make in (_prometheus, _opentelemetry, _torch, _traceml, _clocks, _tqdm):
        with contextlib.suppress(ImportError):
            found.update(make())
    return found


def _prometheus() -> dict[str, Callable[[int], None]]:
    from prometheus_client import CollectorRegistry, Histogram

    registry = CollectorRegistry()
    wait = Histogram("wait_seconds", "Wait.", ["loader"], registry=registry)
    step = Histogram("step_seconds", "Step.", ["loader"], registry=registry)
    wait_train, step_train = wait.labels("train"), step.labels("train")

    def labels(batches: int) -> None:
        for _ in range(batches):
            wait.labels("train").observe(0.011)
            step.labels("train").observe(0.023)

    def children(batches: int) -> None:
        for _ in range(batches):
            wait_train.observe(0.011)
            step_train.observe(0.023)

    return {"prometheus_client observe x2": labels, "prometheus_client observe x2, children kept": children}


def _opentelemetry() -> dict[str, Callable[[int], None]]:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    meter = MeterProvider(metric_readers=[InMemoryMetricReader()]).get_meter("train")
    wait = meter.create_histogram("wait", unit="s")
    step = meter.create_histogram("step", unit="s")
    attributes = {"loader": "train"}

    def block(batches: int) -> None:
        for _ in range(batches):
            wait.record(0.011, attributes)
            step.record(0.023, attributes)

    return {"OpenTelemetry record x2": block}


def _torch() -> dict[str, Callable[[int], None]]:
    from torch.profiler import record_function

    def block(batches: int) -> None:
        for _ in range(batches):
            with record_function("next"):
                pass

    return {"torch.profiler.record_function": block}


def _traceml() -> dict[str, Callable[[int], None]]:
    from traceml_ai.instrumentation.step_events import abort_step_capture, begin_step_capture
    from traceml_ai.utils.timing import timed_region

    def region(gpu: bool) -> Callable[[int], None]:
        def block(batches: int) -> None:
            capture = begin_step_capture()
            for _ in range(batches):
                with timed_region("next", record_gpu_events=gpu):
                    pass
            abort_step_capture(capture)

        return block

    return {
        "TraceML timed region": region(gpu=True),
        "TraceML timed region, no GPU events": region(gpu=False),
    }


def _clocks() -> dict[str, Callable[[int], None]]:
    def timed(batches: Iterable[int], waits: list[int], steps: list[int]) -> Iterator[int]:
        clock = time.perf_counter_ns
        left = clock()
        for batch in batches:
            got = clock()
            waits.append(got - left)
            yield batch
            left = clock()
            steps.append(left - got)

    def block(batches: int) -> None:
        for _ in timed(range(batches), [], []):
            pass

    return {"a generator with two clock reads, two appends": block}


def _tqdm() -> dict[str, Callable[[int], None]]:
    from tqdm import tqdm

    def block(batches: int) -> None:
        with open(os.devnull, "w") as sink:
            for _ in tqdm(range(batches), file=sink):
                pass

    return {"tqdm": block}


def _empty(batches: int) -> None:
    for _ in range(batches):
        pass


def time_others(runs: int, chosen: Options) -> dict[str, list[float]]:
    """Return microseconds per batch of each of the others, the empty loop subtracted."""
    loops = {"empty": _empty, **others()}
    taken: dict[str, list[float]] = {name: [] for name in loops}
    for loop in loops.values():
        loop(2_000)
    for _ in range(runs):
        with quiet(chosen):
            spent = {
                name: statistics.median(_per_batch(loop) for _ in range(5)) for name, loop in loops.items()
            }
        for name, value in spent.items():
            taken[name].append((value - spent["empty"]) / 1e3)
    del taken["empty"]
    return taken


def _per_batch(loop: Callable[[int], None], batches: int = 4_000) -> float:
    started = time.perf_counter_ns()
    loop(batches)
    return (time.perf_counter_ns() - started) / batches


# ---------------------------------------------------------------- the question


def main() -> None:
    chosen = options(__doc__)
    runs, blocks, batches = (1, 4, 8_000) if chosen.quick else (7, 12, 100_000)
    reference = time_others(2 if chosen.quick else 9, chosen)
    log("others timed")
    directory = scratch()
    try:
        rows = watched_rows(directory, runs, blocks, batches, chosen, reference)
    finally:
        remove(directory)
    notes = {"TraceML timed region": "asks torch.cuda.is_available() each time"}
    rows += [row(name, "µs", values, note=notes.get(name, "")) for name, values in reference.items()]
    publish(__doc__, rows, chosen)


def watched_rows(
    directory: Path, runs: int, blocks: int, batches: int, chosen: Options, reference: dict[str, list[float]]
) -> list[Row]:
    """Measure `watch` with the sidecar up, absent and frozen."""
    sidecar = Sidecar(directory)
    nowhere = f"unix:{directory}/nobody.sock"
    costs: dict[str, list[float]] = {}
    tails: dict[str, list[float]] = {}
    medians: dict[str, list[float]] = {}
    for turn in range(runs):
        for state in ("up", "absent", "frozen"):
            address = nowhere if state == "absent" else sidecar.address
            after = sidecar.freeze if state == "frozen" else _nothing
            for kind in ("loader", "list"):
                if state != "absent":
                    sidecar.start()
                with quiet(chosen):
                    costs.setdefault(f"{kind} {state}", []).append(added(address, kind, blocks, after) / 1e3)
                    spent = hook(address, f"{kind} each", batches, _nothing)
                tails.setdefault(f"{kind} {state}", []).append(percentile(spent, 0.999) / 1e3)
                sidecar.stop()
        sidecar.start()
        with quiet(chosen):
            spent = hook(sidecar.address, "loader cold", 500 if chosen.quick else 8_000)
        sidecar.stop()
        medians.setdefault("cold", []).append(statistics.median(spent) / 1e3)
        tails.setdefault("cold", []).append(percentile(spent, 0.999) / 1e3)
        log(f"run {turn + 1} of {runs}")
    return _rows(costs, tails, medians, reference)


def _nothing() -> None:
    pass


def _rows(
    costs: dict[str, list[float]],
    tails: dict[str, list[float]],
    medians: dict[str, list[float]],
    reference: dict[str, list[float]],
) -> list[Row]:
    names = {"loader": ("DataLoader", "<= 0.6"), "list": ("plain iterable", "<= 0.4")}
    rows = []
    for key, values in costs.items():
        kind, state = key.split()
        name, bar = names[kind]
        rows.append(row(f"watch on a {name}, sidecar {state}", "µs", values, bar=bar))
    for key, values in tails.items():
        if key == "cold":
            continue
        kind, state = key.split()
        rows.append(
            row(f"99.9th percentile on a {names[kind][0]}, sidecar {state}", "µs", values, bar="<= 50")
        )
    rows.append(
        row(
            "watch, caches cold: 1,000 batches/s",
            "µs",
            medians["cold"],
            note="upper bound, one clock read in it",
        )
    )
    rows.append(row("99.9th percentile, caches cold", "µs", tails["cold"], bar="<= 50"))
    for name, values in reference.items():
        if name.startswith("prometheus_client"):
            for kind, (shown, _) in names.items():
                ratio = statistics.median(values) / statistics.median(costs[f"{kind} up"])
                rows.append(
                    row(f"{name}: times dearer than watch on a {shown}", "ratio", [ratio], bar=">= 6")
                )
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["--play"]:
        play(sys.argv[2])
    else:
        main()
