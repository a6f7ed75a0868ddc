"""The relay as a process: how it starts, whom it outlives, what it leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import feedwater
from feedwater.loop import link
from feedwater.v1 import feedwater_pb2 as pb
from feedwater.values import LoaderSettings, Outcome

TRAINER = textwrap.dedent(
    """
    import os, sys, threading, time
    from feedwater import ring
    from feedwater.loop.link import open_transport
    from feedwater.settings import read_settings
    from feedwater.values import LoaderDescription, LoaderSettings, Mode

    settings = LoaderSettings(2, 2)
    transport = open_transport(read_settings())
    fd, words = ring.create()
    transport.register_loader(1, LoaderDescription("train", settings, Mode.AUTO, "map"), fd)
    transport.begin_epoch(1, 0, settings, 0.0, (), 0, 0)
    for n in range(100):
        words[ring.MAIN_AT + 2 * n] = time.perf_counter_ns()
        words[ring.MAIN_AT + 2 * n + 1] = time.perf_counter_ns()
        words[1] = n + 1
    """
)


def start_trainer(address: str, more: str, directory: Path) -> subprocess.Popen[str]:
    """Start a training process of its own that stored 100 batches and then does ``more``."""
    script = directory / "train.py"
    script.write_text(TRAINER + textwrap.dedent(more))
    return subprocess.Popen(
        [sys.executable, str(script)],
        env=os.environ | {"FEEDWATER_ADDRESS": address},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=directory,
    )


def said(trainer: subprocess.Popen[str]) -> str:
    assert trainer.stdout is not None
    return trainer.stdout.readline().strip()


def finish(trainer: subprocess.Popen[str]) -> tuple[str, str]:
    return trainer.communicate("\n", timeout=60)


def test_training_process_has_no_grpc_and_no_thread(sidecar, tmp_path):
    """After an epoch with a real relay the trainer has one thread, no gRPC, no protobuf and no numpy."""
    trainer = start_trainer(
        sidecar.address,
        """
        transport.end_epoch(1, 0, 100, True, 0.0, time.perf_counter_ns())
        assert transport.get_recommendation(1, 0, 10.0).connected
        print(len(os.listdir("/proc/self/task")), threading.active_count())
        print(sorted({"grpc", "google", "google.protobuf", "numpy", "torch", "asyncio"} & set(sys.modules)))
        """,
        tmp_path,
    )
    out, errors = finish(trainer)
    assert (out.split("\n")[:2], errors) == (["1 1", "[]"], "")


def test_last_timings_arrive_and_relay_ends_when_the_trainer_exits(sidecar, tmp_path, eventually, is_running):
    """A script that ends in the middle of an epoch: its 100 batches arrive, the last report says so."""
    trainer = start_trainer(sidecar.address, "print(transport.relay_pid)", tmp_path)
    out, errors = finish(trainer)
    eventually(lambda: any(report.last for report in sidecar.received))
    eventually(lambda: not is_running(int(out)))
    assert errors == ""
    assert len(sidecar.waits(0)) == 100
    assert [end.complete for end in sidecar.ends()] == [False]


def test_last_timings_arrive_and_relay_ends_when_the_trainer_is_killed(
    sidecar, tmp_path, eventually, is_running
):
    """SIGKILL leaves no time for a goodbye: the relay sees the end by itself."""
    trainer = start_trainer(sidecar.address, "print(transport.relay_pid, flush=True); input()", tmp_path)
    relay = int(said(trainer))
    eventually(lambda: sidecar.received)
    trainer.kill()
    eventually(lambda: any(report.last for report in sidecar.received))
    eventually(lambda: not is_running(relay))
    finish(trainer)
    assert len(sidecar.waits(0)) == 100


def test_relay_of_a_trainer_that_is_replaced_by_exec_ends(sidecar, tmp_path, eventually, is_running):
    """os.execv keeps the pid but closes the socket."""
    more = """
    print(transport.relay_pid, flush=True)
    os.execv(sys.executable, [sys.executable, "-c", "input()"])
    """
    trainer = start_trainer(sidecar.address, more, tmp_path)
    relay = int(said(trainer))
    eventually(lambda: not is_running(relay))
    finish(trainer)


def test_relay_survives_signals_to_the_trainers_group_and_to_itself(
    sidecar, tmp_path, eventually, is_running
):
    """Torchrun signals the rank's group, Slurm every process: the last timings arrive all the same."""
    trainer = start_trainer(
        sidecar.address,
        """
        import signal
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(transport.relay_pid, flush=True)
        input()
        """,
        tmp_path,
    )
    relay = int(said(trainer))
    eventually(lambda: sidecar.received)
    os.killpg(trainer.pid, signal.SIGTERM)
    os.kill(relay, signal.SIGTERM)
    os.kill(relay, signal.SIGINT)
    finish(trainer)
    eventually(lambda: any(report.last for report in sidecar.received))
    eventually(lambda: not is_running(relay))


