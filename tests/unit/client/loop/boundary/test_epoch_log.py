"""What is said of a loader: the line at an epoch's end in 160 characters, and the few beside it."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedwater.loop import log, process
from feedwater.loop.boundary import epoch_log
from feedwater.loop.boundary.decision import ApplyDecision
from feedwater.loop.boundary.epoch_log import (
    log_connection,
    log_decision,
    log_never_iterated,
    log_no_recommendation,
    log_preview,
)
from feedwater.loop.boundary.line import MAX_REASON
from feedwater.loop.change.tuning import KEEPS_ITERATOR, Tuning
from feedwater.loop.history import History
from feedwater.loop.watched import WatchedLoader, WatchOptions
from feedwater.settings import DEFAULT_ADDRESS, Settings
from feedwater.values import (
    Answer,
    EpochSummary,
    LoaderDescription,
    LoaderSettings,
    Mode,
    Outcome,
    Recommendation,
)

GAIN = "1 → 8 workers for +492% batches/s"
LOADS = "a batch takes 274 ms to load (24.1 ms CPU), a step 30.9 ms."
KEPT = "8 workers kept: start-up takes 247 ms of an epoch of 0.555 s."
SENTENCE = f"{GAIN}: 89% starvation, {LOADS}"
PARTS = {
    SENTENCE: (GAIN, LOADS[:-1]),
    KEPT: ("8 workers kept", "start-up takes 247 ms of an epoch of 0.555 s"),
}
"""Action and cause of a sentence; an older sidecar states the sentence alone."""
ADVICE = (
    "Set persistent_workers=True with 8 workers: an epoch would take 190 ms instead of 406 ms (+114% "
    "batches/s)."
)
MNIST = "MNIST[60000], batches of 64"
FILE = "Workers would share the open file /data/train.bin. Where that is fine: watch(…, allow_workers=True)."
STATEFUL = (
    "A StatefulDataLoader resumes only under the count it was saved with. "
    "Pass allow_workers=True to feedwater.watch to allow it."
)


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


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing was said yet, by rank 0 of a job outside Kubernetes."""
    monkeypatch.setattr(process, "_settings", Settings())
    for name in ("KUBERNETES_SERVICE_HOST", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)
    log.forget_all()
    yield
    log.forget_all()


def logged(say: Callable[[], None], level: int = logging.DEBUG) -> Lines:
    """Return what ``say`` logs where the logger is at ``level``."""
    lines, log = Lines(), logging.getLogger("feedwater")
    log.addHandler(lines)
    before = log.level
    log.setLevel(level)
    try:
        say()
    finally:
        log.removeHandler(lines)
        log.setLevel(before)
    return lines


def epoch(number: int = 3, batches: int = 40) -> EpochSummary:
    """Return an epoch of ``batches`` in 11.2 s, 89 % of it waiting."""
    return EpochSummary(number, LoaderSettings(1, 2), batches, 11.2, 8.9, 1.1, 0.2)


def recommended(
    sentence: str = SENTENCE,
    advice: tuple[str, ...] = (),
    workers: int = 8,
    changes: bool = True,
    parts: tuple[str, str] | None = None,
) -> Recommendation:
    """Return the recommendation of a count of workers; each advice is about what it begins with."""
    action, cause = parts or PARTS.get(sentence, ("", ""))
    topics = tuple(text[:5] for text in advice)
    made = Recommendation("r", 3, LoaderSettings(workers, 2), "X", sentence, changes, advice=advice)
    return replace(made, action=action, cause=cause, advice_topics=topics)


def watched(
    name: str,
    kind: str = "none",
    *,
    label: str = "",
    mode: Mode | None = None,
    is_named_by_user: bool = False,
    tuning: Tuning | None = None,
    history: History | None = None,
) -> WatchedLoader:
    """Return a loader that the sidecar was told of."""
    settings = LoaderSettings(1, 2)
    return WatchedLoader(
        options=WatchOptions(name=name, mode=mode, is_named_by_user=is_named_by_user),
        description=LoaderDescription(name, settings, Mode.AUTO, kind, label=label),
        tuning=tuning or Tuning(),
        history=history or History(),
    )


def told(
    sentence: str = SENTENCE,
    advice: tuple[str, ...] = (),
    decision: ApplyDecision | None = None,
    name: str = "train",
    loader: WatchedLoader | None = None,
    parts: tuple[str, str] | None = None,
) -> Lines:
    """Have an epoch of 40 batches in 11.2 s, 89 % of it waiting, told, and return the lines."""
    loader = loader or watched(name)
    done = decision or ApplyDecision(Outcome.APPLIED)
    return logged(lambda: log_decision(loader, epoch(), recommended(sentence, advice, parts=parts), done))


