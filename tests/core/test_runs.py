"""Runs are lineages: built from log lines alone, joined with what the APIs say, never split or mixed up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raywatch.core.levels import fault_tolerance
from raywatch.core.runs import (
    note,
    observe,
    ranks_left,
    restored,
    rivals,
    runs_hurt,
    submission_status,
    touches_life,
)
from raywatch.core.saved import checkpoint_seen
from raywatch.model import Checkpoint, CheckpointProblem, Evidence, Fact, Rank, Run
from raywatch.observations import EndpointHealth, SessionSeen, WorkerSeen
from tests.core.runkit import (
    S1,
    S2,
    actor,
    attempt,
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
    train_run,
)

LOG = "ray-train-app.log"

# --- lineages ------------------------------------------------------------------------------------


def test_a_run_is_built_from_log_lines_alone():
    """Ray Train's state API is off by default."""
    run = only(history(rank_set_up(9, 1, "w1"), group(10), step(12, 4), saved(12)))

    assert (run.name, run.storage_path, run.status) == ("exp", "/s", "running")
    assert (run.step, run.step_at, run.world_sizes) == (4, 12, (2,))
    assert run.ranks == (
        Rank(0, "", 900, "a-w0", "w0", "10.0.0.2", LOG),
        Rank(1, "n-w1", 899, "a-w1", "w1", "10.0.0.3", LOG),
    )


def test_a_submission_that_is_named_later_keeps_its_lineage_id():
    runs = history(job(at=1), group(10), saved(12))

    run = only(runs)
    assert (run.id, run.name, run.submissions, run.jobs) == (S1, "exp", (S1,), ("02000000",))


def test_a_submission_without_ray_train_is_a_run_of_unknown_level():
    run = only(history(job(at=1)))

    assert (run.name, run.kind, run.level) == (S1, "submission", None)


def test_log_lines_that_come_before_the_job_id_is_known_join_its_submission():
    """A PENDING submission has no job id: its run and that of the lines are one."""
    runs = history(job(at=1, status="PENDING", job_id=""), group(10), job(at=1, status="RUNNING"))

    run = only(runs)
    assert (run.id, run.name, run.status, run.kind) == (S1, "exp", "running", "submission")
    assert runs.get("exp#02000000-10") == run


def test_our_own_resubmission_is_the_same_lineage():
    ours = {"raywatch_run": S1, "raywatch_action": "k", "raywatch_attempt": "1"}
    runs = history(
        job(at=1),
        group(5),
        job(at=1, status="FAILED", ended=20),
        job(S2, at=30, job_id="03000000", metadata=ours),
        job(S2, at=30, job_id="03000000", metadata=ours),
        group(40, job_id="03000000"),
    )

    run = only(runs)
    assert (run.id, run.submissions, run.resumes, run.status) == (S1, (S1, S2), 1, "running")
    assert run.ended_at is None


def test_a_resubmission_is_found_by_its_metadata_also_in_an_empty_store():
    """In whatever order the Jobs API lists the two."""
    ours = {"raywatch_run": S1, "raywatch_action": "k"}
    newest = job(S2, at=30, job_id="03000000", metadata=ours)
    oldest = job(at=1, status="FAILED", ended=20)

    for seen in ((newest, oldest), (oldest, newest)):
        run = only(history(*seen))
        assert (run.id, run.submissions, run.status) == (S1, (S1, S2), "running")


def test_a_resubmission_by_hand_of_the_same_name_and_storage_is_the_same_lineage():
    """Also where one path comes from the log without and one from the API with a scheme."""
    first = history(
        job(at=1), group(5), saved(6, "bucket/llm"), job(at=1, status="FAILED", ended=9)
    )
    runs = history(
        job(S2, at=30, job_id="03000000"),
        train_run(35, job_id="03000000", storage_path="s3://bucket/llm/", started_at=31.0),
        runs=first,
    )

    run = only(runs)
    assert (run.id, run.submissions, run.status) == (S1, (S1, S2), "running")
    assert runs.get(S2) == run


