"""The dashboard of one job: what its loaders do, what holds them back, and what to set."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import (
    AnnotationQuery,
    Dashboard,
    DashboardLink,
    QueryVariable,
    Row,
)
from grafana_foundation_sdk.models.dashboard import VariableSort

from deploy.monitoring.dashboards import verdicts
from deploy.monitoring.dashboards.frame import (
    PODS,
    cluster_variable,
    folded,
    framed,
    marks,
    one_of,
    some_of,
    to_dashboard,
)
from deploy.monitoring.dashboards.panels import (
    ADVISED,
    COLOURED,
    DASHED,
    DOTTED,
    SHARE,
    Column,
    Line,
    Panel,
    figure,
    graph,
    levels,
    rows_of,
    timeline,
)

UID = "feedwater-job"

OF_WORKLOAD = 'cluster=~"$cluster", namespace="$namespace", workload="$workload"'
OF_PODS = 'cluster=~"$cluster", namespace="$namespace", pod=~"$pod"'
OF_LOADERS = f'{OF_PODS}, loader=~"$loader"'
FIRING = f'ALERTS{{alertname=~"Feedwater.+", alertstate="firing", {OF_PODS}}}'
LOADER = "cluster, namespace, pod, loader, rank"
NAMED = "{{loader}} · rank {{rank}} · {{pod}}"

# At a twentieth and at a tenth: what no setting recovers, and where the alerts for starvation begin.
STARVATION = levels(yellow=0.05, orange=0.1)


def dashboard() -> Dashboard:
    """Return the dashboard."""
    return (
        _framed()
        .with_panel(_starvation_now())
        .with_panel(_gpu_hours_lost())
        .with_panel(_speed_now())
        .with_panel(_gain_within_reach())
        .with_panel(_memory_now())
        .with_panel(_shared_memory_now())
        .with_panel(_throttled_now())
        .with_panel(_alerts_now())
        .with_panel(_what_to_set())
        .with_panel(_verdicts())
        .with_panel(_wait_against_step())
        .with_panel(_starvation())
        .with_panel(_workers())
        .with_row(_speed())
        .with_row(_loading())
        .with_row(_device())
        .with_row(_limits())
        .with_row(_decisions())
    )


def _framed() -> Dashboard:
    framed_ = framed(
        UID,
        "Feedwater / Job",
        "What the DataLoaders of one job do, what holds them back, and what to set. "
        "Needs Feedwater's recording rules.",
        _to_cluster(),
        hours=3,
    )
    variables = (cluster_variable(), _namespaces(), _workloads(), _pods(), _loaders())
    for variable in variables:
        framed_.with_variable(variable)
    return framed_.annotation(_alerts_over_time()).annotation(_changes_over_time())


def _to_cluster() -> DashboardLink:
    return to_dashboard(
        "Cluster",
        "What all jobs lose, and which to fix first",
        "feedwater-cluster",
        ("datasource", "cluster", "namespace"),
    )


def _namespaces() -> QueryVariable:
    return one_of(
        "namespace",
        "Namespace",
        "Namespaces with a pod that has a sidecar.",
        f'label_values({PODS}{{cluster=~"$cluster"}}, namespace)',
    )


def _workloads() -> QueryVariable:
    return one_of(
        "workload",
        "Workload",
        "The job: the label `workload` of the targets, else the controller that owns the pod, else the pod.",
        f'label_values({PODS}{{cluster=~"$cluster", namespace="$namespace"}}, workload)',
    )


def _pods() -> QueryVariable:
    return some_of(
        "pod",
        "Pod",
        "Pods of the workload. All is each of them by name: others of the namespace stay out.",
        f"label_values({PODS}{{{OF_WORKLOAD}}}, pod)",
    )


def _loaders() -> QueryVariable:
    return some_of(
        "loader",
        "Loader",
        "DataLoaders by the name that the script gave them.",
        f"label_values(feedwater_num_workers{{{OF_PODS}}}, loader)",
        everything=".+",
    ).sort(VariableSort.ALPHABETICAL_CASE_INSENSITIVE_ASC)


def _alerts_over_time() -> AnnotationQuery:
    return marks("Alerts", "orange", FIRING, "{{alertname}}", "{{loader}} {{rank}} {{pod}}")


def _changes_over_time() -> AnnotationQuery:
    # Two steps wide, so that it holds at a scrape a minute.
    applied = f'increase(feedwater_recommendations_total{{{OF_LOADERS}, outcome="applied"}}[2m])'
    return marks(
        "Settings changed",
        "blue",
        f"sum by (pod, loader) ({applied}) > 0",
        "Feedwater changed settings",
        "{{loader}} {{pod}}",
    )


def _each(metric: str, together: str = "max") -> str:
    """Return a metric by loader, without the labels of the scrape."""
    return f"{together} by ({LOADER}) ({metric}{{{OF_LOADERS}}})"


def _recorded(series: str) -> str:
    return f"{series}{{{OF_LOADERS}}}"


def _mean(histogram: str) -> str:
    """Return the mean of a histogram's observations by pod, loader and rank."""
    by = "by (pod, loader, rank)"
    return (
        f"sum {by} (rate({histogram}_sum{{{OF_LOADERS}}}[$__rate_interval]))\n"
        f"/ sum {by} (rate({histogram}_count{{{OF_LOADERS}}}[$__rate_interval]))"
    )


