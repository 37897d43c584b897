"""When raywatch must not act although much looks as if it should: each test was once a resume too many."""

from __future__ import annotations

from dataclasses import replace

from raywatch.core.lineage import restored
from raywatch.core.saved import checkpoint_seen
from raywatch.model import Trust
from raywatch.observations import SessionSeen
from tests.core.desk import DEAD, FAILED, NINE, RULE, Desk, caused, failed, resumed, started
from tests.core.runkit import S1, S2, group, history, job, only, policy, saved, state, step

# --- what ended the run -----------------------------------------------------------------------------------


def test_a_bug_long_after_a_failure_that_did_no_harm_is_not_resumed():
    """A data worker died at 20 and Ray ran its task again; what ended the job at 500 is the program's own bug."""
    bug = caused("user_exception", trust=Trust.PROCESS, at=500.0)
    runs = history(
        policy(501, "RAISE"), *DEAD, job(at=1, status="FAILED", ended=502), runs=started()
    )
    for class_id in ("worker_segfault", "node_terminated_expected", "gcs_failure"):
        early = caused(class_id, trust=Trust.RAY, at=20.0, gave_up=False)
        assert Desk().decide(runs, early, bug, now=503) == []


def test_a_failure_after_which_the_run_made_progress_did_not_end_it():
    """Nobody here could read why it failed in the end; the old failure is no reason."""
    runs = history(step(400, 50), *DEAD, job(at=1, status="FAILED", ended=502), runs=started())
    early = caused("gcs_failure", trust=Trust.RAY, at=20.0, gave_up=False)

    assert Desk().decide(runs, early, now=503) == []
    assert Desk().decide(runs, replace(early, last_at=495.0), now=503) == ["started"]


def test_a_failure_of_hours_ago_did_not_end_what_fails_now():
    runs = history(*DEAD, job(at=1, status="FAILED", ended=20_000), runs=started())
    early = caused("worker_segfault", trust=Trust.RAY, at=95.0, gave_up=False)

    assert Desk().decide(runs, early, now=20_001) == []
    frozen = replace(early, last_at=18_100.0)  # a ring that waited for 30 minutes
    assert Desk().decide(runs, frozen, now=20_001) == ["started"]


# --- who has started it again already -----------------------------------------------------------------------


def test_what_a_person_started_again_and_saw_finish_is_not_started_once_more():
    """No Ray Train name says that the two submissions are one run; the same command does."""
    first = job(at=1, status="FAILED", ended=100)
    desk = Desk(replace(RULE, run="*"))
    why = caused(gave_up=True)
    again = job(S2, at=101, job_id="03000000")

    waits = history(first, again)
    assert desk.decide(waits, why, now=102) == ["waiting"]
    for status in ("SUCCEEDED", "STOPPED", "FAILED"):
        over = history(replace(again, status=status, ended_at=200), runs=waits)
        assert "started" not in Desk().decide(over, why, now=201), status
        assert "started" not in desk.decide(over, why, now=201), status


def test_the_same_command_that_ended_before_or_beside_is_no_new_start():
    before = job(S2, "SUCCEEDED", at=0, ended=50, job_id="03000000")
    beside = job("other", "SUCCEEDED", at=60, ended=99, job_id="04000000")
    runs = history(before, beside, job(at=1, status="FAILED", ended=100))

    assert Desk().decide(runs) == ["started"]


# --- after the daemon was started again -----------------------------------------------------------------------


def test_a_training_that_finished_is_finished_also_after_the_daemon_was_restarted():
    """What failed was the program behind fit()."""
    runs = history(state(90, "FINISHED"), *DEAD, FAILED, runs=started())
    assert only(runs).status == "finished"
    assert Desk().decide(runs) == []

    again = history(*DEAD, FAILED, runs=restored([replace(only(runs), ranks=())]))
    assert only(again).status == "finished"
    assert Desk().decide(again) == []


def test_a_stranger_with_the_old_job_id_of_another_session_joins_no_run():
    """Job ids begin again with each session; the daemon was away when the cluster was started anew."""
    before = history(SessionSeen(0, "", "session_1"), job(at=1), group(5), saved(6), FAILED)
    stored = list(before.runs.values())

    later = restored(stored)
    later = history(
        SessionSeen(1000, "", "session_2"), job("debug", at=1001, job_id="02000000"), runs=later
    )
    assert later.runs[S1].submissions == (S1,)
    assert later.runs["debug"].submissions == ("debug",)


def test_a_stranger_joins_no_run_also_when_the_switch_was_seen_before_the_restart():
    before = history(
        SessionSeen(0, "", "session_1"),
        job(at=1),
        group(5),
        saved(6),
        FAILED,
        SessionSeen(500, "", "session_2"),
        job("second", at=501, job_id="01000000"),
    )
    later = restored(list(before.runs.values()))
    later = history(
        SessionSeen(1000, "", "session_2"), job("debug", at=1001, job_id="02000000"), runs=later
    )

    assert later.runs[S1].submissions == (S1,)
    assert set(later.runs) == {S1, "second", "debug"}
    assert later.life("second").jobs == ("01000000",)


def test_a_user_who_interrupted_the_training_is_not_overruled():
    """Ctrl-C reaches the controller; the driver's exit code makes the job FAILED all the same."""
    runs = history(state(90, "ABORTED"), *DEAD, FAILED, runs=started())

    assert "started" not in Desk().decide(runs, caused("job_driver_failed", settled_at=99.0))


# --- what must not be delayed --------------------------------------------------------------------------------


def test_a_checkpoint_that_moved_on_is_progress_also_where_no_step_is_seen():
    """The ranks' logs are on other nodes; seven failures in a month are no reason to wait ten minutes."""
    desk = Desk(replace(RULE, backoff_s=10))
    runs, why, now = failed(), caused(), 101.0
    for n in range(4):
        desk.decide(runs, why, now=now)
        assert (desk.last.state, desk.last.started_at) == ("started", now)
        runs, why = resumed(desk, runs, n, now)
        runs = checkpoint_seen(runs, S1, replace(NINE, path=f"/c{n}", step=20 + n, at=now), now)
        now += 10


# --- a budget that forgets is no budget ------------------------------------------------------------------------


def test_a_new_store_knows_from_the_jobs_metadata_how_often_it_was_tried():
    """So does a second daemon: both give the next attempt the same number, and so the same key."""
    ours = {"raywatch_run": S1, "raywatch_action": "k", "raywatch_attempt": "7"}
    runs = history(job("k", "FAILED", at=1, ended=100, metadata=ours))

    desk = Desk(replace(RULE, max_attempts=8))
    assert desk.decide(runs) == ["started"]
    assert desk.last.attempt == 8
    assert Desk(replace(RULE, max_attempts=7)).decide(runs) == ["suggested"]
    odd = history(job("k", "FAILED", at=1, ended=100, metadata={**ours, "raywatch_attempt": "-x"}))
    assert Desk().decide(odd) == ["started"]
