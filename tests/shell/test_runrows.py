"""What the metrics show of a run: its states, budgets and what it is expected to have."""

from __future__ import annotations

import math
from dataclasses import replace

from raywatch.core.runs import restored
from raywatch.core.tally import Tally
from raywatch.metrics import RunRow
from raywatch.model import Action, ActionState, Attempt, Checkpoint, Hook, ResumeRule, Run
from raywatch.runrows import RunRows

JOB = Hook("job")
TALLY = Tally(labels={"r": "exp"}, saves={"r": (10.0, 40.0, 60.0)})


def row(run: Run, *rules: ResumeRule, ledger=None, tally=TALLY) -> RunRow:
    (found,) = RunRows(rules).of(restored([run]), ledger or {}, tally)
    return found


def chosen(values) -> list[str]:
    return [k for k, is_it in values.items() if is_it]


def action(key: str, state: ActionState, **more) -> Action:
    known = Action(key, "r", "exp", "i", "node_lost", 1, "auto", JOB, "waiting", 1.0, 1.0)
    return replace(known, state=state, **more)


def test_a_run_has_one_status_and_one_owner_of_its_next_restart():
    """Each possible one is named, so that a change is a change of two series."""
    found = row(Run("r", "exp", "running", world_sizes=(4,), max_failures=3, failures=1))

    assert (chosen(found.status), len(found.status)) == (["running"], 7)
    assert (chosen(found.owner), len(found.owner)) == (["ray_train"], 5)


def test_budgets_are_shown_as_far_as_they_are_known():
    """Any number is infinite; what nobody said has no series."""
    known = Run("r", "exp", "running", max_failures=3, failures=1, max_preemptions=-1)

    assert row(Run("r", "exp", "running")).allowed == {}
    assert row(known).allowed == {"failures": 3, "preemptions": math.inf}
    assert row(known).left == {"failures": 2, "preemptions": math.inf}
    assert row(replace(known, failures=7)).left["failures"] == 0
    assert row(replace(known, status="failed")).left["failures"] == 2
    assert row(replace(known, status="finished")).allowed == {}


def test_a_rules_budget_is_the_lineages():
    """As the policy counts it; a rule that only looks on has none."""
    run = Run("r", "exp", "running", submissions=("s1",))
    ledger = {
        "a": action("a", "succeeded"),
        "b": action("b", "refused"),
        "c": action("c", "failed", counted=False),
        "d": action("d", "suggested"),
        "e": replace(action("e", "succeeded"), run="another"),
    }
    auto = ResumeRule("exp", "auto", JOB, max_attempts=5)

    assert row(run, auto, ledger=ledger).left == {"raywatch": 3}
    assert row(run, replace(auto, mode="approve"), ledger=ledger).allowed == {"raywatch": 5}
    assert row(run, replace(auto, mode="suggest"), ledger=ledger).allowed == {}
    assert row(run, replace(auto, run="other-*"), ledger=ledger).allowed == {}


def test_the_expected_size_is_the_most_that_the_current_job_had():
    """Not what an earlier submission had, and nothing once the run is over."""
    tries = (
        Attempt(10.0, "01", "log", 16),
        Attempt(100.0, "02", "log", 4),
        Attempt(200.0, "02", "log", 3),
    )
    run = Run("r", "exp", "running", world_sizes=(16, 4, 3), attempts=tries, started_at=99.5)

    assert (row(run).world_size, row(run).expected_size, row(run).attempts) == (3, 4, 3)
    assert row(replace(run, status="failed")).expected_size is None
    assert row(replace(run, attempts=())).expected_size is None
    again = replace(tries[0], job="02")  # ids of jobs begin again with each session
    assert row(replace(run, attempts=(again, *tries[1:]))).expected_size == 4


def test_a_checkpoint_of_a_run_that_is_over_has_no_age_and_its_steps_a_time():
    """The usual distance of checkpoints stays known."""
    saved = Checkpoint("/c", 9, whole=True, checked="", at=60.0)
    run = Run("r", "exp", "running", checkpoint=saved, step=9, step_at=61.0)

    assert (row(run).checkpoint_at, row(run).interval_s, row(run).progress_at) == (60.0, 25.0, 61.0)
    over = row(replace(run, status="failed"))
    assert (over.checkpoint_at, over.interval_s, over.progress_at) == (None, 25.0, 61.0)


def test_a_row_is_made_anew_only_where_something_changed():
    """A run, its label, its checkpoints or the ledger; and then it is what a new one would be."""
    rule = ResumeRule("exp", "auto", JOB, max_attempts=5)
    rows, runs = RunRows([rule]), restored([Run("r", "exp", "running")])
    ledger: dict[str, Action] = {}
    (first,) = rows.of(runs, ledger, TALLY)

    assert rows.of(runs, ledger, TALLY)[0] is first
    assert rows.of(runs, {"a": action("a", "succeeded")}, TALLY)[0].left == {"raywatch": 4}
    assert rows.of(runs, ledger, replace(TALLY, labels={"r": "new"}))[0].label == "new"
    assert rows.of(runs, ledger, replace(TALLY, saves={}))[0].interval_s is None
    assert rows.of(restored([]), ledger, TALLY) == ()
