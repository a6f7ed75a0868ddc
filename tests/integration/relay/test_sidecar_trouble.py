"""Sidecar absent, hanging, restarted, refusing, or another program: nothing that is held is lost."""

from __future__ import annotations

import time
from concurrent import futures

import grpc

from feedwater.v1 import feedwater_pb2 as pb
from feedwater.v1 import feedwater_pb2_grpc as pb_grpc


def test_absent_sidecar_is_answered_for_at_once_with_its_address(absent, loop):
    """No connection and no recommendation; well within 30 s of deadline."""
    loop.open()
    begun = time.monotonic()
    answer = loop.run_epoch()
    assert time.monotonic() - begun < 15
    assert (answer.connected, answer.late, answer.recommendation) == (False, False, None)
    assert absent.address in answer.reason


def test_sidecar_that_comes_later_gets_all_that_was_held(absent, loop, eventually):
    """Two epochs of 10 batches without a sidecar arrive when it starts."""
    loop.open()
    loop.run_epoch(10)
    loop.run_epoch(10)
    absent.start()
    try:
        eventually(lambda: (len(absent.waits(0)), len(absent.waits(1))) == (10, 10))
    finally:
        absent.stop()


def test_boundary_right_after_the_sidecar_came_back_is_answered(absent, loop):
    """The relay notices at the question itself, not at its next try."""
    loop.open()
    loop.run_epoch()
    absent.start()
    try:
        assert loop.run_epoch().connected
    finally:
        absent.stop()


def test_hanging_sidecar_costs_the_deadline_once(sidecar, loop):
    """The first question waits for its 0.5 s, the second not for its 60 s: both are late, none is absent."""
    sidecar.may_answer.clear()
    loop.open()
    loop.begin()
    loop.batch()
    loop.end()
    first = loop.ask(0.5)
    assert (first.connected, first.late) == (False, True)
    begun = time.monotonic()
    loop.begin()
    loop.batch()
    loop.end()
    second = loop.ask(60)
    assert (second.connected, second.late) == (False, True)
    assert time.monotonic() - begun < 30


def test_sidecar_that_hung_gets_all_when_it_goes_on(sidecar, loop, eventually):
    """Three epochs while it hung; then each batch arrives, and questions are answered again."""
    loop.open()
    loop.run_epoch(10)
    sidecar.may_answer.clear()
    for _ in range(3):
        loop.begin()
        for _ in range(10):
            loop.batch()
        loop.end()
        loop.ask(0.2)
    sidecar.may_answer.set()
    eventually(lambda: all(len(sidecar.waits(epoch)) == 10 for epoch in range(4)))
    eventually(lambda: loop.run_epoch().connected)


def test_restarted_sidecar_that_forgot_gets_the_loader_and_what_is_held(sidecar, loop):
    """After a restart without a checkpoint the relay registers again and sends what it still holds, once."""
    loop.open()
    loop.run_epoch(10)
    loop.run_epoch(10)
    sidecar.stop()
    sidecar.forget()
    sidecar.received.clear()
    sidecar.start()
    assert loop.run_epoch(10).connected
    assert len(sidecar.registered) == 2
    assert [len(sidecar.waits(epoch)) for epoch in range(3)] == [10, 10, 10]
    assert len(sidecar.received) == len(sidecar.reports)


def test_restarted_sidecar_with_a_checkpoint_gets_only_what_follows(sidecar, loop):
    """A sidecar that kept the reports up to a number is sent those after it, with their numbers."""
    loop.open()
    loop.run_epoch(10)
    kept = max(sidecar.reports)
    loop.run_epoch(10)
    sidecar.stop()
    sidecar.forget(accepted=kept)
    sidecar.received.clear()
    sidecar.start()
    loop.run_epoch(10)
    assert min(sidecar.reports) == kept + 1
    assert [len(sidecar.waits(epoch)) for epoch in range(3)] == [0, 10, 10]


def test_refused_report_is_counted_and_does_not_block_the_next(sidecar, loop):
    """One report of an epoch is refused: the loss is told, and later epochs arrive."""
    loop.open()
    loop.run_epoch(10)
    sidecar.refuse_reports = 1
    loop.begin()
    for _ in range(10):
        loop.batch()
    loop.end()
    loop.ask()
    loop.run_epoch(10)
    loop.run_epoch(10)
    lost = 10 - len(sidecar.waits(1))
    assert sidecar.drops().get(pb.DROP_CAUSE_REFUSED, 0) == lost
    assert len(sidecar.waits(3)) == 10


def test_program_that_is_no_feedwater_sidecar_is_left_alone(absent, loop):
    """A gRPC server without the service answers UNIMPLEMENTED: no recommendation, and the reason says so."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_insecure_port(absent.address)
    server.start()
    try:
        loop.open()
        answer = loop.run_epoch()
    finally:
        server.stop(0).wait()
    assert not answer.connected
    assert "another version" in answer.reason


def test_sidecar_on_loopback_tcp_is_reached(absent, new_loop):
    """An address of the form host:port works as a Unix socket does."""
    server = grpc.server(futures.ThreadPoolExecutor(4))
    pb_grpc.add_FeedwaterServiceServicer_to_server(absent, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    loop = new_loop(f"127.0.0.1:{port}")
    try:
        loop.open()
        assert loop.run_epoch().connected
    finally:
        server.stop(0).wait()
