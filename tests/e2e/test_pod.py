"""A real pod: the manifest of deploy/injection beside a training image that has no Feedwater, run by podman.

Podman 4.3 stands in for the kubelet, and this is what it does otherwise:

- It knows no native sidecars (init containers with ``restartPolicy: Always``): the sidecar is an ordinary
  container of the pod here, and what the kubelet does with it (start it anew when it dies, SIGTERM when the
  trainer has ended) the test does.
- An ``emptyDir`` becomes a volume that belongs to the user of one of its containers; the kubelet's is
  everybody's. A host's directory with mode 0777 takes its place.
- It has no namespaces to fill in by the Downward API.
- Probes become commands that need curl in the image; they are left out.
- The pod is on the host's network, where nothing else may hold its port: the sidecar picks a free one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import sysconfig
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from feedwater.v1.feedwater_pb2 import LoaderState
from tests import ROOT
from tests.e2e.containers import BASE, built_image, http_port, podman
from tests.support import processes
from tests.support.processes import PATIENT, watch_state

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(580),
    pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed"),
]

MANIFEST = ROOT / "deploy/injection/pod.yaml"
TRAINER_UID, SIDECAR_UID = 1000, 65532
eventually = partial(processes.eventually, seconds=100)
BATCH_BYTES = 4_000_000


class Pod:
    """A training pod that runs."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self.sidecar = f"{name}-feedwater"
        self.trainer = f"{name}-trainer"

    def epochs(self) -> list[dict[str, Any]]:
        """Return what the trainer printed so far."""
        lines = podman("logs", self.trainer).splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def metric(self, name: str) -> float | None:
        """Return what Prometheus would scrape from outside the pod; None if there is no such sample."""
        url = f"http://localhost:{http_port(self.sidecar)}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            found = re.search(rf"^feedwater_{name}(?:{{.*}})? (\S+)$", answer.read().decode(), re.MULTILINE)
        return float(found[1]) if found else None

    def loader(self) -> LoaderState | None:
        """Return what the sidecar knows of the trainer's loader; None if it does not know it yet."""
        with contextlib.suppress(ConnectionError):
            return next(iter(watch_state(f"unix:{self.directory}/run/api.sock")), None)
        return None

    def uid(self, container: str) -> int:
        """Return the user that a container's first process really runs as, as the host sees it."""
        status = Path(f"/proc/{self.state(container)['Pid']}/status").read_text()
        return int(re.findall(r"^Uid:\t(\d+)", status, re.MULTILINE)[0])

    def state(self, container: str) -> dict[str, Any]:
        """Return what podman knows of a container's life."""
        state: dict[str, Any] = json.loads(podman("inspect", container))[0]["State"]
        return state

    def cpu_cgroup(self, container: str) -> Path:
        """Return the CPU cgroup of a container, as the host sees it."""
        lines = Path(f"/proc/{self.state(container)['Pid']}/cgroup").read_text()
        (path,) = re.findall(r"^\d+:(?:cpu|cpu,cpuacct|cpuacct,cpu):(.*)$", lines, re.MULTILINE)
        return Path(f"/sys/fs/cgroup/cpu{path}")


@contextlib.contextmanager
def running(
    directory: Path, limits: dict[str, str], environ: dict[str, str] | None = None, **work: object
) -> Iterator[Pod]:
    """Run a pod with one training for the length of the body."""
    pod = Pod(f"feedwater-test-{secrets.token_hex(4)}", directory)
    filled_in = manifest(pod.name, directory, limits, work)
    trainer = filled_in["spec"]["containers"][1]
    trainer["env"] += [{"name": name, "value": value} for name, value in (PATIENT | (environ or {})).items()]
    written = directory / "pod.yaml"
    written.write_text(yaml.safe_dump(filled_in))
    try:
        podman("kube", "play", "--quiet", written)
        # All of podman's containers together weigh as much as one process outside: where others work, too
        # little for the pod to reach its limits, which are what is tested.
        (pod.cpu_cgroup(pod.trainer).parents[1] / "cpu.shares").write_text("262144")
        yield pod
    except Exception:
        print(podman("logs", pod.trainer, check=False), podman("logs", pod.sidecar, check=False))
        raise
    finally:
        podman("pod", "rm", "--force", "--time=1", pod.name, check=False)


def manifest(name: str, directory: Path, limits: dict[str, str], work: dict[str, object]) -> dict[str, Any]:
    """Return the published manifest, filled in for a trainer and changed where podman is no kubelet."""
    pod: dict[str, Any] = yaml.safe_load(MANIFEST.read_text())
    sidecar, client = pod["spec"]["initContainers"]
    (trainer,) = pod["spec"]["containers"]
    del sidecar["restartPolicy"], sidecar["livenessProbe"], sidecar["ports"]
    sidecar["image"] = client["image"] = built_image()
    sidecar["env"] = [{"name": "FEEDWATER_HTTP_PORT", "value": "0"}]
    sidecar["volumeMounts"].append({"name": "termination", "mountPath": "/dev/termination-log"})
    trainer |= {
        "image": BASE,
        "command": ["python3", "/src/pod_trainer.py", json.dumps(work)],
        "resources": {"limits": limits},
        "securityContext": {"runAsUser": TRAINER_UID, "allowPrivilegeEscalation": False},
    }
    trainer["env"] = [_filled_in(variable) for variable in trainer["env"]]
    trainer["volumeMounts"] += [
        {"name": "source", "mountPath": "/src", "readOnly": True},
        {"name": "site-packages", "mountPath": "/site-packages", "readOnly": True},
    ]
    pod["spec"] |= {
        "restartPolicy": "Never",
        "hostNetwork": True,
        "initContainers": [client],
        "containers": [sidecar, trainer],
        "volumes": [
            _host_path("source", Path(__file__).parent),
            _host_path("site-packages", Path(sysconfig.get_path("purelib"))),
            _host_path("feedwater", _everybodys(directory / "run")),
            _host_path("feedwater-client", _everybodys(directory / "client")),
            _host_path("termination", _everybodys(directory / "termination", is_file=True)),
        ],
    }
    return {"apiVersion": "v1", "kind": "Pod", **pod, "metadata": {**pod["metadata"], "name": name}}


