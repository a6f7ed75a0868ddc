"""What the relay tells the sidecar of a loader's epochs, over real gRPC."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from feedwater import ring
from feedwater.settings import Settings
from feedwater.v1 import feedwater_pb2 as pb
from feedwater.values import LoaderSettings, Mode, Outcome


def test_registration_says_who_reports_and_what_the_loader_is(sidecar, loop):
    """Identity, settings, mode, batch size and limits arrive with the first call."""
    loop.open(Mode.ADVISE)
    loop.run_epoch()
    request = sidecar.registered[0]
    assert (request.loader, request.mode, request.batch_size) == ("train", pb.MODE_ADVISE, 4)
    assert (request.identity.job, request.identity.pod, request.identity.rank) == ("job-a", "pod-a", 3)
    assert request.identity.trainer_pid == os.getpid()
    assert request.settings.num_workers == 2
    assert request.limits.cpus == len(os.sched_getaffinity(0))
    assert not request.HasField("versions")


def test_every_batch_of_every_epoch_arrives_once_with_its_wait_and_step(sidecar, loop):
    """3 epochs of 40 batches: 40 waits of 3 ms and 40 steps of 5 ms each, also those that end an epoch."""
    loop.open()
    for _ in range(3):
        loop.run_epoch(40)
    for epoch in range(3):
        assert sidecar.waits(epoch) == pytest.approx([0.003] * 40)
        # The last step of an epoch lasts until the call that ended it: 5 ms, the 2 ms of teardown apart.
        assert sidecar.steps(epoch) == pytest.approx([0.005] * 40)
    assert [(end.epoch, end.batches, end.complete) for end in sidecar.ends()] == [
        (0, 40, True),
        (1, 40, True),
        (2, 40, True),
    ]


def test_reports_of_an_epoch_under_way_do_not_wait_for_its_end(sidecar, loop, eventually):
    """All but the newest batch, whose step is not over, arrive while the epoch runs."""
    loop.open()
    loop.begin()
    for _ in range(20):
        loop.batch()
    eventually(lambda: len(sidecar.waits(0)) == 19)
    assert not sidecar.ends()


def test_ready_batches_arrive_with_minus_one_where_not_read(sidecar, loop):
    """A queue depth read after one wait of three is told for that one alone."""
    loop.open()
    loop.begin()
    loop.batch()
    loop.batch(ready=7)
    loop.batch()
    loop.end()
    loop.ask()
    runs = [run for report in sidecar.received for run in report.batches]
    # A run in which none was read says so by an empty list.
    assert [n for run in runs for n in list(run.ready) or [-1] * len(run.wait_seconds)] == [-1, 7, -1]


def test_worker_loads_arrive_by_worker_with_cpu_time_and_run_delay(sidecar, loop):
    """Two workers' batches: wall 8 and 6 ms, CPU 2 ms, run delay 0.5 ms."""
    loop.open()
    loop.begin()
    start = time.perf_counter_ns()
    loop.load(0, start, 8.0, 2.0, pid=41)
    loop.load(1, start, 6.0, 2.0, pid=42)
    loop.batch()
    loop.end()
    loop.ask()
    first, second = sorted(sidecar.loads(0), key=lambda run: run.worker)
    assert (first.worker, first.pid, second.worker, second.pid) == (0, 41, 1, 42)
    assert list(first.load_seconds) == pytest.approx([0.008])
    assert list(second.load_seconds) == pytest.approx([0.006])
    assert list(first.cpu_seconds) == pytest.approx([0.002])
    assert list(first.run_delay_seconds) == pytest.approx([0.0005])
    assert (list(first.batch_bytes), list(first.batch_tensors)) == ([4096], [2])


def test_loads_that_a_persistent_worker_finished_late_belong_to_the_epoch_before(sidecar, loop):
    """A load that started before this epoch's iter() is told as the former epoch's."""
    loop.open()
    loop.begin()
    during_epoch_0 = time.perf_counter_ns()
    loop.batch()
    loop.end()
    loop.begin()
    loop.load(0, during_epoch_0, 1.0, 1.0)
    loop.load(0, time.perf_counter_ns(), 1.0, 1.0)
    loop.batch()
    loop.end()
    loop.ask()
    assert [len(run.load_seconds) for run in sidecar.loads(0)] == [1]
    assert [len(run.load_seconds) for run in sidecar.loads(1)] == [1]


