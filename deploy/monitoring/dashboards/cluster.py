"""The dashboard of all jobs: what is lost, where, and which job to fix first."""

from __future__ import annotations

from dataclasses import replace

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

from deploy.monitoring.dashboards import alerts, job, verdicts
from deploy.monitoring.dashboards.frame import (
    DOCS,
    PODS,
    cluster_variable,
    folded,
    framed,
    some_of,
    to_dashboard,
)
from deploy.monitoring.dashboards.panels import (
    ADVISED,
    COLOURED,
    DASHED,
    SHARE,
    Column,
    Line,
    Links,
    Panel,
    figure,
    graph,
    levels,
    rows_of,
)

UID = "feedwater-cluster"

SELECTED = 'cluster=~"$cluster", namespace=~"$namespace"'
POD = "cluster, namespace, pod"
LOADER_OF_WORKLOAD = "cluster, namespace, workload, loader"

DEVICE_IDLE = "loader:feedwater_device_idle_seconds:rate10m"
DEVICE_TIME = "loader:feedwater_device_seconds:rate10m"
HOST_IDLE = "loader:feedwater_starved_seconds:rate10m"
HOST_TIME = "loader:feedwater_iteration_seconds:rate10m"
NAMESPACE_IDLE = "namespace:feedwater_device_idle_seconds:rate10m"
SURPLUS = "loader:feedwater_surplus_workers:max"


def dashboard() -> Dashboard:
    """Return the dashboard."""
    return (
        _framed()
        .with_panel(_gpu_hours_lost())
        .with_panel(_gpus_idle_now())
        .with_panel(_device_starvation_now())
        .with_panel(_host_starvation_now())
        .with_panel(_jobs())
        .with_panel(_loaders())
        .with_panel(_spare_workers())
        .with_panel(_alerts_now())
        .with_panel(_jobs_that_idle_accelerators())
        .with_panel(_gpus_idle())
        .with_panel(_starvation())
        .with_panel(_alerts())
        .with_panel(_jobs_that_starve_on_cpus())
        .with_panel(_over_provisioned_jobs())
        .with_panel(_verdicts())
        .with_panel(_predictions())
        .with_row(_sidecars())
    )


def _framed() -> Dashboard:
    return (
        framed(
            UID,
            "Feedwater / Cluster",
            "What all jobs lose to their DataLoaders, and which to fix first. Needs Feedwater's recording "
            "rules.",
            to_dashboard("Job", "What the loaders of one job do", job.UID, ("datasource", "cluster")),
            hours=24,
        )
        .with_variable(cluster_variable())
        .with_variable(
            some_of(
                "namespace",
                "Namespace",
                "Namespaces with a pod that has a sidecar.",
                f'label_values({PODS}{{cluster=~"$cluster"}}, namespace)',
                everything=".+",
            )
        )
    )


def _selected(series: str) -> str:
    return f"{series}{{{SELECTED}}}"


def _by_workload(series: str, together: str, by: str = LOADER_OF_WORKLOAD) -> str:
    """Return a series of loaders, rolled up to the loaders of workloads: ranks of one job count as one."""
    return (
        f"{together} by ({by}) (\n"
        f"  {_selected(series)} * on ({POD}) group_left (workload) {_selected(PODS)}\n"
        ")"
    )


# -- The first line: how much ------------------------------------------------------------------------------


def _gpu_hours_lost() -> Panel:
    return figure(
        "GPU-hours lost",
        "Hours that accelerators stood still for want of batches in the time range, measured on the "
        "accelerators alone: what is known of the host only is not in it.",
        # A sample a minute, which stands for that minute: where a series was absent nothing is counted.
        [Line(f"sum(sum_over_time({_selected(NAMESPACE_IDLE)}[$__range:1m])) / 60")],
        "short",
        decimals=1,
        no_value="not measured",
    )


def _gpus_idle_now() -> Panel:
    return figure(
        "GPUs idle",
        "Accelerators that stand still for want of batches, over the last ten minutes. 24 times that many "
        "GPU-hours are lost a day; the alert begins at 24.",
        [Line(f"sum({_selected(NAMESPACE_IDLE)})")],
        "short",
        decimals=1,
        thresholds=levels(orange=1),
        no_value="not measured",
    )


def _device_starvation_now() -> Panel:
    return _share_now(
        "Starvation, GPUs",
        "Share of the measured accelerators' time that was lost to waiting for batches. A twentieth is what "
        "no setting recovers.",
        NAMESPACE_IDLE,
        "namespace:feedwater_device_seconds:rate10m",
    )