START = "train: epoch 3: 3.57 batches/s, waiting 89%: "


@pytest.mark.parametrize(
    ("sentence", "advice", "decision", "line"),
    [
        (
            SENTENCE,
            (),
            ApplyDecision(Outcome.APPLIED),
            GAIN + ": " + LOADS,
        ),
        (
            SENTENCE,
            (),
            ApplyDecision(Outcome.ADVISED),
            GAIN + " (advice): " + LOADS,
        ),
        (
            SENTENCE,
            (),
            ApplyDecision(Outcome.REFUSED, FILE),
            GAIN + " (not applied): a batch takes 274 ms to load (24.1 ms CPU), a step…",
        ),
        (
            SENTENCE,
            (),
            ApplyDecision(Outcome.REFUSED, "No record of the change could be written."),
            GAIN + " (not applied): No record of the change could be written.",
        ),
        (KEPT, (ADVICE,), ApplyDecision(Outcome.UNCHANGED), KEPT),
        (
            KEPT,
            ("Raise it.",),
            ApplyDecision(Outcome.UNCHANGED),
            "8 workers kept: Raise it. start-up takes 247 ms of an epoch of 0.555 s.",
        ),
        ("num_workers=2 was canned.", (), ApplyDecision(Outcome.APPLIED), "num_workers=2 was canned."),
    ],
)
def test_line_says_what_happened_what_changes_and_why(
    sentence: str, advice: tuple[str, ...], decision: ApplyDecision, line: str
) -> None:
    """40 batches in 11.2 s are 3.57 a second; the share of waiting is not said twice."""
    assert told(sentence, advice, decision).at(logging.INFO)[0] == START + line


@pytest.mark.parametrize(
    ("decision", "start"),
    [
        (ApplyDecision(Outcome.APPLIED), ""),
        (ApplyDecision(Outcome.ADVISED), "advice only: "),
        (ApplyDecision(Outcome.REFUSED), "not applied: "),
        (ApplyDecision(Outcome.FAILED), "failed: "),
    ],
)
def test_line_of_an_older_sidecar_has_its_sentence_as_it_came(decision: ApplyDecision, start: str) -> None:
    """Neither action nor cause is known: the sentence stands there untouched, its share of waiting too."""
    (line,) = told(decision=decision, parts=("", "")).at(logging.INFO)
    assert line.startswith(f"{START}{start}{GAIN}: 89% starvation")
    assert len(line) <= 149


def test_preview_of_an_older_sidecar_has_its_sentence_as_it_came() -> None:
    """From when on it could hold stands before the sentence, where it is not cut."""
    (line,) = preview(watched("train", "map", mode=Mode.ADVISE), number=1, parts=("", ""))
    assert f"waiting 89%: advice: {GAIN}: 89% starvation" in line


def test_advice_of_an_older_sidecar_is_said_once_whatever_its_figures_are() -> None:
    """It names no topics: the verdict and the place of the advice tell what is the same."""
    loader = watched("train", "none")
    lines = []
    for gain in ("+114%", "+9%"):
        made = replace(recommended(KEPT, (ADVICE.replace("+114%", gain),)), advice_topics=())
        lines += logged(lambda: log_decision(loader, epoch(), made, ApplyDecision(Outcome.UNCHANGED))).at(20)  # noqa: B023
    assert [line for line in lines if "persistent_workers" in line] == [f"train: {ADVICE}"]


@pytest.mark.parametrize(
    ("advice", "decision", "second"),
    [
        ((), ApplyDecision(Outcome.REFUSED, STATEFUL), "not applied: " + STATEFUL),
        ((), ApplyDecision(Outcome.ADVISED, STATEFUL), "advice only: " + STATEFUL),
        ((ADVICE,), ApplyDecision(Outcome.UNCHANGED), ADVICE),
        ((ADVICE,), ApplyDecision(Outcome.APPLIED), ADVICE),
    ],
)
def test_reason_and_remedy_that_do_not_fit_have_a_line_of_their_own_once(
    advice: tuple[str, ...], decision: ApplyDecision, second: str
) -> None:
    """124 characters of reason and remedy, none cut; not again with the next epoch's line."""
    loader = watched("train", "none")
    assert told(advice=advice, decision=decision, loader=loader).at(logging.INFO)[1:] == [f"train: {second}"]
    other = recommended(advice=advice, workers=6)
    again = logged(lambda: log_decision(loader, epoch(4), other, decision))
    assert f"train: {second}" not in again.at(logging.INFO)


