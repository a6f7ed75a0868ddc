"""Injection by a real API server: what the policy makes of pods, and what users are told."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator

import pytest

from tests.e2e.cluster import LABELLED_POD, Cluster, Object, RefusedError
from tests.e2e.servers import wait_for

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

SITE = "/opt/feedwater-client/site"
GUARANTEED = {"limits": {"cpu": "4", "memory": "8Gi"}}
NONE = {"limits": {"cpu": "0", "memory": "0"}, "requests": {"cpu": "0", "memory": "0"}}
BURSTABLE = {"requests": {"cpu": "1", "memory": "1Gi"}}


DECLINED = (None, "false")
"""Values of the label by which a pod does not ask; None: it has none."""


@pytest.fixture(scope="module")
def untouched(cluster: Cluster) -> dict[str | None, Object]:
    """Pods that do not ask, by the value of their label, as they are made while there is no chart."""
    return {label: cluster.create(_declining(label)).object() for label in DECLINED}


@pytest.fixture(scope="module")
def injection(cluster: Cluster, untouched: dict[str | None, Object]) -> Iterator[Cluster]:
    """A cluster with the chart, in which no expression of a policy may fail: `Ignore` would hide it."""
    cluster.install_chart("helm4")
    yield cluster
    assert _failed_expressions(cluster) == []


def _pod(
    annotations: dict[str, str] | None = None,
    *,
    label: str = "true",
    spec: Object | None = None,
    **container: object,
) -> Object:
    """Return a pod with one container, ``trainer``, which has GPU-less resources unless told otherwise."""
    made = copy.deepcopy(LABELLED_POD)
    made["metadata"] = {
        "name": "trainer-0",
        "labels": {"feedwater.dev/inject": label},
        "annotations": {f"feedwater.dev/{key}": value for key, value in (annotations or {}).items()},
    }
    made["spec"] |= spec or {}
    made["spec"]["containers"][0] |= {"resources": GUARANTEED, **container}
    return made


def _declining(label: str | None) -> Object:
    """Return a pod with annotations and, unless it is None, a label, that does not ask for the sidecar."""
    made = _pod({"mode": "auto", "shm-size": "1Gi"}, label=str(label))
    if label is None:
        del made["metadata"]["labels"]
    return made


def _container(pod: Object, name: str) -> Object:
    containers = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
    (found,) = (container for container in containers if container["name"] == name)
    return found


def _env(pod: Object, name: str = "trainer") -> dict[str, Object]:
    return {variable["name"]: variable for variable in _container(pod, name).get("env", [])}


def _mounts(pod: Object, name: str = "trainer") -> dict[str, str]:
    return {mount["mountPath"]: mount["name"] for mount in _container(pod, name).get("volumeMounts", [])}


def _stable(pod: Object) -> str:
    """Return a pod as text without what differs between two creations of one pod."""
    fixed = copy.deepcopy(pod)
    for key in ("uid", "creationTimestamp", "resourceVersion"):
        fixed["metadata"].pop(key, None)
    return re.sub(r"kube-api-access-\w+", "kube-api-access", json.dumps(fixed, sort_keys=True))


def _failed_expressions(cluster: Cluster) -> list[str]:
    """Return the series that count expressions which ended by an error; none where none was counted."""
    metrics = cluster.kubectl("get", "--raw", "/metrics").output
    counts = re.findall(r"^apiserver_mutating_admission_policy_check_total\{.*", metrics, re.MULTILINE)
    assert any('error_type="no_error"' in line for line in counts)
    return [line for line in counts if 'error_type="no_error"' not in line]


def test_sidecar_comes_first_and_its_client_second(injection: Cluster) -> None:
    """Before the pod's own init containers: a native sidecar, then one that lays the client out and ends."""
    own = {"initContainers": [{"name": "fetch", "image": "fetch:latest", "resources": GUARANTEED}]}
    made = injection.create(_pod(spec=own)).object()
    first, second, third = made["spec"]["initContainers"]

    assert (first["name"], first["restartPolicy"]) == ("feedwater", "Always")
    assert (second["name"], "restartPolicy" in second) == ("feedwater-client", False)
    assert third["name"] == "fetch"
    assert not {"startupProbe", "readinessProbe"} & set(first)


