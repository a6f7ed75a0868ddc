"""Every metric family, and how it is computed from the state.

`FAMILIES` is the table of all of them; docs/metrics.md is generated from it. Each family has a function
`rows` that yields label values with a number or a histogram.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from feedwater.values import Outcome
from feedwater_service import errors
from feedwater_service.model.types import Prediction, Recommendation, Verdict
from feedwater_service.state.columns import BOUNDS
from feedwater_service.state.counters import Histogram, LoaderCounters
from feedwater_service.state.hung import hung_seconds
from feedwater_service.state.reports import DROP_CAUSES
from feedwater_service.state.sessions import Session, State
from feedwater_service.state.traces import Trace


@dataclass(frozen=True, slots=True)
class View:
    """The input of a scrape."""

    state: State
    newest: dict[tuple[str, str], Session]
    """The newest session of each (loader, rank), by label values: two sessions of one name would export one
    series twice."""
    counters: list[tuple[tuple[str, str], LoaderCounters]]
    version: str
    python: str


Row = tuple[tuple[str, ...], float]
HistogramRow = tuple[tuple[str, ...], Histogram]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family."""

    name: str
    kind: str
    """``counter``, ``gauge`` or ``histogram``."""
    help: str
    """What it is: the help text that Prometheus shows."""
    guide: str
    """How to read it: when it is good, and what else to look at. For the documentation."""
    labels: tuple[str, ...]
    rows: Callable[[View], Iterable[Row] | Iterable[HistogramRow]]

    @property
    def exposed(self) -> str:
        """The name under which Prometheus knows it."""
        return f"{self.name}_total" if self.kind == "counter" else self.name

    @property
    def unit(self) -> str:
        """The base unit that its name ends in; empty for counts and states."""
        return next((unit for ending, unit in UNITS.items() if self.name.endswith(ending)), "")

    @property
    def series(self) -> int:
        """The most series that one loader of one rank, or the pod, has of it."""
        if self.kind == "histogram":
            # Each bound, +Inf, the sum and the count.
            return len(BOUNDS) + 3
        return math.prod(len(VALUES.get(label, ())) or 1 for label in self.labels)


LOADER = ("loader", "rank")
UNITS = {
    "batches_per_second": "batches/s",
    "_seconds": "seconds",
    "_bytes": "bytes",
    "_cores": "cores",
    "_ratio": "ratio",
}
"""By the end of a family's name."""
VALUES: dict[str, tuple[str, ...]] = {
    "verdict": tuple(verdict.value for verdict in Verdict),
    "outcome": tuple(outcome.value for outcome in Outcome),
    "cause": max(DROP_CAUSES, tuple(errors.CAUSES), key=len),
}
"""The possible values of the labels that clients do not choose. `cause` has two lists; this is the longer."""


def _counted(read: Callable[[LoaderCounters], float]) -> Callable[[View], Iterator[Row]]:
    return lambda view: ((labels, read(counters)) for labels, counters in view.counters)


def _observed(read: Callable[[LoaderCounters], Histogram]) -> Callable[[View], Iterator[HistogramRow]]:
    return lambda view: ((labels, read(counters)) for labels, counters in view.counters)


def _dropped_batches(view: View) -> Iterator[Row]:
    for labels, counters in view.counters:
        for cause in DROP_CAUSES:
            yield (*labels, cause), counters.dropped[cause]


def _outcomes(view: View) -> Iterator[Row]:
    for labels, counters in view.counters:
        for outcome in Outcome:
            yield (*labels, outcome.value), counters.outcomes[outcome.value]


def _of_session(read: Callable[[Session], float | None]) -> Callable[[View], Iterator[Row]]:
    def rows(view: View) -> Iterator[Row]:
        for labels, session in view.newest.items():
            value = read(session)
            if value is not None:
                yield labels, value

    return rows


def _of_trace(read: Callable[[Trace], float | None]) -> Callable[[View], Iterator[Row]]:
    return _of_session(lambda session: read(session.epochs[-1]) if session.epochs else None)


