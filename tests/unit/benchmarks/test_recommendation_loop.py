"""How recorded epochs are put together to what the sidecar would have known."""

from __future__ import annotations

from typing import Any

import pytest

from feedwater_service.model import (
    Budget,
    ContainerUsage,
    Epoch,
    Load,
    Loader,
    LoaderSettings,
    NoRecommendation,
    NoRecommendationReason,
    WorkerMemory,
)
from tests.benchmarks.recommendation import closed_loop
from tests.benchmarks.recommendation.closed_loop import Player, pod_of, shifted
from tests.benchmarks.recommendation.traces import Known, Recorded, Trace, joined

BUDGET = Budget(2, 1.0)


def _known(workers: int, number: int, rank: int = 0, start: float = 50.0) -> Known:
    settings = LoaderSettings(workers, 2 if workers else None)
    epoch = Epoch(
        number,
        settings,
        start,
        0.5,
        [0.25, 0.25],
        [0.5, 0.5],
        loads=[Load(0, start + 0.5, 0.1, 0.05, 0.0)],
        memory=(WorkerMemory(0, start + 1.0, pss_bytes=7),),
        containers=(ContainerUsage(start + 1.0),),
        batches=2,
    )
    return Known(Loader("train", rank, settings, ()), epoch, None)


def _row(workers: int) -> dict[str, Any]:
    return {"workers": workers, "prefetch": None, "seconds": 2.0, "batches": 2, "foreign_cores": 0.0}


def _recorded(workers: int) -> Recorded:
    return Recorded(workers, 2, 2.0, 2, 0.0, 0, (_known(workers, 7),))


def test_rows_meet_their_epochs_by_number() -> None:
    """Epoch 0 was the abandoned one that warmed up, so the first row is epoch 1."""
    made = joined([_row(0), _row(4)], [_known(0, 1), _known(4, 2)])
    assert [(r.workers, r.known[0].epoch.number) for r in made] == [(0, 1), (4, 2)]


def test_an_epoch_whose_reports_were_lost_keeps_its_time() -> None:
    """The truth is the trainer's; only the model's input is missing."""
    made = joined([_row(0), _row(4)], [_known(4, 2)])
    assert [(r.seconds, len(r.known)) for r in made] == [(2.0, 0), (2.0, 1)]


def test_an_epoch_that_one_rank_did_not_report_is_not_fed_to_the_model() -> None:
    """Half a group is another situation."""
    made = joined([_row(4), _row(4)], [_known(4, 1), _known(4, 1, rank=1), _known(4, 2)])
    assert [len(r.known) for r in made] == [2, 0]


def test_rows_of_another_run_are_refused() -> None:
    """4 workers were set, 2 were reported."""
    with pytest.raises(ValueError, match="4 was set"):
        joined([_row(4)], [_known(2, 1)])


def test_shifting_an_epoch_moves_every_stamp() -> None:
    """By 100 s: start, loads, memory and container alike; durations stay."""
    moved = shifted(_known(2, 0).epoch, 100.0)
    stamps = [
        moved.start,
        moved.loads[0].start,
        moved.memory[0].stamp_seconds,
        moved.containers[0].stamp_seconds,
    ]
    assert stamps == [150.0, 150.5, 151.0, 151.0]
    assert moved.loads[0].seconds == 0.1


def test_epochs_follow_each_other_as_if_they_had() -> None:
    """Two epochs of 2 s recorded at one moment are numbered 0 and 1, the second a pause later."""
    pod = pod_of(BUDGET, [_recorded(0), _recorded(2)], closed_loop.Noted())
    first, second = pod.loaders[0].epochs
    assert (first.number, second.number) == (0, 1)
    assert second.start - first.start == pytest.approx(2.0 + closed_loop.PAUSE_SECONDS)
    assert second.budget == BUDGET


def test_the_users_own_setting_is_the_first_epochs() -> None:
    """What is in use is the last epoch's; what the user set was no worker."""
    loader = pod_of(BUDGET, [_recorded(0), _recorded(2)], closed_loop.Noted()).loaders[0]
    assert (loader.epochs[0].settings.num_workers, loader.settings.num_workers) == (0, 2)


def test_a_rollback_is_remembered_as_failed() -> None:
    """From 8 back to 4: the 8 is not tried again."""
    record = closed_loop.Noted()
    record.change(1, (4, 2), (8, 2), rolls_back=False)
    record.change(2, (8, 2), (4, 2), rolls_back=True)
    assert [c.first_epoch for c in record.changes] == [1, 2]
    assert [s.num_workers for s in record.failed] == [8]


def test_a_loader_without_an_answer_stays_as_it_is() -> None:
    """Two batches are too few: after three steady epochs the rest of the run is taken to be the same."""
    player = Player(Trace("io", BUDGET, (_recorded(0), _recorded(2)), {}))
    play = player.play(2)
    assert play.settings == [(2, 2)] * 10
    answer = play.answers[0].answer
    assert isinstance(answer, NoRecommendation)
    assert answer.reason is NoRecommendationReason.TOO_FEW_BATCHES


def test_starts_are_the_counts_that_the_model_can_be_fed() -> None:
    """A count whose reports were lost has a rate, and no epoch to begin with."""
    lost = Recorded(4, 2, 2.0, 2, 0.0, 0)
    assert Player(Trace("io", BUDGET, (_recorded(0), _recorded(2), lost), {})).counts == [0, 2]
