"""Clusters for the tests: one a file, so that files do not see each other's objects."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.cluster import Cluster, control_plane


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Kubernetes API server with nothing installed."""
    with control_plane(tmp_path_factory.mktemp("cluster")) as made:
        yield made
