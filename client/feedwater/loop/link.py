"""The link to the relay, the process that owns the gRPC channel. Standard library only, no thread.

Packets of JSON go over a Unix socket pair, and rings as descriptors. Only `RelayTransport.get_recommendation`
blocks, for its deadline at most. No method raises.
"""

from __future__ import annotations

import atexit
import itertools
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Protocol, cast

from feedwater import guard, packets
from feedwater.descriptors import Descriptor
from feedwater.inject import bundled_runtime
from feedwater.loop import ranks
from feedwater.values import (
    Answer,
    LoaderDescription,
    LoaderSettings,
    Mode,
    Outcome,
    recommendation_from_json,
)

MAX_LAUNCHES = 4
"""Starts of a relay in a process: what ended it this often will end it again."""
PREVIEW_SECONDS = 2.0
"""The sidecar's time to answer a request in the middle of an epoch, for which the loop does not wait."""
EXIT_WAIT_SECONDS = 0.1
"""Longest wait at exit: the relay of a trainer that is PID 1 is killed with it, before its last report."""
FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What reading a packet raises that is no answer: no JSON, values of another kind, or nested too deeply."""


class LinkSettings(Protocol):
    """The settings that the link sends to the relay."""

    @property
    def address(self) -> str:
        """Where the sidecar is: ``unix:/path`` or ``host:port``."""

    @property
    def job(self) -> str:
        """The workload."""

    @property
    def pod(self) -> str:
        """The pod, or the host."""

    @property
    def namespace(self) -> str:
        """The pod's namespace."""

    @property
    def rank(self) -> int:
        """This training process among all of the job."""

    @property
    def local_rank(self) -> int:
        """This training process among those of its node."""

    @property
    def world_size(self) -> int:
        """Training processes of the job."""

    @property
    def local_world_size(self) -> int:
        """Training processes of this node."""


def open_transport(settings: LinkSettings) -> RelayTransport:
    """Return the transport of this process; its relay starts with the first loader."""
    return RelayTransport(settings)


def can_start_relay() -> bool:
    """Return whether ``sys.executable`` is a Python that can run a relay.

    In frozen applications and programs that embed Python (uWSGI) it is the application itself.
    """
    is_python = os.path.basename(sys.executable or "").lower().startswith(("python", "pypy"))
    return sys.platform == "linux" and is_python and not getattr(sys, "frozen", False)


@dataclass(slots=True)
class _Loader:
    description: LoaderDescription
    ring_file: Descriptor
    """May have been closed by others when the loader is registered again."""
    begin: dict[str, object] | None = None
    """The packet that began the present epoch, for a relay that replaces one that died."""


