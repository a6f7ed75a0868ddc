"""The relay's end of the socket to the trainer."""

from __future__ import annotations

import json
import socket

from feedwater import packets
from feedwater.relay.control import ControlSocket
from feedwater.values import Answer, LoaderSettings, Recommendation


def test_answer_too_large_for_a_packet_is_sent_without_its_recommendation():
    """An advice of 100 kB: the trainer gets a reason at once, and does not wait for its deadline."""
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    long = Recommendation("1", 0, LoaderSettings(4, 2), "FED", "s", True, advice=("x" * 100_000,))
    with theirs, ours:
        ControlSocket(ours).answer(7, Answer(long, connected=True))
        reply = json.loads(theirs.recv(packets.PACKET_BYTES))
    assert reply["id"] == 7
    assert reply["answer"]["recommendation"] is None
    assert reply["answer"]["reason"] == "The sidecar's answer is too large."
