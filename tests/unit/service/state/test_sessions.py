"""What is kept of loaders: counted once, bounded, refused whole, ended with its trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from feedwater.v1 import feedwater_pb2 as pb
from feedwater.values import Mode, Outcome
from feedwater_service.errors import MalformedError, TooManyError, UnknownLoaderError
from feedwater_service.model.types import LoaderSettings, Recommendation
from feedwater_service.state.counters import KEPT_SERIES
from feedwater_service.state.reports import AppliedReport
from feedwater_service.state.sessions import (
    KEPT_EPOCHS,
    MAX_LOADERS_OF_CLIENT,
    Decision,
    Session,
    State,
)
from feedwater_service.state.traces import KEPT_BATCHES, KEPT_DEVICE, KEPT_OLDER
from feedwater_service.store.codec import to_json
from tests.support.shown import watch_message

Register = Callable[..., Session]
Send = Callable[[pb.ReportRequest], Session]
Make = Callable[..., pb.ReportRequest]


def test_register_is_idempotent_for_one_client_and_name(register: Register) -> None:
    """The same client and loader name get the same id back, another client another."""
    assert register().loader_id == register().loader_id
    assert register(client_id="client-2").loader_id != register().loader_id


def test_register_refuses_more_sessions_than_are_held(state: State, register: Register) -> None:
    """The third loader of two is refused while both report, and taken once one has ended."""
    state.max_sessions = 2
    first = register(client_id="a", loader="a")
    register(client_id="b", loader="b")
    with pytest.raises(TooManyError, match="2 loaders report already"):
        register(client_id="c", loader="c")
    first.ended = True
    register(client_id="c", loader="c")
    assert {s.name for s in state.sessions.values()} == {"b", "c"}


def test_rank_that_was_started_again_is_registered_where_all_places_are_taken(
    state: State, register: Register
) -> None:
    """With two of two loaders active, a new process of one of the ranks takes its own session's place."""
    state.max_sessions = 2
    old = register(client_id="a", rank=0)
    register(client_id="b", rank=1)
    new = register(client_id="c", rank=0)
    assert old.ended
    assert {s.loader_id for s in state.active()} >= {new.loader_id}
    assert len(state.sessions) == 2


def test_client_that_registers_in_a_loop_leaves_room_for_others(state: State, register: Register) -> None:
    """The 65th loader of one client is refused, and ends nobody; another client is registered."""
    other = register(client_id="other", rank=1)
    for i in range(MAX_LOADERS_OF_CLIENT):
        register(loader=f"loader-{i}")
    with pytest.raises(TooManyError, match="64 loaders of this client report already"):
        register(rank=1)
    assert not other.ended
    assert register(client_id="client-2", rank=2).rank == 2


def test_limits_of_another_loader_are_not_ours(state: State, register: Register) -> None:
    """A client of another job that states 1 CPU and 1 byte changes nothing for a loader of 4 CPUs."""
    session = register()
    register(client_id="stranger", job="other", limits=pb.Limits(cpus=1, memory_bytes=1, shm_bytes=1))
    budget = state.budget(session)
    assert budget is not None
    assert (budget.cpus, budget.memory_bytes, budget.shm_bytes) == (4, 8 << 30, 1 << 30)


def test_limit_below_what_was_measured_is_left_out(
    state: State, register: Register, send: Send, report: Make
) -> None:
    """A rank that states 1 byte of memory, where 2 GiB are in use, is not heard; its 2 CPUs are."""
    session = register()
    message = report(session.loader_id, 1)
    message.container.memory_bytes = 2 << 30
    send(message)
    register(client_id="stranger", rank=1, limits=pb.Limits(cpus=2, memory_bytes=1))
    budget = state.budget(session)
    assert budget is not None
    assert (budget.cpus, budget.memory_bytes) == (2, 8 << 30)


def test_limit_of_another_container_of_the_job_counts_although_ours_uses_more(
    state: State, register: Register, send: Send, report: Make
) -> None:
    """Two containers of one job, one of 8 GiB with 5 in use, one of 4 GiB with 1: the smaller limit holds."""
    for rank, limit, used in ((0, 8, 5), (1, 4, 1)):
        limits = pb.Limits(cpus=4, memory_bytes=limit << 30)
        session = register(client_id=f"c{rank}", rank=rank, limits=limits)
        message = report(session.loader_id, 1)
        message.container.memory_bytes = used << 30
        send(message)
    budget = state.budget(session)
    assert budget is not None
    assert budget.memory_bytes == 4 << 30


