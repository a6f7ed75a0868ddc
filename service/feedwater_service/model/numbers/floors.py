"""Statistical floors: how much must be measured, and how far figures must differ, to be believed.

Ratios, counts, shares and standard deviations, without a unit unless a name ends in one.
"""

from __future__ import annotations

from typing import Final

# How many.

MIN_SAMPLES: Final = 10
"""Loads, batches or hand-overs of which a mean or a median is taken."""
MIN_DEVICE_STEPS: Final = 4
"""Sampled steps of the device that its share of waiting takes: one slow step among fewer is half of all. The
loop samples every second step at most, so an epoch of 8 batches has as many. Fitting a device takes
`MIN_SAMPLES`."""
MIN_EPOCH_BATCHES: Final = 2
"""Batches without which an epoch says nothing: a peek at the first one, an iterator that was made anew."""
MAX_POOLED_FACTOR: Final = 4
"""Short epochs are joined until they hold this many times the batches that a judgement takes: older ones say
less of today."""
MAX_LOAD_SPREAD: Final = 0.15
"""Relative standard error of the mean load from which a running epoch says too little yet: after 100 batches
of a lognormal tail with sigma 1.5 it is 0.29, and the choice would follow the draw."""
MIN_DRAFT_SHARE: Final = 0.4
"""Share of the epoch that an analysis made within it must have seen to stand for the whole of it."""
MAX_MISFIT: Final = 1.4
"""Factor between simulated and measured speed beyond which an epoch is not understood."""

# Which epochs are of one workload.

BUDGET_TOLERANCE: Final = 0.05
"""Limits that differ by less are one: a machine's free memory moves by more than nothing."""
WORKLOAD_CHANGE_FACTOR: Final = 1.8
"""Factor of loads or steps between epochs of the same settings that makes another workload; a cold first
epoch of JPEG files took 1.5 times as long as the next, and that is still the same workload."""
WORKLOAD_CHANGE_FACTOR_OTHER_COUNT: Final = 2.5
"""Factor of the CPU time of loads between epochs of different counts: workers that share memory bandwidth and
hyper-threads take up to twice as much of it."""
BATCH_BYTES_CHANGE_FACTOR: Final = 1.5
"""Factor of the mean size of batches: it does not depend on any setting."""
MIN_COMPARED_SECONDS: Final = 0.001
"""Loads and steps below are not compared: a wake-up is a good part of them."""
EQUAL_RANKS_TOLERANCE: Final = 0.1
"""Relative difference of mean loads up to which ranks count as equal: samples differ, not the work."""
STRAGGLER_LOAD_FACTOR: Final = 1.5
"""Factor of a rank's mean load over that of the others from which it may hold them up: beyond what sharing a
pod's CPUs unevenly brings about."""
STRAGGLER_WAIT_FACTOR: Final = 2.0
"""Factor of its starvation over that of the others."""
STRAGGLER_MIN_STARVATION: Final = 0.1
"""Its starvation at least."""

# Which loaders and ranks run in step.

MAX_STEP_DRIFT: Final = 1.0
"""Mean iterations that the ends of two ranks' steps may move against each other while they keep in step.
Ranks that do not wait for each other drift apart by the square root of the batches."""
ZIPPED_MIN_SHARE: Final = 0.9
"""Share of another loader's batches that were asked for and delivered within single steps of ours, for one
loop to take both."""
ZIPPED_MIN_STEPS_PER_BATCH: Final = 0.5
"""Distinct steps of ours for each batch of the other, at least. A validation within an epoch puts all its
batches into a few steps."""
ZIPPED_MAX_BATCHES_PER_STEP: Final = 4.0
"""Batches of another loader for one of ours that are followed one by one; of more, so many."""
STAMP_ERROR_SECONDS: Final = 0.001
"""What sums of many rounded waits and steps may be off."""

# What a load consists of.

NEGLIGIBLE_SECONDS: Final = 1e-7
"""A tenth of what the loop's two clock reads take."""
CLOCK_NOISE_SHARE: Final = 0.03
"""Blocked time below this share of a load's CPU time is noise: three clocks are read one after another."""
FIRST_LOAD_QUANTILE: Final = 0.9
"""Quantile of later loads that every worker's first one must exceed to be told apart ..."""
FIRST_LOAD_FACTOR: Final = 1.2
"""... by this factor."""
NOTICEABLE_STRETCH: Final = 1.1
"""Factor by which CPU bursts take longer than undisturbed, from which medians show the machine's load too."""
MIN_LOAD_WIDTH: Final = 1.5
"""CPUs that a load keeps busy from which it has threads of its own; shorter loads drown in what else a worker
does."""
MAX_LOAD_WIDTH: Final = 64.0
"""CPUs that one step or load is believed to keep busy at most."""

