"""The words for each verdict, once: for the terminal, the live page, dashboards, alerts and runbooks.

`feedwater status`, the dashboards and the alerts read this table. The live page (service/web/src/words.ts)
and docs/runbooks.md repeat it, and tests/unit/test_verdicts.py compares them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Remedy(Enum):
    """Where the cause of starvation can be removed, which is what the dashboards' colours show."""

    NOTHING = "nothing"
    """There is nothing to remove."""
    SETTING = "setting"
    """Another setting of the DataLoader."""
    LIMIT = "limit"
    """A limit of the pod."""
    ELSEWHERE = "elsewhere"
    """Outside of the loader: storage, the trainer's own code, other pods, another rank."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictWords:
    """What people read in the place of a verdict's name."""

    title: str
    """Its name on the live page."""
    phrase: str
    """What it means, after a colon: in the terminal and in the runbooks."""
    meaning: str
    """What it means, as a sentence: on the live page."""
    remedy: Remedy
    action: str = ""
    """What to do, as a sentence of the alerts. Empty where the number of workers says it, and where
    deploy/monitoring/descriptions.py has a sentence with figures."""


VERDICTS = {
    "UNKNOWN": VerdictWords(
        title="Not clear",
        phrase="the cause is not known yet",
        meaning="The measurements do not show one cause.",
        remedy=Remedy.UNKNOWN,
    ),
    "NOT_STARVED": VerdictWords(
        title="Not starved",
        phrase="the trainer is fed",
        meaning="No other setting would gain anything worth having.",
        remedy=Remedy.NOTHING,
    ),
    "TOO_FEW_WORKERS": VerdictWords(
        title="Too few workers",
        phrase="too few workers",
        meaning="More workers would bring the batches sooner.",
        remedy=Remedy.SETTING,
    ),
    "TOO_MANY_WORKERS": VerdictWords(
        title="Too many workers",
        phrase="more workers than it needs",
        meaning="Fewer workers do as well, or better.",
        remedy=Remedy.SETTING,
    ),
    "SLOW_BATCHES": VerdictWords(
        title="Slow batches",
        phrase="a few slow batches hold the others up",
        meaning="A few slow batches hold up those behind them.",
        remedy=Remedy.SETTING,
        action="A larger prefetch_factor helps, or in_order=False if order is free.",
    ),
    "START_UP": VerdictWords(
        title="Start-up",
        phrase="epochs are short, starting them is long",
        meaning="Starting the workers takes a good part of each epoch.",
        remedy=Remedy.SETTING,
        action="Set persistent_workers=True.",
    ),
    "CPU_LIMIT": VerdictWords(
        title="CPU limit",
        phrase="the CPU limit is used up",
        meaning="Loading uses up the cores that the container may use.",
        remedy=Remedy.LIMIT,
        action="Raise the CPU limit to what the advice in `feedwater status` names, or make loading cheaper.",
    ),
    "MEMORY": VerdictWords(
        title="Memory limit",
        phrase="memory allows no more workers",
        meaning="More workers would help, but do not fit the memory limit.",
        remedy=Remedy.LIMIT,
    ),
    "SHARED_MEMORY": VerdictWords(
        title="Shared memory",
        phrase="/dev/shm allows no more workers",
        meaning="More batches in flight do not fit /dev/shm.",
        remedy=Remedy.LIMIT,
    ),
    "STORAGE": VerdictWords(
        title="Storage",
        phrase="storage gives no more",
        meaning="Storage gives no more, whatever the number of workers.",
        remedy=Remedy.ELSEWHERE,
        action="Bring the data nearer: a local disk, a cache, larger files.",
    ),
    "MAIN_PROCESS": VerdictWords(
        title="Main process",
        phrase="the main process is the bottleneck",
        meaning="Receiving each batch costs the training process more than any worker can save.",
        remedy=Remedy.ELSEWHERE,
        action="Send fewer, larger tensors in each batch, or collate in the workers.",
    ),
    "OVERSUBSCRIBED": VerdictWords(
        title="Oversubscribed",
        phrase="workers run more threads than there are cores",
        meaning="Native threads in the workers compete for the cores.",
        remedy=Remedy.ELSEWHERE,
        action="Set OMP_NUM_THREADS=1 and OPENBLAS_NUM_THREADS=1, and cv2.setNumThreads(0) in the workers.",
    ),
    "CPU_CONTENTION": VerdictWords(
        title="CPU contention",
        phrase="others on the node use the CPUs",
        meaning="Other containers on this node use the CPUs that loading waits for.",
        remedy=Remedy.ELSEWHERE,
        action="Reserve CPUs that other pods use now: a CPU request as large as the limit, a static CPU "
        "manager, fewer pods on the node.",
    ),
    "STRAGGLER_RANK": VerdictWords(
        title="Straggler rank",
        phrase="one rank is slower than the others",
        meaning="One rank loads more slowly than the others.",
        remedy=Remedy.ELSEWHERE,
        action="One rank loads slower than the others: look at its node and its disk.",
    ),
}
"""By name, those of one remedy together."""
