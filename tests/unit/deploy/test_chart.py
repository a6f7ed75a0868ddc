"""What the chart holds is what it was made from, and its parts agree with each other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

import feedwater
from deploy.helm import generate
from tests import ROOT

CHART = ROOT / "deploy/helm/feedwater"
MADE_BY = "run: make chart"
FREE = {"securityContext", "resources", "namespaceSelector"}
"""Values that Kubernetes defines; their parts have no descriptions of ours."""


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    """The chart's default values."""
    return yaml.safe_load((CHART / "values.yaml").read_text())


def test_readme_is_current() -> None:
    """The table of values is that of values.yaml."""
    assert generate.readme() == (CHART / "README.md").read_text(), MADE_BY


def test_every_value_is_described(values: dict[str, Any]) -> None:
    """No value is without a comment for the README."""
    described = {path for path, _ in generate.described_values()}
    assert [path for path in _paths(values) if not _ancestors(path) & described] == []


def test_schema_knows_exactly_the_values(values: dict[str, Any]) -> None:
    """Each value has a place in the schema, and the schema allows none that does nothing."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    known = {path for path in _properties(schema) if path != "global" and not _is_free(path)}
    stated = set(_paths(values))
    assert sorted(path for path in known if path not in stated and not _begins_one(path, stated)) == []
    assert sorted(path for path in stated if not _is_free(path) and not _ancestors(path) & known) == []


def test_schema_takes_no_unknown_value() -> None:
    """A misspelt value is an error at every level that is the chart's own."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["additionalProperties"] is False
    own = [part for part in schema["properties"].values() if part.get("properties")]
    assert own
    assert all(part["additionalProperties"] is False for part in own)


def test_chart_installs_this_version() -> None:
    """The chart's appVersion, which is the image's tag, is the version of the code."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == feedwater.__version__


def test_page_lists_the_annotations_that_are_read() -> None:
    """docs/injection.md explains each label and annotation that the templates read, and no other."""
    templates = "".join(path.read_text() for path in (CHART / "templates").glob("*.*"))
    read = set(re.findall(r"feedwater\.dev/([a-z-]+)", templates))
    read |= set(re.findall(r'"feedwater\.annotation" \(list "([a-z-]+)"', templates))
    page = (ROOT / "docs/injection.md").read_text()
    table = re.findall(r"^\| `feedwater\.dev/([a-z-]+)` ", page, re.MULTILINE)
    assert sorted(table) == sorted(read)


def _paths(values: dict[str, Any], above: str = "") -> Iterator[str]:
    for key, value in values.items():
        path = f"{above}{key}"
        if isinstance(value, dict) and value:
            yield from _paths(value, f"{path}.")
        else:
            yield path


def _properties(schema: dict[str, Any], above: str = "") -> Iterator[str]:
    for key, part in schema["properties"].items():
        if "properties" in part:
            yield from _properties(part, f"{above}{key}.")
        else:
            yield f"{above}{key}"


def _is_free(path: str) -> bool:
    return bool(FREE & set(path.split(".")[1:])) and not path.startswith("sidecar.resources")


def _begins_one(path: str, stated: set[str]) -> bool:
    return any(other.startswith(f"{path}.") for other in stated)


def _ancestors(path: str) -> set[str]:
    parts = path.split(".")
    return {".".join(parts[:length]) for length in range(1, len(parts) + 1)}