# -- The first line: is anything wrong? --------------------------------------------------------------------


def _starvation_now() -> Panel:
    return figure(
        "Starvation",
        "Share of time lost to waiting for batches, over ten minutes, first batches of epochs apart. On "
        "CUDA it is measured on the accelerator; what the host waits there is no loss. Below 5 % nothing is "
        "to be gained; from 10 % the alerts speak.",
        [
            Line(_share_of_time("device_idle_seconds", "device_seconds"), "Accelerator"),
            Line(_share_of_time("starved_seconds", "iteration_seconds"), "CPU trainer"),
        ],
        "percentunit",
        thresholds=STARVATION,
        decimals=0,
        no_value="not measured",
    )


def _share_of_time(lost: str, spent: str) -> str:
    """Return a ratio of sums over loaders and ranks, of two recorded rates."""
    lost, spent = (_recorded(f"loader:feedwater_{one}:rate10m") for one in (lost, spent))
    return f"sum({lost}) / (sum({spent}) > 0)"


def _gpu_hours_lost() -> Panel:
    return figure(
        "GPU-hours lost",
        "Hours that accelerators stood still for want of batches in the time range, measured on the "
        "accelerators alone. Empty for jobs without one, or where it could not be measured.",
        [Line(f"sum(increase(feedwater_device_idle_seconds_total{{{OF_LOADERS}}}[$__range])) / 3600")],
        "short",
        decimals=2,
        no_value="not measured",
    )


def _speed_now() -> Panel:
    return figure(
        "Batches/s",
        "Batches per second of the running epochs, all ranks and loaders together. This is what Feedwater "
        "maximises.",
        [Line(f"sum({_recorded('feedwater_batches_per_second')})")],
        "short",
        decimals=1,
    )


def _gain_within_reach() -> Panel:
    return figure(
        "Gain within reach",
        "By how much the recommended settings should raise batches per second, of the loader that gains "
        "most. Below 2 % Feedwater changes nothing; above 10 % that nobody takes, an alert says so.",
        [Line(f"max({_recorded('loader:feedwater_predicted_gain:ratio')})")],
        "percentunit",
        thresholds=levels(yellow=0.02, orange=0.1),
        decimals=0,
        no_value="not known yet",
    )


def _memory_now() -> Panel:
    return figure(
        "Memory",
        "Share of the memory limit in use in the fullest pod, page cache apart. Beyond the limit the kernel "
        "kills. Recommendations leave a tenth free, and the alert begins there.",
        [Line(f"max(pod:feedwater_trainer_memory_used:ratio{{{OF_PODS}}})")],
        "percentunit",
        thresholds=levels(yellow=0.8, red=0.9),
        decimals=0,
        no_value="no limit",
    )


def _shared_memory_now() -> Panel:
    return figure(
        "/dev/shm",
        "Share of /dev/shm in use in the fullest pod. Batches lie there on their way from the workers; a "
        "full one ends training. The alert begins at 85 %.",
        [Line(f"max(pod:feedwater_trainer_shm_used:ratio{{{OF_PODS}}})")],
        "percentunit",
        thresholds=levels(yellow=0.7, red=0.85),
        decimals=0,
        no_value="not known",
    )


