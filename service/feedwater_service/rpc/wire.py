"""The wire format: the only module of the sidecar that imports the protobuf messages.

It reads bytes into checked values, and writes values as bytes. What is wrong with a message is reported as a
`MalformedError` that names the field, what was expected and what came.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from hashlib import blake2b
from itertools import pairwise
from typing import TypeVar
from zlib import crc32

from google.protobuf.message import DecodeError, Message

from feedwater.v1 import feedwater_pb2 as pb
from feedwater.values import Mode, Outcome
from feedwater_service.errors import MalformedError, OversizedError
from feedwater_service.model.simulator.simulate import MAX_BATCHES_PER_SECOND
from feedwater_service.model.types import (
    ContainerUsage,
    LoaderSettings,
    NoRecommendation,
    Prediction,
    Recommendation,
    Verdict,
)
from feedwater_service.state import reports
from feedwater_service.state.columns import Column, column
from feedwater_service.state.hung import hung_seconds
from feedwater_service.state.sessions import Decision, DecisionRecord, Session
from feedwater_service.state.traces import Trace

SERVICE = pb.DESCRIPTOR.services_by_name["FeedwaterService"].full_name
MAX_MESSAGE_BYTES = 4 << 20
"""gRPC's own default. A report of one second at 1,000 batches/s is 32 KB."""
MAX_BATCHES = 1 << 17
"""Batches in one report: two minutes at 1,000 batches/s."""
MAX_ITEMS = 4096
"""Items of each repeated field of a report: hundreds of epochs of a few batches fit into one."""
MAX_SECONDS = 1e7
"""Four months: no measured time in one report is longer."""
MAX_TOTAL_SECONDS = 1e12
"""The CPU time of 500 cores in 63 years; as a time of the monotonic clock, 30,000 years after the boot."""
MAX_COUNT = 1 << 53
"""Above this a double does not count exactly."""
MAX_BATCH_BYTES = 1 << 40
"""A tebibyte. A larger batch counts as one of this size: a tensor that was expanded states more bytes than it
has."""
MAX_WORKERS = 4096
RECENT_BATCHES = 120
"""Newest batches in a watch: the bars that the live page has room for."""
MAX_NAME = 128
"""Characters kept of a name: Kubernetes allows 253, but label values of time series should be short."""

_MODES = {
    pb.MODE_OFF: Mode.OFF,
    pb.MODE_OBSERVE: Mode.OBSERVE,
    pb.MODE_ADVISE: Mode.ADVISE,
    pb.MODE_AUTO: Mode.AUTO,
}
_MODE_NUMBERS = {mode: number for number, mode in _MODES.items()}
_KINDS = {pb.DATASET_KIND_MAP: "map", pb.DATASET_KIND_ITERABLE: "iterable", pb.DATASET_KIND_NONE: "none"}
_OUTCOMES = {
    pb.OUTCOME_APPLIED: Outcome.APPLIED,
    pb.OUTCOME_ADVISED: Outcome.ADVISED,
    pb.OUTCOME_REFUSED: Outcome.REFUSED,
    pb.OUTCOME_FAILED: Outcome.FAILED,
    pb.OUTCOME_UNCHANGED: Outcome.UNCHANGED,
}
_OUTCOME_NUMBERS = {outcome: number for number, outcome in _OUTCOMES.items()}
M = TypeVar("M", bound=Message)


def read_register_request(data: bytes) -> reports.RegisterRequest:
    """Return a loader's description.

    Raises:
        MalformedError: No client id, no settings, or a number that cannot be true.
    """
    message = _parse(pb.RegisterLoaderRequest, data)
    identity = _identity(message.identity)
    if not message.HasField("settings"):
        raise MalformedError("settings: missing")
    return reports.RegisterRequest(
        identity=identity,
        loader=bounded_name(message.loader) or "loader",
        settings=_settings("settings", message.settings),
        mode=_MODES.get(message.mode, Mode.OBSERVE),
        dataset_kind=_KINDS.get(message.dataset_kind, "map"),
        batches_per_epoch=_optional_count(message, "batches_per_epoch"),
        start_method=message.start_method[:16],
        can_apply=message.can_apply,
        limits=_limits(message.limits) if message.HasField("limits") else None,
        uses_cuda=message.uses_cuda,
        label=bounded_name(message.label),
        shards=_positive_count(message, "shards"),
    )


