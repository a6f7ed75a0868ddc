"""The loop's end of the socket to the relay: whatever comes is an answer, or none."""

from __future__ import annotations

import json

import pytest

from tests.fuzz.client_wire import ask

ANSWER = {"reason": "", "mode": None, "connected": True, "address": "", "recommendation": None}


def test_answer_arrives() -> None:
    """The packet that answers the question is the answer."""
    assert ask([json.dumps({"id": 2, "answer": ANSWER | {"reason": "Too few batches."}}).encode()]).connected


@pytest.mark.parametrize(
    "packet",
    [
        "[" * 5000,
        "[1]",
        '"x"',
        '{"id": [1], "answer": {}}',
        '{"id": 2, "answer": []}',
        json.dumps(
            {"id": 2, "answer": ANSWER | {"recommendation": {"curve": [], "advice": [], "settings": "x"}}}
        ),
    ],
    ids=["deep", "list", "text", "id", "answer", "settings"],
)
def test_packet_that_is_no_answer_is_understood_as_none(packet: str) -> None:
    """Nested 5,000 deep, or of other kinds: no exception, and no recommendation."""
    answer = ask([packet.encode()])

    assert answer.recommendation is None
    assert "not understood" in answer.reason
