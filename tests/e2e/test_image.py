"""The sidecar's image, built and run as a pod would run it."""

from __future__ import annotations

import gzip
import json
import pathlib
import secrets
import shutil
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests import ROOT
from tests.e2e.containers import built_image, http_port, podman, state

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(580),
    pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed"),
]

LIMIT_BYTES = 120e6
"""A pull on a fresh node must not be what a training job waits for."""


@dataclass(frozen=True)
class Container:
    """A running sidecar."""

    name: str
    port: int
    socket: pathlib.Path


@pytest.fixture(scope="module")
def image() -> str:
    return built_image()


@pytest.fixture
def container(image: str, tmp_path: pathlib.Path) -> Iterator[Container]:
    """Run the image as Pod Security `restricted` demands: only the volume can be written to."""
    shared = tmp_path / "run"
    shared.mkdir()
    # As an emptyDir is: any user's.
    shared.chmod(0o777)
    name = f"feedwater-test-{secrets.token_hex(4)}"
    hardening = [
        "--read-only",
        "--read-only-tmpfs=false",
        "--cap-drop=all",
        "--security-opt=no-new-privileges",
    ]
    limits = ["--memory=128m", "--cpus=0.25", "--network=host"]
    settings = ["-v", f"{shared}:/run/feedwater", "-e", "FEEDWATER_HTTP_PORT=0"]
    podman("run", "--detach", "--name", name, *hardening, *limits, *settings, image)
    try:
        yield Container(name, http_port(name), shared / "api.sock")
    finally:
        podman("rm", "--force", "--time=1", name, check=False)


def test_image_answers_health_and_metrics_as_an_unprivileged_user(container: Container) -> None:
    """At a quarter of a core, read-only and without capabilities, it is healthy and runs as uid 65532."""
    status = pathlib.Path(f"/proc/{state(container.name)['Pid']}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)

    assert _get(container.port, "/healthz").status == 200
    assert b"feedwater_build_info" in _get(container.port, "/metrics").read()
    assert fields["Uid"].split() == ["65532"] * 4
    assert int(fields["CapEff"], 16) == 0


def test_image_speaks_grpc_to_another_user_through_the_volume(container: Container) -> None:
    """A process with another uid connects to the socket in the shared volume: SERVING."""
    with grpc.insecure_channel(f"unix:{container.socket}") as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)

    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert container.socket.stat().st_mode & 0o777 == 0o666


def test_image_health_check_passes_in_the_container(container: Container) -> None:
    """The HEALTHCHECK command of the Dockerfile succeeds where the port is the default one."""
    port = f"FEEDWATER_HTTP_PORT={container.port}"
    podman("exec", "-e", port, container.name, *_dockerfile_health_check())


def test_image_ends_on_sigterm_with_success(container: Container) -> None:
    """SIGTERM ends it with exit code 0, well before a pod's grace period."""
    podman("stop", "--time=10", container.name)

    assert state(container.name)["ExitCode"] == 0


def test_image_is_small_and_holds_no_torch(
    image: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Compressed, as a registry serves it, the image stays under 120 MB."""
    archive = tmp_path / "image.tar"
    podman("save", "--quiet", "--output", archive, image)
    compressed = tmp_path / "image.tar.gz"
    with archive.open("rb") as raw, gzip.open(compressed, "wb", compresslevel=6) as packed:
        shutil.copyfileobj(raw, packed)
    find = "import importlib.util as u; print(u.find_spec('torch'), u.find_spec('pip'))"
    listed = podman("run", "--rm", "--network=host", "--entrypoint=python3", image, "-c", find)
    with capsys.disabled():
        print(f"\nimage: {compressed.stat().st_size / 1e6:.0f} MB compressed")

    assert listed.split() == ["None", "None"]
    assert compressed.stat().st_size <= LIMIT_BYTES


def _get(port: int, path: str) -> urllib.request.addinfourl:
    response: urllib.request.addinfourl = urllib.request.urlopen(f"http://localhost:{port}{path}", timeout=10)
    return response


def _dockerfile_health_check() -> list[str]:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    line = next(line for line in text.splitlines() if line.startswith("HEALTHCHECK"))
    words: list[str] = json.loads(line[line.index("CMD") + 3 :])
    return words
