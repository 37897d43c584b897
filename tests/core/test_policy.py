"""When raywatch may act: one test for each law of the design, as small stories with the time in the data."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raywatch.core.policy import apply_outcome, approve, decide, progress
from raywatch.core.preconditions import history_of, is_about_now
from raywatch.core.runs import checkpoint_seen
from raywatch.core.taxonomy import parse_taxonomy
from raywatch.model import (
    Action,
    Checkpoint,
    CheckpointProblem,
    Entity,
    Hook,
    Outcome,
    ResumeRule,
    SessionSeen,
    Subject,
    Trust,
)
from raywatch.resources import resource_dir
from tests.core.runkit import (
    S1,
    S2,
    actor,
    driver,
    fact,
    group,
    history,
    incident,
    job,
    node,
    only,
    policy,
    rank_set_up,
    saved,
    state,
    step,
)

CLASSES = parse_taxonomy((resource_dir("rules") / "taxonomy.yaml").read_text())
JOB, COMMAND = Hook("job"), Hook("command", "again", ("./again.sh",))
RULE = ResumeRule("*", "auto", JOB)
BY_COMMAND = replace(RULE, hook=COMMAND)
NINE = Checkpoint("/s/exp/c9", 9, whole=True, checked="snapshot", at=80.0)
DEAD = (actor("a-w0", "DEAD"), actor("a-w1", "DEAD"))
FAILED = job(at=1, status="FAILED", ended=100)


def started(runs=None):
    """A submission that trains with two ranks and has a checkpoint at step 9."""
    ranks = (rank_set_up(4, 0, "w0"), rank_set_up(4, 1, "w1"), group(5), saved(6))
    runs = history(job(at=1), *ranks, node("n-w0", "ALIVE"), runs=runs)
    return checkpoint_seen(runs, S1, NINE, 80.0)


def failed(*events):
    """The same after Ray Train gave up: FAILED, all ranks gone."""
    return history(policy(96, "RAISE"), *DEAD, FAILED, *events, runs=started())


def caused(class_id="worker_segfault", at=95.0, **more):
    named = incident(("job", more.pop("job_id", "02000000")), at=at)
    about = Subject(CLASSES[class_id].scope, more.pop("node", ""), more.pop("on", ""))
    known = {"id": f"i-{class_id}", "class_id": class_id, "subject": about, "gave_up": True}
    return replace(named, **{**known, **more})


class Desk:
    """A ledger and what is decided upon it; each decision is asked for twice."""

    def __init__(self, *rules, started_at=0.0):
        self.rules, self.started_at = rules or (RULE,), started_at
        self.ledger: dict[str, Action] = {}

    def decide(self, runs, *incidents, now=101.0):
        incidents = incidents or (caused(),)

        def ask():
            return decide(
                incidents,
                runs,
                self.ledger,
                self.rules,
                CLASSES,
                now=now,
                started_at=self.started_at,
            )

        new = ask()
        assert len({a.key for a in new}) == len(new)
        self.ledger |= {a.key: a for a in new}
        assert ask() == ()
        return [a.state for a in new]

    @property
    def last(self):
        return list(self.ledger.values())[-1]

    def answer(self, outcome="succeeded", at=102.0, action=None, **more):
        action = action or self.last
        told = Outcome(action.key, outcome, at, **{"detail": "", **more})
        self.ledger[action.key] = apply_outcome(action, told, at, self.rules[0])


# --- 1: rules and modes ---------------------------------------------------------------------------


def test_1_a_failed_run_is_started_again():
    desk = Desk()

    assert desk.decide(failed()) == ["started"]
    assert desk.last == Action(
        key=desk.last.key,
        run=S1,
        run_name="exp",
        incident="i-worker_segfault",
        class_id="worker_segfault",
        attempt=1,
        mode="auto",
        hook=JOB,
        state="started",
        created_at=101.0,
        due_at=101.0,
        old_submission=S1,
        old_job="02000000",
        checkpoint=NINE,
        started_at=101.0,
        detected_at=95.0,
    )


def test_1_nothing_without_a_rule_that_matches():
    desk = Desk(replace(RULE, run="llm-*"), replace(RULE, classes=("cuda_error",)))

    assert desk.decide(failed()) == []
    assert decide([caused()], failed(), {}, [], CLASSES, now=101, started_at=0) == ()


@pytest.mark.parametrize("glob", ["exp", "e?p", S1, "python *", "team-*"])
def test_1_a_rule_names_a_run_by_name_submission_entrypoint_or_metadata(glob):
    runs = history(replace(FAILED, metadata={"owner": "team-a"}), runs=failed())

    assert Desk(replace(RULE, run=glob)).decide(runs) == ["started"]


def test_1_our_own_metadata_names_no_run():
    runs = history(replace(FAILED, metadata={"raywatch_action": "team-a"}), runs=failed())

    assert Desk(replace(RULE, run="team-*")).decide(runs) == []


@pytest.mark.parametrize(
    ("mode", "then"),
    [("observe", "observed"), ("suggest", "suggested"), ("approve", "awaiting_approval")],
)
def test_1_only_in_its_mode(mode, then):
    desk = Desk(replace(RULE, mode=mode))

    assert desk.decide(failed()) == [then]
    assert desk.decide(failed(), now=500) == []


def test_1_what_was_approved_is_started_once_it_may():
    desk = Desk(replace(RULE, mode="approve"))
    going = history(policy(96, "RAISE"), *DEAD, runs=started())

    assert desk.decide(going) == ["awaiting_approval"]
    desk.ledger[desk.last.key] = approve(desk.last, 110.0)
    assert desk.decide(going, now=111) == ["waiting"]
    assert desk.decide(failed(), now=112) == ["started"]


def test_1_only_what_awaits_approval_can_be_approved():
    desk = Desk()
    desk.decide(failed())

    assert approve(desk.last, 102.0) is desk.last


def test_1_a_rule_that_becomes_stricter_holds_for_what_waits():
    desk = Desk()
    desk.decide(history(policy(96, "RAISE"), runs=started()))
    desk.rules = (replace(RULE, mode="approve"),)

    assert desk.decide(failed()) == ["awaiting_approval"]


def test_1_what_waits_is_abandoned_when_its_rule_is_gone():
    desk = Desk()
    desk.decide(history(policy(96, "RAISE"), runs=started()))
    desk.rules = (replace(RULE, run="other"),)

    assert desk.decide(failed()) == ["abandoned"]
    assert desk.decide(failed()) == []


# --- 2: roots at once, symptoms when they have settled ------------------------------------------------


def test_2_a_symptom_waits_for_its_cause():
    desk = Desk()
    ring = caused("ring_break", at=99.0)

    assert desk.decide(failed(), ring) == ["waiting"]
    assert desk.last.due_at == 99.0 + RULE.settle_s
    assert desk.decide(failed(), ring, now=99.0 + RULE.settle_s - 1) == []
    assert desk.decide(failed(), ring, now=99.0 + RULE.settle_s) == ["started"]


def test_2_a_symptom_acts_at_once_when_ray_recorded_a_death_reason():
    assert Desk().decide(failed(), caused("worker_crash", settled_at=96.0)) == ["started"]


def test_2_a_symptom_that_gets_a_root_acts_at_once():
    desk = Desk()
    desk.decide(failed(), caused("ring_break", id="i"))
    key = desk.last.key

    assert desk.decide(failed(), caused("worker_segfault", id="i")) == ["started"]
    assert (desk.last.key, desk.last.class_id) == (key, "worker_segfault")


def test_2_a_symptom_that_turns_out_a_bug_never_acts():
    desk = Desk()
    desk.decide(failed(), caused("ring_break", id="i"))

    assert desk.decide(failed(), caused("user_exception", id="i")) == ["abandoned"]
    assert desk.decide(failed(), caused("user_exception", id="i"), now=300) == []


# --- 3: only when the old one is over ------------------------------------------------------------------


@pytest.mark.parametrize("status", ["RUNNING", "PENDING"])
def test_3_an_active_submission_is_waited_for(status):
    desk = Desk()
    going = history(policy(96, "RAISE"), *DEAD, job(at=1, status=status), runs=started())

    assert desk.decide(going) == ["waiting"]
    assert desk.last.detail == f"the old submission is {status}"
    assert desk.decide(failed(), now=110) == ["started"]


@pytest.mark.parametrize("status", ["SUCCEEDED", "STOPPED"])
def test_3_a_submission_that_ended_otherwise_is_left_alone(status):
    ended = history(*DEAD, job(at=1, status=status, ended=100), runs=started())
    desk = Desk()

    assert desk.decide(ended) == []
    desk.decide(history(policy(96, "RAISE"), runs=started()))
    assert desk.decide(ended) == ["abandoned"]
    assert desk.decide(ended) == []


def test_3_ranks_that_are_not_known_to_be_gone_are_waited_for():
    desk = Desk()
    left = history(policy(96, "RAISE"), actor("a-w1", "DEAD"), FAILED, runs=started())

    assert desk.decide(left) == ["waiting"]
    assert desk.last.detail == "not known to be gone: rank 0"
    assert desk.decide(history(*DEAD, runs=left), now=103) == ["started"]


def test_3_another_active_job_of_the_run_is_waited_for():
    desk = Desk()
    twin = job(S2, at=0.5, job_id="03000000")

    assert desk.decide(failed(twin)) == ["waiting"]
    assert desk.decide(failed(replace(twin, status="STOPPED")), now=103) == ["started"]


def test_3_a_run_that_somebody_else_started_again_is_left_to_them():
    desk = Desk()
    desk.decide(history(policy(96, "RAISE"), runs=started()))
    by_hand = failed(
        job(S2, at=101, job_id="03000000"),
        fact("run_storage", 105, path="/s/exp", job_id="03000000"),
    )

    assert only(by_hand).submissions == (S1, S2)
    assert desk.decide(by_hand, now=110) == ["abandoned"]


def test_3_ray_train_restarts_its_run_itself():
    """`[FailurePolicy] RETRY` means hands off, until RAISE or until the driver is gone."""
    desk = Desk()
    retry = history(policy(96, "RETRY", "3"), *DEAD, runs=started())

    assert desk.decide(retry) == []
    assert desk.decide(history(policy(99, "RAISE", "3"), runs=retry)) == ["waiting"]
    assert Desk().decide(history(FAILED, runs=retry)) == ["started"]


def test_3_what_waited_is_abandoned_when_ray_train_goes_on():
    desk = Desk()
    desk.decide(history(policy(96, "RAISE"), runs=started()))
    again = history(policy(96, "RAISE"), policy(97, "RETRY", "3"), runs=started())

    assert desk.decide(again) == ["abandoned"]
    assert desk.decide(failed(), now=140) == ["started"], "and opened again if it fails after all"


def test_3_a_training_that_finished_is_not_resumed():
    assert Desk().decide(history(*DEAD, state(90, "FINISHED"), FAILED, runs=started())) == []


# --- 4: budgets and back-off -----------------------------------------------------------------------------


def resumed(desk, runs, n, at, *, class_id="worker_segfault", hook_says="succeeded"):
    """The n-th resume began, ran for ten seconds and failed as before."""
    action = desk.last
    assert action.state == "started"
    desk.answer(hook_says, at, submission_id=action.key)
    ours = {"raywatch_run": action.run, "raywatch_action": action.key}
    job_id = f"{n + 10:02}000000"
    runs = history(
        job(action.key, at=at, job_id=job_id, metadata=ours),
        group(at + 2, job_id=job_id),
        policy(at + 8, "RAISE", job_id=job_id),
        *(actor(f"x{n}{r}", "DEAD", pid=p) for r, p in ((0, 900), (1, 899))),
        job(action.key, "FAILED", at=at, ended=at + 10, job_id=job_id, metadata=ours),
        runs=runs,
    )
    ranks = [replace(r, actor_id="a-w0") for r in only(runs).ranks]
    runs = replace(runs, runs={S1: replace(only(runs), ranks=tuple(ranks))})
    return runs, caused(class_id, at=at + 8, job_id=job_id, id=f"i-{n}")


def test_4_the_budget_belongs_to_the_lineage():
    desk, runs, why, now = Desk(replace(RULE, max_attempts=2)), failed(), caused(), 101.0
    for n in range(2):
        assert desk.decide(runs, why, now=now)[-1] == "started"
        desk.ledger[desk.last.key] = replace(desk.last, first_step_at=now + 5)
        runs, why = resumed(desk, runs, n, now + 1)
        now += 500

    why = replace(why, last_at=now)
    assert desk.decide(runs, why, now=now) == ["suggested"]
    assert desk.last.detail == "the budget of 2 attempts is used up"
    assert [a.attempt for a in desk.ledger.values()] == [1, 2, 3]
    assert {a.run for a in desk.ledger.values()} == {S1}


def test_4_back_off_doubles_up_to_its_limit():
    desk = Desk(replace(RULE, backoff_s=10, backoff_max_s=25))
    runs, why, now, delays = failed(), caused(), 101.0, []
    for n in range(4):
        for later in range(200):
            if "started" in desk.decide(runs, why, now=now + later):
                break
        delays.append(later)
        now = desk.last.started_at
        desk.ledger[desk.last.key] = replace(desk.last, checkpoint=replace(NINE, step=n))
        runs, why = resumed(desk, runs, n, now)

    assert delays == [0, 10, 20, 25]


def test_4_progress_ends_the_doubling():
    desk = Desk(replace(RULE, backoff_s=10))
    runs, why, now = failed(), caused(), 101.0
    for n in range(4):
        desk.decide(runs, why, now=now)
        assert (desk.last.state, desk.last.started_at) == ("started", now)
        desk.ledger[desk.last.key] = replace(desk.last, first_step_at=now + 5)
        runs, why = resumed(desk, runs, n, now)
        now += 10


def test_4_what_is_no_fault_of_the_run_does_not_count_but_backs_off():
    desk = Desk(replace(RULE, max_attempts=1))
    runs, why, now = failed(), caused("spot_preemption"), 101.0
    for n in range(5):
        desk.decide(runs, why, now=now)
        assert (desk.last.state, desk.last.counted) == ("started", False)
        runs, why = resumed(desk, runs, n, now, class_id="spot_preemption")
        assert desk.decide(runs, why, now=now + 9) == ["waiting"]
        now = desk.last.due_at


def test_4_a_lineage_whose_name_changes_each_time_has_one_budget():
    """RunConfig without a name gets a new one from Ray Train in each submission."""
    desk = Desk(replace(RULE, max_attempts=1))
    desk.decide(failed())
    desk.answer(submission_id=S2)
    renamed = (
        job(S2, at=200, job_id="03000000", metadata={"raywatch_run": "lost with the store"}),
        group(210, name="exp-2", job_id="03000000"),
        policy(220, "RAISE", name="exp-2", job_id="03000000"),
        job(S2, "FAILED", at=200, ended=230, job_id="03000000"),
    )
    runs = history(*renamed)
    runs = replace(runs, actors={}, runs={k: replace(r, ranks=()) for k, r in runs.runs.items()})

    assert desk.decide(runs, caused(at=219, job_id="03000000", id="i2"), now=300) == ["suggested"]
    assert desk.last.run_name == "exp-2"


def test_4_a_lineage_is_followed_along_its_submissions():
    desk = Desk()
    desk.decide(failed())
    first = replace(desk.last, key="k1", run="a", state="succeeded", submission_id="k1")
    second = replace(first, key="k2", run="b", old_submission="k1", submission_id="k2", attempt=2)
    stranger = replace(first, key="k9", run="z", old_submission="elsewhere", submission_id="k9")
    runs = history(job("k2", at=300))

    past = history_of(only(runs), runs, {a.key: a for a in (second, stranger, first)})
    assert past == (first, second)


def test_4_a_hook_that_failed_is_run_again_within_the_budget():
    desk = Desk(replace(RULE, max_attempts=2))
    first = desk.decide(failed(), caused("spot_preemption"))
    desk.answer("failed", 103.0)

    assert first == ["started"]
    assert desk.decide(failed(), caused("spot_preemption"), now=104) == ["waiting"]
    assert (desk.last.attempt, desk.last.due_at) == (2, 113.0)
    assert desk.decide(failed(), caused("spot_preemption"), now=113) == ["started"]
    assert len({a.key for a in desk.ledger.values()}) == 2


@pytest.mark.parametrize("outcome", ["interrupted", "timed_out"])
def test_4_a_command_of_unknown_outcome_is_not_run_again_unless_it_may(outcome):
    for may, then in [(False, []), (True, ["started"])]:
        desk = Desk(replace(RULE, hook=replace(COMMAND, retry_interrupted=may)))
        desk.decide(failed())
        desk.answer(outcome)
        assert desk.decide(failed(), now=200) == then


@pytest.mark.parametrize("outcome", ["succeeded", "refused", "interrupted"])
def test_4_what_was_done_is_not_done_twice(outcome):
    desk = Desk()
    desk.decide(failed())
    desk.answer(outcome)

    assert desk.decide(failed(), caused(), caused("node_lost", at=96), now=500) == []


# --- 5: what the class advises ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "class_id",
    [
        c.id
        for c in CLASSES.values()
        if c.resume in ("never", "none") or c.role in ("warning", "benign")
    ],
)
def test_5_what_repeats_itself_or_is_no_failure_never_acts(class_id):
    named = replace(RULE, classes=(class_id,))

    assert Desk().decide(failed(), caused(class_id, settled_at=96.0)) == []
    if CLASSES[class_id].resume == "never" or CLASSES[class_id].role in ("warning", "benign"):
        assert Desk(named).decide(failed(), caused(class_id, settled_at=96.0)) == []


@pytest.mark.parametrize(
    "class_id", [c.id for c in CLASSES.values() if c.resume in ("now", "counted")]
)
def test_5_now_and_counted_act(class_id):
    settled = caused(class_id, settled_at=96.0)
    desk = Desk()

    assert desk.decide(failed(), settled) == ["started"]
    assert desk.last.counted == (CLASSES[class_id].resume == "counted")


def test_5_elsewhere_is_fulfilled_when_the_node_is_dead():
    lost = caused("node_lost", node="n-w0", on="n-w0")
    desk = Desk()

    assert desk.decide(failed(), lost) == ["suggested"]
    assert desk.decide(failed(node("n-w0", "DEAD")), lost, now=103) == ["started"]
    assert desk.last.avoid_nodes == ()


def test_5_elsewhere_a_command_is_told_the_node_that_lives():
    desk = Desk(BY_COMMAND)

    assert desk.decide(failed(), caused("gpu_lost", node="GPU-1", on="n-w0")) == ["started"]
    assert desk.last.avoid_nodes == ("n-w0",)


def test_5_elsewhere_without_a_known_node_is_for_a_person():
    assert Desk().decide(failed(), caused("nccl_network_error")) == ["suggested"]


def test_5_older_needs_a_hook_that_can_choose():
    four = replace(NINE, path="/s/exp/c4", step=4)
    runs = checkpoint_seen(checkpoint_seen(failed(), S1, four, 99), S1, NINE, 100)
    desk = Desk(BY_COMMAND)

    assert Desk().decide(runs, caused("nan_loss")) == ["suggested"]
    assert desk.decide(runs, caused("nan_loss")) == ["started"]
    assert desk.last.checkpoint == four
    assert Desk(BY_COMMAND).decide(failed(), caused("nan_loss")) == ["suggested"]


def test_5_changed_is_for_a_person_until_a_rule_says_that_it_was():
    named = replace(RULE, classes=("cuda_oom",))
    desk = Desk()

    assert desk.decide(failed(), caused("cuda_oom")) == ["suggested"]
    assert desk.last.detail == "something must be changed first: GPU memory is exhausted"
    assert Desk(named).decide(failed(), caused("cuda_oom")) == ["started"]


def test_5_a_suggestion_stays_and_never_becomes_an_act_when_it_is_old():
    desk, lost = Desk(), caused("node_lost", node="n-w0", on="n-w0")
    desk.decide(failed(), lost)

    desk.decide(failed(node("n-w0", "DEAD")), lost, now=5000)
    assert desk.last.state == "suggested"


# --- 6: checkpoints ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "then"),
    [
        ("corrupt", "suggested"),
        ("dir_missing", "suggested"),
        ("torn", "waiting"),
        ("missing", "started"),
    ],
)
def test_6_a_corrupt_snapshot_is_never_resumed_by_itself(reason, then):
    """`missing` is a run that ended before its first checkpoint: it begins anew."""
    runs = checkpoint_seen(failed(), S1, CheckpointProblem(reason, "at char 329"), 100.0)

    assert Desk().decide(runs) == [then]


# --- 7: history -----------------------------------------------------------------------------------------------


def test_7_what_ended_before_the_first_start_never_acts():
    assert Desk(started_at=100.5).decide(failed()) == []
    assert Desk(started_at=99.0).decide(failed()) == ["started"]


def test_7_what_is_too_old_never_acts():
    assert Desk().decide(failed(), now=100 + RULE.max_age_s + 1) == []
    assert Desk().decide(failed(), now=100 + RULE.max_age_s) == ["started"]


def test_7_what_waited_too_long_is_given_up():
    desk = Desk()
    going = history(policy(96, "RAISE"), *DEAD, runs=started())
    desk.decide(going)

    assert desk.decide(going, now=101 + RULE.max_age_s) == []
    assert desk.decide(going, now=102 + RULE.max_age_s + RULE.backoff_max_s) == ["abandoned"]


def test_7_an_incident_of_an_earlier_life_does_not_end_the_next():
    """The node's loss is over; that the resumed run raised is its own doing."""
    desk = Desk()
    lost = caused("spot_preemption", node="n-w0", on="n-w0", last_at=150.0)
    desk.decide(failed(), lost)
    runs, bug = resumed(desk, failed(), 1, 110.0, class_id="user_exception")

    assert desk.decide(runs, lost, bug, now=130) == []


