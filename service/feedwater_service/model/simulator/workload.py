"""The input of a simulation: the work of one epoch, and what shares the machine with it.

All times are undisturbed: the simulation adds the delays by shared CPUs, queues and waiting for others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from feedwater_service.model.types import LoaderSettings


@dataclass(frozen=True, slots=True)
class Peer:
    """Another rank of the same loader, with the same settings, by how its loads differ."""

    blocked_factor: float = 1.0
    """Blocked time of its loads over that of the predicted rank's."""
    cpu_factor: float = 1.0
    """The same for the CPU time."""
    shift: float = 0.0
    """Offset into the samples, 0 to 1: ranks load different samples at the same time."""


@dataclass(frozen=True, slots=True)
class ZippedLoader:
    """Another loader of the same rank, whose batches the loop takes in turn with ours, as ``zip`` does."""

    work: Workload
    """Of its loads; its steps are not simulated."""
    settings: LoaderSettings
    per_batch: float = 1.0
    """Its batches for one of ours."""


@dataclass(frozen=True, slots=True)
class BackgroundLoad:
    """Other CPU work of the rank, independent of our batches: threads that compute and sleep."""

    cores: float
    """Cores that it uses undisturbed."""
    burst_seconds: float
    """CPU time between two sleeps."""


@dataclass(frozen=True, slots=True)
class Colocation:
    """What shares the machine with one rank's loader."""

    peers: tuple[Peer, ...] = ()
    synchronised: bool = False
    """Ranks wait for each other at the end of each step, as under DDP."""
    zipped: tuple[ZippedLoader, ...] = ()
    background: tuple[BackgroundLoad, ...] = ()


NOT_SHARED = Colocation()


@dataclass(frozen=True, slots=True)
class Workload:
    """The work of one epoch, free of the settings and of the machine it was measured on."""

    loads: tuple[tuple[float, float], ...]
    """Shape (samples,): blocked and CPU seconds to make one batch; repeated from the start when used up."""
    steps: tuple[tuple[float, float], ...]
    """Shape (samples,): CPU seconds and device (or otherwise timed) seconds of one step. With ``device``, the
    host's own part alone; where the host waits for each step, the timed part comes after the device's."""
    load_width: float = 1.0
    """CPUs that one worker's load keeps busy (native threads)."""
    step_width: float = 1.0
    send_cpu_seconds: float = 0.0
    """Per batch, in the worker, to hand it over."""
    receive_cpu_seconds: float = 0.0
    """Per batch, in the main process, to take it."""
    pass_cpu_seconds: float = 0.0
    """Per batch, in the worker that made it, to pass its descriptors while the main process takes it."""
    wake_seconds: float = 0.0
    """Per batch, for both sides to wake up in between: no CPU is used."""
    pin_cpu_seconds: float = 0.0
    """Per batch, to copy it to pinned memory: in a thread of the main process, which then takes it from its
    worker too. 0: no such thread."""
    gil_switches: int = 0
    """Times that handing a batch over waits for the interpreter lock of its worker, if that computes."""
    inline_cpu_seconds: float = 0.0
    """Per batch, in the main process at ``num_workers=0``, besides the load."""
    fork_cpu_seconds: float = 0.0
    """Per worker, in the main process, within ``iter()``."""
    boot_cpu_seconds: float = 0.0
    """Per worker, in the worker, before its first load."""
    first_blocked_seconds: float = 0.0
    """Of a worker's first load, on top of what a later one takes: caches to fill, files to open."""
    first_cpu_seconds: float = 0.0
    exit_cpu_seconds: float = 0.0
    """Per worker, at the end of an epoch; one after another."""
    teardown_seconds: float = 0.0
    """At the end of an epoch with workers, whatever their number."""
    device: tuple[float, ...] = ()
    """Shape (samples,): seconds that the device is busy with one step; empty where that was not measured."""
    run_ahead: int = 0
    """Steps that the host may be ahead of the device before it waits for it; 0: it waits for each."""
    colocation: Colocation = NOT_SHARED

    @property
    def receive_seconds(self) -> float:
        """Time that taking one batch costs the main process on a free machine."""
        return self.receive_cpu_seconds + self.pass_cpu_seconds + self.wake_seconds

    def with_receive_seconds(self, seconds: float) -> Workload:
        """Return the same with another time to take a batch, both sides' parts in proportion."""
        factor = seconds / self.receive_seconds if self.receive_seconds > 0 else 0.0
        return replace(
            self,
            receive_cpu_seconds=self.receive_cpu_seconds * factor,
            pass_cpu_seconds=self.pass_cpu_seconds * factor,
            wake_seconds=self.wake_seconds * factor,
        )

    @property
    def consumer_seconds(self) -> float:
        """Mean seconds that the consumer, host and device, needs for a batch that is always ready."""
        cpu, timed = (sum(pair[k] for pair in self.steps) / len(self.steps) for k in (0, 1))
        if not self.device:
            return cpu + timed
        busy = sum(self.device) / len(self.device)
        return max(cpu, busy) + timed if self.run_ahead == 0 else max(cpu + timed, busy)

    def with_longer_loads(self, factor: float) -> Workload:
        """Return the same with load times longer by a factor; the other ranks' are, too."""
        return replace(self, loads=tuple((b * factor, c * factor) for b, c in self.loads))

    def of_peer(self, peer: Peer) -> Workload:
        """Return the work of another rank."""
        first = int(peer.shift * len(self.loads)) % len(self.loads)
        loads = self.loads[first:] + self.loads[:first]
        if peer.blocked_factor != 1.0 or peer.cpu_factor != 1.0:
            loads = tuple((b * peer.blocked_factor, c * peer.cpu_factor) for b, c in loads)
        return replace(self, loads=loads)
