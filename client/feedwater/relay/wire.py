"""The wire format on the client's side; no other module imports the generated code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import Message

from feedwater.relay.measurements import (
    ContainerUsage,
    Identity,
    Limits,
    ProcessUsage,
)
from feedwater.relay.views import DecisionView, EpochView, Evidence, LoaderView, PodView, WorkerMemory
from feedwater.v1 import feedwater_pb2 as pb
from feedwater.v1 import feedwater_pb2_grpc as pb_grpc
from feedwater.values import (
    Answer,
    EpochSummary,
    LoaderDescription,
    LoaderSettings,
    Mode,
    Outcome,
    Prediction,
    Recommendation,
    WhatIf,
)

if TYPE_CHECKING:
    import grpc

ReportRequest = pb.ReportRequest
ReportAppliedRequest = pb.ReportAppliedRequest
RegisterLoaderRequest = pb.RegisterLoaderRequest
RegisterLoaderResponse = pb.RegisterLoaderResponse
GetRecommendationRequest = pb.GetRecommendationRequest
GetRecommendationResponse = pb.GetRecommendationResponse
WatchResponse = pb.WatchResponse

Built = TypeVar("Built", bound=Message)
Filled = TypeVar("Filled", pb.Limits, pb.ContainerUsage, pb.ProcessUsage)
Read = TypeVar("Read", Limits, ContainerUsage, WorkerMemory)

DATASET_KINDS = {
    "map": pb.DATASET_KIND_MAP,
    "iterable": pb.DATASET_KIND_ITERABLE,
    "none": pb.DATASET_KIND_NONE,
}


def stub(channel: grpc.Channel) -> pb_grpc.FeedwaterServiceStub:
    """Return the service's methods over ``channel``."""
    return pb_grpc.FeedwaterServiceStub(channel)


def register_loader_request(
    identity: Identity, description: LoaderDescription, limits: Limits
) -> RegisterLoaderRequest:
    """Return the request that makes a loader known."""
    return pb.RegisterLoaderRequest(
        identity=pb.Identity(**{f.name: getattr(identity, f.name) for f in fields(identity)}),
        loader=description.name,
        settings=settings_message(description.settings),
        mode=pb.Mode.Value(f"MODE_{description.mode.name}"),
        dataset_kind=DATASET_KINDS.get(description.dataset_kind, pb.DATASET_KIND_UNSPECIFIED),
        batch_size=description.batch_size,
        batches_per_epoch=description.batches_per_epoch,
        start_method=description.start_method,
        can_apply=description.can_apply,
        uses_cuda=description.uses_cuda,
        label=description.label,
        shards=description.shards,
        limits=_fill(pb.Limits(), limits),
    )


def mode(reply: RegisterLoaderResponse) -> Mode | None:
    """Return the mode that policy allows; None where the sidecar does not state it."""
    name = _mode_name(reply.mode)
    return Mode(name) if name else None


def batches(
    *,
    epoch: int,
    first: int,
    start_seconds: float,
    wait_seconds: Sequence[float],
    step_seconds: Sequence[float],
    ready: Sequence[int],
) -> pb.Batches | None:
    """Return consecutive batches of one epoch, as columns of one length; None if a number is out of range.

    Args:
        epoch: Number of the epoch.
        first: Ordinal within the epoch of the first batch.
        start_seconds: When the first batch was asked for.
        wait_seconds: Shape (batches,): time that ``next()`` blocked.
        step_seconds: Shape (batches,): time from getting a batch to asking for the next.
        ready: Shape (batches,) or empty: batches ready after each wait, -1 where not read.
    """
    return _in_range(
        pb.Batches,
        epoch=epoch,
        first=first,
        start_seconds=start_seconds,
        wait_seconds=wait_seconds,
        step_seconds=step_seconds,
        ready=ready,
    )


