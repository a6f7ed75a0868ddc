"""When the model runs, and which answer is given: one per loader name and epoch, for all ranks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

import feedwater_service.model as model_package
from feedwater.v1 import feedwater_pb2 as pb
from feedwater_service.model.simulator.engine import SimulationLimitError
from feedwater_service.model.types import (
    GroupKey,
    NoRecommendation,
    NoRecommendationReason,
    Policy,
    Recommendation,
)
from feedwater_service.recommender import Recommender
from feedwater_service.state.reports import RecommendationRequest
from feedwater_service.state.sessions import Decision, Session, State

Register = Callable[..., Session]
Send = Callable[[pb.ReportRequest], Session]
Make = Callable[..., pb.ReportRequest]


@pytest.fixture
def told() -> list[tuple[GroupKey, Decision]]:
    """Decisions that were told before they were given out."""
    return []


@pytest.fixture
def recommender(state: State, model: object, told: list[tuple[GroupKey, Decision]]) -> Recommender:
    """A recommender that never drafts by itself."""
    return Recommender(state, model, Policy(), 0.0, lambda group, decision: told.append((group, decision)))  # type: ignore[arg-type]


def _ask(recommender: Recommender, *questions: RecommendationRequest) -> list[Decision]:
    async def ask() -> list[Decision]:
        return await asyncio.gather(*(recommender.get_recommendation(question) for question in questions))

    return asyncio.run(ask())


def test_ranks_that_ask_at_once_get_one_decision(
    recommender: Recommender, model: object, told: list[object], register: Register, send: Send, report: Make
) -> None:
    """Two ranks asking at once, twice each, run the model once, and the decision is told once."""
    sessions = [register(client_id=f"c{rank}", rank=rank) for rank in range(2)]
    for session in sessions:
        send(report(session.loader_id, 1, end=True))
    decisions = _ask(recommender, *(RecommendationRequest(s.loader_id, 0, 1) for s in sessions * 2))
    assert len({decision.id for decision in decisions}) == 1
    assert isinstance(decisions[0].answer, Recommendation)
    assert len(model.asked) == 1  # type: ignore[attr-defined]
    assert [loader.rank for loader in model.asked[0][0].loaders] == [0, 1]  # type: ignore[attr-defined]
    assert len(told) == 1


def test_answer_once_given_stays(
    recommender: Recommender, model: object, register: Register, send: Send, report: Make
) -> None:
    """The same question later gets the same answer, whatever the model would say now."""
    session = register()
    send(report(session.loader_id, 1, end=True))
    first = _ask(recommender, RecommendationRequest(session.loader_id, 0, 1))
    model.answer = NoRecommendation(NoRecommendationReason.INCONCLUSIVE, "Changed its mind.")  # type: ignore[attr-defined]
    assert _ask(recommender, RecommendationRequest(session.loader_id, 0, 1)) == first


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"mode": pb.MODE_OBSERVE}, NoRecommendationReason.MODE),
        ({"dataset_kind": pb.DATASET_KIND_NONE}, NoRecommendationReason.NOT_TUNABLE),
        ({"limits": None}, NoRecommendationReason.LIMIT_UNKNOWN),
    ],
)
def test_model_is_not_asked_where_the_answer_is_known(
    recommender: Recommender,
    model: object,
    register: Register,
    send: Send,
    report: Make,
    changed: dict[str, object],
    reason: NoRecommendationReason,
) -> None:
    """Where nothing may be recommended the answer is none with its reason, and the model rests."""
    session = register(**changed)
    send(report(session.loader_id, 1, end=True))
    (decision,) = _ask(recommender, RecommendationRequest(session.loader_id, 0, 1))
    assert isinstance(decision.answer, NoRecommendation)
    assert decision.answer.reason is reason
    assert model.asked == []  # type: ignore[attr-defined]


def test_frozen_rank_freezes_its_group(
    recommender: Recommender, register: Register, send: Send, report: Make
) -> None:
    """Ranks change together, so one that died under a change keeps all of them."""
    register(client_id="a", rank=0).frozen = "It crashed."
    other = register(client_id="b", rank=1)
    send(report(other.loader_id, 1, end=True))
    (decision,) = _ask(recommender, RecommendationRequest(other.loader_id, 0, 1))
    assert decision.answer == NoRecommendation(NoRecommendationReason.FROZEN, "It crashed.")


def test_broken_model_is_no_recommendation(
    recommender: Recommender,
    model: object,
    register: Register,
    send: Send,
    report: Make,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A model that raises is logged with its traceback, and the client gets no recommendation."""
    model.fails = True  # type: ignore[attr-defined]
    session = register()
    send(report(session.loader_id, 1, end=True))
    (decision,) = _ask(recommender, RecommendationRequest(session.loader_id, 0, 1))
    assert isinstance(decision.answer, NoRecommendation)
    assert decision.answer.reason is NoRecommendationReason.INCONCLUSIVE
    assert "the model is broken" in caplog.text