def test_session_that_reports_after_it_was_superseded_keeps_its_rank(
    state: State, register: Register, send: Send, report: Make, recommendation: Callable[[], Recommendation]
) -> None:
    """A client that claims the rank of a living one, with a change on probation, freezes neither of them."""
    session = register()
    send(report(session.loader_id, 1, end=True))
    _apply(state, session, recommendation())
    stranger = register(client_id="stranger")
    assert session.ended
    assert stranger.frozen
    send(report(session.loader_id, 2, epoch=1))
    assert (session.ended, session.rank, session.frozen) == (False, 0, "")
    assert (stranger.ended, stranger.rank, stranger.frozen) == (False, 1, "")


@pytest.mark.parametrize(
    ("asked", "allowed", "given"),
    [("auto", "advise", "advise"), ("observe", "auto", "observe"), ("auto", "off", "off")],
)
def test_policy_lowers_a_mode_and_never_raises_it(
    state: State, register: Register, asked: str, allowed: str, given: str
) -> None:
    """The lower of what is asked and what is allowed holds."""
    state.highest_mode = Mode(allowed)
    assert register(mode=pb.Mode.Value(f"MODE_{asked.upper()}")).mode is Mode(given)


def test_report_counts_a_resend_once(state: State, register: Register, send: Send, report: Make) -> None:
    """A report that comes twice adds its 40 batches once, and the second is counted as replayed."""
    session = register()
    for _ in range(2):
        assert send(report(session.loader_id, 1)).accepted_sequence == 1
    assert session.epochs[0].batches == 40
    assert (state.counters_of(session).wait.count, state.counters_of(session).replayed) == (40, 1)


def test_report_counts_a_gap_and_goes_on(state: State, register: Register, send: Send, report: Make) -> None:
    """After report 1 comes 4: two are missing, and the 20 batches between are known to be lost."""
    session = register()
    send(report(session.loader_id, 1))
    assert send(report(session.loader_id, 4, first=60)).accepted_sequence == 4
    assert state.counters_of(session).missing == 2
    assert (session.epochs[0].batches, session.epochs[0].received_batches, session.epochs[0].dropped) == (
        100,
        80,
        20,
    )


def test_report_of_an_unknown_loader_is_refused(send: Send, report: Make) -> None:
    """An id that was never given is told to register."""
    with pytest.raises(UnknownLoaderError, match=r"register it \(again\)"):
        send(report("nobody", 1))


@pytest.mark.parametrize("fault", ["overlap", "falling drops", "absurd gap"])
def test_report_that_contradicts_leaves_the_state_unchanged(
    register: Register, send: Send, report: Make, fault: str
) -> None:
    """A report that contradicts earlier ones is refused whole: the session is the same to the last byte."""
    session = register()
    first = report(session.loader_id, 1)
    first.drops.add(cause=1, total=7)
    send(first)
    before = to_json(session)
    bad = report(session.loader_id, 2, first=40)
    if fault == "overlap":
        bad.batches[0].first = 39
    elif fault == "falling drops":
        bad.drops.add(cause=1, total=6)
    else:
        bad.sequence = 1 << 40
    with pytest.raises(MalformedError):
        send(bad)
    assert to_json(session) == before


def test_epochs_are_bounded_and_older_ones_shrink(register: Register, send: Send, report: Make) -> None:
    """Of 12 epochs of 6,000 batches the newest 8 stay, two of them in detail, and totals stay exact."""
    session = register()
    for epoch in range(12):
        send(report(session.loader_id, epoch + 1, epoch=epoch, count=6000, end=True))
    assert [t.number for t in session.epochs] == list(range(4, 12))
    assert len(session.epochs) == KEPT_EPOCHS
    assert {len(t.waits) for t in session.epochs[:-2]} == {KEPT_OLDER}
    assert {len(t.waits) for t in session.epochs[-2:]} == {KEPT_BATCHES}
    assert {len(t.loads) for t in session.epochs[-2:]} == {KEPT_BATCHES}
    assert {t.batches for t in session.epochs} == {6000}
    assert session.epochs[0].wait_seconds == pytest.approx(5999 * 0.02)