def _host_starvation_now() -> Panel:
    return _share_now(
        "Starvation, CPUs",
        "Share of iteration time spent waiting for batches, of the trainers that compute on the CPU. "
        "Trainers on CUDA are not in it.",
        "namespace:feedwater_starved_seconds:rate10m",
        "namespace:feedwater_iteration_seconds:rate10m",
    )


def _share_now(title: str, description: str, lost: str, of: str) -> Panel:
    return figure(
        title,
        description,
        [Line(f"sum({_selected(lost)}) / (sum({_selected(of)}) > 0)")],
        "percentunit",
        thresholds=job.STARVATION,
        decimals=0,
        no_value="not measured",
    )


def _jobs() -> Panel:
    return figure(
        "Jobs",
        "Workloads with at least one sidecar.",
        [Line(f"count(count by (cluster, namespace, workload) ({_selected(PODS)}))")],
        "none",
    )


def _loaders() -> Panel:
    return figure(
        "Loaders",
        "Loaders that report, ranks counted one by one.",
        [Line(f"sum({_selected('feedwater_loaders')})")],
        "none",
    )


def _spare_workers() -> Panel:
    return figure(
        "Workers to spare",
        "Worker processes above the recommendation: they hold memory and CPU, and bring nothing.",
        [Line(f"sum({_selected('namespace:feedwater_surplus_workers:sum')})")],
        "none",
        no_value="not known yet",
    )


def _alerts_now() -> Panel:
    return figure(
        "Alerts firing",
        "Alerts of Feedwater that fire. Those of the whole cluster are counted whatever the namespace.",
        [Line(f"count({_firing()}) or vector(0)")],
        "none",
        thresholds=levels(orange=1),
    )


def _firing() -> str:
    # An alert for the whole cluster has no namespace: `|` matches its absence, too.
    return (
        'ALERTS{alertname=~"Feedwater.+", alertstate="firing", cluster=~"$cluster", namespace=~"$namespace|"}'
    )


# -- Which job to fix --------------------------------------------------------------------------------------


def _jobs_that_idle_accelerators() -> Panel:
    return _worst_jobs(
        "Ten jobs worth fixing: accelerators",
        "Where most GPU-hours are lost now, from device evidence alone. Set is the num_workers that "
        "Feedwater recommends, the same for all ranks; the verdict says whether a number helps at all. A "
        "row leads to the job.",
        Column("GPUs idle", 90, expr=_by_workload(DEVICE_IDLE, "sum"), look={"decimals": 2}),
        [
            Column(
                "GPU-hours a day",
                130,
                expr=f"24 * {_by_workload(DEVICE_IDLE, 'sum')}",
                look={"decimals": 1},
            )
        ],
        time=DEVICE_TIME,
        no_value="No accelerator was measured, or none waits",
        width=24,
    )


def _jobs_that_starve_on_cpus() -> Panel:
    return _worst_jobs(
        "Ten jobs worth fixing: trainers on CPUs",
        "Where most trainers that compute on the CPU wait for batches. One trainer that waits half of its "
        "time is 0.5. Trainers on CUDA are not in it.",
        Column("Waiting", 80, expr=_by_workload(HOST_IDLE, "sum"), look={"decimals": 2}),
        [],
        time=HOST_TIME,
        no_value="No trainer computes on the CPU, or none waits",
        width=12,
    )


def _worst_jobs(
    title: str,
    description: str,
    lost: Column,
    also: list[Column],
    *,
    time: str,
    no_value: str,
    width: int,
) -> Panel:
    """Return the ten loaders of workloads with the largest `lost`, and what to do about each."""
    worst = f"topk(10, {lost.expr} > 0)"
    columns = [
        *_named(),
        replace(lost, expr=worst),
        *(_only(worst, column) for column in (*also, _starved(lost.expr, time), *_what_to_do())),
    ]
    return rows_of(title, description, columns, sort_by=lost.title, no_value=no_value, width=width, height=10)


def _only(worst: str, column: Column) -> Column:
    """Return a column of the rows that a query gives."""
    return replace(column, expr=f"{column.expr}\nand on ({LOADER_OF_WORKLOAD})\n{worst}")


def _starved(lost: str, time: str) -> Column:
    return Column(
        "Starved",
        80,
        expr=f"{lost}\n/ ({_by_workload(time, 'sum')} > 0)",
        look={**SHARE, **COLOURED, "thresholds": job.STARVATION.build()},
    )


def _what_to_do() -> list[Column]:
    """Return the verdict that most ranks have, and the number of workers."""
    verdict = _by_workload("loader_verdict:feedwater_verdict:max", "count", f"{LOADER_OF_WORKLOAD}, verdict")
    return [
        Column(
            "Verdict",
            160,
            label="verdict",
            expr=f"topk by ({LOADER_OF_WORKLOAD}) (1, {verdict})",
            look={"mappings": [verdicts.by_name()], **COLOURED},
            links=verdicts.RUNBOOK,
        ),
        *_workers(),
        Column("Gain", 70, expr=_by_workload("loader:feedwater_predicted_gain:ratio", "max"), look=SHARE),
    ]