def _of_answer(read: Callable[[Recommendation], float | None]) -> Callable[[View], Iterator[Row]]:
    def of(session: Session) -> float | None:
        answer = session.answer
        return read(answer) if isinstance(answer, Recommendation) else None

    return _of_session(of)


def _of_pod(read: Callable[[State], float | None]) -> Callable[[View], Iterator[Row]]:
    def rows(view: View) -> Iterator[Row]:
        value = read(view.state)
        if value is not None:
            yield (), value

    return rows


def _of_container(field: str) -> Callable[[View], Iterator[Row]]:
    return _of_pod(lambda state: getattr(state.newest_container(), field, None))


def _of_budget(field: str) -> Callable[[View], Iterator[Row]]:
    return _of_pod(lambda state: getattr(state.budget(), field, None))


def _host_wait(trace: Trace) -> float | None:
    return trace.starvation if trace.received_batches > 1 else None


def _starvation(session: Session) -> float | None:
    """Return the host's wait, which is starvation only without CUDA."""
    if session.uses_cuda or not session.epochs:
        return None
    return _host_wait(session.epochs[-1])


def _ready(trace: Trace) -> float | None:
    return next((float(n) for n in reversed(trace.ready[-64:]) if n >= 0), None)


def _worker_memory(field: str, together: Callable[[list[int]], int]) -> Callable[[Trace], float | None]:
    def read(trace: Trace) -> float | None:
        newest = trace.newest_memory(field)
        return together(list(newest.values())) if newest else None

    return read


def _batch_bytes(trace: Trace) -> float | None:
    measured = [size for size in trace.loads.batch_bytes[-64:] if size]
    return sum(measured) / len(measured) if measured else None


def _rate(trace: Trace) -> float | None:
    seconds = trace.seconds
    return trace.batches / seconds if trace.batches and seconds > 0 else None


def _last_complete_epoch(session: Session) -> Trace | None:
    return next((t for t in reversed(session.epochs) if t.complete), None)


def _steady_rate(trace: Trace) -> float | None:
    """Return batches/s without start-up, as they are predicted."""
    seconds = trace.wait_seconds + trace.step_seconds
    return trace.received_batches / seconds if trace.received_batches and seconds > 0 else None


def _measured_rate(session: Session) -> float | None:
    trace = _last_complete_epoch(session)
    return _steady_rate(trace) if trace else None


def _prediction_error(session: Session) -> float | None:
    """Return predicted over measured, less one, of the last epoch that ran as predicted."""
    trace = _last_complete_epoch(session)
    answer = session.decision.answer if session.decision else None
    if trace is None or not isinstance(answer, Recommendation):
        return None
    prediction: Prediction = answer.chosen if trace.number > answer.epoch else answer.current
    measured = _steady_rate(trace)
    if not measured or prediction.settings.num_workers != trace.settings.num_workers:
        return None
    return prediction.batches_per_second / measured - 1.0


def _verdicts(view: View) -> Iterator[Row]:
    for labels, session in view.newest.items():
        answer = session.answer
        current = answer.verdict if isinstance(answer, Recommendation) else Verdict.UNKNOWN
        for verdict in Verdict:
            yield (*labels, verdict.value), float(verdict is current)


def _rejections(view: View) -> Iterator[Row]:
    for cause in errors.CAUSES:
        yield (cause,), view.state.counters.rejected[cause]


def _starved_seconds(view: View) -> Iterator[Row]:
    for labels, counters in view.counters:
        session = view.newest.get(labels)
        if session is None or not session.uses_cuda:
            yield labels, counters.starved_seconds


def _of_device(read: Callable[[LoaderCounters], float]) -> Callable[[View], Iterator[Row]]:
    """Yield rows of the loaders whose device was measured: absent is not zero."""
    return lambda view: (
        (labels, read(counters)) for labels, counters in view.counters if counters.device_steps
    )


def _utilisation(session: Session) -> float | None:
    return session.container.device_utilisation if session.container is not None else None


def _cpu_limit(state: State) -> float | None:
    budget = state.budget()
    return budget.cores if budget else None