def read_report(data: bytes) -> reports.Report:
    """Return a report.

    Raises:
        MalformedError: Arrays of unequal length, negative or non-finite times, absurd counts.
    """
    message = _parse(pb.ReportRequest, data)
    if message.sequence < 1:
        raise MalformedError("sequence: expected 1 or more, got 0")
    for field in ("begins", "batches", "loads", "ends", "processes", "drops", "device_steps"):
        _at_most(field, len(getattr(message, field)), MAX_ITEMS)
    _at_most("batches", sum(len(b.wait_seconds) for b in message.batches), MAX_BATCHES)
    _at_most("loads", sum(len(w.start_seconds) for w in message.loads), MAX_BATCHES)
    _at_most("device_steps", sum(len(d.batch) for d in message.device_steps), MAX_BATCHES)
    return reports.Report(
        loader_id=message.loader_id,
        sequence=_count("sequence", message.sequence),
        begins=tuple(map(_begin, message.begins)),
        batches=tuple(map(_batches, message.batches)),
        loads=_worker_loads(message.loads),
        ends=tuple(map(_end, message.ends)),
        container=_container(message.container) if message.HasField("container") else None,
        processes=tuple(map(_process, message.processes)),
        limits=_limits(message.limits) if message.HasField("limits") else None,
        drops=_drops(message.drops),
        last=message.last,
        device_steps=tuple(map(_device_steps, message.device_steps)),
        uses_cuda=message.uses_cuda,
    )


def read_recommendation_request(data: bytes) -> reports.RecommendationRequest:
    """Return a client's request for a recommendation.

    Raises:
        MalformedError: An impossible sequence number.
    """
    message = _parse(pb.GetRecommendationRequest, data)
    return reports.RecommendationRequest(
        message.loader_id, message.epoch, _count("end_sequence", message.end_sequence), message.preview
    )


def read_applied_report(data: bytes) -> reports.AppliedReport:
    """Return what became of a recommendation.

    Raises:
        MalformedError: An unknown outcome, or no id of a recommendation.
    """
    message = _parse(pb.ReportAppliedRequest, data)
    if message.outcome not in _OUTCOMES:
        raise MalformedError(f"outcome: expected one of {sorted(_OUTCOMES)}, got {message.outcome}")
    if not 0 < len(message.recommendation_id) <= MAX_NAME:
        raise MalformedError(f"recommendation_id: expected 1 to {MAX_NAME} characters")
    return reports.AppliedReport(
        loader_id=message.loader_id,
        recommendation_id=message.recommendation_id,
        outcome=_OUTCOMES[message.outcome],
        settings=_settings("settings", message.settings),
        detail=message.detail[:400],
    )


def write_register_request(registration: reports.RegisterRequest) -> bytes:
    """Return a registration as the journal keeps it: what was read of it, and nothing else."""
    return pb.RegisterLoaderRequest(
        identity=_copied(pb.Identity, registration.identity),
        loader=registration.loader,
        settings=_write_settings(registration.settings),
        mode=_MODE_NUMBERS[registration.mode],
        dataset_kind=next(k for k, kind in _KINDS.items() if kind == registration.dataset_kind),
        batches_per_epoch=registration.batches_per_epoch,
        start_method=registration.start_method,
        can_apply=registration.can_apply,
        limits=_copied(pb.Limits, registration.limits) if registration.limits else None,
        uses_cuda=registration.uses_cuda,
        label=registration.label,
        shards=registration.shards,
    ).SerializeToString()


