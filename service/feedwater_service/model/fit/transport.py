"""What handing a batch from its worker to the loop costs, from the stamps of loads and of batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from feedwater_service.model.numbers import costs, floors
from feedwater_service.model.observed.timeline import stamps
from feedwater_service.model.simulator.simulate import SimulatedBatches
from feedwater_service.model.types import Epoch, Load


@dataclass(frozen=True, slots=True)
class TransportCost:
    """Seconds of CPU and of waking up that handing one batch over takes."""

    send_seconds: float
    """CPU time of the worker."""
    receive_seconds: float
    """From taking the batch to having it: main process, worker's passing thread, wake-ups."""
    is_measured: bool
    """Batches were seen moving between processes; else these are the usual costs."""

    @property
    def main_cpu_seconds(self) -> float:
        """The main process' CPU time of a reception."""
        return self.receive_seconds * costs.RECEIVE_MAIN_CPU_SHARE

    @property
    def pass_cpu_seconds(self) -> float:
        """CPU time of the worker's thread that passes the descriptors."""
        return self.receive_seconds * costs.RECEIVE_WORKER_CPU_SHARE

    @property
    def wake_seconds(self) -> float:
        """Time in which both sides wake up, without CPU time."""
        return self.receive_seconds * (1 - costs.RECEIVE_MAIN_CPU_SHARE - costs.RECEIVE_WORKER_CPU_SHARE)


@dataclass(frozen=True, slots=True)
class BatchDelivery:
    """One batch's delivery to the loop."""

    delay: float
    """Seconds from when it was loaded and asked for, whichever came later, to its delivery."""
    main_waited: bool
    """It was asked for before it was loaded."""


def deliveries_of(epoch: Epoch) -> list[BatchDelivery]:
    """Return the deliveries of an epoch's batches in order, without the first.

    Empty where loads and batches cannot be matched, see `_ends`.
    """
    if epoch.parts:
        return [delivery for part in epoch.parts for delivery in deliveries_of(part)]
    ends = _ends(epoch)
    if not ends:
        return []
    asked, got = stamps(epoch)
    return [_delivery(*times) for times in zip(asked[1:], ends[1:], got[1:], strict=False)]


def gap_between_loads(epoch: Epoch) -> float | None:
    """Return the median time between two loads of a worker that had its next index already, in seconds.

    The index of batch ``i`` is put when batch ``i - num_workers * prefetch_factor`` is delivered. None where
    fewer than `floors.MIN_SAMPLES` are known.
    """
    gaps = [gap for part in epoch.parts or (epoch,) for gap in _gaps_between_loads(part)]
    return max(0.0, median(gaps)) if len(gaps) >= floors.MIN_SAMPLES else None


def _gaps_between_loads(epoch: Epoch) -> list[float]:
    workers, ahead = epoch.settings.num_workers, epoch.settings.queue_batches
    ends = _ends(epoch)
    if not ends:
        return []
    _, got = stamps(epoch)
    starts = [load.start for load in _in_order(epoch)]
    # Loads may be reported before the batches whose delivery asked for them.
    known = min(len(ends), len(got) + ahead)
    return [
        starts[i] - ends[i - workers]
        for i in range(workers, known)
        if i < ahead or got[i - ahead] < ends[i - workers]
    ]


def _ends(epoch: Epoch) -> list[float]:
    """When the load of each batch ended, by the batch's number.

    Empty unless the whole epoch is known and delivery is in order: batch ``i`` is then the next one of worker
    ``i % num_workers``. A load that ends after its batch was delivered shows that some are missing.
    """
    workers, batches = epoch.settings.num_workers, len(epoch.waits)
    whole = batches >= epoch.batches and epoch.dropped == 0 and len(epoch.loads) >= batches
    if workers == 0 or not epoch.settings.in_order or not whole:
        return []
    ends = [load.start + load.seconds for load in _in_order(epoch)]
    _, got = stamps(epoch)
    odd = sum(end > at + floors.STAMP_ERROR_SECONDS for end, at in zip(ends, got, strict=False))
    return ends if len(ends) >= batches and odd <= floors.MAX_UNMATCHED_SHARE * batches else []


