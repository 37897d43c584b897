"""When raywatch may act, laws 5 to 11: classes, checkpoints, history, poison, keys, drivers; and what comes of it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from raywatch.core.policy import apply_outcome, progress
from raywatch.core.relevance import is_about_now
from raywatch.core.saved import checkpoint_seen
from raywatch.model import CheckpointProblem, Entity, Outcome, Trust
from raywatch.observations import SessionSeen
from tests.core.desk import (
    BY_COMMAND,
    CLASSES,
    DEAD,
    FAILED,
    NINE,
    RULE,
    Desk,
    caused,
    failed,
    resumed,
    started,
)
from tests.core.runkit import (
    S1,
    S2,
    actor,
    driver,
    fact,
    group,
    history,
    job,
    node,
    only,
    policy,
    saved,
    step,
)

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


def test_5_older_is_known_from_the_disk_and_goes_on_though_the_newest_is_cut():
    """The newest folder alone is corrupt: what the hook gets is the one before it."""
    four = replace(NINE, path="/s/exp/c4", step=4)
    cut = CheckpointProblem("corrupt", "state.pt: is cut")
    runs = checkpoint_seen(failed(), S1, cut, 100.0, four)
    desk = Desk(BY_COMMAND)

    assert desk.decide(runs, caused("checkpoint_corrupt")) == ["started"]
    assert desk.last.checkpoint == four
    assert Desk().decide(runs, caused("checkpoint_corrupt")) == ["suggested"]
    assert Desk(BY_COMMAND).decide(runs) == ["suggested"]  # another class begins at the newest


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


def test_10_a_node_that_goes_after_a_bug_resumes_nothing():
    """Ray needs 14 s to declare a node dead; what is lost later did not raise the exception."""
    bug = caused("user_exception", trust=Trust.PROCESS, at=60.0)
    for at, then in ((70.0, ["started"]), (90.0, [])):
        spot = caused("spot_preemption", trust=Trust.NOTICE, at=at)
        assert Desk().decide(failed(), bug, spot) == then
        assert Desk().decide(failed(), spot, bug) == then


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


@pytest.mark.parametrize("weaker", ["ray_oom_kill", "user_exception", "hang"])
def test_10_a_better_class_is_decided_anew(weaker):
    """What was only suggested or given up under a weaker name goes on under the better one, with the same key."""
    desk = Desk()
    desk.decide(failed(), caused("train_failed", id="i"))  # waits for its cause
    desk.decide(failed(), caused(weaker, id="i"), now=102.0)
    before = desk.last

    then = desk.decide(failed(), caused("spot_preemption", id="i", trust=Trust.NOTICE), now=103.0)

    assert then == (["started"] if before.state != "started" else [])
    assert (len(desk.ledger), desk.last.key) == (1, before.key)


@pytest.mark.parametrize(
    ("submission", "slug"),
    [
        (S1, "raysubmit-one"),
        ("Größe/" + "x" * 80, "gr-e-" + "x" * 35),
        ("..", "run"),
        ("raywatch-raysubmit-one-3-0123abcd", "raysubmit-one"),  # ours: the name does not grow
    ],
)
def test_10_the_key_is_fit_for_a_submission_id(submission, slug):
    gone = (policy(96, "RAISE"), *DEAD)
    runs = history(
        job(submission, at=1), group(5), *gone, job(submission, "FAILED", at=1, ended=100)
    )
    runs = replace(runs, runs={k: replace(r, name="", ranks=()) for k, r in runs.runs.items()})
    desk = Desk()
    desk.decide(runs)

    assert re.fullmatch(rf"raywatch-{slug}-1-[0-9a-f]{{8}}", desk.last.key)


def test_10_daemons_with_different_stores_give_one_failure_one_key():
    """One read Ray Train's lines before the API, one knows the API alone: Ray refuses the second submission."""
    by_logs = history(group(5), saved(6), job(at=1), policy(96, "RAISE"), *DEAD, FAILED)
    by_api = history(job(at=1), FAILED)
    keys = set()
    for known in (by_logs, by_api):
        gone = {k: replace(r, ranks=()) for k, r in known.runs.items()}
        desk = Desk()
        assert desk.decide(replace(known, runs=gone)) == ["started"]
        keys.add(desk.last.key)

    assert len(keys) == 1


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