def _workers() -> list[Column]:
    recommended = _by_workload("loader:feedwater_recommended_num_workers:max", "max")
    return [
        Column("In use", 70, expr=_by_workload("loader:feedwater_num_workers:max", "max")),
        Column("Set", 60, expr=recommended, look=ADVISED),
    ]


def _over_provisioned_jobs() -> Panel:
    worst = f"topk(10, {_by_workload(SURPLUS, 'sum')} > 0)"
    return rows_of(
        "Over-provisioned jobs",
        "Jobs with the most workers above the recommendation, all ranks together. Setting num_workers down "
        "to Set gives their memory and CPU back and should cost no speed.",
        [
            *_named(),
            Column("To spare", 80, expr=worst),
            *(_only(worst, column) for column in _workers()),
        ],
        sort_by="To spare",
        no_value="No job has workers to spare",
        width=12,
        height=10,
    )


def _named() -> list[Column]:
    """Return the columns that say which job a row is about, with a link to it."""
    to_job = _to_job("&var-loader=${__data.fields.Loader:percentencode}")
    return [
        Column("Cluster", 75, label="cluster"),
        Column("Namespace", 100, label="namespace"),
        Column("Workload", label="workload", links=to_job),
        Column("Loader", 90, label="loader", links=to_job),
    ]


def _to_job(more: str = "") -> Links:
    url = (
        f"/d/{job.UID}?${{__url_time_range}}&${{datasource:queryparam}}&${{cluster:queryparam}}"
        "&var-namespace=${__data.fields.Namespace:percentencode}"
        "&var-workload=${__data.fields.Workload:percentencode}"
    )
    return [{"title": "What this job's loaders do", "url": url + more, "targetBlank": False}]


# -- Where, and for which reason ---------------------------------------------------------------------------


def _gpus_idle() -> Panel:
    return graph(
        "GPUs idle by namespace",
        "Accelerators that stand still for want of batches. The area is GPU-hours.",
        [Line(_selected(NAMESPACE_IDLE), "{{namespace}} {{cluster}}")],
        "short",
        width=7,
        axis="GPUs",
        is_stacked=True,
        no_value="No accelerator was measured",
    )


def _starvation() -> Panel:
    return graph(
        "Starvation by namespace",
        "Share of time lost to waiting for batches: of accelerators (solid), and of trainers that compute "
        "on the CPU (dashed). Dashed levels: 5 %, below which nothing is to be gained, and 10 %, where the "
        "alerts begin.",
        [
            Line(
                _selected("namespace:feedwater_device_starvation:ratio_rate10m"),
                "GPUs · {{namespace}} {{cluster}}",
            ),
            Line(
                _selected("namespace:feedwater_starvation:ratio_rate10m"),
                "CPUs · {{namespace}} {{cluster}}",
                DASHED,
            ),
        ],
        "percentunit",
        width=7,
        thresholds=job.STARVATION,
        maximum=1,
    )


def _alerts() -> Panel:
    return rows_of(
        "Alerts",
        "Alerts of Feedwater that fire; their pods lead to the job. The runbook says what each means, how "
        "bad it is and what to do. Critical is worth waking somebody for, the others are not.",
        [
            Column("Severity", 75, label="severity", look={**COLOURED, "mappings": [alerts.severities()]}),
            Column("Alert", 190, label="alertname"),
            Column("Namespace", 90, label="namespace"),
            Column("Workload", 110, label="workload"),
            Column("Pod", label="pod", links=_to_job()),
            _runbook(),
        ],
        sort_by="Severity",
        is_ascending=True,
        no_value="No alert fires",
        width=10,
    )


def _runbook() -> Column:
    # An alert knows its pod; an alert for the whole cluster has none, and keeps its row.
    of_workload = (
        f"{_firing()} * on ({POD}) group_left (workload) {PODS}\n"
        f"or on (alertname, {POD}, loader, rank) {_firing()}"
    )
    # A mapping makes the anchor of the alert's name, and the link takes the mapped text.
    return Column(
        "Runbook",
        190,
        label="runbook",
        expr=f'label_replace(\n{of_workload},\n"runbook", "$1", "alertname", "(.+)")',
        look={"mappings": [alerts.anchors()]},
        links=[{"title": "What to do", "url": f"{DOCS}/runbooks.md#${{__value.text}}", "targetBlank": True}],
    )


