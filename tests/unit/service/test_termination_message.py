"""The closing verdict, and the line that says the same for people."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feedwater.v1 import feedwater_pb2 as pb
from feedwater_service.model.types import Recommendation
from feedwater_service.rpc.wire import bounded_name
from feedwater_service.state.sessions import Decision, Session, State
from feedwater_service.termination_message import (
    MAX_BYTES,
    exit_line,
    termination_message,
    write_termination_message,
)

Register = Callable[..., Session]
Send = Callable[[pb.ReportRequest], Session]
MakeReport = Callable[..., pb.ReportRequest]
MakeRecommendation = Callable[..., Recommendation]


@pytest.fixture
def trained(
    register: Register, send: Send, report: MakeReport, recommendation: MakeRecommendation
) -> Callable[..., Session]:
    """What registers a loader that has ended an epoch and was told to use 4 workers."""

    def make(sentence: str = "", **changed: object) -> Session:
        session = send(report(register(**changed).loader_id, 1, end=True))
        answer = recommendation()
        session.decision = Decision("d", 0, replace(answer, sentence=sentence or answer.sentence))
        return session

    return make


def test_verdict_says_what_was_measured_and_recommended(
    state: State, trained: Callable[..., Session]
) -> None:
    """39 waits of 20 ms, the first apart, beside 40 steps of 10 ms are 66.1 %."""
    trained()
    told = json.loads(termination_message(state, "1.2.3"))
    (loader,) = told["loaders"]
    assert (told["feedwater"], told["loaders_seen"]) == ("1.2.3", 1)
    assert (loader["loader"], loader["epochs"], loader["starvation"]) == ("train", 1, 0.661)
    assert (loader["num_workers"], loader["recommended_num_workers"], loader["verdict"]) == (
        2,
        4,
        "TOO_FEW_WORKERS",
    )


def test_line_names_change_starvation_and_verdict(state: State, trained: Callable[..., Session]) -> None:
    """One loader: its sentence too."""
    session = trained()
    session.settings = replace(session.settings, num_workers=4)
    assert exit_line(state) == (
        "train: 1 epoch, 2 → 4 workers, 66% starvation, TOO_FEW_WORKERS; "
        "2 → 4 workers: loading takes 60 ms of each 30 ms."
    )


def test_line_counts_ranks_and_the_loaders_that_it_does_not_name(
    state: State, register: Register, trained: Callable[..., Session]
) -> None:
    """Two ranks of one loader, and four that did nothing: the one that starved comes first."""
    for number in range(4):
        register(loader=f"idle-{number}")
    for rank in range(2):
        trained(rank=rank, client_id=f"client-{rank}")
    line = exit_line(state)
    assert line.startswith("train (2 ranks): 1 epoch, 2 workers, 66% starvation, TOO_FEW_WORKERS; idle-0: no")
    assert line.endswith("; 2 more loaders")


def test_host_wait_is_no_starvation(state: State, trained: Callable[..., Session]) -> None:
    """Where CUDA is used and the device was not measured, none is claimed."""
    trained(uses_cuda=True)
    assert "starvation" not in exit_line(state).partition(";")[0]
    assert json.loads(termination_message(state, "1"))["loaders"][0]["starvation"] is None


def test_nobody_is_said_so(state: State) -> None:
    """A sidecar that nobody talked to."""
    assert exit_line(state) == "no loader has reported"
    assert json.loads(termination_message(state, "1")) == {"feedwater": "1", "loaders_seen": 0, "loaders": []}


@pytest.mark.parametrize("character", ["x", "é", "長", "🚂", '"', "\\"])
def test_256_loaders_are_cut_to_4_kib_of_whole_json(
    state: State, trained: Callable[..., Session], character: str
) -> None:
    """Names and sentences of up to 4 bytes a character: bytes count, the newest come first, JSON parses."""
    for number in range(256):
        loader = f"{number} {character * 120}"
        trained(character * 400, loader=loader, client_id=f"client-{number % 8}")
    message = termination_message(state, "1.2.3")
    told = json.loads(message)
    assert len(message) <= MAX_BYTES
    assert told["loaders_seen"] == 256
    assert len(told["loaders"]) >= 2
    assert len(exit_line(state)) < 1000


@given(name=st.text(max_size=200), sentence=st.text(max_size=400))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_makes_json_and_one_line(
    state: State, trained: Callable[..., Session], name: str, sentence: str
) -> None:
    """Whatever a loader is called and a model says; a lone surrogate, which UTF-8 lacks, too."""
    session = next(iter(state.sessions.values()), None) or trained()
    session.registration = replace(session.registration, loader=bounded_name(name) or "loader")
    assert session.decision is not None
    answer = session.decision.answer
    assert isinstance(answer, Recommendation)
    session.decision = replace(session.decision, answer=replace(answer, sentence=sentence + "\ud800"))
    message = termination_message(state, "1")
    assert len(message) <= MAX_BYTES
    assert len(json.loads(message)["loaders"]) == 1
    assert exit_line(state).isprintable()


def test_message_replaces_what_was_there(tmp_path: Path) -> None:
    """A longer one of the container's last life."""
    path = tmp_path / "verdict"
    path.write_bytes(b"x" * 9000)
    write_termination_message(path, b"{}")
    assert path.read_bytes() == b"{}"


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("/dev/full", errno.ENOSPC),
        ("/", errno.EISDIR),
        ("/proc/version/verdict", errno.ENOTDIR),
    ],
)
def test_what_cannot_be_written_says_why(path: str, number: int) -> None:
    """A full disk, a directory, a file where a directory should be."""
    with pytest.raises(OSError) as raised:  # noqa: PT011
        write_termination_message(Path(path), b"{}")
    assert raised.value.errno == number


def test_pipe_that_nobody_reads_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """Opening it would block for ever."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError) as raised:  # noqa: PT011
        write_termination_message(tmp_path / "pipe", b"{}")
    assert raised.value.errno == errno.ENXIO
