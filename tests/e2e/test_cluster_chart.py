"""What the chart does to a cluster as a whole: all that it leaves there, takes away, and lets be."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator

import pytest

from tests.e2e.cluster import LABELLED_POD, Cluster, controllers, module
from tests.e2e.servers import wait_for

pytestmark = [pytest.mark.real, pytest.mark.timeout(300), pytest.mark.parametrize("helm", ["helm3", "helm4"])]

OPERATOR = "github.com/prometheus-operator/prometheus-operator"
MONITORING = [
    f"example/prometheus-operator-crd/monitoring.coreos.com_{kind}.yaml"
    for kind in ("podmonitors", "prometheusrules")
]
PASSING = {"events", "leases", "endpoints", "endpointslices", "pods", "controllerrevisions"}
"""Kinds that others write beside the chart."""


@pytest.fixture(scope="module")
def operated(cluster: Cluster) -> Iterator[Cluster]:
    """A cluster with the Prometheus operator's kinds, and with controllers that clean up."""
    cluster.install_definitions(*(module("newest", OPERATOR) / file for file in MONITORING))
    with controllers(cluster):
        cluster.namespace("feedwater")
        yield cluster


@pytest.fixture
def release(operated: Cluster, helm: str) -> Iterator[Cluster]:
    """The chart, installed with its values as they are, and removed at the end."""
    operated.install_chart(helm)
    yield operated
    operated.uninstall_chart(helm)


def _objects(cluster: Cluster) -> set[str]:
    """Return the name of every object in the cluster, but for those that come and go by themselves."""
    kinds = cluster.kubectl("api-resources", "--verbs=list,delete", "--output=name").output.split()
    lasting = [kind for kind in kinds if kind.split(".")[0] not in PASSING]
    listed = cluster.kubectl("get", ",".join(lasting), "--all-namespaces", "--output=json").object()
    return {
        f"{item['kind']} {item['metadata'].get('namespace', '')}/{item['metadata']['name']}"
        for item in listed["items"]
    }


def _mode(cluster: Cluster) -> str:
    (trainer,) = cluster.create(LABELLED_POD).object()["spec"]["containers"]
    found: str = next(
        variable["value"] for variable in trainer.get("env", []) if variable["name"] == "FEEDWATER_MODE"
    )
    return found


def _shm_size(cluster: Cluster, annotations: dict[str, str]) -> str | None:
    """Return the size of the volume that a labelled pod has at /dev/shm."""
    wish = copy.deepcopy(LABELLED_POD)
    wish["metadata"]["annotations"] = {f"feedwater.dev/{key}": value for key, value in annotations.items()}
    answer = cluster.create(wish)
    assert answer.warnings == ()
    volumes = {volume["name"]: volume.get("emptyDir") for volume in answer.object()["spec"]["volumes"]}
    (trainer,) = answer.object()["spec"]["containers"]
    mounts = {mount["mountPath"]: mount["name"] for mount in trainer["volumeMounts"]}
    return volumes[mounts["/dev/shm"]]["sizeLimit"] if "/dev/shm" in mounts else None


def test_uninstall_leaves_nothing_of_any_kind(operated: Cluster, helm: str) -> None:
    """With every part of the chart on, what the cluster holds after is what it held before, whatever kind."""
    before = _objects(operated)
    said = operated.install_chart(
        helm, "--set=prepull.enabled=true,networkPolicy.enabled=true,manifest.render=always"
    )
    made = _objects(operated) - before
    operated.uninstall_chart(helm)

    assert said.warnings == ()
    assert {
        "MutatingAdmissionPolicy /feedwater",
        "ValidatingAdmissionPolicyBinding /feedwater-warnings",
        "PodMonitor feedwater/feedwater",
        "PrometheusRule feedwater/feedwater-rules",
        "NetworkPolicy feedwater/feedwater",
        "ServiceAccount feedwater/feedwater",
    } <= made
    wait_for(lambda: _objects(operated) == before, said=lambda: str(_objects(operated) ^ before))


def test_upgrade_brings_other_values_and_rollback_takes_them_back(release: Cluster, helm: str) -> None:
    """The default mode goes from advise to auto with an upgrade, and back with a rollback."""
    modes = [_mode(release)]
    release.install_chart(helm, "--set=injection.mode=auto")
    modes.append(_mode(release))
    release.run(helm, "rollback", "feedwater", "--namespace=feedwater")
    release.settle()
    modes.append(_mode(release))

    assert modes == ["advise", "auto", "advise"]


def test_uninstalled_chart_lets_pods_be(operated: Cluster, helm: str) -> None:
    """After the removal a labelled pod is created as it was written, without a Warning."""
    operated.install_chart(helm)
    operated.uninstall_chart(helm)

    assert not operated.injects(LABELLED_POD)
    assert operated.create(LABELLED_POD).warnings == ()


def test_namespaces_can_be_chosen(release: Cluster, helm: str) -> None:
    """`injection.namespaceSelector` leaves other namespaces alone."""
    selector = {"matchLabels": {"kubernetes.io/metadata.name": "default"}}
    release.install_chart(helm, "--set-json", f"injection.namespaceSelector={json.dumps(selector)}")

    assert not release.injects(LABELLED_POD, "feedwater")
    assert release.injects(LABELLED_POD)
    assert release.create(LABELLED_POD, "feedwater").warnings == ()


def test_shared_memory_can_be_added_to_every_pod(release: Cluster, helm: str) -> None:
    """`injection.shmSize` mounts /dev/shm where no annotation says another size, or 0 for none."""
    release.install_chart(helm, "--set=injection.shmSize=2Gi")
    sizes = [_shm_size(release, annotations) for annotations in ({}, {"shm-size": "1Gi"}, {"shm-size": "0"})]

    assert sizes == ["2Gi", "1Gi", None]


def test_port_can_be_chosen(release: Cluster, helm: str) -> None:
    """`sidecar.port` is the sidecar's, and a container's 9464 is then no clash; its 9500 would be."""
    release.install_chart(helm, "--set=sidecar.port=9500")
    wish = copy.deepcopy(LABELLED_POD)
    wish["spec"]["containers"][0]["ports"] = [{"containerPort": 9464}]
    answer = release.create(wish)
    sidecar = answer.object()["spec"]["initContainers"][0]
    wish["spec"]["containers"][0]["ports"] = [{"containerPort": 9500}]
    (warning,) = release.create(wish).warnings

    assert answer.warnings == ()
    assert sidecar["env"] == [{"name": "FEEDWATER_HTTP_PORT", "value": "9500"}]
    assert sidecar["ports"] == [{"name": "feedwater", "containerPort": 9500, "protocol": "TCP"}]
    assert "has port 9500, so the sidecar picks a free one" in warning


def test_second_release_adds_no_second_sidecar(release: Cluster, helm: str) -> None:
    """Two releases in one cluster: a pod has one sidecar all the same."""
    release.install_chart(helm, release="second")
    try:
        made = release.create(LABELLED_POD).object()
    finally:
        release.uninstall_chart(helm, "second")

    assert [container["name"] for container in made["spec"]["initContainers"]] == [
        "feedwater",
        "feedwater-client",
    ]