def test_7_an_incident_that_names_nobody_ends_one_life_of_a_run():
    """A node's loss may last; it is used up by the resume that it caused, of this run."""
    ours = {"raywatch_run": S1}
    runs = failed(job(S2, "FAILED", at=120, ended=150, job_id="03000000", metadata=ours))
    run = only(runs)
    lost = caused("node_lost", node="n-w0", on="n-w0", entities=frozenset(), last_at=140.0)
    desk = Desk()
    desk.decide(failed())
    mine = replace(desk.last, incident=lost.id, state="succeeded")
    others = replace(mine, run="another", old_submission="another")

    assert is_about_now(run, runs, lost, ())
    assert is_about_now(run, runs, lost, (others,))
    assert not is_about_now(run, runs, lost, (mine,))
    assert is_about_now(run, runs, replace(lost, first_at=125.0), (mine,))
    assert not is_about_now(run, runs, replace(lost, last_at=119.0), ())


def test_7_an_incident_that_ray_train_survived_does_not_end_the_run_later():
    old = caused("worker_segfault", at=20.0, gave_up=False, restarted=True)
    later = caused("user_exception", at=95.0)
    runs = history(policy(21, "RETRY", "3"), group(40), *DEAD, FAILED, runs=started())
    runs = replace(runs, runs={S1: replace(only(runs), ranks=())})

    assert Desk().decide(runs, old, later) == []
    assert Desk().decide(runs, replace(old, last_at=96.0, gave_up=True)) == ["started"]


