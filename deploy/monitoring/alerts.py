"""The alerts: when they fire, how bad that is, and what they tell whoever is on call."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import indent, wrap

from deploy.monitoring.descriptions import (
    BYTES,
    COUNT,
    HUNDREDTHS,
    IN_USE,
    LOADER_NAME,
    OF_LOADER,
    OF_POD,
    POD_NAME,
    PREFETCH_FACTOR,
    RECOMMENDED,
    SHARE,
    STARVED,
    TENTHS,
    UNCAPPED,
    VERDICT,
    WORKERS_OF_POD,
    lookup,
    optional,
)
from deploy.monitoring.rules import COMMENT_WIDTH, LABELS, scalar

HEAD = """\
# Alerts of Feedwater. Each has a section in docs/runbooks.md and its cases in tests/e2e/rules.
# Generated from deploy/monitoring/alerts.py by `make monitoring`: change them there.
#
# Starvation is a warning, never a page: the job runs, only slower. The one alert that is worth waking
# somebody for is FeedwaterLoaderHung: such a job stands still until a person ends it.
# On CUDA jobs starvation and GPU-hours come from device evidence alone; where there is none no alert fires.
# Labels do not carry the verdict: one that changes would start a new alert. The descriptions look it up.
#
# `pod:feedwater_reports:rate5m > 0` keeps what a trainer reported last from firing after the trainer is gone.
groups:
  - name: feedwater-alerts
    rules:
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """An alerting rule. It has no `runbook_url`: the chart adds one, with its value `runbookBaseUrl`."""

    name: str
    expr: str
    pending: str
    """How long `expr` must hold: Prometheus' `for`."""
    keep_firing_for: str
    """How long it must no longer hold: longer than a validation, so that epochs are not an alert each."""
    severity: str
    """`critical` is worth waking somebody for, `warning` a look by day, `info` one some day."""
    summary: str
    description: tuple[str, ...]
    """Templates, a line each in the file. A space joins them; one that begins with ``{{-`` brings its own."""
    comment: str = ""
    """Why this threshold."""


ON_LOADER, ON_POD = f"on ({LABELS['loader']})", f"on ({LABELS['pod']})"

POD_REPORTS = f"and {ON_POD}\npod:feedwater_reports:rate5m > 0"
LOADER_REPORTS = f"and {ON_LOADER}\nloader:feedwater_reports:rate5m > 0"

NOT_APPLIED = '{outcome=~"advised|refused|failed"'
"""Begins a selector of recommendations that did not change the settings."""

