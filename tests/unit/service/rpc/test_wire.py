"""Messages that cannot be true are refused, naming the field; true ones lose nothing."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedwater.v1 import feedwater_pb2 as pb
from feedwater_service.errors import MalformedError, OversizedError, RefusedError
from feedwater_service.model.types import NoRecommendation, NoRecommendationReason, Recommendation
from feedwater_service.rpc import wire
from feedwater_service.state.sessions import Decision, Session, State
from tests.support.shown import watch_message

Make = Callable[..., pb.ReportRequest]
Register = Callable[..., Session]
Describe = Callable[..., pb.RegisterLoaderRequest]


def _broken(message: pb.ReportRequest, change: str) -> bytes:
    exec(change, {"m": message, "nan": math.nan, "inf": math.inf})
    return message.SerializeToString()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("m.sequence = 0", "sequence"),
        ("m.batches[0].wait_seconds[3] = -0.5", "batches.wait_seconds"),
        ("m.batches[0].wait_seconds[3] = nan", "batches.wait_seconds"),
        ("m.batches[0].step_seconds[3] = inf", "batches.step_seconds"),
        ("m.batches[0].step_seconds[3] = 2e7", "batches.step_seconds"),
        ("m.batches[0].step_seconds.append(1)", "batches.step_seconds"),
        ("m.batches[0].ready.append(1)", "batches.ready"),
        ("m.batches[0].ready[0] = 40000", "batches.ready"),
        ("m.batches[0].start_seconds = nan", "batches.start_seconds"),
        ("m.batches[0].first = 1 << 60", "batches.first"),
        ("m.loads[1].cpu_seconds.pop()", "loads.cpu_seconds"),
        ("m.loads[1].load_seconds[0] = nan", "loads.load_seconds"),
        ("m.loads[1].start_seconds[0] = -1", "loads.start_seconds"),
        ("m.loads[1].start_seconds[3] = nan", "loads.start_seconds"),
        ("m.loads[1].start_seconds[3] = 1e300", "loads.start_seconds"),
        ("m.container.cpu_seconds = 1e300", "cpu_seconds"),
        ("m.loads[1].batch_bytes[0] = 1 << 60", "loads.batch_bytes"),
        ("m.loads[1].worker = 1 << 20", "loads.worker"),
        ("m.begins[0].iter_seconds = -1", "begins.iter_seconds"),
        ("m.begins[0].settings.num_workers = 100000", "begins.settings.num_workers"),
        ("m.ends.add(batches=1 << 60)", "ends.batches"),
        ("m.container.cpu_seconds = nan", "cpu_seconds"),
        ("m.limits.cpu_quota_cores = 0", "cpu_quota_cores"),
        ("m.limits.cpus = 0", "cpus"),
        ("m.processes[0].worker = 1 << 20", "processes.worker"),
        ("m.drops.add(cause=1, total=1 << 60)", "drops.total"),
        ("m.ends.extend([m.ends.add()] * 5000)", "ends"),
        (
            "m.device_steps.add(batch=[1, 2], idle_seconds=[1], busy_seconds=[1, 1])",
            "device_steps.idle_seconds",
        ),
        ("m.device_steps.add(batch=[1], idle_seconds=[1], busy_seconds=[nan])", "device_steps.busy_seconds"),
        ("m.device_steps.add(batch=[1], idle_seconds=[-1], busy_seconds=[1])", "device_steps.idle_seconds"),
        ("m.device_steps.add(batch=[2, 2], idle_seconds=[1, 1], busy_seconds=[1, 1])", "device_steps.batch"),
        ("m.device_steps.add(batch=[1 << 60], idle_seconds=[1], busy_seconds=[1])", "device_steps.batch"),
        ("m.device_steps.add(batch=range(1 << 18))", "device_steps"),
        ("m.container.device_utilisation = 1.01", "device_utilisation"),
        ("m.container.io_pressure_seconds = -1", "io_pressure_seconds"),
        ("m.container.memory_pressure_seconds = inf", "memory_pressure_seconds"),
        ("m.container.cpu_pressure_seconds = nan", "cpu_pressure_seconds"),
        ("m.processes[0].run_delay_seconds = -1", "run_delay_seconds"),
    ],
)
def test_read_report_refuses_what_cannot_be_true(report: Make, change: str, field: str) -> None:
    """A report with one impossible value is refused, and the message names the field."""
    with pytest.raises(MalformedError, match=f"^{field}:"):
        wire.read_report(_broken(report("id", 1), change))


def test_read_report_refuses_more_batches_than_two_minutes_hold(report: Make) -> None:
    """More than 131,072 batches in one report are absurd."""
    message = report("id", 1)
    del message.loads[:]
    message.batches[0].wait_seconds.extend([0.001] * wire.MAX_BATCHES)
    with pytest.raises(MalformedError, match=r"^batches: at most 131072 expected, got 131112"):
        wire.read_report(message.SerializeToString())


def test_read_report_refuses_what_is_larger_than_four_mebibytes() -> None:
    """A message beyond 4 MiB is refused before it is parsed."""
    with pytest.raises(OversizedError, match="4194305 bytes"):
        wire.read_report(b"x" * (wire.MAX_MESSAGE_BYTES + 1))


@given(st.binary(max_size=200))
def test_readers_refuse_garbage_with_our_own_error(data: bytes) -> None:
    """Whatever bytes come, a reader returns a value or raises an error that becomes a gRPC status."""
    for read in (
        wire.read_register_request,
        wire.read_report,
        wire.read_recommendation_request,
        wire.read_applied_report,
        wire.read_watch_request,
    ):
        try:
            read(data)
        except RefusedError:
            continue


def test_read_report_joins_workers_of_an_epoch(report: Make) -> None:
    """Two workers with 20 loads each become one run of 40 rows that still know their worker."""
    (run,) = wire.read_report(report("id", 1).SerializeToString()).loads
    assert run.worker == array("h", [0] * 20 + [1] * 20)
    assert run.load_seconds.total == pytest.approx(40 * 0.06)
    assert run.batch_bytes == array("Q", [1_000_000] * 40)


def test_read_report_takes_an_absurd_batch_as_a_tebibyte(report: Make) -> None:
    """A batch of 2^53 bytes, as an expanded tensor states them, counts as 2^40; its report is not lost."""
    message = report("id", 1)
    message.loads[0].batch_bytes[3] = 1 << 53
    (run,) = wire.read_report(message.SerializeToString()).loads
    assert (run.batch_bytes[2], run.batch_bytes[3]) == (1_000_000, 1 << 40)


def test_read_report_takes_the_newest_total_of_merged_drops() -> None:
    """A merged report that states 3 and then 5 dropped batches means 5; unknown causes are `other`."""
    message = pb.ReportRequest(loader_id="id", sequence=1)
    for cause, total in ((1, 3), (1, 5), (3, 2), (77, 4), (78, 1)):
        message.drops.add(cause=cause, total=total)
    drops = wire.read_report(message.SerializeToString()).drops
    assert drops == {"ring_overrun": 5, "buffer_full": 2, "other": 4 + 1}


def test_read_register_request_bounds_hostile_names(
    registration: Describe,
) -> None:
    """A name of 10 KB keeps 128 characters and stays apart from another with the same beginning."""
    names = [
        wire.read_register_request(registration(loader="x" * 10_000 + end).SerializeToString()).loader
        for end in ("a", "b")
    ]
    assert [len(name) for name in names] == [128, 128]
    assert names[0] != names[1]


def test_read_register_request_replaces_what_is_not_printable(
    registration: Describe,
) -> None:
    """Control characters and line breaks in a name become question marks."""
    read = wire.read_register_request(registration(loader='a\n"b\x00').SerializeToString())
    assert read.loader == 'a?"b?'


@pytest.mark.parametrize(
    ("changed", "field"), [({"client_id": ""}, "identity.client_id"), ({"settings": None}, "settings")]
)
def test_read_register_request_needs_a_client_and_settings(
    registration: Describe, changed: dict[str, object], field: str
) -> None:
    """Without a client id or settings nothing can be kept."""
    with pytest.raises(MalformedError, match=f"^{field}: missing"):
        wire.read_register_request(registration(**changed).SerializeToString())


def test_read_register_request_takes_an_unknown_mode_as_observe(
    registration: Describe,
) -> None:
    """A mode of a newer client, unknown here, measures only."""
    assert wire.read_register_request(registration(mode=77).SerializeToString()).mode.value == "observe"


@pytest.mark.parametrize("outcome", [0, 99])
def test_read_applied_report_refuses_an_unknown_outcome(outcome: int) -> None:
    """An outcome is one of five."""
    message = pb.ReportAppliedRequest(loader_id="id", recommendation_id="r", outcome=outcome)
    with pytest.raises(MalformedError, match=r"^outcome: "):
        wire.read_applied_report(message.SerializeToString())


def test_write_decision_tells_settings_bounds_and_evidence(
    recommendation: Callable[[], Recommendation],
) -> None:
    """A recommendation arrives with its settings, its bounds, its evidence and its sentence."""
    answer = pb.GetRecommendationResponse.FromString(
        wire.write_decision(Decision("0-abc", 0, recommendation()))
    ).recommendation
    assert (answer.id, answer.settings.num_workers, answer.changes) == ("0-abc", 4, True)
    assert (answer.chosen.batches_per_second_lower, answer.chosen.batches_per_second_upper) == (50.0, 70.0)
    assert answer.evidence[0].name == "load_seconds"
    assert answer.verdict == pb.VERDICT_TOO_FEW_WORKERS


def test_write_decision_tells_action_cause_topics_and_the_limit_that_is_needed(
    recommendation: Callable[[], Recommendation],
) -> None:
    """Fields of their own, beside the sentence that older clients read; no limit known is absent, not 0."""

    def told(made: Recommendation) -> pb.Recommendation:
        decision = wire.write_decision(Decision("0-abc", 0, made))
        return pb.GetRecommendationResponse.FromString(decision).recommendation

    answer = told(recommendation())
    assert (answer.action, answer.cause) == ("2 → 4 workers", "loading takes 60 ms of each 30 ms")
    assert answer.sentence == f"{answer.action}: {answer.cause}."
    assert (list(answer.advice_topics), len(answer.advice)) == (["in_order"], 1)
    assert answer.cpu_limit_needed_cores == 5.5
    none = told(replace(recommendation(), cpu_limit_needed_cores=None))
    assert not none.HasField("cpu_limit_needed_cores")


@pytest.mark.parametrize("reason", list(NoRecommendationReason))
def test_write_decision_tells_every_reason(reason: NoRecommendationReason) -> None:
    """Each reason of the model has its number on the wire."""
    none = pb.GetRecommendationResponse.FromString(
        wire.write_decision(Decision("", 0, NoRecommendation(reason, "Because.")))
    ).none
    assert pb.NoRecommendationReason.Name(none.reason) == f"NO_RECOMMENDATION_REASON_{reason.value}"


def test_client_that_knows_no_devices_says_nothing_of_one(report: Make) -> None:
    """An older client's report has no device steps, no utilisation, and does not claim CUDA."""
    read = wire.read_report(report("id", 1).SerializeToString())
    assert (read.device_steps, read.uses_cuda) == ((), False)
    assert read.container is not None
    assert read.container.device_utilisation is None


