"""In which order the daemon takes what comes, and how it is bounded."""

import threading
import time
from collections.abc import Iterator

import numpy as np

from whodrives import clock
from whodrives.audio.blocks import BLOCK_SAMPLES, AudioBlock, SourceHealth, SourceState
from whodrives.audio.microphone import BACKLOG_BLOCKS
from whodrives.core.events import Executed, Input, RefusedCommand
from whodrives.enrolment.types import Enrol
from whodrives.service.inbox import (
    MOST_REFUSALS,
    MOST_REPORTS,
    MOST_WAITING_BLOCKS,
    REFUSALS_PER_ITERATION,
    Batch,
    Inbox,
)
from whodrives.trip.types import Cancel, Choose, Forget, Listen, Position, Tick
from whodrives.vehicle.state import Reading, VehicleReport, VehicleState


def report(at_s: float, *, hand: bool = False) -> VehicleReport:
    """A report of the car, with or without a hand on a switch."""
    return VehicleReport(at_s, VehicleState(seat_switch=Reading(hand, at_s)))


def block(at_s: float) -> AudioBlock:
    """A block of silence."""
    return AudioBlock(at_s, np.zeros(BLOCK_SAMPLES, np.float32))


def taken(inbox: Inbox, delay_s: float = 0.0) -> Iterator[Input | Batch]:
    """All that one call takes, in order, but for the passing of time."""
    return (item for item in inbox.take(delay_s) if not isinstance(item, Tick))


def heard(inbox: Inbox) -> list[AudioBlock]:
    """The blocks that one call takes."""
    return [each for item in taken(inbox) if isinstance(item, Batch) for each in item.blocks]


def test_inputs_are_taken_in_the_order_in_which_they_came() -> None:
    """Nothing is overtaken by what is not urgent."""
    inbox = Inbox()
    items: list[Input] = [report(1.0), Choose(2.0, "a", None), report(3.0), Forget(4.0, "b", "d")]
    for item in items:
        inbox.put(item)
    assert inbox.qsize() == len(items)
    assert list(taken(inbox)) == items
    assert inbox.qsize() == 0


def test_a_cancel_comes_first_and_voids_the_requests_before_it() -> None:
    """What was asked before it must not start after it; what erases or comes later stays."""
    inbox = Inbox()
    before: list[Input] = [
        Choose(1.0, "a", "d"),
        Listen(1.0, "b"),
        Enrol(1.0, "c", None, "x", "y", None),
    ]
    later, forget = Choose(3.0, "e", "d"), Forget(1.0, "f", "d")
    items: list[Input] = [*before, forget, Cancel(2.0, "g"), later]
    for item in items:
        inbox.put(item)
    void = [RefusedCommand(2.0, command, "cancelled") for command in ("a", "b", "c")]
    assert list(taken(inbox)) == [*void, Cancel(2.0, "g"), forget, later]


def test_a_hand_on_the_switch_comes_first_and_keeps_its_place() -> None:
    """It stops what moves at once, and what is asked before it is known to be overridden too."""
    inbox = Inbox()
    choose, hand = Choose(1.0, "a", "d"), report(2.0, hand=True)
    items: list[Input] = [report(0.0), choose, hand]
    for item in items:
        inbox.put(item)
    assert list(taken(inbox)) == [hand, report(0.0), choose, hand]


def test_reports_that_nobody_takes_do_not_pile_up() -> None:
    """The newest replaces those before it; no hand on the switch is lost by that."""
    inbox = Inbox()
    for number in range(10 * MOST_REPORTS):
        inbox.put(report(float(number)))
    inbox.put(report(1e6, hand=True))
    inbox.put(report(1e6 + 1))
    for number in range(10 * MOST_REPORTS):
        inbox.put(Position(float(number), float(number), moving=False, signals={}))
    assert inbox.qsize() <= MOST_REPORTS + 2
    items = list(taken(inbox))
    assert items[0] == report(1e6, hand=True)
    assert report(1e6 + 1) in items
    assert not isinstance(items[-1], Batch)
    assert items[-1].at_s == 10 * MOST_REPORTS - 1


def test_a_tick_ends_a_wait_and_takes_no_room() -> None:
    """Whoever wakes the loop adds nothing to do."""
    inbox = Inbox()
    threading.Timer(0.05, inbox.put, [Tick(0.0)]).start()
    began_s = time.monotonic()
    assert [type(item) for item in inbox.take(30.0)] == [Tick]
    assert time.monotonic() - began_s < 10.0
    assert inbox.qsize() == 0


