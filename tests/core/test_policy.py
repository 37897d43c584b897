"""When raywatch may act: one test for each law of the design, as small stories with the time in the data.

Laws 1 to 4: rules, symptoms, what must be over, budgets.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from raywatch.core.policy import approve, decide
from raywatch.core.relevance import history_of
from raywatch.model import (
    Action,
)
from raywatch.observations import KubeRayListed
from tests.core.desk import (
    CLASSES,
    COMMAND,
    DEAD,
    FAILED,
    JOB,
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
    fact,
    group,
    history,
    job,
    only,
    policy,
    state,
)

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


def test_3_kuberay_runs_its_job_again_itself():
    """While its RayJob has retries left; once KubeRay gave up it is started again."""
    desk = Desk()
    mine = KubeRayListed(100, frozenset([S1]))

    assert desk.decide(history(mine, runs=failed())) == []
    assert desk.decide(failed(mine)) == []
    assert Desk().decide(failed(KubeRayListed(100, frozenset([S2])))) == ["started"]
    assert desk.decide(failed(mine, KubeRayListed(101, frozenset()))) == ["started"]


def test_3_what_waited_is_abandoned_when_ray_train_goes_on():
    desk = Desk()
    desk.decide(history(policy(96, "RAISE"), runs=started()))
    again = history(policy(96, "RAISE"), policy(97, "RETRY", "3"), runs=started())

    assert desk.decide(again) == ["abandoned"]
    assert desk.decide(failed(), now=140) == ["started"], "and opened again if it fails after all"


def test_3_a_training_that_finished_is_not_resumed():
    assert Desk().decide(history(*DEAD, state(90, "FINISHED"), FAILED, runs=started())) == []


# --- 4: budgets and back-off -----------------------------------------------------------------------------


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
        desk.ledger[desk.last.key] = replace(desk.last, checkpoint=replace(NINE, step=100 + n))
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
