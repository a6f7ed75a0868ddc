"""Jobs with the sidecar from their creation to their end: real controllers and scheduler, played nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import LABELLED_POD, ROOT, Cluster, Object, controllers, nodes
from tests.e2e.servers import wait_for

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

EXAMPLES = ROOT / "deploy/examples"
STAGES = Path(__file__).parent / "stages.yaml"
GPU_NODE = {"cpu": "64", "memory": "256Gi", "nvidia.com/gpu": "4"}
DATA: list[Object] = [
    {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "images"},
        "spec": {
            "storageClassName": "",
            "capacity": {"storage": "1Ti"},
            "accessModes": ["ReadOnlyMany"],
            "nfs": {"server": "nfs.example", "path": "/images"},
        },
    },
    {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "images"},
        "spec": {
            "storageClassName": "",
            "accessModes": ["ReadOnlyMany"],
            "resources": {"requests": {"storage": "1Ti"}},
        },
    },
]


@pytest.fixture(scope="module")
def injection(cluster: Cluster) -> Iterator[Cluster]:
    """A cluster with the chart, the data that the examples read, and two nodes of four GPUs."""
    with controllers(cluster), nodes(cluster, STAGES, {"gpu-0": GPU_NODE, "gpu-1": GPU_NODE}):
        cluster.install_chart("helm4")
        for wish in DATA:
            cluster.create(wish, dry_run=False)
        yield cluster


def _pods(cluster: Cluster, job: str) -> list[Object]:
    found: list[Object] = cluster.kubectl(
        "get", "pods", "--selector", f"batch.kubernetes.io/job-name={job}", "--output=json"
    ).object()["items"]
    return found


def _states(pod: Object, kind: str) -> dict[str, list[str]]:
    return {status["name"]: list(status["state"]) for status in pod["status"][kind]}


@pytest.mark.parametrize(
    ("example", "job", "pods"), [("job", "train-images", 1), ("indexed-job", "train-images-ddp", 2)]
)
def test_job_with_the_sidecar_completes(injection: Cluster, example: str, job: str, pods: int) -> None:
    """The controller's pods are injected and placed on GPU nodes; when they end, the Job completes."""
    injection.kubectl("create", "--filename", str(EXAMPLES / f"{example}.yaml"))
    done = injection.wait_for("condition=Complete", "job", job)
    made = _pods(injection, job)

    assert done["status"]["succeeded"] == len(made) == pods
    for pod in made:
        names = [container["name"] for container in pod["spec"]["initContainers"]]
        assert names == ["feedwater", "feedwater-client"]
        assert pod["spec"]["nodeName"] in {"gpu-0", "gpu-1"}
        assert _states(pod, "containerStatuses") == {"trainer": ["terminated"]}
        assert {"name": "FEEDWATER_JOB", "value": job} in pod["spec"]["containers"][0]["env"]


def test_pod_that_fills_its_node_waits_for_the_sidecars_share(injection: Cluster) -> None:
    """The sidecar asks for 250m: a trainer of 64 cores fits a node of 64 without it, and not with it."""
    wish = {**LABELLED_POD, "metadata": {"name": "full", "labels": {"feedwater.dev/inject": "true"}}}
    resources = {"limits": {"cpu": "64", "memory": "1Gi"}}
    wish["spec"] = {
        "restartPolicy": "Never",
        "containers": [{"name": "trainer", "image": "x:y", "resources": resources}],
    }
    injection.create(wish, dry_run=False)

    def waits() -> bool:
        conditions = injection.get("pod", "full")["status"].get("conditions", [])
        return any("Insufficient cpu" in condition.get("message", "") for condition in conditions)

    wait_for(waits)
    wish["metadata"] = {"name": "full-alone"}
    injection.create(wish, dry_run=False)
    alone = injection.wait_for("jsonpath={.status.phase}=Succeeded", "pod", "full-alone")

    assert alone["spec"]["nodeName"] in {"gpu-0", "gpu-1"}