def write_report(data: bytes) -> bytes:
    """Return a report that was read as the journal keeps it: without fields that are not ours.

    Its numbers are bounded, and it has no text but the loader's id, which is known.
    """
    message = _parse(pb.ReportRequest, data)
    message.DiscardUnknownFields()
    return message.SerializeToString()


def write_applied_report(applied: reports.AppliedReport) -> bytes:
    """Return what became of a recommendation as the journal keeps it."""
    return pb.ReportAppliedRequest(
        loader_id=applied.loader_id,
        recommendation_id=applied.recommendation_id,
        outcome=_OUTCOME_NUMBERS[applied.outcome],
        settings=_write_settings(applied.settings),
        detail=applied.detail,
    ).SerializeToString()


def read_watch_request(data: bytes) -> float:
    """Return the seconds between two messages of a watch, 0 for one message."""
    return _seconds("interval_seconds", _parse(pb.WatchRequest, data).interval_seconds)


def write_register_response(session: Session) -> bytes:
    """Return the response to a registration."""
    return pb.RegisterLoaderResponse(
        loader_id=session.loader_id,
        mode=_MODE_NUMBERS[session.mode],
        accepted_sequence=session.accepted_sequence,
    ).SerializeToString()


def write_report_response(sequence: int) -> bytes:
    """Return the response to a report."""
    return pb.ReportResponse(accepted_sequence=sequence).SerializeToString()


def write_decision(decision: Decision) -> bytes:
    """Return the response to a request for a recommendation."""
    answer = decision.answer
    if isinstance(answer, NoRecommendation):
        return pb.GetRecommendationResponse(none=_none(answer)).SerializeToString()
    return pb.GetRecommendationResponse(
        recommendation=_recommendation(decision.id, answer)
    ).SerializeToString()


def write_applied_response() -> bytes:
    """Return the response to a report of what was applied."""
    return pb.ReportAppliedResponse().SerializeToString()


def write_loader_state(session: Session) -> bytes:
    """Return one loader's part of a message of a watch: parts that are joined are a message.

    Source: https://protobuf.dev/programming-guides/encoding/#last-one-wins
    """
    return pb.WatchResponse(loaders=[_state(session)]).SerializeToString()


def write_watch_end(version: str, time_seconds: float) -> bytes:
    """Return the part of a message of a watch that is of no loader."""
    return pb.WatchResponse(version=version, time_seconds=time_seconds).SerializeToString()


def write_state_json(watch_response: bytes, key: bytes) -> bytes:
    """Return a message of a watch in protobuf's JSON: snake_case, and 64-bit numbers as strings.

    Ids are replaced by names that are of no use in a call: who knows an id may report in its loader's name.

    Args:
        watch_response: The message.
        key: Of the names; the same key gives the same names.

    Source: https://protobuf.dev/programming-guides/json/
    """
    # Imported late: the page of most sidecars is never opened.
    from google.protobuf.json_format import MessageToJson

    message = pb.WatchResponse.FromString(watch_response)
    for loader in message.loaders:
        loader.loader_id = _public_name(loader.loader_id, key)
        loader.identity.client_id = _public_name(loader.identity.client_id, key)
    return MessageToJson(message, preserving_proto_field_name=True, indent=None).encode()


def _public_name(id_: str, key: bytes) -> str:
    return blake2b(id_.encode(), key=key, digest_size=6).hexdigest()


def bounded_name(text: str) -> str:
    """Return a name as a label value: printable, at most `MAX_NAME` characters.

    A longer name is cut and gets a checksum, so that two long names remain different.
    """
    clean = "".join(c if c.isprintable() else "?" for c in text[: 4 * MAX_NAME]).strip()
    if len(text) <= MAX_NAME:
        return clean
    return f"{clean[: MAX_NAME - 9]}~{_checksum(text):08x}"


def _checksum(text: str) -> int:
    return crc32(text.encode())


