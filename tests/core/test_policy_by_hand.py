"""`raywatch resume`: what a person may start, and that it never becomes two."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raywatch.core.policy import approve, decide_by_hand
from raywatch.core.relevance import FIRED
from raywatch.core.saved import checkpoint_seen
from raywatch.model import CheckpointProblem
from tests.core.desk import (
    BY_COMMAND,
    CLASSES,
    COMMAND,
    DEAD,
    FAILED,
    NINE,
    RULE,
    Desk,
    caused,
    failed,
    started,
)
from tests.core.runkit import S1, S2, driver, group, history, job, only, policy, saved, state


class Person(Desk):
    """A desk where a person stands too."""

    def ask(self, runs, *incidents, now=5000.0):
        run = runs.get(S1) or only(runs)
        return decide_by_hand(
            run, incidents, runs, self.ledger, rules=self.rules, classes=CLASSES, now=now
        )

    def resume(self, runs, *incidents, now=5000.0):
        """Ask, and start it if nothing objects; return what objects."""
        found = self.ask(runs, *incidents, now=now)
        if found.action is not None and not found.objections:
            was = self.ledger.get(found.action.key)
            assert was is None or was.state not in FIRED
            self.ledger[found.action.key] = found.action
        return [o.check for o in found.objections]


def test_a_person_starts_a_failed_run_without_any_incident():
    desk = Person()

    assert desk.resume(failed()) == []
    done = desk.last
    assert (done.state, done.by_hand, done.hook) == ("started", True, RULE.hook)
    assert (done.incident, done.class_id, done.detected_at) == ("", "unknown_failure", None)
    assert (done.old_submission, done.old_job, done.checkpoint) == (S1, "02000000", NINE)
    assert (done.attempt, done.started_at, done.due_at) == (1, 5000.0, 5000.0)


def test_a_person_names_the_incident_where_there_is_one():
    desk = Person()

    assert desk.resume(failed(), caused(), caused("node_lost", at=30_000.0)) == []
    assert (desk.last.incident, desk.last.class_id) == ("i-worker_segfault", "worker_segfault")
    assert desk.last.detected_at == 95.0


@pytest.mark.parametrize("mode", ["observe", "suggest", "approve", "auto"])
def test_the_mode_is_not_asked_of_a_person(mode):
    desk = Person(replace(RULE, mode=mode))

    assert desk.resume(failed(), caused()) == []
    assert desk.last.state == "started"


@pytest.mark.parametrize("class_id", ["user_exception", "cuda_oom", "nan_loss", "ring_break"])
def test_neither_class_nor_age_nor_settling_is_asked_of_a_person(class_id):
    desk = Person(replace(RULE, classes=("node_lost",), max_age_s=1, settle_s=1e6))

    assert desk.decide(failed(), caused(class_id), now=5000) == []
    assert desk.resume(failed(), caused(class_id)) == []


def test_neither_budget_nor_back_off_is_asked_of_a_person():
    desk = Person(replace(RULE, max_attempts=1, backoff_s=1e6, backoff_max_s=1e6))
    desk.decide(failed())
    desk.answer("failed", 103.0)

    assert desk.decide(failed(), now=104) == ["suggested"]
    assert desk.resume(failed(), caused(), now=105) == []
    assert (desk.last.state, desk.last.attempt) == ("started", 2)


def test_the_hook_comes_from_a_rule_that_names_the_run():
    desk = Person(replace(RULE, run="llm-*"))

    assert desk.resume(failed()) == ["rule"]
    assert desk.ask(failed()).action is None
    # The rule that admits the class goes before the first that names the run.
    desk.rules = (replace(RULE, classes=("cuda_error",)), BY_COMMAND)
    assert desk.resume(failed(), caused()) == []
    assert desk.last.hook == COMMAND


@pytest.mark.parametrize(
    ("runs", "check"),
    [
        (history(policy(96, "RAISE"), *DEAD, job(at=1), runs=started()), "old_one_is_over"),
        (history(*DEAD, job(at=1, status="STOPPED", ended=9), runs=started()), "ended_otherwise"),
        (history(*DEAD, job(at=1, status="SUCCEEDED", ended=9), runs=started()), "ended_otherwise"),
        (history(*DEAD, state(90, "FINISHED"), FAILED, runs=started()), "ended_otherwise"),
        (history(policy(96, "RAISE"), DEAD[1], FAILED, runs=started()), "ranks_are_gone"),
        (failed(job(S2, at=0.5, job_id="03000000")), "nobody_else_runs_it"),
        (checkpoint_seen(failed(), S1, CheckpointProblem("torn", "x"), 9.0), "snapshot_is_torn"),
        (
            checkpoint_seen(failed(), S1, CheckpointProblem("corrupt", "x"), 9.0),
            "snapshot_is_corrupt",
        ),
    ],
)
def test_what_keeps_a_run_safe_binds_a_person_too(runs, check):
    desk = Person()

    assert check in desk.resume(runs)
    assert desk.ledger == {}


def test_a_job_hook_cannot_repeat_a_driver_that_was_started_by_hand():
    by_hand = history(
        driver(at=1), group(5), saved(6), policy(96, "RAISE"), *DEAD, driver("FAILED", at=1)
    )
    by_hand = replace(by_hand, runs={i: replace(r, ranks=()) for i, r in by_hand.runs.items()})

    assert Person().resume(by_hand) == ["driver_by_hand"]
    assert Person(BY_COMMAND).resume(by_hand) == []


def test_two_persons_start_it_once():
    desk = Person()

    assert desk.resume(failed()) == []
    assert desk.resume(failed()) == ["nothing_is_on_its_way"]
    desk.answer()
    # Ray does not show the new submission yet.
    assert desk.resume(failed(), now=5003) == ["nothing_worked_yet"]
    assert len(desk.ledger) == 1


def test_automation_does_not_start_what_a_person_has_started():
    desk = Person()
    desk.resume(failed(), now=102.0)

    assert desk.decide(failed(), now=103) == []
    desk.answer()
    assert desk.decide(failed(), now=700) == []


def test_a_person_does_not_start_what_automation_has_started():
    desk = Person()
    desk.decide(failed())

    assert desk.resume(failed(), caused(), now=102) == ["nothing_is_on_its_way"]
    desk.answer()
    assert desk.resume(failed(), caused(), now=104) == ["nothing_worked_yet"]


@pytest.mark.parametrize(
    ("rule", "before"),
    [
        (replace(RULE, mode="approve"), "awaiting_approval"),
        (replace(RULE, mode="suggest"), "suggested"),
        (replace(RULE, mode="observe"), "observed"),
    ],
)
def test_what_was_decided_for_this_end_is_started_instead_of_a_second_one(rule, before):
    desk = Person(rule)
    assert desk.decide(failed()) == [before]
    key = desk.last.key

    assert desk.resume(failed(), caused()) == []
    assert list(desk.ledger) == [key]
    assert (desk.last.state, desk.last.attempt, desk.last.created_at) == ("started", 1, 101.0)
    assert approve(desk.last, 5001.0) is desk.last


def test_what_waits_for_its_back_off_is_started_at_once():
    desk = Person(replace(RULE, backoff_s=1000))
    desk.decide(failed(), caused("spot_preemption"))
    desk.answer("failed", 103.0)
    assert desk.decide(failed(), caused("spot_preemption"), now=104) == ["waiting"]
    key = desk.last.key

    assert desk.resume(failed(), caused("spot_preemption"), now=105) == []
    assert (desk.last.key, desk.last.state, desk.last.due_at) == (key, "started", 105.0)


@pytest.mark.parametrize("outcome", ["failed", "refused", "interrupted", "timed_out"])
def test_a_person_may_try_again_what_did_not_work_under_a_new_key(outcome):
    desk = Person(BY_COMMAND)
    desk.resume(failed())
    desk.answer(outcome)

    assert desk.resume(failed(), now=5100) == []
    assert [a.attempt for a in desk.ledger.values()] == [1, 2]
    assert [a.state for a in desk.ledger.values()] == [outcome, "started"]


def test_what_is_deferred_is_not_started_later_without_being_asked_again():
    """A person asked for now. Automation goes on as it would have, under the same key."""
    desk = Person(replace(RULE, mode="approve"))
    desk.decide(failed())
    desk.resume(failed(), caused(), now=102)
    desk.answer("deferred", 103.0, detail="2 actors of the old job live")

    assert (desk.last.state, desk.last.started_at) == ("abandoned", None)
    assert "2 actors" in desk.last.detail
    assert desk.decide(failed(), now=104) == ["awaiting_approval"]
    assert desk.resume(failed(), caused(), now=105) == []
    assert len(desk.ledger) == 1


def test_a_resume_by_hand_is_history_as_any_other():
    desk = Person()
    desk.resume(failed())
    desk.answer(submission_id=desk.last.key)
    ours = {"raywatch_run": S1, "raywatch_action": desk.last.key}
    again = history(
        job(desk.last.key, at=5010, job_id="04000000", metadata=ours),
        job(desk.last.key, "FAILED", at=5010, ended=5020, job_id="04000000", metadata=ours),
        runs=failed(),
    )

    desk.decide(again, caused(at=5015.0, job_id="04000000", id="i2"), now=5031)
    assert (desk.last.state, desk.last.attempt, desk.last.by_hand) == ("started", 2, False)


def test_an_older_checkpoint_is_for_a_hook_that_can_choose():
    four = replace(NINE, path="/s/exp/c4", step=4)
    runs = checkpoint_seen(checkpoint_seen(failed(), S1, four, 99), S1, NINE, 100)
    nan = caused("nan_loss")

    assert Person(BY_COMMAND).ask(runs, nan).action.checkpoint == four
    assert Person(RULE).ask(runs, nan).action.checkpoint == NINE
    assert Person(BY_COMMAND).ask(failed(), nan).action.checkpoint == NINE
