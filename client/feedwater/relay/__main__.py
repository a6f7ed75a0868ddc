"""Entry of the relay: ``python -I -S .../relay/__main__.py <fd>``, started by `feedwater.loop.link`.

Isolated and without ``site``, so that neither the training script's directory nor the environment puts a
module in the way; what is imported from where, the first packet says.
"""

import gc
import json
import os
import signal
import socket
import sys


def main() -> int:
    """Serve the trainer that started this process, until it ends."""
    end = socket.socket(fileno=int(sys.argv[1]))
    # `packets.PACKET_BYTES` cannot be imported before this packet has said from where.
    settings = json.loads(end.recv(1 << 16))
    sys.path.extend(path for path in settings["path"] if path not in sys.path)
    # Whoever ends the job's processes one by one ends the trainer too; then the last timings are to be sent.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(ignored, signal.SIG_IGN)
    from feedwater.packets import START_FAILED

    try:
        from feedwater.relay.control import ControlSocket
        from feedwater.relay.measurements import Identity
        from feedwater.relay.relay import Relay
    except ImportError:
        return START_FAILED
    # What is imported stays: the collector need not walk through it again and again.
    gc.freeze()
    identity = Identity(**settings["identity"])
    # A short script may have ended by now; what it said and stored is still here.
    trainer_fd = _watch(identity.trainer_pid)
    Relay(ControlSocket(end), identity, settings["address"], trainer_fd).run()
    # gRPC's threads may be in a call to a sidecar that hangs: nothing is left that an orderly end would save.
    os._exit(0)


def _watch(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:
        # Older kernels and some sandboxes: the socket's end and the parent's pid tell it, a little later.
        return None


if __name__ == "__main__":
    sys.exit(main())
