"""What the demo trains on, and why a person would guess the workers wrong there."""

from __future__ import annotations

from dataclasses import dataclass

from docs.examples.demo.photos import Album


@dataclass(frozen=True, slots=True)
class Scenario:
    """One training, and the setting that its author began with."""

    key: str
    title: str
    story: str
    """What makes it hard: one sentence."""
    album: Album
    over_http: bool
    limit_cores: float | None
    """CPU limit that the trainer runs under; None is none."""
    starting_workers: int
    batch_size: int
    step_seconds: float

    @property
    def batches(self) -> int:
        """Batches of an epoch."""
        return self.album.photos // self.batch_size


OBJECT_STORE = Scenario(
    key="object-store",
    title="Photos in an object store",
    story="Each GET takes 20 to 40 ms, so workers mostly wait: more of them than cores is right.",
    # 40 batches: twice what the sidecar needs at least to say anything.
    album=Album("objects", photos=320, width=480),
    over_http=True,
    limit_cores=None,
    starting_workers=1,
    batch_size=8,
    step_seconds=0.03,
)

CPU_LIMIT = Scenario(
    key="cpu-limit",
    title="Large photos under a CPU limit",
    story="Decoding uses up the limit, so more workers only get in each other's way: fewer is right.",
    album=Album("photos", photos=160, width=1600),
    over_http=False,
    limit_cores=1.0,
    # "More is faster" is what most people try first.
    starting_workers=8,
    batch_size=4,
    step_seconds=0.03,
)

ALL = (OBJECT_STORE, CPU_LIMIT)