def test_what_differs_in_figures_alone_is_said_once() -> None:
    """The same advice with another gain each epoch, and none between, is one line; a change is always one."""
    loader = watched("train", "none")
    advised, kept = ApplyDecision(Outcome.ADVISED), ApplyDecision(Outcome.UNCHANGED)
    assert told(advice=(ADVICE,), decision=advised, loader=loader).at(logging.INFO)
    for gain in ("+9%", "+10.5%"):
        assert not told(decision=advised, loader=loader).at(logging.INFO)
        other = ADVICE.replace("+114%", gain)
        assert not told(advice=(other,), decision=advised, loader=loader).at(logging.INFO)
        assert not told(KEPT, (ADVICE,), kept, loader=loader).at(logging.INFO)
    assert told(KEPT, ("Raise the memory limit to 8 GiB.",), kept, loader=loader).at(logging.INFO)
    for _ in range(2):
        assert told(loader=loader).at(logging.INFO)


def test_cause_that_does_not_fit_is_left_for_who_debugs() -> None:
    """A refusal of 41 characters fills the line; what a batch takes is evidence, and said at DEBUG."""
    lines = told(decision=ApplyDecision(Outcome.REFUSED, "No record of the change could be written."))
    assert len(lines.at(logging.INFO)) == 1
    assert lines.at(logging.DEBUG) == [f"train: epoch 3: {LOADS}"]


def test_line_on_stderr_has_160_characters_with_its_prefix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program that has configured no logging, a long name, a cut reason: the longest line that there is."""
    monkeypatch.setattr(log, "logger", logging.Logger("without-handlers"))
    summary = EpochSummary(3, LoaderSettings(1, 2), 40, 11.2, 8.9, 1.1, 0.2)
    made = recommended(advice=(ADVICE,) * 3)
    log_decision(watched("n" * 500), summary, made, ApplyDecision(Outcome.REFUSED, FILE * 3))
    line, detail, advice = capsys.readouterr().err.splitlines()
    assert line.startswith("feedwater: nnn")
    assert 140 < len(line) <= 160
    assert (detail.endswith(FILE), advice.endswith(ADVICE)) == (True, True)


ANY = st.text(max_size=160) | st.sampled_from([SENTENCE, KEPT, ADVICE, "x" * 160, "a\nb: c\x1b[31m"])


@given(
    sentence=ANY,
    parts=st.none() | st.tuples(ANY, ANY),
    advice=st.lists(ANY, max_size=4),
    detail=st.text(max_size=300) | st.just(FILE),
    outcome=st.sampled_from(Outcome),
    name=st.text(max_size=300) | st.just("train"),
)
@settings(max_examples=300, deadline=None)
def test_no_line_is_longer_whatever_is_to_be_said(
    sentence: str,
    parts: tuple[str, str] | None,
    advice: list[str],
    detail: str,
    outcome: Outcome,
    name: str,
) -> None:
    """With any name and any sidecar: 149 characters, no escape; a reason in a line of its own has 600."""
    lines = told(sentence, tuple(advice), ApplyDecision(outcome, detail), name, parts=parts)
    first, *others = [text for level, text in lines.said if level == logging.INFO] or [""]
    assert len(others) <= 1 + len(advice)
    assert all(len(text) <= 149 for text in (first, *lines.at(logging.DEBUG)))
    assert all(len(text) <= MAX_REASON for text in others)
    assert all(text.isprintable() for _, text in lines.said)


def test_change_is_a_warning_where_info_is_not_shown() -> None:
    """logging.basicConfig() leaves the root logger at WARNING: a change is said, advice is not."""
    change = logged(
        lambda: log_decision(watched("train", "map"), epoch(), recommended(), ApplyDecision(Outcome.APPLIED)),
        logging.WARNING,
    )
    assert [text.split(":")[0] for text in change.at(logging.WARNING)] == [
        "train",
        "samples and their order stay the same; random numbers drawn in workers depend on their count",
    ]
    advice = logged(
        lambda: log_decision(watched("train"), epoch(), recommended(), ApplyDecision(Outcome.ADVISED)),
        logging.WARNING,
    )
    assert advice.said == []


def test_change_stays_at_info_where_that_is_shown() -> None:
    """No warning where the line is heard anyway."""
    assert told().at(logging.WARNING) == []
    assert len(told().at(logging.INFO)) == 1


def test_ranks_above_0_leave_the_lines_to_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight ranks would say each line eight times."""
    monkeypatch.setattr(process, "_settings", Settings(rank=1))
    loader = watched("loader-0", "map", label=MNIST)
    lines = logged(lambda: log_decision(loader, epoch(), recommended(), ApplyDecision(Outcome.APPLIED)))
    lines.said += logged(lambda: log_never_iterated(loader)).said
    assert {level for level, _ in lines.said} == {logging.DEBUG}


