"""What alerts tell whoever is on call, as templates that look figures up when the alert is sent.

Source: https://prometheus.io/docs/prometheus/latest/configuration/template_reference/
"""

from __future__ import annotations

import json
import re

from deploy.monitoring.rules import LABELS
from feedwater.verdicts import VERDICTS

COUNT = '{{ . | first | value | printf "%.0f" }}'
TENTHS = '{{ . | first | value | printf "%.1f" }}'
HUNDREDTHS = '{{ . | first | value | printf "%.2f" }}'
CORES = '{{ . | first | value | printf "%.3g" }}'
BYTES = "{{ . | first | value | humanize1024 }}B"
"""The first value that a look-up gave."""

POD_NAME = "{{ $labels.namespace }}/{{ $labels.pod }}"
LOADER_NAME = f"{{{{ $labels.loader }}}} in {POD_NAME} (rank {{{{ $labels.rank }}}})"
SHARE = "{{ $value | humanizePercentage }}"


def _selector(variable: str, labels: str) -> str:
    """Return a template that sets a variable to a selector of the alert's own labels, quoted as PromQL."""
    names = labels.split(", ")
    matchers = ",".join(f"{name}=%q" for name in names)
    values = " ".join(f"$labels.{name}" for name in names)
    return f'{{{{- ${variable} := printf "{{{matchers}}}" {values} -}}}}'


OF_LOADER = _selector("loader", LABELS["loader"])
OF_POD = _selector("pod", LABELS["pod"])
"""A description begins with the selectors that its look-ups name, as <loader> and <pod>."""


def lookup(query: str, text: str, otherwise: str = "", *, begin: str = "{{") -> str:
    """Return a template of what a query gives: `text`, where it gives something, else `otherwise`.

    Example: ``lookup("feedwater_num_workers<loader>", f"{COUNT} workers")``.
    """
    selectors = "".join(f" ${name}" for name in re.findall(r"<(\w+)>", query))
    queried = f"printf {json.dumps(re.sub(r'<[a-z]+>', '%s', query))}{selectors} | query"
    alternative = f"{{{{ else }}}}{otherwise}" if otherwise else ""
    return f"{begin} with {queried} }}}}{text}{alternative}{{{{ end }}}}"


def optional(query: str, sentence: str) -> str:
    """Return a sentence that is there only where a query gives something."""
    return lookup(query, f" {sentence}", begin="{{-")


# -- Sentences that several alerts have --------------------------------------------------------------------

IN_USE = lookup("loader:feedwater_num_workers:max<loader>", f", {COUNT} in use")
UNCAPPED = lookup("max(feedwater_uncapped_num_workers<loader>)", f", {COUNT} without the pod's limits")
RECOMMENDED = lookup(
    "loader:feedwater_recommended_num_workers:max<loader>",
    f"num_workers={COUNT} is recommended",
    "No number is recommended yet",
)
PREFETCH_FACTOR = optional(
    "loader:feedwater_prefetch_factor_to_set:max<loader>",
    f"prefetch_factor={COUNT} is recommended"
    + lookup("max(feedwater_prefetch_factor<loader>)", f", {COUNT} in use")
    + ".",
)
WORKERS_OF_POD = (
    lookup(
        "pod:feedwater_recommended_num_workers:sum<pod>",
        f"Recommended are {COUNT} workers over all loaders and ranks",
        "No number is recommended yet",
    )
    + lookup("pod:feedwater_num_workers:sum<pod>", f", {COUNT} are in use")
    + "."
)
VERDICT = "The verdict is " + lookup(
    "loader_verdict:feedwater_verdict:max<loader>", '{{ . | first | label "verdict" }}', "UNKNOWN"
)


# -- What a starved loader needs ---------------------------------------------------------------------------

SET_VERDICT = '{{- $verdict := "UNKNOWN" -}}'
HOLDING_VERDICT = lookup(
    "loader_verdict:feedwater_verdict:max<loader>", '{{ $verdict = . | first | label "verdict" }}'
)

NUM_WORKERS = (
    lookup(
        "loader:feedwater_num_workers:max<loader> == loader:feedwater_recommended_num_workers:max<loader>",
        f"No num_workers is better than the {COUNT} in use"
        + lookup(
            "max(feedwater_uncapped_num_workers<loader>) > max(feedwater_num_workers<loader>)",
            f"; without the pod's limits {COUNT} would be",
        ),
        RECOMMENDED + IN_USE + UNCAPPED,
    )
    + "."
)

# Where the limit is known that ends it, it is named, whatever the verdict is.
CPU_LIMIT = lookup(
    "loader:feedwater_cpu_limit_to_set_cores:max<loader>",
    f" A CPU limit of {CORES} cores"
    + lookup("max(feedwater_trainer_cpu_limit_cores<pod>)", f" instead of {CORES}")
    + " would hold it back no more, with the num_workers that is recommended then.",
    f'{{{{ if eq $verdict "CPU_LIMIT" }}}} {VERDICTS["CPU_LIMIT"].action}{{{{ end }}}}',
    begin="{{-",
)

WITH_FIGURES = {
    "MEMORY": "More memory"
    + lookup("max(feedwater_trainer_memory_limit_bytes<pod>)", f" than the limit of {BYTES}")
    + " helps"
    + lookup("max(feedwater_worker_pss_max_bytes<loader>)", f", up to {BYTES} for each worker more")
    + ".",
    "SHARED_MEMORY": "A larger /dev/shm"
    + lookup("max(feedwater_trainer_shm_size_bytes<pod>)", f" than {BYTES}")
    + " helps"
    + lookup(
        "max(feedwater_batch_bytes<loader>)",
        f"; each worker more takes prefetch_factor batches of {BYTES}",
    )
    + ".",
}
"""What to do about the verdicts whose sentence needs look-ups."""

ACTIONS = WITH_FIGURES | {
    name: words.action for name, words in VERDICTS.items() if words.action and name != "CPU_LIMIT"
}
"""What to do, by verdict. Where there is none, the number of workers says it."""


def _actions() -> list[str]:
    """Return templates that together print what to do about the verdict that holds."""
    branches = [f'if eq $verdict "{name}" }}}} {action}' for name, action in ACTIONS.items()]
    return [f"{{{{- {branches[0]}", *(f"{{{{- else {branch}" for branch in branches[1:]), "{{- end }}"]


STARVED = (
    OF_LOADER,
    OF_POD,
    SET_VERDICT,
    f"{HOLDING_VERDICT}The verdict is {{{{ $verdict }}}}.",
    NUM_WORKERS,
    PREFETCH_FACTOR,
    CPU_LIMIT,
    *_actions(),
    "`feedwater status` in the sidecar says why, and the runbook what each verdict asks for.",
)
