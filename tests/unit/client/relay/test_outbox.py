"""What is held: bounded, in order, numbered once, sent again from where the sidecar is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from feedwater.relay import outbox as outbox_module
from feedwater.relay import wire
from feedwater.relay.outbox import Outbox
from feedwater.values import LoaderSettings, Outcome


def report(batches: int = 1) -> wire.ReportRequest:
    columns = [0.1] * batches
    run = wire.batches(
        epoch=0, first=0, start_seconds=0.0, wait_seconds=columns, step_seconds=columns, ready=[]
    )
    assert run is not None
    return wire.ReportRequest(batches=[run])


def add(outbox: Outbox, batches: int = 1) -> None:
    outbox.add_report(report(batches), batches)


def send_all(outbox: Outbox) -> list[int]:
    numbers = []
    while (held := outbox.next()) is not None:
        numbers.append(held.sequence)
        outbox.mark_delivered(held)
    return numbers


def test_reports_are_numbered_when_they_are_sent():
    """1, 2, 3, and the same number at a second try."""
    outbox = Outbox()
    add(outbox)
    assert (outbox.next().sequence, outbox.next().sequence) == (1, 1)
    assert send_all(outbox) == [1]
    add(outbox)
    assert send_all(outbox) == [2]
    assert outbox.last_sequence == 2


def test_waiting_reports_are_merged():
    """Five reports made while the sidecar is away become one, with the batches of all."""
    outbox = Outbox()
    for _ in range(5):
        add(outbox, 3)
    assert outbox.waiting == 1
    assert outbox.next().batches == 15


def test_report_that_was_sent_is_not_merged_into():
    """It may have been counted already: the next gets its own number."""
    outbox = Outbox()
    add(outbox)
    outbox.next()
    add(outbox)
    assert send_all(outbox) == [1, 2]


def test_merged_reports_stay_small():
    """At most ten to one, so that a lost one is not a whole outage."""
    outbox = Outbox()
    for _ in range(25):
        add(outbox)
    assert outbox.waiting == 3


def test_oldest_waiting_reports_are_dropped_and_counted_in_batches():
    """Room for 2 of 4 unmergeable reports of 7 batches: 14 batches are lost."""
    outbox = Outbox(max_reports=2)
    for _ in range(4):
        add(outbox, 7)
        outbox.next()
        outbox._held[-1].sequence = outbox._held[-1].sequence or 99
    assert (outbox.waiting, outbox.dropped_batches) == (2, 14)


def test_delivered_reports_make_room_first_and_count_as_no_loss():
    """Kept for a sidecar that restarts, no longer than there is room."""
    outbox = Outbox(max_reports=2)
    for _ in range(5):
        add(outbox)
        send_all(outbox)
    assert outbox.dropped_batches == 0


def test_restarted_sidecar_gets_what_follows_its_last_number():
    """Of 4 delivered reports a sidecar that counted 2 gets 3 and 4 again."""
    outbox = Outbox()
    for _ in range(4):
        add(outbox)
        send_all(outbox)
    outbox.resume_after(2)
    assert send_all(outbox) == [3, 4]


def test_relay_that_replaces_another_goes_on_with_its_numbers():
    """The sidecar has counted 9 reports of the relay before: the next is the tenth."""
    outbox = Outbox()
    add(outbox)
    outbox.resume_after(9)
    assert send_all(outbox) == [10]


def test_refused_report_makes_way_and_is_counted():
    """Its batches are lost, the next report is sent."""
    outbox = Outbox()
    add(outbox, 5)
    outbox.remove_refused(outbox.next())
    add(outbox, 1)
    assert (outbox.refused_batches, send_all(outbox)) == (5, [2])


def test_outcomes_keep_their_place_between_reports():
    """What was applied is told after the epoch before it and before the next."""
    outbox = Outbox()
    add(outbox)
    outbox.add_report_applied(wire.report_applied_request("r", Outcome.APPLIED, LoaderSettings(1), ""))
    add(outbox)
    kinds = []
    while (held := outbox.next()) is not None:
        kinds.append(type(held.message) is wire.ReportRequest)
        outbox.mark_delivered(held)
    assert kinds == [True, False, True]


@given(st.lists(st.tuples(st.integers(1, 50), st.booleans()), max_size=60))
def test_nothing_is_lost_uncounted_and_bounds_hold(steps):
    """Whatever is added and sent: batches added are sent, waiting or counted as dropped."""
    outbox = Outbox(max_reports=5, max_bytes=4000)
    added = sent = 0
    for batches, does_send in steps:
        add(outbox, batches)
        added += batches
        while does_send and (held := outbox.next()) is not None:
            sent += held.batches
            outbox.mark_delivered(held)
    waiting = sum(held.batches for held in list(outbox._held)[outbox._sent :])
    assert added == sent + waiting + outbox.dropped_batches
    assert len(outbox._held) <= 5
    assert outbox.size_bytes <= max(4000, outbox_module.MERGED_BYTES)
    assert outbox.size_bytes == sum(held.size_bytes for held in outbox._held)