def _throttled_now() -> Panel:
    return figure(
        "Throttled",
        "Share of CFS periods (100 ms each) in which the CPU limit throttled the pod, over ten minutes, of "
        "the pod that suffers most. The alert begins at a quarter.",
        [Line(f"max(pod:feedwater_trainer_cpu_throttled_periods:ratio_rate10m{{{OF_PODS}}})")],
        "percentunit",
        thresholds=levels(yellow=0.1, orange=0.25),
        decimals=0,
        no_value="no limit",
    )


def _alerts_now() -> Panel:
    return figure(
        "Alerts firing",
        "Alerts of Feedwater that fire for these pods. Their text names the cause and the number to set.",
        [Line(f"count({FIRING}) or vector(0)")],
        "none",
        thresholds=levels(orange=1),
    )


# -- The second line: what to do ---------------------------------------------------------------------------


def _what_to_set() -> Panel:
    return rows_of(
        "What to set",
        "One row for each loader and rank. Set is the num_workers that Feedwater recommends for this pod's "
        "limits; Unlimited is what it would be without them: where it is larger, a limit is the bottleneck. "
        "Gain is what Set should bring over the last complete epoch. Frozen: a trainer ended under a "
        "change, so nothing is recommended any more. Empty cells are not known yet.",
        [*_which_loader(), *_what_holds_it(), *_settings()],
        sort_by="Starved",
        no_value="No loader reports: is the sidecar scraped, and are the recording rules loaded?",
        width=15,
    )


def _which_loader() -> list[Column]:
    return [
        Column("Pod", label="pod"),
        Column("Loader", 120, label="loader"),
        Column("Rank", 60, label="rank"),
    ]


def _what_holds_it() -> list[Column]:
    starved = (
        f"{_recorded('loader:feedwater_device_starvation:ratio_rate10m')}\n"
        f"or {_recorded('loader:feedwater_starvation:ratio_rate10m')}"
    )
    return [
        Column(
            "Verdict",
            180,
            label="verdict",
            expr=_recorded("loader_verdict:feedwater_verdict:max"),
            look={"mappings": [verdicts.by_name()], **COLOURED},
            links=verdicts.RUNBOOK,
        ),
        Column("Starved", 80, expr=starved, look={**SHARE, **COLOURED, "thresholds": STARVATION.build()}),
    ]


def _settings() -> list[Column]:
    yes_or_no = {"type": "value", "options": {"0": {"text": "no"}, "1": {"text": "yes"}}}
    return [
        Column("In use", 70, expr=_recorded("loader:feedwater_num_workers:max")),
        Column("Set", 60, expr=_recorded("loader:feedwater_recommended_num_workers:max"), look=ADVISED),
        Column("Unlimited", 90, expr=_each("feedwater_uncapped_num_workers")),
        Column("Prefetch", 80, expr=_each("feedwater_recommended_prefetch_factor")),
        Column("Gain", 70, expr=_recorded("loader:feedwater_predicted_gain:ratio"), look=SHARE),
        Column("Frozen", 70, expr=_each("feedwater_frozen"), look={"mappings": [yes_or_no]}),
    ]


def _verdicts() -> Panel:
    return timeline(
        "Verdicts",
        "The named bottleneck of each loader over time. Green: not starved. Blue: another setting helps. "
        "Orange: a limit of the pod stands in the way. Purple: the cause is storage, the trainer's own code "
        "or another rank. The runbooks say what each asks for.",
        Line(verdicts.numbered(OF_LOADERS), NAMED),
        verdicts.by_number(),
        width=9,
    )


# -- The third line: what happens --------------------------------------------------------------------------


def _wait_against_step() -> Panel:
    return graph(
        "Wait against step",
        "Mean time for one batch. Wait (solid): next() on the loader blocked. Step (dashed): the trainer's "
        "own work. A wait well below the step costs little. On CUDA the host also waits while the "
        "accelerator is busy: look at starvation, not at the wait.",
        [
            Line(_mean("feedwater_wait_seconds"), f"wait · {NAMED}"),
            Line(_mean("feedwater_step_seconds"), f"step · {NAMED}", DASHED),
        ],
        "s",
    )