ALERTS = (
    Alert(
        name="FeedwaterStarved",
        comment="A tenth of the time is worth a look; below, a checkpoint or a validation decides.",
        expr="loader:feedwater_starvation:ratio_rate10m > 0.1",
        pending="20m",
        keep_firing_for="15m",
        severity="warning",
        summary=f"Loader {LOADER_NAME} waits for batches {SHARE} of the time.",
        description=STARVED,
    ),
    Alert(
        name="FeedwaterDeviceStarved",
        expr="loader:feedwater_device_starvation:ratio_rate10m > 0.1",
        pending="20m",
        keep_firing_for="15m",
        severity="warning",
        summary=f"The accelerator of loader {LOADER_NAME} stands still for want of batches {SHARE} of the "
        "time.",
        description=STARVED,
    ),
    Alert(
        name="FeedwaterRecommendationNotApplied",
        comment="Advised, refused or failed, other than what is in use, and worth a tenth of the speed.",
        expr=f"""
        loader:feedwater_predicted_gain:ratio > 0.1
        and {ON_LOADER}
        (
            loader:feedwater_num_workers:max != {ON_LOADER} loader:feedwater_recommended_num_workers:max
          or {ON_LOADER}
            loader:feedwater_prefetch_factor_to_set:max
        )
        and {ON_LOADER}
        feedwater_recommendations_total{NOT_APPLIED}}} > 0
        {LOADER_REPORTS}""",
        pending="30m",
        keep_firing_for="15m",
        severity="warning",
        summary=f"Loader {LOADER_NAME} would be {SHARE} faster with the settings that Feedwater recommends.",
        description=(
            OF_LOADER,
            # What became of them, the most frequent first. The selector goes on where the loader's begins.
            '{{ with printf "sort_desc(sum by (outcome) (feedwater_recommendations_total'
            + NOT_APPLIED.replace('"', r"\"")
            + ',%s) > 0)" (slice $loader 1) | query }}What became of recommendations so far: '
            "{{ range $i, $one := . }}{{ if $i }}, {{ end }}"
            '{{ .Value | printf "%.0f" }} {{ .Labels.outcome }}{{ end }}.{{ end }}',
            f"{VERDICT}.",
            optional(
                "loader:feedwater_recommended_num_workers:max<loader>"
                " != loader:feedwater_num_workers:max<loader>",
                f"num_workers={COUNT} is recommended{IN_USE}{UNCAPPED}.",
            ),
            PREFETCH_FACTOR,
        ),
    ),
    Alert(
        name="FeedwaterWorkersNearMemoryLimit",
        comment="The share that recommendations leave free is a tenth, too.",
        expr=f"""
        pod:feedwater_trainer_memory_used:ratio > 0.9
        and {ON_POD}
        pod:feedwater_num_workers:sum > 0
        {POD_REPORTS}""",
        pending="5m",
        keep_firing_for="10m",
        severity="warning",
        summary=f"The trainer of {POD_NAME} uses {SHARE} of its memory limit with DataLoader workers "
        "running.",
        description=(
            OF_POD,
            "Beyond the limit the kernel kills a worker, or the whole container.",
            lookup("sum(feedwater_workers_pss_bytes<pod>)", f"Workers hold {BYTES}")
            + lookup("max(feedwater_worker_pss_max_bytes<pod>)", f", the largest {BYTES}")
            + lookup("max(feedwater_trainer_memory_limit_bytes<pod>)", f" of {BYTES}")
            + ".",
            WORKERS_OF_POD,
        ),
    ),
    Alert(
        name="FeedwaterSharedMemoryNearFull",
        comment='Recommendations plan for nine tenths of it; a full one ends training with "No space left on '
        'device".',
        expr=f"""
        pod:feedwater_trainer_shm_used:ratio > 0.85
        {POD_REPORTS}""",
        pending="5m",
        keep_firing_for="10m",
        severity="warning",
        summary=f"/dev/shm of {POD_NAME} is {SHARE} full.",
        description=(
            OF_POD,
            "Batches on their way from workers lie there, and a full one ends training.",
            lookup(
                "floor(0.9 * max(feedwater_trainer_shm_size_bytes<pod>)"
                " / max(feedwater_batch_bytes<pod> > 0))",
                f"It holds {COUNT} batches: keep num_workers * prefetch_factor below that over all loaders "
                "and ranks, or mount a larger one.",
                "Lower num_workers or prefetch_factor, or mount a larger one.",
            ),
            WORKERS_OF_POD,
        ),
    ),
    Alert(
        name="FeedwaterThrottled",
        comment="In a quarter of the periods everything stands still until the next one, the step too.",
        expr=f"""
        pod:feedwater_trainer_cpu_throttled_periods:ratio_rate10m > 0.25
        {POD_REPORTS}""",
        pending="15m",
        keep_firing_for="15m",
        severity="warning",
        summary=f"The trainer of {POD_NAME} is throttled by its CPU limit in {SHARE} of the periods.",
        description=(
            OF_POD,
            lookup(
                "sum(rate(feedwater_trainer_cpu_seconds_total<pod>[10m]))",
                f"It uses {HUNDREDTHS}",
                "It uses all",
            )
            + lookup("max(feedwater_trainer_cpu_limit_cores<pod>)", f" of {HUNDREDTHS} cores")
            + ".",
            WORKERS_OF_POD,
            "`feedwater status --json` in the sidecar shows what other CPU limits would bring.",
        ),
    ),
    Alert(
        name="FeedwaterLoaderHung",
        comment="Batches are outstanding and workers have made none for ten minutes: a slow download may "
        "take some minutes, a deadlock takes all.",
        expr=f"""
        max by ({LABELS["loader"]}) (feedwater_hung_seconds) > 600
        {LOADER_REPORTS}""",
        pending="5m",
        keep_firing_for="5m",
        severity="critical",
        summary=f"Loader {LOADER_NAME} has had no batch for {{{{ $value | humanizeDuration }}}}, and its "
        "workers make none.",
        description=(
            OF_LOADER,
            lookup("loader:feedwater_num_workers:max<loader>", f"{COUNT} workers", "Workers")
            + " have outstanding batches and make no progress: a lock or a read that never returns. Training "
            "stands still until somebody ends it.",
            "Set timeout=300 on the DataLoader, so that the next time it fails by itself.",
        ),
    ),
    Alert(
        name="FeedwaterWorkerDied",
        comment="Counted by the cgroup; where the kernel kills the whole container at once, by the kubelet.",
        expr=f"""
        sum by ({LABELS["pod"]}) (increase(feedwater_trainer_oom_kills_total[15m])) > 0
        or {ON_POD}
        count by ({LABELS["pod"]}) (
            sum by ({LABELS["pod"]}, container) (increase(kube_pod_container_status_restarts_total[15m])) > 0
          and on ({LABELS["pod"]}, container)
            kube_pod_container_status_last_terminated_reason{{reason="OOMKilled"}} == 1
          and {ON_POD}
            feedwater_build_info
        )""",
        pending="1m",
        keep_firing_for="15m",
        severity="warning",
        summary=f"The kernel killed a worker or the trainer of {POD_NAME} for memory.",
        description=(
            OF_POD,
            lookup(
                "max(feedwater_trainer_memory_limit_bytes<pod>)",
                f"The limit is {BYTES}",
                "The limit is unknown",
            )
            + lookup("max(feedwater_worker_pss_max_bytes<pod>)", f", the largest worker took {BYTES}")
            + ".",
            WORKERS_OF_POD,
        ),
    ),
    Alert(
        name="FeedwaterReportsLost",
        comment="A hundredth is enough to bend what is predicted from it.",
        expr=f"""
        loader:feedwater_dropped_batches:ratio_rate10m > 0.01
        or {ON_LOADER}
        loader:feedwater_missing_reports:ratio_rate10m > 0.01""",
        pending="10m",
        keep_firing_for="15m",
        severity="warning",
        summary=f"Of loader {LOADER_NAME} {SHARE} of the measurements are lost on their way to the sidecar.",
        description=(
            OF_LOADER,
            lookup(
                "topk(1, rate(feedwater_dropped_batches_total<loader>[10m]) > 0)",
                'Most are lost by {{ . | first | label "cause" }}',
                "Whole reports are missing",
            )
            + ". Training is not harmed; what Feedwater says of it is less certain.",
            "Set the sidecar's CPU limit to 250m or more.",
        ),
    ),
    Alert(
        name="FeedwaterPredictionOff",
        comment="Where the model is known to fail it misses by up to a fifth (docs/model.md).",
        expr=f"""
        max by ({LABELS["loader"]}) (abs(feedwater_prediction_error_ratio)) > 0.25
        {LOADER_REPORTS}""",
        pending="30m",
        keep_firing_for="30m",
        severity="info",
        summary=f"What Feedwater predicted for loader {LOADER_NAME} is off by {SHARE}.",
        description=(
            OF_LOADER,
            lookup(
                "max(feedwater_predicted_batches_per_second<loader>)",
                f"Predicted are {TENTHS} batches/s",
                "Predicted is nothing any more",
            )
            + lookup("max(feedwater_measured_batches_per_second<loader>)", f", the last epoch gave {TENTHS}")
            + ".",
            f"{VERDICT}. Measure before you trust the number: {RECOMMENDED}{IN_USE}{UNCAPPED}.",
        ),
    ),
    Alert(
        name="FeedwaterGpuHoursLost",
        comment="One GPU that stands still all day is the smallest loss worth an afternoon; a twentieth of "
        "the time is what no setting recovers.",
        expr="""
        cluster:feedwater_device_idle_seconds:rate1h * 24 > 24
        and
        cluster:feedwater_device_starvation:ratio_rate1h > 0.05""",
        pending="1h",
        keep_firing_for="1h",
        severity="info",
        summary='The cluster loses {{ $value | printf "%.0f" }} GPU-hours a day to loaders that do not keep '
        "up.",
        description=(
            "Most is lost by{{ range $i, $one := printf "
            '"topk(3, workload:feedwater_device_idle_seconds:rate1h{cluster=%q})" $labels.cluster | query }}'
            "{{ if $i }},{{ end }} {{ .Labels.namespace }}/{{ .Labels.workload }} "
            '({{ .Value | printf "%.1f" }} GPUs){{ end }}.',
            "Their own alerts name the cause and the number to set.",
        ),
    ),
)


def alerts_file() -> str:
    """Return the text of feedwater.alerts.yaml."""
    return HEAD + "\n".join(map(_as_yaml, ALERTS))


def _as_yaml(alert: Alert) -> str:
    comment = "".join(f"  # {line}\n" for line in wrap(alert.comment, COMMENT_WIDTH))
    description = indent("\n".join(alert.description), "      ")
    text = (
        f"- alert: {alert.name}\n"
        f"{comment}"
        f"  expr:{scalar(alert.expr)}"
        f"  for: {alert.pending}\n"
        f"  keep_firing_for: {alert.keep_firing_for}\n"
        f"  labels:\n"
        f"    severity: {alert.severity}\n"
        f"  annotations:\n"
        f"    summary: >-\n      {alert.summary}\n"
        f"    description: >-\n{description}\n"
    )
    return indent(text, "      ")
