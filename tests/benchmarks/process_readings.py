"""What do psutil and nvidia-ml-py cost the relay, beside reading the same by hand?

Timed: CPU time of one reading of one process of 50 MB, as the relay reads a worker (identity, CPU time,
resident memory, I/O counters), then with its proportional and unique memory; CPU time of one reading of a
device through a stand-in for NVIDIA's driver library that is compiled here, so without the driver's own time.
Not timed but read: the resident memory that each import adds to a fresh process which has imported the relay.
"By hand" for processes is the least that does it, in `_by_hand` below. nvidia-ml-py is left out where it is
not installed. Decision 19 rests on these figures.

    python -m tests.benchmarks.process_readings --json tests/benchmarks/results/process_readings.json
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.benchmark import Options, Row, interleaved, log, options, publish, quiet, row
from tests.support.processes import remove, scratch

RUNS = 9
READINGS = 300
IMPORTS = {
    "psutil": "import psutil",
    "nvidia-ml-py": "import pynvml",
    "NVML by hand": "import feedwater.relay.nvml",
}
ADDED = """
import os, sys, time
sys.modules["psutil"] = None  # The relay's own import is not to hide what the library costs.
import feedwater.relay.relay
sys.modules.pop("psutil")

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

before, began = resident(), time.process_time()
{statement}
print((resident() - before) / 2**20, (time.process_time() - began) * 1e3, resident() / 2**20)
"""
DEVICE = """
import time
{setup}
for _ in range(100):
    read()
began = time.process_time()
for _ in range({readings}):
    read()
print((time.process_time() - began) / {readings} * 1e6)
"""
BY_LIBRARY = """
import pynvml
pynvml.nvmlInit()
handle = pynvml.nvmlDeviceGetHandleByIndex(0)
read = lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
"""
BY_CTYPES = """
from feedwater.relay.nvml import Nvml
library = Nvml()
(uuid,) = library.uuids()
read = lambda: library.utilisation(uuid)
"""
DRIVER = r"""
#include <string.h>
typedef struct { unsigned gpu, memory; } nvmlUtilization_t;
static int device;
int nvmlInit_v2(void) { return 0; }
int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) { *handle = &device; return 0; }
int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned length) { strcpy(uuid, "GPU-0"); return 0; }
int nvmlDeviceGetUtilizationRates(void *handle, nvmlUtilization_t *rates)
{
    rates->gpu = 37;
    rates->memory = 90;
    return 0;
}
"""


def measure_all(chosen: Options) -> list[Row]:
    """Measure readings of processes and devices, and what the imports add."""
    return [*_processes(chosen), *_devices(chosen), *_imports(chosen)]


def _processes(chosen: Options) -> Iterator[Row]:
    from feedwater.relay.processes import ProcessReader

    runs, readings = (3, 30) if chosen.quick else (RUNS, READINGS)
    with _worker() as pid:
        reader = ProcessReader()
        for with_pss, what in ((False, ""), (True, ", with PSS and USS")):
            count = readings // 5 if with_pss else readings
            cases: dict[str, Callable[[], float]] = {
                "psutil": lambda n=count, pss=with_pss: _cpu_us(lambda: reader.usage(pid, 0, 0.0, pss), n),
                "by hand": lambda n=count, pss=with_pss: _cpu_us(lambda: _by_hand(pid, pss), n),
            }
            for name, taken in interleaved(cases, runs, chosen).items():
                yield row(f"a reading of a process{what}, {name}", "µs", taken, note=_version(name))


def _cpu_us(read: Callable[[], object], count: int) -> float:
    began = time.process_time()
    for _ in range(count):
        read()
    return (time.process_time() - began) / count * 1e6


def _by_hand(pid: int, with_pss: bool) -> tuple[float, int, int, dict[str, int]]:
    from feedwater.relay.procfs import CLOCK_TICK_SECONDS, named_numbers, read_text

    stat = read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    resident = int(read_text(f"/proc/{pid}/statm").split()[1])
    numbers = named_numbers(read_text(f"/proc/{pid}/io"))
    if with_pss:
        numbers |= named_numbers(read_text(f"/proc/{pid}/smaps_rollup"))
    return (int(stat[11]) + int(stat[12])) * CLOCK_TICK_SECONDS, int(stat[19]), resident, numbers


@contextmanager
def _worker() -> Iterator[int]:
    code = "import sys; memory = bytearray(50 << 20); print(); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid


def _devices(chosen: Options) -> Iterator[Row]:
    compiler = shutil.which("cc")
    if compiler is None:
        log("no C compiler: readings of a device are left out")
        return
    runs = 3 if chosen.quick else RUNS
    directory = scratch()
    try:
        (directory / "driver.c").write_text(DRIVER)
        library = str(directory / "libnvidia-ml.so.1")
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, str(directory / "driver.c")], check=True)
        setups = {"by hand": BY_CTYPES} | ({"nvidia-ml-py": BY_LIBRARY} if _has_pynvml() else {})
        cases = {
            name: lambda setup=setup: _child(DEVICE.format(setup=setup, readings=2000), directory)[0]
            for name, setup in setups.items()
        }
        for name, taken in interleaved(cases, runs, chosen).items():
            yield row(f"a reading of a device, {name}", "µs", taken, note="without the driver's own time")
    finally:
        remove(directory)


def _imports(chosen: Options) -> Iterator[Row]:
    runs = 3 if chosen.quick else RUNS
    statements = {name: text for name, text in IMPORTS.items() if "pynvml" not in text or _has_pynvml()}
    with quiet(chosen):
        taken = {
            name: [_child(ADDED.format(statement=text)) for _ in range(runs)]
            for name, text in statements.items()
        }
    for name, values in taken.items():
        added, cpu_ms, whole = zip(*values, strict=True)
        yield row(f"resident memory that {name} adds to the relay", "MiB", added, note=_version(name))
        yield row(f"CPU time of importing {name}", "ms", cpu_ms)
        yield row(f"resident memory of the relay's code with {name}", "MiB", whole)


def _version(name: str) -> str:
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return ""


def _has_pynvml() -> bool:
    return importlib.util.find_spec("pynvml") is not None


def _child(code: str, libraries: Path | None = None) -> list[float]:
    """Run code in a fresh Python and return the numbers that it prints."""
    environ = dict(os.environ) if libraries is None else {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
    printed = subprocess.run(
        [sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE, text=True, check=True
    )
    return [float(text) for text in printed.stdout.split()]


def main() -> None:
    chosen = options(__doc__)
    publish(__doc__, measure_all(chosen), chosen)


if __name__ == "__main__":
    main()