def test_loader_that_the_user_did_not_name_is_said_to_be_what_it_is() -> None:
    """Once, before its first line; a named one needs no such word."""
    loader = watched("loader-0", label=MNIST)
    first, second = told(loader=loader).at(logging.INFO)
    assert (first, second[:9]) == ("loader-0 is MNIST[60000], batches of 64", "loader-0:")
    assert len(told(loader=loader).at(logging.INFO)) == 1
    named = watched("train", label=MNIST, is_named_by_user=True)
    assert len(told(loader=named).at(logging.INFO)) == 1


def preview(loader: WatchedLoader, batches: int = 128, number: int = 0, **made: object) -> list[str]:
    """Return what is said in the midst of an epoch."""
    answer = recommended(**made)  # type: ignore[arg-type]
    return logged(lambda: log_preview(loader, epoch(number, batches), answer)).at(logging.INFO)


@pytest.mark.parametrize(
    ("loader", "number", "when"),
    [
        (watched("train", "map"), 0, "from the next epoch or start"),
        (watched("train", "map"), 1, "from the next epoch"),
        (watched("train", "map", mode=Mode.ADVISE), 1, "advice"),
        (watched("train", "map", tuning=Tuning(obstacle=KEEPS_ITERATOR)), 1, "advice, at the next start"),
        (watched("train", "iterable"), 1, "advice, at the next start"),
    ],
)
def test_preview_says_how_far_the_epoch_is_and_from_when_advice_could_hold(
    loader: WatchedLoader, number: int, when: str
) -> None:
    """128 batches in 11.2 s are 11.4 a second; an endless loader's advice is for the next start."""
    (line,) = preview(loader, number=number)
    start = f"train: epoch {number}, batch 128: 11.4 batches/s, waiting 89%: {GAIN} ({when})"
    assert line.startswith(start)
    assert len(line) <= 149


def test_preview_is_said_again_only_for_other_settings() -> None:
    """Figures alone are no news; nor is what the line of an epoch said."""
    loader = watched("train", "map")
    assert len(preview(loader)) == 1
    assert preview(loader, 256, sentence=SENTENCE.replace("492", "480")) == []
    assert len(preview(loader, 512, workers=12)) == 1
    assert preview(loader, 700, sentence=KEPT, changes=False) == []
    other = watched("val", "map")
    assert len(told(loader=other).at(logging.INFO)) == 2
    assert preview(other, sentence=KEPT, changes=False) == []


def test_preview_that_keeps_the_setting_says_so_once() -> None:
    """A loader that is fed has its word too, without a word of when."""
    loader = watched("train", "map")
    fed = {"sentence": "1 worker kept: 2% starvation, it is fed.", "parts": ("1 worker kept", "it is fed")}
    (line,) = preview(loader, workers=1, changes=False, **fed)
    assert line.endswith("waiting 89%: 1 worker kept: it is fed.")
    assert preview(loader, 256, workers=1, changes=False, **fed) == []


SHORT = "Epoch 1 has 10 measured batches; 20 are needed."


def test_loader_that_is_not_judged_says_why_after_its_second_epoch() -> None:
    """Once; a peek of one batch is no epoch, and a loader that had an answer needs no excuse."""
    loader = watched("val", "map")

    def lines(number: int, batches: int) -> list[str]:
        return logged(lambda: log_no_recommendation(loader, epoch(number, batches), SHORT)).at(logging.INFO)

    assert [lines(0, 10), lines(1, 1), lines(2, 0)] == [[], [], []]
    assert lines(3, 10) == [
        "val: epoch 3: 0.893 batches/s, waiting 89%: nothing is recommended: " + SHORT,
    ]
    assert [lines(number, 10) for number in (4, 5, 6)] == [[], [], []]
    judged = watched("train", history=History(recommendation=recommended()))
    for number in range(3):
        assert logged(lambda n=number: log_no_recommendation(judged, epoch(n), SHORT)).said == []  # type: ignore[misc]