def test_trainer_gets_socket_client_and_environment(injection: Cluster) -> None:
    """Volume and variables reach the training container alone; a second container stays as it was."""
    other = {"name": "logs", "image": "logs:latest", "resources": GUARANTEED}
    wish = _pod({"mode": "auto", "workload": "resnet"})
    wish["spec"]["containers"].append(other)
    made = injection.create(wish).object()

    assert {"/run/feedwater": "feedwater", "/opt/feedwater-client": "feedwater-client"}.items() <= _mounts(
        made
    ).items()
    assert _env(made)["FEEDWATER_MODE"]["value"] == "auto"
    assert _env(made)["FEEDWATER_JOB"]["value"] == "resnet"
    assert _env(made)["PYTHONPATH"]["value"] == SITE
    assert _env(made)["POD_NAME"]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
    assert _env(made)["POD_NAMESPACE"]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.namespace"
    assert "env" not in _container(made, "logs")
    assert "/run/feedwater" not in _mounts(made, "logs")


def test_named_container_is_the_trainer(injection: Cluster) -> None:
    """`feedwater.dev/container` moves the injection to the second container."""
    wish = _pod({"container": "torch"})
    wish["spec"]["containers"].append({"name": "torch", "image": "torch:latest", "resources": GUARANTEED})
    made = injection.create(wish).object()

    assert "PYTHONPATH" in _env(made, "torch")
    assert _env(made) == {}


@pytest.mark.parametrize("label", DECLINED)
def test_pod_that_did_not_ask_is_left_alone(
    injection: Cluster, untouched: dict[str | None, Object], label: str | None
) -> None:
    """With the chart installed it is, to the byte, what it was before, but for names that are made anew."""
    answer = injection.create(_declining(label))

    assert answer.warnings == ()
    assert _stable(answer.object()) == _stable(untouched[label])


@pytest.mark.parametrize(
    ("resources", "quality"), [(GUARANTEED, "Guaranteed"), (BURSTABLE, "Burstable"), ({}, "BestEffort")]
)
def test_quality_of_service_is_kept(injection: Cluster, resources: Object, quality: str) -> None:
    """A pod's class is the same with the sidecar: Guaranteed, Burstable and BestEffort."""
    asked = injection.create(_pod(label="false", resources=resources)).object()
    made = injection.create(_pod(resources=resources)).object()

    assert asked["status"]["qosClass"] == quality
    assert made["status"]["qosClass"] == quality
    assert "initContainers" in made["spec"]


def test_resources_of_the_sidecar_are_those_of_the_annotations(injection: Cluster) -> None:
    """Requests equal limits, as stated."""
    made = injection.create(_pod({"cpu": "500m", "memory": "256Mi"})).object()
    stated = {"cpu": "500m", "memory": "256Mi"}

    assert _container(made, "feedwater")["resources"] == {"limits": stated, "requests": stated}


@pytest.mark.parametrize(
    ("annotations", "cpu"),
    [({}, "500m"), ({"cpu": "50m"}, "500m"), ({"cpu": "1500m"}, "1500m"), ({"cpu": "0"}, "0")],
)
def test_client_gets_the_larger_cpu_of_its_own_and_the_sidecars(
    injection: Cluster, annotations: dict[str, str], cpu: str
) -> None:
    """500m, or the sidecar's where that is more or 0; memory as the sidecar's, which keeps its own."""
    made = injection.create(_pod({**annotations, "memory": "256Mi"})).object()
    stated = {"cpu": cpu, "memory": "256Mi"}

    assert _container(made, "feedwater-client")["resources"] == {"limits": stated, "requests": stated}
    assert _container(made, "feedwater")["resources"]["limits"]["cpu"] == annotations.get("cpu", "250m")


@pytest.mark.parametrize(
    ("resources", "added"), [({}, {}), (GUARANTEED, NONE)], ids=["best-effort", "of-the-pod"]
)
def test_client_gets_no_resources_where_the_sidecar_gets_none(
    injection: Cluster, resources: Object, added: Object
) -> None:
    """In a BestEffort pod, and in one whose resources are stated for the whole pod, where 0 says so."""
    made = injection.create(_pod(spec={"resources": resources} if resources else {}, resources={})).object()

    assert _container(made, "feedwater").get("resources", {}) == added
    assert _container(made, "feedwater-client").get("resources", {}) == added