def _starvation() -> Panel:
    return graph(
        "Starvation",
        "Share of time lost to waiting for batches, over ten minutes, by rank. The dashed lines are at 5 %, "
        "below which nothing is to be gained, and at 10 %, where the alerts begin.",
        [
            Line(_recorded("loader:feedwater_device_starvation:ratio_rate10m"), f"accelerator · {NAMED}"),
            Line(_recorded("loader:feedwater_starvation:ratio_rate10m"), f"CPU trainer · {NAMED}"),
        ],
        "percentunit",
        thresholds=STARVATION,
        maximum=1,
    )


def _workers() -> Panel:
    return graph(
        "Workers",
        "Workers in use (solid), recommended for this pod's limits (dashed), and without the limits "
        "(dotted). In mode auto the solid line follows the dashed one at the next epoch. A dotted line "
        "above the dashed one: a limit is the bottleneck.",
        [
            Line(_recorded("loader:feedwater_num_workers:max"), f"in use · {NAMED}"),
            Line(_recorded("loader:feedwater_recommended_num_workers:max"), f"recommended · {NAMED}", DASHED),
            Line(_each("feedwater_uncapped_num_workers"), f"without limits · {NAMED}", DOTTED),
        ],
        "none",
    )


# -- Folded: the evidence ----------------------------------------------------------------------------------


def _speed() -> Row:
    return folded(
        "Speed: predicted and measured, start-up, standstill",
        _predicted_against_measured(),
        _prediction_error(),
        _start_up(),
        _batches_per_second(),
        _ready_batches(),
        _hung(),
    )


def _predicted_against_measured() -> Panel:
    return graph(
        "Predicted against measured",
        "Measured (solid) is the last complete epoch without its start-up. Predicted (dashed) is "
        "what the recommended settings should give, between its bounds (dotted). Wide bounds: the "
        "model knows little yet. A measurement outside of them: it is wrong here.",
        [
            Line(_each("feedwater_measured_batches_per_second"), f"measured · {NAMED}"),
            Line(_each("feedwater_predicted_batches_per_second"), f"predicted · {NAMED}", DASHED),
            Line(_each("feedwater_predicted_lower_batches_per_second"), f"lower · {NAMED}", DOTTED),
            Line(_each("feedwater_predicted_upper_batches_per_second"), f"upper · {NAMED}", DOTTED),
        ],
        "short",
        axis="batches/s",
        width=12,
    )


def _prediction_error() -> Panel:
    return graph(
        "Prediction error",
        "Predicted over measured batches per second, less one, of the last epoch that ran as "
        "predicted. Above zero: promised too much. Beyond a quarter an alert speaks.",
        [Line(_each("feedwater_prediction_error_ratio"), NAMED)],
        "percentunit",
        width=6,
        thresholds=levels(orange=0.25),
        minimum=None,
        no_value="No epoch has run as predicted yet",
    )


def _start_up() -> Panel:
    return graph(
        "Start-up",
        "Making the iterator and waiting for the first batch of an epoch: it grows with the "
        "workers, and is not part of starvation. Long beside an epoch: persistent_workers=True.",
        [Line(_recorded("loader:feedwater_last_startup_seconds:max"), NAMED)],
        "s",
        width=6,
    )


def _batches_per_second() -> Panel:
    return graph(
        "Batches/s now",
        "Batches per second of the running epoch, start-up included, by rank. Ranks that train "
        "together should be alike.",
        [Line(_each("feedwater_batches_per_second"), NAMED)],
        "short",
        axis="batches/s",
    )


def _ready_batches() -> Panel:
    return graph(
        "Ready batches",
        "Batches that wait for the trainer. Always 0: the loader is behind. Always at its maximum "
        "(workers times prefetch): the trainer is.",
        [Line(_each("feedwater_ready_batches"), NAMED)],
        "none",
    )


def _hung() -> Panel:
    return graph(
        "Standstill",
        "Time without a batch while some are outstanding. Minutes: a worker hangs in a lock or a "
        "read; after ten the alert wakes somebody. Empty between epochs and without workers.",
        [Line(_each("feedwater_hung_seconds"), NAMED)],
        "s",
        thresholds=levels(red=600),
    )


def _loading() -> Row:
    return folded(
        "Loading: where a worker's time goes",
        _load_time(),
        _slowest_loads(),
    )