def _in_order(epoch: Epoch) -> list[Load]:
    """The epoch's loads in the order of their batches, up to the first that is missing."""
    workers = epoch.settings.num_workers
    made: list[list[Load]] = [[] for _ in range(workers)]
    for load in epoch.loads:
        if 0 <= load.worker < workers:
            made[load.worker].append(load)
    found = []
    for i in range(len(epoch.loads)):
        if i // workers >= len(made[i % workers]):
            break
        found.append(made[i % workers][i // workers])
    return found


def simulated_deliveries(run: SimulatedBatches) -> list[BatchDelivery]:
    """Return the deliveries of a simulated epoch's batches in order, without the first."""
    whole = zip(run.asked[1:], run.loaded[1:], run.got[1:], strict=True)
    return [_delivery(asked, made, got) for asked, made, got in whole]


def mean_delay(deliveries: Sequence[BatchDelivery]) -> float:
    """Return the mean delay in seconds; 0 for none."""
    return fmean(p.delay for p in deliveries) if deliveries else 0.0


def _delivery(asked: float, made: float, got: float) -> BatchDelivery:
    return BatchDelivery(max(0.0, got - max(asked, made)), asked < made)


def transport_of(epoch: Epoch, loads: Sequence[Load], stretch: float) -> TransportCost:
    """Return what handing a batch over costs on either side; the usual costs where it was not seen.

    Args:
        epoch: Its stamps of batches, and its settings.
        loads: Its loads, each worker's first one without what it alone paid.
        stretch: Times that CPU bursts of loads took longer than undisturbed.
    """
    usual = _usual_cost(epoch, loads)
    if epoch.settings.num_workers == 0 or len(epoch.waits) < 3:
        return usual
    gap = gap_between_loads(epoch)
    send = usual.send_seconds if gap is None else min(gap, floors.MAX_USUAL_FACTOR * usual.send_seconds)
    receive = _measured_receive(epoch, loads, send, usual.receive_seconds, stretch)
    if receive is not None:
        return TransportCost(send, receive, True)
    # Without stamps: a batch that was there already costs its reception alone; the lowest tenth of waits.
    receive = sorted(epoch.waits[1:])[len(epoch.waits) // 10]
    if receive > floors.MAX_USUAL_FACTOR * usual.receive_seconds:
        return usual
    return TransportCost(min(receive, usual.send_seconds), receive, True)


def _usual_cost(epoch: Epoch, loads: Sequence[Load]) -> TransportCost:
    """What batches of this size and number of tensors usually cost, in a loop of such steps."""
    tensors = [load.batch_tensors for load in loads if load.batch_tensors]
    more = costs.EXTRA_TENSOR_SECONDS * max(0.0, fmean(tensors) - 1) if tensors else 0.0
    cold = min(1.0, fmean(epoch.steps) / costs.COLD_STEP_SECONDS)
    receive = costs.RECEIVE_SECONDS_HOT + (costs.RECEIVE_SECONDS - costs.RECEIVE_SECONDS_HOT) * cold
    return TransportCost(
        costs.SEND_SECONDS, receive + more + costs.UNMAP_SECONDS_PER_BYTE * _batch_bytes(loads), False
    )


def _measured_receive(
    epoch: Epoch, loads: Sequence[Load], send: float, usual: float, stretch: float
) -> float | None:
    """Seconds of a reception by the stamps of both sides; None where too few can be matched."""
    deliveries = deliveries_of(epoch)
    delays = sorted(p.delay for p in deliveries if p.main_waited)
    if len(delays) >= floors.MIN_SAMPLES:
        # Where threads wait for a CPU, the quicker deliveries show the work itself.
        receive = max(
            delays[len(delays) // (2 if stretch < floors.NOTICEABLE_STRETCH else 4)] - send,
            floors.MIN_USUAL_FACTOR * usual,
        )
        return usual if _waits_for_gil(loads, receive, usual) else receive
    if len(deliveries) < floors.MIN_SAMPLES:
        return None
    # The main process never waited for a load: its waits are what it pays itself.
    waits = sorted(p.delay for p in deliveries)
    if not _computes(loads):
        return max(fmean(waits[: -max(1, len(waits) // 20)]), floors.MIN_USUAL_FACTOR * usual)
    # Workers that compute delay it, which `calibrate` finds: the quicker receptions show the work itself.
    quick = max(waits[len(waits) // 4], floors.MIN_USUAL_FACTOR * usual)
    return usual if _waits_for_gil(loads, quick, usual) else quick


def _waits_for_gil(loads: Sequence[Load], receive: float, usual: float) -> bool:
    """Whether a reception takes so long that it must have waited for its worker's interpreter lock."""
    known = any(load.batch_tensors for load in loads)
    return known and _computes(loads) and receive > floors.HELD_UP_FACTOR * usual


def _batch_bytes(loads: Sequence[Load]) -> float:
    """Mean bytes of a batch, where measured."""
    sizes = [load.batch_bytes for load in loads if load.batch_bytes]
    return fmean(sizes) if sizes else 0.0


def shm_write_seconds(epoch: Epoch, loads: Sequence[Load]) -> float:
    """Return the CPU seconds of a worker's load that fill shared memory; without workers there are none."""
    writing = costs.SHARE_SECONDS_PER_BYTE * _batch_bytes(loads)
    if epoch.settings.num_workers == 0:
        return writing
    cpu = fmean(load.cpu_seconds for load in loads) if loads else 0.0
    # Part of what was measured in the worker: it cannot be most of that.
    return min(writing, 0.8 * cpu) if cpu > 0 else writing


def _computes(loads: Sequence[Load]) -> bool:
    """Whether loads hold the interpreter lock long enough to delay deliveries."""
    cpu = sum(load.cpu_seconds for load in loads)
    blocked = sum(load.blocked_seconds for load in loads)
    return cpu > floors.COMPUTING_SECONDS * len(loads) and cpu > floors.COMPUTING_SHARE * blocked


def inline_seconds(epoch: Epoch, loads: Sequence[Load]) -> float:
    """Return what a batch costs in the main process at ``num_workers=0``, besides its load."""
    if epoch.settings.num_workers > 0 or len(loads) != len(epoch.waits) - 1:
        return 0.0
    besides = [w - load.seconds for w, load in zip(epoch.waits[1:], loads, strict=True)]
    return max(0.0, median(besides))