@pytest.mark.parametrize(
    ("resources", "name"),
    [({"cpu": "2", "memory": "128.5Mi"}, "memory"), ({"cpu": "250m", "memory": "1Gi"}, "cpu")],
    ids=["memory", "cpu"],
)
def test_trainer_is_not_left_without_a_limit(injection: Cluster, resources: Object, name: str) -> None:
    """128 of 128.5 MiB would leave 0 when rounded, which is no limit: the pod stays as it was, Guaranteed."""
    for stated in ({"limits": resources}, {"requests": resources, "limits": resources}):
        answer = injection.create(_pod({"resources": "taken"}, resources=stated))

        assert answer.object()["status"]["qosClass"] == "Guaranteed"
        assert "initContainers" not in answer.object()["spec"]
        (warning,) = answer.warnings
        assert f'.{name} of container "trainer" is' in warning
        assert "cannot be taken from it" in warning


def test_trainer_may_give_all_but_the_least_that_is_written(injection: Cluster) -> None:
    """1m and 1Mi are left of 251m and 129.9Mi; an amount of half a byte is rounded down, too."""
    least = {"cpu": "251m", "memory": "129.9Mi"}
    odd = {"cpu": "2", "memory": "1073741824500m"}
    made = injection.create(_pod({"resources": "taken"}, resources={"limits": least})).object()
    rounded = injection.create(_pod({"resources": "taken"}, resources={"limits": odd})).object()

    assert _container(made, "trainer")["resources"]["limits"] == {"cpu": "1m", "memory": "1Mi"}
    assert made["status"]["qosClass"] == "Guaranteed"
    assert _container(rounded, "trainer")["resources"]["limits"] == {"cpu": "1750m", "memory": "896Mi"}