def test_the_same_name_in_two_storage_paths_is_two_runs():
    runs = history(
        group(5),
        saved(6, "/one"),
        group(7, job_id="03000000"),
        saved(8, "/two", job_id="03000000"),
    )

    assert sorted((r.name, r.storage_path) for r in runs.runs.values()) == [
        ("exp", "/one"),
        ("exp", "/two"),
    ]


def test_two_ray_train_runs_of_one_submission_are_two_runs():
    runs = history(job(at=1), group(5, name="a"), group(9, name="b"))

    assert [(r.name, r.submissions) for r in runs.runs.values()] == [("a", (S1,)), ("b", (S1,))]


def test_late_lines_of_an_earlier_submission_change_nothing():
    ours = {"raywatch_run": S1}
    runs = history(job(at=1), group(5), job(S2, at=30, job_id="03000000", metadata=ours))
    later = history(policy(50, "RAISE"), step(51, 99), state(52, "ERRORED"), runs=runs)

    assert (only(later).status, only(later).step) == (only(runs).status, None)


def test_job_ids_begin_again_with_each_session_of_ray():
    """Job 02000000 of a new head is not the one of the old head, and its actors are others."""
    runs = history(SessionSeen(0, "2.60", "session_1"), job(at=1), group(5), saved(6))
    runs = history(SessionSeen(100, "2.60", "session_2"), group(110, name="other"), runs=runs)

    old, new = runs.runs.values()
    assert (old.id, old.status, new.name) == (S1, "unknown", "other")
    assert runs_hurt(runs, incident(("job", "02000000"))) == (new.id,)


def test_lines_of_an_older_session_are_history():
    runs = history(SessionSeen(0, "2.60", "session_2"))

    assert note(runs, group(1, session="session_1"), 1.0) == runs


def test_a_hand_run_driver_started_again_in_a_new_session_begins_a_new_life():
    before = history(SessionSeen(0, "", "session_1"), group(5), saved(6), policy(9, "RAISE"))
    storage = fact("run_storage", 101, path="/s/exp", session="session_2")
    runs = history(storage, group(110, session="session_2"), runs=before)

    assert (only(runs).status, only(runs).jobs) == ("running", ("02000000",))
    by_api = history(
        SessionSeen(100, "", "session_2"), train_run(101, started_at=100.5), runs=before
    )
    assert (only(by_api).status, only(by_api).last_policy) == ("running", "")


def test_runs_that_were_stored_are_found_again_by_all_they_own():
    ranks = (rank_set_up(4, 0, "w0"), group(5))
    session = SessionSeen(0, "2.60", "session_1")
    run = only(history(session, job(at=1), *ranks, policy(9, "RAISE")))
    assert only(history(job(at=1), *ranks, policy(9, "RAISE"), session)).session == run.session
    runs = restored([run])

    for named in (("submission", S1), ("job", "02000000"), ("worker", "w0"), ("actor", "a-w0")):
        assert runs_hurt(runs, incident(named)) == (S1,)
    assert only(history(job(at=1, status="FAILED", ended=20), runs=runs)).status == "failed"


def test_ended_runs_are_forgotten_before_active_ones(monkeypatch):
    monkeypatch.setattr("raywatch.core.lineage.MAX_RUNS", 3)
    runs = history(job("active", at=0, job_id="99000000"))
    for n in range(10):
        runs = history(job(f"s{n}", "SUCCEEDED", at=n, job_id=f"{n:08}", ended=n), runs=runs)

    assert list(runs.runs) == ["active", "s8", "s9"]


# --- statuses and owners -------------------------------------------------------------------------------


def test_ray_train_owns_the_restart_from_its_retry_until_its_workers_run():
    retry = history(job(at=1), group(5), policy(9, "RETRY", "3"))
    again = history(state(9.1, "RESTARTING"), state(9.2, "SCHEDULING"), group(20), runs=retry)

    assert (only(retry).owner, only(retry).status) == ("ray_train", "restarting")
    assert (only(again).owner, only(again).status) == ("nobody", "running")
    assert only(again).train_restarts == 1


@pytest.mark.parametrize(
    "end", [policy(12, "RAISE", source="controller"), job(at=1, status="FAILED", ended=12)]
)
def test_nobody_owns_the_restart_after_raise_or_a_failed_job(end):
    """A RETRY is void once the driver that would have carried it out is gone."""
    run = only(history(job(at=1), group(5), policy(9, "RETRY", "3"), end))

    assert (run.owner, run.status) == ("nobody", "failed")


