"""Run the demo: ``make demo``, or ``python -m docs.examples.demo``.

Each scenario trains the same way three times, on the same samples in the same order: with the setting
that its author began with, with PyTorch's suggested maximum, and with Feedwater. Results go to standard
output, progress to standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import pathlib
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from docs.examples.demo import photos, runs, scenarios, text
from docs.examples.demo.limit import Limit, cpu_limit

CACHE = pathlib.Path(__file__).resolve().parents[3] / ".cache" / "demo"
EPOCHS_WITHOUT = 3
EPOCHS_WITH = 7
"""A raise from one worker takes up to three steps; then some epochs to see it settled."""
NO_LIMIT = Limit(None, (), "")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One scenario's three runs."""

    scenario: scenarios.Scenario
    limit: Limit
    starting: runs.Run
    suggested: runs.Run
    feedwater: runs.Run

    @property
    def runs(self) -> tuple[runs.Run, ...]:
        """In the order that they were made."""
        return (self.starting, self.suggested, self.feedwater)

    @property
    def saw_same_samples(self) -> bool:
        """Every run got the same samples in the same order, as far as both went."""
        reference = [epoch.samples for epoch in self.feedwater.epochs]
        return all(
            [epoch.samples for epoch in run.epochs] == reference[: len(run.epochs)] for run in self.runs[:-1]
        )


def main() -> int:
    """Run the scenarios that the command line names and print what they show."""
    options = _parsed()
    if not sys.platform.startswith("linux"):
        print("demo: Feedwater measures on Linux only; elsewhere it does nothing", file=sys.stderr)
        return 1
    # Asked to end, it ends what it started, as it does after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    chosen = [scenario for scenario in scenarios.ALL if options.scenario in (None, scenario.key)]
    lengths = (2, 4) if options.short else (EPOCHS_WITHOUT, EPOCHS_WITH)
    if not options.json:
        print(_introduction(len(chosen)), flush=True)
    try:
        compared = []
        for at, scenario in enumerate(chosen, 1):
            if not options.json:
                print(
                    f"\n{at} of {len(chosen)}  {scenario.title}\n{text.paragraph(_described(scenario))}\n",
                    flush=True,
                )
            compared.append(_compared(scenario, *lengths))
            if not options.json:
                print(f"\n{text.table(compared[-1].runs)}\n{_conclusion(compared[-1])}", flush=True)
    except runs.RunFailedError as problem:
        print(f"demo: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted; everything it started has ended", file=sys.stderr)
        return 130
    seconds = time.monotonic() - began
    print(
        json.dumps(_as_json(compared, seconds), indent=2)
        if options.json
        else f"\nAll this took {seconds:.0f} s."
    )
    return 0


def _compared(scenario: scenarios.Scenario, without: int, with_: int) -> Comparison:
    progress = text.stderr_progress("", 0)
    CACHE.mkdir(parents=True, exist_ok=True)
    if not photos.are_made(scenario.album, CACHE):
        progress.note(f"drawing {scenario.album.photos} photos, once ...")
    directory = photos.made(scenario.album, CACHE)
    with (
        _limit(scenario) as limit,
        _source(scenario, directory) as source,
        tempfile.TemporaryDirectory(prefix="feedwater-demo-") as scratch,
    ):

        def run(name: str, workers: int, epochs: int, address: str | None) -> runs.Run:
            return runs.trained(
                name,
                scenario,
                source=source,
                workers=workers,
                epochs=epochs,
                limit=limit,
                address=address,
                log=CACHE / f"{scenario.key}-{name.replace(' ', '-').lower()}.log",
                on_event=text.stderr_progress(name, epochs).show,
            )

        starting = run("starting setting", scenario.starting_workers, without, None)
        suggested = run("suggested maximum", suggested_maximum(), without, None)
        with runs.sidecar(pathlib.Path(scratch)) as address:
            feedwater = run("with Feedwater", scenario.starting_workers, with_, address)
        return Comparison(scenario, limit, starting, suggested, feedwater)


def suggested_maximum() -> int:
    """Return what PyTorch suggests as the largest ``num_workers``: it counts CPUs, not their quota."""
    return len(os.sched_getaffinity(0))


@contextlib.contextmanager
def _limit(scenario: scenarios.Scenario) -> Iterator[Limit]:
    if scenario.limit_cores is None:
        yield NO_LIMIT
        return
    with cpu_limit(scenario.limit_cores) as limit:
        text.stderr_progress("", 0).note(
            f"CPU limit of {text.counted(limit.cores, 'core')}: {limit.how}"
            if limit.cores is not None
            else f"{limit.how}: the limit is this machine's {suggested_maximum()} cores"
        )
        yield limit


@contextlib.contextmanager
def _source(scenario: scenarios.Scenario, directory: pathlib.Path) -> Iterator[str]:
    if scenario.over_http:
        with runs.store(directory) as url:
            yield url
    else:
        yield str(directory)


def _introduction(count: int) -> str:
    return (
        f"Feedwater demo: training on real JPEG files in {count} scenario{'' if count == 1 else 's'}, "
        "without Feedwater and with it.\n"
        f"PyTorch {importlib.metadata.version('torch')} suggests at most {suggested_maximum()} workers here."
    )


def _described(scenario: scenarios.Scenario) -> str:
    milliseconds = scenario.step_seconds * 1000
    return (
        f"{scenario.story} {scenario.batches} batches of {scenario.batch_size} photos an epoch; "
        f"a training step takes {milliseconds:.0f} ms on a stand-in for the accelerator."
    )


def _conclusion(compared: Comparison) -> str:
    last = compared.feedwater
    workers = text.counted(last.epochs[-1].workers, "worker")
    lines = [
        f"Settled at {workers} and {last.settled_seconds:.1f} s an epoch:",
        f"  {text.gain(last, compared.starting)}",
        f"  {text.gain(last, compared.suggested)}",
        "Every run saw the same photos in the same order."
        if compared.saw_same_samples
        else "THE RUNS DID NOT SEE THE SAME PHOTOS IN THE SAME ORDER.",
    ]
    return "\n".join("  " + line for line in lines)


def _as_json(compared: Sequence[Comparison], seconds: float) -> dict[str, object]:
    return {
        "torch": importlib.metadata.version("torch"),
        "suggested_maximum": suggested_maximum(),
        "seconds": seconds,
        "scenarios": [
            {
                "scenario": one.scenario.key,
                "limit_cores": one.limit.cores,
                "limit": one.limit.how,
                "same_samples": one.saw_same_samples,
                "faster_than_starting": one.starting.settled_seconds / one.feedwater.settled_seconds,
                "faster_than_suggested": one.suggested.settled_seconds / one.feedwater.settled_seconds,
                "runs": [
                    {
                        "name": run.name,
                        "settled_seconds": run.settled_seconds,
                        "epochs": [_epoch_as_json(epoch) for epoch in run.epochs],
                    }
                    for run in one.runs
                ],
            }
            for one in compared
        ],
    }


def _epoch_as_json(epoch: runs.Epoch) -> dict[str, object]:
    return asdict(epoch) | {"batches_per_second": epoch.batches_per_second}


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m docs.examples.demo", description="Compare training with and without Feedwater."
    )
    parser.add_argument(
        "--scenario", choices=[scenario.key for scenario in scenarios.ALL], help="only this one"
    )
    parser.add_argument(
        "--short", action="store_true", help="fewer epochs: shows that it works, not what it gains"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