def test_shared_memory_is_added_only_where_there_is_none(injection: Cluster) -> None:
    """`feedwater.dev/shm-size` mounts /dev/shm in memory; a pod's own /dev/shm stays."""
    own = {
        "volumeMounts": [{"name": "dshm", "mountPath": "/dev/shm"}],
    }
    volumes = {"volumes": [{"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}]}
    added = injection.create(_pod({"shm-size": "2Gi"})).object()
    kept = injection.create(_pod({"shm-size": "2Gi"}, spec=volumes, **own)).object()
    sizes = {volume["name"]: volume.get("emptyDir") for volume in added["spec"]["volumes"]}

    assert sizes[_mounts(added)["/dev/shm"]] == {"medium": "Memory", "sizeLimit": "2Gi"}
    assert _mounts(kept)["/dev/shm"] == "dshm"
    assert len([volume for volume in kept["spec"]["volumes"] if "emptyDir" in volume]) == 3


def test_client_of_the_image_is_used_where_it_is_asked_for(injection: Cluster) -> None:
    """`feedwater.dev/client: image` adds the sidecar and its socket, no client and no PYTHONPATH."""
    made = injection.create(_pod({"client": "image"})).object()

    assert [container["name"] for container in made["spec"]["initContainers"]] == ["feedwater"]
    assert "PYTHONPATH" not in _env(made)
    assert "/opt/feedwater-client" not in _mounts(made)


def test_python_path_of_the_pod_is_kept_behind_the_clients(injection: Cluster) -> None:
    """A literal PYTHONPATH comes after the client's; of two of one name the last is the one that holds."""
    once = [{"name": "PYTHONPATH", "value": "/app:/lib"}]
    twice = [{"name": "PYTHONPATH", "value": "/old"}, {"name": "OTHER", "value": "1"}, *once]

    assert _env(injection.create(_pod(env=once)).object())["PYTHONPATH"]["value"] == f"{SITE}:/app:/lib"
    assert _env(injection.create(_pod(env=twice)).object())["PYTHONPATH"]["value"] == f"{SITE}:/app:/lib"


def test_python_path_that_is_looked_up_is_left_and_said(injection: Cluster) -> None:
    """With PYTHONPATH from a ConfigMap the sidecar comes without the client, and a Warning says why."""
    looked_up = {"configMapKeyRef": {"name": "paths", "key": "python"}}
    answer = injection.create(_pod(env=[{"name": "PYTHONPATH", "valueFrom": looked_up}]))

    assert _env(answer.object())["PYTHONPATH"]["valueFrom"] == looked_up
    assert [container["name"] for container in answer.object()["spec"]["initContainers"]] == ["feedwater"]
    assert len(answer.warnings) == 1
    assert 'PYTHONPATH of container "trainer" comes by valueFrom' in answer.warnings[0]


def test_variables_that_the_pod_sets_are_its_own(injection: Cluster) -> None:
    """FEEDWATER_MODE, FEEDWATER_JOB and POD_NAME in the pod win over annotations and appear once."""
    env = [{"name": name, "value": "mine"} for name in ("FEEDWATER_MODE", "FEEDWATER_JOB", "POD_NAME")]
    made = injection.create(_pod({"mode": "auto", "workload": "theirs"}, env=env)).object()
    names = [variable["name"] for variable in _container(made, "trainer")["env"]]

    assert all(_env(made)[variable["name"]]["value"] == "mine" for variable in env)
    assert len(names) == len(set(names))


def test_variables_that_the_kubelet_looks_up_do_not_win(injection: Cluster) -> None:
    """What envFrom brings is not seen: the annotation's mode is added to env, which wins over it."""
    made = injection.create(_pod({"mode": "auto"}, envFrom=[{"configMapRef": {"name": "settings"}}])).object()

    assert _env(made)["FEEDWATER_MODE"]["value"] == "auto"
    assert _container(made, "trainer")["envFrom"] == [{"configMapRef": {"name": "settings"}}]


@pytest.mark.parametrize(
    ("annotation", "value", "sentence"),
    [
        ("container", "tariner", 'the pod has no container "tariner"; it has trainer'),
        ("container", "", 'the pod has no container ""; it has trainer'),
        ("mode", "Auto", 'feedwater.dev/mode: expected off, observe, advise or auto, got "Auto"'),
        ("mode", "", 'feedwater.dev/mode: expected off, observe, advise or auto, got ""'),
        ("client", "none", 'feedwater.dev/client: expected inject or image, got "none"'),
        ("workload", "", 'feedwater.dev/workload: expected a name, got ""'),
        ("cpu", "-1", "feedwater.dev/cpu: expected"),
        ("cpu", "250", "feedwater.dev/cpu: expected"),
        ("cpu", "a lot", "feedwater.dev/cpu: expected"),
        ("cpu", "", "feedwater.dev/cpu: expected"),
        ("memory", "-128Mi", "feedwater.dev/memory: expected"),
        ("memory", "128", "feedwater.dev/memory: expected"),
        ("memory", "128MiB", "feedwater.dev/memory: expected"),
        ("shm-size", "64", "feedwater.dev/shm-size: expected 1Mi to 4Ti, or 0 for none"),
        ("shm-size", "-1Gi", "feedwater.dev/shm-size: expected"),
        ("shm-size", "", "feedwater.dev/shm-size: expected"),
        ("cpu", "250m\n", "feedwater.dev/cpu: expected"),
    ],
)
def test_bad_annotation_leaves_the_pod_as_it_was_and_says_so(
    injection: Cluster, annotation: str, value: str, sentence: str
) -> None:
    """The pod is created uninjected; one Warning names the annotation, what is allowed and what came."""
    answer = injection.create(_pod({annotation: value}))
    declined = injection.create(_pod({annotation: value}, label="false")).object()
    declined["metadata"]["labels"]["feedwater.dev/inject"] = "true"

    assert _stable(answer.object()) == _stable(declined)
    assert len(answer.warnings) == 1
    assert sentence in answer.warnings[0]
    assert f'"{value}"'.replace("\n", " ") in answer.warnings[0]


@pytest.mark.parametrize("place", ["containers", "initContainers"])
def test_container_of_the_sidecars_name_that_is_none_is_said(injection: Cluster, place: str) -> None:
    """The pod starts as it was written; one that mounts the socket's directory is a sidecar added by hand."""
    other: Object = {"name": "feedwater", "image": "pump:latest", "resources": GUARANTEED}
    wish = _pod(spec={"volumes": [{"name": "run", "emptyDir": {}}]})
    wish["spec"][place] = [*wish["spec"].get(place, []), other]
    for mounts in ([], [{"name": "run", "mountPath": "/run/feedwater-other"}]):
        other["volumeMounts"] = mounts
        answer = injection.create(wish)
        assert "feedwater-client" not in json.dumps(answer.object())
        (warning,) = answer.warnings
        assert (
            'the pod has a container "feedwater" already, which mounts nothing at /run/feedwater' in warning
        )

    for path in ("/run/feedwater", "/run/feedwater/"):
        other["volumeMounts"] = [{"name": "run", "mountPath": path}]
        answer = injection.create(wish)
        assert "feedwater-client" not in json.dumps(answer.object())
        assert answer.warnings == ()


def test_bad_label_is_said(injection: Cluster) -> None:
    """`feedwater.dev/inject: yes` injects nothing, and a Warning says what is expected."""
    answer = injection.create(_pod(label="yes"))

    assert "initContainers" not in answer.object()["spec"]
    assert 'expected true or false, got "yes"' in answer.warnings[0]


def test_several_problems_are_told_at_once(injection: Cluster) -> None:
    """A wrong mode and negative memory: one Warning with both."""
    (warning,) = injection.create(_pod({"mode": "fast", "memory": "-1Mi"})).warnings

    assert "feedwater.dev/mode" in warning
    assert "feedwater.dev/memory" in warning


def test_job_with_a_bad_annotation_is_told_to_its_author(injection: Cluster) -> None:
    """Nobody reads the Warnings that a controller gets, so the Job's author gets them."""
    template = _pod({"mode": "fast"}, spec={"restartPolicy": "Never"})
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "train"},
        "spec": {"template": template},
    }
    del template["apiVersion"], template["kind"], template["metadata"]["name"]
    answer = injection.create(job)

    assert len(answer.warnings) == 1
    assert 'got "fast"' in answer.warnings[0]


def test_misspelt_annotation_is_said(injection: Cluster) -> None:
    """The pod is injected by those that are right, and a Warning names the one that there is not."""
    answer = injection.create(_pod({"shm_size": "1Gi", "mode": "auto"}))

    assert _env(answer.object())["FEEDWATER_MODE"]["value"] == "auto"
    assert len(answer.warnings) == 1
    assert answer.warnings[0].endswith("there is no annotation feedwater.dev/shm_size")


def test_label_on_the_job_instead_of_its_pods_is_said(injection: Cluster) -> None:
    """The Job is created, nothing will be injected, and a Warning says where the label belongs."""
    answer = injection.create(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "train", "labels": {"feedwater.dev/inject": "true"}},
            "spec": {
                "template": {
                    "spec": {"restartPolicy": "Never", "containers": LABELLED_POD["spec"]["containers"]}
                }
            },
        }
    )

    assert len(answer.warnings) == 1
    assert "put it into spec.template.metadata.labels" in answer.warnings[0]


