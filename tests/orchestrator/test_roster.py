"""Who is late, who may be given work, and where the next actor may live: all without Ray, on a clock of our own."""

from __future__ import annotations

import pytest

from orchestrator.crew.roster import NODE, Late, Patience, Roster, Suspects, placement
from orchestrator.deciding.decisions import Train

PATIENCE = Patience(heartbeat_s=5.0, missed_s=30.0, silence_s=600.0, placement_s=300.0)
WORK = Train("main")


@pytest.fixture
def roster() -> Roster:
    return Roster(PATIENCE, depth=2)


def late(roster: Roster, now: float) -> list[Late]:
    """Who is late at this time; everybody's answers were looked for every few seconds until then."""
    found: list[Late] = []
    while not found and roster._looked_at < now:
        found = roster.late(min(now, max(roster._looked_at, 0.0) + 5.0))
    return found


def test_an_actor_that_is_not_there_yet_is_waited_for_until_it_is_asked_for(roster: Roster) -> None:
    hand = roster.hire("train", "actor", 0.0)
    assert late(roster, 1000.0) == []
    roster.hands.clear()
    hand = roster.hire("train", "actor", 1000.0)
    roster.give(hand, WORK, "ref", 1000.0)
    assert late(roster, 1300.0) == []
    assert late(roster, 1400.0) == [Late(hand, "no machine could take a trainer for 300 s", False)]


def test_an_actor_that_does_not_say_that_it_lives_is_late_and_its_machine_is_to_blame(roster: Roster) -> None:
    hand = roster.hire("draw", "actor", 0.0)
    roster.heard(hand, "node", 1.0)
    assert late(roster, 30.0) == []
    (found,) = late(roster, 40.0)
    assert (found.hand, found.blames_work) == (hand, False)


def test_work_that_takes_too_long_is_to_blame_itself_and_waiting_in_line_does_not_count(roster: Roster) -> None:
    hand = roster.hire("draw", "actor", 0.0)
    roster.heard(hand, "node", 0.0)
    roster.give(hand, WORK, "first", 0.0)
    roster.give(hand, WORK, "second", 0.0)
    for now in range(5, 501, 5):
        roster.heard(hand, "node", float(now))
        assert roster.late(float(now)) == []
    roster.answered(hand, "first", 500.0)
    for now in range(505, 1101, 5):
        roster.heard(hand, "node", float(now))
        assert roster.late(float(now)) == []
    roster.heard(hand, "node", 1105.0)
    assert roster.late(1105.0) == [Late(hand, "its actor said nothing for 600 s", True)]


def test_time_in_which_nobody_looked_is_nobodys_fault(roster: Roster) -> None:
    hand = roster.hire("draw", "actor", 0.0)
    roster.heard(hand, "node", 0.0)
    roster.give(hand, WORK, "ref", 0.0)
    assert roster.late(5.0) == []
    assert roster.late(5000.0) == [], "the lid was closed"
    assert late(roster, 5060.0) != [], "and now it is late"


def test_work_goes_to_whoever_is_there_and_has_the_least_to_do(roster: Roster) -> None:
    away, busy, idle = (roster.hire("draw", name, 0.0) for name in ("away", "busy", "idle"))
    roster.heard(busy, "node", 1.0)
    roster.heard(idle, "node", 1.0)
    roster.give(busy, WORK, 1, 1.0)
    given = []
    for ref in range(2, 6):
        hand = roster.free("draw")
        assert hand is not None
        roster.give(hand, WORK, ref, 1.0)
        given.append(hand.actor)
    assert given == ["idle", "busy", "idle", "away"]
    assert roster.free("judge") is None
    assert [call.ref for call in roster.dismiss(busy)] == [1, 3]
    assert busy not in roster.hands
    assert away in roster.hands


def test_a_trainer_has_one_trial_at_a_time(roster: Roster) -> None:
    hand = roster.hire("train", "actor", 0.0)
    assert roster.free("train") is hand
    roster.give(hand, WORK, "ref", 0.0)
    assert roster.free("train") is None


def test_a_machine_that_lost_an_actor_is_avoided_for_a_while_that_doubles() -> None:
    suspects = Suspects(60.0)
    suspects.add("b", 0.0)
    assert suspects.to_avoid({"a", "b"}, 59.0) == ["b"]
    assert suspects.to_avoid({"a", "b"}, 61.0) == []
    suspects.add("b", 61.0)
    assert suspects.to_avoid({"a", "b"}, 180.0) == ["b"]
    assert suspects.to_avoid({"a"}, 180.0) == [], "it is gone, so Ray places nothing there"
    assert suspects.to_avoid({"b"}, 180.0) == [], "better a suspected machine than none"


def test_preferred_labels_fall_back_in_order_and_spare_suspected_machines() -> None:
    assert placement((), ()) == ({}, [])
    assert placement(({"gpu": "h100"}, {}), ()) == ({"gpu": "h100"}, [{}])
    avoid = {NODE: "!in(a,b)"}
    assert placement((), ["a", "b"]) == (avoid, [])
    assert placement(({"gpu": "h100"}, {}), ["a", "b"]) == ({"gpu": "h100", **avoid}, [avoid])