def test_read_report_keeps_the_devices_steps_by_epoch(report: Make) -> None:
    """The last ones of an epoch come beside the first of the next."""
    message = report("id", 1)
    message.uses_cuda = True
    message.device_steps.add(epoch=0, batch=[30], idle_seconds=[0.25], busy_seconds=[0.5])
    message.device_steps.add(epoch=1, batch=[2, 9], idle_seconds=[0, 0.25], busy_seconds=[1, 2])
    read = wire.read_report(message.SerializeToString())
    assert read.uses_cuda
    assert [
        (run.epoch, list(run.batch), run.idle_seconds.total, run.busy_seconds.total)
        for run in read.device_steps
    ] == [
        (0, [30], 0.25, 0.5),
        (1, [2, 9], 0.25, 3.0),
    ]


def test_read_report_takes_run_delay_and_pressure_where_they_are_told(report: Make) -> None:
    """A client without them, or a kernel without pressure, says nothing; nothing is not zero."""
    message = report("id", 1)
    for field in ("cpu", "io", "memory"):
        message.container.ClearField(f"{field}_pressure_seconds")
    message.processes.add(pid=7, stamp_seconds=1.0)
    message.processes.add(pid=7, stamp_seconds=2.0, run_delay_seconds=0.25)
    read = wire.read_report(message.SerializeToString())
    assert [p.run_delay_seconds for p in read.processes[-2:]] == [None, 0.25]
    assert read.container is not None
    assert read.container.io_pressure_seconds is None
    message.container.cpu_pressure_seconds = 1.0
    message.container.io_pressure_seconds = 2.0
    message.container.memory_pressure_seconds = 3.0
    container = wire.read_report(message.SerializeToString()).container
    assert container is not None
    seconds = container.cpu_pressure_seconds, container.io_pressure_seconds, container.memory_pressure_seconds
    assert seconds == (1.0, 2.0, 3.0)


