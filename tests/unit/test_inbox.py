"""In which order the daemon takes what the bus brings."""

import threading
import time
from collections.abc import Iterator

from whodrives.core.events import Input
from whodrives.enrolment.types import Enrol
from whodrives.service.inbox import MOST_REPORTS, Inbox
from whodrives.trip.types import Cancel, Choose, Forget, Listen, Position, Tick
from whodrives.vehicle.state import Reading, VehicleReport, VehicleState


def report(at_s: float, *, hand: bool = False) -> VehicleReport:
    """A report of the car, with or without a hand on a switch."""
    return VehicleReport(at_s, VehicleState(seat_switch=Reading(hand, at_s)))


def all_of(inbox: Inbox) -> Iterator[Input]:
    """All that waits, in order."""
    while (item := inbox.pop()) is not None:
        yield item


def test_inputs_are_taken_in_the_order_in_which_they_came() -> None:
    """Nothing is overtaken by what is not urgent."""
    inbox = Inbox()
    items: list[Input] = [report(1.0), Choose(2.0, "a", None), report(3.0), Forget(4.0, "b", "d")]
    for item in items:
        inbox.put(item)
    assert inbox.qsize() == len(items)
    assert list(all_of(inbox)) == items
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
    first = inbox.pop()
    assert isinstance(first, Cancel)
    assert inbox.cancelled(first) == before
    assert list(all_of(inbox)) == [forget, later]


def test_a_hand_on_the_switch_comes_first_and_keeps_its_place() -> None:
    """It stops what moves at once, and what is asked before it is known to be overridden too."""
    inbox = Inbox()
    choose, hand = Choose(1.0, "a", "d"), report(2.0, hand=True)
    items: list[Input] = [report(0.0), choose, hand]
    for item in items:
        inbox.put(item)
    assert list(all_of(inbox)) == [hand, report(0.0), choose, hand]


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
    items = list(all_of(inbox))
    assert items[0] == report(1e6, hand=True)
    assert report(1e6 + 1) in items
    assert items[-1].at_s == 10 * MOST_REPORTS - 1


def test_a_tick_ends_a_wait_and_takes_no_room() -> None:
    """Whoever wakes the loop adds nothing to do."""
    inbox = Inbox()
    threading.Timer(0.05, inbox.put, [Tick(0.0)]).start()
    began_s = time.monotonic()
    assert isinstance(inbox.get(30.0), Tick)
    assert time.monotonic() - began_s < 10.0
    assert inbox.qsize() == 0


def test_an_input_ends_a_wait() -> None:
    """It is given as soon as it is there."""
    inbox = Inbox()
    threading.Timer(0.05, inbox.put, [report(1.0)]).start()
    assert inbox.get(30.0) == report(1.0)
    assert isinstance(inbox.get(0.0), Tick)