class RelayTransport:
    """The `feedwater.values.Transport` that sends everything to a relay."""

    def __init__(self, settings: LinkSettings) -> None:
        self._settings = settings
        self._client_id = os.urandom(16).hex()
        self._loaders: dict[int, _Loader] = {}
        self._end: socket.socket | None = None
        self._end_file: Descriptor | None = None
        """Of `_end`; None as that."""
        self._pid = 0
        self._ending: list[int] = []
        """Relays that closed their end, to be reaped when their last thread has ended."""
        self._launches = 0
        self._requests = itertools.count(1)
        self._asking = threading.Lock()
        self._previews: dict[int, int] = {}
        """Loader of each preview that was requested, by request."""
        self._previewed: dict[int, Answer] = {}
        """Answers that were not taken yet, by loader."""
        self._detached = not can_start_relay()
        self.lost_packets = 0
        """Packets that a full or broken socket refused."""
        _live.add(self)

    @property
    def relay_pid(self) -> int:
        """Process id of the relay; 0 where none runs."""
        return self._pid

    def register_loader(self, key: int, description: LoaderDescription, ring_fd: int) -> None:
        """Register a loader; start the relay if none runs."""
        if self._detached:
            return
        try:
            self._loaders[key] = _Loader(description, Descriptor.of(ring_fd))
        except OSError:
            return
        if self._check_relay():
            self._send_loader(key)
        else:
            self._launch()

    def begin_epoch(
        self,
        key: int,
        epoch: int,
        settings: LoaderSettings,
        iter_seconds: float,
        worker_pids: Sequence[int],
        first_worker_ring: int,
        head: int,
    ) -> None:
        """Begin an epoch, whose iterator the calling thread has made."""
        packet: dict[str, object] = {
            "op": packets.BEGIN_EPOCH,
            "key": key,
            "epoch": epoch,
            "settings": asdict(settings),
            "iter_seconds": iter_seconds,
            "worker_pids": list(worker_pids),
            "first_worker_ring": first_worker_ring,
            "head": head,
            "stamp_ns": time.perf_counter_ns(),
            "thread_id": threading.get_native_id(),
        }
        loader = self._loaders.get(key)
        if loader is not None:
            loader.begin = packet
            self._send_or_relaunch(packet)

    def end_epoch(
        self, key: int, epoch: int, head: int, complete: bool, teardown_seconds: float, stamp_ns: int
    ) -> None:
        """End an epoch."""
        packet: dict[str, object] = {
            "op": packets.END_EPOCH,
            "key": key,
            "epoch": epoch,
            "head": head,
            "complete": complete,
            "teardown_seconds": teardown_seconds,
            "stamp_ns": stamp_ns,
        }
        loader = self._loaders.get(key)
        if loader is not None:
            self._send_or_relaunch(packet)
            loader.begin = None

    def get_recommendation(self, key: int, epoch: int, deadline_seconds: float) -> Answer:
        """Return the sidecar's answer, which the relay gets, or within the deadline why there is none."""
        until = time.perf_counter() + deadline_seconds
        if self._detached:
            return self._none("Feedwater's relay cannot run in this process.")
        if not self._asking.acquire(timeout=max(0.0, deadline_seconds)):
            return self._none("Another thread is asking.", late=True)
        try:
            return self._ask(key, epoch, deadline_seconds, until)
        except UNREADABLE as error:
            return self._none(f"The relay's answer was not understood: {error!r:.80}.")
        finally:
            self._asking.release()

    def report_applied(
        self, key: int, recommendation_id: str, outcome: Outcome, now: LoaderSettings, detail: str
    ) -> None:
        """Report what became of a recommendation."""
        self._send_or_relaunch(
            {
                "op": packets.REPORT_APPLIED,
                "key": key,
                "recommendation_id": recommendation_id,
                "outcome": outcome.value,
                "settings": asdict(now),
                "detail": detail,
            }
        )

    def release_ring(self, key: int) -> None:
        """Have the relay stop reading a ring."""
        if self._loaders.pop(key, None) is not None and not self._detached:
            self._send({"op": packets.RELEASE_RING, "key": key})

    def request_preview(self, key: int, epoch: int) -> None:
        """Request a recommendation for a running epoch, without waiting for it."""
        if self._detached or not self._check_relay():
            return
        request = next(self._requests)
        # One request for each loader: an earlier one is abandoned.
        self._previews = {r: k for r, k in self._previews.items() if k != key} | {request: key}
        self._send(self._request(request, key, epoch, time.perf_counter() + PREVIEW_SECONDS, True))

    def take_preview(self, key: int) -> Answer | None:
        """Return the answer to `request_preview`; None while there is none."""
        if not self._asking.acquire(blocking=False):
            return None
        try:
            while self._previews and (end := self._our_end()) and (data := _receive(end, 0.0)):
                self._keep_preview(json.loads(data))
        except UNREADABLE:
            self._previews.clear()
        finally:
            self._asking.release()
        return self._previewed.pop(key, None)

    def _keep_preview(self, reply: dict[str, object]) -> None:
        key = self._previews.pop(cast("int", reply.get("id")), None)
        if key is not None:
            self._previewed[key] = _answer(cast("dict[str, object]", reply["answer"]))

    def identify(self, settings: LinkSettings) -> None:
        """Send what this process has learnt of its rank since the relay was started."""
        if settings == self._settings:
            return
        self._settings = settings
        self._send({"op": packets.SET_IDENTITY, "identity": self._identity()})

    def close(self) -> None:
        """Have the relay send its last timings, and wait `EXIT_WAIT_SECONDS` for it at most."""
        end = self._our_end()
        if end is None or self._detached:
            return
        self._end = None
        try:
            end.send(json.dumps({"op": packets.CLOSE}).encode(), FLAGS)
            _wait_for_end(end, time.perf_counter() + EXIT_WAIT_SECONDS)
        except OSError:
            self.lost_packets += 1
        finally:
            end.close()
        self._reap()

    def __del__(self) -> None:
        """Close the socket of a transport that a forked child dropped: an open one would warn."""
        end = getattr(self, "_end", None)
        if end is None:
            return
        try:
            self._close_end()
        except Exception:
            # The interpreter ends, and has cleared the modules: nothing can be compared or logged.
            end.detach()

    def _our_end(self) -> socket.socket | None:
        """Return our end of the socket; None where there is none, or its number is another's by now."""
        if self._end is not None and (self._end_file is None or not self._end_file.is_ours()):
            self._close_end()
        return self._end

    def _close_end(self) -> None:
        """Close our end of the socket, if its number is still that of our end."""
        end, self._end = self._end, None
        if end is not None and self._end_file is not None and self._end_file.is_ours():
            end.close()
        elif end is not None:
            end.detach()

    def _ask(self, key: int, epoch: int, deadline_seconds: float, until: float) -> Answer:
        request = next(self._requests)
        if not self._check_relay():
            self._launch()
            return self._none("The relay had ended; it was started again.")
        if not self._send(self._request(request, key, epoch, until, False)):
            return self._none("The relay does not take messages.")
        while (left := until - time.perf_counter()) > 0 and (end := self._our_end()) is not None:
            data = _receive(end, left)
            if data == b"":
                self._drop_relay()
                return self._none("The relay ended.")
            reply = json.loads(data) if data else {}
            # Other answers belong to requests that were abandoned, or to previews.
            if reply.get("id") == request:
                return _answer(reply["answer"])
            if reply:
                self._keep_preview(reply)
        return self._none(f"No answer within {deadline_seconds:g} s.", late=True)

    def _request(
        self, request: int, key: int, epoch: int, until: float, is_preview: bool
    ) -> dict[str, object]:
        return {
            "op": packets.GET_RECOMMENDATION,
            "id": request,
            "key": key,
            "epoch": epoch,
            "until_seconds": until,
            "preview": is_preview,
        }

    def _none(self, reason: str, *, late: bool = False) -> Answer:
        return Answer(reason=reason, address=self._settings.address, late=late)

    def _send_or_relaunch(self, packet: dict[str, object]) -> None:
        if self._detached:
            return
        if not self._check_relay():
            self._launch()
            if packet["op"] == packets.BEGIN_EPOCH:
                # _launch has sent it with the loader.
                return
        self._send(packet)

    def _send(self, packet: dict[str, object], ring_fd: int | None = None) -> bool:
        end = self._our_end()
        if end is None:
            return False
        try:
            data = [json.dumps(packet).encode()]
            if ring_fd is None:
                end.send(data[0], FLAGS)
            else:
                socket.send_fds(end, data, [ring_fd], FLAGS)
        except OSError as error:
            self.lost_packets += 1
            if not isinstance(error, BlockingIOError):
                self._drop_relay()
            return False
        return True

    def _send_loader(self, key: int) -> None:
        loader = self._loaders[key]
        if not loader.ring_file.is_ours():
            del self._loaders[key]
            return
        described = asdict(loader.description)
        described["mode"] = loader.description.mode.value
        self._send({"op": packets.REGISTER_LOADER, "key": key, "description": described}, loader.ring_file.fd)
        if loader.begin is not None:
            self._send(loader.begin)

    def _check_relay(self) -> bool:
        """Reap relays that have ended; return whether one runs."""
        self._reap()
        return self._our_end() is not None and self._pid != 0

    def _drop_relay(self) -> None:
        """Close the socket to a relay that closed its end."""
        self._close_end()
        if self._pid:
            self._ending.append(self._pid)
            self._pid = 0

    def _reap(self) -> None:
        """Reap relays that have ended."""
        self._ending = [pid for pid in self._ending if not self._has_ended(pid)]
        if self._pid and self._has_ended(self._pid):
            self._pid = 0

    def _has_ended(self, pid: int) -> bool:
        try:
            ended, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            # Another wait() reaped it, or SIGCHLD is ignored.
            return True
        if ended and os.WIFEXITED(status) and os.WEXITSTATUS(status) == packets.START_FAILED:
            self._launches = MAX_LAUNCHES
        return bool(ended)

    def _launch(self) -> None:
        self._drop_relay()
        if self._launches >= MAX_LAUNCHES:
            return
        self._launches += 1
        try:
            self._end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._end_file = Descriptor.of(self._end.fileno())
            with theirs:
                self._send(self._relay_settings())
                self._pid = _start(theirs.fileno())
        except (OSError, subprocess.SubprocessError):
            return
        for key in list(self._loaders):
            self._send_loader(key)

    def _relay_settings(self) -> dict[str, object]:
        return {
            "path": import_path(),
            "address": self._settings.address,
            "identity": self._identity(),
        }

    def _identity(self) -> dict[str, object]:
        settings = self._settings
        return {
            "client_id": self._client_id,
            "job": settings.job,
            "namespace": settings.namespace,
            "pod": settings.pod,
            "rank": settings.rank,
            "local_rank": settings.local_rank,
            "world_size": settings.world_size,
            "local_world_size": settings.local_world_size,
            "trainer_pid": os.getpid(),
            "pid_namespace": ranks.pid_namespace(),
        }

    def _detach(self) -> None:
        # In a forked child the relay is the parent's. With this copy open it would not see the parent's exit.
        self._detached = True
        self._asking = threading.Lock()
        self._pid, self._ending = 0, []
        self._close_end()


