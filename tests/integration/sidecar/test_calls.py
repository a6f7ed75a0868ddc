"""The calls over a real socket: counted once, refused with the right status, answered alike for all ranks."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc
import pytest
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc

from feedwater.v1 import feedwater_pb2 as pb

if TYPE_CHECKING:
    from tests.integration.sidecar.conftest import Client, Process


def _spoil(message: pb.ReportRequest, how: str) -> pb.ReportRequest:
    if how == "unequal arrays":
        message.batches[0].step_seconds.append(1)
    elif how == "negative":
        message.batches[0].wait_seconds[0] = -1
    elif how == "not finite":
        message.loads[0].cpu_seconds[0] = math.nan
    elif how == "absurd count":
        message.ends.add(epoch=0, batches=1 << 60)
    elif how == "unknown loader":
        message.loader_id = "0" * 16
    return message


@pytest.mark.parametrize(
    ("how", "code", "cause"),
    [
        ("unequal arrays", grpc.StatusCode.INVALID_ARGUMENT, "malformed"),
        ("negative", grpc.StatusCode.INVALID_ARGUMENT, "malformed"),
        ("not finite", grpc.StatusCode.INVALID_ARGUMENT, "malformed"),
        ("absurd count", grpc.StatusCode.INVALID_ARGUMENT, "malformed"),
        ("unknown loader", grpc.StatusCode.NOT_FOUND, "unknown_loader"),
    ],
)
def test_bad_report_is_refused_whole(
    sidecar: Process, connect: Callable[..., Client], how: str, code: grpc.StatusCode, cause: str
) -> None:
    """A report with one fault gets its status, is counted by cause, and leaves the state as it was."""
    client = connect()
    # Observed only: a preview of the first epoch may come at any time else.
    client.register(mode=pb.MODE_OBSERVE)
    client.report(client.message(1))
    before = client.state()
    with pytest.raises(grpc.RpcError) as refused:
        client.report(_spoil(client.message(2, first=60), how))
    assert refused.value.code() is code
    assert client.state() == before
    assert sidecar.metric(f'feedwater_rejected_calls_total{{cause="{cause}"}}') == 1
    assert client.report(client.message(2, first=60)) == 2


@pytest.mark.parametrize("size", [5 << 20, 9 << 20])
def test_oversized_report_is_refused(sidecar: Process, connect: Callable[..., Client], size: int) -> None:
    """Beyond 4 MiB a report exhausts what is taken; the sidecar goes on as before."""
    client = connect()
    client.register()
    message = client.message(1)
    message.loader_id = "x" * size
    with pytest.raises(grpc.RpcError) as refused:
        client.report(message)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert client.report(client.message(1)) == 1


def test_garbage_is_refused(sidecar: Process, connect: Callable[..., Client]) -> None:
    """Bytes that are no message of ours are an invalid argument for every call."""
    channel = connect().channel
    for call in ("RegisterLoader", "Report", "GetRecommendation", "ReportApplied"):
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(f"/feedwater.v1.FeedwaterService/{call}")(b"\xff" * 40, timeout=10)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert sidecar.metric('feedwater_rejected_calls_total{cause="malformed"}') == 4


def test_too_many_loaders_are_refused(launch: Callable[..., Process], connect: Callable[..., Client]) -> None:
    """The third loader where two are held is refused, and the two go on."""
    launch(FEEDWATER_MAX_SESSIONS="2").ready()
    client = connect()
    client.register("a")
    client.register("b")
    with pytest.raises(grpc.RpcError) as refused:
        client.register("c")
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert {state.loader for state in client.state()} == {"a", "b"}


def test_replayed_report_counts_once(sidecar: Process, connect: Callable[..., Client]) -> None:
    """A report that comes three times is answered three times and counted once."""
    client = connect()
    client.register()
    assert [client.report(client.message(1)) for _ in range(3)] == [1, 1, 1]
    assert sidecar.metric("feedwater_batches_total") == 60
    assert sidecar.metric("feedwater_replayed_reports_total") == 2
    assert client.register().accepted_sequence == 1


def test_all_ranks_get_one_decision(sidecar: Process, connect: Callable[..., Client]) -> None:
    """Two ranks of one loader, asking at once and again, get the same recommendation."""
    ranks = [connect("client-1"), connect("client-2")]
    for number, rank in enumerate(ranks):
        registration = pb.RegisterLoaderRequest(
            identity=pb.Identity(
                client_id=f"client-{number}", job="job", pod="pod", rank=number, world_size=2
            ),
            loader="train",
            settings=pb.LoaderSettings(num_workers=2, prefetch_factor=2),
            mode=pb.MODE_AUTO,
            dataset_kind=pb.DATASET_KIND_MAP,
            limits=pb.Limits(cpus=8, memory_bytes=8 << 30),
        )
        rank.loader_id = rank.stub.RegisterLoader(registration, timeout=10, wait_for_ready=True).loader_id
        rank.report(rank.message(1, end=True))
    answers: list[pb.GetRecommendationResponse] = []
    threads = [
        threading.Thread(target=lambda r=rank: answers.append(r.recommend(0, 1))) for rank in ranks * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(answers) == 4
    assert answers[0].recommendation.settings.num_workers > 2
    assert len({answer.SerializeToString() for answer in answers}) == 1


def test_question_waits_for_its_report(sidecar: Process, connect: Callable[..., Client]) -> None:
    """A question that overtakes the last report of its epoch is answered from that report.

    It waits a fifth of a second; a busy machine may take longer to report.
    """
    client = connect()
    client.register()

    def is_answered(epoch: int) -> bool:
        client.report(client.message(2 * epoch + 1, epoch=epoch))
        question = pb.GetRecommendationRequest(
            loader_id=client.loader_id, epoch=epoch, end_sequence=2 * epoch + 2
        )
        future = client.stub.GetRecommendation.future(question, timeout=30)
        client.report(client.message(2 * epoch + 2, epoch=epoch, first=60, end=True))
        return bool(future.result().recommendation.id)

    assert any(is_answered(epoch) for epoch in range(5))


def test_question_without_its_report_says_so(sidecar: Process, connect: Callable[..., Client]) -> None:
    """Where the epoch's last report never came, the answer is none, with the reason."""
    client = connect()
    client.register()
    client.report(client.message(1))
    none = client.recommend(0, 2).none
    assert none.reason == pb.NO_RECOMMENDATION_REASON_NOT_REPORTED
    assert none.message == "The reports of epoch 0 have not arrived."