@pytest.mark.parametrize(
    "spec",
    [{"os": {"name": "windows"}}, {"nodeSelector": {"kubernetes.io/os": "windows"}}],
    ids=["os", "node-selector"],
)
def test_windows_pod_is_left_alone(injection: Cluster, spec: Object) -> None:
    """A pod for Windows may not have what the sidecar has: it starts as it was written, with a Warning."""
    answer = injection.create(_pod(spec=spec))

    assert "initContainers" not in answer.object()["spec"]
    assert "the pod is one for Windows" in answer.warnings[0]


def test_pod_that_selects_linux_is_injected(injection: Cluster) -> None:
    """A node selector that names Linux, or something else altogether, is no problem."""
    for selector in ({"kubernetes.io/os": "linux"}, {"nvidia.com/gpu.present": "true"}):
        assert injection.injects(_pod(spec={"nodeSelector": selector}))


def test_mount_is_seen_with_a_slash_behind_it(injection: Cluster) -> None:
    """`/dev/shm/` is /dev/shm: no second volume is mounted there."""
    own = {"volumeMounts": [{"name": "dshm", "mountPath": "/dev/shm/"}]}
    made = injection.create(
        _pod({"shm-size": "1Gi"}, spec={"volumes": [{"name": "dshm", "emptyDir": {}}]}, **own)
    )

    assert "/dev/shm" not in _mounts(made.object())


@pytest.mark.parametrize(
    ("volume", "mount", "path"),
    [
        (
            {"hostPath": {"path": "/software"}},
            {"mountPath": "/opt", "readOnly": True},
            "/opt/feedwater-client",
        ),
        ({"nfs": {"server": "nfs.example", "path": "/opt"}}, {"mountPath": "/opt/"}, "/opt/feedwater-client"),
        ({"configMap": {"name": "run"}}, {"mountPath": "//run"}, "/run/feedwater"),
        ({"emptyDir": {}}, {"mountPath": "/run", "readOnly": True}, "/run/feedwater"),
    ],
    ids=["host", "share", "config-map", "read-only"],
)
def test_volume_above_the_added_ones_keeps_the_pod_as_it_was(
    injection: Cluster, volume: Object, mount: Object, path: str
) -> None:
    """The directory to mount on could not be made in it, the trainer would not start: a Warning says it."""
    mine: Object = {"spec": {"volumes": [{"name": "mine", **volume}]}}
    answer = injection.create(_pod(**mine, volumeMounts=[{"name": "mine", **mount}]))

    assert "initContainers" not in answer.object()["spec"]
    (warning,) = answer.warnings
    assert f'container "trainer" mounts a volume above {path}, in which that cannot be made' in warning
    assert ("set feedwater.dev/client to image" in warning) == (path == "/opt/feedwater-client")