def worker_loads(
    *,
    epoch: int,
    worker: int,
    pid: int,
    start_seconds: Sequence[float],
    load_seconds: Sequence[float],
    cpu_seconds: Sequence[float],
    run_delay_seconds: Sequence[float],
    batch_bytes: Sequence[int],
    batch_tensors: Sequence[int],
) -> pb.WorkerLoads | None:
    """Return batches that one worker made, as columns of one length; None if a number is out of range."""
    return _in_range(
        pb.WorkerLoads,
        epoch=epoch,
        worker=worker,
        pid=pid,
        start_seconds=start_seconds,
        load_seconds=load_seconds,
        cpu_seconds=cpu_seconds,
        run_delay_seconds=run_delay_seconds,
        batch_bytes=batch_bytes,
        batch_tensors=batch_tensors,
    )


def device_steps(
    *, epoch: int, batch: Sequence[int], idle_seconds: Sequence[float], busy_seconds: Sequence[float]
) -> pb.DeviceSteps | None:
    """Return sampled steps of one epoch, as columns of one length; None if a number is out of range."""
    return _in_range(
        pb.DeviceSteps, epoch=epoch, batch=batch, idle_seconds=idle_seconds, busy_seconds=busy_seconds
    )


def epoch_begin(
    *,
    epoch: int,
    stamp_seconds: float,
    settings: LoaderSettings,
    iter_seconds: float,
) -> pb.EpochBegin | None:
    """Return the begin of an epoch, whose ``iter()`` was called at the stamp; None if out of range."""
    return _in_range(
        pb.EpochBegin,
        epoch=epoch,
        stamp_seconds=stamp_seconds,
        settings=settings_message(settings),
        iter_seconds=iter_seconds,
    )


def epoch_end(
    *, epoch: int, stamp_seconds: float, batches: int, complete: bool, teardown_seconds: float
) -> pb.EpochEnd | None:
    """Return the end of an epoch; None if a number is out of range."""
    return _in_range(
        pb.EpochEnd,
        epoch=epoch,
        stamp_seconds=stamp_seconds,
        batches=batches,
        complete=complete,
        teardown_seconds=teardown_seconds,
    )


def add_readings(
    report: ReportRequest,
    container: ContainerUsage,
    processes: Sequence[ProcessUsage],
    limits: Limits | None,
    drops: Mapping[str, int],
) -> None:
    """Add to a report what was read of the container and its processes, and how many batches were lost.

    Args:
        report: The report that holds the timings.
        container: The container at this moment.
        processes: The trainer and its workers.
        limits: None where they are those of an earlier report.
        drops: Totals by cause: ``RING_OVERRUN``, ``WORKER_RING_OVERRUN``, ``BUFFER_FULL``, ``REFUSED``.

    Raises:
        ValueError: A number is out of range.
    """
    _fill(report.container, container)
    for usage in processes:
        _fill(report.processes.add(), usage)
    if limits is not None:
        _fill(report.limits, limits)
    for cause, total in drops.items():
        report.drops.add(cause=pb.DropCause.Value(f"DROP_CAUSE_{cause}"), total=total)


def batch_count(report: ReportRequest) -> int:
    """Return how many batches a report holds."""
    return sum(len(run.wait_seconds) for run in report.batches)


def report_applied_request(
    recommendation_id: str, outcome: Outcome, settings: LoaderSettings, detail: str
) -> ReportAppliedRequest:
    """Return the request that states what became of a recommendation."""
    return pb.ReportAppliedRequest(
        recommendation_id=recommendation_id,
        outcome=pb.Outcome.Value(f"OUTCOME_{outcome.name}"),
        settings=settings_message(settings),
        detail=detail,
    )


def get_recommendation_request(
    loader_id: str, epoch: int, end_sequence: int, preview: bool = False
) -> GetRecommendationRequest:
    """Return the request for the recommendation made from ``epoch`` and the reports up to ``end_sequence``.

    Args:
        loader_id: The sidecar's name of the loader.
        epoch: The epoch that ended; with ``preview`` the running one.
        end_sequence: Number of the last report.
        preview: Ask about a running epoch, without a decision.
    """
    return pb.GetRecommendationRequest(
        loader_id=loader_id, epoch=epoch, end_sequence=end_sequence, preview=preview
    )


