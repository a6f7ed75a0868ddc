"""The relay with the oldest and the newest wire libraries, against a server with this environment's."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from tests import ROOT

REQUIREMENTS = {
    # The oldest that pyproject.toml allows.
    "oldest": ("grpcio==1.62.0", "protobuf==4.25.0", "psutil==5.9.5"),
    "newest": ("grpcio", "protobuf", "psutil"),
}
TRAINER = textwrap.dedent(
    """
    import json, time
    from importlib.metadata import version
    from feedwater import ring
    from feedwater.loop.link import open_transport
    from feedwater.settings import read_settings
    from feedwater.values import LoaderDescription, LoaderSettings, Mode, Outcome

    settings = LoaderSettings(2, 2)
    transport = open_transport(read_settings())
    fd, words = ring.create()
    transport.register_loader(1, LoaderDescription("train", settings, Mode.AUTO, "map"), fd)
    transport.begin_epoch(1, 0, settings, 0.0, (), 0, 0)
    for n in range(100):
        words[ring.MAIN_AT + 2 * n] = time.perf_counter_ns()
        words[ring.MAIN_AT + 2 * n + 1] = time.perf_counter_ns()
        words[1] = n + 1
    transport.end_epoch(1, 0, 100, True, 0.0, time.perf_counter_ns())
    answer = transport.get_recommendation(1, 0, 20.0)
    transport.report_applied(1, "r1", Outcome.APPLIED, settings, "")
    print(json.dumps([answer.connected, answer.reason, version("grpcio"), version("protobuf")]))
    """
)


@pytest.fixture(params=["oldest", "newest"])
def python(request: pytest.FixtureRequest) -> str:
    """A Python with the base install's libraries in one version, made once and kept under .cache."""
    wanted = REQUIREMENTS[request.param]
    venv = ROOT / ".cache" / f"relay-{request.param}-{sys.version_info[0]}.{sys.version_info[1]}"
    stamp = venv / "installed"
    if not stamp.exists() or stamp.read_text() != "\n".join(wanted):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
        pip = [str(venv / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *wanted], check=True)
        stamp.write_text("\n".join(wanted))
    return str(venv / "bin/python")


@pytest.mark.real
@pytest.mark.timeout(300)
def test_relay_reports_and_is_answered_with_any_supported_version(python, sidecar, eventually, tmp_path):
    """Registration, reports, question and outcome make their round; nothing is printed."""
    done = subprocess.run(
        [python, "-c", TRAINER],
        env=os.environ | {"FEEDWATER_ADDRESS": sidecar.address, "PYTHONPATH": str(ROOT / "client")},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith('[true, "Too few batches were seen."')
    assert len(sidecar.waits(0)) == 100
    eventually(lambda: [applied.recommendation_id for applied in sidecar.applied] == ["r1"])
