"""A real Prometheus and a real Alertmanager, processes on loopback for the length of a ``with`` block."""

from __future__ import annotations

import contextlib
import json
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.e2e.servers import answers, running, wait_for
from tests.support.processes import free_port

READY_SECONDS = 30.0
_DURATION = re.compile(r"(\[|for: )(\d+)([mh])\b")


@dataclass(frozen=True, slots=True)
class Prometheus:
    """One that scrapes and evaluates each second."""

    url: str

    def query(self, expression: str) -> list[dict[str, object]]:
        """Return the series of an instant query.

        Raises:
            urllib.error.HTTPError: It is no PromQL.
        """
        asked = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{asked}", timeout=10) as answer:
            found: list[dict[str, object]] = json.load(answer)["data"]["result"]
        return found

    def value(self, expression: str) -> float | None:
        """Return the value of a query of one series; None where there is none."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else None  # type: ignore[index]


@contextlib.contextmanager
def prometheus(
    directory: Path,
    targets: Mapping[str, Mapping[str, str]],
    *,
    rules: Sequence[Path] = (),
    alertmanager: str = "",
) -> Iterator[Prometheus]:
    """Scrape ``targets`` (``host:port``, with the labels that discovery would give them).

    What happens in the body happens under its eyes: it has scraped each target before.
    """
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rule) for rule in rules],
        "scrape_configs": [
            {
                "job_name": "feedwater",
                "static_configs": [
                    {"targets": [target], "labels": dict(labels)} for target, labels in targets.items()
                ],
            }
        ],
    }
    if alertmanager:
        config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]}
    # JSON is YAML.
    (directory / "prometheus.yaml").write_text(json.dumps(config))
    port = free_port()
    command = [
        "prometheus",
        f"--config.file={directory / 'prometheus.yaml'}",
        f"--storage.tsdb.path={directory / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--rules.alert.resend-delay=1s",
    ]
    server = Prometheus(f"http://127.0.0.1:{port}")
    with running(command, directory, lambda: answers(f"{server.url}/-/ready"), seconds=READY_SECONDS):
        # It takes up its targets five seconds after its start.
        log = directory / "prometheus.log"
        wait_for(
            lambda: len(server.query("up == 1")) >= len(targets),
            seconds=READY_SECONDS,
            said=lambda: log.read_text()[-3000:],
        )
        yield server


@contextlib.contextmanager
def alertmanager(directory: Path, webhook: str) -> Iterator[str]:
    """Yield the ``host:port`` of one that tells ``webhook`` of every alert, and of its end, at once."""
    config = {
        "route": {"receiver": "test", "group_by": ["..."], "group_wait": "0s", "group_interval": "1s"},
        "receivers": [{"name": "test", "webhook_configs": [{"url": webhook, "send_resolved": True}]}],
    }
    (directory / "alertmanager.yaml").write_text(json.dumps(config))
    port = free_port()
    command = [
        "alertmanager",
        f"--config.file={directory / 'alertmanager.yaml'}",
        f"--storage.path={directory / 'alerts'}",
        f"--web.listen-address=127.0.0.1:{port}",
        # Alone: no gossip.
        "--cluster.listen-address=",
    ]
    is_ready = partial(answers, f"http://127.0.0.1:{port}/-/ready")
    with running(command, directory, is_ready, seconds=READY_SECONDS):
        yield f"127.0.0.1:{port}"


def minutes_as_seconds(rules: Path, directory: Path) -> Path:
    """Write a copy of a rule file in which a minute takes a second, and return its path.

    Windows, ``for`` and ``keep_firing_for`` shrink alike, so that what a rule says of an hour of training
    can be seen in a minute of it.
    """
    written = directory / rules.name
    written.write_text(
        _DURATION.sub(lambda m: f"{m[1]}{int(m[2]) * (60 if m[3] == 'h' else 1)}s", rules.read_text())
    )
    return written