def test_measurements_of_all_loaders_share_one_budget(
    state: State, register: Register, send: Send, report: Make
) -> None:
    """Of 12 loaders with 3 epochs of 4,000 batches the newest are kept, within 2 MB; sums stay exact."""
    state.most_measured_bytes = 2_000_000
    small = register(client_id="small", loader="small")
    send(report(small.loader_id, 1, count=40))
    large = [register(client_id=f"c{i}", rank=i) for i in range(12)]
    for epoch in range(3):
        for session in large:
            send(report(session.loader_id, epoch + 1, epoch=epoch, count=4000, end=True))
            assert state.measured_bytes <= 2_000_000
    assert state.measured_bytes == sum(s.measured_bytes for s in state.sessions.values())
    assert len(small.epochs[0].loads) == 40
    for session in large:
        assert {t.batches for t in session.epochs} == {4000}
        assert session.epochs[0].wait_seconds == pytest.approx(3999 * 0.02)
        assert 16 <= len(session.epochs[0].loads) < len(session.epochs[-1].loads)
        assert session.epochs[-1].loads.starts[-1] == pytest.approx(100 + 1999 * 0.03)
        assert len(session.freeze().epochs[-1].waits) == len(session.epochs[-1].waits) + 1


def test_restored_loaders_keep_to_the_budget(
    state: State, register: Register, send: Send, report: Make
) -> None:
    """Eight full sessions of a checkpoint do not take more than 2 MB where that is the budget."""
    session = register()
    for epoch in range(3):
        send(report(session.loader_id, epoch + 1, epoch=epoch, count=4000, end=True))
    other = State(most_measured_bytes=2_000_000)
    for number in range(8):
        copy = session.copy()
        copy.loader_id = f"loader-{number}"
        other.add(copy)
        assert other.measured_bytes <= 2_000_000
    assert other.measured_bytes == sum(s.measured_bytes for s in other.sessions.values())


def test_budget_is_free_again_when_loaders_are_forgotten(
    state: State, clock: Any, register: Register, send: Send, report: Make
) -> None:
    """The memory of an expired loader counts no more."""
    session = register()
    send(report(session.loader_id, 1))
    assert state.measured_bytes == session.measured_bytes > 0
    clock.now += 601
    state.expire(600)
    assert state.measured_bytes == 0


def test_freeze_keeps_start_up_first_and_copies(register: Register, send: Send, report: Make) -> None:
    """The model's first wait is start-up though history was bounded; later reports do not change it."""
    session = register()
    message = report(session.loader_id, 1, count=6000)
    message.batches[0].wait_seconds[0] = 1.5
    send(message)
    frozen = session.freeze().epochs[0]
    send(report(session.loader_id, 2, first=6000))
    assert frozen.waits[0] == 1.5
    assert (len(frozen.waits), len(frozen.steps), len(frozen.ready)) == (KEPT_BATCHES + 1,) * 3
    assert frozen.batches == 6000


def test_freeze_sorts_loads_of_all_workers_by_start(register: Register, send: Send, report: Make) -> None:
    """Loads come in order of start, with blocked time 60 - 10 ms."""
    session = register()
    send(report(session.loader_id, 1))
    loads = session.freeze().epochs[0].loads
    assert [load.start for load in loads] == sorted(load.start for load in loads)
    assert {load.worker for load in loads} == {0, 1}
    assert loads[0].blocked_seconds == pytest.approx(0.05)


def test_snapshot_is_not_changed_by_later_reports(
    state: State, register: Register, send: Send, report: Make
) -> None:
    """The model's thread reads it while batches, loads, readings and the epoch's end are still added."""

    def message(sequence: int, first: int) -> pb.ReportRequest:
        made = report(session.loader_id, sequence, first=first, end=sequence == 2)
        made.device_steps.add(epoch=0, batch=[first + 3], idle_seconds=[0.1], busy_seconds=[0.2])
        for pid in (1, 500, 501):
            read = {"read_chars": first, "read_bytes": first, "cpu_seconds": first}
            made.processes.add(pid=pid, stamp_seconds=200 + first, **read)
        return made

    session = register()
    send(message(1, 0))
    snapshot = state.snapshot()
    assert snapshot is not None
    before, epochs = to_json(list(snapshot.sessions)), snapshot.pod().loaders[0].epochs
    send(message(2, 40))
    assert session.epochs[0].batches == 80
    assert to_json(list(snapshot.sessions)) == before
    assert snapshot.pod().loaders[0].epochs == epochs
    assert (len(epochs[0].loads), epochs[0].complete) == (40, False)


