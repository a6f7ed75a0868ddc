"""Decision thresholds: from where on a setting is chosen, a change refused, a cause named.

Shares and factors, without a unit unless a name ends in one. What the user decides is in `types.Policy`.
"""

from __future__ import annotations

from typing import Final

# Choosing.

LOAD_TIME_MARGIN: Final = 1.15
"""A choice must hold with load times this much longer: an epoch's mean load moves by about that."""
SHRINK_LOAD_TIME_MARGIN: Final = 1.4
"""Giving workers back must hold with load times this much longer: thrift is not worth a slow epoch."""
AS_GOOD_SHARE: Final = 0.005
"""Within half a percent of the best counts as the best: thrift breaks ties."""
RETURN_GAIN_FACTOR: Final = 5
"""Times `Policy.min_gain` that a setting already left must promise: no swinging to and fro."""
MAX_RECENT_CHANGES: Final = 3
"""Changes within `RECENT_EPOCHS` after which a setting stays: 1 worker becomes 64, four times as many
each."""
RECENT_EPOCHS: Final = 20
"""A loader that still changes after so many epochs follows its noise."""
ZERO_CROSSING_FACTOR: Final = 1.5
"""Times the usual residual that a change between no workers and some must gain."""
MIN_SHRINK_SHARE: Final = 0.25
"""Share of the workers that giving some back must save, to be worth a change without gain."""

# What the pod carries.

SHM_PLANNED_SHARE: Final = 0.9
"""Share of ``/dev/shm`` that is planned for: a full one is an error that ends training."""
PIDS_PLANNED_SHARE: Final = 0.9
"""Share of ``pids.max`` that is planned for."""
FIRST_WORKERS: Final = 4
"""The most to begin with where nothing is known of a worker's memory, however much there is."""
FREE_CONCURRENCY: Final = 8
"""Concurrent loads that may be tried whatever was seen: no storage that people train on minds them."""
MAX_CONCURRENCY_FACTOR: Final = 4
"""Raise at most this many times the concurrency that was seen: storage may have a ceiling above it."""
MAX_SHARD_IMBALANCE: Final = 1.2
"""Times the even share that a worker's shards must stay below, for a count to be recommended."""
MIN_STEP_SECONDS: Final = 0.001
"""A shorter step asks for more workers than any pod has."""

# Other CPU limits.

MAX_LOSS_AT_LIMIT: Final = 0.01
"""Share of the speed that a smaller limit may cost and still count as no loss: what epochs differ by."""
KEEPS_UP_SHARE: Final = 0.95
"""Share of the speed at the largest limit that must be reached too, for starvation to have ended: a quota
that is used up freezes the steps with the loads, and then little is waited for."""
BUSY_CPU_SHARE: Final = 0.5
"""Share of a limit in use from which more of it may gain: bursts meet it before the mean does."""
MAX_CORES: Final = 128.0
"""More are not offered by machines that people train on."""

# Naming the bottleneck.

MIN_STARVATION: Final = 0.05
"""Starvation below which nothing is worth saying: an accelerator is not kept busier than that by anything."""
SATURATED_CPU_SHARE: Final = 0.9
"""Share of the cores at which they count as used up."""
SMALL_BATCH_TENSORS: Final = 4
"""Tensors of a batch up to which moving them costs the main process next to nothing."""
SMALL_BATCH_BYTES: Final = 2**20
"""Bytes of a batch likewise: 1 ms."""
START_UP_MIN_SHARE: Final = 0.1
"""Share of the epoch that start-up must take to be named."""
MIN_CPU_WAIT_SHARE: Final = 0.1
"""Share of periods throttled, or of runnable time without a CPU, from which a CPU limit is seen to be met."""
SLOW_BATCHES_GAIN_SHARE: Final = 0.5
"""Share of what another count gains that even loads must gain, for slow batches to be the cause."""
START_UP_MIN_GAIN: Final = 0.15
"""Gain from workers that live on, at the settings that are recommended, from which start-up is the cause
although there are too many workers: for epochs of 2 s and half a dozen of them it is about a tenth."""
CONTENDED_CPU_SHARE: Final = 0.75
"""Share of the CPUs' time that others leave, below which that is worth a word."""
MAX_GAIN_FROM_WORKERS: Final = 0.25
"""Gain from more workers above which they are the cause, though CPU or storage bound the best count too."""
UNEVEN_LOADS_SPREAD: Final = 0.1
"""Spread of load times over their mean from which slow batches may hold up fast ones; below, a queue of two
batches for each worker evens them out."""
BLOCKED_LOAD_SHARE: Final = 0.5
"""Share of a load that it must be blocked for a ceiling of storage above what was seen to be in question."""