def test_a_plain_drivers_success_is_a_lie_after_a_raise():
    runs = history(driver(at=1), group(5), policy(9, "RAISE"), driver("SUCCEEDED", at=1, ended=12))

    assert (only(runs).status, only(runs).kind) == ("failed", "driver")
    assert submission_status(runs, only(runs)) == "FAILED"


def test_a_plain_drivers_success_alone_proves_no_finish():
    """After SIGKILL of the driver its job SUCCEEDED too; only the controller's word counts."""
    silent = history(driver(at=1), group(5), driver("SUCCEEDED", at=1, ended=12))
    told = history(
        driver(at=1), group(5), state(9, "FINISHED"), driver("SUCCEEDED", at=1, ended=12)
    )

    assert submission_status(silent, only(silent)) == "ENDED"
    assert submission_status(told, only(told)) == "SUCCEEDED"


def test_a_submission_tells_its_own_end():
    for status, said in [("FAILED", "failed"), ("STOPPED", "stopped"), ("SUCCEEDED", "finished")]:
        runs = history(job(at=1), group(5), job(at=1, status=status, ended=9))
        assert (only(runs).status, submission_status(runs, only(runs))) == (said, status)


def test_what_is_read_after_the_job_ended_does_not_wake_it():
    """At the first start the APIs answer before the old lines are read."""
    runs = history(job(at=1, status="FAILED", ended=12), group(5), state(6, "RUNNING"))

    assert only(runs).status == "failed"


def test_both_copies_of_the_controllers_log_count_once():
    lines = (group(5), policy(9, "RETRY", "3"), group(20), policy(25, "RETRY", "3"), group(30))
    once = history(*lines)

    assert only(history(*lines, runs=once)) == only(once)
    assert only(once).train_restarts == 2


def test_a_program_cannot_speak_for_the_controller():
    """A worker's log holds what the program printed, also `[FailurePolicy] RAISE`."""
    runs = history(group(5), policy(9, "RAISE", by="worker"), state(9, "FINISHED", by="worker"))
    stranger = policy(9, "RAISE")
    runs = note(runs, replace(stranger, evidence=replace(stranger.evidence, component="job")), 9.0)

    assert (only(runs).status, only(runs).last_policy) == ("running", "")


def test_an_interrupted_run_was_stopped():
    logs = history(driver(at=1), group(5), state(9, "ABORTED"), driver("SUCCEEDED", at=1, ended=9))
    detail = "Run aborted due to user interrupt (SIGINT)."
    api = history(driver(at=1), train_run(9, "ABORTED", detail=detail))

    assert (only(logs).status, submission_status(logs, only(logs))) == ("stopped", "STOPPED")
    assert only(api).status == "stopped"


def test_the_train_api_tells_ranks_and_budget():
    seen = train_run(9, attempts=(attempt("ERRORED", 2.0, ("o0",)), attempt("RUNNING", 5.0)))
    run = only(history(job(at=1), seen))

    assert run.ranks == (Rank(0, "n0", 100, "x0"), Rank(1, "n1", 101, "x1"))
    assert (run.max_failures, run.level, run.controllers) == (0, 1, ("c1",))


def test_the_log_is_ahead_of_the_train_api():
    run = only(history(job(at=1), group(5), policy(9, "RAISE"), train_run(9.5, "RUNNING")))

    assert run.status == "failed"


def test_an_observation_that_is_no_news_changes_nothing():
    seen = job(at=1, status="FAILED", ended=9)
    runs = history(seen, node("n1"))

    for same in (seen, replace(seen, at=50.0), node("n1"), EndpointHealth(5, "jobs", "up")):
        assert observe(runs, same, 60.0) is (
            runs if same is not seen else observe(runs, seen, 60.0)
        )


# --- progress, ranks, levels ------------------------------------------------------------------------------


def test_the_step_is_the_newest_result_in_time_not_in_order_of_reading():
    assert only(history(group(5), step(20, 14), step(12, 9, rank=1, worker="w1"))).step == 14