@pytest.mark.parametrize(
    ("volume", "path"),
    [({"emptyDir": {"medium": "Memory"}}, "/run"), ({"configMap": {"name": "apt"}}, "/opt/feedwater")],
    ids=["empty", "beside"],
)
def test_volume_that_leaves_room_for_the_added_ones_is_no_problem(
    injection: Cluster, volume: Object, path: str
) -> None:
    """Directories can be made in a writable empty volume, and a path that only begins alike is another."""
    mine: Object = {"spec": {"volumes": [{"name": "mine", **volume}]}}
    answer = injection.create(_pod(**mine, volumeMounts=[{"name": "mine", "mountPath": path}]))

    assert answer.warnings == ()
    assert {path, "/run/feedwater", "/opt/feedwater-client"} <= set(_mounts(answer.object()))


def test_read_only_software_is_no_problem_for_a_client_of_the_image(injection: Cluster) -> None:
    """With `feedwater.dev/client: image` nothing is mounted under /opt."""
    wish = _pod(
        {"client": "image"},
        spec={"volumes": [{"name": "software", "hostPath": {"path": "/software"}}]},
        volumeMounts=[{"name": "software", "mountPath": "/opt", "readOnly": True}],
    )

    assert injection.create(wish).warnings == ()
    assert injection.injects(wish)


@pytest.mark.parametrize(
    "clash",
    [
        {"spec": {"volumes": [{"name": "feedwater", "emptyDir": {}}]}},
        {
            "spec": {"volumes": [{"name": "mine", "emptyDir": {}}]},
            "volumeMounts": [{"name": "mine", "mountPath": "/run/feedwater"}],
        },
        {
            "spec": {"volumes": [{"name": "mine", "emptyDir": {}}]},
            "volumeMounts": [{"name": "mine", "mountPath": "/opt/feedwater-client/lib"}],
        },
        {"spec": {"initContainers": [{"name": "feedwater-client", "image": "x:y"}]}},
    ],
    ids=["volume", "mount", "mount-below", "container"],
)
def test_name_that_the_pod_uses_itself_is_no_error(injection: Cluster, clash: Object) -> None:
    """A volume, mount or container of the pod's own under Feedwater's name: uninjected, with a Warning."""
    answer = injection.create(_pod(**clash))

    assert "feedwater" not in [c["name"] for c in answer.object()["spec"].get("initContainers", [])]
    assert "Feedwater is not injected" in answer.warnings[0]


def test_injected_pod_is_not_injected_again(injection: Cluster) -> None:
    """An injected pod, created once more as it is, comes out as it went in."""
    once = injection.create(_pod({"shm-size": "1Gi"}, env=[{"name": "PYTHONPATH", "value": "/app"}])).object()
    wish = {key: once[key] for key in ("apiVersion", "kind", "spec")}
    wish["metadata"] = {key: once["metadata"][key] for key in ("name", "labels", "annotations")}
    again = injection.create(wish)

    assert again.warnings == ()
    assert _stable(again.object()) == _stable(once)


def test_reinvocation_changes_nothing(injection: Cluster) -> None:
    """A policy that changes the pod after ours has ours run again: one sidecar, the mesh's beside it."""
    mesh = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": "zz-mesh"},
        "spec": {
            "failurePolicy": "Fail",
            "reinvocationPolicy": "IfNeeded",
            "matchConstraints": {
                "objectSelector": {"matchLabels": {"mesh": "true"}},
                "resourceRules": [
                    {
                        "apiGroups": [""],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE"],
                        "resources": ["pods"],
                    }
                ],
            },
            "matchConditions": [
                {"name": "once", "expression": "object.spec.containers.all(c, c.name != 'mesh')"}
            ],
            "mutations": [
                {
                    "patchType": "JSONPatch",
                    "jsonPatch": {
                        "expression": "[JSONPatch{op: 'add', path: '/spec/containers/-', "
                        "value: {'name': 'mesh', 'image': 'mesh:latest'}}]"
                    },
                }
            ],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": "zz-mesh"},
        "spec": {"policyName": "zz-mesh"},
    }
    wish = _pod()
    wish["metadata"]["labels"]["mesh"] = "true"
    alone = injection.create(wish).object()
    injection.create(mesh, dry_run=False)
    injection.create(binding, dry_run=False)
    try:
        wait_for(lambda: len(injection.create(wish).object()["spec"]["containers"]) == 2)
        both = injection.create(wish).object()
    finally:
        injection.kubectl("delete", "mutatingadmissionpolicy,mutatingadmissionpolicybinding", "zz-mesh")

    assert [container["name"] for container in both["spec"]["initContainers"]] == [
        "feedwater",
        "feedwater-client",
    ]
    mesh_container = _container(both, "mesh")
    both["spec"]["containers"].remove(mesh_container)
    both["status"]["qosClass"] = alone["status"]["qosClass"]
    assert _stable(both) == _stable(alone)


