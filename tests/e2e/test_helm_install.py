"""The chart on a real API server: install, test, upgrade, uninstall, and the manifest that stands for it."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator

import pytest
import yaml

from tests.e2e.cluster import CHART, ROOT, Cluster, Object, RefusedError, module
from tests.e2e.servers import wait_for

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

PREVIOUS = ROOT / "tests/fixtures/chart/previous/feedwater-0.0.1.tgz"
"""No version is published yet: an early state of the chart, policies alone, stands for the last one."""
HELMS = ("helm3", "helm4")
KINDS = (
    "configmaps,serviceaccounts,daemonsets,networkpolicies,pods,roles,rolebindings,secrets,"
    "mutatingadmissionpolicies,mutatingadmissionpolicybindings,"
    "validatingadmissionpolicies,validatingadmissionpolicybindings,clusterroles,clusterrolebindings"
)
MEBI = 2**20
ALLOWED = """
sidecar:
  resources: {cpu: 1, memory: 268435456}
  volume: {sizeLimit: 134217728}
  securityContext:
    appArmorProfile: {type: RuntimeDefault}
    privileged: false
    runAsGroup: 0
    runAsUser: 1000680000
    seLinuxOptions: {level: "s0:c123,c456", type: container_t}
    seccompProfile: {type: Localhost, localhostProfile: profiles/feedwater.json}
  extraEnv:
    - {name: Empty}
    - {name: OTEL-x.y, value: '"$(Empty)"'}
    - {name: NODE, valueFrom: {fieldRef: {apiVersion: v1, fieldPath: spec.nodeName}}}
    - {name: TEAM, valueFrom: {fieldRef: {fieldPath: "metadata.labels['example.com/team']"}}}
    - {name: ADDRESSES, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}
    - {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1m}}}
    - {name: DISK, valueFrom: {resourceFieldRef: {resource: requests.ephemeral-storage, divisor: 1Ti}}}
    - {name: TOKEN, valueFrom: {secretKeyRef: {name: a.b, key: tls.crt, optional: true}}}
    - {name: LEVEL, valueFrom: {configMapKeyRef: {name: feedwater, key: LOG_LEVEL}}}
client:
  cpu: 2
  volume: {sizeLimit: 536870912}
"""
"""What is at the edge of what the schema and the sentences about values let through."""
PLAIN: Object = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "train"},
    "spec": {
        "restartPolicy": "Never",
        "initContainers": [{"name": "fetch", "image": "fetch:1"}],
        "containers": [
            {
                "name": "trainer",
                "image": "train:1",
                "env": [{"name": "EPOCHS", "value": "3"}],
                "resources": {"limits": {"cpu": "4", "memory": "8Gi"}},
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            },
            {"name": "logger", "image": "logger:1"},
        ],
        "volumes": [{"name": "data", "emptyDir": {}}],
    },
}


@pytest.fixture
def empty(cluster: Cluster) -> Iterator[Cluster]:
    """A cluster from which each test takes away what it installs."""
    yield cluster
    cluster.uninstall_chart("helm4")


@pytest.mark.parametrize("helm", HELMS)
def test_uninstall_leaves_nothing(empty: Cluster, helm: str) -> None:
    """With every optional object on, `helm uninstall` takes away all that the chart made."""
    before = _names(empty)
    everything = CHART / "ci/everything-values.yaml"
    for name in ("team-a", "team-b"):
        with contextlib.suppress(RefusedError):
            empty.namespace(name)
    options = ("--values", str(everything), "--set", "podMonitor.render=never", "--create-namespace")
    empty.run(helm, "install", "feedwater", str(CHART), "--namespace=feedwater", *options)
    assert len(_names(empty)) > len(before) + 8

    empty.run(helm, "uninstall", "feedwater", "--namespace=feedwater", "--wait")
    wait_for(lambda: not _of_feedwater(_names(empty) - before))


@pytest.mark.parametrize("helm", HELMS)
def test_notes_say_what_is_next(empty: Cluster, helm: str) -> None:
    """Installed, it says how to test, how to ask for the sidecar, and that the image is one's own to push."""
    said = empty.install_chart(helm).output

    assert "helm test feedwater --namespace feedwater" in said
    assert 'feedwater.dev/inject: "true"' in said
    assert "No image is published" in said
    assert "<no value>" not in said


