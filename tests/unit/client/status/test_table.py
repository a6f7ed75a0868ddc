"""What the loaders did, a row each, at the end of ``feedwater run``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from feedwater.relay.views import DecisionView, EpochView, LoaderView
from feedwater.status.table import COLUMNS, MAX_LOADERS, as_table
from feedwater.values import EpochSummary, LoaderSettings

View = Callable[..., LoaderView]
ONE, FOUR = LoaderSettings(1, 2), LoaderSettings(4, 2)
SHORT = "Epoch 3 has 1 measured batches; 20 are needed."


def epoch(number: int, batches: int = 100, *, wait: float = 3.0, complete: bool = True) -> EpochView:
    """Return an epoch of 10 s, ``wait`` of it waiting beside 6 s of steps, for which nobody asked."""
    return EpochView(EpochSummary(number, ONE, batches, 10.0, wait, 6.0, 1.0, complete))


def cells(line: str) -> list[str]:
    """Return the cells of a row: two spaces at least lie between them."""
    return re.split(r"  +", line.strip())


def test_table_shows_the_newest_epoch_and_the_sentence(view: View) -> None:
    """100 batches in 10 s with 3 s of waiting beside 6 s of steps: 10.0 batches/s, 33 %."""
    head, row, sentence = as_table([view()]).splitlines()
    assert tuple(head.split()) == tuple(name for name in COLUMNS if name not in ("data", "rank"))
    assert cells(row) == ["train", "3", "1", "4", "10.0", "33%", "TOO_FEW_WORKERS"]
    assert sentence == "train: 1 to 4 workers."


def test_row_says_what_the_loader_is_and_from_what_to_what_its_workers_went(view: View) -> None:
    """Unnamed, of the user's 1 worker, with 4 in use, which is what is recommended."""
    known = replace(
        view(loader="loader-0"), label="MNIST[60000], batches of 64", settings=FOUR, initial_settings=ONE
    )
    head, row, _ = as_table([known]).splitlines()
    assert cells(head)[:4] == ["loader", "data", "epochs", "workers"]
    assert cells(row)[:5] == ["loader-0", "MNIST[60000], batches of 64", "3", "1 → 4", "as in use"]


def test_verdict_is_the_recommendations(view: View) -> None:
    """For the last epoch nobody asks, so that its own is always UNKNOWN."""
    known = replace(view(), epochs=(*view().epochs, epoch(3)))
    assert cells(as_table([known]).splitlines()[1])[-1] == "TOO_FEW_WORKERS"


def test_where_nothing_is_recommended_the_reason_is_said(view: View) -> None:
    """No verdict stands for it; a run that ended in its first epoch has a reason as well."""
    short = replace(view(), recommendation=None, reason=SHORT, epochs=(epoch(3, 10),))
    row, why = as_table([short]).splitlines()[1:]
    assert (cells(row)[3], cells(row)[-1]) == ("-", "-")
    assert why == f"train: nothing is recommended: {SHORT}"
    ended = replace(short, reason="", epochs=(epoch(0, 35, complete=False),))
    assert as_table([ended]).endswith("train: nothing is recommended: epoch 0 broke off after 35 batches.")


def test_same_reason_of_many_loaders_is_one_line(view: View) -> None:
    """Three validation loaders of 8 to 10 batches."""
    loaders = [
        replace(
            view(loader=f"loader-{n}"),
            recommendation=None,
            reason=f"Epoch {n} has {8 + n} measured batches; 20 are needed.",
            reason_code="TOO_FEW_BATCHES",
            epochs=(epoch(n, 8 + n),),
        )
        for n in range(3)
    ]
    assert as_table(loaders).splitlines()[4:] == [
        "loader-0 and 2 more likewise: nothing is recommended: Epoch 0 has 8 measured batches; 20 are needed."
    ]
    unasked = [replace(one, reason="", reason_code="") for one in loaders]
    assert as_table(unasked).splitlines()[4:] == [
        "loader-0 and 2 more likewise: nothing is recommended: epoch 0 ended after 8 batches."
    ]
    frozen = [replace(one, reason=f"Frozen at {n}.", reason_code="FROZEN") for n, one in enumerate(loaders)]
    assert len(as_table(frozen).splitlines()[4:]) == 3


def test_look_at_a_batch_hides_neither_the_epoch_nor_what_was_said_of_it(view: View) -> None:
    """``next(iter(loader))`` after epoch 2: its 100 batches, its verdict and its sentence are shown."""
    said = DecisionView(2, ONE, FOUR, "TOO_FEW_WORKERS", "1 to 4 workers.", "advised", "", False)
    peek = DecisionView(3, ONE, None, "UNKNOWN", SHORT, "", "", False)
    known = replace(
        view(),
        epochs=(epoch(2), epoch(3, 1, complete=False)),
        recommendation=None,
        reason=SHORT,
        decisions=(said, peek),
    )
    row, sentence = as_table([known]).splitlines()[1:]
    assert cells(row) == ["train", "3", "1", "4", "10.0", "33%", "TOO_FEW_WORKERS"]
    assert sentence == "train: 1 to 4 workers."