def test_host_network_pods_get_no_fixed_port(injection: Cluster) -> None:
    """Two pods of one node share its ports: the sidecar picks one, and nothing probes a fixed one."""
    sidecar = _container(injection.create(_pod(spec={"hostNetwork": True})).object(), "feedwater")

    assert sidecar["env"] == [{"name": "FEEDWATER_HTTP_PORT", "value": "0"}]
    assert not {"ports", "livenessProbe"} & set(sidecar)


def test_port_of_a_container_is_not_taken_from_it(injection: Cluster) -> None:
    """9464 is OpenTelemetry's, too: the sidecar, which starts first, picks another, and a Warning says so."""
    exporter = {
        "name": "exporter",
        "image": "x:y",
        "ports": [{"containerPort": 9464}],
        "resources": GUARANTEED,
    }
    wish = _pod()
    wish["spec"]["containers"].append(exporter)
    answer = injection.create(wish)
    sidecar = _container(answer.object(), "feedwater")

    assert sidecar["env"] == [{"name": "FEEDWATER_HTTP_PORT", "value": "0"}]
    assert not {"ports", "livenessProbe"} & set(sidecar)
    (warning,) = answer.warnings
    assert "Feedwater is injected in part" in warning
    assert 'container "exporter" has port 9464, so the sidecar picks a free one' in warning


def test_other_ports_leave_the_sidecar_its_own(injection: Cluster) -> None:
    """Port 9464 of UDP and port 9465 are no clash: the sidecar has its port and its probe."""
    ports = [{"containerPort": 9464, "protocol": "UDP"}, {"containerPort": 9465}]
    answer = injection.create(_pod(ports=ports))
    sidecar = _container(answer.object(), "feedwater")

    assert answer.warnings == ()
    assert sidecar["env"] == [{"name": "FEEDWATER_HTTP_PORT", "value": "9464"}]
    assert [port["containerPort"] for port in sidecar["ports"]] == [9464]
    assert sidecar["livenessProbe"]["httpGet"]["port"] == "feedwater"


def test_job_is_told_of_a_port_that_is_not_free(injection: Cluster) -> None:
    """Its author hears what its pods will be."""
    template = _pod(spec={"restartPolicy": "Never"}, ports=[{"containerPort": 9464}])
    del template["apiVersion"], template["kind"], template["metadata"]["name"]
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "train"},
        "spec": {"template": template},
    }
    (warning,) = injection.create(job).warnings

    assert 'container "trainer" has port 9464' in warning


def test_pod_with_resources_of_its_own_stays_within_them(injection: Cluster) -> None:
    """Where resources are stated for the whole pod, the sidecar adds none and the class stays."""
    wish = _pod(spec={"resources": GUARANTEED}, resources={})
    made = injection.create(wish).object()

    assert made["status"]["qosClass"] == "Guaranteed"
    assert "feedwater" in [container["name"] for container in made["spec"]["initContainers"]]


@pytest.mark.parametrize(
    ("of_the_pod", "of_the_trainer", "cpu"),
    [
        ({"limits": {"cpu": "400m", "memory": "1Gi"}}, {}, "500m"),
        ({"requests": {"cpu": "1"}}, {"requests": {"cpu": "800m"}}, "1"),
    ],
    ids=["limit", "request"],
)
def test_amounts_that_could_exceed_the_pods_own_are_left_out_and_said(
    injection: Cluster, of_the_pod: Object, of_the_trainer: Object, cpu: str
) -> None:
    """More than spec.resources leaves would have the pod refused: the sidecar gets none, with a Warning."""
    wish = _pod({"cpu": cpu, "memory": "2Gi"}, spec={"resources": of_the_pod}, resources=of_the_trainer)
    answer = injection.create(wish)

    assert _container(answer.object(), "feedwater")["resources"] == NONE
    assert _container(answer.object(), "feedwater-client")["resources"] == NONE
    (warning,) = answer.warnings
    assert "feedwater.dev/cpu is left out: the pod's resources are stated for the whole of it" in warning
    assert "feedwater.dev/memory is left out" in warning