def _parse(kind: type[M], data: bytes) -> M:
    if len(data) > MAX_MESSAGE_BYTES:
        raise OversizedError(
            f"{kind.DESCRIPTOR.name}: {len(data)} bytes, at most {MAX_MESSAGE_BYTES} are taken"
        )
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise MalformedError(f"not a {kind.DESCRIPTOR.full_name}: {error}") from None


def _identity(message: pb.Identity) -> reports.Identity:
    if not message.client_id:
        raise MalformedError("identity.client_id: missing")
    return reports.Identity(
        client_id=bounded_name(message.client_id),
        job=bounded_name(message.job),
        namespace=bounded_name(message.namespace),
        pod=bounded_name(message.pod),
        rank=message.rank,
        local_rank=message.local_rank,
        world_size=max(1, message.world_size),
        local_world_size=max(1, message.local_world_size),
        trainer_pid=message.trainer_pid,
        pid_namespace=bounded_name(message.pid_namespace),
    )


def _settings(field: str, message: pb.LoaderSettings) -> LoaderSettings:
    _at_most(f"{field}.num_workers", message.num_workers, MAX_WORKERS)
    _at_most(f"{field}.prefetch_factor", message.prefetch_factor, MAX_COUNT)
    return LoaderSettings(
        num_workers=message.num_workers,
        prefetch_factor=message.prefetch_factor if message.HasField("prefetch_factor") else None,
        persistent_workers=message.persistent_workers,
        pin_memory=message.pin_memory,
        in_order=message.in_order if message.HasField("in_order") else True,
    )


def _limits(message: pb.Limits) -> reports.Limits:
    return reports.Limits(
        cpu_quota_cores=_positive(message, "cpu_quota_cores"),
        cpus=_positive_count(message, "cpus"),
        memory_bytes=_positive_count(message, "memory_bytes"),
        shm_bytes=_optional_count(message, "shm_bytes"),
        pids=_positive_count(message, "pids"),
        open_files=_positive_count(message, "open_files"),
        cpu_period_seconds=_positive(message, "cpu_period_seconds"),
    )


def _begin(message: pb.EpochBegin) -> reports.EpochBegin:
    return reports.EpochBegin(
        epoch=message.epoch,
        stamp_seconds=_stamp("begins.stamp_seconds", message.stamp_seconds),
        settings=_settings("begins.settings", message.settings),
        iter_seconds=_seconds("begins.iter_seconds", message.iter_seconds),
    )


def _end(message: pb.EpochEnd) -> reports.EpochEnd:
    return reports.EpochEnd(
        epoch=message.epoch,
        stamp_seconds=_stamp("ends.stamp_seconds", message.stamp_seconds),
        batches=_count("ends.batches", message.batches),
        complete=message.complete,
        teardown_seconds=_seconds("ends.teardown_seconds", message.teardown_seconds),
    )


def _batches(message: pb.Batches) -> reports.Batches:
    waits = message.wait_seconds[:]
    _same_length("batches.step_seconds", len(message.step_seconds), len(waits))
    if message.ready:
        _same_length("batches.ready", len(message.ready), len(waits))
    return reports.Batches(
        epoch=message.epoch,
        first=_count("batches.first", message.first),
        start_seconds=_stamp("batches.start_seconds", message.start_seconds),
        wait_seconds=_times("batches.wait_seconds", waits),
        step_seconds=_times("batches.step_seconds", message.step_seconds[:]),
        ready=_shorts("batches.ready", message.ready[:]),
    )


def _worker_loads(messages: Sequence[pb.WorkerLoads]) -> tuple[reports.WorkerLoads, ...]:
    """Return the loads by epoch, of all workers together: summed and sorted once, not once a worker."""
    epochs = dict.fromkeys(message.epoch for message in messages)
    return tuple(_loads(epoch, [m for m in messages if m.epoch == epoch]) for epoch in epochs)


