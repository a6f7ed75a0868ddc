"""What a person is shown of a pod."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedwater.relay.measurements import Limits
from feedwater.relay.views import EpochView, LoaderView, PodView
from feedwater.status.layout import as_text, lay_out
from feedwater.status.page import page
from feedwater.status.words import width
from feedwater.v1 import feedwater_pb2 as pb
from feedwater.values import EpochSummary, LoaderSettings
from feedwater.verdicts import VERDICTS

HOSTILE = "\x1b[31mred\x1b[0m\r\n[bold]x[/] \u202eright\u202c <script>" + "長" * 10_000


def shown(*loaders: LoaderView, now: float | None = 1001.0, columns: int = 80) -> str:
    """Return the page as text."""
    return as_text(lay_out(page(PodView(loaders, "1.2.3", now)), columns))


def line_of(text: str, start: str) -> str:
    """Return the line that begins with ``start``."""
    (found,) = [line for line in map(squeezed, text.splitlines()) if line.startswith(start)]
    return found


def squeezed(text: str) -> str:
    """Return the text with single spaces."""
    return " ".join(text.split())


def test_page_shows_limits_and_what_is_used_of_them(full: LoaderView) -> None:
    """1.2 of 1.5 cores, 1 of 4 GiB and 16 of 64 MiB: a quarter each of the latter."""
    text = shown(full, columns=100)
    assert line_of(text, "CPU") == (
        "CPU limit 1.5 cores on 8 CPUs, 1.2 cores used in epoch 2, throttled in 63% of periods"
    )
    assert line_of(text, "memory") == "memory 1.0 GiB of 4.0 GiB used (25%)"
    assert line_of(text, "/dev/shm") == "/dev/shm 16 MiB of 64 MiB used (25%)"


def test_page_says_why_and_what_to_do(full: LoaderView) -> None:
    """The verdict in words, the sentence, its evidence, the advice."""
    lines = shown(full).splitlines()
    at = lines.index("train: too few workers")
    assert [line.strip() for line in lines[at + 1 : at + 4]] == [
        "1 → 4 workers for +200% batches/s.",
        "because   60 ms to load a batch",
        "advice    Set persistent_workers=True.",
    ]


def test_page_says_which_loader_it_is(full: LoaderView) -> None:
    """An unnamed one is recognised by its data."""
    text = shown(replace(full, loader="loader-0", label="MNIST[60000], batches of 64"))
    assert "loader-0, MNIST[60000], batches of 64: too few workers" in text.splitlines()


def test_page_says_what_the_loader_does_now(full: LoaderView) -> None:
    """Two batches with 40 ms of waiting beside 60 ms of steps: 40 %."""
    text = shown(full, columns=120)
    assert line_of(text, "now") == (
        "now epoch 3, batch 40 of 100; last 2 batches: wait 20 ms, step 30 ms, 40% waiting"
    )
    assert "4 in use, 4 recommended, 6 without the pod's limits, 2 in the script, mode auto" in squeezed(text)


def test_memory_of_workers_is_shared_pages_divided(full: LoaderView) -> None:
    """50 and 70 MiB of PSS are 120 MiB, 3 % of 4 GiB; RSS is never summed."""
    assert "they take 120 MiB, 3% of the limit, the largest 70 MiB" in squeezed(shown(full))
    unread = tuple(replace(memory, pss_bytes=None) for memory in full.workers)
    assert "the largest has 90 MiB resident" in squeezed(shown(replace(full, workers=unread)))


def test_epochs_curve_decisions_and_what_if_have_their_lines(full: LoaderView) -> None:
    """The measured 10 batches/s stands beside the 10 expected of one worker."""
    text = shown(full)
    assert line_of(text, "2 1 ") == "2 1 10.0 33% 1 s 1.20 63% TOO_FEW_WORKERS"
    assert line_of(text, "3 4 ") == "3 4 20.0 8% 500 ms - - not over"
    assert line_of(text, "1 ██████ ") == "1 ██████ 10.0 9.50-10.5 10.0"
    assert line_of(text, "4 ███") == "4 ██████████████████ 30.0 25.0-33.0 - in use, recommended"
    assert line_of(text, "epoch 1") == "epoch 1 1 → 4 workers, refused, TOO_FEW_WORKERS. A file is open."
    assert line_of(text, "epoch 2") == "epoch 2 1 → 4 workers, applied, TOO_FEW_WORKERS"
    assert line_of(text, "2 cores") == "2 cores 4 30.0 2%"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"connected": False}, "has ended"),
        ({"last_seen_seconds": 950.0}, "not heard of for 51 s"),
        ({"stalled_seconds": 42.0}, "no batch for 42 s, and some are outstanding"),
        ({"epochs": ()}, "no epoch has begun"),
        ({"frozen": "The last run died."}, "The last run died."),
    ],
)
def test_trouble_is_said(full: LoaderView, change: dict[str, object], says: str) -> None:
    """What is wrong now stands instead of figures."""
    assert says in shown(replace(full, **change))


def test_ranks_are_a_table_and_told_once(view: Callable[..., LoaderView]) -> None:
    """Ranks 1 and 0: two rows in order, one sentence."""
    text = shown(view(1), view(0))
    assert "train (2 ranks): too few workers" in text
    assert line_of(text, "0 1 ") == "0 1 10.0 33% epoch 2 is done"
    assert text.count("1 to 4 workers.") == 1


def test_host_wait_is_not_called_starvation(full: LoaderView) -> None:
    """Where CUDA is used and nobody knows what the device did."""
    head = line_of(shown(replace(full, uses_cuda=True), columns=100), "epoch workers")
    assert "host wait" in head
    assert "starved" not in head


def test_older_sidecar_leaves_out_what_it_does_not_tell(view: Callable[..., LoaderView]) -> None:
    """No version, time, container, decisions: what is there is shown, and nothing is made up."""
    text = shown(view(), now=None)
    assert text.startswith("feedwater")
    assert "1 in use, 4 recommended, mode auto" in text
    assert "0 B" not in text


def test_nobody_is_said_so() -> None:
    """An empty sidecar."""
    assert shown().endswith("No loader has reported yet.")


def test_every_verdict_has_words() -> None:
    """All of the wire's verdicts, so that a new one is not forgotten."""
    names = {name.removeprefix("VERDICT_") for name in dict(pb.Verdict.items())} - {"UNSPECIFIED"}
    assert set(VERDICTS) == names


