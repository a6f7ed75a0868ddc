"""Take the pictures of the live page, ``page-*.png`` beside this file: ``make pictures``.

A browser beside a training takes its CPUs, and the page then shows a training that is slower than predicted.
So the training runs first, and two answers of the sidecar to the page's question are kept: the page computes
the use of CPUs from their difference. Chromium starts when the training has ended, and the page gets these
answers in place of new ones.

The training is the first scenario of ``make demo``, with longer epochs. Pictures are written only if the
prediction holds: the recommended count must be measured, and the curve must have each measured speed within
its bounds. Else the script exits with 1.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import time
import urllib.request
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from docs.examples.demo import photos, runs
from docs.examples.demo.scenarios import OBJECT_STORE
from tests.support.chromium import Chromium, chromium
from tests.support.processes import Sidecar, sidecar, trainer_environment, watch_state

if TYPE_CHECKING:
    from feedwater.v1.feedwater_pb2 import LoaderState

IMAGES = Path(__file__).resolve().parent
CACHE = IMAGES.parents[1] / ".cache/demo"
ALBUM = replace(OBJECT_STORE.album, name="pictures", photos=1600)
"""200 batches an epoch: with the demo's 40, starting the workers would be the bottleneck."""
EPOCH = 5
"""The epoch that the page shows: the workers have then been raised twice, and stay."""
BATCHES = (60, 150)
"""Batches of that epoch at which the answers are kept, some 3 s apart; the page shows the newest 120."""
POD = {
    "FEEDWATER_MODE": "auto",
    "FEEDWATER_JOB": "resnet50",
    "FEEDWATER_POD": "resnet50-0",
    "FEEDWATER_NAMESPACE": "vision",
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
}
REPLAY = """
    const answers = %s;
    window.asked = 0;
    window.fetch = async () => new Response(answers[Math.min(window.asked++, answers.length - 1)]);
"""
SETTLE_SECONDS = 1.5
"""For the charts, which are drawn anew in another width or colour."""


def main() -> int:
    """Train, check the prediction, take the pictures."""
    CACHE.mkdir(parents=True, exist_ok=True)
    if not photos.are_made(ALBUM, CACHE):
        print(f"drawing {ALBUM.photos} photos, once ...", file=sys.stderr)
    directory = photos.made(ALBUM, CACHE)
    with sidecar({"FEEDWATER_HTTP_HOST": "127.0.0.1"}) as server:
        page = f"http://127.0.0.1:{server.http_port()}/"
        answers = []
        with runs.store(directory) as url, training(url, server) as trainer:
            for batches in BATCHES:
                wait_for(trainer, EPOCH, batches)
                answers.append(state(page))
            (loader,) = watch_state(server.address)
        if not holds(loader):
            print("no picture taken: the prediction does not hold, as on a busy machine", file=sys.stderr)
            return 1
        with chromium() as browser:
            show(browser, page, answers)
            take(browser, "page-light.png")
            take(browser, "page-dark.png", dark=True)
            take(browser, "page-phone.png", dark=True, width=360, scale=2, height=1000)
    return 0


@contextlib.contextmanager
def training(source: str, server: Sidecar) -> Iterator[subprocess.Popen[str]]:
    """Train for the length of the body."""
    options = {
        "--source": source,
        "--workers": OBJECT_STORE.starting_workers,
        "--epochs": EPOCH + 1,
        "--batch-size": OBJECT_STORE.batch_size,
        "--step-seconds": OBJECT_STORE.step_seconds,
    }
    words = [str(word) for pair in options.items() for word in pair]
    command = [sys.executable, str(runs.EXAMPLES / "train_images.py"), "--json", *words]
    environment = trainer_environment(server.address, server.directory) | POD
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as trainer:
        try:
            yield trainer
        finally:
            trainer.kill()


def wait_for(trainer: subprocess.Popen[str], epoch: int, batches: int) -> None:
    """Read what the trainer prints until it has come so far.

    Raises:
        RuntimeError: It ended before.
    """
    assert trainer.stdout is not None
    for line in trainer.stdout:
        event = json.loads(line)
        if event["event"] == "epoch":
            rate = event["batches"] / event["seconds"]
            print(f"epoch {event['epoch']}: {event['workers']} workers, {rate:.1f} batches/s")
        if event["event"] == "progress" and (event["epoch"], event["batches"]) >= (epoch, batches):
            return
    raise RuntimeError(f"the trainer ended with {trainer.wait()}")


def state(page: str) -> str:
    """Return the sidecar's answer to the page's question."""
    with urllib.request.urlopen(f"{page}api/v1/state", timeout=10) as answer:
        return str(answer.read().decode())


def holds(loader: LoaderState) -> bool:
    """Print measured and predicted speed of each count that was in use; return whether all bounds hold."""
    # As the page: the newest whole epoch of each count.
    measured = {e.settings.num_workers: e.batches_per_second for e in loader.epochs if e.complete}
    within = [loader.recommendation.settings.num_workers in measured]
    for point in loader.recommendation.curve:
        if speed := measured.get(point.settings.num_workers):
            low, high = point.batches_per_second_lower, point.batches_per_second_upper
            within.append(low <= speed <= high)
            print(
                f"{point.settings.num_workers} workers: {speed:.1f} batches/s measured, "
                f"{point.batches_per_second:.1f} predicted ({low:.1f} to {high:.1f})"
            )
    return all(within)


def show(browser: Chromium, page: str, answers: list[str]) -> None:
    """Open the page with the kept answers, and wait until it shows the last one."""
    source = REPLAY % json.dumps(answers)
    browser.devtools("Page.addScriptToEvaluateOnNewDocument", {"source": source})
    browser.look()
    browser.driver.get(page)
    browser.until(lambda: browser.script(f"return window.asked > {len(answers)}"), "the last answer shown")


def take(
    browser: Chromium,
    name: str,
    *,
    dark: bool = False,
    width: int = 1280,
    height: int | None = None,
    scale: float = 1,
) -> None:
    """Write one picture, of the whole page or of its first ``height`` CSS pixels."""
    whole = height or int(str(browser.script("return document.documentElement.scrollHeight")))
    browser.look(width=width, height=whole, dark=dark, scale=scale)
    time.sleep(SETTLE_SECONDS)
    picture = Image.open(io.BytesIO(b64decode(browser.driver.get_screenshot_as_base64()))).convert("RGB")
    # By median cut the points of the measured speeds, a few pixels, lose their colour.
    small = picture.quantize(method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    small.save(IMAGES / name, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
