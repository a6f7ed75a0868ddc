"""A pod as the sidecar tells of it, with everything in it that a page can show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from feedwater.relay.measurements import ContainerUsage, Limits
from feedwater.relay.views import DecisionView, EpochView, Evidence, LoaderView, PodView, WorkerMemory
from feedwater.values import EpochSummary, LoaderSettings, Prediction, Recommendation, WhatIf

ONE, FOUR = LoaderSettings(1, 2), LoaderSettings(4, 2)


def make_view(rank: int = 0, sentence: str = "1 to 4 workers.", loader: str = "train") -> LoaderView:
    """Return a loader of one epoch: 100 batches in 10 s, 3 s of waiting beside 6 s of steps."""
    epoch = EpochView(EpochSummary(2, ONE, 100, 10.0, 3.0, 6.0, 1.0, verdict="TOO_FEW_WORKERS"))
    made = Recommendation("r", 2, FOUR, "TOO_FEW_WORKERS", sentence, True)
    return LoaderView(
        loader, "job", "", "pod", rank, "auto", ONE, Limits(), True, (epoch,), made, "", "applied"
    )


def make_full_view() -> LoaderView:
    """Return a loader of which everything is known, in its second epoch."""
    slow = Prediction(ONE, 10.0, 9.5, 10.5, 0.33)
    fast = Prediction(FOUR, 30.0, 25.0, 33.0, 0.02)
    made = Recommendation(
        "r",
        2,
        FOUR,
        "TOO_FEW_WORKERS",
        "1 → 4 workers for +200% batches/s.",
        True,
        advice=("Set persistent_workers=True.",),
        curve=(slow, fast),
        what_if=(WhatIf(2.0, fast),),
    )
    refused = DecisionView(1, ONE, FOUR, "TOO_FEW_WORKERS", "", "refused", "A file is open.", False)
    applied = DecisionView(2, ONE, FOUR, "TOO_FEW_WORKERS", "1 → 4 workers.", "applied", "", False)
    running = EpochView(EpochSummary(3, FOUR, 40, 2.0, 0.1, 1.2, 0.5, complete=False))
    known = make_view()
    return replace(
        known,
        settings=FOUR,
        limits=Limits(cpu_quota_cores=1.5, cpus=8, memory_bytes=4 << 30, shm_bytes=64 << 20),
        epochs=(replace(known.epochs[0], cpu_used_cores=1.2, throttled_ratio=0.63), running),
        recommendation=made,
        uncapped_num_workers=6,
        evidence=(Evidence("load_seconds", 0.06, "60 ms to load a batch"),),
        container=ContainerUsage(100.0, memory_bytes=1 << 30, shm_bytes=16 << 20),
        workers=(WorkerMemory(0, 90 << 20, 50 << 20, 40 << 20), WorkerMemory(1, 90 << 20, 70 << 20, None)),
        recent_wait_seconds=(0.01, 0.03),
        recent_step_seconds=(0.03, 0.03),
        decisions=(refused, applied),
        last_seen_seconds=1000.0,
        stalled_seconds=0.0,
        initial_settings=LoaderSettings(2, 2),
        batches_per_epoch=100,
    )


@pytest.fixture
def view() -> Callable[..., LoaderView]:
    """What makes a loader of one epoch, by rank, sentence and name."""
    return make_view


@pytest.fixture
def full() -> LoaderView:
    """A loader of which everything is known."""
    return make_full_view()


@pytest.fixture
def pod(full: LoaderView) -> PodView:
    """A pod with that loader, heard of a second ago."""
    return PodView((full,), "1.2.3", 1001.0)