def test_modules_beside_the_script_do_not_break_the_relay(sidecar, tmp_path):
    """A queue.py, grpc.py and google.py of the user's own are not what the relay imports."""
    for name in ("queue", "grpc", "google", "typing_extensions"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not for the relay')")
    trainer = start_trainer(
        sidecar.address,
        """
        transport.end_epoch(1, 0, 100, True, 0.0, time.perf_counter_ns())
        print(transport.get_recommendation(1, 0, 10.0).connected)
        """,
        tmp_path,
    )
    out, errors = finish(trainer)
    assert (out.strip(), errors) == ("True", "")


def test_relay_has_its_own_session_and_no_standard_streams(sidecar, loop, eventually):
    """Root as directory, /dev/null as streams, isolated mode, and no fork support asked of gRPC."""
    loop.open()
    loop.run_epoch()
    relay = loop.transport.relay_pid
    at = Path(f"/proc/{relay}")
    assert os.getsid(relay) == relay
    assert os.readlink(at / "cwd") == "/"
    assert {os.readlink(at / f"fd/{fd}") for fd in (0, 1, 2)} == {"/dev/null"}
    assert (at / "cmdline").read_bytes().split(b"\0")[1:3] == [b"-I", b"-S"]
    assert b"GRPC_ENABLE_FORK_SUPPORT" not in (at / "environ").read_bytes()


def test_relay_that_died_is_replaced_and_goes_on_with_the_numbers(sidecar, loop, eventually, is_running):
    """Killed between two epochs: the next boundary starts another, and no zombie stays."""
    loop.open()
    loop.run_epoch(10)
    first = loop.transport.relay_pid
    os.kill(first, signal.SIGKILL)
    eventually(lambda: not is_running(first))
    assert loop.run_epoch(10).connected
    assert loop.transport.relay_pid != first
    assert not Path(f"/proc/{first}").exists()
    assert loop.run_epoch(10).connected
    assert [len(sidecar.waits(epoch)) for epoch in range(3)] == [10, 10, 10]
    assert len(sidecar.received) == len(sidecar.reports)


def test_relay_that_died_within_an_epoch_is_replaced_at_its_end(sidecar, loop, eventually, is_running):
    """What the first relay had read and not sent is lost; what follows is attributed to the right epoch."""
    loop.open()
    loop.begin()
    for _ in range(10):
        loop.batch()
    eventually(lambda: len(sidecar.waits(0)) == 9)
    os.kill(loop.transport.relay_pid, signal.SIGKILL)
    eventually(lambda: not is_running(loop.transport.relay_pid))
    for _ in range(10):
        loop.batch()
    loop.end()
    loop.ask()
    assert loop.run_epoch(10).connected
    assert len(sidecar.waits(1)) == 10


def test_relay_that_keeps_dying_is_started_a_few_times_only(absent, loop, eventually, is_running):
    """Four starts; then training goes on without one, and the answer says so."""
    loop.open()
    seen = {loop.transport.relay_pid}
    for _ in range(8):
        if loop.transport.relay_pid:
            os.kill(loop.transport.relay_pid, signal.SIGKILL)
            eventually(lambda: not is_running(loop.transport.relay_pid))
        loop.begin()
        loop.end()
        seen.add(loop.transport.relay_pid)
    assert len(seen - {0}) == link.MAX_LAUNCHES
    assert loop.transport.relay_pid == 0
    assert not loop.ask().connected


def test_relay_without_grpc_is_started_once(absent, loop, eventually, monkeypatch, is_running):
    """Where gRPC cannot be imported another start would not help."""
    home = str(Path(feedwater.__file__).parents[1])
    monkeypatch.setattr(link, "import_path", lambda: [home])
    loop.open()
    pid = loop.transport.relay_pid
    eventually(lambda: not is_running(pid))
    loop.begin()
    loop.end()
    loop.begin()
    assert loop.transport.relay_pid == 0


def test_full_socket_is_counted_and_never_waited_for(absent, loop):
    """A relay that is stopped: 5,000 epochs are told to nobody, without an error."""
    loop.open()
    loop.run_epoch()
    os.kill(loop.transport.relay_pid, signal.SIGSTOP)
    try:
        for epoch in range(5000):
            loop.transport.begin_epoch(1, epoch, LoaderSettings(0), 0.0, (), 0, 0)
            loop.transport.end_epoch(1, epoch, 0, True, 0.0, 0)
        loop.transport.report_applied(1, "r", Outcome.APPLIED, LoaderSettings(0), "")
        assert loop.transport.lost_packets > 0
        assert loop.transport.get_recommendation(1, 4999, 0.1).recommendation is None
    finally:
        os.kill(loop.transport.relay_pid, signal.SIGCONT)


def test_late_answer_is_not_taken_for_another_question(sidecar, loop):
    """An answer after its deadline is left out: the question of epoch 2 gets the answer of epoch 2."""
    sidecar.recommended = pb.Recommendation(id="r", settings=pb.LoaderSettings(num_workers=2))
    loop.open()
    loop.run_epoch()
    sidecar.may_answer.clear()
    loop.begin()
    loop.batch()
    loop.end()
    assert loop.ask(0.0).recommendation is None
    sidecar.may_answer.set()
    answer = loop.run_epoch(7)
    assert answer.recommendation is not None
    assert answer.recommendation.epoch == 2
    assert [(end.epoch, end.batches) for end in sidecar.ends()][-1] == (2, 7)


def test_forked_child_leaves_the_parents_relay_alone(sidecar, loop):
    """In a child every call is without effect, and its end does not end the relay."""
    loop.open()
    loop.run_epoch(10)
    pid = os.fork()
    if pid == 0:
        loop.transport.begin_epoch(1, 77, LoaderSettings(0), 0.0, (), 0, 0)
        loop.transport.close()
        os._exit(0 if loop.transport.get_recommendation(1, 0, 0.1).recommendation is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert loop.run_epoch(10).connected
    assert 77 not in {begin.epoch for report in sidecar.received for begin in report.begins}


def test_frozen_application_starts_no_relay(absent, new_loop, monkeypatch):
    """sys.executable is the application itself there: started again it would train twice."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    loop = new_loop(absent.address)
    loop.open()
    answer = loop.run_epoch()
    assert loop.transport.relay_pid == 0
    assert "cannot run" in answer.reason


def test_relay_does_not_import_from_the_current_directory(monkeypatch, tmp_path):
    """Its path is that of the trainer without the script's and the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend("")
    path = link.import_path()
    assert str(tmp_path) not in path
    assert "" not in path


@pytest.mark.parametrize("address", ["unix:/nonexistent/api.sock", "127.0.0.1:1", "unix:/dev/null"])
def test_address_where_nobody_is_does_no_harm(address, new_loop):
    """No directory, no listener, no socket: an answer without a connection each time."""
    loop = new_loop(address)
    loop.open()
    answer = loop.run_epoch()
    assert (answer.connected, answer.address) == (False, address)


def test_odd_packets_do_not_end_the_relay(sidecar, loop):
    """What is no JSON, names no loader, or holds a text for a number is left out."""
    loop.open()
    relay = loop.transport.relay_pid
    for data in (
        b"{",
        b"[]",
        b"{}",
        b'{"op": "begin", "key": 1, "settings": {"no": 1}}',
        b'{"op": "end", "key": 9}',
    ):
        loop.transport._end.send(data)
    loop.transport._send({"op": "applied", "key": 1, "outcome": "unheard of"})
    assert loop.run_epoch(10).connected
    assert loop.transport.relay_pid == relay
