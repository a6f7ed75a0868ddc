"""Examples on a real API server: strictly valid, injected, and within Pod Security `restricted`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.e2e.cluster import ROOT, Cluster, Object, RefusedError, module

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

EXAMPLES = sorted((ROOT / "deploy/examples").glob("*.yaml"))
LABELLED = [file for file in EXAMPLES if file.stem != "pod"]
DEFINITIONS = [
    ("sigs.k8s.io/jobset", "config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml"),
    (
        "github.com/kubeflow/trainer/v2",
        "manifests/base/crds/trainer.kubeflow.org_clustertrainingruntimes.yaml",
    ),
    ("github.com/kubeflow/trainer/v2", "manifests/base/crds/trainer.kubeflow.org_trainjobs.yaml"),
    ("github.com/kubeflow/training-operator", "manifests/base/crds/kubeflow.org_pytorchjobs.yaml"),
]


@pytest.fixture(scope="module", params=["oldest", "newest"])
def operators(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with the kinds of JobSet, Trainer and training operator, of an old and of a new release."""
    files = [module(request.param, path) / file for path, file in DEFINITIONS]
    cluster.install_definitions(*files)
    yield cluster
    cluster.kubectl("delete", *(word for file in files for word in ("--filename", str(file))))


@pytest.fixture(scope="module")
def injection(cluster: Cluster) -> Cluster:
    cluster.install_chart("helm4")
    return cluster


@pytest.fixture(scope="module")
def restricted(injection: Cluster) -> str:
    """A namespace that refuses pods by the strictest Pod Security level, and warns of it in Jobs."""
    return injection.namespace("restricted", enforce="restricted", warn="restricted")


def _pods(file: Path) -> list[Object]:
    """Return each template of an example as the pod that a controller makes of it."""
    documents = yaml.safe_load_all(file.read_text())
    return [_pod(template) for document in documents for template in _templates(document)]


def _templates(node: object) -> Iterator[Object]:
    if isinstance(node, dict):
        if isinstance(spec := node.get("spec"), dict) and "containers" in spec:
            yield node
        for below in node.values():
            yield from _templates(below)
    elif isinstance(node, list):
        for below in node:
            yield from _templates(below)


def _pod(template: Object) -> Object:
    metadata = {"name": "made-of-a-template"} | template["metadata"]
    spec = {"restartPolicy": "Never"} | template["spec"]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_example_is_accepted_strictly_and_without_a_warning(operators: Cluster, file: Path) -> None:
    """A server-side dry run finds no field that it does not know, and has nothing to say."""
    answer = operators.kubectl("create", "--dry-run=server", "--validate=strict", "--filename", str(file))

    assert answer.warnings == ()
    assert answer.output.count("created (server dry run)") == len(list(yaml.safe_load_all(file.read_text())))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_example_is_accepted_under_pod_security_restricted(
    injection: Cluster, operators: Cluster, restricted: str, file: Path
) -> None:
    """With the chart installed, its kinds and its pods pass in a `restricted` namespace without a Warning."""
    answer = operators.kubectl(
        "create", "--dry-run=server", "--validate=strict", "--namespace", restricted, "--filename", str(file)
    )

    assert answer.warnings == ()
    assert all(injection.create(pod, restricted).warnings == () for pod in _pods(file))


@pytest.mark.parametrize("file", LABELLED, ids=lambda file: file.stem)
def test_pods_of_the_example_get_the_sidecar(injection: Cluster, restricted: str, file: Path) -> None:
    """Each pod has the sidecar first, the client second, /dev/shm in memory, and keeps its class."""
    for pod in _pods(file):
        made = injection.create(pod, restricted).object()
        (trainer,) = made["spec"]["containers"]
        mounts = {mount["mountPath"]: mount["name"] for mount in trainer["volumeMounts"]}
        shm = next(volume for volume in made["spec"]["volumes"] if volume["name"] == mounts["/dev/shm"])

        assert [container["name"] for container in made["spec"]["initContainers"]] == [
            "feedwater",
            "feedwater-client",
        ]
        assert shm["emptyDir"]["medium"] == "Memory"
        assert {"name": "FEEDWATER_MODE", "value": "auto"} in trainer["env"]
        assert made["status"]["qosClass"] == "Guaranteed"


def test_pod_that_is_written_out_is_left_alone(injection: Cluster, restricted: str) -> None:
    """The hand-written example has its sidecar, and no policy adds one."""
    (pod,) = _pods(ROOT / "deploy/examples/pod.yaml")
    made = injection.create(pod, restricted).object()

    assert [container["name"] for container in made["spec"]["initContainers"]] == ["feedwater"]
    assert made["status"]["qosClass"] == "Guaranteed"


def test_misspelt_field_is_refused(operators: Cluster) -> None:
    """The dry run is strict with custom kinds, too: `numNode` in a TrainJob is an error that names it."""
    *_, job = yaml.safe_load_all((ROOT / "deploy/examples/trainjob.yaml").read_text())
    job["spec"]["trainer"]["numNode"] = 2

    with pytest.raises(RefusedError, match=r'unknown field "spec\.trainer\.numNode"'):
        operators.create(job)


def test_namespace_refuses_what_is_not_restricted(injection: Cluster, restricted: str) -> None:
    """The pod without its security context is refused there, so that acceptance means something."""
    (pod,) = _pods(ROOT / "deploy/examples/job.yaml")
    del pod["spec"]["securityContext"]

    with pytest.raises(RefusedError, match="violates PodSecurity"):
        injection.create(pod, restricted)