def test_world_sizes_are_a_history_without_repetitions():
    run = only(history(group(5, 3), group(20, 3), group(40, 2), group(60, 3)))

    assert run.world_sizes == (3, 2, 3)


def test_a_restarted_group_has_new_ranks():
    runs = history(rank_set_up(4, 0, "old"), group(5), policy(9, "RETRY", "1"))
    runs = history(rank_set_up(18, 0, "new"), group(20), rank_set_up(4, 0, "old"), runs=runs)

    assert [(r.worker_id, r.pid) for r in only(runs).ranks] == [("new", 900), ("", 899)]


@pytest.mark.parametrize(
    ("max_failures", "sizes", "level"),
    [
        (0, (), 1),
        (0, (3, 2), 1),
        (2, (3,), 2),
        (-1, (), 2),
        (3, (3, 2), 3),
        (3, (3, 2, 3), 4),
        (None, (2,), None),
        (None, (2, 3), 4),
    ],
)
def test_the_level_is_what_the_run_really_has(max_failures, sizes, level):
    found, reason = fault_tolerance(max_failures, sizes)

    assert found == level
    assert reason


def test_only_the_worker_groups_own_budget_tells_max_failures():
    """Preemptions and controller errors have other budgets, infinite by default."""
    preempted = history(group(5), policy(9, "RETRY", "inf", source="preemption"))
    oom = history(group(5), policy(9, "RETRY", "2"), policy(10, "RAISE", "0", source="controller"))
    older = history(group(5), policy(9, "FailureDecision.RETRY", "2"))

    assert (only(preempted).max_failures, only(preempted).level) == (None, None)
    assert (only(oom).max_failures, only(oom).level) == (2, 2)
    assert (only(older).last_policy, only(older).max_failures) == ("RETRY", 2)
    assert only(history(group(5), policy(9, "RETRY", "inf"))).max_failures == -1


def test_an_elastic_resize_shows_the_level():
    grown = fact("elastic_resize", 9, **{"from": "2", "to": "3"})

    assert only(history(group(5, 2), policy(6, "RETRY", "2"), grown)).level == 4


def test_another_fit_with_other_workers_is_not_elastic():
    runs = history(group(5, 2), policy(6, "RAISE", "1"), group(9, 3, actor_id="controller-2"))

    assert only(runs).level == 2


def test_ranks_are_left_until_they_are_known_to_be_gone():
    """By their actor, their worker or their node; what is unknown counts as not gone."""
    runs = history(job(at=1), rank_set_up(4, 0, "w0"), rank_set_up(4, 1, "w1"), group(5))
    dead = WorkerSeen(9, "w1", "n-w1", 1, "WORKER", "SYSTEM_ERROR", "")

    assert ranks_left(runs, only(runs)) == ("rank 0", "rank 1")
    runs = history(actor("a-w0", "ALIVE", node="n-w0"), dead, runs=runs)
    assert ranks_left(runs, only(runs)) == ("rank 0",)
    assert ranks_left(history(actor("a-w0", "DEAD"), runs=runs), only(runs)) == ()
    assert ranks_left(history(node("n-w0"), runs=runs), only(runs)) == ()


def test_ranks_whose_logs_are_on_other_nodes_are_known_by_their_actors():
    """A head's daemon reads the controller's log only: pids, and the actors of the job."""
    runs = history(job(at=1), actor("x0", pid=900, node="n2"), group(5))
    runs = history(actor("x0", pid=900, node="n2"), actor("x9", pid=7), runs=runs)

    assert only(runs).ranks[0] == Rank(0, "n2", 900, "x0", ip="10.0.0.2")
    assert ranks_left(runs, only(runs)) == ("rank 0", "rank 1", "actor x9")