def _loads(epoch: int, messages: Sequence[pb.WorkerLoads]) -> reports.WorkerLoads:
    workers = array("h")
    for message in messages:
        _at_most("loads.worker", message.worker, MAX_WORKERS)
        workers.extend(array("h", [message.worker]) * len(message.start_seconds))
    return reports.WorkerLoads(
        epoch=epoch,
        worker=workers,
        start_seconds=_stamps("loads.start_seconds", _joined(messages, "start_seconds")),
        load_seconds=_times("loads.load_seconds", _joined(messages, "load_seconds")),
        cpu_seconds=_times("loads.cpu_seconds", _joined(messages, "cpu_seconds")),
        run_delay_seconds=_times("loads.run_delay_seconds", _joined(messages, "run_delay_seconds")),
        batch_bytes=_batch_bytes(_joined(messages, "batch_bytes")),
        batch_tensors=_counts("loads.batch_tensors", _joined(messages, "batch_tensors")),
    )


def _joined(messages: Sequence[pb.WorkerLoads], field: str) -> list[float]:
    joined: list[float] = []
    for message in messages:
        values = getattr(message, field)
        _same_length(f"loads.{field}", len(values), len(message.start_seconds))
        joined += values[:]
    return joined


def _device_steps(message: pb.DeviceSteps) -> reports.DeviceSteps:
    batches = _counts("device_steps.batch", message.batch[:])
    if any(later <= earlier for earlier, later in pairwise(batches)):
        raise MalformedError("device_steps.batch: expected ascending ordinals")
    for field in ("idle_seconds", "busy_seconds"):
        _same_length(f"device_steps.{field}", len(getattr(message, field)), len(batches))
    return reports.DeviceSteps(
        epoch=message.epoch,
        batch=batches,
        idle_seconds=_times("device_steps.idle_seconds", message.idle_seconds[:]),
        busy_seconds=_times("device_steps.busy_seconds", message.busy_seconds[:]),
    )


def _container(message: pb.ContainerUsage) -> ContainerUsage:
    return ContainerUsage(
        stamp_seconds=_stamp("container.stamp_seconds", message.stamp_seconds),
        cpu_seconds=_optional_seconds(message, "cpu_seconds"),
        periods=_optional_count(message, "periods"),
        throttled_periods=_optional_count(message, "throttled_periods"),
        throttled_seconds=_optional_seconds(message, "throttled_seconds"),
        memory_bytes=_optional_count(message, "memory_bytes"),
        shm_bytes=_optional_count(message, "shm_bytes"),
        oom_kills=_optional_count(message, "oom_kills"),
        pids=_optional_count(message, "pids"),
        cpu_pressure_seconds=_optional_seconds(message, "cpu_pressure_seconds"),
        io_pressure_seconds=_optional_seconds(message, "io_pressure_seconds"),
        memory_pressure_seconds=_optional_seconds(message, "memory_pressure_seconds"),
        steal_seconds=_optional_seconds(message, "steal_seconds"),
        device_utilisation=_optional_share(message, "device_utilisation"),
    )


def _process(message: pb.ProcessUsage) -> reports.ProcessUsage:
    _at_most("processes.worker", message.worker, MAX_WORKERS)
    return reports.ProcessUsage(
        pid=message.pid,
        worker=message.worker if message.HasField("worker") else None,
        stamp_seconds=_stamp("processes.stamp_seconds", message.stamp_seconds),
        cpu_seconds=_optional_seconds(message, "cpu_seconds"),
        run_delay_seconds=_optional_seconds(message, "run_delay_seconds"),
        rss_bytes=_optional_count(message, "rss_bytes"),
        pss_bytes=_optional_count(message, "pss_bytes"),
        uss_bytes=_optional_count(message, "uss_bytes"),
        read_chars=_optional_count(message, "read_chars"),
        read_bytes=_optional_count(message, "read_bytes"),
        boot_cpu_seconds=_optional_seconds(message, "boot_cpu_seconds"),
    )