def test_7_a_node_lost_long_after_the_run_failed_did_not_end_it():
    lost = caused("node_lost", at=500.0, node="n-w0", on="n-w0")
    named_only = replace(lost, entities=frozenset(), runs=(S1,))

    assert Desk().decide(failed(node("n-w0", "DEAD")), named_only, now=501) == []


# --- 8: what may act ---------------------------------------------------------------------------------------------


def test_8_what_may_not_act_never_acts():
    """Trial signatures, text of unknown origin."""
    assert Desk().decide(failed(), caused(acts=False)) == []


def test_8_a_run_that_goes_on_is_left_alone():
    going = started()

    assert Desk().decide(going, caused(gave_up=False)) == []
    assert Desk().decide(going, caused(gave_up=False, restarted=True)) == []
    assert Desk().decide(going, caused(gave_up=True)) == ["waiting"]


# --- 9: poison ----------------------------------------------------------------------------------------------------


def test_9_three_resumes_without_progress_are_enough():
    desk, runs, why, now = Desk(), failed(), caused(), 101.0
    for n in range(3):
        desk.decide(runs, why, now=now)
        assert desk.last.state == "started", n
        runs, why = resumed(desk, runs, n, now)
        now += 100

    why = replace(why, last_at=now)
    assert desk.decide(runs, why, now=now) == ["suggested"]
    assert desk.last.detail == "3 resumes ended in worker_segfault without progress beyond step 9"


