"""The state as JSON."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from feedwater.relay.views import LoaderView, PodView
from feedwater.status.record import as_json, lost_as_json


def test_record_holds_everything(pod: PodView) -> None:
    """One object: version, time, and a loader with its epochs, decisions and prediction."""
    record = json.loads(as_json(pod))
    (loader,) = record["loaders"]
    assert (record["version"], record["time_seconds"]) == ("1.2.3", 1001.0)
    first = loader["epochs"][0]
    assert (first["batches"], first["batches_per_second"], first["throttled_ratio"]) == (100, 10.0, 0.63)
    assert loader["recommendation"]["settings"]["num_workers"] == 4
    assert [decision["outcome"] for decision in loader["decisions"]] == ["refused", "applied"]
    assert loader["workers"][1] == {
        "worker": 1,
        "rss_bytes": 90 << 20,
        "pss_bytes": 70 << 20,
        "uss_bytes": None,
    }


def test_record_is_one_line_of_ascii_whatever_names_say(full: LoaderView) -> None:
    """Line ends, escape codes and other scripts are escaped as JSON has it, and come back."""
    name = "a\n\x1b[31m長"
    line = as_json(PodView((replace(full, loader=name),)))
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["loaders"][0]["loader"] == name


def test_numbers_that_json_does_not_have_are_null(full: LoaderView) -> None:
    """NaN and infinity."""
    broken = replace(full, stalled_seconds=float("nan"), last_seen_seconds=float("inf"))
    (loader,) = json.loads(as_json(PodView((broken,))))["loaders"]
    assert (loader["stalled_seconds"], loader["last_seen_seconds"]) == (None, None)


def test_lost_sidecar_is_an_object_too() -> None:
    """It has a time and the reason, and no loaders."""
    assert json.loads(lost_as_json(7.5, "gone")) == {"time_seconds": 7.5, "unavailable": "gone"}


def test_every_key_is_documented(pod: PodView) -> None:
    """Those of the record are those in the tables of docs/status.md, no more and no fewer."""
    page = (Path(__file__).parents[4] / "docs/status.md").read_text().partition("## JSON")[2]
    tables = "\n".join(line for line in page.partition("\n## ")[0].splitlines() if line.startswith("|"))
    documented = set(re.findall(r"`([a-z_]+)`", tables))
    assert documented == _keys(json.loads(as_json(pod))) | set(json.loads(lost_as_json(0.0, "")))


def _keys(value: object) -> set[str]:
    if isinstance(value, list):
        return {key for item in value for key in _keys(item)}
    if isinstance(value, dict):
        return set(value) | {key for item in value.values() for key in _keys(item)}
    return set()
