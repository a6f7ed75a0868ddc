"""Metrics: one view of the state, valid for every scraper, bounded against hostile names."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from feedwater.v1 import feedwater_pb2 as pb
from feedwater.values import Outcome
from feedwater_service.metrics.collector import StateCollector
from feedwater_service.metrics.exposition import Exposition, encode
from feedwater_service.metrics.families import FAMILIES
from feedwater_service.model.types import LoaderSettings, Recommendation
from feedwater_service.state.reports import AppliedReport
from feedwater_service.state.sessions import Decision, Session, State

Send = Callable[[pb.ReportRequest], Session]
Make = Callable[..., pb.ReportRequest]


@pytest.fixture
def full(
    state: State,
    register: Callable[..., Session],
    send: Send,
    report: Make,
    recommendation: Callable[[], Recommendation],
) -> State:
    """A state in which every family has something to show."""
    session = register()
    message = report(session.loader_id, 1, end=True)
    message.drops.add(cause=1, total=3)
    send(message)
    container = pb.ContainerUsage(
        stamp_seconds=102,
        cpu_seconds=4,
        periods=10,
        throttled_periods=4,
        throttled_seconds=0.5,
        memory_bytes=1 << 30,
        shm_bytes=1 << 20,
        oom_kills=0,
        device_utilisation=0.75,
    )
    state.decide(session.group, Decision("r", 0, recommendation()))
    state.report_applied(AppliedReport(session.loader_id, "r", Outcome.APPLIED, LoaderSettings(4, 2)))
    message = report(session.loader_id, 2, epoch=1, end=True)
    message.container.CopyFrom(container)
    message.device_steps.add(epoch=1, batch=[4, 12, 20, 36], idle_seconds=[0.01] * 4, busy_seconds=[0.03] * 4)
    send(message)
    return state


def _values(state: State) -> dict[str, float]:
    text = encode(StateCollector(state, "1.2.3", "3.11").collect(), openmetrics=False).decode()
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line[0] != "#"
    }


def test_metrics_state_what_was_reported(full: State) -> None:
    """Two epochs of 40 batches, waits of 20 ms, steps of 10 ms: two thirds starved, all counted."""
    values = _values(full)
    series = '{loader="train",rank="0"}'
    assert values["feedwater_batches_total" + series] == 80
    assert values["feedwater_epochs_total" + series] == 2
    assert values["feedwater_starvation_ratio" + series] == pytest.approx(39 * 0.02 / (39 * 0.02 + 40 * 0.01))
    assert values["feedwater_starved_seconds_total" + series] == pytest.approx(2 * 39 * 0.02)
    assert values["feedwater_last_startup_seconds" + series] == pytest.approx(0.05 + 0.02)
    assert values["feedwater_startup_seconds_total" + series] == pytest.approx(2 * (0.05 + 0.02))
    assert values['feedwater_wait_seconds_bucket{loader="train",rank="0",le="0.01"}'] == 0
    assert values['feedwater_wait_seconds_bucket{loader="train",rank="0",le="0.025"}'] == 80
    assert values["feedwater_load_seconds_count" + series] == 80
    assert values["feedwater_num_workers" + series] == 2
    assert values["feedwater_recommended_num_workers" + series] == 4
    assert values["feedwater_uncapped_num_workers" + series] == 8
    assert values["feedwater_workers_pss_bytes" + series] == 2 * (60 << 20)
    assert values["feedwater_worker_rss_max_bytes" + series] == 100 << 20
    assert values['feedwater_verdict{loader="train",rank="0",verdict="TOO_FEW_WORKERS"}'] == 1
    assert sum(value for name, value in values.items() if name.startswith("feedwater_verdict{")) == 1
    assert values['feedwater_recommendations_total{loader="train",rank="0",outcome="applied"}'] == 1
    assert values['feedwater_dropped_batches_total{loader="train",rank="0",cause="ring_overrun"}'] == 3
    # Four steps of 10 ms idle and 30 ms busy stand for the 80 batches of both epochs.
    assert values["feedwater_device_starvation_ratio" + series] == pytest.approx(10 / 40)
    assert values["feedwater_device_idle_seconds_total" + series] == pytest.approx(80 * 0.01)
    assert values["feedwater_device_busy_seconds_total" + series] == pytest.approx(80 * 0.03)
    assert values["feedwater_device_sampled_steps_total" + series] == 4
    assert values["feedwater_device_utilisation_ratio" + series] == 0.75
    assert values["feedwater_trainer_cpu_limit_cores"] == 4
    assert values["feedwater_cpu_limit_needed_cores" + series] == 5.5
    assert values["feedwater_trainer_cpu_throttled_seconds_total"] == 0.5
    assert values['feedwater_build_info{version="1.2.3",python="3.11"}'] == 1


def test_every_family_has_samples(full: State) -> None:
    """Each family of the table shows something once every signal is there."""
    shown = {metric.name for metric in StateCollector(full, "1", "3").collect() if metric.samples}
    elsewhere = {"feedwater_prediction_error_ratio", "feedwater_hung_seconds"}
    assert shown == {family.name for family in FAMILIES} - elsewhere


def test_counters_are_there_at_zero_before_the_first_report(
    register: Callable[..., Session], state: State
) -> None:
    """A counter that is first scraped at 1 has not risen, to Prometheus: the first change would be missed."""
    register()
    values = _values(state)
    assert values['feedwater_recommendations_total{loader="train",rank="0",outcome="applied"}'] == 0
    assert values['feedwater_batches_total{loader="train",rank="0"}'] == 0


def test_the_cpu_limit_that_ends_starvation_is_absent_where_none_does(
    register: Callable[..., Session], state: State, recommendation: Callable[[], Recommendation]
) -> None:
    """Before any recommendation, and with one that found no such limit: unknown is not zero."""
    session = register()
    series = 'feedwater_cpu_limit_needed_cores{loader="train",rank="0"}'
    assert series not in _values(state)
    found = recommendation()
    state.decide(session.group, Decision("a", 0, found))
    assert _values(state)[series] == 5.5
    none = replace(found, cpu_limit_needed_cores=None)
    state.decide(session.group, Decision("b", 1, none))
    values = _values(state)
    assert values['feedwater_recommended_num_workers{loader="train",rank="0"}'] == 4
    assert series not in values


def test_a_stall_is_stated_while_an_epoch_runs(
    register: Callable[..., Session], state: State, send: Send, report: Make
) -> None:
    """0 with a report that brings batches; 30 s with one that brings none half a minute later."""
    session = register(batches_per_epoch=100)
    send(report(session.loader_id, 1))
    series = 'feedwater_hung_seconds{loader="train",rank="0"}'
    assert _values(state)[series] == 0
    state.clock.now += 30  # type: ignore[attr-defined]
    send(pb.ReportRequest(loader_id=session.loader_id, sequence=2))
    assert _values(state)[series] == 30


def test_starvation_is_absent_under_cuda(
    register: Callable[..., Session], state: State, send: Send, report: Make
) -> None:
    """Where the trainer uses CUDA, host wait is shown and starvation is not."""
    session = register(uses_cuda=True)
    send(report(session.loader_id, 1))
    names = {name.partition("{")[0] for name in _values(state)}
    assert "feedwater_host_wait_ratio" in names
    assert not [name for name in names if name.startswith("feedwater_device_")]
    assert not {"feedwater_starvation_ratio", "feedwater_starved_seconds_total"} & names


@pytest.mark.parametrize("name", ['a"b\\c', "a\nb", "ü☃" * 40, "x" * 10_000, "{}", 'le="1"', " "])
def test_hostile_names_are_one_valid_series(
    state: State, register: Callable[..., Session], send: Send, report: Make, name: str
) -> None:
    """Whatever a loader is called, both formats parse, with one series of at most 128 characters."""
    session = register(loader=name)
    send(report(session.loader_id, 1))
    collector = StateCollector(state, "1", "3")
    for parser, openmetrics in ((parse, False), (parse_openmetrics, True)):
        text = encode(collector.collect(), openmetrics=openmetrics).decode()
        labels = {s.labels["loader"] for m in parser(text) for s in m.samples if "loader" in s.labels}
        assert labels == {session.name}
        assert 0 < len(session.name) <= 128


def test_two_clients_of_one_rank_and_name_are_one_series(
    state: State, register: Callable[..., Session], send: Send, report: Make
) -> None:
    """A restarted trainer continues its series: counters add up, gauges are the newer one's."""
    send(report(register().loader_id, 1))
    settings = pb.LoaderSettings(num_workers=7)
    session = register(client_id="client-2", settings=settings)
    message = report(session.loader_id, 1)
    message.begins[0].settings.CopyFrom(settings)
    send(message)
    values = _values(state)
    assert values['feedwater_batches_total{loader="train",rank="0"}'] == 80
    assert values['feedwater_num_workers{loader="train",rank="0"}'] == 7