def test_read_report_takes_stamps_of_a_machine_that_runs_for_years(report: Make) -> None:
    """20 loads at 1e11 s are each below the bound of 1e12, though their sum is not."""
    message = report("id", 1)
    message.loads[0].start_seconds[:] = [1e11] * 20
    assert wire.read_report(message.SerializeToString()).loads[0].start_seconds[0] == 1e11


def test_state_has_numbers_only(
    state: State, register: Register, send: Callable[[pb.ReportRequest], Session], report: Make
) -> None:
    """A container that used 1e11 CPU seconds within the smallest time: no infinity in the JSON."""
    session = register()
    message = report(session.loader_id, 1)
    message.container.stamp_seconds = 0.0
    message.container.cpu_seconds = 0.0
    send(message)
    message = report(session.loader_id, 2, first=40)
    message.container.stamp_seconds = 5e-324
    message.container.cpu_seconds = 1e11
    send(message)
    text = wire.write_state_json(watch_message(state, "1"), b"key").decode()
    assert "Infinity" not in text
    assert "NaN" not in text


def test_predictions_are_no_faster_than_a_loop_can_be(
    recommendation: Callable[[], Recommendation],
) -> None:
    """A prediction from an epoch of all zeros, 1e15 batches/s, is told as a million."""
    made = recommendation()
    made = replace(made, chosen=replace(made.chosen, batches_per_second_upper=1e15))
    decision = wire.write_decision(Decision("0-abc", 0, made))
    told = pb.GetRecommendationResponse.FromString(decision).recommendation
    assert told.chosen.batches_per_second_upper == 1e6


def test_predicted_memory_beyond_64_bits_is_told_bounded(
    recommendation: Callable[[], Recommendation],
) -> None:
    """Batches of a tebibyte, a million ahead in each of thousands of workers, do not end the call."""
    made = recommendation()
    made = replace(made, current=replace(made.current, memory_bytes=1 << 70, shm_bytes=1 << 70))
    decision = wire.write_decision(Decision("0-abc", 0, made))
    told = pb.GetRecommendationResponse.FromString(decision).recommendation.current
    assert (told.memory_bytes, told.shm_bytes) == (1 << 53, 1 << 53)