def test_policy_caps_the_mode(launch: Callable[..., Process], connect: Callable[..., Client]) -> None:
    """Where policy allows `observe`, a client that asks for `auto` is told so, and nothing is recommended."""
    launch(FEEDWATER_MAX_MODE="observe").ready()
    client = connect()
    assert client.register().mode == pb.MODE_OBSERVE
    client.report(client.message(1, end=True))
    assert client.recommend(0, 1).none.reason == pb.NO_RECOMMENDATION_REASON_MODE


def test_watch_streams_until_it_is_closed(sidecar: Process, connect: Callable[..., Client]) -> None:
    """A watch shows the state at once and again, and the next one sees what was reported meanwhile."""
    client = connect()
    client.register()
    stream = client.stub.Watch(pb.WatchRequest(interval_seconds=0.2), timeout=20)
    assert not next(stream).loaders[0].epochs
    client.report(client.message(1, end=True))
    epochs = next(found for answer in stream if (found := answer.loaders[0].epochs))
    assert (epochs[0].batches, epochs[0].complete) == (60, True)
    stream.cancel()


def test_watch_keeps_the_newest_batches_when_an_epoch_begins(
    sidecar: Process, connect: Callable[..., Client]
) -> None:
    """Ten batches into the second epoch they follow the first one's 59: start-up is in neither."""
    client = connect()
    client.register()
    client.report(client.message(1, end=True))
    client.report(client.message(2, epoch=1, count=10))
    recent = client.state()[0].recent
    assert (len(recent.wait_seconds), len(recent.step_seconds)) == (59 + 9, 59 + 9)


def test_watch_remembers_what_became_of_each_decision(
    sidecar: Process, connect: Callable[..., Client]
) -> None:
    """What was said after an epoch, what it was said of and its outcome; asking again adds nothing."""
    client = connect()
    client.register()
    client.report(client.message(1, end=True))
    made = client.recommend(0, 1).recommendation
    assert client.recommend(0, 1).recommendation == made
    (record,) = client.state()[0].decisions
    assert (record.epoch, record.before.num_workers) == (0, 2)
    assert (record.settings, record.sentence) == (made.settings, made.sentence)
    assert record.outcome == pb.OUTCOME_UNSPECIFIED

    client.applied(made.id, made.settings.num_workers)
    client.report(client.message(2, epoch=1, end=True))
    client.recommend(1, 2)
    first, second = client.state()[0].decisions
    assert (first.outcome, second.epoch) == (pb.OUTCOME_APPLIED, 1)
    assert [epoch.verdict for epoch in client.state()[0].epochs] == [first.verdict, second.verdict]


def test_page_and_watch_are_told_the_same(sidecar: Process, connect: Callable[..., Client]) -> None:
    """`/api/v1/state` is a message of a watch in protobuf's JSON, but for the ids."""
    client = connect()
    client.register()
    client.report(client.message(1, end=True))
    status, headers, body = sidecar.http("/api/v1/state")
    assert (status, headers["content-type"]) == (200, "application/json")
    shown, told = list(json_format.Parse(body, pb.WatchResponse()).loaders), client.state()
    for loader in (*shown, *told):
        assert loader.loader_id
        assert loader.identity.client_id
        loader.loader_id = loader.identity.client_id = ""
    assert shown == told


def test_standard_health_serves(sidecar: Process, connect: Callable[..., Client]) -> None:
    """The standard health service says SERVING, for the whole and for our service."""
    health = health_pb2_grpc.HealthStub(connect().channel)
    for service in ("", "feedwater.v1.FeedwaterService"):
        request = health_pb2.HealthCheckRequest(service=service)
        assert health.Check(request, timeout=10).status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("on", [False, True])
def test_reflection_is_behind_its_flag(
    launch: Callable[..., Process], connect: Callable[..., Client], on: bool
) -> None:
    """Reflection lists our service where it was asked for, and is unknown elsewhere."""
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    launch(FEEDWATER_REFLECTION="true" if on else "").ready()
    stub = reflection_pb2_grpc.ServerReflectionStub(connect().channel)
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    if on:
        answer = next(iter(stub.ServerReflectionInfo(asked, timeout=10)))
        assert "feedwater.v1.FeedwaterService" in {s.name for s in answer.list_services_response.service}
    else:
        with pytest.raises(grpc.RpcError) as refused:
            next(iter(stub.ServerReflectionInfo(asked, timeout=10)))
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_loopback_tcp_serves_the_same(launch: Callable[..., Process], connect: Callable[..., Client]) -> None:
    """On a loopback port the calls are the same; the log says which port was picked."""
    process = launch(FEEDWATER_LISTEN="127.0.0.1:0").ready()
    port = process.log.partition(" and 127.0.0.1:")[2].partition(",")[0]
    client = connect(address=f"127.0.0.1:{port}")
    client.register()
    assert client.report(client.message(1)) == 1