def import_path() -> list[str]:
    """Return the import path of the relay, where it finds feedwater, gRPC and protobuf.

    It is this process's path without the directory of the script and the current one: a ``queue.py`` there
    would break the relay. The bundled runtime has all but feedwater itself.
    """
    if bundled_runtime.find():
        return [bundled_runtime.site_directory()]
    main_file = getattr(sys.modules.get("__main__"), "__file__", None)
    local = {os.getcwd(), os.path.dirname(os.path.abspath(main_file)) if main_file else os.getcwd()}
    kept = [path for path in sys.path if os.path.isabs(path) and os.path.exists(path) and path not in local]
    return list(dict.fromkeys([bundled_runtime.site_directory(), *kept]))


def _start(fd: int) -> int:
    runtime = bundled_runtime.find()
    python = bundled_runtime.python_command(runtime) if runtime else [sys.executable]
    entry = os.path.join(bundled_runtime.site_directory(), "feedwater", "relay", "__main__.py")
    process = subprocess.Popen(
        [*python, "-I", "-S", entry, str(fd)],
        env=bundled_runtime.environment() if runtime else None,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(fd,),
        cwd="/",
        # A group of its own: torchrun and terminals signal the rank's process group.
        start_new_session=True,
    )
    # The relay is reaped by pid. Without a return code the Popen object would warn when it is collected.
    process.returncode = 0
    return process.pid


