"""The chart as the real Helm renders it, version 3 and version 4."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deploy.helm import generate
from tests import ROOT
from tests.e2e.servers import tool

pytestmark = pytest.mark.real

CHART = ROOT / "deploy/helm/feedwater"
GOLDEN = ROOT / "tests/fixtures/chart"
HELMS = ("helm3", "helm4")
CASES = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
INJECTING = "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy"
WARNING = "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy"
OPERATOR = ("monitoring.coreos.com/v1/PodMonitor", "monitoring.coreos.com/v1/PrometheusRule")
SERVED = {"old-cluster": ("1.29", ())}
"""What the cluster of a case is, where it is not a Kubernetes 1.36 with the Prometheus operator."""
WITHOUT_GOLDEN = {"monitoring"}
"""Cases whose text is that of files which have tests of their own."""
OWN_COPY = "https://git.example.com/feedwater/blob/main"
"""Where ci/monitoring-values.yaml says that the runbooks can be read."""

MANIFEST = ("f", str(CHART), "--kube-version", "1.36", "--show-only", "templates/injection-manifest.yaml")
"""Arguments that show nothing but the manifest to copy."""

FROM = "sidecar.extraEnv[0].name=A,sidecar.extraEnv[0].valueFrom"
"""A variable of the sidecar, up to where its value comes from."""

Objects = list[dict[str, Any]]


def _helm(helm: str, *arguments: str) -> str:
    done = subprocess.run([tool(helm), *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _rendering(case: str) -> list[str]:
    version, apis = SERVED.get(case, ("1.36", (INJECTING, WARNING, *OPERATOR)))
    served = [argument for api in apis for argument in ("--api-versions", api)]
    values = str(CHART / f"ci/{case}-values.yaml")
    return [
        "feedwater",
        str(CHART),
        "--namespace",
        "feedwater",
        "--values",
        values,
        "--kube-version",
        version,
        *served,
    ]


def _rendered(helm: str, case: str, *more: str) -> Objects:
    return _objects(_helm(helm, "template", *_rendering(case), *more))


def _refusal(helm: str, *arguments: str) -> str:
    """Return what Helm says against values that it does not take."""
    command = [tool(helm), "template", "f", str(CHART), "--kube-version", "1.36", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    return done.stderr


def _objects(text: str) -> Objects:
    return [found for found in yaml.safe_load_all(text) if found]


def _of_kind(objects: Objects, kind: str) -> Objects:
    return [found for found in objects if found["kind"] == kind]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("helm", HELMS)
def test_chart_passes_lint(helm: str, case: str) -> None:
    """`helm lint --strict` has nothing to say against any case."""
    values = str(CHART / f"ci/{case}-values.yaml")
    assert "0 chart(s) failed" in _helm(helm, "lint", "--strict", "--values", values, str(CHART))


@pytest.mark.parametrize("case", [case for case in CASES if case not in WITHOUT_GOLDEN])
@pytest.mark.parametrize("helm", HELMS)
def test_rendering_is_the_golden_file(helm: str, case: str) -> None:
    """Both Helms render what was looked at; FEEDWATER_GOLDEN=write takes the present text as the new one."""
    # The versions differ in empty lines between objects.
    text = re.sub(r"\n\n+---\n", "\n---\n", _helm(helm, "template", *_rendering(case))).strip() + "\n"
    golden = GOLDEN / f"{case}.yaml"
    if os.environ.get("FEEDWATER_GOLDEN") == "write":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("version", [f"1.{minor}" for minor in range(29, 38)])
@pytest.mark.parametrize("case", CASES)
def test_objects_fit_the_schemas_of_kubernetes(case: str, version: str) -> None:
    """Each object of Kubernetes' own kinds is valid, with no unknown field, from 1.29 to the newest."""
    minor = int(version.partition(".")[2])
    served = [api for api, since in ((WARNING, 30), (INJECTING, 36)) if minor >= since]
    arguments = [argument for api in served for argument in ("--api-versions", api)]
    if minor < 36:
        arguments += ["--set", "injection.render=auto"]
    values = str(CHART / f"ci/{case}-values.yaml")
    text = _helm("helm4", "template", "f", str(CHART), "-f", values, "--kube-version", version, *arguments)
    own = [found for found in _objects(text) if "monitoring.coreos.com" not in found["apiVersion"]]
    for found in own:
        kubernetes_validate.validate(found, version, strict=True)
    kinds = {found["kind"] for found in own}
    assert ("MutatingAdmissionPolicy" in kinds) == (
        minor >= 36 and case not in {"nothing", "monitoring", "old-cluster"}
    )


