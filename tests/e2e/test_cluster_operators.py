"""JobSets and TrainJobs from their creation to their end, by their own controllers and webhooks."""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.e2e.cluster import ROOT, Cluster, Object, controllers, module, nodes
from tests.e2e.servers import answers, running
from tests.e2e.test_cluster_jobs import DATA, STAGES
from tests.support.processes import free_port

pytestmark = [pytest.mark.real, pytest.mark.nightly, pytest.mark.timeout(300)]

GPU_NODE = {"cpu": "96", "memory": "512Gi", "nvidia.com/gpu": "8"}
JOBSET, TRAINER = "sigs.k8s.io/jobset", "github.com/kubeflow/trainer/v2"
DEFINITIONS = [
    (JOBSET, "config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml"),
    (TRAINER, "manifests/base/crds/trainer.kubeflow.org_clustertrainingruntimes.yaml"),
    (TRAINER, "manifests/base/crds/trainer.kubeflow.org_trainingruntimes.yaml"),
    (TRAINER, "manifests/base/crds/trainer.kubeflow.org_trainjobs.yaml"),
]
CONFIG: dict[str, Object] = {
    JOBSET: {
        "apiVersion": "config.jobset.x-k8s.io/v1alpha1",
        "kind": "Configuration",
        "internalCertManagement": {"enable": False},
    },
    TRAINER: {
        "apiVersion": "config.trainer.kubeflow.org/v1alpha1",
        "kind": "Configuration",
        "certManagement": {"enable": False},
    },
}
"""Certificates come from outside: nothing here writes them into webhooks' configurations."""


@pytest.fixture(scope="module")
def operators(cluster: Cluster) -> Iterator[Cluster]:
    """A cluster with the chart, two GPU nodes, and the controllers of JobSet and Trainer."""
    cluster.install_definitions(*(module("newest", path) / file for path, file in DEFINITIONS))
    with (
        controllers(cluster),
        _operator(cluster, "jobset", JOBSET, "config/components/webhook/manifests.yaml"),
        _operator(cluster, "trainer-controller-manager", TRAINER, "manifests/base/webhook/manifests.yaml"),
        nodes(cluster, STAGES, {"gpu-0": GPU_NODE, "gpu-1": GPU_NODE}),
    ):
        cluster.install_chart("helm4")
        yield cluster


@contextlib.contextmanager
def _operator(cluster: Cluster, command: str, path: str, webhooks: str) -> Iterator[None]:
    """Run an operator's program, and have the API server call its webhooks where it listens."""
    directory = cluster.directory / f"{command}-files"
    certificate = _certificate(directory)
    port, health = free_port(), free_port()
    (directory / "config.yaml").write_text(json.dumps(CONFIG[path] | _endpoints(port, health)))
    for number, wish in enumerate(yaml.safe_load_all((module("newest", path) / webhooks).read_text())):
        wish["metadata"] = {"name": f"{command}-{number}"}
        for webhook in wish["webhooks"]:
            place = webhook["clientConfig"]["service"]["path"]
            webhook["clientConfig"] = {"url": f"https://127.0.0.1:{port}{place}", "caBundle": certificate}
        cluster.create(wish, dry_run=False)
    with running(
        [command, f"--config={directory / 'config.yaml'}"],
        cluster.directory,
        lambda: answers(f"http://127.0.0.1:{health}/readyz"),
        KUBECONFIG=str(cluster.kubeconfig),
        TMPDIR=str(directory),
    ):
        yield


def _endpoints(port: int, health: int) -> Object:
    return {
        "webhook": {"port": port},
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health}"},
        "metrics": {"bindAddress": "0"},
        "leaderElection": {"leaderElect": False},
    }


def _certificate(directory: Path) -> str:
    """Make a key and its certificate where controllers look for them under TMPDIR; return it as base64."""
    place = directory / "k8s-webhook-server/serving-certs"
    place.mkdir(parents=True)
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(place / "tls.key"), "-out", str(place / "tls.crt")),
        ],
        check=True,
        capture_output=True,
    )
    return base64.b64encode((place / "tls.crt").read_bytes()).decode()


@pytest.mark.parametrize(("kind", "condition"), [("jobset", "Completed"), ("trainjob", "Complete")])
def test_operators_job_with_the_sidecar_completes(operators: Cluster, kind: str, condition: str) -> None:
    """Label and annotations reach both pods: they have the sidecar, their job's name, and come to an end."""
    namespace = operators.namespace(kind, enforce="restricted")
    volume, claim = DATA
    operators.create(volume | {"metadata": {"name": f"images-of-{kind}"}}, dry_run=False)
    operators.create(claim, namespace, dry_run=False)
    file = ROOT / f"deploy/examples/{kind}.yaml"
    operators.kubectl("create", "--namespace", namespace, "--filename", str(file))
    operators.wait_for(f"condition={condition}", kind, "train-images", namespace)
    pods = operators.get("pods", namespace=namespace)["items"]

    assert len(pods) == 2
    for pod in pods:
        (trainer,) = pod["spec"]["containers"]
        names = [container["name"] for container in pod["spec"]["initContainers"]]

        assert names == ["feedwater", "feedwater-client"]
        assert {"name": "FEEDWATER_JOB", "value": "train-images"} in trainer["env"]
        assert {"name": "FEEDWATER_MODE", "value": "auto"} in trainer["env"]
        assert "/dev/shm" in [mount["mountPath"] for mount in trainer["volumeMounts"]]