def test_9_another_class_or_another_checkpoint_is_another_story():
    desk, runs, why, now = Desk(), failed(), caused(), 101.0
    for n in range(3):
        desk.decide(runs, why, now=now)
        runs, why = resumed(desk, runs, n, now)
        now += 100
    assert desk.decide(runs, replace(why, last_at=now), now=now) == ["suggested"]
    del desk.ledger[desk.last.key]
    moved = checkpoint_seen(runs, S1, replace(NINE, path="/s/exp/c20", step=20), now)

    other = replace(why, class_id="cuda_error", last_at=now)
    assert desk.decide(moved, replace(why, last_at=now), now=now) == ["started"]
    del desk.ledger[desk.last.key]
    assert desk.decide(runs, other, now=now) == ["started"]


# --- 10: one action a failure ----------------------------------------------------------------------------------


def test_10_two_incidents_of_one_end_give_one_action_by_the_best():
    ring = caused("ring_break", trust=Trust.COLLECTIVE, settled_at=96.0)
    spot = caused("spot_preemption", trust=Trust.NOTICE, at=97.0)
    crash = caused("worker_segfault", trust=Trust.PROCESS)
    for order in ((ring, spot, crash), (crash, spot, ring)):
        desk = Desk()
        assert desk.decide(failed(), *order) == ["started"]
        assert desk.last.class_id == "spot_preemption"