def answer(reply: GetRecommendationResponse) -> Answer:
    """Return the sidecar's answer without mode and address."""
    if reply.WhichOneof("answer") == "recommendation":
        return Answer(recommendation=recommendation(reply.recommendation), connected=True)
    reason = reply.none.message or _reason_code(reply.none.reason) or "The sidecar does not say why."
    return Answer(reason=reason, connected=True)


def recommendation(message: pb.Recommendation) -> Recommendation:
    """Return a recommendation as far as the training process needs it."""
    return Recommendation(
        id=message.id,
        epoch=message.epoch,
        settings=settings(message.settings),
        verdict=verdict_name(message.verdict),
        sentence=message.sentence,
        changes=message.changes,
        rolls_back=message.rolls_back,
        batches_per_second=message.chosen.batches_per_second,
        batches_per_second_now=message.current.batches_per_second,
        advice=tuple(message.advice),
        curve=tuple(map(prediction, message.curve)),
        what_if=tuple(WhatIf(w.cpu_limit_cores, prediction(w.best)) for w in message.what_if),
        action=message.action,
        cause=message.cause,
        advice_topics=tuple(message.advice_topics),
        cpu_limit_needed_cores=(
            message.cpu_limit_needed_cores if message.HasField("cpu_limit_needed_cores") else None
        ),
    )


def prediction(message: pb.Prediction) -> Prediction:
    """Return the prediction for one setting."""
    return Prediction(
        settings=settings(message.settings),
        batches_per_second=message.batches_per_second,
        batches_per_second_lower=message.batches_per_second_lower,
        batches_per_second_upper=message.batches_per_second_upper,
        starvation=message.starvation,
        memory_bytes=message.memory_bytes if message.HasField("memory_bytes") else None,
        shm_bytes=message.shm_bytes if message.HasField("shm_bytes") else None,
    )


def settings_message(settings: LoaderSettings) -> pb.LoaderSettings:
    """Return the message of loader settings."""
    return pb.LoaderSettings(
        num_workers=settings.num_workers,
        prefetch_factor=settings.prefetch_factor,
        persistent_workers=settings.persistent_workers,
        pin_memory=settings.pin_memory,
        in_order=settings.in_order,
    )


def settings(message: pb.LoaderSettings) -> LoaderSettings:
    """Return the loader settings in a message."""
    return LoaderSettings(
        num_workers=message.num_workers,
        prefetch_factor=message.prefetch_factor if message.HasField("prefetch_factor") else None,
        persistent_workers=message.persistent_workers,
        pin_memory=message.pin_memory,
        in_order=message.in_order if message.HasField("in_order") else None,
    )


def verdict_name(value: pb.Verdict.ValueType) -> str:
    """Return the name of a verdict, ``UNKNOWN`` for one that only a newer sidecar knows."""
    name = pb.Verdict.Name(value).removeprefix("VERDICT_") if value in pb.Verdict.values() else "UNKNOWN"
    return "UNKNOWN" if name == "UNSPECIFIED" else name


def epoch_summary(message: pb.EpochSummary) -> EpochSummary:
    """Return one epoch in the sidecar's state."""
    return EpochSummary(
        epoch=message.epoch,
        settings=settings(message.settings),
        batches=message.batches,
        seconds=message.seconds,
        wait_seconds=message.wait_seconds,
        step_seconds=message.step_seconds,
        start_up_seconds=message.start_up_seconds,
        complete=message.complete,
        verdict=verdict_name(message.verdict),
        device_starvation=message.device_starvation if message.HasField("device_starvation") else None,
    )


def watch_request(interval_seconds: float = 0.0) -> pb.WatchRequest:
    """Return the request for the sidecar's state, at the interval or, if that is 0, once."""
    return pb.WatchRequest(interval_seconds=interval_seconds)


def pod_view(reply: WatchResponse) -> PodView:
    """Return the sidecar's state."""
    return PodView(tuple(map(_view, reply.loaders)), reply.version, reply.time_seconds or None)


