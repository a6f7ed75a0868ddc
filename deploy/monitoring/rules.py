"""The recording rules: what is known of a loader, rolled up to its pod, workload, namespace and cluster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import dedent, indent, wrap

HEAD = """\
# Recording rules of Feedwater: loader -> pod -> workload -> namespace -> cluster.
# Generated from deploy/monitoring/rules.py by `make monitoring`: change them there.
#
# Named level:metric:operations. The level says which labels are left:
#   loader          cluster, namespace, pod, loader, rank
#   loader_verdict  the same, and verdict
#   pod             cluster, namespace, pod
#   pod_workload    the same, and workload: which workload a pod belongs to
#   workload        cluster, namespace, workload
#   namespace       cluster, namespace
#   cluster         cluster
# `cluster` is whatever label of that name your targets have; without one it is empty everywhere.
#
# Ratios are made of sums of seconds on every level, never of other ratios: a job of one rank must not weigh
# as much as one of 64. `rate10m` needs a scrape each two minutes at least.
#
# deploy/monitoring/README.md says where `pod`, `namespace` and `workload` come from.
"""

LABELS = {
    "loader": "cluster, namespace, pod, loader, rank",
    "pod": "cluster, namespace, pod",
    "workload": "cluster, namespace, workload",
    "namespace": "cluster, namespace",
    "cluster": "cluster",
}
"""The levels, from the narrowest to the widest, with the labels that are left on each."""

WORKLOAD_OF_POD = "pod_workload:feedwater_build_info:max"
"""One series for each pod with a sidecar; its label `workload` says to which workload the pod belongs."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A recording rule."""

    record: str
    expr: str
    comment: str = ""
    """What stands above it in the file."""


@dataclass(frozen=True, slots=True)
class RollUp:
    """A quantity that each level aggregates from the level below it."""

    metric: str
    operation: str
    """What was done to the metric, the last part of a recorded name: `rate10m`."""
    narrowest_operation: str = ""
    """The same on the level of loaders, where it is another one."""
    aggregator: str = "sum"
    first: str = "pod"
    """The lowest level on which it is aggregated: on the one below it has a rule of its own."""

    def on(self, level: str) -> str:
        """Return its recorded name on a level."""
        is_narrowest = level == "loader" and self.narrowest_operation
        return f"{level}:{self.metric}:{self.narrowest_operation if is_narrowest else self.operation}"


@dataclass(frozen=True, slots=True)
class Ratio:
    """A share: of one rolled-up quantity in another, on every level from pods up."""

    metric: str
    operation: str
    part: RollUp
    whole: RollUp
    first: str = "pod"

    def on(self, level: str) -> Rule:
        """Return its rule on a level; a whole of 0 has no ratio."""
        part, whole = self.part.on(level), self.whole.on(level)
        return Rule(f"{level}:{self.metric}:{self.operation}", f"{part} / ({whole} > 0)")


STARVED = RollUp("feedwater_starved_seconds", "rate10m")
ITERATION = RollUp("feedwater_iteration_seconds", "rate10m")
DEVICE_IDLE = RollUp("feedwater_device_idle_seconds", "rate10m")
DEVICE = RollUp("feedwater_device_seconds", "rate10m")
DEVICE_IDLE_HOUR = RollUp("feedwater_device_idle_seconds", "rate1h", first="workload")
DEVICE_HOUR = RollUp("feedwater_device_seconds", "rate1h", first="workload")
MEASURED = RollUp("feedwater_measured_batches_per_second", "sum", "max")
MISSED = RollUp("feedwater_prediction_miss_batches_per_second", "sum", "abs")

ROLL_UPS = (
    STARVED,
    ITERATION,
    DEVICE_IDLE,
    DEVICE,
    RollUp("feedwater_num_workers", "sum", "max"),
    RollUp("feedwater_recommended_num_workers", "sum", "max"),
    RollUp("feedwater_surplus_workers", "sum", "max"),
    MEASURED,
    MISSED,
    DEVICE_IDLE_HOUR,
    DEVICE_HOUR,
    RollUp("feedwater_last_startup_seconds", "max", aggregator="max"),
)
RATIOS = (
    Ratio("feedwater_starvation", "ratio_rate10m", STARVED, ITERATION),
    Ratio("feedwater_device_starvation", "ratio_rate10m", DEVICE_IDLE, DEVICE),
    Ratio("feedwater_prediction_error", "ratio", MISSED, MEASURED),
    Ratio("feedwater_device_starvation", "ratio_rate1h", DEVICE_IDLE_HOUR, DEVICE_HOUR, first="cluster"),
)


COMMENT_WIDTH = 102
"""With its mark and its indentation 110, as everywhere in the repository."""


def rules_file() -> str:
    """Return the text of feedwater.rules.yaml."""
    return f"{HEAD}groups:\n" + "\n".join(_group(level) for level in LABELS)


