"""How soon does the live page paint in Chromium, how large is it, and what does looking cost the sidecar?

Timed, by the browser's Performance API from the start of the navigation, with an empty cache, on
loopback: the first contentful paint, and the last picture of a loader that was recommended something.
Counted: the bytes of all that is loaded, as sent and as unpacked. Then the sidecar's resident memory
before anyone looked and after, and its CPU time while a page looks at one loader, at 64, and while none
does. Not timed: starting the browser, and the sidecar's first seconds. Warm-up: one load.

    python -m tests.benchmarks.live_page --json tests/benchmarks/results/live_page.json
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from tests.support.benchmark import Options, Row, options, publish, quiet, row
from tests.support.chromium import Chromium, chromium
from tests.support.processes import Sidecar, sidecar
from tests.support.rank import Rank

RUNS = 15
LOOK_SECONDS = 20
SETTLE_SECONDS = 3
"""The sidecar imports what scrapes need after it is ready."""
LOADERS = 64
PICTURES = 5
"""Charts of a loader with a recommendation."""
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
DRAWN = """
    window.drawn = null;
    new MutationObserver(() => {
        if (drawn === null && document.querySelectorAll('canvas').length >= %d) drawn = performance.now();
    }).observe(document, { childList: true, subtree: true });
"""
BYTES = """
    const entries = ['navigation', 'resource'].flatMap(kind => performance.getEntriesByType(kind));
    const once = [...new Map(entries.map(entry => [entry.name, entry])).values()];
    return ['encodedBodySize', 'decodedBodySize'].map(size => once.reduce((sum, e) => sum + e[size], 0));
"""


def measure_all(chosen: Options) -> list[Row]:
    """Measure loads of the page, then the sidecar under its eyes."""
    runs, seconds = (3, 2) if chosen.quick else (RUNS, LOOK_SECONDS)
    with chromium() as browser, sidecar() as server:
        time.sleep(SETTLE_SECONDS)
        unused = _mebibytes(server)
        unwatched = _cpu_percent(server, seconds)
        with contextlib.closing(Rank(server.address)) as rank:
            _train(rank)
            browser.devtools("Network.setCacheDisabled", {"cacheDisabled": True})
            browser.devtools("Page.addScriptToEvaluateOnNewDocument", {"source": DRAWN % PICTURES})
            loads = [_load(browser, server)]
            with quiet(chosen):
                loads = [_load(browser, server) for _ in range(runs)]
            sent, unpacked = map(float, browser.script(BYTES))  # type: ignore[call-overload]
            one = _cpu_percent(server, seconds)
            _crowd(rank)
            browser.until(lambda: browser.script("return document.links.length") >= LOADERS, "all loaders")  # type: ignore[operator]
            many = _cpu_percent(server, seconds)
        painted, drawn = zip(*loads, strict=True)
        return [
            row("first paint", "ms", painted, bar="<= 1000"),
            row("last picture drawn", "ms", drawn),
            *_sizes(sent, unpacked),
            row("resident memory, page unused", "MiB", [unused], bar="<= 64"),
            row(
                f"resident memory after {runs + 1} loads",
                "MiB",
                [_mebibytes(server)],
                note=f"{LOADERS} loaders",
            ),
            row("CPU, nobody looks", "%", [unwatched], bar="<= 1", note=f"over {seconds} s"),
            row("CPU, one page looks at 1 loader", "%", [one], note=f"over {seconds} s"),
            row(f"CPU, one page looks at {LOADERS} loaders", "%", [many], note=f"over {seconds} s"),
        ]


def _sizes(sent: float, unpacked: float) -> Sequence[Row]:
    return [
        row("payload as sent, the state of one loader with it", "kB", [sent / 1e3], bar="<= 120"),
        row("payload unpacked", "kB", [unpacked / 1e3], bar="<= 400"),
    ]


def _train(rank: Rank) -> None:
    rank.register()
    rank.epoch()
    workers = rank.decide()
    rank.epoch(number=1, workers=workers, wait=0.001)


def _crowd(rank: Rank) -> None:
    for number in range(LOADERS - 1):
        rank.register(f"loader-{number}")
        rank.epoch(f"loader-{number}")


def _load(browser: Chromium, server: Sidecar) -> tuple[float, float]:
    """Load the page anew; return milliseconds to the first paint and to the last picture."""
    browser.driver.get("about:blank")
    browser.driver.get(f"http://127.0.0.1:{server.http_port()}/")
    browser.until(lambda: browser.script(f"return window.drawn && {PAINTED}"), "all pictures drawn")
    painted, drawn = browser.script(f"return [{PAINTED}, drawn]")  # type: ignore[misc]
    return painted, drawn


def _mebibytes(server: Sidecar) -> float:
    return float(psutil.Process(server.pid).memory_info().rss / 2**20)


def _cpu_percent(server: Sidecar, seconds: float) -> float:
    before = _cpu_seconds(server)
    time.sleep(seconds)
    return 100 * (_cpu_seconds(server) - before) / seconds


def _cpu_seconds(server: Sidecar) -> float:
    """Return the CPU time of all its threads, by the scheduler's clock: `/proc/PID/stat` counts in 10 ms."""
    threads = Path(f"/proc/{server.pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


if __name__ == "__main__":
    chosen_options = options(__doc__)
    publish(__doc__, measure_all(chosen_options), chosen_options)
