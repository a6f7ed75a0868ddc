"""Entry of the relay: ``python -I -S .../relay/__main__.py <fd>``, started by `feedwater.loop.link`.

Isolated and without ``site``: neither the script's directory nor the environment can put another module
first. The first packet holds the import path.
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
    # `packets.PACKET_BYTES` cannot be imported yet: this packet holds the import path.
    settings = json.loads(end.recv(1 << 16))
    sys.path.extend(path for path in settings["path"] if path not in sys.path)
    # A signal to all of the job's processes ends the trainer too; after that its last timings are sent.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(ignored, signal.SIG_IGN)
    from feedwater.packets import START_FAILED

    try:
        from feedwater.relay.control import ControlSocket
        from feedwater.relay.measurements import Identity
        from feedwater.relay.relay import Relay
    except ImportError:
        return START_FAILED
    # Modules are never collected: without them a garbage collection is shorter.
    gc.freeze()
    identity = Identity(**settings["identity"])
    # A short script may have ended by now; its packets and its ring can still be read.
    trainer_fd = _open_pidfd(identity.trainer_pid)
    Relay(ControlSocket(end), identity, settings["address"], trainer_fd).run()
    # gRPC's threads may wait for a sidecar that hangs, and everything that could be sent is sent.
    os._exit(0)


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:
        # Kernels before 5.3 and some sandboxes: the closed socket or the parent's pid shows the end, later.
        return None


if __name__ == "__main__":
    sys.exit(main())