def _drops(messages: Iterable[pb.Drop]) -> dict[str, int]:
    """Return totals by cause; a merged report states a cause twice, and the greater total is newer."""
    totals: dict[int, int] = {}
    for message in messages:
        totals[message.cause] = max(totals.get(message.cause, 0), _count("drops.total", message.total))
    drops: dict[str, int] = {}
    for number, total in totals.items():
        cause = reports.DROP_CAUSES[number - 1] if 1 <= number < len(reports.DROP_CAUSES) else "other"
        drops[cause] = drops.get(cause, 0) + total
    return drops


def _recommendation(id_: str, answer: Recommendation) -> pb.Recommendation:
    return pb.Recommendation(
        id=id_,
        epoch=answer.epoch,
        settings=_write_settings(answer.settings),
        uncapped_num_workers=answer.uncapped_num_workers,
        verdict=_verdict(answer.verdict),
        sentence=answer.sentence,
        evidence=[
            pb.Evidence(name=e.name, value=e.value, text=e.text)
            for e in answer.evidence
            if math.isfinite(e.value)
        ],
        current=_prediction(answer.current),
        chosen=_prediction(answer.chosen),
        curve=map(_prediction, answer.curve),
        advice=answer.advice,
        changes=answer.changes,
        rolls_back=answer.rolls_back,
        what_if=[
            pb.WhatIf(cpu_limit_cores=w.cpu_limit_cores, best=_prediction(w.best)) for w in answer.what_if
        ],
        action=answer.action,
        cause=answer.cause,
        cpu_limit_needed_cores=answer.cpu_limit_needed_cores,
        advice_topics=answer.advice_topics,
    )


def _none(answer: NoRecommendation) -> pb.NoRecommendation:
    reason = pb.NoRecommendationReason.Value(f"NO_RECOMMENDATION_REASON_{answer.reason.value}")
    return pb.NoRecommendation(reason=reason, message=answer.message)


def _prediction(prediction: Prediction) -> pb.Prediction:
    return pb.Prediction(
        settings=_write_settings(prediction.settings),
        batches_per_second=_rate(prediction.batches_per_second),
        batches_per_second_lower=_rate(prediction.batches_per_second_lower),
        batches_per_second_upper=_rate(prediction.batches_per_second_upper),
        starvation=prediction.starvation,
        memory_bytes=_bytes(prediction.memory_bytes),
        shm_bytes=_bytes(prediction.shm_bytes),
    )


def _bytes(value: int | None) -> int | None:
    """Return a size with the bound of the reported ones: a product of these may not fit the field."""
    return None if value is None else min(value, MAX_COUNT)


def _rate(batches_per_second: float) -> float:
    """Return a rate with the bound of the simulated ones; the bounds of a prediction may lie beyond it."""
    return min(batches_per_second, MAX_BATCHES_PER_SECOND)


def _finite(value: float | None) -> float | None:
    """Return a number that JSON has; None for what is not one."""
    return value if value is not None and math.isfinite(value) else None


def _verdict(verdict: Verdict) -> pb.Verdict.ValueType:
    return pb.Verdict.Value(f"VERDICT_{verdict.value}")


def _write_settings(settings: LoaderSettings) -> pb.LoaderSettings:
    return pb.LoaderSettings(
        num_workers=settings.num_workers,
        prefetch_factor=settings.prefetch_factor,
        persistent_workers=settings.persistent_workers,
        pin_memory=settings.pin_memory,
        in_order=settings.in_order,
    )


def _copied(kind: type[M], value: reports.Identity | reports.Limits) -> M:
    """Return the message with the fields of a value; None becomes an absent field."""
    return kind(**{f.name: getattr(value, f.name) for f in fields(value)})


