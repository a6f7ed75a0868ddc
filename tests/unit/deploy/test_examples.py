"""Examples: valid in every supported Kubernetes, and each with what training in a pod needs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

EXAMPLES = Path(__file__).resolve().parents[3] / "deploy/examples"
FILES = sorted(EXAMPLES.glob("*.yaml"))
BY_HAND = EXAMPLES / "pod.yaml"
LABELLED = [file for file in FILES if file != BY_HAND]
BUILT_IN = [EXAMPLES / name for name in ("pod.yaml", "job.yaml", "indexed-job.yaml")]
OLDEST, NEWEST = 29, 37
ANNOTATIONS = set(
    re.findall(
        r"^\| `feedwater\.dev/([a-z-]+)` \|",
        (EXAMPLES.parents[1] / "docs/injection.md").read_text(),
        re.MULTILINE,
    )
)
"""What injection reads, as its page lists it."""

Object = dict[str, Any]


def _documents(file: Path) -> list[Object]:
    return list(yaml.safe_load_all(file.read_text()))


def _pods(node: object) -> Iterator[Object]:
    """Yield each pod, or template of one, wherever it lies."""
    if isinstance(node, dict):
        if isinstance(spec := node.get("spec"), dict) and "containers" in spec:
            yield node
        for below in node.values():
            yield from _pods(below)
    elif isinstance(node, list):
        for below in node:
            yield from _pods(below)


def _trainer(pod: Object) -> Object:
    """Return the container that injection would take: the one that is named, else the first."""
    containers: list[Object] = pod["spec"]["containers"]
    named = pod["metadata"].get("annotations", {}).get("feedwater.dev/container", containers[0]["name"])
    (found,) = (container for container in containers if container["name"] == named)
    return found


def _name(file: Path) -> str:
    return file.stem


@pytest.mark.parametrize("minor", range(OLDEST, NEWEST + 1))
@pytest.mark.parametrize("file", BUILT_IN, ids=_name)
def test_example_fits_the_schema_of_each_supported_kubernetes(file: Path, minor: int) -> None:
    """Built-in kinds have no field that Kubernetes 1.29 to 1.37 does not know, and none of another type."""
    for document in _documents(file):
        kubernetes_validate.validate(document, f"1.{minor}", strict=True)


def test_example_with_a_misspelt_field_is_seen() -> None:
    """The schemas are strict: a `restartpolicy` in a Job's template is refused."""
    (job,) = _documents(EXAMPLES / "job.yaml")
    job["spec"]["template"]["spec"]["restartpolicy"] = "Never"

    with pytest.raises(kubernetes_validate.ValidationError, match="restartpolicy"):
        kubernetes_validate.validate(job, f"1.{NEWEST}", strict=True)


@pytest.mark.parametrize("file", LABELLED, ids=_name)
def test_example_labels_its_pods_not_its_job(file: Path) -> None:
    """Every template asks for injection by the label, and only by annotations that injection reads."""
    pods = [pod for document in _documents(file) for pod in _pods(document)]

    assert pods
    for pod in pods:
        assert pod["metadata"]["labels"]["feedwater.dev/inject"] == "true"
        assert {key.removeprefix("feedwater.dev/") for key in pod["metadata"]["annotations"]} <= ANNOTATIONS


@pytest.mark.parametrize("file", FILES, ids=_name)
def test_example_has_a_gpu_a_cpu_limit_and_shared_memory(file: Path) -> None:
    """What Feedwater tunes to, what it keeps fed, and what workers need: each trainer has all three."""
    for pod in (pod for document in _documents(file) for pod in _pods(document)):
        trainer = _trainer(pod)
        mounts = [mount["mountPath"] for mount in trainer["volumeMounts"]]

        assert {"cpu", "memory", "nvidia.com/gpu"} <= set(trainer["resources"]["limits"])
        assert "feedwater.dev/shm-size" in pod["metadata"].get("annotations", {}) or "/dev/shm" in mounts


@pytest.mark.parametrize("file", FILES, ids=_name)
def test_example_shared_memory_fits_the_memory_limit(file: Path) -> None:
    """At most half of the trainer's memory limit: what lies in /dev/shm counts against that limit."""
    for pod in (pod for document in _documents(file) for pod in _pods(document)):
        limit = _gibibytes(_trainer(pod)["resources"]["limits"]["memory"])
        volumes = {volume["name"]: volume.get("emptyDir", {}) for volume in pod["spec"]["volumes"]}
        size = pod["metadata"].get("annotations", {}).get("feedwater.dev/shm-size")

        assert _gibibytes(size or volumes["shm"]["sizeLimit"]) <= limit / 2


def test_indexed_job_finds_its_first_pod_by_the_name_of_its_service() -> None:
    """Rendezvous, subdomain, Service and selector name one another, and the counts of pods agree."""
    service, job = _documents(EXAMPLES / "indexed-job.yaml")
    pod = job["spec"]["template"]["spec"]
    words = dict(word.split("=") for word in pod["containers"][0]["command"] if word.startswith("--"))
    name, domain = job["metadata"]["name"], service["metadata"]["name"]

    assert words["--rdzv-endpoint"] == f"{name}-0.{domain}:{service['spec']['ports'][0]['port']}"
    assert pod["subdomain"] == domain
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert int(words["--nnodes"]) == job["spec"]["completions"] == job["spec"]["parallelism"]


@pytest.mark.parametrize("file", [EXAMPLES / "indexed-job.yaml", EXAMPLES / "jobset.yaml"], ids=_name)
def test_ranks_of_a_pod_are_as_many_as_its_gpus(file: Path) -> None:
    """`--nproc-per-node` equals the limit of `nvidia.com/gpu`."""
    (pod,) = (pod for document in _documents(file) for pod in _pods(document))
    (ranks,) = re.findall(r"--nproc-per-node=(\d+)", " ".join(_trainer(pod)["command"]))

    assert ranks == _trainer(pod)["resources"]["limits"]["nvidia.com/gpu"]


@pytest.mark.parametrize("name", ["job", "indexed-job", "jobset", "pytorchjob"])
def test_job_that_fails_is_not_started_for_ever(name: str) -> None:
    """It states a limit, at most the 6 that Kubernetes gives a Job, and then its GPUs are free."""
    (tries,) = re.findall(r"^ +backoffLimit: (\d+)$", (EXAMPLES / f"{name}.yaml").read_text(), re.MULTILINE)

    assert int(tries) <= 6


def test_readme_lists_every_example() -> None:
    """The page of the examples links to each file, and to no other."""
    linked = re.findall(r"^\| \[([a-z-]+\.yaml)\]", (EXAMPLES / "README.md").read_text(), re.MULTILINE)

    assert sorted(linked) == [file.name for file in FILES]


def _gibibytes(quantity: str) -> float:
    assert quantity.endswith("Gi")
    return float(quantity.removesuffix("Gi"))