def test_an_input_ends_a_wait() -> None:
    """It is given as soon as it is there."""
    inbox = Inbox()
    threading.Timer(0.05, inbox.put, [report(1.0)]).start()
    assert list(inbox.take(30.0)) == [report(1.0)]
    assert [type(item) for item in inbox.take(0.0)] == [Tick]


def test_a_cancel_overtakes_what_is_being_taken() -> None:
    """It need not wait for what came before it, even while that is handled."""
    inbox = Inbox()
    inbox.put(report(1.0))
    inbox.put(Choose(1.5, "a", "d"))
    items = taken(inbox)
    assert next(items) == report(1.0)
    inbox.put(Cancel(2.0, "b"))
    assert list(items) == [RefusedCommand(2.0, "a", "cancelled"), Cancel(2.0, "b")]


def test_refused_commands_are_answered_a_few_at_a_time_and_no_more_than_wait() -> None:
    """A flood of them neither fills the line to the broker nor the memory."""
    inbox = Inbox()
    for number in range(10 * MOST_REFUSALS):
        inbox.put(RefusedCommand(1.0, str(number), "too old"))
    assert inbox.qsize() == MOST_REFUSALS
    assert list(taken(inbox)) == [
        RefusedCommand(1.0, str(number), "too old") for number in range(REFUSALS_PER_ITERATION)
    ]
    assert [type(item) for item in inbox.take(0.0, answers=0)] == [Tick]
    assert [item.command for item in inbox.take(0.0, 1) if isinstance(item, RefusedCommand)] == [
        str(REFUSALS_PER_ITERATION)
    ]


def test_consequences_are_kept_apart() -> None:
    """They are asked for before anything else, in their order."""
    inbox = Inbox()
    inbox.put(report(1.0))
    first, second = Executed(2.0, ()), Executed(3.0, ())
    inbox.put_consequence(first)
    inbox.put_consequence(second)
    assert [inbox.consequence(), inbox.consequence(), inbox.consequence()] == [first, second, None]
    assert list(taken(inbox)) == [report(1.0)]


def test_sound_comes_last_in_batches_that_a_state_ends() -> None:
    """Nothing is decided on an older state of the car than is known."""
    inbox = Inbox()
    now_s = clock.now_s()
    lost = SourceState(now_s, SourceHealth.LOST, "gone")
    first, second = block(now_s), block(now_s)
    for item in (first, lost, second):
        inbox.put_sound(item)
    inbox.put(report(now_s))
    told, before, state, after = taken(inbox, 30.0)
    assert (told, state) == (report(now_s), lost)
    assert isinstance(before, Batch)
    assert isinstance(after, Batch)
    assert [id(each) for each in (*before.blocks, *after.blocks)] == [id(first), id(second)]


def test_blocks_of_a_microphone_beyond_ten_seconds_are_dropped_and_told() -> None:
    """The next one that is put says that sound before it is missing."""
    inbox = Inbox()
    now_s = clock.now_s()
    for _ in range(BACKLOG_BLOCKS + 5):
        inbox.put_sound(block(now_s))
    assert inbox.qsize() == BACKLOG_BLOCKS
    blocks = heard(inbox)
    assert len(blocks) == BACKLOG_BLOCKS
    assert not any(each.gap for each in blocks)
    inbox.put_sound(block(now_s))
    assert [each.gap for each in heard(inbox)] == [True]


def test_a_recording_waits_and_loses_nothing() -> None:
    """However late the loop is, each block of a file or a pipe is heard, without a gap."""
    inbox = Inbox()
    many = 3 * MOST_WAITING_BLOCKS

    def produce() -> None:
        for number in range(many):
            inbox.put_sound(block(float(number)), lossless=True)

    producer = threading.Thread(target=produce, daemon=True)
    producer.start()
    blocks: list[AudioBlock] = []
    while len(blocks) < many:
        assert inbox.qsize() <= MOST_WAITING_BLOCKS
        blocks += heard(inbox)
    producer.join()
    assert [each.at_s for each in blocks] == [float(number) for number in range(many)]
    assert not any(each.gap for each in blocks)


def test_a_producer_that_rests_waits_for_the_loop_and_then_for_the_delay() -> None:
    """What it has put is heard before it gathers more."""
    inbox = Inbox()
    inbox.put_sound(block(0.0), lossless=True)
    producer = threading.Thread(target=inbox.rest, daemon=True)
    producer.start()
    assert len(heard(inbox)) == 1
    assert producer.is_alive()
    began_s = time.monotonic()
    assert heard(inbox) == []
    producer.join(10.0)
    assert not producer.is_alive()
    assert time.monotonic() - began_s < 10.0