def _state(session: Session) -> pb.LoaderState:
    verdicts = {record.epoch: record.verdict for record in session.records}
    message = pb.LoaderState(
        loader_id=session.loader_id,
        identity=_copied(pb.Identity, replace(session.registration.identity, rank=session.rank)),
        loader=session.name,
        mode=_MODE_NUMBERS[session.mode],
        settings=_write_settings(session.settings),
        limits=_copied(pb.Limits, session.limits) if session.limits else None,
        epochs=[_summary(trace, verdicts) for trace in session.epochs],
        outcome=_write_outcome(session.outcome),
        connected=not session.ended,
        uses_cuda=session.uses_cuda,
        container=_write_container(session.container) if session.container else None,
        workers=_newest_memory(session.epochs),
        recent=_recent(session.epochs) if session.epochs else None,
        decisions=map(_write_record, session.records),
        last_seen_seconds=session.last_seen_seconds,
        stalled_seconds=hung_seconds(session),
        frozen=session.frozen,
        initial_settings=_write_settings(session.registration.settings),
        batches_per_epoch=session.registration.batches_per_epoch,
        label=session.registration.label,
    )
    answer = session.answer
    if isinstance(answer, Recommendation):
        # A preview has no id: there is no decision to apply.
        decision = session.decision
        decided = decision.id if decision is not None and answer is decision.answer else ""
        message.recommendation.CopyFrom(_recommendation(decided, answer))
    elif answer is not None:
        message.none.CopyFrom(_none(answer))
    return message


def _write_container(container: ContainerUsage) -> pb.ContainerUsage:
    return pb.ContainerUsage(
        stamp_seconds=container.stamp_seconds,
        cpu_seconds=container.cpu_seconds,
        periods=container.periods,
        throttled_periods=container.throttled_periods,
        throttled_seconds=container.throttled_seconds,
        memory_bytes=container.memory_bytes,
        shm_bytes=container.shm_bytes,
        oom_kills=container.oom_kills,
        pids=container.pids,
        cpu_pressure_seconds=container.cpu_pressure_seconds,
        io_pressure_seconds=container.io_pressure_seconds,
        memory_pressure_seconds=container.memory_pressure_seconds,
        steal_seconds=container.steal_seconds,
        device_utilisation=container.device_utilisation,
    )


def _write_memory(trace: Trace) -> list[pb.WorkerMemory]:
    rss, pss, uss = map(trace.newest_memory, ("rss_bytes", "pss_bytes", "uss_bytes"))
    return [
        pb.WorkerMemory(
            worker=worker, rss_bytes=rss.get(worker), pss_bytes=pss.get(worker), uss_bytes=uss.get(worker)
        )
        for worker in sorted(rss.keys() | pss.keys() | uss.keys())
    ]


def _newest_memory(epochs: Sequence[Trace]) -> list[pb.WorkerMemory]:
    """Return the newest readings with PSS: an epoch that has just begun has none, or RSS alone."""
    read = [_write_memory(trace) for trace in reversed(epochs[-2:])]
    whole = (memory for memory in read if any(w.HasField("pss_bytes") for w in memory))
    return next(whole, read[0] if read else [])


def _recent(epochs: Sequence[Trace]) -> pb.RecentBatches:
    """Return the newest batches, of the last two epochs."""
    waits, steps = array("f"), array("f")
    for trace in epochs[-2:]:
        waits += trace.waits[-RECENT_BATCHES:]
        steps += trace.steps[-RECENT_BATCHES:]
    return pb.RecentBatches(wait_seconds=waits[-RECENT_BATCHES:], step_seconds=steps[-RECENT_BATCHES:])


def _write_record(record: DecisionRecord) -> pb.DecisionRecord:
    return pb.DecisionRecord(
        epoch=record.epoch,
        before=_write_settings(record.before),
        settings=_write_settings(record.settings) if record.settings else None,
        verdict=_verdict(record.verdict),
        sentence=record.sentence,
        outcome=_write_outcome(record.outcome),
        detail=record.detail,
        rolls_back=record.rolls_back,
    )


def _write_outcome(outcome: Outcome | None) -> pb.Outcome.ValueType:
    return _OUTCOME_NUMBERS[outcome] if outcome else pb.OUTCOME_UNSPECIFIED