@pytest.mark.parametrize("openmetrics", [False, True])
def test_encoder_says_what_prometheus_client_says(full: State, openmetrics: bool) -> None:
    """Our encoder and prometheus_client's give the same families, types, labels and values."""
    collector = StateCollector(full, "1.2.3", "3.11")
    registry = CollectorRegistry()
    registry.register(collector)
    theirs = (generate_openmetrics if openmetrics else generate_latest)(registry).decode()
    ours = encode(collector.collect(), openmetrics=openmetrics).decode()
    parser = parse_openmetrics if openmetrics else parse
    assert [(m.name, m.type, m.documentation, m.samples) for m in parser(ours)] == [
        (m.name, m.type, m.documentation, m.samples) for m in parser(theirs)
    ]


def test_content_type_follows_the_accept_header(full: State) -> None:
    """Prometheus asks for OpenMetrics and gets it, with its closing line; curl gets the plain format."""
    exposition = Exposition(StateCollector(full, "1", "3"))
    body, kind = exposition.render("application/openmetrics-text;version=1.0.0;q=0.8,text/plain;q=0.5")
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")
    assert exposition.render("*/*")[1].startswith("text/plain; version=0.0.4")


def test_series_are_as_many_as_the_docs_say_at_most(full: State) -> None:
    """No family has more series for one loader and rank, or for the pod, than it states."""
    text = encode(StateCollector(full, "1", "3").collect(), openmetrics=False).decode()
    for family in FAMILIES:
        ends = ("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",)
        shown = re.findall(rf"^{family.exposed}(?:{'|'.join(ends)})[{{ ]", text, re.MULTILINE)
        assert len(shown) <= family.series, family.name


