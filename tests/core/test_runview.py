"""What a person sees of a run: its tries and what ended them, its budgets, and who starts it again if a node dies now."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raywatch.core.attempts import explained, newly_ended
from raywatch.core.lineage import MAX_ATTEMPTS
from raywatch.core.restarts import next_restart
from raywatch.core.runs import Runs, observe
from raywatch.core.runview import run_json
from raywatch.model import Attempt
from raywatch.observations import SessionSeen, WorkerSeen
from tests.core.desk import BY_COMMAND, CLASSES, RULE
from tests.core.runkit import (
    S1,
    actor,
    attempt,
    driver,
    group,
    history,
    incident,
    job,
    only,
    policy,
    rank_set_up,
    state,
    step,
    train_run,
)


def tries(runs):
    """Begin, size, status and end of each attempt."""
    return [(a.started_at, a.size, a.status, a.ended_at) for a in only(runs).attempts]


# --- attempts --------------------------------------------------------------------------------------------


def test_worker_groups_are_the_attempts_of_ray_train():
    """Not its job, which was there first; a copy of a line makes none."""
    runs = history(
        job(at=1),
        group(5, 3),
        group(5, 3),
        policy(20, "RETRY", "2", error="Training failed due to worker errors:"),
        group(30, 2),
        state(40, "RESIZING"),
        group(50, 3),
        policy(60, "RETRY", "inf", source="preemption"),
        group(70, 3),
        state(90, "FINISHED"),
        job(at=1, status="SUCCEEDED", ended=95),
    )

    assert tries(runs) == [
        (5, 3, "failed", 20),
        (30, 2, "resized", 40),
        (50, 3, "preempted", 60),
        (70, 3, "finished", 90),
    ]
    assert only(runs).attempts[0].why == "Training failed due to worker errors:"


def test_the_train_api_lists_attempts_where_no_log_does():
    """What it lists gives way to the controller's own lines."""
    listed = (attempt("ERRORED", 2.0), attempt("RUNNING", 8.0))
    runs = history(job(at=1), train_run(9, attempts=listed))

    assert [(a.by, a.started_at, a.status, a.size) for a in only(runs).attempts] == [
        ("api", 2.0, "failed", 2),
        ("api", 8.0, "running", 2),
    ]
    assert [a.by for a in only(history(group(12), runs=runs)).attempts] == ["log"]


def test_a_job_without_ray_train_is_an_attempt():
    runs = history(
        job(at=1, status="PENDING", job_id=""), job(at=1), job(at=1, status="FAILED", ended=9)
    )

    assert tries(runs) == [(1, None, "failed", 9)]


def test_attempts_of_two_sessions_are_two():
    """Ids of jobs begin again."""
    first = history(
        SessionSeen(0, "2.60", "session_1"), driver(at=1), group(5), state(9, "ERRORED")
    )
    runs = history(SessionSeen(20, "2.60", "session_2"), driver(at=30), group(35), runs=first)

    everything = [a.started_at for r in runs.runs.values() for a in r.attempts]
    assert sorted(everything) == [5, 35]


def test_only_the_newest_attempts_are_kept():
    runs = history(*(group(10 + n, 2 + n % 2) for n in range(MAX_ATTEMPTS + 5)))

    assert len(only(runs).attempts) == MAX_ATTEMPTS
    assert only(runs).attempts[-1].started_at == 10 + MAX_ATTEMPTS + 4


def test_an_attempt_is_explained_by_the_incident_that_ended_it():
    before = history(job(at=1), group(5))
    runs = history(policy(100, "RETRY", "2"), runs=before)
    mine = incident(("job", "02000000"), at=98.0)
    late = replace(mine, id="i2", first_at=400.0, last_at=400.0)
    others = replace(incident(("job", "0f000000"), at=98.0), id="i3")

    assert newly_ended(before, runs) == (S1,)
    told = explained(only(runs), [late, others, mine], runs, CLASSES)
    assert (told.attempts[0].incident, told.attempts[0].class_id) == ("i1", "worker_crash")
    assert explained(only(runs), [late, others], runs, CLASSES) is only(runs)


def test_what_finished_needs_no_reason():
    runs = history(job(at=1), group(5), state(100, "FINISHED"))

    assert explained(only(runs), [incident(("job", "02000000"), at=98.0)], runs, CLASSES) is only(
        runs
    )