def test_pod_takes_the_smallest_limit_of_all(state: State, register: Register) -> None:
    """Two containers that state 4 and 2 CPUs and one memory limit give the smaller of each."""
    register(rank=0)
    register(client_id="client-2", rank=1, limits=pb.Limits(cpus=2, memory_bytes=4 << 30))
    snapshot = state.snapshot()
    assert snapshot is not None
    pod = snapshot.pod()
    assert pod is not None
    assert (pod.budget.cpus, pod.budget.memory_bytes, pod.budget.shm_bytes) == (2, 4 << 30, 1 << 30)
    assert [loader.rank for loader in pod.loaders] == [0, 1]


def test_pod_is_unknown_without_a_number_of_cpus(state: State, register: Register) -> None:
    """Limits without CPUs are no budget."""
    register(limits=pb.Limits(memory_bytes=1 << 30))
    assert state.snapshot() is None


def test_last_report_ends_a_session_and_silence_forgets_it(
    state: State, clock: Callable[[], float], register: Register, send: Send, report: Make
) -> None:
    """A session that said `last` is no longer active; one that is silent for ten minutes is forgotten."""
    session = register()
    message = report(session.loader_id, 1)
    message.last = True
    send(message)
    assert list(state.active()) == []
    clock.now += 601  # type: ignore[attr-defined]
    assert state.expire(600) == [session.loader_id]
    assert not state.sessions
    assert not state.by_client


def test_step_of_the_wall_clock_ends_no_loader_and_keeps_none(state: State, register: Register) -> None:
    """A wall clock that jumps by a day expires nothing; one that jumps back does not keep a silent loader."""
    now = {"wall": 1e9, "monotonic": 50.0}
    state.clock, state.monotonic = lambda: now["wall"], lambda: now["monotonic"]
    session = register()
    now["wall"] += 86400
    assert state.expire(600) == []
    now["wall"] -= 7 * 86400
    now["monotonic"] += 601
    assert state.expire(600) == [session.loader_id]


def _apply(
    state: State, session: Session, recommendation: Recommendation, outcome: Outcome = Outcome.APPLIED
) -> None:
    state.decide(session.group, Decision("r-1", recommendation.epoch, recommendation))
    state.report_applied(AppliedReport(session.loader_id, "r-1", outcome, recommendation.settings))


def test_applied_becomes_a_change_once(
    state: State, register: Register, send: Send, report: Make, recommendation: Callable[[], Recommendation]
) -> None:
    """An applied recommendation is one change from the next epoch on, however often it is told."""
    session = register()
    send(report(session.loader_id, 1, end=True))
    for _ in range(2):
        _apply(state, session, recommendation())
    (change,) = session.changes
    assert (change.first_epoch, change.before, change.after) == (
        1,
        LoaderSettings(2, 2),
        LoaderSettings(4, 2),
    )
    assert session.settings == LoaderSettings(4, 2)
    assert state.counters_of(session).outcomes == {"applied": 1}


def test_failed_settings_are_remembered(
    state: State, register: Register, recommendation: Callable[[], Recommendation]
) -> None:
    """What could not be applied is remembered, and the settings in use stay."""
    session = register()
    _apply(state, session, recommendation(), Outcome.FAILED)
    assert session.failed == [LoaderSettings(4, 2)]
    assert session.settings == LoaderSettings(2, 2)


def test_trainer_that_dies_under_a_change_is_frozen_for_the_rest_of_the_job(
    state: State, clock: Callable[[], float], register: Register, recommendation: Callable[[], Recommendation]
) -> None:
    """A new client of the rank while the change is unproven is frozen, and so are those after it."""
    session = register()
    _apply(state, session, recommendation())
    second = register(client_id="client-2")
    assert second.frozen.startswith("The trainer ended in the first epoch with num_workers=4")
    clock.now += 3600  # type: ignore[attr-defined]
    state.expire(600)
    assert register(client_id="client-3").frozen == second.frozen
    assert register(client_id="other", job="another job").frozen == ""