def test_actors_that_were_seen_before_their_group_are_its_ranks():
    """Polls and logs come in any order; the same pid on two machines is told apart by the address."""
    hosts = (node("n2", "ALIVE", "10.0.0.2"), node("n3", "ALIVE", "10.0.0.3"))
    actors = (actor("x0", pid=900, node="n2"), actor("y0", pid=900, node="n3"))
    runs = history(job(at=1), *hosts, *actors, group(5))

    zero, one = only(runs).ranks
    assert (zero.actor_id, zero.node_id) == ("x0", "n2")
    assert (one.actor_id, one.node_id) == ("", "n3")  # by its address, until its actor is known
    shared = (*hosts, node("gone", "DEAD", "10.0.0.3"))
    assert only(history(job(at=1), *shared, group(5))).ranks[1].node_id == ""
    two_alike = (actor("x0", pid=900, node="n2"), actor("z0", pid=900, node="n2"))
    assert only(history(job(at=1), *hosts, *two_alike, group(5))).ranks[0].actor_id == ""


def copied(kind, at, **fields):
    """A rank's line as its driver's output has it."""
    told = {"stream_name": "RayTrainWorker", "stream_pid": "900", "submission_id": S1, **fields}
    return Fact(kind, at, Evidence("job-driver-x.log", 1, "", at, "job"), told)


def test_progress_is_known_from_the_drivers_output_where_the_ranks_logs_are_elsewhere():
    """Step and storage path, from a rank's own lines; nothing that only the controller may say."""
    path = "/s/exp/checkpoint_1"
    runs = history(
        job(at=1),
        group(5),
        copied("checkpoint_created", 6, checkpoint=path),
        copied("training_result", 7, step="20"),
        copied("failure_policy", 8, decision="RAISE", stream_name="TrainController"),
        copied("training_result", 9, step="99", stream_name="MyActor"),
    )

    run = only(runs)
    assert (run.step, run.step_at, run.storage_path, run.status) == (20, 7, "/s", "running")
    two = history(group(6, name="other"), copied("training_result", 9, step="30"), runs=runs)
    assert {r.step for r in two.runs.values()} == {20, None}  # whose it is cannot be told


def test_the_worker_of_a_rank_is_known_by_its_log_of_the_api():
    """No row names it; what the logs themselves told is the same."""
    group = attempt(actors=("x0", "x1"))
    logs = (f"/l/train/ray-train-app-worker-{'a' * 56}.log", "/l/else.log")
    workers = tuple(replace(w, log_file=f) for w, f in zip(group.workers, logs, strict=True))
    run = only(history(driver(at=1), train_run(9, attempts=(replace(group, workers=workers),))))

    assert [r.worker_id for r in run.ranks] == ["a" * 56, ""]


def test_checkpoints_are_remembered_with_the_one_before():
    one, two = (Checkpoint(f"/s/exp/c{n}", n, whole=True, checked="", at=n) for n in (1, 2))
    runs = history(job(at=1))
    for found in (one, two, two):
        runs = checkpoint_seen(runs, S1, found, 5.0)
    bad = checkpoint_seen(runs, S1, CheckpointProblem("corrupt", "at char 329"), 6.0)

    assert (only(runs).checkpoint, runs.older[S1]) == (two, one)
    assert only(bad).checkpoint_problem == "corrupt: at char 329"
    assert only(bad).checkpoint == two
    assert only(checkpoint_seen(bad, S1, two, 7.0)).checkpoint_problem == ""
    assert checkpoint_seen(runs, "nobody", two, 7.0) is runs


def test_the_disk_knows_better_which_checkpoint_is_before_the_newest():
    """From the first look on; also where the newest is not whole; and that there is none any more."""
    one, two, three = (
        Checkpoint(f"/s/exp/c{n}", n, whole=True, checked="", at=n) for n in (1, 2, 3)
    )
    runs = checkpoint_seen(history(job(at=1)), S1, two, 5.0, one)
    bad = checkpoint_seen(runs, S1, CheckpointProblem("corrupt", "cut"), 6.0, two)
    torn = checkpoint_seen(runs, S1, CheckpointProblem("torn", "half"), 6.0, None)

    assert (runs.older[S1], bad.older[S1], torn.older[S1]) == (one, two, one)
    assert checkpoint_seen(runs, S1, two, 5.0, one) is runs
    assert checkpoint_seen(runs, S1, three, 6.0, None).older == {}


# --- who is hurt -----------------------------------------------------------------------------------------------