def _verdicts() -> Panel:
    return graph(
        "Verdicts",
        "Loaders by the bottleneck that holds them: one cause in many jobs is worth a look at the cluster "
        "(slow storage, CPU limits that are too low) rather than at each job.",
        [Line(f"count by (verdict) ({_selected('loader_verdict:feedwater_verdict:max')})", "{{verdict}}")],
        "none",
        axis="loaders",
        width=12,
        is_stacked=True,
    )


def _predictions() -> Panel:
    return graph(
        "How far predictions miss",
        "Batches per second by which predictions missed what was measured, whichever way, of those "
        "measured. Beyond a quarter, look at the jobs before you trust the numbers.",
        [Line(_selected("namespace:feedwater_prediction_error:ratio"), "{{namespace}} {{cluster}}")],
        "percentunit",
        width=12,
        thresholds=levels(orange=0.25),
        no_value="No epoch has run as predicted yet",
    )


# -- Folded: the sidecars ----------------------------------------------------------------------------------


def _sidecars() -> Row:
    return folded(
        "Health of the sidecars",
        _versions(),
        _loaders_by_namespace(),
        _sidecar_memory(),
        _sidecar_cpu(),
        _calls_refused(),
        _measurements_dropped(),
        _reports_missing(),
        _checkpoints_failed(),
    )


def _rate(metric: str, by: str) -> str:
    return f"sum by ({by}) (rate({_selected(metric)}[$__rate_interval]))"


SIDECAR_CPU = "rate(process_cpu_seconds_total[$__rate_interval])"


def _of_sidecars(metric: str) -> str:
    """Return a metric that any process has, of sidecars alone."""
    ours = f"max by (job, instance) ({_selected('feedwater_build_info')})"
    return f"{metric} * on (job, instance) group_left () {ours}"


def _versions() -> Panel:
    return graph(
        "Sidecars by version",
        "Several versions work side by side; many for long mean that images are not renewed.",
        [Line(f"count by (version) ({_selected('feedwater_build_info')})", "{{version}}")],
        "none",
        width=6,
        is_stacked=True,
    )


def _loaders_by_namespace() -> Panel:
    return graph(
        "Loaders by namespace",
        "Loaders that report, ranks counted one by one.",
        [Line(f"sum by (namespace) ({_selected('feedwater_loaders')})", "{{namespace}}")],
        "none",
        width=6,
        is_stacked=True,
    )


def _sidecar_memory() -> Panel:
    return graph(
        "Memory of a sidecar",
        "Resident memory of the largest sidecar and of the median one. It is meant to stay below 64 MiB.",
        [
            Line(f"max({_of_sidecars('process_resident_memory_bytes')})", "largest"),
            Line(f"quantile(0.5, {_of_sidecars('process_resident_memory_bytes')})", "median", DASHED),
        ],
        "bytes",
        width=6,
        thresholds=levels(orange=64 * 2**20),
    )


def _sidecar_cpu() -> Panel:
    return graph(
        "CPU of a sidecar",
        "Cores that the busiest sidecar and the median one use, and the model alone on average.",
        [
            Line(f"max({_of_sidecars(SIDECAR_CPU)})", "busiest"),
            Line(
                f"quantile(0.5, {_of_sidecars(SIDECAR_CPU)})",
                "median",
                DASHED,
            ),
            Line(
                f"avg(rate({_selected('feedwater_model_cpu_seconds_total')}[$__rate_interval]))",
                "model, mean",
                DASHED,
            ),
        ],
        "short",
        axis="cores",
        width=6,
    )


def _calls_refused() -> Panel:
    return graph(
        "Calls refused",
        "Calls that sidecars refused, by cause. Unknown loaders come after a sidecar was restarted "
        "without its state; too many, where a script makes loaders without end.",
        [Line(_rate("feedwater_rejected_calls_total", "cause"), "{{cause}}")],
        "cps",
        width=6,
    )


def _measurements_dropped() -> Panel:
    return graph(
        "Measurements dropped",
        "Batches lost in measurement, by cause. Above one in a hundred predictions suffer: give the "
        "sidecar 250m of CPU.",
        [Line(_rate("feedwater_dropped_batches_total", "cause"), "{{cause}}")],
        "cps",
        width=6,
    )


def _reports_missing() -> Panel:
    return graph(
        "Reports missing",
        "Reports of trainers that never came, by namespace.",
        [Line(_rate("feedwater_missing_reports_total", "namespace"), "{{namespace}}")],
        "cps",
        width=6,
    )


def _checkpoints_failed() -> Panel:
    return graph(
        "Checkpoints failed",
        "Writes to the state directory that failed, by namespace: the volume is full or read-only. "
        "What was learned is then lost with the sidecar.",
        [Line(_rate("feedwater_checkpoint_failures_total", "namespace"), "{{namespace}}")],
        "cps",
        width=6,
    )