def test_silence_under_a_change_proves_no_crash(
    state: State, clock: Any, register: Register, recommendation: Callable[[], Recommendation]
) -> None:
    """A session on probation that expires (a laptop that slept) is not frozen when its client comes back."""
    session = register()
    _apply(state, session, recommendation())
    clock.now += 3601
    assert state.expire(3600) == [session.loader_id]
    assert state.frozen == {}
    assert register().frozen == ""


def test_trainer_that_dies_after_a_clean_epoch_is_not_frozen(
    state: State, register: Register, send: Send, report: Make, recommendation: Callable[[], Recommendation]
) -> None:
    """A change whose first epoch ended is proven: the next incarnation is advised as ever."""
    session = register()
    send(report(session.loader_id, 1, end=True))
    _apply(state, session, recommendation())
    send(report(session.loader_id, 2, epoch=1, end=True))
    assert register(client_id="client-2").frozen == ""


def test_new_incarnation_forgets_decisions_of_the_old(
    state: State, register: Register, recommendation: Callable[[], Recommendation]
) -> None:
    """Epochs are counted from 0 again, so an answer for the old epoch 0 is none for the new."""
    session = register()
    state.decide(session.group, Decision("r-1", 0, recommendation()))
    register(client_id="client-2")
    assert state.decisions == {}
    assert session.ended


CONTAINER = "pid:[4026532000]"


def test_process_that_claims_the_rank_of_a_living_one_counts_as_another(
    state: State, clock: Any, register: Register, send: Send, report: Make
) -> None:
    """Two processes of one container that both say rank 0, as under mp.spawn, go on as ranks 0 and 1."""
    first = register(pid_namespace=CONTAINER, trainer_pid=7)
    send(report(first.loader_id, 1))
    clock.now += 2
    second, other = (
        register(client_id="client-2", pid_namespace=CONTAINER, trainer_pid=8, loader=name)
        for name in ("train", "val")
    )
    assert [(s.rank, s.ended) for s in (first, second, other)] == [(0, False), (1, False), (0, False)]
    assert {s.rank for s in state.peers(first.group)} == {0, 1}
    shown = pb.WatchResponse.FromString(watch_message(state))
    assert sorted((loader.loader, loader.identity.rank) for loader in shown.loaders) == [
        ("train", 0),
        ("train", 1),
        ("val", 0),
    ]


def test_process_keeps_the_rank_it_was_given_for_all_its_loaders(register: Register) -> None:
    """Its second loader, which the other process has too, is of the same rank as its first."""
    for name in ("train", "val"):
        register(pid_namespace=CONTAINER, trainer_pid=7, loader=name)
    twins = [
        register(client_id="client-2", pid_namespace=CONTAINER, trainer_pid=8, loader=name)
        for name in ("train", "val")
    ]
    assert [s.rank for s in twins] == [1, 1]


@pytest.mark.parametrize(
    ("namespace", "silence"),
    [("pid:[4026532111]", 2), (CONTAINER, 26), ("", 2)],
    ids=["another container", "long silence", "older client"],
)
def test_container_that_was_started_again_takes_the_place_of_the_one_before(
    clock: Any, register: Register, namespace: str, silence: float
) -> None:
    """It has another pid namespace, or the one before has been silent for longer than clients ever are."""
    old = register(pid_namespace=CONTAINER if namespace else "", trainer_pid=7)
    clock.now += silence
    new = register(client_id="client-2", pid_namespace=namespace, trainer_pid=8)
    assert (old.ended, new.rank) == (True, 0)


def test_process_gets_the_rank_it_claims_once_the_other_is_silent(
    state: State,
    clock: Any,
    register: Register,
    send: Send,
    report: Make,
    recommendation: Callable[[], Recommendation],
) -> None:
    """A rank that was killed and started again at once is rank 0 again, and knows of what the old died."""
    old = register(pid_namespace=CONTAINER, trainer_pid=7)
    send(report(old.loader_id, 1, end=True))
    _apply(state, old, recommendation())
    new = register(client_id="client-2", pid_namespace=CONTAINER, trainer_pid=8)
    send(report(new.loader_id, 1))
    assert (new.rank, new.frozen) == (1, "")
    clock.now += 26
    send(report(new.loader_id, 2, first=40))
    assert (old.ended, new.rank) == (True, 0)
    assert "num_workers=4" in new.frozen