@pytest.mark.parametrize("helm", HELMS)
def test_helm_test_makes_a_labelled_pod_that_is_injected(empty: Cluster, helm: str) -> None:
    """`helm test` starts two pods and succeeds as they do; the one that asks for the sidecar has it."""
    empty.install_chart(helm)
    empty.service_account("feedwater")
    ended: dict[str, Object] = {}
    with _kubelet(empty, "feedwater", ended):
        said = empty.run(helm, "test", "feedwater", "--namespace=feedwater", "--timeout=120s").output

    assert said.count("Succeeded") == 2
    assert set(ended) == {"feedwater-test-image", "feedwater-test-injection"}
    injected = ended["feedwater-test-injection"]["spec"]
    assert [container["name"] for container in injected["initContainers"]] == [
        "feedwater",
        "feedwater-client",
    ]
    assert "initContainers" not in ended["feedwater-test-image"]["spec"]


@pytest.mark.parametrize("helm", HELMS)
def test_pod_of_a_failed_test_goes_by_the_command_of_the_readme(empty: Cluster, helm: str) -> None:
    """`helm uninstall` leaves that one thing of the chart, and README.md says what takes it away."""
    before = _names(empty)
    empty.install_chart(helm)
    empty.service_account("feedwater")
    with _kubelet(empty, "feedwater", {}, phase="Failed"), pytest.raises(RefusedError, match="failed"):
        empty.run(helm, "test", "feedwater", "--namespace=feedwater", "--timeout=120s")
    empty.run(helm, "uninstall", "feedwater", "--namespace=feedwater", "--wait")
    assert _of_feedwater(_names(empty) - before) == {"Pod/feedwater/feedwater-test-image"}

    (command,) = re.findall(r"^\$ kubectl (delete pods .*)$", (CHART / "README.md").read_text(), re.MULTILINE)
    empty.kubectl(*command.split(), "--now")
    wait_for(lambda: not _of_feedwater(_names(empty) - before))


@pytest.mark.parametrize("helm", HELMS)
def test_upgrade_keeps_values_and_injection(empty: Cluster, helm: str) -> None:
    """From the version before: values that were set hold, new ones have their defaults, pods are injected."""
    values = ("--set", "image.registry=registry.example.com,injection.mode=auto,sidecar.maxMode=advise")
    place = ("--namespace=feedwater", "--create-namespace")
    empty.run(helm, "install", "feedwater", str(PREVIOUS), *place, *values)
    empty.install_chart(helm, "--reset-then-reuse-values")
    made = empty.create(_labelled(PLAIN)).object()

    sidecar = made["spec"]["initContainers"][0]
    assert sidecar["image"] == "registry.example.com/feedwater:0.1.0"
    assert {"name": "FEEDWATER_MAX_MODE", "value": "advise"} in sidecar["env"]
    assert {"name": "FEEDWATER_MODE", "value": "auto"} in made["spec"]["containers"][0]["env"]
    assert (
        "feedwater"
        in empty.kubectl("get", "serviceaccounts", "--namespace=feedwater", "--output=name").output
    )


def test_policy_and_manifest_do_the_same(empty: Cluster) -> None:
    """A pod merged with the manifest, by kustomize, is the pod that the policy makes of it."""
    empty.install_chart("helm4")
    injected = empty.create(_labelled(PLAIN)).object()
    copied = yaml.safe_load(_merged(empty, PLAIN))
    by_hand = empty.create(copied).object()

    assert _comparable(injected) == _comparable(by_hand)
    assert [container["name"] for container in by_hand["spec"]["initContainers"]] == [
        "feedwater",
        "feedwater-client",
        "fetch",
    ]


def test_image_pull_secrets_reach_the_pod(empty: Cluster) -> None:
    """Pull secrets of the chart are named by injected pods, beside their own."""
    empty.install_chart("helm4", "--set", "image.pullSecrets={mine,ours}")
    wish = _labelled(PLAIN)
    wish["spec"]["imagePullSecrets"] = [{"name": "mine"}]

    assert empty.create(wish).object()["spec"]["imagePullSecrets"] == [{"name": "mine"}, {"name": "ours"}]
    assert empty.create(_labelled(PLAIN)).object()["spec"]["imagePullSecrets"] == [
        {"name": "mine"},
        {"name": "ours"},
    ]