def _receive(end: socket.socket, seconds: float) -> bytes | None:
    """Return the next packet; empty if the relay closed its end, None if none came in time."""
    poll = select.poll()
    poll.register(end, select.POLLIN)
    if not poll.poll(max(0.0, seconds) * 1000):
        return None
    try:
        return end.recv(packets.PACKET_BYTES, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _wait_for_end(end: socket.socket, until: float) -> None:
    while (left := until - time.perf_counter()) > 0:
        if _receive(end, left) == b"":
            return


def _answer(value: dict[str, object]) -> Answer:
    answer = Answer(
        reason=str(value["reason"]),
        mode=Mode(value["mode"]) if value["mode"] else None,
        connected=value["connected"] is True,
        address=str(value["address"]),
        late=value.get("late") is True,
    )
    recommendation = value["recommendation"]
    if isinstance(recommendation, dict):
        answer = replace(answer, recommendation=recommendation_from_json(recommendation))
    return answer


_live: weakref.WeakSet[RelayTransport] = weakref.WeakSet()


def _close_all() -> None:
    for transport in list(_live):
        with guard.swallow("ending the link to the relay"):
            transport.close()


def _detach_all() -> None:
    for transport in list(_live):
        with guard.swallow("leaving the parent's relay"):
            transport._detach()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_detach_all)