def _filled_in(variable: dict[str, Any]) -> dict[str, Any]:
    values = {
        "POD_NAMESPACE": "research",
        "FEEDWATER_MODE": "auto",
        # PyTorch; a directory on this path is not searched for .pth files, so Feedwater is not found in it.
        "PYTHONPATH": f"{variable.get('value')}:/site-packages",
    }
    name = variable["name"]
    return {"name": name, "value": values[name]} if name in values else variable


def _host_path(name: str, path: Path) -> dict[str, Any]:
    return {"name": name, "hostPath": {"path": str(path)}}


def _everybodys(path: Path, is_file: bool = False) -> Path:
    path.touch() if is_file else path.mkdir()
    path.chmod(0o666 if is_file else 0o777)
    return path


def test_pod_is_tuned_survives_its_sidecar_and_ends_with_its_trainer(tmp_path: Path) -> None:
    """A batch takes 20 ms of CPU, a step 10 ms: under one core 8 workers are no faster than 2.

    The image has neither Feedwater nor gRPC. The sidecar is killed on the way; the one that takes its place
    knows the epochs before its time.
    """
    with running(
        tmp_path,
        {"cpu": "1", "memory": "1Gi"},
        kind="cpu",
        load_seconds=0.02,
        step_seconds=0.01,
        floats=16,
        workers=8,
        batches=100,
        epochs=15,
    ) as pod:
        eventually(lambda: len(pod.epochs()) >= 2)
        assert (pod.uid(pod.trainer), pod.uid(pod.sidecar)) == (TRAINER_UID, SIDECAR_UID)
        find = "import importlib.util as u; print(u.find_spec('feedwater'), u.find_spec('grpc'))"
        assert podman("exec", pod.trainer, "python3", "-I", "-c", find).split() == ["None", "None"]
        assert (
            pod.metric("trainer_cpu_limit_cores"),
            pod.metric("trainer_memory_limit_bytes"),
        ) == (1, 2**30)

        podman("kill", "--signal=KILL", pod.sidecar)
        podman("wait", pod.sidecar)
        killed_after = len(pod.epochs())
        podman("start", pod.sidecar)
        restored = eventually(pod.loader)
        assert restored.epochs[0].epoch == 0
        assert eventually(lambda: pod.metric("num_workers")) <= 8

        assert podman("wait", pod.trainer).strip() == "0"
        epochs = pod.epochs()
        assert killed_after < len(epochs) == 15
        assert {epoch["total"] for epoch in epochs} == {sum(range(100))}
        assert (epochs[0]["workers"], epochs[-1]["workers"] <= 3) == (8, True), epochs

        # The kubelet's part: what is left of the pod is asked to end.
        podman("stop", "--time=10", pod.sidecar)
        assert pod.state(pod.sidecar)["ExitCode"] == 0
        verdict = json.loads((tmp_path / "termination").read_text())
        assert verdict
        eventually(lambda: json.loads(podman("pod", "inspect", pod.name))["State"] == "Exited", seconds=20)


def test_pod_without_cpu_limit_notices_one_and_keeps_to_its_shared_memory(tmp_path: Path) -> None:
    """What the Downward API states is the node's size, no limit; one set later is known with the next report.

    Batches of 4 MB that take 100 ms to load and 5 ms to train on call for 20 workers; in a /dev/shm of 64 MB
    there is room for 16 batches.
    """
    machine = {"FEEDWATER_CPU_LIMIT_MILLICORES": str(1000 * (os.cpu_count() or 1))}
    with running(
        tmp_path,
        {"memory": "1Gi"},
        machine,
        kind="sleep",
        load_seconds=0.1,
        step_seconds=0.005,
        floats=BATCH_BYTES // 4,
        workers=2,
        batches=60,
        epochs=6,
    ) as pod:
        loader = eventually(lambda: (known := pod.loader()) and known.limits.shm_bytes and known)
        assert loader.limits.cpu_quota_cores == 0
        assert loader.limits.memory_bytes == 2**30

        group = pod.cpu_cgroup(pod.trainer)
        (group / "cpu.cfs_quota_us").write_text("150000")
        reports = pod.metric("reports_total")
        eventually(lambda: (known := pod.loader()) and known.limits.cpu_quota_cores == 1.5)
        # One may have been on its way, and another may have come since.
        assert pod.metric("reports_total") - reports <= 3
        (group / "cpu.cfs_quota_us").write_text("-1")

        most_bytes = 0
        while pod.state(pod.trainer)["Running"]:
            if known := pod.loader():
                at_once = known.settings.num_workers * known.settings.prefetch_factor
                most_bytes = max(most_bytes, at_once * BATCH_BYTES)
            time.sleep(0.2)
        assert podman("wait", pod.trainer).strip() == "0"
        epochs = pod.epochs()
        assert [epoch["total"] for epoch in epochs] == [sum(range(60))] * 6
        assert epochs[-1]["workers"] > 2
        assert most_bytes <= loader.limits.shm_bytes < 20 * BATCH_BYTES