def _view(state: pb.LoaderState) -> LoaderView:
    recommended = state.recommendation if state.HasField("recommendation") else None
    return LoaderView(
        loader=state.loader,
        job=state.identity.job,
        namespace=state.identity.namespace,
        pod=state.identity.pod,
        rank=state.identity.rank,
        mode=_mode_name(state.mode),
        settings=settings(state.settings),
        limits=_present(Limits, state.limits),
        connected=state.connected,
        epochs=tuple(_epoch_view(epoch, state.loader) for epoch in state.epochs),
        recommendation=recommendation(recommended) if recommended is not None else None,
        reason=state.none.message if state.HasField("none") else "",
        outcome=_outcome_name(state.outcome),
        uses_cuda=state.uses_cuda,
        uncapped_num_workers=recommended.uncapped_num_workers if recommended is not None else None,
        evidence=tuple(Evidence(e.name, e.value, e.text) for e in state.recommendation.evidence),
        container=_present(ContainerUsage, state.container) if state.HasField("container") else None,
        workers=tuple(_present(WorkerMemory, memory) for memory in state.workers),
        recent_wait_seconds=tuple(state.recent.wait_seconds),
        recent_step_seconds=tuple(state.recent.step_seconds),
        decisions=tuple(map(_decision_view, state.decisions)),
        last_seen_seconds=state.last_seen_seconds or None,
        stalled_seconds=state.stalled_seconds if state.HasField("stalled_seconds") else None,
        frozen=state.frozen,
        initial_settings=settings(state.initial_settings) if state.HasField("initial_settings") else None,
        batches_per_epoch=state.batches_per_epoch if state.HasField("batches_per_epoch") else None,
        label=state.label,
        reason_code=_reason_code(state.none.reason) if state.HasField("none") else "",
    )


def _epoch_view(message: pb.EpochSummary, loader: str) -> EpochView:
    return EpochView(
        summary=replace(epoch_summary(message), loader=loader),
        cpu_used_cores=message.cpu_used_cores if message.HasField("cpu_used_cores") else None,
        throttled_ratio=message.throttled_ratio if message.HasField("throttled_ratio") else None,
    )


def _decision_view(message: pb.DecisionRecord) -> DecisionView:
    return DecisionView(
        epoch=message.epoch,
        before=settings(message.before),
        settings=settings(message.settings) if message.HasField("settings") else None,
        verdict=verdict_name(message.verdict),
        sentence=message.sentence,
        outcome=_outcome_name(message.outcome),
        detail=message.detail,
        rolls_back=message.rolls_back,
    )


def _reason_code(value: pb.NoRecommendationReason.ValueType) -> str:
    known = value in pb.NoRecommendationReason.values()
    name = pb.NoRecommendationReason.Name(value).removeprefix("NO_RECOMMENDATION_REASON_") if known else ""
    return "" if name == "UNSPECIFIED" else name


def _outcome_name(value: pb.Outcome.ValueType) -> str:
    name = pb.Outcome.Name(value) if value in pb.Outcome.values() else "OUTCOME_UNSPECIFIED"
    return "" if name == "OUTCOME_UNSPECIFIED" else name.removeprefix("OUTCOME_").lower()


def _present(kind: type[Read], message: Message) -> Read:
    # An absent field stays None: unknown, not zero. A number without presence that is not listed is 0.
    listed = {descriptor.name: value for descriptor, value in message.ListFields()}
    required = {f.name: 0 for f in fields(kind) if f.default is MISSING}
    return kind(**required | {f.name: listed[f.name] for f in fields(kind) if f.name in listed})


def _mode_name(value: pb.Mode.ValueType) -> str:
    name = pb.Mode.Name(value).removeprefix("MODE_").lower() if value in pb.Mode.values() else ""
    return name if name in {mode.value for mode in Mode} else ""


def _in_range(kind: Callable[..., Built], **values: object) -> Built | None:
    try:
        return kind(**values)
    except (ValueError, TypeError, OverflowError):
        # A torn store in the ring leaves a number that the field's type cannot hold, such as a negative size.
        return None


def _fill(message: Filled, value: Limits | ContainerUsage | ProcessUsage) -> Filled:
    # None stays absent: unknown, not zero.
    for f in fields(value):
        number = getattr(value, f.name)
        if number is not None:
            setattr(message, f.name, number)
    return message