# Handing batches over.

MAX_UNMATCHED_SHARE: Final = 0.02
"""Share of batches that were delivered before their load ended, from which loads and batches do not match."""
MIN_USUAL_FACTOR: Final = 0.25
"""Of the usual cost: what is measured is believed to be no less."""
MAX_USUAL_FACTOR: Final = 4
"""Times the usual cost of handing over or ending a worker: what is measured is believed to be no more."""
HELD_UP_FACTOR: Final = 2
"""Times the usual cost of a reception from which it rather waits for its worker's interpreter lock."""
COMPUTING_SECONDS: Final = 0.001
"""CPU time of a load from which its worker may hold the interpreter lock long enough to delay others ..."""
COMPUTING_SHARE: Final = 0.2
"""... where it is this share of the blocked time, or of the whole load."""
FREEZABLE_STEP_PERIODS: Final = 0.5
"""Periods of a CPU quota that the quicker steps last at most, for it to freeze some and not others."""
QUICK_STEP_QUANTILE: Final = 0.1
"""Quantile of the steps that others delayed next to never, on contended CPUs."""
FROZEN_STEP_FACTOR: Final = 1.5
"""Times the quicker steps at which steps under a quota are cut: the rest is taken for a freeze."""

# Start-up.

CONCURRENT_BOOT_SECONDS: Final = 0.1
"""Workers that boot longer than it takes to start them, as with spawn, boot all at once."""
START_UP_PRIOR_WORKERS: Final = 4.0
"""Workers whose start or end must be measured to be believed as much as the usual cost: one start varies by a
fifth between epochs."""
START_UP_OUTLIER_FACTOR: Final = 1.6
"""Factor between measured and usual cost from which the process is another kind, and the measurement
stands."""
START_UP_MAX_STRETCH: Final = 1.3
"""Stretch of CPU bursts from which start-up times say more of the machine's load than of the work."""
BEFORE_WORKERS_SECONDS: Final = 0.05
"""After ``iter()`` was called, within which a reading of memory is still one without its workers."""

# Other containers on the CPUs.

CONTENDED_MIN_STRETCH: Final = 1.2
"""Stretch of CPU bursts from which other containers are in question."""
CONTENDED_MIN_EXCESS: Final = 1.3
"""Factor of the measured stretch over the simulated one from which delays say how much others take: woken
threads wait for their turn on one CPU while another idles, which the simulation does not know."""
OWN_USE_SHARE: Final = 0.85
"""Share of the container's cores in use from which its own threads fill them."""
CONTENDED_MIN_LOSS: Final = 1.07
"""Factor by which the simulation must be faster than the epoch was for others to have cost anything."""
CONTENDED_MIN_MISS: Final = 1.25
"""The same where the loads do not show it, for it to be no error of the simulation."""
MIN_OBTAINABLE_SHARE: Final = 0.05
"""Share of the CPUs' time: less is not believed to be all that can be had."""

# A ceiling of storage.

CEILING_MIN_SLOWDOWN: Final = 1.25
"""Factor by which blocked time must rise with the number of concurrent loads; less is an epoch's noise."""
CEILING_MIN_BLOCKED_SHARE: Final = 0.2
"""Share of a load's own time that it must be blocked at the higher count: a load that computes is not held up
by storage, however its fraction of a millisecond of blocking varies."""
CEILING_MIN_STARVATION: Final = 0.1
"""Without starvation nothing was short, so a longer blocked time is not a ceiling's."""
FEW_CONCURRENT_SHARE: Final = 0.75
"""Share of the workers, on average during a load, up to which it ran beside few."""
MANY_CONCURRENT_SHARE: Final = 0.9
"""Share of the workers from which a load ran beside many."""
MIN_LOADS_AMONG_FEW: Final = 4
"""Loads beside few that are needed: fewer cannot differ beyond chance."""
MIN_LOADS_AMONG_MANY: Final = 20
"""Loads beside many that are needed."""
RANK_TEST_SD: Final = 3.1
"""Standard deviations that the ranks of both must lie apart: equal loads do so once in a thousand epochs, and
then their medians would have to differ as well."""

