"""Feedwater's loop, played offline: the recommended setting's own recorded epoch is what comes next.

Nothing is simulated here. Where a recommended setting was not measured, the nearest one is taken in its
place, and that is counted.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from feedwater_service.model import (
    Analysis,
    Budget,
    Change,
    Epoch,
    Load,
    Loader,
    LoaderSettings,
    NoRecommendation,
    Pod,
    Policy,
    Recommendation,
    analyse,
    recommend,
)
from tests.benchmarks.recommendation.oracle import Setting, Table, quiet, table_of
from tests.benchmarks.recommendation.traces import Known, Recorded, Trace

EPOCHS = 10
STEADY = 3
"""Epochs without a change after which the rest of a run is taken to be the same."""
KEPT_EPOCHS = 8
"""As many as the sidecar keeps."""
PAUSE_SECONDS = 1.0
"""Between recorded epochs that are set one after the other."""


@dataclass(frozen=True)
class Answered:
    """What was said after one epoch."""

    setting: Setting
    """Of the epoch that ended."""
    analysis: Analysis | None
    answer: Recommendation | NoRecommendation
    after: Setting
    """Of the next epoch."""
    replaced: bool
    """The recommended setting was not measured: ``after`` is the nearest one."""


@dataclass(frozen=True)
class Play:
    """One run of ten epochs."""

    start: Setting
    answers: tuple[Answered, ...]

    @property
    def settings(self) -> list[Setting]:
        """The settings of the ten epochs."""
        went = [a.setting for a in self.answers]
        return [*went, *([self.answers[-1].after] * (EPOCHS - len(went)))][:EPOCHS]

    @property
    def final(self) -> Setting:
        """The setting at the end."""
        return self.settings[-1]

    @property
    def changes(self) -> int:
        """How often the setting changed."""
        return changes(self.settings)

    @property
    def settled_after(self) -> int:
        """Epochs that were observed before the final setting was in place; 0 where it was the user's own."""
        return settled_after(self.settings)


def changes(settings: Sequence[Setting]) -> int:
    """Return how often neighbours differ: 2, 6, 6, 5 is 2."""
    return sum(a != b for a, b in itertools.pairwise(settings))


def settled_after(settings: Sequence[Setting]) -> int:
    """Return the index of the first epoch from which nothing changes: 2, 6, 5, 5 is 2."""
    last = len(settings) - 1
    while last > 0 and settings[last - 1] == settings[-1]:
        last -= 1
    return last


class Player:
    """Plays runs of one trace; answers are kept, for many runs begin alike."""

    def __init__(self, trace: Trace, policy: Policy | None = None, budget: Budget | None = None) -> None:
        self.trace = trace
        self.policy = policy or Policy()
        self.budget = budget or trace.budget
        self.table: Table = table_of(trace.recorded)
        self._epochs: dict[Setting, list[Recorded]] = {}
        for r in quiet(trace.recorded):
            if r.known:
                self._epochs.setdefault((r.workers, r.prefetch), []).append(r)

    @property
    def counts(self) -> list[int]:
        """Counts that a run can start from."""
        return sorted({n for n, p in self._epochs if p == 2})

    def play(self, workers: int) -> Play:
        """Run ten epochs from a count, or until nothing changes any more."""
        setting = (workers, 2)
        history: list[Recorded] = []
        record = Noted()
        answers: list[Answered] = []
        seen: dict[Setting, int] = {}
        while len(answers) < EPOCHS and not _is_steady(answers):
            epochs = self._epochs[setting]
            history.append(epochs[seen.get(setting, 0) % len(epochs)])
            seen[setting] = seen.get(setting, 0) + 1
            answered = self._answer(setting, history, record)
            answers.append(answered)
            setting = answered.after
        return Play((workers, 2), tuple(answers))

    def _answer(self, setting: Setting, history: Sequence[Recorded], record: Noted) -> Answered:
        pod = pod_of(self.budget, history, record)
        made = analyse(pod, "train", self.policy)
        if isinstance(made, NoRecommendation):
            return Answered(setting, None, made, setting, False)
        answer = recommend(pod, "train", self.policy, made)
        if isinstance(answer, NoRecommendation) or not answer.changes:
            return Answered(setting, made, answer, setting, False)
        wanted = answer.settings.num_workers, answer.settings.prefetch_factor or 2
        after = self._measured(wanted)
        if after != setting:
            record.change(len(history), setting, after, answer.rolls_back)
        return Answered(setting, made, answer, after, after != (wanted if wanted[0] else (0, 2)))

    def _measured(self, wanted: Setting) -> Setting:
        table = dataclasses.replace(
            self.table, rates={s: r for s, r in self.table.rates.items() if s in self._epochs}
        )
        return table.nearest(*wanted)


def _is_steady(answers: Sequence[Answered]) -> bool:
    last = answers[-STEADY:]
    return len(last) == STEADY and all(a.after == a.setting for a in last)


@dataclass
class Noted:
    """What the sidecar notes of changes."""

    changes: tuple[Change, ...] = ()
    failed: tuple[LoaderSettings, ...] = ()

    def change(self, epoch: int, before: Setting, after: Setting, rolls_back: bool) -> None:
        """Note a change that takes effect in ``epoch``."""
        change = Change(epoch, settings_of(before), settings_of(after), f"{epoch}", rolls_back)
        self.changes = (*self.changes, change)
        if rolls_back:
            self.failed = (*self.failed, change.before)


def settings_of(setting: Setting) -> LoaderSettings:
    """Return a setting as the model knows it."""
    workers, prefetch = setting
    return LoaderSettings(workers, prefetch if workers else None)


def pod_of(budget: Budget, history: Sequence[Recorded], record: Noted) -> Pod:
    """Return what the sidecar would know after these epochs, had they followed each other."""
    ranks = [_loader([r.known[i] for r in history], record, budget) for i in range(len(history[-1].known))]
    return Pod(budget, tuple(ranks), history[-1].known[0].container)


def _loader(known: Sequence[Known], record: Noted, budget: Budget) -> Loader:
    epochs = _in_a_row([k.epoch for k in known], budget)
    return dataclasses.replace(
        known[-1].loader,
        settings=epochs[-1].settings,
        epochs=tuple(epochs[-KEPT_EPOCHS:]),
        changes=record.changes,
        failed=record.failed,
    )


def _in_a_row(epochs: Sequence[Epoch], budget: Budget) -> list[Epoch]:
    """Return epochs numbered from 0 and stamped one after the other."""
    at = 1000.0
    moved = []
    for number, epoch in enumerate(epochs):
        one = shifted(epoch, at - epoch.start)
        moved.append(dataclasses.replace(one, number=number, budget=budget))
        at += epoch.iter_seconds + sum(epoch.waits) + sum(epoch.steps) + PAUSE_SECONDS
    return moved


def shifted(epoch: Epoch, by: float) -> Epoch:
    """Return the epoch with all stamps later by so many seconds."""

    def load(x: Load) -> Load:
        return dataclasses.replace(x, start=x.start + by)

    return dataclasses.replace(
        epoch,
        start=epoch.start + by,
        loads=[load(x) for x in epoch.loads],
        memory=tuple(dataclasses.replace(m, stamp_seconds=m.stamp_seconds + by) for m in epoch.memory),
        containers=tuple(
            dataclasses.replace(c, stamp_seconds=c.stamp_seconds + by) for c in epoch.containers
        ),
    )