@pytest.mark.parametrize("case", CASES)
def test_kube_linter_finds_nothing(case: str, tmp_path: Path) -> None:
    """The chart's own pods keep to the linter's rules."""
    rendered = tmp_path / "rendered.yaml"
    rendered.write_text(_helm("helm4", "template", *_rendering(case)))
    done = subprocess.run(
        [tool("kube-linter"), "lint", str(rendered)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("sidecar", "client"), [("100m", "500m"), ("0.5", "500m"), ("1500m", "1500m"), ("0", "0")]
)
def test_manifest_gives_the_client_the_larger_cpu(sidecar: str, client: str) -> None:
    """As the policy does: 500m, or the sidecar's where that is more or 0; memory as the sidecar's."""
    given = f"manifest.render=always,sidecar.resources.cpu={sidecar}"
    (found,) = _objects(_helm("helm4", "template", *MANIFEST, "--set-string", given))
    containers = yaml.safe_load(found["data"]["pod.yaml"])["spec"]["initContainers"]
    limits = {container["name"]: container["resources"]["limits"] for container in containers}

    assert {name: str(amounts["cpu"]) for name, amounts in limits.items()} == {
        "feedwater": sidecar,
        "feedwater-client": client,
    }
    assert limits["feedwater-client"]["memory"] == limits["feedwater"]["memory"]


def test_manifest_states_the_mode_off_as_a_text() -> None:
    """YAML reads a bare off as false, which the API server refuses for a variable."""
    given = ("--set=manifest.render=always", "--set-string=injection.mode=off")
    (found,) = _objects(_helm("helm4", "template", *MANIFEST, *given))
    (trainer,) = yaml.safe_load(found["data"]["pod.yaml"])["spec"]["containers"]

    assert {"name": "FEEDWATER_MODE", "value": "off"} in trainer["env"]


def test_manifest_leaves_the_client_to_the_image_where_the_values_say_so() -> None:
    """With `injection.client: image` it has the sidecar and its socket: no other container, no PYTHONPATH."""
    given = "manifest.render=always,injection.client=image"
    (found,) = _objects(_helm("helm4", "template", *MANIFEST, "--set", given))
    spec = yaml.safe_load(found["data"]["pod.yaml"])["spec"]
    (trainer,) = spec["containers"]

    assert [container["name"] for container in spec["initContainers"]] == ["feedwater"]
    assert trainer["volumeMounts"] == [{"name": "feedwater", "mountPath": "/run/feedwater"}]
    assert [volume["name"] for volume in spec["volumes"]] == ["feedwater"]
    assert "PYTHONPATH" not in [variable["name"] for variable in trainer["env"]]
    assert "feedwater-client" not in found["data"]["pod.yaml"]


def test_manifest_adds_shared_memory_where_the_values_say_so() -> None:
    """As the policy does: a volume in memory at /dev/shm, of the size that is stated."""
    given = "manifest.render=always,injection.shmSize=16Gi"
    (found,) = _objects(_helm("helm4", "template", *MANIFEST, "--set", given))
    spec = yaml.safe_load(found["data"]["pod.yaml"])["spec"]

    assert {"name": "feedwater-shm", "mountPath": "/dev/shm"} in spec["containers"][0]["volumeMounts"]
    assert {"name": "feedwater-shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}} in spec["volumes"]


def test_helm_unittest_passes() -> None:
    """The suites beside the templates pass, every one of them."""
    done = subprocess.run(
        [tool("helm-unittest"), "--strict", str(CHART)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    suites = len(list((CHART / "tests").glob("*_test.yaml")))
    assert f"{suites} passed, {suites} total" in done.stdout


def test_rules_are_those_of_the_project() -> None:
    """The PrometheusRules hold each group, rule and sentence of the rule files, and add nothing."""
    shown = ("--set", "prometheusRule.render=always")
    found = {
        rule["metadata"]["name"]: rule["spec"]
        for rule in _of_kind(_rendered("helm4", "default", *shown), "PrometheusRule")
    }
    assert found == {
        f"feedwater-{kind}": yaml.safe_load((CHART / f"files/prometheus/feedwater.{kind}.yaml").read_text())
        for kind in ("rules", "alerts")
    }


def test_alerts_can_be_left_out_and_labelled() -> None:
    """Named alerts are gone, the others have the further label and lead to one's own copy of the runbooks."""
    objects = _of_kind(_rendered("helm4", "monitoring"), "PrometheusRule")
    alerts = [
        rule
        for found in objects
        for group in found["spec"]["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    whole = (CHART / "files/prometheus/feedwater.alerts.yaml").read_text()

    assert {alert["alert"] for alert in alerts} == set(re.findall(r"- alert: (\w+)", whole)) - {
        "FeedwaterStarved",
        "FeedwaterThrottled",
    }
    assert {alert["labels"]["team"] for alert in alerts} == {"platform"}
    for alert in alerts:
        anchor = alert["alert"].lower()
        assert alert["annotations"]["runbook_url"] == f"{OWN_COPY}/docs/runbooks.md#{anchor}"


def test_dashboards_are_those_of_the_project() -> None:
    """There is a ConfigMap for each, with the label that Grafana looks for; links lead to one's own copy."""
    found = _of_kind(_rendered("helm4", "monitoring"), "ConfigMap")
    assert all(one["metadata"]["labels"]["grafana_dashboard"] == "1" for one in found)
    shown = {name: json.loads(text) for one in found for name, text in one["data"].items()}
    assert shown == {
        path.name: json.loads(path.read_text().replace("https://feedwater.example", OWN_COPY))
        for path in (CHART / "files/dashboards").glob("*.json")
    }


def test_names_agree_where_they_are_cut() -> None:
    """With the longest release name bindings name their policies, and no name is above 63 characters."""
    release = "r" * 53
    served = ("--api-versions", INJECTING, "--api-versions", WARNING, "--kube-version", "1.36")
    objects = _objects(
        _helm("helm4", "template", release, str(CHART), *served, "--set", "prepull.enabled=true")
    )
    names = {(found["kind"], found["metadata"]["name"]) for found in objects}

    assert max(len(name) for _, name in names) <= 63
    for kind in ("MutatingAdmissionPolicy", "ValidatingAdmissionPolicy"):
        (binding,) = _of_kind(objects, f"{kind}Binding")
        assert (kind, binding["spec"]["policyName"]) in names


def test_scrapes_find_the_port_of_the_sidecar() -> None:
    """The PodMonitor names the port and the label that injected pods have."""
    objects = _rendered("helm4", "default")
    (monitor,) = _of_kind(objects, "PodMonitor")
    manifest = yaml.safe_load((ROOT / "deploy/injection/pod.yaml").read_text())

    assert monitor["spec"]["selector"]["matchLabels"] == manifest["metadata"]["labels"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in [port["name"] for port in manifest["spec"]["initContainers"][0]["ports"]]


def test_port_is_the_same_wherever_it_is_named() -> None:
    """`sidecar.port` reaches the sidecar, the network policy and the manifest; probes go by its name."""
    served = ("--api-versions", INJECTING, "--api-versions", WARNING, "--kube-version", "1.36")
    given = "sidecar.port=9500,networkPolicy.enabled=true,manifest.render=always"
    text = _helm("helm4", "template", "f", str(CHART), *served, "--set", given)
    (policy,) = _of_kind(_objects(text), "NetworkPolicy")
    (manifest,) = (found for found in _of_kind(_objects(text), "ConfigMap") if "pod.yaml" in found["data"])
    sidecar = yaml.safe_load(manifest["data"]["pod.yaml"])["spec"]["initContainers"][0]

    assert "9464" not in text
    assert policy["spec"]["ingress"][0]["ports"] == [{"port": 9500, "protocol": "TCP"}]
    assert sidecar["env"] == [{"name": "FEEDWATER_HTTP_PORT", "value": "9500"}]
    assert sidecar["ports"] == [{"name": "feedwater", "containerPort": 9500, "protocol": "TCP"}]
    assert sidecar["livenessProbe"]["httpGet"]["port"] == "feedwater"


def test_manifest_to_copy_is_current() -> None:
    """deploy/injection/pod.yaml is what the chart prints."""
    assert generate.MANIFEST.read_text() == generate.manifest(), "run: make chart"


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            "sidecar.resources.cpu=250",
            'sidecar.resources.cpu: expected 50m to 4, or 0 for no limit, got "250"',
        ),
        (
            "sidecar.resources.memory=-1",
            'sidecar.resources.memory: expected 64Mi to 4Gi, or 0 for no limit, got "-1"',
        ),
        (
            "sidecar.resources.memory=128",
            'sidecar.resources.memory: expected 64Mi to 4Gi, or 0 for no limit, got "128"',
        ),
        ("client.cpu=500", 'client.cpu: expected 50m to 4, got "500"'),
        ("client.cpu=0", 'client.cpu: expected 50m to 4, got "0"'),
        (
            "injection.shmSize=16",
            'injection.shmSize: expected 1Mi to 4Ti, or nothing for none, got "16"',
        ),
        ("client.volume.sizeLimit=lots", 'client.volume.sizeLimit: expected 64Mi to 64Gi, got "lots"'),
        ("injection.mode=fast", 'injection.mode: expected off, observe, advise or auto, got "fast"'),
        (
            "injection.mode=false",
            'injection.mode: expected "off", observe, advise or auto, got false: YAML takes off for false',
        ),
        ("sidecar.maxMode=all", 'sidecar.maxMode: expected off, observe, advise or auto, got "all"'),
        ("injection.client=none", "'/injection/client': value must be one of 'inject', 'image'"),
        ("injection.resources=all", "'/injection/resources': value must be one of 'added', 'taken'"),
        ("injection.render=yes", "'/injection/render': value must be one of 'auto', 'always', 'never'"),
        ("image.tag=a:b", 'image.tag: expected letters, digits and _ . -, got "a:b"'),
        ("image.digest=abc", 'image.digest: expected sha256: and 64 hexadecimal digits, got "abc"'),
        (
            "image.repository=Foo:1",
            'image.repository: expected a lower-case name without a tag, as team/feedwater, got "Foo:1"',
        ),
        (
            "image.pullPolicy=Sometimes",
            "'/image/pullPolicy': value must be one of 'Always', 'IfNotPresent', 'Never'",
        ),
        ("fullnameOverride=My_Name", "fullnameOverride: expected lower-case letters, digits and hyphens"),
        (
            "image.repository=foo:1",
            'image.repository: expected a lower-case name without a tag, as team/feedwater, got "foo:1"',
        ),
        (
            "image.registry=r.example,image.repository=r.example:5000/foo",
            'a lower-case name without a tag, as team/feedwater, got "r.example:5000/foo"',
        ),
        ("image.registry=https://r.example/", "image.registry: expected a host, with its port"),
        ("image.registry=reg/", 'no slash at the end, as registry.example.com, got "reg/"'),
        ("image.registry= bad reg ", 'as registry.example.com, got " bad reg "'),
        (
            "image.pullSecrets={Bad Name}",
            "image.pullSecrets[0]: expected lower-case letters, digits, hyphens and dots, with a letter or "
            'digit at either end, got "Bad Name"',
        ),
        ("image.pullSecrets={a,a}", "'/image/pullSecrets': items at 0 and 1 are equal"),
        (
            "podMonitor.namespace=Bad_NS",
            "podMonitor.namespace: expected lower-case letters, digits and hyphens, with no hyphen at either "
            'end, got "Bad_NS"',
        ),
        (
            "networkPolicy.namespaces={team-a,Team A}",
            "networkPolicy.namespaces[1]: expected lower-case letters, digits and hyphens",
        ),
        ("prepull.priorityClassName=High!", "prepull.priorityClassName: expected lower-case letters"),
        ("podMonitor.interval=30", 'podMonitor.interval: expected 1s to 2m, got "30"'),
        ("podMonitor.interval=0s", 'podMonitor.interval: expected 1s to 2m, got "0s"'),
        ("podMonitor.interval=1m61s", 'podMonitor.interval: expected 1s to 2m, got "1m61s"'),
        (
            "podMonitor.interval=10s,podMonitor.scrapeTimeout=30s",
            'podMonitor.scrapeTimeout: expected 1s to 10s (podMonitor.interval), got "30s"',
        ),
        ("podMonitor.scrapeTimeout=3m", 'podMonitor.scrapeTimeout: expected 1s to 2m, got "3m"'),
        (
            "podMonitor.relabelings[0].action=guess",
            "'/podMonitor/relabelings/0/action': value must be one of 'replace', 'keep', 'drop'",
        ),
        (
            "injection.workloadLabels={not a label!}",
            "injection.workloadLabels[0]: expected a name as Kubernetes has them for labels, as team or "
            'example.com/team, got "not a label!"',
        ),
        (
            "injection.namespaceSelector.matchExpressions[0].operator=Foo",
            "/operator': value must be one of 'In', 'NotIn', 'Exists', 'DoesNotExist'",
        ),
        (
            "injection.namespaceSelector.matchExpressions[0].key=a,"
            "injection.namespaceSelector.matchExpressions[0].operator=In",
            "'/injection/namespaceSelector/matchExpressions/0': missing property 'values'",
        ),
        (
            "injection.namespaceSelector.matchExpressions[0].key=a b,"
            "injection.namespaceSelector.matchExpressions[0].operator=Exists",
            "injection.namespaceSelector.matchExpressions[0].key: expected a name",
        ),
        (
            "injection.namespaceSelector.matchLabels.a=b c",
            "injection.namespaceSelector.matchLabels.a: expected",
        ),
        (
            "commonLabels.team=a b",
            "commonLabels.team: expected at most 63 letters, digits and - _ . with a letter or digit at "
            'either end, got "a b"',
        ),
        ("commonLabels.a b=c", "commonLabels: expected a name as Kubernetes has them for labels"),
        ("commonAnnotations.a b=c", "commonAnnotations: expected a name as Kubernetes has them for labels"),
        (
            r"commonLabels.feedwater\.dev/inject=x",
            "commonLabels: feedwater.dev/inject is for training pods, and would inject the chart's own",
        ),
        ("dashboards.label=a b", "dashboards.label: expected a name as Kubernetes has them for labels"),
        ("dashboards.labelValue=a b", "dashboards.labelValue: expected at most 63 letters"),
        (
            "prometheusRule.additionalAlertLabels.a-b=c",
            'additionalAlertLabels: expected letters, digits and _ with no digit in front, got "a-b"',
        ),
        (
            "networkPolicy.from[0].namespaceSelector.matchLabels.a=b c",
            "networkPolicy.from[0].namespaceSelector.matchLabels.a: expected at most 63 letters",
        ),
        ("networkPolicy.from[0].foo=a", "'/networkPolicy/from/0': additional properties 'foo' not allowed"),
        (
            "prepull.resources.limits.cpu=abc",
            'prepull.resources.limits.cpu: expected an amount, as 100m or 32Mi, got "abc"',
        ),
        (
            "prepull.tolerations[0].effect=Never",
            "effect': value must be one of 'NoSchedule', 'PreferNoSchedule', 'NoExecute'",
        ),
        ("tests.tolerations[0].operator=Is", "operator': value must be one of 'Exists', 'Equal', 'Lt', 'Gt'"),
        ("tests.nodeSelector.a=b c", "tests.nodeSelector.a: expected at most 63 letters"),
        (
            "sidecar.livenessProbe.timeoutSeconds=60",
            'sidecar.livenessProbe.timeoutSeconds: expected 1 to 30 (periodSeconds), got "60"',
        ),
        (
            "sidecar.livenessProbe.periodSeconds=3601",
            "'/sidecar/livenessProbe/periodSeconds': maximum: got 3,601, want 3,600",
        ),
        ("extraObjects[0]=foo", 'extraObjects[0]: expected an object with apiVersion and kind, got "foo"'),
        ("extraObjects[0].a=b", 'extraObjects[0]: expected an object with apiVersion and kind, got "a: b"'),
        ("prometheusRule.disabledAlerts={Nope}", 'prometheusRule.disabledAlerts: there is no alert "Nope"'),
        (
            "prometheusRule.runbookBaseUrl=here",
            "prometheusRule.runbookBaseUrl: expected an address that begins with https://",
        ),
        ('prometheusRule.runbookBaseUrl=https://a/"b', "without blanks, quotes and backslashes"),
        ("networkPolicy.enabled=true,networkPolicy.from=null", "'/networkPolicy': missing property 'from'"),
        (
            "sidecar.extraEnv[0].name=FEEDWATER_SOCKET",
            "sidecar.extraEnv: FEEDWATER_SOCKET is the chart's to set",
        ),
        ("sidecar.extraEnv[0].name=FEEDWATER_HTTP_PORT", "is the chart's to set: use sidecar.port"),
        ("sidecar.port=80", "'/sidecar/port': minimum: got 80, want 1,024"),
        ("sidecar.port=metrics", "'/sidecar/port': got string, want integer"),
        ("sidecar.extraEnv[0].name=FEEDWATER_MAX_MODE", "is the chart's to set: use sidecar.maxMode"),
        ("sidecar.extraEnv[0].name=FEEDWATER_HTTP_PORT", "FEEDWATER_HTTP_PORT is the chart's to set"),
        (
            "sidecar.extraEnv[0].name=A=B",
            'extraEnv[0].name: expected letters, digits and - _ . with a letter or _ in front, got "A=B"',
        ),
        (
            "sidecar.extraEnv[0].name=A,sidecar.extraEnv[1].name=A",
            "sidecar.extraEnv: A is there twice: keep one",
        ),
        (
            f"sidecar.extraEnv[0].value=b,{FROM}.fieldRef.fieldPath=spec.nodeName",
            "sidecar.extraEnv: A has both a value and a valueFrom: keep one",
        ),
        (f"{FROM}.foo=1", "'/sidecar/extraEnv/0/valueFrom': additional properties 'foo' not allowed"),
        (
            f"{FROM}.fieldRef.fieldPath=spec.nodeName,{FROM}.resourceFieldRef.resource=limits.cpu",
            "'/sidecar/extraEnv/0/valueFrom': maxProperties: got 2, want 1",
        ),
        (
            f"{FROM}.fieldRef.fieldPath=foo",
            "valueFrom.fieldRef.fieldPath: expected a field that the Downward API gives to variables, as "
            'spec.nodeName, got "foo"',
        ),
        (
            f"{FROM}.resourceFieldRef.resource=cpu",
            "resourceFieldRef/resource': value must be one of 'limits.cpu', 'limits.memory'",
        ),
        (
            f"{FROM}.resourceFieldRef.resource=limits.cpu,{FROM}.resourceFieldRef.divisor=1Mi",
            "resourceFieldRef/divisor': value must be one of '1', '1m'",
        ),
        (f"{FROM}.secretKeyRef.name=a", "valueFrom/secretKeyRef': missing property 'key'"),
        (
            f"{FROM}.configMapKeyRef.name=A_b,{FROM}.configMapKeyRef.key=c",
            "valueFrom.configMapKeyRef.name: expected lower-case letters, digits, hyphens and dots",
        ),
        (
            f"{FROM}.configMapKeyRef.name=a,{FROM}.configMapKeyRef.key=b/c",
            'valueFrom.configMapKeyRef.key: expected letters, digits and - _ ., got "b/c"',
        ),
        (
            "sidecar.securityContext.foo=bar",
            "'/sidecar/securityContext': additional properties 'foo' not allowed",
        ),
        (
            "sidecar.securityContext.privileged=true",
            "'/sidecar/securityContext/privileged': value must be false",
        ),
        (
            "sidecar.securityContext.allowPrivilegeEscalation=true",
            "'/sidecar/securityContext/allowPrivilegeEscalation': value must be false",
        ),
        (
            "sidecar.securityContext.runAsNonRoot=false",
            "'/sidecar/securityContext/runAsNonRoot': value must be true",
        ),
        (
            "sidecar.securityContext.runAsUser=root",
            "'/sidecar/securityContext/runAsUser': got string, want null or integer",
        ),
        (
            "sidecar.securityContext.runAsUser=0",
            "'/sidecar/securityContext/runAsUser': minimum: got 0, want 1",
        ),
        (
            "sidecar.securityContext.capabilities.add={SYS_ADMIN}",
            "'/sidecar/securityContext/capabilities': additional properties 'add' not allowed",
        ),
        (
            "sidecar.securityContext.capabilities.drop={NET_RAW}",
            "'/sidecar/securityContext/capabilities/drop/0': value must be 'ALL'",
        ),
        (
            "sidecar.securityContext.seccompProfile.type=Unconfined",
            "seccompProfile/type': value must be one of 'RuntimeDefault', 'Localhost'",
        ),
        (
            "sidecar.securityContext.seccompProfile.type=Localhost",
            "'/sidecar/securityContext/seccompProfile': missing property 'localhostProfile'",
        ),
        (
            "sidecar.resources.limits.cpu=1",
            "'/sidecar/resources': additional properties 'limits' not allowed",
        ),
        ("injecton.mode=auto", "additional properties 'injecton' not allowed"),
        ("commonLabels.team=7", "'/commonLabels/team': got number, want string"),
        ("sidecar.resources=null", "'/sidecar': missing property 'resources'"),
    ],
)
def test_values_that_make_no_sense_are_named(helm: str, given: str, said: str) -> None:
    """Rendering ends with a sentence that says which value and what is allowed."""
    assert said in _refusal(helm, "--set", given)


@pytest.mark.parametrize("helm", HELMS)
def test_variable_from_nowhere_is_refused(helm: str, tmp_path: Path) -> None:
    """The API server would refuse every labelled pod for an empty `valueFrom`, which a file can state."""
    values = tmp_path / "values.yaml"
    values.write_text("sidecar: {extraEnv: [{name: A, valueFrom: {}}]}")
    said = "'/sidecar/extraEnv/0/valueFrom': minProperties: got 0, want 1"
    assert said in _refusal(helm, "--values", str(values))


@pytest.mark.parametrize("helm", HELMS)
def test_all_that_is_wrong_is_told_at_once(helm: str) -> None:
    """Two bad values draw two sentences."""
    said = _refusal(helm, "--set", "image.tag=a:b,sidecar.resources.cpu=1m")
    assert "image.tag: expected" in said
    assert "sidecar.resources.cpu: expected" in said


@pytest.mark.parametrize("helm", HELMS)
def test_whole_numbers_are_printed_as_they_were_written(helm: str, tmp_path: Path) -> None:
    """Amounts without a unit, which YAML reads as floats: 268435456 bytes are not 2.68435456e+08."""
    values = tmp_path / "values.yaml"
    values.write_text("""
        sidecar:
          resources: {cpu: 1, memory: 268435456}
          volume: {sizeLimit: 134217728}
          securityContext: {runAsUser: 1000680000}
        client: {cpu: 2, volume: {sizeLimit: 536870912}}
    """)
    (found,) = _objects(_helm(helm, "template", *MANIFEST, "--set=manifest.render=always", "-f", str(values)))
    text = found["data"]["pod.yaml"]
    spec = yaml.safe_load(text)["spec"]

    assert "e+0" not in text
    assert spec["initContainers"][0]["resources"]["limits"] == {"cpu": 1, "memory": 268435456}
    assert spec["initContainers"][1]["resources"]["limits"] == {"cpu": 2, "memory": 268435456}
    assert spec["initContainers"][0]["securityContext"]["runAsUser"] == 1000680000
    assert [volume["emptyDir"]["sizeLimit"] for volume in spec["volumes"]] == [134217728, 536870912]


@pytest.mark.parametrize(
    "given",
    [
        "image.registry=localhost:5000/ml",
        "image.repository=registry.example.com:5000/ml/feedwater",
        "image.pullSecrets={registry.example.com}",
        "podMonitor.interval=1m30s,podMonitor.scrapeTimeout=1m",
        "podMonitor.interval=2m",
        f"{FROM}.fieldRef.fieldPath=metadata.labels['example.com/team']",
        f"{FROM}.resourceFieldRef.resource=limits.memory,{FROM}.resourceFieldRef.divisor=1Mi",
        f"{FROM}.secretKeyRef.name=a.b,{FROM}.secretKeyRef.key=tls.crt,{FROM}.secretKeyRef.optional=true",
        "sidecar.securityContext.runAsUser=null,sidecar.securityContext.runAsGroup=0",
        "sidecar.securityContext.seccompProfile.type=Localhost,"
        "sidecar.securityContext.seccompProfile.localhostProfile=feedwater.json",
        "commonLabels.example\\.com/team=,commonLabels.Cost_Center=A.1",
        "prepull.resources.limits.cpu=0.5",
        "serviceAccount.name=team.feedwater",
        "injection.namespaceSelector.matchExpressions[0].key=a,"
        "injection.namespaceSelector.matchExpressions[0].operator=NotIn,"
        "injection.namespaceSelector.matchExpressions[0].values={b,c}",
    ],
)
def test_values_that_make_sense_are_taken(given: str) -> None:
    """Those at the edge of what Kubernetes, Prometheus and registries allow render."""
    assert _objects(_helm("helm4", "template", "f", str(CHART), "--kube-version", "1.36", "--set", given))


@pytest.mark.parametrize("helm", HELMS)
def test_old_kubernetes_is_refused(helm: str) -> None:
    """Native sidecars begin with 1.29; before, the sidecar would keep the trainer from starting."""
    command = [tool(helm), "template", "f", str(CHART), "--kube-version", "1.28"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "chart requires kubeVersion: >=1.29.0-0" in done.stderr


@pytest.mark.parametrize("helm", HELMS)
def test_commands_of_the_readme_render_both_policies(helm: str) -> None:
    """Without a cluster to ask, what README.md says to tell Helm brings the injection and its Warnings."""
    page = (CHART / "README.md").read_text().replace("\\\n", "")
    commands = re.findall(r"^\$ helm (template .*)$", page, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        arguments = command.replace("deploy/helm/feedwater", str(CHART)).split()
        kinds = {found["kind"] for found in _objects(_helm(helm, *arguments, "--kube-version", "1.36"))}
        assert {"MutatingAdmissionPolicy", "ValidatingAdmissionPolicy"} <= kinds


def test_package_holds_what_the_chart_needs(tmp_path: Path) -> None:
    """The packed chart renders as the folder does; the cases for its tests stay out."""
    _helm("helm4", "package", str(CHART), "--destination", str(tmp_path))
    (package,) = tmp_path.iterdir()
    assert package.name == "feedwater-0.1.0.tgz"
    names = subprocess.run(["tar", "-tzf", str(package)], capture_output=True, text=True, check=True).stdout
    assert not re.search("^feedwater/(ci|tests)/", names, re.MULTILINE)
    arguments = _rendering("default")
    assert _helm("helm4", "template", arguments[0], str(package), *arguments[2:]) == _helm(
        "helm4", "template", *arguments
    )