def test_10_a_bug_is_not_resumed_by_its_symptoms():
    bug, symptom = caused("user_exception"), caused("train_failed", settled_at=96.0)

    assert Desk().decide(failed(), bug, symptom) == []


def test_10_two_runs_of_one_submission_give_one_action():
    runs = history(
        job(at=1), group(5, name="a"), group(9, name="b"), policy(96, "RAISE", name="b"), FAILED
    )
    runs = replace(runs, runs={k: replace(r, ranks=()) for k, r in runs.runs.items()})
    desk = Desk()

    assert desk.decide(runs) == ["started"]
    desk.answer()
    assert desk.decide(runs, now=300) == []


def test_10_a_root_of_little_trust_beats_a_symptom_of_much():
    bug = caused("user_exception", trust=Trust.PROCESS)
    crash = caused("worker_crash", trust=Trust.RAY, settled_at=96.0)

    assert Desk().decide(failed(), bug, crash) == []


def test_10_the_key_is_the_same_for_the_same_failure_and_fit_for_a_submission_id():
    keys = []
    for name in ("exp", "exp", "Größe/" + "x" * 80, "..", "A  b"):
        runs = failed()
        runs = replace(runs, runs={S1: replace(only(runs), name=name)})
        desk = Desk()
        desk.decide(runs)
        keys.append(desk.last.key)

    tail = keys[0].rpartition("-")[2]
    assert keys == [
        f"raywatch-exp-1-{tail}",
        f"raywatch-exp-1-{tail}",
        f"raywatch-gr-e-{'x' * 35}-1-{tail}",
        f"raywatch-run-1-{tail}",
        f"raywatch-a-b-1-{tail}",
    ]
    assert len(tail) == 8