def rules(level: str) -> Iterator[Rule]:
    """Yield the rules of a level, each after those that it reads."""
    if level == "loader":
        yield from LOADER
    else:
        yield from _rolled_up(level)
    if level == "pod":
        yield from POD


def _rolled_up(level: str) -> Iterator[Rule]:
    levels = list(LABELS)
    for quantity in ROLL_UPS:
        if levels.index(level) >= levels.index(quantity.first):
            below = quantity.on(levels[levels.index(level) - 1])
            yield Rule(quantity.on(level), _aggregated(quantity.aggregator, level, below))
    for ratio in RATIOS:
        if levels.index(level) >= levels.index(ratio.first):
            yield ratio.on(level)


def _aggregated(aggregator: str, level: str, series: str) -> str:
    """Return a series of the level below, aggregated: pods get the label `workload` on the way."""
    by = f"{aggregator} by ({LABELS[level]})"
    if level != "workload":
        return f"{by} ({series})"
    return f"{by} (\n    {series}\n  * on ({LABELS['pod']}) group_left (workload)\n    {WORKLOAD_OF_POD}\n)"


def _max(level: str, metric: str) -> str:
    return f"max by ({LABELS[level]}) ({metric})"


def _rate(level: str, counter: str, window: str = "10m") -> str:
    return f"sum by ({LABELS[level]}) (rate({counter}[{window}]))"


def _share(part: str, whole: str) -> str:
    """Return a ratio that is absent where the whole is 0."""
    return f"{part}\n/\n({whole} > 0)"


def _share_lost(lost: str, arrived: str) -> str:
    """Return what was lost of all, for two counters of loaders."""
    lost, arrived = _rate("loader", lost), _rate("loader", arrived)
    return f"{lost}\n/\n(\n    {lost}\n  +\n    {arrived}\n  > 0\n)"


ON_LOADER = f"on ({LABELS['loader']})"
ON_POD = f"on ({LABELS['pod']})"

LOADER = (
    Rule(
        "loader:feedwater_starved_seconds:rate10m",
        f"""
        sum by ({LABELS["loader"]}) (
            rate(feedwater_starved_seconds_total[10m])
          and
            feedwater_starved_seconds_total
        )""",
        "Seconds of waiting per second, first batches of epochs apart. The second operand drops at once what "
        "a loader exported before its trainer initialised CUDA: from then on the host's wait is not "
        "starvation.",
    ),
    Rule(
        "loader:feedwater_iteration_seconds:rate10m",
        f"""
        loader:feedwater_starved_seconds:rate10m
        + {ON_LOADER}
        {_rate("loader", "feedwater_step_seconds_sum")}""",
        "Waiting and working: the denominator of starvation, only where starvation is known.",
    ),
    Rule(
        "loader:feedwater_starvation:ratio_rate10m",
        _share("loader:feedwater_starved_seconds:rate10m", "loader:feedwater_iteration_seconds:rate10m"),
    ),
    Rule(
        "loader:feedwater_device_idle_seconds:rate10m",
        _rate("loader", "feedwater_device_idle_seconds_total"),
        "GPU-seconds lost to starvation per second, that is, GPUs that stand still: from device evidence "
        "alone.",
    ),
    Rule(
        "loader:feedwater_device_seconds:rate10m",
        f"""
        loader:feedwater_device_idle_seconds:rate10m
        + {ON_LOADER}
        {_rate("loader", "feedwater_device_busy_seconds_total")}""",
    ),
    Rule(
        "loader:feedwater_device_starvation:ratio_rate10m",
        _share("loader:feedwater_device_idle_seconds:rate10m", "loader:feedwater_device_seconds:rate10m"),
    ),
    Rule(
        "loader_verdict:feedwater_verdict:max",
        f"max by ({LABELS['loader']}, verdict) (feedwater_verdict == 1)",
        "One series for each loader, with the verdict that holds.",
    ),
    Rule("loader:feedwater_last_startup_seconds:max", _max("loader", "feedwater_last_startup_seconds")),
    Rule("loader:feedwater_num_workers:max", _max("loader", "feedwater_num_workers")),
    Rule("loader:feedwater_recommended_num_workers:max", _max("loader", "feedwater_recommended_num_workers")),
    Rule(
        "loader:feedwater_prefetch_factor_to_set:max",
        f"""
        {_max("loader", "feedwater_recommended_prefetch_factor")}
        unless {ON_LOADER}
        (feedwater_recommended_prefetch_factor == feedwater_prefetch_factor)""",
        "The prefetch factor recommended, where it is not the one in use.",
    ),
    Rule(
        "loader:feedwater_cpu_limit_to_set_cores:max",
        f"""
        {_max("loader", "feedwater_cpu_limit_needed_cores")}
        > {ON_POD} group_left
        {_max("pod", "feedwater_trainer_cpu_limit_cores")}""",
        "The CPU limit that takes the limit away as a cause, where it is above the one that there is.",
    ),
    Rule(
        "loader:feedwater_surplus_workers:max",
        f"""
        clamp_min(
            loader:feedwater_num_workers:max
          - {ON_LOADER}
            loader:feedwater_recommended_num_workers:max,
          0
        )""",
        "Workers that could go without loss: those above the recommendation.",
    ),
    Rule(
        "loader:feedwater_predicted_gain:ratio",
        f"""
        {_max("loader", "feedwater_predicted_batches_per_second")}
        / {ON_LOADER}
        ({_max("loader", "feedwater_measured_batches_per_second")} > 0)
        - 1""",
        "What the recommended settings should gain over the last complete epoch.",
    ),
    Rule(
        "loader:feedwater_measured_batches_per_second:max",
        f"""
        {_max("loader", "feedwater_measured_batches_per_second")}
        and {ON_LOADER}
        feedwater_prediction_error_ratio""",
        "Only where there is a prediction to compare with: the denominator of the prediction error.",
    ),
    Rule(
        "loader:feedwater_prediction_miss_batches_per_second:abs",
        f"""
        {_max("loader", "abs(feedwater_prediction_error_ratio)")}
        * {ON_LOADER}
        loader:feedwater_measured_batches_per_second:max""",
        "By how many batches/s the prediction missed what was measured, whichever way.",
    ),
    Rule("loader:feedwater_reports:rate5m", _rate("loader", "feedwater_reports_total", "5m")),
    Rule(
        "loader:feedwater_dropped_batches:ratio_rate10m",
        _share_lost("feedwater_dropped_batches_total", "feedwater_batches_total"),
        "Batches lost in measurement, of all batches.",
    ),
    Rule(
        "loader:feedwater_missing_reports:ratio_rate10m",
        _share_lost("feedwater_missing_reports_total", "feedwater_reports_total"),
        "Reports that never came, of all reports.",
    ),
)