def _seconds_of_a_batch(seconds: str) -> str:
    return (
        f"sum by (loader) (rate({seconds}_sum{{{OF_LOADERS}}}[$__rate_interval]))\n"
        f"/ sum by (loader) (rate(feedwater_load_seconds_count{{{OF_LOADERS}}}[$__rate_interval]))"
    )


def _slowest(histogram: str) -> str:
    rate = f"rate({histogram}_bucket{{{OF_LOADERS}}}[$__rate_interval])"
    return f"histogram_quantile(0.99, sum by (loader, le) ({rate}))"


def _blocked_seconds() -> str:
    """Return what is left of the load time of a batch: neither computing nor queueing for a CPU."""
    load, cpu, run_delay = (
        _seconds_of_a_batch(f"feedwater_{name}_seconds") for name in ("load", "load_cpu", "load_run_delay")
    )
    return f"clamp_min(\n{load}\n- {cpu}\n- {run_delay},\n0)"


def _load_time() -> Panel:
    return graph(
        "Load time of a batch",
        "What a worker does while it makes one batch. CPU: computing. Queueing: it could run and "
        "gets no CPU, throttling included: more workers make it worse. Blocked: it waits for "
        "storage or network: more workers help.",
        [
            Line(_seconds_of_a_batch("feedwater_load_cpu_seconds"), "CPU · {{loader}}"),
            Line(_seconds_of_a_batch("feedwater_load_run_delay_seconds"), "queueing for a CPU · {{loader}}"),
            Line(_blocked_seconds(), "blocked · {{loader}}"),
        ],
        "s",
        width=12,
        is_stacked=True,
    )


def _slowest_loads() -> Panel:
    return graph(
        "Slowest of a hundred",
        "99th percentile of load, wait and step, over all ranks. Loads far above their mean hold up "
        "the batches behind them, which come in order: the verdict is then SLOW_BATCHES.",
        [
            Line(_slowest("feedwater_load_seconds"), "load · {{loader}}"),
            Line(_slowest("feedwater_wait_seconds"), "wait · {{loader}}", DASHED),
            Line(_slowest("feedwater_step_seconds"), "step · {{loader}}", DOTTED),
        ],
        "s",
        width=12,
    )


def _device() -> Row:
    return folded(
        "Accelerator, and what the host waits",
        _gpus_idle(),
        _utilisation(),
        _host_wait(),
    )


def _gpus_idle() -> Panel:
    return graph(
        "GPUs idle",
        "GPU-seconds lost per second, that is, GPUs that stand still for want of batches. From "
        "events on about one step in 16, scaled to all.",
        [Line(_recorded("loader:feedwater_device_idle_seconds:rate10m"), NAMED)],
        "short",
        axis="GPUs",
        no_value="No accelerator was measured",
    )


def _utilisation() -> Panel:
    return graph(
        "Utilisation",
        "Share of time in which the accelerator executed anything, as NVML says. High beside much "
        "starvation: another process uses it, or training runs on a side stream.",
        [Line(_each("feedwater_device_utilisation_ratio"), NAMED)],
        "percentunit",
        maximum=1,
        no_value="NVML is not there",
    )


def _host_wait() -> Panel:
    return graph(
        "Host wait",
        "Share of iteration time that the host spent in next(). On CUDA this is not starvation: the "
        "host also waits while the accelerator is busy.",
        [Line(_each("feedwater_host_wait_ratio"), NAMED)],
        "percentunit",
        maximum=1,
    )


def _limits() -> Row:
    return folded(
        "The pod's limits: CPU, memory, /dev/shm",
        _cpu(),
        _throttling(),
        _throttled_time(),
        _memory(),
        _largest_worker(),
        _shared_memory(),
    )


def _of_pod(metric: str) -> str:
    return f"max by (pod) ({metric}{{{OF_PODS}}})"


def _rate(metric: str) -> str:
    return f"sum by (pod) (rate({metric}{{{OF_PODS}}}[$__rate_interval]))"


def _cpu() -> Panel:
    return graph(
        "CPU",
        "Cores that the trainer's container uses (solid) and may use (dashed). At the limit no "
        "worker count helps.",
        [
            Line(_rate("feedwater_trainer_cpu_seconds_total"), "used · {{pod}}"),
            Line(_of_pod("feedwater_trainer_cpu_limit_cores"), "limit · {{pod}}", DASHED),
        ],
        "short",
        axis="cores",
    )


