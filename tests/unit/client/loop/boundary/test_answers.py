"""An answer is checked before anything acts on it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
from torch.utils.data import DataLoader

import feedwater
from feedwater.loop import registry
from feedwater.loop.boundary import answers
from feedwater.testing import Advice, FakeTransport
from feedwater.values import Answer, LoaderSettings, Mode, Outcome, Prediction, Recommendation, WhatIf

NOW = LoaderSettings(2, 2)
PREDICTION = Prediction(LoaderSettings(4, 2), 10.0, 9.0, 11.0, 0.1)
GOOD = Recommendation(
    "1", 0, LoaderSettings(4, 2), "FED", "s", True, curve=(PREDICTION,), what_if=(WhatIf(2.0, PREDICTION),)
)


def cause(**changed: Any) -> str:
    why = answers.refusal(Answer(replace(GOOD, **changed)), NOW, cpus=2)
    return why.cause if why is not None else ""


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (LoaderSettings(64, 64), ""),  # On 2 CPUs: 64 in any case
        (LoaderSettings(65, 2), "count"),
        (LoaderSettings(300, 2), "count"),
        (LoaderSettings(10**9, 2), "count"),
        (LoaderSettings(-1, 2), "count"),
        (LoaderSettings(cast(int, True), 2), "count"),
        (LoaderSettings(cast(int, 2.5), 2), "count"),
        (LoaderSettings(cast(int, "4"), 2), "count"),
        (LoaderSettings(4, 65), "prefetch"),
        (LoaderSettings(4, 2**32 - 1), "prefetch"),
        (LoaderSettings(4, -1), "prefetch"),
        (LoaderSettings(4, 2, in_order=cast(bool, "yes")), "kind"),
        (cast(LoaderSettings, {"num_workers": 4}), "kind"),
    ],
)
def test_settings_beyond_reason_are_refused(settings: LoaderSettings, expected: str) -> None:
    """Counts are bounded by CPUs and rings, prefetch by 64; anything but a whole number is refused."""
    assert cause(settings=settings) == expected


@pytest.mark.parametrize(
    ("own", "cpus", "expected"),
    [(0, 2, 64), (0, 16, 64), (8, 16, 72), (0, 24, 96), (0, 192, 128), (200, 192, 200)],  # 4 x 16 + 8
)
def test_most_workers_follow_the_machine(own: int, cpus: int, expected: int) -> None:
    """64 anywhere, else 4 for each CPU and the user's own, 128 at most; the user's own is never too much."""
    assert answers.most_workers(LoaderSettings(own, 2), cpus) == expected


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, ""),
        ({"id": 7}, "kind"),
        ({"changes": "yes"}, "kind"),
        ({"epoch": None}, "kind"),
        ({"sentence": "x" * 5000}, "text"),
        ({"advice": ("x" * 5000,)}, "text"),
        ({"advice": (1,)}, "kind"),
        ({"advice": ["x"]}, "list"),
        ({"curve": (PREDICTION,) * 2000}, "list"),
        ({"curve": (None,)}, "kind"),
        ({"curve": (replace(PREDICTION, batches_per_second=float("nan")),)}, "number"),
        ({"what_if": (WhatIf(float("inf"), PREDICTION),)}, "number"),
        ({"batches_per_second": -1.0}, "number"),
        ({"batches_per_second_now": "fast"}, "number"),
        ({"curve": (replace(PREDICTION, settings=LoaderSettings(-1)),)}, "count"),
    ],
)
def test_fields_of_a_wrong_kind_or_size_are_refused(changed: dict[str, Any], expected: str) -> None:
    """Texts, lists and numbers are of their kind and of a size that a sidecar can mean."""
    assert cause(**changed) == expected


@pytest.mark.parametrize("answer", [None, 7, Answer(mode=cast(Mode, "auto")), Answer(reason="x" * 5000)])
def test_answers_of_a_wrong_kind_are_refused(answer: object) -> None:
    """The answer itself is checked, with a recommendation or without."""
    assert answers.refusal(answer, NOW) is not None


@pytest.mark.parametrize(
    "advice", [Advice(300), Advice(10**9), Advice(2, 2**32 - 1), Advice(10**300), Advice(-3)]
)
def test_training_goes_on_without_a_refused_answer(advice: Advice, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing changes, it is said once and counted twice, and the sidecar gets a REFUSED for each."""
    fake = FakeTransport({0: advice, 1: advice})
    loader: DataLoader[int] = DataLoader(cast(Any, range(12)), batch_size=4)
    watched = feedwater.watch(loader, name="t", mode="auto", transport=fake)
    for _ in range(3):
        assert len(list(watched)) == 3
    assert watched.num_workers == 0
    assert [report.outcome for report in fake.outcomes("t")] == [Outcome.REFUSED] * 2
    state = registry.of(loader)
    assert state is not None
    assert sum(state.history.refused_answers.values()) == 2
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
    assert "The sidecar's answer is refused" in caplog.text
    assert feedwater.recommendation(watched) is None