def test_resources_can_be_taken_from_the_trainer(empty: Cluster) -> None:
    """With `taken` the pod asks for what it did before: 4 cores are 3750m + 250m, 8 GiB 8064 + 128 MiB."""
    empty.install_chart("helm4", "--set", "injection.resources=taken")
    made = empty.create(_labelled(PLAIN)).object()
    left = {"cpu": "3750m", "memory": "8064Mi"}
    sidecar = {"cpu": "250m", "memory": "128Mi"}

    assert made["spec"]["containers"][0]["resources"] == {"limits": left, "requests": left}
    assert made["spec"]["initContainers"][0]["resources"] == {"limits": sidecar, "requests": sidecar}


def test_resources_that_the_trainer_has_not_are_not_taken(empty: Cluster) -> None:
    """A trainer of 200m cannot give 250m: it starts as it was, and a Warning says why."""
    empty.install_chart("helm4")
    wish = _labelled(PLAIN)
    wish["metadata"]["annotations"] = {"feedwater.dev/resources": "taken"}
    wish["spec"]["containers"][0]["resources"] = {"limits": {"cpu": "200m", "memory": "1Gi"}}
    answer = empty.create(wish)

    assert [container["name"] for container in answer.object()["spec"]["initContainers"]] == ["fetch"]
    (warning,) = answer.warnings
    assert 'requests.cpu of container "trainer" is 200m, and 250m cannot be taken from it' in warning


def test_other_values_make_policies_that_compile(empty: Cluster) -> None:
    """No user, no label for a workload, no limits, no client: the values that leave most out."""
    empty.install_chart(
        "helm4", "--values", str(CHART / "ci/openshift-values.yaml"), "--set", "injection.warnings=true"
    )
    made = empty.create(_labelled(PLAIN)).object()
    (sidecar, fetch) = made["spec"]["initContainers"]

    assert (sidecar["name"], fetch["name"]) == ("feedwater", "fetch")
    assert "runAsUser" not in sidecar["securityContext"]
    assert sidecar["resources"]["limits"] == {"cpu": "0", "memory": "0"}


