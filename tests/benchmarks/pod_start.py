"""How much later does training start in a pod that has the sidecar and the brought client?

Timed: from `podman kube play` to the first line of the trainer, an image's plain Python, with the manifest of
deploy/injection (the client's copy at 500m, then the sidecar, then the trainer) and with the trainer alone,
turn by turn; the images are present. Podman creates containers one by one and runs one runtime after the
other, as a kubelet does, but is not one. Beside it, in a container at 500m and one at the sidecar's 250m, how
long the copy itself takes, the start of its Python included.

    python -m tests.benchmarks.pod_start --json tests/benchmarks/results/pod_start.json
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.e2e.containers import built_image, podman
from tests.e2e.test_pod import manifest
from tests.support.benchmark import Options, Row, interleaved, log, options, publish, row

NAME = "feedwater-pod-start"
SAY_WHEN = ["python3", "-c", "import time; print(time.time(), flush=True)"]
COPY = "date +%s%N; feedwater install-client /volume >/dev/null; date +%s%N"


def measure_all(chosen: Options) -> list[Row]:
    """Measure both pods and the copy."""
    if shutil.which("podman") is None:
        log("podman is not installed: nothing is measured")
        return []
    built_image()
    cases = {
        "with": lambda: _pod(True),
        "without": lambda: _pod(False),
        "500m": lambda: _copy(0.5),
        "250m": lambda: _copy(0.25),
    }
    # Medians of 9 differ by 0.2 s from one run to the next on a machine that does other work besides.
    taken = interleaved(cases, 1 if chosen.quick else 25, chosen)
    added = statistics.median(taken["with"]) - statistics.median(taken["without"])
    return [
        row("first line of the trainer, with Feedwater", "s", taken["with"]),
        row("first line of the trainer, without", "s", taken["without"]),
        row("added by Feedwater", "s", [added], bar="<= 1"),
        row("install-client at 500m", "s", taken["500m"]),
        row("install-client at 250m", "s", taken["250m"]),
    ]


def _pod(has_feedwater: bool) -> float:
    """Return the seconds from playing a pod to its trainer's first line."""
    with _directory() as directory:
        pod = manifest(NAME, directory, {"cpu": "1", "memory": "1Gi"}, {})
        trainer = pod["spec"]["containers"][-1]
        trainer["command"] = SAY_WHEN
        if not has_feedwater:
            pod["spec"] |= {"initContainers": [], "containers": [trainer]}
        written = directory / "pod.yaml"
        written.write_text(yaml.safe_dump(pod))
        began = time.time()
        try:
            podman("kube", "play", "--quiet", written)
            podman("wait", f"{NAME}-trainer")
            return float(podman("logs", f"{NAME}-trainer").split()[-1]) - began
        finally:
            podman("pod", "rm", "--force", "--time=0", NAME, check=False)


def _copy(cores: float) -> float:
    with _directory() as directory:
        limits = [f"--cpus={cores}", "--memory=128m", "--network=host", "--read-only"]
        volume = ["-v", f"{directory}:/volume", "--entrypoint=sh"]
        began, ended = podman("run", "--rm", *limits, *volume, built_image(), "-c", COPY).split()
        return (int(ended) - int(began)) / 1e9


@contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fw-", dir="/tmp") as name:
        Path(name).chmod(0o777)
        yield Path(name)


if __name__ == "__main__":
    chosen_options = options(__doc__)
    publish(__doc__, measure_all(chosen_options), chosen_options)