def test_draft_is_made_at_half_of_the_epoch_and_used_at_its_end(
    state: State, model: object, register: Register, send: Send, report: Make
) -> None:
    """Of an epoch of 80 batches nothing is drafted after 30, once after 50; the answer uses that."""

    async def run() -> None:
        recommender = Recommender(state, model, Policy(), 1.0, lambda *_: None)  # type: ignore[arg-type]
        session = register(batches_per_epoch=80)
        for sequence, (first, count) in enumerate([(0, 30), (30, 20), (50, 10)], 1):
            send(report(session.loader_id, sequence, first=first, count=count))
            recommender.on_report(session)
            while recommender._drafting is not None and not recommender._drafting.done():
                await asyncio.sleep(0)
            assert len(model.drafted) == (0 if first == 0 else 1)  # type: ignore[attr-defined]
        send(report(session.loader_id, 4, first=60, count=20, end=True))
        await recommender.get_recommendation(RecommendationRequest(session.loader_id, 0, 4))

    asyncio.run(run())
    assert model.asked[0][2] == "draft of train"  # type: ignore[attr-defined]


def test_draft_waits_for_the_slowest_reporter(
    state: State, model: object, register: Register, send: Send, report: Make
) -> None:
    """Two ranks in an epoch of 80 batches: nothing is drafted while but one of them has told half of it."""

    async def run() -> None:
        recommender = Recommender(state, model, Policy(), 1.0, lambda *_: None)  # type: ignore[arg-type]
        ranks = [register(client_id=f"c{rank}", rank=rank, batches_per_epoch=80) for rank in range(2)]
        for rank, count, drafts in [(0, 50, 0), (1, 30, 0), (1, 20, 1)]:
            first = sum(t.batches for t in ranks[rank].epochs)
            send(report(ranks[rank].loader_id, ranks[rank].accepted_sequence + 1, first=first, count=count))
            recommender.on_report(ranks[rank])
            while recommender._drafting is not None and not recommender._drafting.done():
                await asyncio.sleep(0)
            assert len(model.drafted) == drafts  # type: ignore[attr-defined]

    asyncio.run(run())


def test_first_epoch_is_previewed_long_before_its_end(
    state: State, model: object, register: Register, send: Send, report: Make
) -> None:
    """Of an epoch of 1,000 batches there is a number after 100; half of it brings the draft that is used."""

    async def run() -> None:
        recommender = Recommender(state, model, Policy(), 1.0, lambda *_: None)  # type: ignore[arg-type]
        session = register(batches_per_epoch=1000)
        for sequence, count in enumerate([50, 100, 200, 200], 1):
            first = sum([50, 100, 200, 200][: sequence - 1])
            send(report(session.loader_id, sequence, first=first, count=count))
            recommender.on_report(session)
            while recommender._drafting is not None and not recommender._drafting.done():
                await asyncio.sleep(0)
            assert isinstance(session.answer, Recommendation) is (sequence > 1)
        send(report(session.loader_id, 5, first=550, count=450, end=True))
        await recommender.get_recommendation(RecommendationRequest(session.loader_id, 0, 5))
        assert session.decision is not None
        assert session.answer is session.decision.answer

    asyncio.run(run())
    assert len(model.drafted) == 2  # type: ignore[attr-defined]


def test_epoch_of_unknown_length_is_drafted_at_each_doubling(
    state: State, model: object, register: Register, send: Send, report: Make
) -> None:
    """After 30, 50, 60 and 120 batches, with a whole core to spend, drafts are made at 30, 60 and 120."""

    async def run() -> None:
        recommender = Recommender(state, model, Policy(), 1.0, lambda *_: None)  # type: ignore[arg-type]
        session = register()
        for sequence, (first, count) in enumerate([(0, 30), (30, 20), (50, 10), (60, 60)], 1):
            recommender._rest_until = 0.0
            send(report(session.loader_id, sequence, first=first, count=count))
            recommender.on_report(session)
            while recommender._drafting is not None and not recommender._drafting.done():
                await asyncio.sleep(0)

    asyncio.run(run())
    assert len(model.drafted) == 3  # type: ignore[attr-defined]


def test_answer_waits_no_longer_than_its_reports_may_take(
    recommender: Recommender, register: Register, send: Send, report: Make
) -> None:
    """A report that never comes is not waited for, and the answer is not kept: it may come yet."""
    session = register()
    send(report(session.loader_id, 1))
    (decision,) = _ask(recommender, RecommendationRequest(session.loader_id, 0, 2))
    assert isinstance(decision.answer, NoRecommendation)
    assert decision.answer.reason is NoRecommendationReason.NOT_REPORTED
    send(report(session.loader_id, 2, first=40, end=True))
    (decision,) = _ask(recommender, RecommendationRequest(session.loader_id, 0, 2))
    assert isinstance(decision.answer, Recommendation)