@pytest.mark.parametrize(("batches", "shown"), [(20, "10.0"), (150, "15.0")])
def test_epoch_that_was_broken_off_is_shown_where_it_is_longer(view: View, batches: int, shown: str) -> None:
    """Ctrl-C after 20 or 150 batches, an epoch of 100 before it."""
    known = replace(view(), epochs=(epoch(0), epoch(1, batches, complete=False)))
    assert shown in cells(as_table([known]).splitlines()[1])


def test_advice_and_why_it_is_not_applied_are_said_whole(view: View) -> None:
    """A path of 300 characters in the reason; the advice in a line of its own."""
    why = f"/{'d' * 300} is open for reading. Pass allow_workers=True to feedwater.watch to allow it."
    made = view().recommendation
    assert made is not None
    known = replace(
        view(),
        recommendation=replace(made, advice=("Set persistent_workers=True.",)),
        decisions=(DecisionView(2, ONE, FOUR, "", "", "refused", why, False),),
    )
    assert as_table([known]).splitlines()[2:] == [
        "train: 1 to 4 workers.",
        f"train: not applied: {why}",
        "train: Set persistent_workers=True.",
    ]


def test_two_hundred_loaders_are_the_twenty_that_waited_longest(view: View) -> None:
    """Loader n waited n seconds; those of which a batch was looked at are no loaders that count."""
    loaders = [replace(view(loader=f"loader-{n}"), epochs=(epoch(0, wait=n),)) for n in range(200)]
    peeks = [replace(view(loader=f"peek-{n}"), epochs=(epoch(0, 1, wait=999.0),)) for n in range(56)]
    lines = as_table([*peeks, *loaders]).splitlines()
    assert [line.split()[0] for line in lines[1 : MAX_LOADERS + 1]] == [
        f"loader-{n}" for n in range(199, 179, -1)
    ]
    assert lines[MAX_LOADERS + 1] == "and 236 more loaders that waited less"
    assert len(lines) == 2 + 2 * MAX_LOADERS


@pytest.mark.parametrize(("device", "cell"), [(None, "33% host wait"), (0.04, "4%")])
def test_starvation_is_the_devices_or_is_called_host_wait(
    view: View, device: float | None, cell: str
) -> None:
    """Under CUDA the host's 33 % are no loss as long as nobody knows what the device did."""
    known = view()
    epoch = known.epochs[0]
    epoch = replace(epoch, summary=replace(epoch.summary, device_starvation=device))
    row = as_table([replace(known, uses_cuda=True, epochs=(epoch,))]).splitlines()[1]
    assert f" {cell} " in row


def test_ranks_that_were_treated_alike_are_one_row(view: View) -> None:
    """Ranks 0 to 2 and 4 by the rank of median speed, and what all are told once."""
    views = [
        replace(view(rank), epochs=(epoch(2, batches),))
        for rank, batches in ((1, 90), (0, 100), (2, 110), (4, 120))
    ]
    head, row, *said = as_table(views).splitlines()
    assert cells(head)[1] == "rank"
    assert cells(row)[:2] + cells(row)[5:6] == ["train", "0-2 4", "11.0"]
    assert said == ["train: 1 to 4 workers."]


def test_rank_that_was_treated_otherwise_has_a_row_of_its_own(view: View) -> None:
    """Rank 1 has 4 workers in use, the others 1."""
    lines = as_table([view(2), replace(view(1), settings=FOUR), view(0)]).splitlines()
    assert [cells(line)[1:4] for line in lines[1:3]] == [["0 2", "3", "1"], ["1", "3", "4"]]


def test_ranks_are_told_the_newest_word_of_them_all(view: View) -> None:
    """Rank 0 had asked before rank 1 brought the batches that were missing: one row, one sentence."""
    made = view().recommendation
    assert made is not None
    newer = replace(made, epoch=3, settings=LoaderSettings(6, 2), sentence="1 to 6 workers.")
    ranks = [
        replace(view(0), recommendation=None, reason=SHORT),
        replace(view(1), recommendation=newer),
        view(2),
    ]
    lines = as_table(ranks).splitlines()
    assert cells(lines[1])[:5] == ["train", "0-2", "3", "1", "6"]
    assert lines[2:] == ["train: 1 to 6 workers."]


def test_first_rank_says_for_all_why_nothing_is_recommended(view: View) -> None:
    """Rank 1 had another number of batches, which is no other reason."""
    ranks = [replace(view(n), recommendation=None, reason=f"{8 + n} batches.") for n in range(2)]
    assert as_table(ranks).splitlines()[2:] == ["train: nothing is recommended: 8 batches."]


def test_what_one_rank_is_told_names_it(view: View) -> None:
    """Rank 1 alone could not apply it."""
    failed = DecisionView(2, ONE, FOUR, "", "", "failed", "No memory.", False)
    lines = as_table([view(0), replace(view(1), decisions=(failed,))]).splitlines()
    assert lines[2:] == ["train: 1 to 4 workers.", "train (rank 1): failed, taken back: No memory."]


def test_nobody_is_said_so() -> None:
    """An empty sidecar."""
    assert as_table([]) == "No loader has reported yet."
