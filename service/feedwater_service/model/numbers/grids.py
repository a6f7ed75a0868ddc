"""What is simulated, and for how long: settings that are tried, windows of batches, halvings.

They trade the sidecar's CPU time for precision and decide nothing by themselves.
"""

from __future__ import annotations

from typing import Final

WORKER_COUNTS: Final = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128)
"""Steps of about a quarter: finer ones differ by less than epochs do."""
CPU_LIMITS: Final = (
    *(0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 192.0),
)
"""Limits that people give, in cores, in steps of a third to a half."""
LIMITS_EITHER_SIDE: Final = 3
"""Limits looked at below the present one, and above."""
LIMIT_HALVINGS: Final = 2
"""Between two limits: to an eighth of what lies between them."""
DEEPER_PREFETCH: Final = (2, 4, 8)
"""Values tried against slow batches; beyond 8 memory grows faster than the gain."""
COUNTS_BELOW_DEEPER: Final = 3
"""Counts below the chosen one that are simulated with longer queues."""
SHALLOWER_PREFETCH: Final = (2, 1)
"""Values tried where queues fill the memory that more workers need, the mildest first."""
COUNTS_SHALLOWER: Final = 4
"""Counts simulated for each shallower value, the largest that fit: it is done at the boundary."""
GIL_SWITCHES: Final = (0, 1, 2, 3, 5, 8)
"""Waits for the interpreter lock for each hand-over: passing one tensor's descriptor takes about five
answers, fewer if the lock is free now and then."""
MAX_RANKS: Final = 3
"""Ranks simulated side by side; of more, these stand for all, on their part of the machine."""

WINDOW: Final = 400
"""Batches simulated, and loads and steps kept: 1/sqrt(400) is 5 % of their spread, and a simulation of them
takes 2 ms."""
COUNTERFACTUAL_WINDOW: Final = 250
"""Batches simulated for each cause: only differences count, and all are made of the same batches."""
LIMIT_WINDOW: Final = 150
"""Batches simulated to choose a count under another CPU limit, or twice what is primed if that is more; what
is said of the chosen one comes from a full window."""
FIT_WINDOW: Final = 200
"""Batches simulated for each number of waits for the interpreter lock."""
CONTENTION_WINDOW: Final = 120
"""Batches simulated for each share of the CPUs' time."""
CONTENTION_HALVINGS: Final = 5
"""Halvings of the logarithm of that share: to a tenth of what is found."""
RANKS_WINDOW: Final = 300
"""Batches of all ranks together: side by side each costs half as much again."""
MIN_RANK_WINDOW: Final = 100
"""Batches of each rank, where several are simulated: a queue of 25 workers is filled and used twice."""
SMOOTHED_PERIODS: Final = 10
"""Periods of the CPU quota that a batch uses from which one more or less is under a tenth of it, so that the
quota is given evenly."""
PERIODS_PER_BATCH: Final = 4 * SMOOTHED_PERIODS
"""Periods of the CPU quota simulated for each batch, from which on the quota is given evenly. Loads of
minutes that computed on a part of a large quota had 300 periods each, and took 26 s of CPU time."""
MAX_EVENTS: Final = 1 << 20
"""Events of one simulation, 2 s of CPU time. The largest of honest epochs have 20,000."""
EVENTS_PER_CHECK: Final = 4096
"""Events between two looks at the limits: 8 ms."""
MAX_PRIMED: Final = 1 << 14
"""Batches that are simulated as primed at ``iter()``: 128 workers with 128 each."""
NEED_LOADS: Final = 200
"""Loads looked at for a loader's fair share: it is asked often, and a share need not be exact."""
