"""``feedwater sweep``: its options, and how its parts are put together."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import TextIO

from feedwater.relay.measurements import Limits
from feedwater.relay.observer import Observer
from feedwater.sweep import plot, table
from feedwater.sweep.experiment import Experiment, SweepResult
from feedwater.sweep.figures import Row
from feedwater.sweep.interrupt import Interrupt
from feedwater.sweep.measure import Bench
from feedwater.sweep.observe import Request, step_of
from feedwater.sweep.plan import depth_of, settings_to_try, top_count
from feedwater.sweep.predict import Baseline, observation
from feedwater.sweep.progress import Progress, progress
from feedwater.sweep.report import as_object
from feedwater.sweep.table import AS_FAST, Sweep
from feedwater.sweep.target import TargetError, load_loader, shortened
from feedwater.values import Prediction

EPOCH_SECONDS = 5.0
"""At the loader's own setting. Better ones take a part of it, of which start-up should not be most; and the
memory of workers, by which the recommendation is bounded, is first read within 4.2 s."""
INTERRUPTED = 130
"""As a shell has it: 128 + SIGINT."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``feedwater sweep``."""
    parser.description = (
        "Run real epochs of a DataLoader at a range of settings, in rounds, and show the batches/s of each "
        "beside what Feedwater predicts from one epoch at the loader's own setting."
    )
    parser.add_argument(
        "target", metavar="MODULE:NAME", help="a function that returns the DataLoader, or the loader"
    )
    step = parser.add_mutually_exclusive_group()
    step.add_argument(
        "--step-seconds",
        type=_seconds,
        default=0.0,
        metavar="X",
        help="wait so long after each batch, as for a device that computes (default: 0, do not wait)",
    )
    step.add_argument(
        "--step", default="", metavar="MODULE:FUNCTION", help="call this with each batch instead"
    )
    parser.add_argument(
        "--rounds", type=_positive, default=3, help="epochs at each setting (default: %(default)s)"
    )
    parser.add_argument(
        "--batches",
        type=_count,
        metavar="N",
        help="of each epoch; 0: all (default: as many as take some 5 s at the loader's own setting)",
    )
    parser.add_argument(
        "--max-workers",
        type=_count,
        metavar="N",
        help="largest num_workers (default: well past the predicted best)",
    )
    parser.add_argument(
        "--prefetch",
        type=_depths,
        default=(),
        metavar="N,N",
        help="values of prefetch_factor (default: the loader's)",
    )
    parser.add_argument(
        "--budget-seconds",
        type=_seconds,
        metavar="X",
        help="stop after so long, with what was measured until then",
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write everything as JSON; -: to standard output, alone"
    )
    parser.add_argument(
        "--plot", metavar="FILE", help="write a picture, such as sweep.png (needs matplotlib)"
    )