def test_an_incident_hurts_the_runs_whose_parts_it_names():
    runs = history(
        job(at=1),
        rank_set_up(4, 0, "w0"),
        group(5),
        job(S2, at=2, job_id="03000000"),
        group(6, name="other", job_id="03000000"),
    )

    for named in (("job", "02000000"), ("submission", S1), ("worker", "w0"), ("actor", "a-w0")):
        assert runs_hurt(runs, incident(named, ("node", "n-w0"))) == (S1,)
    assert runs_hurt(runs, incident(kind="job", subject=S2)) == (S2,)
    assert runs_hurt(runs, incident(kind="cluster")) == (S1, S2)
    assert runs_hurt(runs, incident(("job", "77000000"))) == ()


def test_a_lost_node_hurts_who_had_ranks_or_a_driver_on_it():
    runs = history(job(at=1), rank_set_up(4, 0, "w0"), group(5), node("n-w0", ip="10.0.0.7"))

    for who in ("n-w0", "10.0.0.7", "head"):
        assert runs_hurt(runs, incident(kind="node", subject=who)) == (S1,)
    assert runs_hurt(runs, incident(kind="node", subject="n-else")) == ()
    # a worker's death there is not everybody's
    assert runs_hurt(runs, incident(("node", "n-w0"), kind="worker", subject="stranger")) == ()


def test_a_run_that_ended_long_ago_is_not_hurt_by_its_old_nodes():
    runs = history(job(at=1), rank_set_up(4, 0, "w0"), job(at=1, status="FAILED", ended=9))

    assert runs_hurt(runs, incident(kind="node", subject="n-w0", at=60)) == (S1,)
    assert runs_hurt(runs, incident(kind="node", subject="n-w0", at=500)) == ()


def test_a_name_alone_hurts_only_where_nothing_better_is_named():
    runs = history(job(at=1), group(5), saved(6, "/one"), job(S2, at=2, job_id="03000000"))
    runs = history(group(7, job_id="03000000"), saved(8, "/two", job_id="03000000"), runs=runs)

    assert runs_hurt(runs, incident(("run", "exp"))) == (S1, S2)
    assert runs_hurt(runs, incident(("run", "exp"), ("job", "03000000"))) == (S2,)


def test_an_incident_is_about_the_life_that_it_names():
    ours = {"raywatch_run": S1}
    runs = history(job(at=1), job(S2, at=30, job_id="03000000", metadata=ours))
    run = only(runs)

    assert touches_life(runs, run, incident(("job", "03000000"), ("job", "02000000"))) is True
    assert touches_life(runs, run, incident(("job", "02000000"))) is False
    assert touches_life(runs, run, incident(("node", "n"))) is None


def test_another_active_job_of_the_same_run_is_a_rival():
    """By lineage, by name and storage, or, while it has no name, by its very command."""
    failed = history(job(at=1), group(5), saved(6), job(at=1, status="FAILED", ended=9))
    twin = history(job(S2, at=0.5, job_id="03000000"), runs=failed)
    other = history(job(S2, at=0.5, job_id="03000000", entrypoint="python eval.py"), runs=failed)
    same_name = history(group(8, job_id="03000000"), runs=other)
    elsewhere = history(saved(9, "/two", job_id="03000000"), runs=same_name)

    for runs, found in [
        (failed, ()),
        (twin, (S2,)),
        (other, ()),
        (same_name, (S2,)),
        (elsewhere, ()),
    ]:
        assert rivals(runs, runs.runs[S1]) == found


def test_a_run_nobody_knows_has_no_status():
    runs = restored([Run(id=S1, submissions=(S1,), kind="submission", status="failed")])

    assert submission_status(runs, only(runs)) == ""


def test_a_job_with_thousands_of_workers_stays_its_runs_own(monkeypatch):
    """Data loading starts workers for weeks; what is forgotten of them must not be whose the job is."""
    monkeypatch.setattr("raywatch.core.lineage.MAX_ROWS", 50)
    runs = history(train_run(1), job(at=1, job_id="02000000"))
    many = [fact("job_marker", 5, worker_id=f"w{n}", job_id="02000000") for n in range(100)]
    runs = history(*many, runs=runs)

    for named in (("job", "02000000"), ("submission", S1), ("worker", "w99")):
        assert runs_hurt(runs, incident(named)) == (only(runs).id,)
    assert len(runs.owners) == 50
