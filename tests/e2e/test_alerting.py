"""From the loop to the person on call: training, sidecar, Prometheus and Alertmanager, all of them real."""

from __future__ import annotations

import http.server
import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests import ROOT
from tests.e2e.monitoring import alertmanager, minutes_as_seconds, prometheus
from tests.e2e.trainings import training
from tests.support.processes import cgroup, limit_cores, sidecar

RULES = ROOT / "deploy/helm/feedwater/files/prometheus"
TRAINER = "tests.integration.end_to_end.samples_trainer"
LABELS = {"cluster": "test", "namespace": "research", "pod": "train-0", "workload": "train"}
# Two workers bring a batch each 30 ms to steps of 20 ms: a third of the time is lost. The first epoch is
# longer than the window of ten and the patience of twenty "minutes", the later ones than what ends an alert.
WORK = {
    "watched": True,
    "mode": "auto",
    "kind": "sleep",
    "samples": 8000,
    "batch_size": 4,
    "workers": 2,
    "epochs": 5,
    "load_seconds": 0.015,
    "step_seconds": 0.02,
}
DEADLINE_SECONDS = 360


@dataclass
class Notifications:
    """What Alertmanager told its webhook."""

    url: str = ""
    alerts: list[dict[str, object]] = field(default_factory=list)

    def of(self, name: str, status: str) -> list[dict[str, object]]:
        """Return the notifications of one alert."""
        return [a for a in self.alerts if a["labels"]["alertname"] == name and a["status"] == status]  # type: ignore[index]


@pytest.fixture
def notified() -> Iterator[Notifications]:
    told = Notifications()

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told.alerts += body["alerts"]
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_address[1]}/"
    yield told
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.real
@pytest.mark.cgroup
@pytest.mark.timeout(DEADLINE_SECONDS + 60)
def test_starvation_alert_fires_and_resolves_once_the_recommendation_is_applied(
    tmp_path: Path, notified: Notifications
) -> None:
    """A starved run under a limit of one core: one alert that names the cause and the number, and its end.

    A minute of the rules takes a second here. What ends the alert is more workers, not the end of training:
    batches still come then, and starvation is below the alert's tenth.
    """
    rules = [minutes_as_seconds(RULES / f"feedwater.{kind}.yaml", tmp_path) for kind in ("rules", "alerts")]
    with (
        sidecar() as watcher,
        alertmanager(tmp_path, notified.url) as manager,
        prometheus(
            tmp_path, {f"127.0.0.1:{watcher.http_port()}": LABELS}, rules=rules, alertmanager=manager
        ) as server,
        cgroup("cpu") as group,
    ):
        limit_cores(group, 1)
        with training(TRAINER, WORK, watcher, group=group) as process:
            _wait_for(notified, "firing", process)
            assert server.value("feedwater_num_workers") == 2
            (fired,) = notified.of("FeedwaterStarved", "firing")[:1]
            _wait_for(notified, "resolved", process)
            assert server.value("rate(feedwater_batches_total[10s])") > 0
            assert server.value("loader:feedwater_starvation:ratio_rate10m") < 0.1
            assert server.value("feedwater_num_workers") > 2
            assert server.value('feedwater_recommendations_total{outcome="applied"}') >= 1
    assert fired["labels"]["severity"] == "warning"  # type: ignore[index]
    assert fired["labels"]["pod"] == "train-0"  # type: ignore[index]
    said = fired["annotations"]["summary"] + fired["annotations"]["description"]  # type: ignore[index]
    assert "research/train-0 (rank 0) waits for batches" in said
    assert re.search(r"The verdict is (?!UNKNOWN)\w+\.", said), said
    assert re.search(r"num_workers=\d+ is recommended, 2 in use", said), said
    # One story, not one for each epoch; and nobody was told of anything else.
    assert {a["labels"]["alertname"] for a in notified.alerts} == {"FeedwaterStarved"}  # type: ignore[index]
    assert len({a["startsAt"] for a in notified.alerts}) == 1


def _wait_for(notified: Notifications, status: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + DEADLINE_SECONDS / 2
    while not notified.of("FeedwaterStarved", status):
        assert process.poll() is None, "the training ended before its alert did"
        assert time.monotonic() < until, f"no alert was {status}: {notified.alerts}"
        time.sleep(0.5)