def test_epochs_of_five_batches_are_answered_from_the_fourth_on(
    state: State, register: Register, send: Send, report: Make
) -> None:
    """No draft is made of them, 5 to 15 batches are too few and said to be, 20 bring a recommendation."""

    async def run() -> None:
        recommender = Recommender(state, model_package, Policy(), 1.0, lambda *_: None)
        session = register(batches_per_epoch=5)
        for epoch in range(4):
            send(report(session.loader_id, epoch + 1, epoch=epoch, count=5, end=True))
            recommender.on_report(session)
            assert recommender._drafting is None
            decision = await recommender.get_recommendation(
                RecommendationRequest(session.loader_id, epoch, epoch + 1)
            )
            if epoch < 3:
                assert isinstance(decision.answer, NoRecommendation)
                assert decision.answer.message.startswith(f"Epochs of 5 batches: {5 * epoch + 5} measured")
            else:
                assert isinstance(decision.answer, Recommendation)
                assert decision.answer.epoch == 3

    asyncio.run(run())


async def _drafted(recommender: Recommender) -> None:
    while recommender._drafting is not None and not recommender._drafting.done():
        await asyncio.sleep(0)


def test_preview_is_given_in_the_middle_of_an_epoch_and_decides_nothing(
    state: State, model: object, told: list[object], register: Register, send: Send, report: Make
) -> None:
    """After 120 of 12,500 batches the first question starts the look, the second has the answer."""

    async def run() -> list[Decision]:
        recommender = Recommender(state, model, Policy(), 1.0, lambda *_: None)  # type: ignore[arg-type]
        session = register(batches_per_epoch=12_500)
        send(report(session.loader_id, 1, count=120))
        answers = []
        for _ in range(2):
            answers.append(
                await recommender.get_recommendation(
                    RecommendationRequest(session.loader_id, 0, 1, preview=True)
                )
            )
            await _drafted(recommender)
        return answers

    first, second = asyncio.run(run())
    assert isinstance(first.answer, NoRecommendation)
    assert isinstance(second.answer, Recommendation)
    assert second.id == ""
    assert (told, state.decisions) == ([], {})


