"""The wire format on the client's side: the only importer of the generated code."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import Message

from feedwater.relay.measurements import (
    Batches,
    ContainerUsage,
    DecisionView,
    DeviceSteps,
    EpochBegin,
    EpochEnd,
    EpochView,
    Evidence,
    Identity,
    Limits,
    LoaderView,
    PodView,
    ProcessUsage,
    Registration,
    Report,
    WorkerLoads,
    WorkerMemory,
)
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

ReportMessage = pb.ReportRequest
AppliedMessage = pb.ReportAppliedRequest
RegisterMessage = pb.RegisterLoaderRequest
RegisterReply = pb.RegisterLoaderResponse
RecommendationMessage = pb.GetRecommendationRequest
RecommendationReply = pb.GetRecommendationResponse
WatchReply = pb.WatchResponse

Filled = TypeVar("Filled", pb.Limits, pb.ContainerUsage, pb.ProcessUsage)
Read = TypeVar("Read", Limits, ContainerUsage, WorkerMemory)

DATASET_KINDS = {
    "map": pb.DATASET_KIND_MAP,
    "iterable": pb.DATASET_KIND_ITERABLE,
    "none": pb.DATASET_KIND_NONE,
}


def stub(channel: grpc.Channel) -> pb_grpc.FeedwaterServiceStub:
    """Return the service's calls over ``channel``."""
    return pb_grpc.FeedwaterServiceStub(channel)


def register_message(
    identity: Identity, description: LoaderDescription, limits: Limits, version: str
) -> RegisterMessage:
    """Return the request that makes a loader known."""
    return pb.RegisterLoaderRequest(
        identity=pb.Identity(
            **{f.name: getattr(identity, f.name) for f in fields(identity) if f.name != "python_version"}
        ),
        loader=description.name,
        settings=settings_message(description.settings),
        mode=pb.Mode.Value(f"MODE_{description.mode.name}"),
        dataset_kind=DATASET_KINDS.get(description.dataset_kind, pb.DATASET_KIND_UNSPECIFIED),
        dataset_length=description.dataset_length,
        batch_size=description.batch_size,
        batches_per_epoch=description.batches_per_epoch,
        start_method=description.start_method,
        can_apply=description.can_apply,
        uses_cuda=description.uses_cuda,
        label=description.label,
        shards=description.shards,
        limits=_limits(limits),
        versions=pb.Versions(
            feedwater=version, torch=description.torch_version, python=identity.python_version
        ),
    )


def registration(reply: RegisterReply) -> Registration:
    """Return what the sidecar answered to a registration."""
    return Registration(reply.loader_id, _mode_name(reply.mode), reply.accepted_sequence)


def report_message(report: Report) -> ReportMessage:
    """Return a report on the wire; loader and sequence are filled in when it is sent."""
    message = pb.ReportRequest(
        begins=[_begin(begin) for begin in report.begins],
        batches=[_batches(run) for run in report.batches],
        loads=[_loads(run) for run in report.loads],
        ends=[_end(end) for end in report.ends],
        processes=[_process(usage) for usage in report.processes],
        drops=[
            pb.Drop(cause=pb.DropCause.Value(f"DROP_CAUSE_{cause}"), total=n)
            for cause, n in report.drops.items()
        ],
        last=report.last,
        device_steps=[_device_steps(steps) for steps in report.device_steps],
        uses_cuda=report.uses_cuda,
    )
    if report.container is not None:
        message.container.CopyFrom(_container(report.container))
    if report.limits is not None:
        message.limits.CopyFrom(_limits(report.limits))
    return message


def applied_message(
    recommendation_id: str, outcome: Outcome, settings: LoaderSettings, detail: str
) -> AppliedMessage:
    """Return what tells the sidecar what became of a recommendation."""
    return pb.ReportAppliedRequest(
        recommendation_id=recommendation_id,
        outcome=pb.Outcome.Value(f"OUTCOME_{outcome.name}"),
        settings=settings_message(settings),
        detail=detail,
    )