def test_defaults_of_the_namespace_do_not_exceed_the_pods_own(injection: Cluster) -> None:
    """A LimitRange gives containers 500m; with the trainer's that is more than the 600m of spec.resources."""
    namespace = injection.namespace("defaults")
    _limit(injection, namespace, {"default": {"cpu": "500m"}, "defaultRequest": {"cpu": "500m"}})
    wish = _pod(spec={"resources": {"limits": {"cpu": "600m", "memory": "1Gi"}}}, resources={})

    def has_default() -> bool:
        made = injection.create(_pod(label="false", resources={}), namespace).object()
        return bool(_container(made, "trainer").get("resources"))

    wait_for(has_default)
    assert injection.injects(wish, namespace)


def test_large_pod_is_within_the_cost_that_expressions_may_have(injection: Cluster) -> None:
    """40 containers of 100 variables, 20 mounts and 20 ports are injected: what CEL may cost is bounded."""
    env = [{"name": f"VARIABLE_{i}", "value": str(i)} for i in range(100)]
    volumes = [{"name": f"volume-{i}", "emptyDir": {}} for i in range(20)]
    mounts = [{"name": volume["name"], "mountPath": f"/{volume['name']}"} for volume in volumes]
    wish = _pod({"container": "rank-39", "shm-size": "1Gi"}, spec={"volumes": volumes})
    rank = {"image": "x:y", "env": env, "volumeMounts": mounts, "resources": GUARANTEED}
    wish["spec"]["containers"] = [
        {"name": f"rank-{i}", **rank, "ports": [{"containerPort": 10000 + 20 * i + j} for j in range(20)]}
        for i in range(40)
    ]
    answer = injection.create(wish)

    assert answer.warnings == ()
    assert _env(answer.object(), "rank-39")["PYTHONPATH"]["value"] == SITE


def test_defaults_of_the_namespace_count_as_the_pods_own(injection: Cluster) -> None:
    """A bare pod that a LimitRange makes Guaranteed is that with the sidecar, which gets its resources."""
    namespace = injection.namespace("limited")
    _limit(injection, namespace, {"default": GUARANTEED["limits"], "defaultRequest": GUARANTEED["limits"]})
    wait_for(lambda: _quality(injection, _pod(label="false", resources={}), namespace) == "Guaranteed")
    made = injection.create(_pod(resources={}), namespace).object()

    assert made["status"]["qosClass"] == "Guaranteed"
    assert _container(made, "feedwater")["resources"]["limits"] == {"cpu": "250m", "memory": "128Mi"}


def test_minimum_of_the_namespace_is_met_by_annotation(injection: Cluster) -> None:
    """A LimitRange that asks for 500m in each container refuses the sidecar of 250m, not one of 500m."""
    namespace = injection.namespace("minimum")
    _limit(injection, namespace, {"min": {"cpu": "500m"}})

    wait_for(lambda: _is_refused(injection, _pod(), namespace, "minimum cpu usage per Container is 500m"))
    assert injection.injects(_pod({"cpu": "500m"}), namespace)


@pytest.mark.parametrize("level", ["baseline", "restricted"])
def test_pod_security_accepts_the_injected_pod(injection: Cluster, level: str) -> None:
    """A pod that a level allows is allowed with the sidecar, without a Warning."""
    namespace = injection.namespace(f"pods-{level}", enforce=level, warn=level)
    wish = _pod({"shm-size": "1Gi"}, **_restricted())
    answer = injection.create(wish, namespace)

    assert answer.warnings == ()
    assert answer.object()["spec"]["initContainers"][0]["name"] == "feedwater"


def _limit(cluster: Cluster, namespace: str, limits: Object) -> None:
    """Make a LimitRange for the containers of a namespace."""
    spec = {"limits": [{"type": "Container", **limits}]}
    wish = {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "limits"}, "spec": spec}
    cluster.create(wish, namespace, dry_run=False)


def _quality(cluster: Cluster, pod: Object, namespace: str) -> str:
    return str(cluster.create(pod, namespace).object()["status"]["qosClass"])


def _is_refused(cluster: Cluster, pod: Object, namespace: str, reason: str) -> bool:
    try:
        cluster.create(pod, namespace)
    except RefusedError as refused:
        return reason in str(refused)
    return False


def _restricted() -> Object:
    return {
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
    }