def test_preview_is_renewed_as_the_epoch_goes_on(
    state: State, model: object, register: Register, send: Send, report: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked at after 120 batches, not at 160, and again at 200: half as much again is known."""

    async def run() -> None:
        recommender = Recommender(state, model, Policy(), 1.0, lambda *_: None)  # type: ignore[arg-type]
        session = register(batches_per_epoch=12_500)
        send(report(session.loader_id, 1, count=120))
        for sequence, looks in ((1, 1), (2, 1), (3, 2)):
            if sequence > 1:
                send(report(session.loader_id, sequence, first=40 + 40 * sequence))
            recommender._rest_until = 0.0
            await recommender.get_recommendation(
                RecommendationRequest(session.loader_id, 0, sequence, preview=True)
            )
            await _drafted(recommender)
            assert len(model.drafted) == looks  # type: ignore[attr-defined]

    asyncio.run(run())


def test_newest_answer_is_that_of_the_running_epoch(
    state: State, recommender: Recommender, register: Register, send: Send, report: Make, recommendation: Make
) -> None:
    """What a later epoch says so far is newer than the decision after an earlier one."""
    session = register()
    send(report(session.loader_id, 1, end=True))
    (decision,) = _ask(recommender, RecommendationRequest(session.loader_id, 0, 1))
    assert session.answer is decision.answer
    session.preview = recommendation(epoch=1, workers=8)  # type: ignore[assignment]
    assert session.answer is session.preview


def test_last_epoch_is_looked_at_when_the_trainer_ends(
    recommender: Recommender, model: object, register: Register, send: Send, report: Make
) -> None:
    """Nobody asks after the last epoch, nor after one that Ctrl-C ends: the answer is there for who looks."""

    async def run() -> Session:
        session = register()
        message = report(session.loader_id, 1)
        message.last = True
        recommender.on_report(send(message))
        await recommender.wait_for_final(5.0)
        return session

    session = asyncio.run(run())
    assert isinstance(session.answer, Recommendation)
    assert [loader.name for loader in model.asked[0][0].loaders] == ["train"]  # type: ignore[attr-defined]


def test_reason_stays_where_the_last_epoch_says_nothing(
    recommender: Recommender, model: object, register: Register, send: Send, report: Make
) -> None:
    """An epoch cut short by the end of the training does not take the place of what was recommended."""
    session = register()
    send(report(session.loader_id, 1, end=True))
    (decision,) = _ask(recommender, RecommendationRequest(session.loader_id, 0, 1))
    model.answer = NoRecommendation(NoRecommendationReason.TOO_FEW_BATCHES, "Too few.")  # type: ignore[attr-defined]

    async def run() -> None:
        message = report(session.loader_id, 2, epoch=1, count=4)
        message.last = True
        recommender.on_report(send(message))
        await recommender.wait_for_final(5.0)

    asyncio.run(run())
    assert session.answer is decision.answer


@pytest.mark.parametrize("epoch", [1, 7, (1 << 32) - 1])
def test_epoch_that_is_not_known_or_has_not_ended_is_not_answered(
    recommender: Recommender, model: object, register: Register, send: Send, report: Make, epoch: int
) -> None:
    """Epoch 0 has ended, 1 runs: questions for 1 and for what was never reported run no model."""
    session = register()
    send(report(session.loader_id, 1, end=True))
    send(report(session.loader_id, 2, epoch=1))
    (decision,) = _ask(recommender, RecommendationRequest(session.loader_id, epoch, 2))
    assert isinstance(decision.answer, NoRecommendation)
    assert decision.answer.reason is NoRecommendationReason.NOT_REPORTED
    assert model.asked == []  # type: ignore[attr-defined]
    assert (recommender._pending, recommender.state.decisions, session.decision) == ({}, {}, None)


def test_reason_for_an_epoch_that_was_never_reported_is_not_kept(
    recommender: Recommender, register: Register, send: Send, report: Make
) -> None:
    """Kept as of epoch 4294967295, it would stand for newer than every decision that follows."""
    session = register(mode=pb.MODE_OBSERVE)
    send(report(session.loader_id, 1, end=True))
    _ask(recommender, RecommendationRequest(session.loader_id, (1 << 32) - 1, 1))
    assert session.decision is None


def test_group_has_one_question_at_a_time(
    recommender: Recommender, model: object, register: Register, send: Send, report: Make
) -> None:
    """Questions for three ended epochs at once: each waits for the one before, and all are answered."""
    session = register()
    for epoch in range(3):
        send(report(session.loader_id, epoch + 1, epoch=epoch, end=True))

    async def ask() -> list[Decision]:
        requests = (RecommendationRequest(session.loader_id, epoch, 3) for epoch in (0, 1, 2, 0, 1, 2))
        asked = [asyncio.create_task(recommender.get_recommendation(request)) for request in requests]
        while not all(task.done() for task in asked):
            assert len(recommender._pending) <= 1
            assert recommender.queue.waiting <= 1
            await asyncio.sleep(0)
        return [task.result() for task in asked]

    assert [decision.epoch for decision in asyncio.run(ask())] == [0, 1, 2, 0, 1, 2]
    assert len(model.asked) == 3  # type: ignore[attr-defined]


def test_question_that_all_ranks_gave_up_leaves_the_queue(
    recommender: Recommender, model: object, register: Register, send: Send, report: Make
) -> None:
    """A decision that its only rank gave up while it waited is not made; asked again, it is."""
    session = register()
    send(report(session.loader_id, 1, end=True))
    request = RecommendationRequest(session.loader_id, 0, 1)
    goes_on = threading.Event()

    async def run() -> Decision:
        busy = asyncio.create_task(recommender.queue.run("other", lambda: goes_on.wait))
        asked = asyncio.create_task(recommender.get_recommendation(request))
        while not recommender.queue.waiting:
            await asyncio.sleep(0)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        assert (recommender._pending, recommender.queue.waiting) == ({}, 0)
        goes_on.set()
        await busy
        assert model.asked == []  # type: ignore[attr-defined]
        return await recommender.get_recommendation(request)

    assert isinstance(asyncio.run(run()).answer, Recommendation)


def test_model_that_is_given_up_is_counted_and_said(
    recommender: Recommender,
    model: object,
    register: Register,
    send: Send,
    report: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A run beyond its CPU time is no recommendation with a reason, one log line, and one in the metric."""

    def give_up(*_: object) -> Recommendation:
        raise SimulationLimitError("more than 5 s of CPU time")

    monkeypatch.setattr(model, "recommend", give_up)
    session = register()
    send(report(session.loader_id, 1, end=True))
    (decision,) = _ask(recommender, RecommendationRequest(session.loader_id, 0, 1))
    assert isinstance(decision.answer, NoRecommendation)
    assert decision.answer.message == "The model gave up this epoch: more than 5 s of CPU time."
    assert recommender.state.counters.model_given_up == 1
    assert "the model gave up loader train: more than 5 s of CPU time" in caplog.text