def recommendation_message(
    loader_id: str, epoch: int, end_sequence: int, preview: bool = False
) -> RecommendationMessage:
    """Return the question about ``epoch``, all of which up to report ``end_sequence`` the answer covers.

    Args:
        loader_id: The sidecar's name of the loader.
        epoch: The one that ended; with ``preview`` the one that runs.
        end_sequence: Number of the last report.
        preview: Ask what the running epoch says so far; nothing is decided.
    """
    return pb.GetRecommendationRequest(
        loader_id=loader_id, epoch=epoch, end_sequence=end_sequence, preview=preview
    )


def answer(reply: RecommendationReply) -> Answer:
    """Return the sidecar's answer without mode, summary and address."""
    if reply.WhichOneof("answer") == "recommendation":
        return Answer(recommendation=recommendation(reply.recommendation), connected=True)
    reason = reply.none.message or pb.NoRecommendationReason.Name(reply.none.reason)
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
    )


def prediction(message: pb.Prediction) -> Prediction:
    """Return what is expected of one setting."""
    return Prediction(
        settings=settings(message.settings),
        batches_per_second=message.batches_per_second,
        batches_per_second_lower=message.batches_per_second_lower,
        batches_per_second_upper=message.batches_per_second_upper,
        starvation=message.starvation,
        memory_bytes=message.memory_bytes if message.HasField("memory_bytes") else None,
        shm_bytes=message.shm_bytes if message.HasField("shm_bytes") else None,
    )


def profile_recommendation(reply: RegisterReply) -> Recommendation | None:
    """Return what the sidecar recommends from an earlier run, or None."""
    return recommendation(reply.recommendation) if reply.HasField("recommendation") else None


def settings_message(settings: LoaderSettings) -> pb.LoaderSettings:
    """Return settings on the wire."""
    return pb.LoaderSettings(
        num_workers=settings.num_workers,
        prefetch_factor=settings.prefetch_factor,
        persistent_workers=settings.persistent_workers,
        pin_memory=settings.pin_memory,
        in_order=settings.in_order,
    )


def settings(message: pb.LoaderSettings) -> LoaderSettings:
    """Return settings from the wire."""
    return LoaderSettings(
        num_workers=message.num_workers,
        prefetch_factor=message.prefetch_factor if message.HasField("prefetch_factor") else None,
        persistent_workers=message.persistent_workers,
        pin_memory=message.pin_memory,
        in_order=message.in_order if message.HasField("in_order") else None,
    )


def verdict_name(value: pb.Verdict.ValueType) -> str:
    """Return a verdict's name; a newer sidecar's unknown one is ``UNKNOWN``."""
    name = pb.Verdict.Name(value).removeprefix("VERDICT_") if value in pb.Verdict.values() else "UNKNOWN"
    return "UNKNOWN" if name == "UNSPECIFIED" else name


def epoch_summary(message: pb.EpochSummary) -> EpochSummary:
    """Return one epoch of the sidecar's state."""
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


def watch_message(interval_seconds: float = 0.0) -> pb.WatchRequest:
    """Return the request for the sidecar's state: once, or again and again."""
    return pb.WatchRequest(interval_seconds=interval_seconds)


def pod_view(reply: WatchReply) -> PodView:
    """Return the sidecar's state."""
    return PodView(tuple(map(_view, reply.loaders)), reply.version, reply.time_seconds or None)


