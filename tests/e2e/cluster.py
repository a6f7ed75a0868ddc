"""A real Kubernetes on loopback, for the length of a ``with`` block: API server, controllers, scheduler.

etcd and kube-apiserver are whole. With `controllers` Jobs get their pods and pods their nodes; with `nodes`
kwok plays the kubelets: it reports the states of a pod's life, and runs nothing.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import secrets
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests import ROOT
from tests.e2e.servers import answers, running, tool, wait_for
from tests.support.processes import free_port

MODULES = ROOT / "tests/tools"
CHART = ROOT / "deploy/helm/feedwater"

Object = dict[str, Any]
POLICIES = ("MutatingAdmissionPolicy", "ValidatingAdmissionPolicy")
LABELLED_POD: Object = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "labelled", "labels": {"feedwater.dev/inject": "true"}},
    "spec": {"containers": [{"name": "trainer", "image": "train:latest"}]},
}


class RefusedError(AssertionError):
    """What kubectl or helm said when it failed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command printed."""

    output: str
    warnings: tuple[str, ...]
    """What the API server warned of, one sentence each."""

    def object(self) -> Object:
        """Return the object that was printed as JSON."""
        found: Object = json.loads(self.output)
        return found


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster, as its administrator sees it."""

    directory: Path
    url: str

    @property
    def kubeconfig(self) -> Path:
        """Return the file that lets clients in."""
        return self.directory / "kubeconfig"

    def run(self, *command: str, given: str = "") -> Answer:
        """Run a client of the cluster, by name, with ``given`` as its input.

        Raises:
            RefusedError: It failed; the text is what it said.
        """
        environment = os.environ | {
            "KUBECONFIG": str(self.kubeconfig),
            "KUBECACHEDIR": str(self.directory / "cache"),
            "HELM_CACHE_HOME": str(self.directory / "helm"),
        }
        done = subprocess.run(
            [tool(command[0]), *command[1:]], input=given, env=environment, capture_output=True, text=True
        )
        if done.returncode:
            raise RefusedError(f"{' '.join(command)}: {done.stderr}{done.stdout}")
        return Answer(done.stdout, tuple(re.findall(r"^Warning: (.*)", done.stderr, re.MULTILINE)))

    def kubectl(self, *arguments: str, given: str = "") -> Answer:
        """Run kubectl."""
        return self.run("kubectl", *arguments, given=given)

    def create(self, wish: Object, namespace: str = "default", *, dry_run: bool = True) -> Answer:
        """Create an object, strictly validated; with ``dry_run`` admission sees it and nothing is stored."""
        stored = "--dry-run=server" if dry_run else "--dry-run=none"
        return self.kubectl(
            *("create", "--namespace", namespace, "--validate=strict", stored, "--output=json"),
            *("--filename", "-"),
            given=json.dumps(wish),
        )

    def get(self, kind: str, name: str = "", namespace: str = "default") -> Object:
        """Return an object, or without a name the list of its kind."""
        names = [name] if name else []
        return self.kubectl("get", kind, *names, "--namespace", namespace, "--output=json").object()

    def namespace(self, name: str, **pod_security: str) -> str:
        """Make a namespace, with a Pod Security level by mode, and what its pods need to be created."""
        labels = {f"pod-security.kubernetes.io/{mode}": level for mode, level in pod_security.items()}
        self.create(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}},
            dry_run=False,
        )
        self.service_account(name)
        return name

    def service_account(self, namespace: str) -> None:
        """Make the default service account, as a controller does where one runs."""
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
        with contextlib.suppress(RefusedError):
            self.create(account, namespace, dry_run=False)

    def install_definitions(self, *files: Path) -> None:
        """Install custom resource definitions, and wait until the API server serves their kinds."""
        for file in files:
            # Created, not applied: the largest of them exceed what an annotation holds.
            self.kubectl("create", "--filename", str(file))
        names = [definition(file)["metadata"]["name"] for file in files]
        for name in names:
            self.wait_for("condition=Established", "crd", name)
        for file in files:
            wanted = definition(file)["spec"]
            served = [version["name"] for version in wanted["versions"] if version["served"]]
            for version in served:
                wait_for(functools.partial(self._serves, wanted["group"], version, wanted["names"]["plural"]))

    def install_chart(self, helm: str, *arguments: str, release: str = "feedwater") -> Answer:
        """Install the chart, or bring an installed one to other values, in a namespace of its own.

        Returns once the API server acts by it.
        """
        said = self.run(
            *(helm, "upgrade", "--install", release, str(CHART), "--namespace=feedwater"),
            *("--create-namespace", *arguments),
        )
        self.settle()
        return said

    def uninstall_chart(self, helm: str, release: str = "feedwater") -> None:
        """Remove the chart, if it is there; returns once the API server acts without it."""
        self.run(helm, "uninstall", release, "--namespace=feedwater", "--ignore-not-found", "--wait")
        self.settle()

    def settle(self) -> None:
        """Return once the API server acts by every policy that is stored now.

        It learns of them about a second later and in the order of their changes, of those that mutate apart
        from those that validate: once it acts by one of each that is made here, it acts by all before them.
        """
        name = f"settled-{secrets.token_hex(4)}"
        wish = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "labels": {"made": "yes"}},
        }
        self.create({"apiVersion": "v1", "kind": "List", "items": _marking_policies(name)}, dry_run=False)

        def acts() -> bool:
            answer = self.create(wish)
            return bool(answer.warnings) and "mutated" in answer.object()["metadata"]["labels"]

        wait_for(acts)
        kinds = [kind for kind in POLICIES for kind in (kind, f"{kind}Binding")]
        self.kubectl("delete", *(f"{kind}/{name}" for kind in kinds))

    def injects(self, pod: Object, namespace: str = "default") -> bool:
        """Return whether a pod would get the sidecar."""
        made = self.create(pod, namespace).object()
        return "feedwater" in [container["name"] for container in made["spec"].get("initContainers", [])]

    def wait_for(self, wanted: str, kind: str, name: str, namespace: str = "default") -> Object:
        """Return an object once what is wanted of it holds, as ``kubectl wait --for`` spells it."""
        self.kubectl(
            *("wait", f"{kind}/{name}", f"--for={wanted}", "--timeout=120s", "--namespace", namespace)
        )
        return self.get(kind, name, namespace)

    def _serves(self, group: str, version: str, plural: str) -> bool:
        try:
            found = json.loads(self.kubectl("get", "--raw", f"/openapi/v3/apis/{group}/{version}").output)
        except RefusedError:
            return False
        return any(path.endswith(f"/{plural}") for path in found["paths"])


