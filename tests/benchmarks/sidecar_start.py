"""How soon is the sidecar ready, and what does it weigh idle: unlimited, and at 250m?

Timed: from starting the interpreter to the first 200 of `/readyz`, polled every 5 ms; a fresh state directory
and warm file caches, as after the image was pulled. Then its resident memory, and its CPU time over some
seconds in which nothing happens. At 250m the process is born in a group with a quarter of a core.

    python -m tests.benchmarks.sidecar_start --json tests/benchmarks/results/sidecar_start.json
"""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from tests.support.benchmark import Options, Row, log, options, publish, quiet, row
from tests.support.processes import cgroup, enter, free_port, limit_cores, remove, scratch

RUNS = 7
IDLE_SECONDS = 3
COMPILED = scratch()


def measure_all(chosen: Options) -> list[Row]:
    """Measure without a limit and at 250m."""
    rows = []
    for name, cores in (("", None), (", 250m", 0.25)):
        try:
            rows += _case(name, cores, chosen)
        except OSError as error:
            log(f"{name}: left out, no CPU cgroup may be made here: {error}")
    return rows


def _case(name: str, cores: float | None, chosen: Options) -> list[Row]:
    runs, idle = (1, 1) if chosen.quick else (RUNS, IDLE_SECONDS)
    _one(cores, 0)
    with quiet(chosen):
        taken = [_one(cores, idle) for _ in range(runs)]
    starts, sizes, shares = zip(*taken, strict=True)
    return [
        row(f"start to ready{name}", "s", starts, bar="<= 1"),
        row(f"resident memory, idle{name}", "MiB", sizes, bar="<= 64"),
        row(f"CPU, idle{name}", "%", shares, bar="<= 1", note=f"over {idle} s"),
    ]


def _one(cores: float | None, idle: float) -> tuple[float, float, float]:
    """Start one; return seconds to ready, resident MiB and per cent of a core while idle."""
    directory, port = scratch(), free_port()
    with contextlib.ExitStack() as stack:
        stack.callback(remove, directory)
        born = stack.enter_context(_group(cores))
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "feedwater_service"],
            env=_environment(directory, port),
            preexec_fn=born,
            stderr=subprocess.DEVNULL,
        )
        stack.callback(process.wait)
        stack.callback(process.terminate)
        while not _is_ready(port):
            if process.poll() is not None:
                raise RuntimeError(f"the sidecar ended with code {process.returncode}")
            time.sleep(0.005)
        ready = time.perf_counter() - began
        watched = psutil.Process(process.pid)
        before = _cpu_nanoseconds(process.pid)
        time.sleep(idle)
        spent = _cpu_nanoseconds(process.pid) - before
        share = 100 * spent / 1e9 / idle if idle else 0.0
        return ready, watched.memory_info().rss / 2**20, share


@contextlib.contextmanager
def _group(cores: float | None) -> Iterator[Callable[[], None] | None]:
    if cores is None:
        yield None
        return
    with cgroup("cpu") as group:
        limit_cores(group, cores)
        yield lambda: enter(group)


def _environment(directory: Path, port: int) -> dict[str, str]:
    return {
        **os.environ,
        # Compiled once by the warm-up, as an image is when it is built.
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(COMPILED),
        "FEEDWATER_SOCKET": str(directory / "api.sock"),
        "FEEDWATER_STATE_DIR": str(directory / "state"),
        "FEEDWATER_HTTP_HOST": "127.0.0.1",
        "FEEDWATER_HTTP_PORT": str(port),
    }


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _cpu_nanoseconds(pid: int) -> int:
    """Return the CPU time of all threads, exact where `/proc/<pid>/stat` counts ticks of 10 ms."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks)


if __name__ == "__main__":
    chosen_options = options(__doc__)
    try:
        publish(__doc__, measure_all(chosen_options), chosen_options)
    finally:
        remove(COMPILED)
