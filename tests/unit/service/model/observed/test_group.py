"""Which loaders are ranks of one loader, and which belong to others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from feedwater_service.model import recommend
from feedwater_service.model.observed.group import group_of
from feedwater_service.model.types import Budget, Loader, LoaderSettings, Pod, Policy, Recommendation, Verdict
from tests.unit.service.model.synthetic import work

BUDGET = Budget(8)
FED = work(blocked=0.002, cpu=0.001, step_cpu=0.0, timed=0.05)
STARVED = work(blocked=0.06, cpu=0.001, step_cpu=0.0, timed=0.01)


@pytest.fixture
def two_jobs(play_epoch, make_pod) -> tuple[Loader, Loader]:
    """A well-fed loader of a trainer, and a starved one of the same name of an evaluator beside it."""

    def loader(workload, job: str) -> Loader:
        epoch = play_epoch(workload, LoaderSettings(2, 2), BUDGET)
        (made,) = make_pod([epoch], BUDGET).loaders
        return replace(made, job=job, pod="pod-0", name="loader-0")

    return loader(FED, "trainer"), loader(STARVED, "evaluator")


def test_loader_of_another_job_is_no_rank_of_ours(two_jobs) -> None:
    """Each job's `loader-0` is a group of its own, and the other one belongs to its others."""
    for ours, theirs in (two_jobs, two_jobs[::-1]):
        group = group_of(Pod(BUDGET, two_jobs), ours.group)
        assert group is not None
        assert ([x.job for x in group.loaders], [x.job for x in group.others]) == ([ours.job], [theirs.job])


def test_well_fed_loader_is_not_judged_by_another_jobs_starvation(two_jobs) -> None:
    """Beside a starved loader of its name it is told what it is told alone: no more workers, no straggler."""
    fed, starved = two_jobs
    alone = recommend(Pod(BUDGET, (fed,)), fed.group, Policy())
    found = recommend(Pod(BUDGET, two_jobs), fed.group, Policy())
    other = recommend(Pod(BUDGET, two_jobs), starved.group, Policy())
    assert isinstance(alone, Recommendation)
    assert isinstance(found, Recommendation)
    assert isinstance(other, Recommendation)
    assert (found.verdict, found.settings) == (alone.verdict, alone.settings)
    assert found.settings.num_workers <= 2
    assert other.verdict is Verdict.TOO_FEW_WORKERS
    assert other.settings.num_workers > 2


def test_iterable_of_another_job_does_not_make_ours_untunable(two_jobs) -> None:
    """Another job's plain iterable of the name says nothing of a loader that is a DataLoader."""
    fed, other = two_jobs
    pod = Pod(BUDGET, (fed, replace(other, tunable=False)))
    assert isinstance(recommend(pod, fed.group, Policy()), Recommendation)
