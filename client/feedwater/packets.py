"""What the training loop and its relay must both know of the packets between them. Standard library only.

Each packet of the ``SOCK_SEQPACKET`` socket pair is one JSON object; ``op`` is one of the names below. The
first packet has no ``op``: it holds what the relay is started with. A call has the same name here, in
`feedwater.values.Transport` and, in CamelCase, in ``protos/feedwater/v1/feedwater.proto``.
"""

from __future__ import annotations

PACKET_BYTES = 1 << 16
"""The largest, an answer with a curve of 64 counts and 16 CPU limits, takes 30 kB."""
START_FAILED = 3
"""Exit code of a relay that cannot import gRPC or the generated code: starting it again would not help."""

# From the loop to the relay.
REGISTER_LOADER = "register_loader"
"""With the descriptor of the loader's ring."""
BEGIN_EPOCH = "begin_epoch"
END_EPOCH = "end_epoch"
GET_RECOMMENDATION = "get_recommendation"
"""Has an ``id``, which the reply repeats."""
REPORT_APPLIED = "report_applied"
RELEASE_RING = "release_ring"
SET_IDENTITY = "set_identity"
"""What the training process has learnt of its rank since the relay was started."""
CLOSE = "close"

# From the relay to the loop.
ANSWER = "answer"
"""The reply to `GET_RECOMMENDATION`."""