@contextlib.contextmanager
def control_plane(directory: Path) -> Iterator[Cluster]:
    """Start etcd and kube-apiserver with keys of their own, and yield the empty cluster."""
    store, port, token = f"http://127.0.0.1:{free_port()}", free_port(), secrets.token_hex(16)
    cluster = Cluster(directory, f"https://127.0.0.1:{port}")
    _write_credentials(cluster, token)
    etcd = [
        *("etcd", f"--data-dir={directory / 'etcd'}", f"--listen-client-urls={store}"),
        *(f"--advertise-client-urls={store}", "--listen-peer-urls=http://127.0.0.1:0"),
        # The data need not outlive the test.
        *("--unsafe-no-fsync", "--log-level=warn"),
    ]
    api_server = [
        *("kube-apiserver", f"--etcd-servers={store}", "--bind-address=127.0.0.1", f"--secure-port={port}"),
        *(f"--cert-dir={directory / 'certificates'}", f"--token-auth-file={directory / 'tokens'}"),
        *("--authorization-mode=RBAC", "--anonymous-auth=false", "--service-cluster-ip-range=10.0.0.0/24"),
        *("--service-account-issuer=https://kubernetes.default.svc",),
        *(f"--service-account-signing-key-file={directory / 'service-accounts.key'}",),
        *(f"--service-account-key-file={directory / 'service-accounts.key'}",),
    ]
    with (
        running(etcd, directory, lambda: answers(f"{store}/health")),
        running(api_server, directory, lambda: _is_ready(cluster, token)),
    ):
        # The API server makes the namespace soon after it is ready.
        wait_for(lambda: "default" in cluster.kubectl("get", "namespaces", "--output=name").output)
        cluster.service_account("default")
        yield cluster