POD = (
    Rule("pod:feedwater_reports:rate5m", _aggregated("sum", "pod", "loader:feedwater_reports:rate5m")),
    Rule(
        "pod:feedwater_trainer_cpu_throttled_periods:ratio_rate10m",
        _share(
            _rate("pod", "feedwater_trainer_cpu_throttled_periods_total"),
            _rate("pod", "feedwater_trainer_cpu_periods_total"),
        ),
    ),
    Rule(
        "pod:feedwater_trainer_memory_used:ratio",
        _share(
            _max("pod", "feedwater_trainer_memory_used_bytes"),
            _max("pod", "feedwater_trainer_memory_limit_bytes"),
        ),
    ),
    Rule(
        "pod:feedwater_trainer_shm_used:ratio",
        _share(
            _max("pod", "feedwater_trainer_shm_used_bytes"), _max("pod", "feedwater_trainer_shm_size_bytes")
        ),
    ),
    Rule(
        "pod:feedwater_device_idle_seconds:rate1h",
        _rate("pod", "feedwater_device_idle_seconds_total", "1h"),
        "Over an hour, for what is lost in the cluster: short dips of one job are no loss worth a message.",
    ),
    Rule(
        "pod:feedwater_device_seconds:rate1h",
        f"""
        pod:feedwater_device_idle_seconds:rate1h
        + {ON_POD}
        {_rate("pod", "feedwater_device_busy_seconds_total", "1h")}""",
    ),
    Rule(
        WORKLOAD_OF_POD,
        f"""
        max by ({LABELS["pod"]}, workload) (feedwater_build_info{{workload!=""}})
        or {ON_POD}
        max by ({LABELS["pod"]}, workload) (
            label_replace(
              kube_pod_owner{{owner_is_controller="true", owner_kind!="Node"}},
              "workload", "$1", "owner_name", "(.+)"
            )
          and {ON_POD}
            feedwater_build_info
        )
        or {ON_POD}
        max by ({LABELS["pod"]}, workload) (
          label_replace(feedwater_build_info, "workload", "$1", "pod", "(.*)")
        )""",
        "Which workload a pod belongs to: the target's label `workload`, else the controller that owns the "
        "pod (kube-state-metrics), else the pod itself.",
    ),
)


def _group(level: str) -> str:
    return f"  - name: feedwater-{level}\n    rules:\n" + "".join(map(_as_yaml, rules(level)))


def _as_yaml(rule: Rule) -> str:
    comment = "".join(f"# {line}\n" for line in wrap(rule.comment, COMMENT_WIDTH))
    return indent(f"{comment}- record: {rule.record}\n  expr:{scalar(rule.expr)}", "      ")


def scalar(expr: str) -> str:
    """Return an expression as the YAML value of a rule's key: behind it, or in a block of its own."""
    expr = dedent(expr).strip()
    return f" {expr}\n" if "\n" not in expr else " |\n" + indent(f"{expr}\n", "    ")