def test_every_family_says_how_to_read_it() -> None:
    """Meaning and reading are sentences, and a unit is stated wherever a number has one."""
    for family in FAMILIES:
        assert family.help.endswith("."), family.name
        assert family.guide.endswith((".", "?")), family.name
    units = {family.exposed: family.unit for family in FAMILIES}
    assert units["feedwater_starved_seconds_total"] == "seconds"
    assert units["feedwater_predicted_lower_batches_per_second"] == "batches/s"
    assert units["feedwater_batches_total"] == ""


def test_names_are_prefixed_and_in_base_units() -> None:
    """All names begin with feedwater_, none is stated twice, and none is in milli-something."""
    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names)
    for name in names:
        assert re.fullmatch(r"feedwater_[a-z_]+", name)
        assert not re.search(r"milli|micro|_ms|kilo|mega|percent", name)


def test_names_are_as_prometheus_would_have_them() -> None:
    """A unit is the last word, `total` is left to the exposition, and what is counted stands last, plural.

    Source: https://prometheus.io/docs/practices/naming/
    """
    for family in FAMILIES:
        name = family.name.removeprefix("feedwater_")
        assert not re.search(r"_(total|count|sum|bucket|gauge|counter|histogram)$", name)
        assert not re.search(r"(seconds|bytes|cores|ratio|batches_per_second)_", name), name
        assert family.kind != "counter" or name.endswith("s"), name


@pytest.mark.real
def test_promtool_finds_nothing(full: State) -> None:
    """`promtool check metrics` is clean."""
    text = encode(StateCollector(full, "1", "3").collect(), openmetrics=False)
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=30)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