def test_10_one_hook_at_a_time():
    """What it started may fail before the hook itself has answered."""
    desk = Desk()
    desk.decide(failed())
    key = desk.last.key
    ours = {"raywatch_run": S1, "raywatch_action": key}
    runs = failed(
        job(key, "FAILED", at=102, ended=110, job_id="03000000", metadata=ours),
    )
    runs = replace(runs, runs={S1: replace(only(runs), ranks=())})
    why = caused(at=109, job_id="03000000", id="i2")

    assert desk.decide(runs, why, now=150) == []
    desk.answer(at=151, submission_id=key)
    assert desk.decide(runs, why, now=161) == ["started"]


# --- 11: drivers that were started by hand ---------------------------------------------------------------------


def by_hand():
    ranks = (group(5), saved(6), policy(96, "RAISE"))
    runs = history(driver(at=1), *ranks, driver("SUCCEEDED", at=1, ended=100))
    dead = (actor("x0", "DEAD", pid=900), actor("x1", "DEAD", pid=899))
    return history(*dead, runs=runs)


def test_11_a_hand_run_driver_needs_a_command():
    desk, command = Desk(), Desk(BY_COMMAND)

    assert desk.decide(by_hand()) == ["suggested"]
    assert desk.last.detail.startswith("hand-run driver: entrypoint environment unknown")
    assert command.decide(by_hand()) == ["started"]
    command.answer()
    assert command.decide(by_hand(), caused("driver_killed", at=97), now=300) == []