def test_at_zero_workers_the_main_process_counts_as_worker_zero(sidecar, loop):
    """Loads of the main process are read from the first ring."""
    loop.open()
    loop.begin(settings=LoaderSettings(0))
    loop.load(0, time.perf_counter_ns(), 4.0, 4.0)
    loop.batch()
    loop.end()
    loop.ask()
    assert [(run.worker, len(run.load_seconds)) for run in sidecar.loads(0)] == [(0, 1)]


def test_container_and_processes_are_sampled(sidecar, loop):
    """The first report holds the container's use, and the trainer's and its worker's memory and CPU time."""
    loop.open()
    loop.begin(worker_pids=(os.getppid(),))
    loop.batch()
    loop.end()
    loop.ask()
    first = sidecar.reports[1]
    assert first.container.memory_bytes > 0
    assert first.container.stamp_seconds == pytest.approx(time.monotonic(), abs=60)
    trainer, worker = first.processes
    assert (trainer.pid, trainer.HasField("worker")) == (os.getpid(), False)
    assert (worker.pid, worker.worker) == (os.getppid(), 0)
    assert trainer.rss_bytes > 1 << 20
    # Of the thread that iterates; each load of a worker states its own.
    assert (trainer.HasField("run_delay_seconds"), worker.HasField("run_delay_seconds")) == (True, False)


def test_what_a_worker_used_before_its_first_load_arrives_with_its_reading(sidecar, loop):
    """0.3 s of CPU that its ring states for its own pid; nothing for the trainer."""
    loop.open()
    words = ring.worker_ring_words(loop.words, 0)
    words[1], words[2] = os.getppid(), 300_000_000
    loop.begin(worker_pids=(os.getppid(),))
    loop.batch()
    loop.end()
    loop.ask()
    trainer, worker = sidecar.reports[1].processes
    assert not trainer.HasField("boot_cpu_seconds")
    assert worker.boot_cpu_seconds == pytest.approx(0.3)


def test_answer_covers_exactly_the_epoch_that_ended(sidecar, loop):
    """The question names the epoch and the report that ended it, which has arrived before."""
    loop.open()
    loop.run_epoch()
    question = sidecar.asked[-1]
    assert question.epoch == 0
    assert any(end.epoch == 0 for end in sidecar.reports[question.end_sequence].ends)


def test_recommendation_reaches_the_loop_with_mode_and_address(sidecar, loop):
    """Settings, verdict and sentence arrive; 10 waits of 3 ms and 10 steps of 5 ms had arrived before."""
    sidecar.recommended = pb.Recommendation(
        id="r1",
        epoch=0,
        settings=pb.LoaderSettings(num_workers=4, prefetch_factor=3),
        verdict=pb.VERDICT_TOO_FEW_WORKERS,
        sentence="4 workers.",
        changes=True,
        advice=["Raise the CPU limit."],
        chosen=pb.Prediction(batches_per_second=120),
    )
    loop.open()
    answer = loop.run_epoch(10)
    made = answer.recommendation
    assert made is not None
    assert (made.id, made.settings, made.verdict) == ("r1", LoaderSettings(4, 3), "TOO_FEW_WORKERS")
    assert (made.sentence, made.advice) == ("4 workers.", ("Raise the CPU limit.",))
    assert made.batches_per_second == 120
    assert (answer.connected, answer.mode, answer.address) == (True, Mode.AUTO, sidecar.address)
    assert sum(sidecar.waits(0)) == pytest.approx(10 * 0.003)
    assert sum(sidecar.steps(0)) == pytest.approx(10 * 0.005)
    (begin,) = [begin for report in sidecar.received for begin in report.begins]
    assert begin.iter_seconds == pytest.approx(0.010)


def test_no_recommendation_arrives_as_its_reason(sidecar, loop):
    """The sidecar's sentence is the reason, and the connection counts as there."""
    loop.open()
    answer = loop.run_epoch()
    assert (answer.recommendation, answer.reason) == (None, "Too few batches were seen.")
    assert answer.connected


def test_outcome_arrives_before_the_epoch_it_took_effect_in(sidecar, loop):
    """What was applied is told between the epoch that ended and the next begin."""
    loop.open()
    loop.run_epoch()
    sidecar.order.clear()
    loop.transport.report_applied(1, "r1", Outcome.APPLIED, LoaderSettings(4, 2), "")
    loop.run_epoch()
    assert sidecar.order.index("applied") < sidecar.order.index("begin")
    assert (sidecar.applied[0].recommendation_id, sidecar.applied[0].outcome) == ("r1", pb.OUTCOME_APPLIED)
    assert sidecar.applied[0].settings.num_workers == 4