@contextlib.contextmanager
def controllers(cluster: Cluster) -> Iterator[None]:
    """Run kube-controller-manager and kube-scheduler."""
    ports = free_port(), free_port()
    manager, scheduler = (
        [
            *(name, f"--kubeconfig={cluster.kubeconfig}", f"--secure-port={port}", "--leader-elect=false"),
            *("--bind-address=127.0.0.1", f"--cert-dir={cluster.directory / name}"),
            f"--authentication-kubeconfig={cluster.kubeconfig}",
            f"--authorization-kubeconfig={cluster.kubeconfig}",
        ]
        for name, port in zip(("kube-controller-manager", "kube-scheduler"), ports, strict=True)
    )
    manager += [
        f"--service-account-private-key-file={cluster.directory / 'service-accounts.key'}",
        f"--root-ca-file={cluster.directory / 'certificates/apiserver.crt'}",
    ]
    with (
        running(manager, cluster.directory, lambda: answers(f"https://127.0.0.1:{ports[0]}/healthz")),
        running(scheduler, cluster.directory, lambda: answers(f"https://127.0.0.1:{ports[1]}/healthz")),
    ):
        yield


@contextlib.contextmanager
def nodes(cluster: Cluster, stages: Path, capacity: Mapping[str, Mapping[str, str]]) -> Iterator[None]:
    """Make nodes, by name with what each holds, and let kwok take their pods through ``stages``."""
    for name, resources in capacity.items():
        status = {"capacity": {"pods": "110", **resources}, "allocatable": {"pods": "110", **resources}}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": status}
        cluster.create(node, dry_run=False)
    kwok = ["kwok", f"--kubeconfig={cluster.kubeconfig}", "--manage-all-nodes", f"--config={stages}"]
    with running(kwok, cluster.directory, lambda: all(_node_is_ready(cluster, name) for name in capacity)):
        yield


def definition(file: Path) -> Object:
    """Return the custom resource definition in a file."""
    found: Object = yaml.safe_load(file.read_text())
    return found


@functools.cache
def module(age: str, path: str) -> Path:
    """Return the folder of a Go module at the version that ``tests/tools/crds/<age>`` asks for."""
    done = subprocess.run(
        [tool("go"), "mod", "download", "-json", path],
        cwd=MODULES / "crds" / age,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(json.loads(done.stdout)["Dir"])


def _marking_policies(name: str) -> list[Object]:
    """Return policies that label the ConfigMap of a name, and warn of it."""
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
    label = "[JSONPatch{op: 'add', path: '/metadata/labels/mutated', value: 'yes'}]"
    spec = {
        "matchConstraints": {"resourceRules": [rule]},
        "matchConditions": [{"name": "named", "expression": f"object.metadata.name == '{name}'"}],
        "failurePolicy": "Ignore",
    }
    mutations = {
        "reinvocationPolicy": "Never",
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": label}}],
    }
    validations = {"validations": [{"expression": "false", "message": name}]}
    made: list[Object] = []
    for kind, does, binds in zip(
        POLICIES, (mutations, validations), ({}, {"validationActions": ["Warn"]}), strict=True
    ):
        head = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": name}}
        made += [
            head | {"kind": kind, "spec": spec | does},
            head | {"kind": f"{kind}Binding", "spec": {"policyName": name, **binds}},
        ]
    return made


def _write_credentials(cluster: Cluster, token: str) -> None:
    (cluster.directory / "tokens").write_text(f"{token},admin,admin,system:masters\n")
    subprocess.run(
        ["openssl", "genrsa", "-out", str(cluster.directory / "service-accounts.key"), "2048"],
        check=True,
        capture_output=True,
    )
    server = {
        "server": cluster.url,
        # The API server signs one for itself when it starts.
        "certificate-authority": str(cluster.directory / "certificates/apiserver.crt"),
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": server}],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        "current-context": "test",
    }
    # JSON is YAML.
    cluster.kubeconfig.write_text(json.dumps(config))


def _is_ready(cluster: Cluster, token: str) -> bool:
    # The certificate is there before the server answers, or the file is not: either way, again.
    authority = cluster.directory / "certificates/apiserver.crt"
    return authority.exists() and answers(f"{cluster.url}/readyz", token)


def _node_is_ready(cluster: Cluster, name: str) -> bool:
    conditions = cluster.get("node", name)["status"].get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