# The device.

SYNC_STEP_SHARE: Final = 0.9
"""Share of the device's busy time that a step of the host lasts at least, if it waits for the device."""
LAUNCH_GAP_SECONDS: Final = 0.0005
"""Idle time that is left between two steps back to back: a launch takes some tenths of a millisecond."""
DEVICE_IDLE_SHARE: Final = 0.05
"""Share of its busy time that the device must have been idle before a step for the host not to be held up."""
MAX_RUN_AHEAD: Final = 8
"""Steps that a host is believed to run ahead: about a thousand launches fit into a queue of CUDA's."""
UNKNOWN_BATCH_BYTES: Final = 4096
"""Size of a batch that was not measured: the thread that pins it is there all the same."""
ASSUMED_GIL_SWITCHES: Final = 2
"""Waits for the interpreter lock for each hand-over, where none was seen."""

# What the simulation misses, and bounds. Standard deviations of the logarithm of a speed.

PRIOR_SD_IDLE: Final = 0.03
"""Of a residual where CPUs are idle."""
PRIOR_SD_BUSY: Final = 0.09
"""Of a residual where all are busy: of threads that wait for their turn the simulation knows least."""
PRIOR_SD_NO_WORKERS: Final = 0.04
"""Of a residual without workers: one process does one thing after another, and waits for no other."""
SD_EXPONENT: Final = 4
"""Power of the CPUs' busy share with which it rises from idle to busy."""
LENGTH_SCALE_DOUBLINGS: Final = 4.0
"""Doublings of the count over which the correlation of residuals falls by a factor e."""
EPOCH_NOISE_SD: Final = 0.01
"""Between epochs of one setting on a quiet machine, beyond the noise of their batches."""
MAX_RESIDUAL: Final = 0.3
"""Residuals count for no more: beyond, the epoch is not understood, and nothing is to be carried over."""
BOUND_SD: Final = 2.2
"""Standard deviations that bounds are wide: 85 % of the truths lie within; of a Gaussian it were 97 %."""
SD_UNKNOWN_LOADS: Final = 0.14
"""Added where it was not measured how loads divide into CPU and blocked time."""
SD_UNKNOWN_COST: Final = 0.045
"""Added for each cost that was not measured: the CPU time of a step, handing batches over."""
SD_OTHER_LIMIT: Final = 0.05
"""Added under another CPU limit than the present one."""
LOAD_ERROR_SHARE: Final = 0.75
"""Share of the standard error of the mean load that counts: an epoch's samples come again in the next."""
LOAD_ERROR_SHARE_COMPARED: Final = 0.3
"""The same where two epochs' mean loads can be compared, beside what they differ by."""

# Did a change help.

MIN_EPOCH_NOISE: Final = 0.03
"""Two epochs of one setting differ by this much on a quiet machine."""
CONTENDED_NOISE: Final = 0.25
"""The same where others took all of the CPUs' time; in proportion where they took a part."""
COMPARABLE_LONGER: Final = 1.05
"""Factor by which loads or steps may have become longer for two epochs to be compared as they are ..."""
COMPARABLE_SHORTER: Final = 1.2
"""... or shorter: fewer workers get in each other's way less."""

# Evidence.

NOTABLE_RATIO: Final = 1.25
"""Factor between two means that is a fact worth reading, and no epoch's noise."""
NOTABLE_FIRST_LOAD_RATIO: Final = 2.0
"""Factor of a worker's first load over its later ones: it always opens a file or two."""
MIN_STOLEN_CORES: Final = 0.02
"""Below, the hypervisor takes what timers and interrupts take anywhere."""
MIN_PRESSURE_SHARE: Final = 0.1
"""Share of an epoch in which the container's tasks waited for storage or memory that is a fact worth reading:
systemd-oomd, which ends programs for it, takes 0.6 of memory pressure.

Source: https://docs.kernel.org/accounting/psi.html
"""
MIN_READ_BYTES: Final = 16 * 2**20
"""Bytes that must have been read to speak of the page cache."""
COLD_READ_SHARE: Final = 0.2
"""Share of what was read that came from storage, from which an epoch is cold."""
MEMORY_SEEN_SHARE: Final = 0.5
"""Share of an epoch after which memory must have been read to say how much it grew: what is copied on write
grows as samples are read."""