def test_11_a_driver_whose_end_nobody_told_acts_only_on_proof():
    runs = history(driver(at=1), group(5), driver("SUCCEEDED", at=1, ended=100))
    runs = history(actor("x0", "DEAD", pid=900), actor("x1", "DEAD", pid=899), runs=runs)
    killed = caused("driver_killed")

    assert Desk(BY_COMMAND).decide(runs, replace(killed, gave_up=False)) == []
    assert Desk(BY_COMMAND).decide(runs, killed) == ["started"]


def test_11_the_same_job_id_in_a_new_session_is_another_end():
    desk = Desk(BY_COMMAND)
    before = history(SessionSeen(0, "", "session_1"), runs=by_hand())
    desk.decide(before)
    desk.answer()
    began = fact("run_storage", 301, path="/s/exp", session="session_2")
    ended = policy(396, "RAISE", session="session_2")
    runs = history(
        began, driver(at=300), ended, driver("SUCCEEDED", at=300, ended=400), runs=before
    )

    assert only(runs).jobs == ("02000000",)
    assert desk.decide(runs, caused(at=395, id="i2"), now=401) == ["started"]


# --- outcomes and progress -----------------------------------------------------------------------------------------


def test_a_deferred_action_waits_and_counts_for_nothing():
    desk = Desk()
    desk.decide(failed())
    desk.answer("deferred", 102.0, detail="driver is alive")
    waiting = desk.last

    assert (waiting.state, waiting.due_at, waiting.started_at) == ("waiting", 112.0, None)
    assert desk.decide(failed(), now=111) == []
    assert desk.decide(failed(), now=112) == ["started"]
    assert (desk.last.key, desk.last.attempt) == (waiting.key, 1)