def _view(state: pb.LoaderState) -> LoaderView:
    made = state.recommendation if state.HasField("recommendation") else None
    return LoaderView(
        loader=state.loader,
        job=state.identity.job,
        namespace=state.identity.namespace,
        pod=state.identity.pod,
        rank=state.identity.rank,
        mode=_mode_name(state.mode),
        settings=settings(state.settings),
        limits=_known(Limits, state.limits),
        connected=state.connected,
        epochs=tuple(_epoch_view(epoch, state.loader) for epoch in state.epochs),
        recommendation=recommendation(made) if made is not None else None,
        reason=state.none.message if state.HasField("none") else "",
        outcome=_outcome_name(state.outcome),
        uses_cuda=state.uses_cuda,
        uncapped_num_workers=made.uncapped_num_workers if made is not None else None,
        evidence=tuple(Evidence(e.name, e.value, e.text) for e in made.evidence) if made is not None else (),
        container=_known(ContainerUsage, state.container) if state.HasField("container") else None,
        workers=tuple(_known(WorkerMemory, memory) for memory in state.workers),
        recent_wait_seconds=tuple(state.recent.wait_seconds),
        recent_step_seconds=tuple(state.recent.step_seconds),
        decisions=tuple(map(_decision_view, state.decisions)),
        last_seen_seconds=state.last_seen_seconds or None,
        stalled_seconds=state.stalled_seconds if state.HasField("stalled_seconds") else None,
        frozen=state.frozen,
        initial_settings=settings(state.initial_settings) if state.HasField("initial_settings") else None,
        batches_per_epoch=state.batches_per_epoch if state.HasField("batches_per_epoch") else None,
        label=state.label,
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


def _outcome_name(value: pb.Outcome.ValueType) -> str:
    name = pb.Outcome.Name(value) if value in pb.Outcome.values() else "OUTCOME_UNSPECIFIED"
    return "" if name == "OUTCOME_UNSPECIFIED" else name.removeprefix("OUTCOME_").lower()


def _known(kind: type[Read], message: Message) -> Read:
    # What is absent stays None: unknown, not zero. Numbers without presence are 0 where they are not listed.
    listed = {descriptor.name: value for descriptor, value in message.ListFields()}
    required = {f.name: 0 for f in fields(kind) if f.default is MISSING}
    return kind(**required | {f.name: listed[f.name] for f in fields(kind) if f.name in listed})


def _mode_name(value: pb.Mode.ValueType) -> str:
    name = pb.Mode.Name(value).removeprefix("MODE_").lower() if value in pb.Mode.values() else ""
    return name if name in {mode.value for mode in Mode} else ""


def _begin(begin: EpochBegin) -> pb.EpochBegin:
    return pb.EpochBegin(
        epoch=begin.epoch,
        stamp_seconds=begin.stamp_seconds,
        settings=settings_message(begin.settings),
        iter_seconds=begin.iter_seconds,
        worker_pids=begin.worker_pids,
    )


def _end(end: EpochEnd) -> pb.EpochEnd:
    return pb.EpochEnd(**{f.name: getattr(end, f.name) for f in fields(end)})


def _batches(run: Batches) -> pb.Batches:
    return pb.Batches(**{f.name: getattr(run, f.name) for f in fields(run)})


def _loads(run: WorkerLoads) -> pb.WorkerLoads:
    return pb.WorkerLoads(**{f.name: getattr(run, f.name) for f in fields(run)})


def _device_steps(steps: DeviceSteps) -> pb.DeviceSteps:
    return pb.DeviceSteps(**{f.name: getattr(steps, f.name) for f in fields(steps)})


def _limits(limits: Limits) -> pb.Limits:
    return _filled(pb.Limits(), limits)


def _container(usage: ContainerUsage) -> pb.ContainerUsage:
    return _filled(pb.ContainerUsage(), usage)


def _process(usage: ProcessUsage) -> pb.ProcessUsage:
    return _filled(pb.ProcessUsage(), usage)


def _filled(message: Filled, value: Limits | ContainerUsage | ProcessUsage) -> Filled:
    # What is None stays absent: unknown, not zero.
    for f in fields(value):
        number = getattr(value, f.name)
        if number is not None:
            setattr(message, f.name, number)
    return message
