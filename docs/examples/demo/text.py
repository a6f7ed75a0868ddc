"""What the demo prints: plain lines, and one that overwrites itself where there is a terminal."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from typing import TextIO

from docs.examples.demo.runs import Epoch, Event, Run

WIDTH = 96
HEAD = f"  {'':20}{'epoch':>6}{'workers':>9}{'seconds':>9}{'batches/s':>11}{'starved':>9}  verdict"


class Progress:
    """Says how far a run has come."""

    def __init__(self, stream: TextIO, name: str, epochs: int) -> None:
        self._stream = stream
        self._name = name
        self._epochs = epochs
        self._on_terminal = stream.isatty()

    def show(self, event: Event) -> None:
        """Take one line of the trainer: a bar that moves on a terminal, a line per epoch elsewhere too."""
        if event["event"] == "progress" and self._on_terminal:
            self._bar(int(str(event["epoch"])), int(str(event["batches"])), int(str(event["of"])))
        elif event["event"] == "epoch":
            self._clear()
            number, seconds = int(str(event["epoch"])) + 1, float(str(event["seconds"]))
            with_workers = counted(int(str(event["workers"])), "worker")
            print(
                f"  {self._name:20}epoch {number} of {self._epochs}: {seconds:5.1f} s with {with_workers}",
                file=self._stream,
                flush=True,
            )

    def note(self, text: str) -> None:
        """Say what goes on between runs."""
        print(f"  {text}", file=self._stream, flush=True)

    def _bar(self, epoch: int, batches: int, of: int) -> None:
        filled = 30 * batches // of
        bar = "#" * filled + "." * (30 - filled)
        print(
            f"\r  {self._name:20}epoch {epoch + 1} of {self._epochs} [{bar}]",
            end="",
            file=self._stream,
            flush=True,
        )

    def _clear(self) -> None:
        if self._on_terminal:
            print("\r" + " " * (WIDTH - 1) + "\r", end="", file=self._stream)


def stderr_progress(name: str, epochs: int) -> Progress:
    """Return a progress display that leaves standard output to the results."""
    return Progress(sys.stderr, name, epochs)


def table(runs: Sequence[Run]) -> str:
    """Return the epochs of all runs, and under each the change that followed it."""
    lines = [HEAD, "  " + "-" * (len(HEAD) + 10)]
    for run in runs:
        for at, epoch in enumerate(run.epochs):
            lines.append(_row(run.name if at == 0 else "", epoch))
            lines.extend(_change(epoch.sentence))
        lines.append("")
    return "\n".join(lines)


def _row(name: str, epoch: Epoch) -> str:
    # Of the last epoch nothing is said: it has no boundary after it.
    verdict = "" if epoch.verdict == "UNKNOWN" and not epoch.sentence else epoch.verdict
    return (
        f"  {name:20}{epoch.epoch + 1:>6}{epoch.workers:>9}{epoch.seconds:>9.1f}"
        f"{epoch.batches_per_second:>11.1f}{epoch.starvation:>8.0%}   {verdict}"
    ).rstrip()


def _change(sentence: str) -> list[str]:
    indent = " " * 22
    return textwrap.wrap(sentence, WIDTH, initial_indent=f"{indent}-> ", subsequent_indent=f"{indent}   ")


def gain(with_feedwater: Run, without: Run) -> str:
    """Return how much faster the settled epoch became: a phrase with the factor in it."""
    factor = without.settled_seconds / with_feedwater.settled_seconds
    if factor >= 1.02:
        said = f"{factor:.1f} times as fast as" if factor >= 1.5 else f"{factor - 1:.0%} faster than"
    elif factor <= 0.98:
        said = f"{1 - factor:.0%} slower than"
    else:
        said = "as fast as"
    workers = counted(without.epochs[-1].workers, "worker")
    return f"{said} the {without.name} ({workers}, {without.settled_seconds:.1f} s)"


def counted(number: float, noun: str) -> str:
    """Return the number and the noun, which takes an s unless the number is one: "2.5 cores"."""
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


def paragraph(text: str, indent: str = "  ") -> str:
    """Return the text in lines of the demo's width."""
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent)