def _family(name: str, kind: str, help: str, guide: str, labels: tuple[str, ...], rows: object) -> Family:
    return Family(f"feedwater_{name}", kind, help, guide, labels, rows)  # type: ignore[arg-type]


_histogram = partial(_family, kind="histogram", labels=LOADER)
_counter = partial(_family, kind="counter")
_gauge = partial(_family, kind="gauge")

FAMILIES: tuple[Family, ...] = (
    _histogram(
        "wait_seconds",
        help="Time that next() on the loader blocked.",
        guide="Its rate over the rate of wait and step is starvation, for any window. A long tail with a "
        "low median: slow batches block the head of the queue.",
        rows=_observed(lambda t: t.wait),
    ),
    _histogram(
        "step_seconds",
        help="Time from getting a batch to asking for the next: the trainer's own work.",
        guide="The pace to reach: batches/s cannot exceed one over its mean. On CUDA it is the host's part "
        "only.",
        rows=_observed(lambda t: t.step),
    ),
    _histogram(
        "load_seconds",
        help="Time that a worker took to make one batch.",
        guide="Its mean over the mean step is how many workers are needed, if nothing else is scarce.",
        rows=_observed(lambda t: t.load),
    ),
    _histogram(
        "load_cpu_seconds",
        help="CPU time of the loading thread for one batch.",
        guide="Close to load time: computing, so the CPU limit decides. Far below: waiting for storage.",
        rows=_observed(lambda t: t.load_cpu),
    ),
    _histogram(
        "load_run_delay_seconds",
        help="Time that the loading thread was runnable but not running for one batch, throttling included.",
        guide="More than a tenth of load time: workers wait for a CPU; more of them would not help.",
        rows=_observed(lambda t: t.load_run_delay),
    ),
    _counter(
        "batches",
        help="Batches delivered.",
        guide="The rate is the speed of training.",
        labels=LOADER,
        rows=_counted(lambda t: t.wait.count),
    ),
    _counter(
        "epochs",
        help="Epochs ended, abandoned ones included.",
        guide="Divides what is counted by epoch, such as start-up.",
        labels=LOADER,
        rows=_counted(lambda t: t.epochs),
    ),
    _counter(
        "starved_seconds",
        help="Waits, the first of each epoch apart; absent on CUDA, where host wait is not starvation.",
        guide="Its rate is the share of one trainer that is lost.",
        labels=LOADER,
        rows=_starved_seconds,
    ),
    _counter(
        "startup_seconds",
        help="Start-up: making iterators and waiting for their first batches.",
        guide="Over `feedwater_epochs_total`: the mean start-up. High with short epochs: persistent workers.",
        labels=LOADER,
        rows=_counted(lambda t: t.start_up_seconds),
    ),
    _gauge(
        "starvation_ratio",
        help="Share of iteration time spent waiting in the running or last epoch; absent on CUDA.",
        guide="Below 0.05 is fed; above 0.1 is worth a look. For a window of your own use the counters.",
        labels=LOADER,
        rows=_of_session(_starvation),
    ),
    _gauge(
        "host_wait_ratio",
        help="Share of iteration time that the host spent waiting in the running or last epoch.",
        guide="On CUDA the host also waits while the device is busy: no loss by itself.",
        labels=LOADER,
        rows=_of_trace(_host_wait),
    ),
    _gauge(
        "device_starvation_ratio",
        help="Share of its time that the accelerator waited for batches, of the sampled steps of the running "
        "or last epoch; absent where it was not measured.",
        guide="The loss that counts on CUDA: above 0.1 the accelerator is starved.",
        labels=LOADER,
        rows=_of_trace(lambda t: t.device_starvation),
    ),
    _counter(
        "device_idle_seconds",
        help="Time that the accelerator waited for batches: an estimate, sampled steps scaled to all.",
        guide="Its rate is the share of an accelerator that is lost.",
        labels=LOADER,
        rows=_of_device(lambda t: t.device_idle_seconds),
    ),
    _counter(
        "device_busy_seconds",
        help="Time from batches to the end of their steps on the accelerator: an estimate likewise.",
        guide="With idle time it makes the whole, for any window.",
        labels=LOADER,
        rows=_of_device(lambda t: t.device_busy_seconds),
    ),
    _counter(
        "device_sampled_steps",
        help="Steps that were sampled on the accelerator, about one in 16.",
        guide="Few: the ratio is rough. None: the device was not measured.",
        labels=LOADER,
        rows=_of_device(lambda t: t.device_steps),
    ),
    _gauge(
        "device_utilisation_ratio",
        help="Share of time in which the accelerator executed anything, as NVML says.",
        guide='1 is not "well used", only "never wholly idle". Low together with low starvation: the '
        "host's own work.",
        labels=LOADER,
        rows=_of_session(_utilisation),
    ),
    _gauge(
        "last_startup_seconds",
        help="Making the iterator and waiting for its first batch, of the running or last epoch.",
        guide="Grows with workers; apart from starvation, for more workers do not cure it.",
        labels=LOADER,
        rows=_of_trace(lambda t: t.start_up_seconds),
    ),
    _gauge(
        "num_workers",
        help="Workers in use.",
        guide="Compare with recommended.",
        labels=LOADER,
        rows=_of_session(lambda s: s.settings.num_workers),
    ),
    _gauge(
        "recommended_num_workers",
        help="Workers recommended.",
        guide="Other than in use: not applied yet, advised only, or refused; see recommendations by outcome.",
        labels=LOADER,
        rows=_of_answer(lambda a: a.settings.num_workers),
    ),
    _gauge(
        "uncapped_num_workers",
        help="Workers that would be recommended without the pod's limits.",
        guide="Above recommended: a limit of the pod holds it back, and the verdict says which.",
        labels=LOADER,
        rows=_of_answer(lambda a: a.uncapped_num_workers),
    ),
    _gauge(
        "cpu_limit_needed_cores",
        help="The container's CPU limit at which starvation ends, or beyond which nothing is gained where "
        "none ends it, as simulated; absent where neither is known.",
        guide="Above `feedwater_trainer_cpu_limit_cores`: raise the limit to it. It is of the whole "
        "container, so take the largest over loaders and ranks.",
        labels=LOADER,
        rows=_of_answer(lambda a: a.cpu_limit_needed_cores),
    ),
    _gauge(
        "prefetch_factor",
        help="Batches that each worker keeps ready; absent where PyTorch's default holds.",
        guide="Times workers: batches that wait in /dev/shm.",
        labels=LOADER,
        rows=_of_session(lambda s: s.settings.prefetch_factor),
    ),
    _gauge(
        "recommended_prefetch_factor",
        help="Batches that each worker should keep ready.",
        guide="Other than in use: as for workers.",
        labels=LOADER,
        rows=_of_answer(lambda a: a.settings.prefetch_factor),
    ),
    _gauge(
        "ready_batches",
        help="Batches ready in the main process, last read.",
        guide="0 at most times: the loader is behind. Near workers times prefetch: it is ahead.",
        labels=LOADER,
        rows=_of_trace(_ready),
    ),
    _gauge(
        "hung_seconds",
        help="Time without a batch while some are outstanding, as of the last report; 0 where none are, "
        "absent where that cannot be told, as between epochs, without workers and for iterable datasets.",
        guide="Minutes: a worker hangs, and the job stands still until somebody ends it.",
        labels=LOADER,
        rows=_of_session(hung_seconds),
    ),
    _gauge(
        "workers_rss_bytes",
        help="Resident memory of all workers; shared pages count once per worker.",
        guide="Lies high under fork, for shared pages count many times; use PSS where it is there.",
        labels=LOADER,
        rows=_of_trace(_worker_memory("rss_bytes", sum)),
    ),
    _gauge(
        "worker_rss_max_bytes",
        help="Resident memory of the largest worker.",
        guide="What the kernel's killer would look at first.",
        labels=LOADER,
        rows=_of_trace(_worker_memory("rss_bytes", max)),
    ),
    _gauge(
        "workers_pss_bytes",
        help="Proportional memory of all workers: shared pages divided among their users.",
        guide="What the workers really take. Rising over epochs: Python objects are copied page by page.",
        labels=LOADER,
        rows=_of_trace(_worker_memory("pss_bytes", sum)),
    ),
    _gauge(
        "worker_pss_max_bytes",
        help="Proportional memory of the largest worker.",
        guide="Times workers is what more of them would take.",
        labels=LOADER,
        rows=_of_trace(_worker_memory("pss_bytes", max)),
    ),
    _gauge(
        "batch_bytes",
        help="Size of a batch, mean of the newest.",
        guide="Times workers times prefetch: what /dev/shm must hold.",
        labels=LOADER,
        rows=_of_trace(_batch_bytes),
    ),
    _gauge(
        "batches_per_second",
        help="Batches divided by the time since the iterator was asked for, of the running or last epoch.",
        guide="Start-up included, so the beginning of an epoch reads low.",
        labels=LOADER,
        rows=_of_trace(_rate),
    ),
    _gauge(
        "measured_batches_per_second",
        help="Batches/s of the last complete epoch without its start-up.",
        guide="Compare with predicted.",
        labels=LOADER,
        rows=_of_session(_measured_rate),
    ),
    _gauge(
        "predicted_batches_per_second",
        help="Batches/s that the recommended settings should give.",
        guide="Of the settings recommended, not of those in use.",
        labels=LOADER,
        rows=_of_answer(lambda a: a.chosen.batches_per_second),
    ),
    _gauge(
        "predicted_lower_batches_per_second",
        help="Lower bound of the prediction.",
        guide="Within both bounds lay 85 % of what was measured since (docs/recommendation.md).",
        labels=LOADER,
        rows=_of_answer(lambda a: a.chosen.batches_per_second_lower),
    ),
    _gauge(
        "predicted_upper_batches_per_second",
        help="Upper bound of the prediction.",
        guide="Far above lower: the recommendation is an exploration.",
        labels=LOADER,
        rows=_of_answer(lambda a: a.chosen.batches_per_second_upper),
    ),
    _gauge(
        "prediction_error_ratio",
        help="Predicted over measured batches/s, less one, of the last complete epoch.",
        guide="Within 0.1 the model knows this loader; beyond 0.25 for long, do not trust its numbers.",
        labels=LOADER,
        rows=_of_session(_prediction_error),
    ),
    _gauge(
        "verdict",
        help="1 for the verdict that holds, 0 for the others.",
        guide="`== 1` names the bottleneck. Summed over pods: how many have it.",
        labels=(*LOADER, "verdict"),
        rows=_verdicts,
    ),
    _counter(
        "recommendations",
        help="What became of recommendations, by outcome.",
        guide="`refused` and `failed` rise: the log says why. `applied` stays low by design.",
        labels=(*LOADER, "outcome"),
        rows=_outcomes,
    ),
    _gauge(
        "frozen",
        help="1 where nothing is recommended any more because a trainer ended under a change.",
        guide="1: the user's own settings are kept for the rest of the job.",
        labels=LOADER,
        rows=_of_session(lambda s: float(bool(s.frozen))),
    ),
    _counter(
        "dropped_batches",
        help="Batches lost in measurement, by cause.",
        guide="Of all batches more than a hundredth: figures are rough. Training is not harmed.",
        labels=(*LOADER, "cause"),
        rows=_dropped_batches,
    ),
    _counter(
        "reports",
        help="Reports counted.",
        guide="No rise: the trainer is gone, or does not reach the sidecar.",
        labels=LOADER,
        rows=_counted(lambda t: t.reports),
    ),
    _counter(
        "replayed_reports",
        help="Reports that came again.",
        guide="Some after each restart of the sidecar; they count once.",
        labels=LOADER,
        rows=_counted(lambda t: t.replayed),
    ),
    _counter(
        "missing_reports",
        help="Reports that never came.",
        guide="Any: the trainer's buffer was full or was killed.",
        labels=LOADER,
        rows=_counted(lambda t: t.missing),
    ),
    _counter(
        "rejected_calls",
        help="Calls refused, by cause.",
        guide="`malformed` rises: a client of another version, or something that is none.",
        labels=("cause",),
        rows=_rejections,
    ),
    _gauge(
        "loaders",
        help="Loaders that report.",
        guide="0 in a pod that trains: nothing is watched.",
        labels=(),
        rows=_of_pod(lambda state: sum(1 for _ in state.active())),
    ),
    _gauge(
        "trainer_cpu_limit_cores",
        help="The smaller of the container's CPU quota and the CPUs it may run on.",
        guide="What recommendations are made for; where there is no quota, the CPUs.",
        labels=(),
        rows=_of_pod(_cpu_limit),
    ),
    _counter(
        "trainer_cpu_seconds",
        help="CPU time of the trainer's container, as its cgroup counts it.",
        guide="Its rate over the limit: near 1 the limit is the bottleneck.",
        labels=(),
        rows=_of_container("cpu_seconds"),
    ),
    _counter(
        "trainer_cpu_periods",
        help="CFS periods in which the container ran.",
        guide="The denominator of throttling.",
        labels=(),
        rows=_of_container("periods"),
    ),
    _counter(
        "trainer_cpu_throttled_periods",
        help="CFS periods in which the container was throttled.",
        guide="Over periods: the share of them in which everything stood still for a while.",
        labels=(),
        rows=_of_container("throttled_periods"),
    ),
    _counter(
        "trainer_cpu_throttled_seconds",
        help="Time that the container was throttled, summed over CPUs.",
        guide="Sums over CPUs, so its rate may exceed 1.",
        labels=(),
        rows=_of_container("throttled_seconds"),
    ),
    _gauge(
        "trainer_memory_limit_bytes",
        help="The container's memory limit.",
        guide="Absent: none.",
        labels=(),
        rows=_of_budget("memory_bytes"),
    ),
    _gauge(
        "trainer_memory_used_bytes",
        help="Anonymous, unreclaimable and shared memory of the container.",
        guide="Over the limit: above 0.9 a worker more may end the container. Page cache is not counted.",
        labels=(),
        rows=_of_container("memory_bytes"),
    ),
    _gauge(
        "trainer_shm_size_bytes",
        help="Size of /dev/shm.",
        guide="64 MB unless the pod mounts more.",
        labels=(),
        rows=_of_budget("shm_bytes"),
    ),
    _gauge(
        "trainer_shm_used_bytes",
        help="Bytes used in /dev/shm.",
        guide='Over the size: above 0.9 the next batch may end with "No space left on device".',
        labels=(),
        rows=_of_container("shm_bytes"),
    ),
    _counter(
        "trainer_oom_kills",
        help="Processes of the container killed for memory.",
        guide="Any rise: workers or prefetch take more than the limit gives.",
        labels=(),
        rows=_of_container("oom_kills"),
    ),
    _counter(
        "model_runs",
        help="Runs of the model, drafts included.",
        guide="One or two for each epoch.",
        labels=(),
        rows=_of_pod(lambda state: state.counters.model_runs),
    ),
    _counter(
        "model_cpu_seconds",
        help="CPU time of the model.",
        guide="Over runs: what a recommendation costs.",
        labels=(),
        rows=_of_pod(lambda state: state.counters.model_seconds),
    ),
    _counter(
        "model_given_up_runs",
        help="Runs of the model that were given up at their limit of CPU time or of simulated events.",
        guide="Any: a loader reports what no real one has; the log names it. Others are not affected.",
        labels=(),
        rows=_of_pod(lambda state: state.counters.model_given_up),
    ),
    _counter(
        "checkpoint_failures",
        help="Writes to the state directory that failed.",
        guide="Any: after a restart of the sidecar older state returns; is the volume full?",
        labels=(),
        rows=_of_pod(lambda state: state.counters.checkpoint_failures),
    ),
    _gauge(
        "build_info",
        help="1, with the sidecar's version.",
        guide="Join on it to have the version as a label.",
        labels=("version", "python"),
        rows=lambda view: [((view.version, view.python), 1.0)],
    ),
)
