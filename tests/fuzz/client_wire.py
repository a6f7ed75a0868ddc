"""What the client makes of a sidecar's or a relay's answer: values of the right kind, and no exception.

The first byte decides the way: protobuf messages through the relay's reading to the loop, the sidecar's state
as `feedwater status` reads it, or any packets on the loop's socket.
"""

from __future__ import annotations

import json
import socket
from dataclasses import asdict

from google.protobuf.message import DecodeError, Message

from feedwater import packets
from feedwater.loop.boundary import answers
from feedwater.loop.link import RelayTransport
from feedwater.relay import wire
from feedwater.v1 import feedwater_pb2 as pb
from feedwater.values import Answer, LoaderSettings, Mode, Prediction, Recommendation
from tests.fuzz.draw import REALS, TEXTS, Draw, damaged

PREVIEWED, ASKED = 1, 2
"""Numbers of the requests of a new transport, in this order."""
WORDS = (
    '{"op": "answer", "id": 2, "answer": ',
    '{"op": "answer", "id": 1, "answer": ',
    '{"reason": "", "mode": "auto", "connected": true, "address": "", "recommendation": ',
    "null",
    "}",
    '{"id": 1, "answer": {}}',
    "[",
    "]",
    '"x"',
    ", ",
    "1e999",
    "NaN",
    "-1",
    '{"id": [1], "answer": {}}',
    '{"id": 1}',
    "9" * 5000,
    "[" * 5000,
)
IN_USE = LoaderSettings(2, 2)
WHOLE = Recommendation(
    id="1-aa",
    epoch=0,
    settings=LoaderSettings(4, 2),
    verdict="TOO_FEW_WORKERS",
    sentence="2 → 4 workers",
    changes=True,
    curve=(Prediction(LoaderSettings(2, 2), 30.0, 28.0, 32.0, 0.6),),
)


class _LinkSettings:
    address = "unix:/nowhere"
    job = namespace = pod = "x"
    rank = local_rank = 0
    world_size = local_world_size = 1


class _Transport(RelayTransport):
    """A transport whose relay is the test case."""

    def __init__(self, end: socket.socket) -> None:
        super().__init__(_LinkSettings())
        self._end = end

    def _check_relay(self) -> bool:
        return self._end is not None

    def _launch(self) -> None:
        pass


def check(data: bytes) -> None:
    """Run one test case.

    Raises:
        AssertionError: The loop would get a value of another kind.
        Exception: Whatever the client's reading raised.
    """
    draw = Draw(data)
    way = draw.byte() % 3
    if way == 0:
        _check_answer(draw)
    elif way == 1:
        _check_state(draw)
    else:
        _check_packets(draw)


def _check_answer(draw: Draw) -> None:
    registered = _message(draw, pb.RegisterLoaderResponse())
    assert wire.mode(registered) is None or isinstance(wire.mode(registered), Mode)
    reply = draw.fill(pb.GetRecommendationResponse())
    if reply.HasField("recommendation"):
        draw.fill(reply.recommendation)
    answer = wire.answer(_message(draw, reply, filled=True))
    _check_value(answer)
    packet = json.dumps({"op": packets.ANSWER, "id": ASKED, "answer": asdict(answer)}).encode()
    arrived = _ask([packet])
    if len(packet) <= packets.PACKET_BYTES:
        # As text: a NaN equals no other.
        assert str(arrived) == str(answer)


def _check_state(draw: Draw) -> None:
    response = draw.fill(pb.WatchResponse())
    wire.pod_view(_message(draw, response, filled=True))


def _message(draw: Draw, message: Message, *, filled: bool = False) -> Message:
    """Return the message as it arrives; damaged one time in eight, and gRPC drops what is no message."""
    if not filled:
        draw.fill(message)
    data = message.SerializeToString()
    if draw.byte() % 8 == 7:
        data = damaged(data, draw)
    try:
        return type(message).FromString(data)
    except DecodeError:
        return type(message)()


def _check_packets(draw: Draw) -> None:
    sent = []
    for _ in range(1 + draw.byte() % 4):
        kind = draw.byte() % 3
        if kind == 0:
            sent.append("".join(draw.choose(WORDS) for _ in range(draw.byte() % 12)).encode())
        elif kind == 1:
            sent.append(damaged(_packet(draw), draw))
        else:
            sent.append(draw.take(draw.byte()))
    _check_value(_ask([packet[: packets.PACKET_BYTES] for packet in sent if packet]))


def _packet(draw: Draw) -> bytes:
    """Return an answer with values of other kinds in some places."""
    answer = asdict(Answer(WHOLE, reason="x", mode=Mode.AUTO, connected=True))
    for _ in range(draw.byte() % 4):
        place = answer
        while isinstance(place, dict) and place:
            key = draw.choose(sorted(place))
            if not isinstance(place[key], dict) or draw.byte() % 4 == 0:
                place[key] = _value(draw)
                break
            place = place[key]
    return json.dumps(
        {"op": packets.ANSWER, "id": draw.choose((ASKED, PREVIEWED)), "answer": answer}
    ).encode()


def _value(draw: Draw) -> object:
    kind = draw.byte() % 7
    if kind < 5:
        return (None, [], {}, True, [{}])[kind]
    return draw.choose((*REALS, 1 << 40, -1)) if kind == 5 else draw.choose(TEXTS)


def _ask(sent: list[bytes]) -> Answer:
    """Return what the loop is answered by a relay that sends these packets and ends."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    transport = _Transport(ours)
    try:
        for packet in sent:
            theirs.send(packet)
        theirs.shutdown(socket.SHUT_WR)
        transport.request_preview(2, 0)
        answer = transport.get_recommendation(1, 0, 1.0)
        preview = transport.take_preview(2)
        if preview is not None:
            _check_value(preview)
        return answer
    finally:
        theirs.close()
        transport.close()


def _check_value(answer: Answer) -> None:
    """Check that the loop refuses an answer, or can use it."""
    assert isinstance(answer, Answer)
    if answers.refusal(answer, IN_USE, cpus=4) is not None or answer.recommendation is None:
        return
    recommendation = answer.recommendation
    assert 0 <= recommendation.settings.num_workers <= answers.most_workers(IN_USE, cpus=4)
    assert (recommendation.settings.prefetch_factor or 0) <= answers.MAX_PREFETCH
    for text in (recommendation.id, recommendation.sentence, *recommendation.advice):
        assert isinstance(text, str)
        assert len(text) <= answers.MAX_TEXT
    for point in recommendation.curve:
        assert isinstance(point, Prediction)