# --- who starts it again ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "rules", "owner", "words"),
    [
        ([group(5), policy(9, "RETRY", "3"), group(12)], [], "ray_train", "1 of 3 restarts"),
        ([group(5), policy(9, "RETRY", "inf"), group(12)], [], "ray_train", "any number"),
        ([group(5), policy(9, "RETRY", "1"), group(12)], [RULE], "raywatch", "all 1 restarts"),
        ([group(5), policy(9, "RETRY", "3")], [], "ray_train", "has decided"),
        ([group(5), policy(9, "RAISE", "0")], [], "nobody", "no [[resume]] names it"),
        ([group(5), policy(9, "RAISE", "0")], [RULE], "raywatch", "job hook"),
        ([group(5)], [], "nobody", "max_failures of Ray Train is not known"),
        ([group(5), state(9, "FINISHED")], [RULE], "nobody", "finished"),
        ([], [], "nobody", "no training framework is known"),
        ([], [replace(RULE, mode="suggest")], "nobody", "mode suggest"),
        ([], [replace(RULE, mode="approve")], "raywatch", "once a person approves"),
    ],
)
def test_who_starts_a_run_again_if_a_node_dies_now(events, rules, owner, words):
    runs = history(job(at=1), *events)
    found = next_restart(only(runs), runs, rules)

    assert found.owner == owner
    assert words in found.reason


def test_a_job_hook_cannot_start_a_driver_by_hand():
    runs = history(driver(at=1), group(5), policy(9, "RAISE", "0"))

    assert next_restart(only(runs), runs, [RULE]).owner == "nobody"
    assert next_restart(only(runs), runs, [BY_COMMAND]).owner == "raywatch"


def test_a_launcher_starts_its_own_workers_again():
    runs = history(job(at=1, entrypoint="torchrun --max-restarts=3 train.py"))

    assert next_restart(only(runs), runs, [RULE]).owner == "launcher"


def test_a_checkpoint_that_is_not_whole_is_for_a_person():
    runs = history(job(at=1), group(5), policy(9, "RAISE", "0"))
    run = replace(only(runs), checkpoint_problem="corrupt: state.pt: is cut")

    assert next_restart(run, runs, [RULE]).owner == "nobody"


# --- the JSON --------------------------------------------------------------------------------------------


def test_a_run_is_shown_with_driver_controller_ranks_and_budgets():
    runs = history(
        job(at=1, driver_pid=7),
        rank_set_up(4, 0, "w0"),
        group(5),
        step(6, 4),
        policy(9, "RETRY", "3"),
        actor("controller-02000000", class_name="TrainController", pid=8, node="n8"),
        group(12),
    )
    found = run_json(only(runs), runs, ())

    assert found["driver"] == {"node": "head", "pid": 7, "alive": True}
    assert found["controller"] == {"node": "n8", "pid": 8, "alive": True}
    assert found["failures"] == {"max": 3, "used": 1}
    assert found["preemptions"] == {"max": None, "used": None}
    assert (found["step"], found["step_at"]) == (4, "1970-01-01T00:00:06.000Z")
    assert found["ranks"][0]["log_file"] == "ray-train-app.log"
    assert [a["status"] for a in found["attempts"]] == ["failed", "running"]


def test_a_driver_and_a_controller_that_are_gone_are_shown_so():
    runs = history(job(at=1), group(5), actor("controller-02000000", "DEAD"))
    dead = WorkerSeen(9.0, "02000000" + "f" * 48, "head", 7, "DRIVER", "SYSTEM_ERROR", "", 9.0)
    found = run_json(only(runs), observe(runs, dead, 9.0), ())

    driver, controller = found["driver"], found["controller"]
    assert driver
    assert controller
    assert (driver["alive"], controller["alive"]) == (False, False)


def test_what_nobody_tells_is_not_known():
    found = run_json(only(history(group(5))), Runs(), ())

    assert found["driver"] is None
    assert found["controller"] == {"node": "", "pid": 0, "alive": None}


def test_an_attempt_of_a_run_that_is_over_does_not_run():
    run = replace(only(history(group(5))), status="failed", attempts=(Attempt(5.0),))

    assert [a["status"] for a in run_json(run, Runs(), ())["attempts"]] == ["ended"]
