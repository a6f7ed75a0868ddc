"""The newest epoch of each loader as a small table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from feedwater.relay.measurements import LoaderView
from feedwater.status.table import COLUMNS, as_table

View = Callable[..., LoaderView]


def test_table_shows_the_newest_epoch_and_the_sentence(view: View) -> None:
    """100 batches in 10 s with 3 s of waiting beside 6 s of steps: 10.0 batches/s, 33 %."""
    head, row, sentence = as_table([view()]).splitlines()
    assert tuple(head.split()) == COLUMNS
    assert row.split() == ["train", "0", "3", "1", "10.0", "33%", "TOO_FEW_WORKERS", "4"]
    assert sentence == "train: 1 to 4 workers."


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


def test_ranks_are_in_order_and_what_all_are_told_is_said_once(view: View) -> None:
    """Ranks 1 and 0 with the same sentence."""
    lines = as_table([view(1), view(0)]).splitlines()
    assert [line.split()[1] for line in lines[1:3]] == ["0", "1"]
    assert lines[3:] == ["train: 1 to 4 workers."]


def test_what_one_rank_is_told_names_it(view: View) -> None:
    """Rank 1 has a sentence of its own."""
    lines = as_table([view(0), view(1, "Rank 1 is slow.")]).splitlines()
    assert lines[3:] == ["train (rank 0): 1 to 4 workers.", "train (rank 1): Rank 1 is slow."]


def test_nobody_is_said_so() -> None:
    """An empty sidecar."""
    assert as_table([]) == "No loader has reported yet."