def test_abandoned_epoch_is_told_as_incomplete(sidecar, loop):
    """A loop that breaks after 5 batches leaves an epoch of 5, not complete."""
    loop.open()
    loop.begin()
    for _ in range(5):
        loop.batch()
    loop.end(complete=False)
    loop.ask()
    assert [(end.batches, end.complete) for end in sidecar.ends()] == [(5, False)]


def test_overwritten_batches_are_counted_as_lost(sidecar, loop, eventually):
    """20,000 batches stored at once in a ring of 8,192: what the relay did not see is told as dropped."""
    loop.open()
    loop.begin()
    for _ in range(20_000):
        loop.batch(0.001, 0.001)
    loop.end()
    loop.ask()
    received = len(sidecar.waits(0))
    assert sidecar.ends()[0].batches == 20_000
    loop.run_epoch()
    assert sidecar.drops().get(pb.DROP_CAUSE_RING_OVERRUN, 0) == 20_000 - received


def test_loaders_of_one_process_are_told_apart(sidecar, loop):
    """Two loaders, two registrations; batches of one are not the other's."""
    from feedwater import ring
    from feedwater.values import LoaderDescription

    loop.open()
    other_fd, _ = ring.create()
    described = LoaderDescription("valid", LoaderSettings(0), Mode.AUTO, "map")
    loop.transport.register_loader(2, described, other_fd)
    loop.run_epoch(10)
    loop.transport.begin_epoch(2, 0, LoaderSettings(0), 0.0, (), 0, 0)
    loop.transport.end_epoch(2, 0, 0, True, 0.0, time.perf_counter_ns())
    loop.transport.get_recommendation(2, 0, 10.0)
    os.close(other_fd)
    assert {request.loader for request in sidecar.registered} == {"train", "valid"}
    of_other = [report for report in sidecar.received if report.loader_id == "valid"]
    assert [end.batches for report in of_other for end in report.ends] == [0]


def test_loader_that_replaces_one_of_its_name_goes_on_with_its_sequence(sidecar, loop):
    """A script that makes its loader anew each epoch is one loader to the sidecar."""
    loop.open()
    loop.run_epoch(10)
    loop.open()
    loop.run_epoch(10)
    sequences = [report.sequence for report in sidecar.received]
    assert sequences == sorted(set(sequences))
    assert [end.epoch for end in sidecar.ends()] == [0, 1]


def test_ring_that_is_given_back_is_read_to_its_end_and_let_go(sidecar, loop, eventually):
    """Epoch 0 arrives whole; the relay maps no ring then, and goes on with epoch 1 from the next one."""
    loop.open()
    loop.run_epoch(10)
    relay = loop.transport.relay_pid
    loop.transport.release_ring(1)
    eventually(lambda: "memfd:feedwater" not in Path(f"/proc/{relay}/maps").read_text())
    os.close(loop.fd)
    (loop.fd, loop.words), loop.head = ring.create(), 0
    loop.open()
    loop.run_epoch(12)
    assert [(end.epoch, end.batches) for end in sidecar.ends()] == [(0, 10), (1, 12)]
    assert len(sidecar.waits(1)) == 12
    assert not sidecar.received[-1].drops


def test_question_within_an_epoch_is_answered_without_waiting(sidecar, loop, eventually):
    """The loop takes the answer when it has come, and the sidecar knows that the epoch still runs."""
    loop.open()
    loop.begin()
    for _ in range(20):
        loop.batch()
    loop.transport.request_preview(1, 0)
    answers = []
    eventually(lambda: answers.append(loop.transport.take_preview(1)) or answers[-1] is not None)
    assert (answers[-1].reason, answers[-1].connected) == ("Too few batches were seen.", True)
    assert [(asked.epoch, asked.preview) for asked in sidecar.asked] == [(0, True)]


def test_rank_that_is_learnt_later_is_told(sidecar, loop, eventually):
    """torch.distributed may be set up after the first loader: it is registered again under its rank."""
    loop.open()
    loop.run_epoch()
    loop.transport.identify(Settings(address=sidecar.address, job="job-a", pod="pod-a", rank=5, world_size=8))
    loop.run_epoch()
    identities = [request.identity for request in sidecar.registered]
    assert [(identity.rank, identity.world_size) for identity in identities] == [(3, 4), (5, 8)]
    assert identities[0].pid_namespace == os.readlink("/proc/self/ns/pid")