def test_loader_that_is_never_iterated_is_said_once_with_what_to_do() -> None:
    """A warning: the user asked for it to be watched."""
    loader = watched("train", is_named_by_user=True)
    (line,) = logged(lambda: log_never_iterated(loader)).at(logging.WARNING)
    assert line.startswith("train: nothing is measured")
    assert "give feedwater.watch the loader that the training loop iterates" in line
    assert logged(lambda: log_never_iterated(loader)).said == []


AWAY = Answer(reason="No sidecar.", address=DEFAULT_ADDRESS)
THERE = Answer(connected=True, address=DEFAULT_ADDRESS)
LATE = Answer(reason="No answer within 0.25 s.", address=DEFAULT_ADDRESS, late=True)


def connection(loader: WatchedLoader, *answers: Answer) -> list[tuple[int, str]]:
    """Return what is said of these answers, one after the other."""

    def say() -> None:
        for answer in answers:
            log_connection(loader, answer)

    return logged(say).said


def test_late_answer_is_not_an_absent_sidecar() -> None:
    """Said once; no pair of "unavailable" and "connected" comes and goes with the load."""
    assert connection(watched("train"), THERE, LATE, THERE, LATE, THERE)[1:] == [
        (
            logging.INFO,
            "no answer from the sidecar this time (No answer within 0.25 s); "
            "it is asked again after the next epoch",
        )
    ]


def test_absent_sidecar_is_said_with_how_to_have_one_once() -> None:
    """Two loaders without a sidecar: the hint stands in the first line alone."""
    first, second = connection(watched("train"), AWAY) + connection(watched("val"), AWAY)
    assert first == (
        logging.INFO,
        f"sidecar at {DEFAULT_ADDRESS} unavailable; training continues with num_workers=0{epoch_log.HINT}",
    )
    assert second[1].endswith("num_workers=0")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
        ("PYTHONPATH", "/opt/feedwater/inject/site"),
        ("address", "unix:/run/other.sock"),
    ],
)
def test_no_hint_where_feedwater_run_is_not_the_remedy(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a pod, under ``feedwater run`` itself, and where the user said where the sidecar is."""
    address = value if name == "address" else DEFAULT_ADDRESS
    if name != "address":
        monkeypatch.setenv(name, value)
    ((_, line),) = connection(watched("train"), Answer(reason="No sidecar.", address=address))
    assert epoch_log.HINT not in line


class Terminal(io.StringIO):
    """Standard error as a terminal."""

    def isatty(self) -> bool:
        """Claim to be one."""
        return True


@pytest.mark.parametrize("is_broken", [False, True])
def test_line_is_written_above_a_progress_bar_and_comes_whatever_tqdm_is(
    monkeypatch: pytest.MonkeyPatch, is_broken: bool
) -> None:
    """By tqdm's own ``write`` where a bar is drawn; straight away where that fails."""
    terminal, above = Terminal(), []

    def write(text: str, file: object) -> None:
        if is_broken:
            raise TypeError("another tqdm")
        above.append((text, file))

    bar = SimpleNamespace(_instances={"bar"}, write=write)
    monkeypatch.setitem(sys.modules, "tqdm", SimpleNamespace(tqdm=bar))  # type: ignore[arg-type]
    monkeypatch.setattr(log, "logger", logging.Logger("without-handlers"))
    monkeypatch.setattr(sys, "stderr", terminal)
    log.log_line("news")
    expected: tuple[list[object], str] = ([("feedwater: news", terminal)], "")
    assert (above, terminal.getvalue()) == (([], "feedwater: news\n") if is_broken else expected)


def test_line_above_a_real_bar_leaves_the_bar_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar is cleared, the line written, the bar drawn again."""
    tqdm = pytest.importorskip("tqdm").tqdm
    terminal = Terminal()
    monkeypatch.setattr(log, "logger", logging.Logger("without-handlers"))
    monkeypatch.setattr(sys, "stderr", terminal)
    with tqdm(total=10, file=terminal, ncols=40):
        log.log_line("news")
    before, _, after = terminal.getvalue().partition("feedwater: news\n")
    assert before.endswith("\r")
    assert "0/10" in after


def test_level_set_by_the_user_silences_without_a_handler(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``logging.getLogger("feedwater").setLevel("WARNING")``, nothing else: trouble is shown, news is not."""
    logger = logging.Logger("without-handlers", logging.WARNING)
    monkeypatch.setattr(log, "logger", logger)
    log.log_line("news")
    log.log_line("trouble", logging.WARNING)
    assert capsys.readouterr().err == "feedwater: trouble\n"
    assert log.visible_level() == logging.WARNING