def test_loader_that_registers_again_brings_what_is_new_of_it(register: Register) -> None:
    """One made anew over another shard has its length; the user's setting stays the first one."""
    session = register(batches_per_epoch=10, label="Shard[80]")
    again = register(
        batches_per_epoch=12, label="Shard[96]", settings=pb.LoaderSettings(num_workers=6, prefetch_factor=2)
    )
    assert again is session
    known = session.registration
    assert (known.batches_per_epoch, known.label, known.settings.num_workers) == (12, "Shard[96]", 2)


def test_decision_given_first_stays(
    state: State, register: Register, recommendation: Callable[..., Recommendation]
) -> None:
    """A second decision for the same loader and epoch changes nothing."""
    session = register()
    state.decide(session.group, Decision("r-1", 0, recommendation(workers=4)))
    state.decide(session.group, Decision("r-2", 0, recommendation(workers=6)))
    assert state.decisions[session.group, 0].id == "r-1"
    assert session.decision is not None
    assert session.decision.id == "r-1"


def test_series_beyond_the_bound_are_counted_together(state: State) -> None:
    """The 257th loader and those after it share one set of counters."""
    for i in range(KEPT_SERIES + 10):
        state.counters.of(f"loader-{i}", 0).reports += 1
    assert len(state.counters.by_series) == KEPT_SERIES + 1
    assert state.counters.of("other", 0).reports == 10


def _device(message: pb.ReportRequest, epoch: int, first: int, count: int) -> pb.ReportRequest:
    """Add every 16th step: 10 ms idle, 30 ms busy."""
    batches = range(first, first + 16 * count, 16)
    message.device_steps.add(
        epoch=epoch, batch=batches, idle_seconds=[0.01] * count, busy_seconds=[0.03] * count
    )
    return message


def test_device_steps_reach_the_model(register: Register, send: Send, report: Make) -> None:
    """Sampled steps become the epoch's device evidence, those that come late too; a quarter was idle."""
    session = register()
    send(_device(report(session.loader_id, 1, count=40, end=True), 0, 5, 2))
    assert session.epochs[0].device_starvation is None
    send(_device(report(session.loader_id, 2, epoch=1), 0, 37, 2))
    assert session.epochs[0].device_starvation == pytest.approx(0.25)
    old, new = session.freeze().epochs
    assert [step.batch for step in old.device] == [5, 21, 37, 53]
    assert {round(step.idle_seconds, 6) for step in old.device} == {0.01}
    assert new.device == ()


def test_device_steps_are_bounded_their_sums_are_not(register: Register, send: Send, report: Make) -> None:
    """Of 2,000 sampled steps the newest 512 are kept; the share is of all."""
    session = register()
    send(_device(report(session.loader_id, 1, count=32_000), 0, 1, 2000))
    trace = session.epochs[0]
    assert len(trace.device_batches) == len(trace.device_idle) == KEPT_DEVICE
    assert trace.device_steps == 2000
    assert trace.device_idle_seconds == pytest.approx(20)


def test_device_steps_of_an_epoch_that_is_not_kept_make_none(
    register: Register, send: Send, report: Make
) -> None:
    """They are no reason to invent an epoch."""
    session = register()
    send(_device(report(session.loader_id, 1, epoch=3), 2, 5, 4))
    assert [trace.number for trace in session.epochs] == [3]


def test_cuda_that_is_initialised_later_is_known(
    state: State, register: Register, send: Send, report: Make
) -> None:
    """A report says it, once; from then on host wait is not starvation."""
    session = register(uses_cuda=False)
    message = report(session.loader_id, 1)
    message.uses_cuda = True
    send(message)
    send(report(session.loader_id, 2, first=40))
    assert session.uses_cuda
    assert session.freeze().uses_cuda


def test_sampled_steps_stand_for_all_batches_between_them(
    state: State, register: Register, send: Send, report: Make
) -> None:
    """Two steps after 40 batches are scaled by 20; where sampling paused for 4,000, by 64 at most."""
    session = register()
    send(_device(report(session.loader_id, 1), 0, 5, 2))
    counters = state.counters.of("train", 0)
    assert counters.device_idle_seconds == pytest.approx(40 * 0.01)
    send(report(session.loader_id, 2, first=40, count=4000))
    send(_device(report(session.loader_id, 3, first=4040), 0, 4041, 2))
    assert counters.device_idle_seconds == pytest.approx((40 + 2 * 64) * 0.01)
    assert counters.device_busy_seconds == pytest.approx((40 + 2 * 64) * 0.03)
    assert counters.device_steps == 4