def _summary(trace: Trace, verdicts: Mapping[int, Verdict]) -> pb.EpochSummary:
    seconds = trace.seconds
    return pb.EpochSummary(
        epoch=trace.number,
        settings=_write_settings(trace.settings),
        batches=trace.batches,
        seconds=seconds,
        wait_seconds=trace.wait_seconds,
        step_seconds=trace.step_seconds,
        start_up_seconds=trace.start_up_seconds,
        batches_per_second=trace.batches / seconds if seconds > 0 else 0.0,
        starvation=trace.starvation,
        complete=trace.complete,
        verdict=_verdict(verdicts.get(trace.number, Verdict.UNKNOWN)),
        device_starvation=_finite(trace.device_starvation),
        cpu_used_cores=_finite(trace.cpu_used_cores),
        throttled_ratio=_finite(trace.throttled_ratio),
    )


def _at_most(field: str, value: float, bound: float) -> None:
    if value > bound:
        raise MalformedError(f"{field}: at most {bound} expected, got {value}")


def _same_length(field: str, length: int, expected: int) -> None:
    if length != expected:
        raise MalformedError(f"{field}: {length} values, expected {expected} as in the other arrays")


def _count(field: str, value: int) -> int:
    _at_most(field, value, MAX_COUNT)
    return value


def _stamp(field: str, value: float) -> float:
    if not 0 <= value <= MAX_TOTAL_SECONDS:
        raise MalformedError(f"{field}: expected 0 to {MAX_TOTAL_SECONDS:g} seconds, got {value}")
    return value


def _seconds(field: str, value: float) -> float:
    if not 0 <= value <= MAX_SECONDS:
        raise MalformedError(f"{field}: expected 0 to {MAX_SECONDS:g} seconds, got {value}")
    return value


def _times(field: str, values: list[float]) -> Column:
    try:
        return column(values, MAX_SECONDS)
    except ValueError as error:
        raise MalformedError(f"{field}: {error}") from None


def _counts(field: str, values: Sequence[float]) -> array[int]:
    _at_most(field, max(values, default=0), MAX_COUNT)
    return array("Q", values)  # type: ignore[arg-type]


def _batch_bytes(values: list[float]) -> array[int]:
    counts = _counts("loads.batch_bytes", values)
    if max(counts, default=0) <= MAX_BATCH_BYTES:
        return counts
    return array("Q", [min(count, MAX_BATCH_BYTES) for count in counts])


def _stamps(field: str, values: list[float]) -> array[float]:
    if values:
        # A NaN makes the sum NaN, wherever it stands; it may hide from min() and max().
        _stamp(field, 0.0 if math.isfinite(sum(values)) else math.nan)
        _stamp(field, min(values))
        _stamp(field, max(values))
    return array("d", values)


def _shorts(field: str, values: list[int]) -> array[int]:
    try:
        return array("h", values)
    except OverflowError:
        raise MalformedError(f"{field}: expected -1 to 32767, got {min(values)} to {max(values)}") from None


def _optional_count(message: Message, field: str) -> int | None:
    return _count(field, getattr(message, field)) if message.HasField(field) else None


def _optional_seconds(message: Message, field: str) -> float | None:
    # Not _seconds: the CPU time of a container with 500 cores exceeds MAX_SECONDS within a day.
    if not message.HasField(field):
        return None
    return _stamp(field, getattr(message, field))


def _optional_share(message: Message, field: str) -> float | None:
    value = _optional_seconds(message, field)
    if value is not None:
        _at_most(field, value, 1.0)
    return value


def _positive(message: Message, field: str) -> float | None:
    value = _optional_seconds(message, field)
    if value is not None and not 0 < value <= MAX_SECONDS:
        raise MalformedError(f"{field}: expected more than 0, got {value}")
    return value


def _positive_count(message: Message, field: str) -> int | None:
    value = _optional_count(message, field)
    if value == 0:
        raise MalformedError(f"{field}: expected 1 or more, got 0")
    return value