def test_whatever_values_allow_is_a_pod_that_restricted_takes(empty: Cluster) -> None:
    """Each field of the security context, each source of a variable, and amounts without a unit."""
    values = empty.directory / "values.yaml"
    values.write_text(ALLOWED)
    empty.install_chart("helm4", "--values", str(values))
    namespace = empty.namespace("restricted", enforce="restricted")
    wish = _labelled(PLAIN)
    wish["spec"]["securityContext"] = {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    for container in [*wish["spec"]["containers"], *wish["spec"]["initContainers"]]:
        container["securityContext"] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    made = empty.create(wish, namespace).object()["spec"]
    sidecar, client, _ = made["initContainers"]

    stated = yaml.safe_load(ALLOWED)["sidecar"]
    assert sidecar["securityContext"].items() >= stated["securityContext"].items()
    names = [one["name"] for one in stated["extraEnv"]]
    assert [one["name"] for one in sidecar["env"]][-len(names) :] == names
    assert sidecar["resources"]["limits"] == {"cpu": "1", "memory": str(256 * MEBI)}
    assert client["resources"]["limits"] == {"cpu": "2", "memory": str(256 * MEBI)}
    sizes = {one["name"]: one["emptyDir"].get("sizeLimit") for one in made["volumes"] if "emptyDir" in one}
    assert sizes.items() >= {"feedwater": str(128 * MEBI), "feedwater-client": str(512 * MEBI)}.items()


def test_prometheus_operator_takes_monitor_and_rules(empty: Cluster) -> None:
    """Where its definitions are, PodMonitor and PrometheusRules are rendered by themselves, and are valid."""
    operator = module("newest", "github.com/prometheus-operator/prometheus-operator")
    definitions = operator / "example/prometheus-operator-crd"
    empty.install_definitions(
        *(definitions / f"monitoring.coreos.com_{kind}.yaml" for kind in ("podmonitors", "prometheusrules"))
    )
    empty.install_chart("helm4")
    found = empty.kubectl(
        "get", "podmonitors,prometheusrules", "--namespace=feedwater", "--output=name"
    ).output

    assert sorted(found.split()) == [
        "podmonitor.monitoring.coreos.com/feedwater",
        "prometheusrule.monitoring.coreos.com/feedwater-alerts",
        "prometheusrule.monitoring.coreos.com/feedwater-rules",
    ]
    rendered = empty.run("helm4", "get", "manifest", "feedwater", "--namespace=feedwater").output
    empty.kubectl("create", "--dry-run=server", "--validate=strict", "--filename=-", given=_renamed(rendered))


def _labelled(pod: Object) -> Object:
    wish: Object = json.loads(json.dumps(pod))
    wish["metadata"]["labels"] = {"feedwater.dev/inject": "true"}
    return wish


def _merged(cluster: Cluster, pod: Object) -> str:
    """Return the pod as `kubectl kustomize` merges the manifest to copy into it."""
    folder = cluster.directory / "kustomize"
    folder.mkdir(exist_ok=True)
    patch = yaml.safe_load((ROOT / "deploy/injection/pod.yaml").read_text())
    patch |= {"apiVersion": "v1", "kind": "Pod"}
    patch["metadata"]["name"] = pod["metadata"]["name"]
    (folder / "pod.yaml").write_text(json.dumps(pod))
    (folder / "feedwater.yaml").write_text(json.dumps(patch))
    (folder / "kustomization.yaml").write_text("resources: [pod.yaml]\npatches: [{path: feedwater.yaml}]\n")
    return cluster.kubectl("kustomize", str(folder)).output


def _comparable(pod: Object) -> Object:
    """Return what a pod is to the kubelet, in an order of its own where order means nothing."""
    spec: Object = json.loads(json.dumps(pod["spec"]))
    # The API server adds the service account's token under a name that is drawn anew for each pod.
    spec["volumes"] = sorted(
        (volume for volume in spec["volumes"] if "projected" not in volume), key=lambda volume: volume["name"]
    )
    for container in [*spec["initContainers"], *spec["containers"]]:
        for key in ("env", "volumeMounts"):
            container[key] = sorted(
                (one for one in container.get(key, []) if not one["name"].startswith("kube-api-access")),
                key=lambda one: one["name"],
            )
    return {"labels": pod["metadata"]["labels"], "spec": spec, "quality": pod["status"]["qosClass"]}


def _names(cluster: Cluster) -> set[str]:
    found = cluster.kubectl("get", KINDS, "--all-namespaces", "--output=json").object()
    return {
        f"{one['kind']}/{one['metadata'].get('namespace', '')}/{one['metadata']['name']}"
        for one in found["items"]
    }


def _of_feedwater(names: set[str]) -> set[str]:
    """Return those of the chart: a namespace has a ConfigMap and a service account of the cluster's own."""
    return {name for name in names if "feedwater" in name.rpartition("/")[2]}


def _renamed(rendered: str) -> str:
    """Return objects under other names: those of the release are there already."""
    objects = [found for found in yaml.safe_load_all(rendered) if found]
    for found in objects:
        found["metadata"]["name"] += "-again"
    return yaml.safe_dump_all(objects)


@contextlib.contextmanager
def _kubelet(
    cluster: Cluster, namespace: str, ended: dict[str, Object], phase: str = "Succeeded"
) -> Iterator[None]:
    """Report each pod of a namespace as ended in a phase, and keep what it was in ``ended``."""
    over = threading.Event()
    thread = threading.Thread(target=_end_pods, args=(cluster, namespace, ended, phase, over))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _end_pods(
    cluster: Cluster, namespace: str, ended: dict[str, Object], phase: str, over: threading.Event
) -> None:
    status = json.dumps({"status": {"phase": phase}})
    while not over.wait(0.2):
        for pod in cluster.get("pods", namespace=namespace)["items"]:
            name = pod["metadata"]["name"]
            if name not in ended:
                ended[name] = pod
                with contextlib.suppress(RefusedError):
                    cluster.kubectl(
                        *("patch", "pod", name, "--namespace", namespace, "--subresource=status"),
                        *("--type=merge", "--patch", status),
                    )
