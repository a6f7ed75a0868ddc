"""The line at an epoch's end: what happened, what changes, why, in 160 characters."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedwater.loop import say as saying
from feedwater.loop.deciding import Decision
from feedwater.loop.marks import Mark
from feedwater.loop.telling import log_decision
from feedwater.values import EpochSummary, LoaderSettings, Outcome, Recommendation

GAIN = "1 → 8 workers for +492% batches/s"
LOADS = "a batch takes 274 ms to load (24.1 ms CPU), a step 30.9 ms."
SENTENCE = f"{GAIN}: 89% starvation, {LOADS}"
ADVICE = (
    "Set persistent_workers=True with 8 workers: an epoch would take 190 ms instead of 406 ms (+114% "
    "batches/s)."
)
KEPT = "8 workers kept: start-up takes 247 ms of an epoch of 0.555 s."
FILE = "Workers would share the open file /data/train.bin. Where that is fine: watch(…, allow_workers=True)."


class Lines(logging.Handler):
    """What was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.said.append((record.levelno, record.getMessage()))

    def at(self, level: int) -> list[str]:
        """Return the lines of one level."""
        return [text for at, text in self.said if at == level]


def told(
    sentence: str = SENTENCE,
    advice: tuple[str, ...] = (),
    decision: Decision | None = None,
    name: str = "train",
    mark: Mark | None = None,
) -> Lines:
    """Have an epoch of 40 batches in 11.2 s, 89 % of it waiting, told, and return the lines."""
    summary = EpochSummary(3, LoaderSettings(1, 2), 40, 11.2, 8.9, 1.1, 0.2)
    made = Recommendation("r", 3, LoaderSettings(8, 2), "X", sentence, True, advice=advice)
    lines, log = Lines(), logging.getLogger("feedwater")
    log.addHandler(lines)
    level = log.level
    log.setLevel(logging.DEBUG)
    try:
        mark = mark or Mark(name, dataset_kind="none")
        log_decision(mark, summary, made, decision or Decision(Outcome.APPLIED))
    finally:
        log.removeHandler(lines)
        log.setLevel(level)
    return lines


START = "train: epoch 3: 3.57 batches/s, waiting 89%: "


@pytest.mark.parametrize(
    ("sentence", "advice", "decision", "line"),
    [
        (
            SENTENCE,
            (),
            Decision(Outcome.APPLIED),
            GAIN + ": " + LOADS,
        ),
        (
            SENTENCE,
            (),
            Decision(Outcome.ADVISED),
            GAIN + " (advice): " + LOADS,
        ),
        (
            SENTENCE,
            (),
            Decision(Outcome.REFUSED, FILE),
            GAIN + " (not applied): Workers would share the open file /data/train.bin…",
        ),
        (
            KEPT,
            (ADVICE,),
            Decision(Outcome.UNCHANGED),
            "8 workers kept: " + ADVICE[:85] + "…",
        ),
        (
            KEPT,
            ("Raise it.",),
            Decision(Outcome.UNCHANGED),
            "8 workers kept: Raise it. start-up takes 247 ms of an epoch of 0.555 s.",
        ),
        ("num_workers=2 was canned.", (), Decision(Outcome.APPLIED), "num_workers=2 was canned."),
    ],
)
def test_line_says_what_happened_what_changes_and_why(
    sentence: str, advice: tuple[str, ...], decision: Decision, line: str
) -> None:
    """40 batches in 11.2 s are 3.57 a second; the share of waiting is not said twice."""
    assert told(sentence, advice, decision).at(logging.INFO) == [START + line]


def test_what_differs_in_figures_alone_is_said_once() -> None:
    """The same advice with another gain each epoch, and none between, is one line; a change is always one."""
    mark = Mark("train", dataset_kind="none")
    advised, kept = Decision(Outcome.ADVISED), Decision(Outcome.UNCHANGED)
    assert told(advice=(ADVICE,), decision=advised, mark=mark).at(logging.INFO)
    for gain in ("+9%", "+10.5%"):
        assert not told(decision=advised, mark=mark).at(logging.INFO)
        assert not told(advice=(ADVICE.replace("+114%", gain),), decision=advised, mark=mark).at(logging.INFO)
        assert not told(KEPT, (ADVICE,), kept, mark=mark).at(logging.INFO)
    assert told(KEPT, ("Raise the memory limit to 8 GiB.",), kept, mark=mark).at(logging.INFO)
    for _ in range(2):
        assert told(mark=mark).at(logging.INFO)


def test_what_does_not_fit_is_left_for_who_debugs() -> None:
    """Advice beside a change: the change's own reason is in the line, the advice whole in the next."""
    lines = told(advice=(ADVICE,))
    (line,) = lines.at(logging.INFO)
    assert line.endswith("a step 30.9 ms.")
    assert lines.at(logging.DEBUG) == [f"train: epoch 3: {ADVICE}"]


def test_reason_that_was_cut_is_whole_for_who_debugs() -> None:
    """A refusal of 101 characters."""
    lines = told(decision=Decision(Outcome.REFUSED, FILE))
    assert f"train: epoch 3: {FILE}" in lines.at(logging.DEBUG)


def test_line_on_stderr_has_160_characters_with_its_prefix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program that has configured no logging, a long name, a cut reason: the longest line that there is."""
    monkeypatch.setattr(saying, "log", logging.Logger("without-handlers"))
    summary = EpochSummary(3, LoaderSettings(1, 2), 40, 11.2, 8.9, 1.1, 0.2)
    made = Recommendation("r", 3, LoaderSettings(8, 2), "X", SENTENCE, True, advice=(ADVICE,) * 3)
    log_decision(Mark("n" * 500), summary, made, Decision(Outcome.REFUSED, FILE * 3))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("feedwater: nnn")
    assert 140 < len(line) <= 160


ANY = st.text(max_size=160) | st.sampled_from([SENTENCE, KEPT, ADVICE, "x" * 160, "a\nb: c\x1b[31m"])


@given(
    sentence=ANY,
    advice=st.lists(ANY, max_size=4),
    detail=st.text(max_size=300) | st.just(FILE),
    outcome=st.sampled_from(Outcome),
    name=st.text(max_size=300) | st.just("train"),
)
@settings(max_examples=300, deadline=None)
def test_no_line_is_longer_whatever_is_to_be_said(
    sentence: str, advice: list[str], detail: str, outcome: Outcome, name: str
) -> None:
    """At any level, with any name and any sidecar: at most 149 characters, one line each, none an escape."""
    lines = told(sentence, tuple(advice), Decision(outcome, detail), name)
    assert len(lines.at(logging.INFO)) <= 1
    assert all(len(text) + len("feedwater: ") <= 160 for _, text in lines.said)
    assert all(text.isprintable() for _, text in lines.said)