def hostile(full: LoaderView, text: str) -> LoaderView:
    """Return the loader with ``text`` wherever the wire can bring text."""
    assert full.recommendation is not None
    said = replace(full.recommendation, sentence=text, advice=(text,), verdict=text)
    return replace(
        full,
        loader=text,
        job=text,
        pod=text,
        reason=text,
        frozen=text,
        recommendation=said,
        evidence=tuple(replace(e, text=text) for e in full.evidence),
        decisions=tuple(replace(d, detail=text, outcome=text, verdict=text) for d in full.decisions),
        epochs=tuple(replace(e, summary=replace(e.summary, verdict=text)) for e in full.epochs),
    )


@given(text=st.one_of(st.just(HOSTILE), st.text()), columns=st.integers(40, 160))
@settings(max_examples=60, deadline=None)
def test_no_text_breaks_the_page(text: str, columns: int) -> None:
    """No control character, no escape code, no line wider than the terminal, whatever a loader is called."""
    settings = LoaderSettings(2)
    epoch = EpochView(EpochSummary(0, settings, 1, 1.0, 0.0, 1.0, 0.0))
    plain = LoaderView(text, text, "", text, 0, "auto", settings, Limits(), True, (epoch,), None, text, text)
    page_text = shown(plain, columns=columns)
    assert all(line.isprintable() and width(line) <= columns for line in page_text.split("\n"))


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_hostile_texts_everywhere_leave_the_layout_alone(full: LoaderView, columns: int) -> None:
    """10 KB of wide characters, escape codes, markup and reversals in every field; at least 40 columns."""
    text = shown(hostile(full, HOSTILE), columns=columns)
    assert all(line.isprintable() and width(line) <= max(40, columns) for line in text.split("\n"))
    assert "?[31mred?[0m??[bold]x[/]" in " ".join(text.split()).replace("? ?", "??")
    assert len(text.splitlines()) < 250