def _throttling() -> Panel:
    return graph(
        "Throttling",
        "Share of CFS periods in which the limit throttled the container. In such a period "
        "everything stands still until the next one, the training step too. From a quarter on the "
        "alert speaks.",
        [Line(f"pod:feedwater_trainer_cpu_throttled_periods:ratio_rate10m{{{OF_PODS}}}", "{{pod}}")],
        "percentunit",
        thresholds=levels(yellow=0.1, orange=0.25),
        maximum=1,
        no_value="No CPU limit",
    )


def _throttled_time() -> Panel:
    return graph(
        "Throttled time",
        "Seconds per second for which the limit throttled the container, summed over CPUs.",
        [Line(_rate("feedwater_trainer_cpu_throttled_seconds_total"), "{{pod}}")],
        "s",
        no_value="No CPU limit",
    )


def _memory() -> Panel:
    return graph(
        "Memory",
        "The container's memory (solid) against its limit (dashed), page cache apart, and the "
        "workers' part of it (dotted; pages that they share are divided among them).",
        [
            Line(_of_pod("feedwater_trainer_memory_used_bytes"), "used · {{pod}}"),
            Line(_of_pod("feedwater_trainer_memory_limit_bytes"), "limit · {{pod}}", DASHED),
            Line(
                f"sum by (pod) (feedwater_workers_pss_bytes{{{OF_LOADERS}}})",
                "workers · {{pod}}",
                DOTTED,
            ),
        ],
        "bytes",
    )


def _largest_worker() -> Panel:
    return graph(
        "Largest worker",
        "Memory of the largest worker. Proportional (solid) divides shared pages among their users: "
        "this is what one more worker costs. Resident (dashed) counts them in full.",
        [
            Line(_each("feedwater_worker_pss_max_bytes"), f"proportional · {NAMED}"),
            Line(_each("feedwater_worker_rss_max_bytes"), f"resident · {NAMED}", DASHED),
        ],
        "bytes",
    )


def _shared_memory() -> Panel:
    return graph(
        "/dev/shm",
        "Bytes in /dev/shm (solid), its size (dashed), and one batch (dotted). Workers times "
        "prefetch batches must fit in.",
        [
            Line(_of_pod("feedwater_trainer_shm_used_bytes"), "used · {{pod}}"),
            Line(_of_pod("feedwater_trainer_shm_size_bytes"), "size · {{pod}}", DASHED),
            Line(_each("feedwater_batch_bytes"), f"one batch · {NAMED}", DOTTED),
        ],
        "bytes",
    )


def _decisions() -> Row:
    return folded(
        "Decisions, and what was lost in measuring",
        _outcomes(),
        _measurements_dropped(),
        _reports_missing(),
    )


def _counted(metric: str, by: str) -> str:
    return f"sum by ({by}) (increase({metric}{{{OF_LOADERS}}}[$__rate_interval]))"


def _outcomes() -> Panel:
    return graph(
        "Recommendations by outcome",
        "What became of them. Applied: the settings changed. Advised: said only, by the mode. "
        "Unchanged: the settings are right. Refused: not known to be safe. Failed: the change was "
        "taken back.",
        [Line(_counted("feedwater_recommendations_total", "outcome"), "{{outcome}}")],
        "none",
        is_count=True,
    )


def _measurements_dropped() -> Panel:
    return graph(
        "Measurements dropped",
        "Batches lost in measurement, by cause. Training is not harmed; from one in a hundred on "
        "predictions suffer.",
        [Line(_counted("feedwater_dropped_batches_total", "cause"), "{{cause}}")],
        "none",
        is_count=True,
    )


def _reports_missing() -> Panel:
    return graph(
        "Reports missing and repeated",
        "Reports of the trainers that never came, and those that came again after a broken "
        "connection and were counted once.",
        [
            Line(_counted("feedwater_missing_reports_total", "pod"), "missing · {{pod}}"),
            Line(_counted("feedwater_replayed_reports_total", "pod"), "repeated · {{pod}}"),
        ],
        "none",
        is_count=True,
    )