def test_an_answer_to_what_was_not_started_changes_nothing():
    desk = Desk(replace(RULE, mode="suggest"))
    desk.decide(failed())
    told = Outcome(desk.last.key, "succeeded", 102.0, "")

    assert apply_outcome(desk.last, told, 102.0, RULE) is desk.last
    running = replace(desk.last, state="started")
    assert apply_outcome(running, replace(told, key="another"), 102.0, RULE) is running


def test_progress_is_a_step_beyond_the_checkpoint_on_the_new_submission():
    desk = Desk()
    runs = failed(step(90, 14))
    desk.decide(runs)
    key = desk.last.key
    desk.answer(at=102.0, submission_id=key)
    ours = {"raywatch_run": S1, "raywatch_action": key}
    runs = history(job(key, at=103, job_id="03000000", metadata=ours), runs=runs)

    for at, number in ((110, 9), (111, 10), (112, 11)):
        runs = history(step(at, number, job_id="03000000"), runs=runs)
        desk.ledger[key] = progress(desk.last, runs, float(at))
    assert (desk.last.first_step_at, desk.last.first_step) == (111, 10)


def test_the_old_submissions_steps_are_no_progress():
    desk = Desk()
    desk.decide(failed())
    desk.answer(at=102.0)
    late = history(step(103, 20), runs=failed())

    assert progress(desk.last, late, 104.0) is desk.last


def test_steps_from_before_the_hook_ran_are_no_progress():
    desk = Desk()
    desk.decide(failed())
    desk.answer(at=102.0, submission_id=desk.last.key)
    began = job(desk.last.key, at=103, job_id="03000000", metadata={"raywatch_run": S1})
    runs = failed(began, step(110, 20, job_id="03000000"))
    early = replace(desk.last, started_at=111.0)

    assert progress(early, runs, 112.0) is early
    assert progress(desk.last, runs, 112.0).first_step == 20


def test_a_commands_progress_is_seen_on_the_next_life_of_its_run():
    desk = Desk(BY_COMMAND)
    desk.decide(by_hand())
    desk.answer(at=102.0)
    began = fact("run_storage", 105, path="/s/exp", job_id="03000000")
    runs = history(began, step(110, 15, job_id="03000000"), runs=by_hand())

    assert progress(desk.last, runs, 111.0).first_step == 15


def test_an_action_outlives_its_incident_only_so_long():
    desk = Desk()
    going = history(policy(96, "RAISE"), *DEAD, runs=started())
    desk.decide(going)
    nobody = caused(entities=frozenset({Entity("job", "77000000")}), id="another")

    assert desk.decide(going, nobody, now=200) == []
    assert desk.decide(going, nobody, now=3000) == ["abandoned"]
