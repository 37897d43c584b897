"""Forgetting decisions changes no later decision."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raywatch.core.ledger import FRESH_S, KEEP_S, forgettable, orphaned
from raywatch.core.relevance import attempts_used, history_of
from raywatch.core.runs import Runs
from raywatch.model import Action, Hook
from tests.core.desk import Desk, caused, failed, resumed, started
from tests.core.runkit import only

LATER = KEEP_S * 2


def action(n: int, state="succeeded", run="gone", at=0.0, **more) -> Action:
    """A decision about a run that nobody knows."""
    known = Action(
        f"k{n}", run, run, "i", "node_lost", 1, "auto", Hook("job"), state, at, at, **more
    )
    return known if state == "observed" else replace(known, ended_at=at)


def ledger_of(*actions: Action) -> dict[str, Action]:
    return {a.key: a for a in actions}


@pytest.mark.parametrize("state", ["waiting", "awaiting_approval", "suggested", "started"])
def test_what_is_not_final_stays(state):
    """However old it is, however much there is."""
    assert forgettable(ledger_of(action(1, state)), Runs(), LATER, limit=0) == frozenset()


@pytest.mark.parametrize(
    "state", ["observed", "abandoned", "succeeded", "failed", "timed_out", "interrupted", "refused"]
)
def test_what_is_final_goes_after_ninety_days(state):
    """Not a second earlier."""
    ledger = ledger_of(action(1, state, at=10.0))

    assert forgettable(ledger, Runs(), KEEP_S + 10.0) == frozenset()
    assert forgettable(ledger, Runs(), KEEP_S + 10.1) == {"k1"}


def test_the_newest_stay_and_nothing_of_today_goes():
    """Beyond the limit the oldest go."""
    ledger = ledger_of(*(action(n, at=float(n)) for n in range(5)))

    assert forgettable(ledger, Runs(), FRESH_S, limit=2) == frozenset()
    assert forgettable(ledger, Runs(), FRESH_S + 10, limit=2) == {"k0", "k1", "k2"}


def test_no_budget_is_refilled():
    """What a run that is still known has used up stays used up, over all its submissions."""
    desk, runs, incident, at = Desk(), failed(), caused(), 101.0
    for n in range(1, 4):
        assert desk.decide(runs, incident, now=at) == ["started"]
        runs, incident = resumed(desk, runs, n, at + 1)
        at += 700
    before = history_of(only(runs), runs, desk.ledger)
    strangers = ledger_of(action(1), action(2, "abandoned", run=only(runs).id))
    ledger = {**strangers, **desk.ledger}

    assert attempts_used(only(runs), before) == 3
    gone = forgettable(ledger, runs, LATER, limit=0)
    assert gone == strangers.keys()
    assert forgettable(ledger, Runs(), LATER, limit=0) == ledger.keys()


def test_a_decision_that_links_a_run_to_its_history_stays():
    """The run's submission was abandoned under an older lineage id, which holds the history."""
    runs = started()
    fired = action(1, "failed", run="old-id")
    link = action(2, "abandoned", run="old-id", old_submission=only(runs).submissions[0])
    loose = action(3, "abandoned", run=only(runs).id)
    ledger = ledger_of(fired, link, loose, action(4))

    assert forgettable(ledger, runs, LATER) == {"k4"}
    assert forgettable(ledger_of(link, loose), runs, LATER) == {"k2", "k3"}


def test_what_waits_for_a_forgotten_run_is_given_up():
    """Only there, and only when it is old."""
    ledger = ledger_of(action(1, "suggested"), action(2, "suggested", run=only(started()).id))

    assert [a.key for a in orphaned(ledger, started(), LATER)] == ["k1"]
    assert orphaned(ledger, started(), KEEP_S) == ()