def main(parsed: argparse.Namespace) -> int:
    """Run the sweep; return the exit code."""
    began = time.monotonic()
    if parsed.plot and not plot.can_draw():
        # Before minutes are spent, not after.
        print(f"feedwater sweep: {plot.NO_MATPLOTLIB}", file=sys.stderr)
        return 2
    with _standard_output(parsed.json == "-") as machine:
        try:
            with progress() as bars:
                swept = _sweep(parsed, bars, began)
            return _tell(swept, parsed, machine)
        except TargetError as error:
            print(f"feedwater sweep: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("feedwater sweep: interrupted before anything was measured", file=sys.stderr)
            return INTERRUPTED


def _sweep(parsed: argparse.Namespace, bars: Progress, began: float) -> Sweep:
    bars.doing("one epoch at the loader's own setting, for the prediction")
    request = Request(
        parsed.target, parsed.step, parsed.step_seconds, parsed.batches, EPOCH_SECONDS, address=""
    )
    seen = observation(request)
    interrupt = Interrupt()
    # From before the first import of torch on, which swallows a `KeyboardInterrupt` while it imports numpy.
    with interrupt.held():
        return _measured(parsed, seen, bars, began, interrupt)


def _measured(
    parsed: argparse.Namespace, seen: Baseline, bars: Progress, began: float, interrupt: Interrupt
) -> Sweep:
    # Nothing of Feedwater in what is measured, should the user's own code watch the loader.
    os.environ["FEEDWATER_DISABLED"] = "1"
    loader = load_loader(parsed.target)
    # The number of workers is what is tried here; PyTorch's warning that it is large would come each time.
    vars(loader)["check_worker_number_rationality"] = _nothing
    step = step_of(parsed.step, parsed.step_seconds)
    bench = Bench(loader, shortened(loader), step, seen.batches, interrupt)
    bench.first.count = seen.batches
    observer = Observer(os.getpid())
    limits, usage = observer.limits(), observer.container()
    rows = _rows(parsed, seen, limits)
    made = seen.recommendation
    swept = Sweep(parsed.target, _step_text(parsed), seen, limits, usage, parsed.rounds, rows, SweepResult())
    interrupt.check()
    bars.say(table.before(swept) + "\n")
    outcome = Experiment(
        bench,
        rows,
        parsed.rounds,
        EPOCH_SECONDS,
        made.settings if made is not None else None,
        bars,
        began + parsed.budget_seconds if parsed.budget_seconds is not None else None,
    ).run()
    return dataclasses.replace(swept, outcome=outcome)


def _nothing() -> None:
    pass


def _rows(parsed: argparse.Namespace, seen: Baseline, limits: Limits) -> list[Row]:
    made = seen.recommendation
    curve = made.curve if made is not None else ()
    cores = min(limits.cpu_quota_cores or limits.cpus or 1, limits.cpus or 1)
    expected = [made.settings.num_workers] if made is not None else []
    top = top_count(parsed.max_workers, seen.settings.num_workers, cores, [*expected, *_peak(curve)])
    also = [made.settings] if made is not None else []
    settings = settings_to_try(seen.settings, top, parsed.prefetch, [*also, seen.settings])
    predicted = {p.settings.num_workers: p for p in curve}
    own_depth = seen.settings.prefetch_factor or 2
    # Predictions are of the loader's own depth; without workers there is none.
    return [Row(s, predicted.get(s.num_workers) if depth_of(s) in (0, own_depth) else None) for s in settings]


def _peak(curve: tuple[Prediction, ...]) -> list[int]:
    """The smallest count that comes within half a percent of the highest prediction."""
    top = max((p.batches_per_second for p in curve), default=0.0)
    return [p.settings.num_workers for p in curve if p.batches_per_second >= 0.995 * top][:1]


def _step_text(parsed: argparse.Namespace) -> str:
    if parsed.step:
        return f"{parsed.step}, called with each batch"
    if parsed.step_seconds > 0:
        return f"{parsed.step_seconds:g} s of waiting after each batch, as for a device that computes"
    return AS_FAST


def _tell(swept: Sweep, parsed: argparse.Namespace, machine: TextIO | None) -> int:
    # Standard error had it before the sweep.
    head = "" if _are_one(sys.stdout, sys.stderr) else table.before(swept)
    parts = [head, table.table(swept), table.plot(swept), table.conclusion(swept)]
    print("\n\n".join(filter(None, parts)), flush=True)
    text = json.dumps(as_object(swept), indent=2) + "\n"
    try:
        if machine is not None:
            machine.write(text)
            machine.flush()
        elif parsed.json:
            with open(parsed.json, "w") as file:
                file.write(text)
        if parsed.plot:
            plot.draw(swept, parsed.plot)
    except (OSError, ValueError) as error:
        print(f"feedwater sweep: {error}", file=sys.stderr)
        return 1
    if swept.outcome.is_interrupted:
        return INTERRUPTED
    return 0 if any(row.epochs for row in swept.rows) else 1


def _are_one(one: TextIO, other: TextIO) -> bool:
    try:
        return os.path.sameopenfile(one.fileno(), other.fileno())
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def _standard_output(is_for_machine: bool) -> Iterator[TextIO | None]:
    """Yield standard output for JSON alone; what else is printed, by the user's code too, goes to stderr."""
    if not is_for_machine:
        yield None
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(kept), "w") as out:
            yield out
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected seconds, 0 or more, got {text!r}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected 0 or more, got {text!r}")
    return value


def _positive(text: str) -> int:
    if _count(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text!r}")
    return int(text)


def _depths(text: str) -> tuple[int, ...]:
    return tuple(sorted({_positive(part) for part in text.split(",")}))
