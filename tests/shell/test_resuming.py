"""Runs and rules in the first thread: where checkpoints are looked for, and whose code is kept."""

import json
from dataclasses import replace

from raywatch.core.declared import SAID
from raywatch.core.runs import Runs
from raywatch.model import Action, Checkpoint, Evidence, Fact, Hook, ResumeRule, RunRule
from raywatch.observations import JobSeen, TrainRunSeen
from raywatch.resuming import Look, Resuming
from tests.core.desk import CLASSES
from tests.core.runkit import incident

ENV = '{"working_dir": "gcs://_ray_pkg_1.zip"}'
RULE = ResumeRule("llm-*", "auto", Hook("job"))
JOB = JobSeen(
    *(1.0, "SUBMISSION", "02000000", "llm-sub", "RUNNING", "python train.py", "", "", 1.0, None),
    {},
    ENV,
    "n1",
    None,
)

ACTION = Action(
    *("k", "", "llm", "i1", "worker_crash", 1, "approve", RULE.hook, "waiting", 0.0, 0.0)
)


FORMER = """{"id":"raysubmit_1","name":"exp","status":"running","storage_path":"/s","submissions":["raysubmit_1"],
"jobs":["02000000"],"controllers":["c1"],"entrypoint":"","runtime_env":"","metadata":{},"kind":"submission",
"ranks":[{"world_rank":0,"node_id":"n0","pid":7,"actor_id":"a0","worker_id":"w0","ip":"10.0.0.2"}],"world_sizes":[2],
"max_failures":3,"level":2,"level_reason":"x","owner":"nobody","step":9,"step_at":20.0,"checkpoint":{"path":"/s/exp/c9",
"step":9,"whole":true,"checked":"snapshot","at":19.0,"metrics":{}},"checkpoint_problem":"","train_restarts":1,"resumes":0,
"started_at":1.0,"ended_at":null,"seen_at":20.0,"last_policy":"RETRY","last_policy_at":10.0,"session":"s"}"""


def train(name, storage, job="02000000", submission="llm-sub"):
    """A run of the Train state API."""
    return TrainRunSeen(
        *(
            2.0,
            f"id-{name}",
            name,
            "RUNNING",
            "",
            job,
            submission,
            "c1",
            storage,
            "",
            0,
            2.0,
            None,
            (),
        )
    )


def resuming(*rules, seen=()):
    """What the daemon keeps, after these observations."""
    kept = Resuming(rules, {}, {}, started_at=0.0)
    kept.learn((), seen, 3.0)
    return kept


def test_the_run_of_an_action_is_found_after_a_restart_though_it_is_part_of_another_now():
    """A resubmission by hand was a run of its own until Ray Train named it; what a crash left of it must be settled."""
    again = replace(JOB, submission_id="again", job_id="03000000")
    kept = resuming(RULE, seen=(JOB, again))
    kept.put(replace(ACTION, run="again", state="started", started_at=3.0, old_submission="again"))
    kept.learn((), [train("llm-1", "/s"), train("llm-1", "/s", "03000000", "again")], 5.0)
    docs: dict[str, dict[str, str]] = {}
    for kind, name, text in kept.documents(Runs()):
        docs.setdefault(kind, {})[name] = text or ""
    later = Resuming([RULE], {}, docs, started_at=0.0)
    (action,) = later.unfinished(6.0)

    assert later.run_of(action) == later.runs.get("llm-sub")
    assert later.shown_action(action)["run"] == "llm-sub"
    assert list(later.documents(later.runs)) == []


def test_checkpoints_are_looked_for_where_the_configuration_says():
    """It beats what Ray Train says, for the runs that its rule speaks of, and helps where nothing is said."""
    moved = replace(RULE, checkpoints="/mnt/llm")
    other = replace(JOB, job_id="03000000", submission_id="other")
    runs = (JOB, train("llm-1", "/s"), other, train("bert", "/s", "03000000", "other"))

    def places(*rules, seen=runs):
        return [(storage, name) for _, storage, name in resuming(*rules, seen=seen).to_look_at()]

    assert places() == [("/s", "llm-1"), ("/s", "bert")]
    assert places(RULE, moved) == [("/mnt/llm", "llm-1"), ("/s", "bert")]
    assert places(moved, seen=(JOB, train("llm-1", ""))) == [("/mnt/llm", "llm-1")]
    assert places(seen=(JOB, train("llm-1", ""))) == []


def test_a_look_tells_the_newest_checkpoint_and_the_one_before():
    """Both are known after the first look."""
    kept = resuming(seen=(JOB, train("llm-1", "/s")))
    two, one = (Checkpoint(f"/s/llm-1/{n}", n, whole=True, checked="", at=0.0) for n in (2, 1))
    ((run, _, _),) = kept.to_look_at()
    kept.learn((), [Look(run, two, one)], 4.0)

    assert kept.runs.runs[run].checkpoint == two
    assert kept.runs.older[run] == one


def test_the_code_of_running_jobs_that_a_job_hook_may_repeat_is_kept():
    """Not of those that end, that no rule speaks of, that only a command starts again, or that are only watched."""

    def kept(rule, **job):
        return resuming(rule, seen=[replace(JOB, **job)]).packages()

    assert kept(RULE) == (ENV,)
    assert kept(replace(RULE, mode="approve")) == (ENV,)
    assert kept(RULE, status="PENDING") == ()
    assert kept(RULE, status="FAILED") == ()
    assert kept(replace(RULE, run="bert")) == ()
    assert kept(replace(RULE, mode="observe")) == ()
    assert kept(replace(RULE, hook=Hook("command"))) == ()


def test_the_code_of_a_job_that_waits_for_its_resume_is_kept():
    """An approval may take days."""
    failed = replace(JOB, status="FAILED", ended_at=9.0)
    kept = resuming(RULE, seen=[JOB, failed])
    assert kept.packages() == ()
    kept.ledger = {"k": replace(ACTION, run=next(iter(kept.runs.runs)), state="awaiting_approval")}
    assert kept.packages() == (ENV,)
    kept.ledger = {"k": replace(kept.ledger["k"], state="succeeded")}
    assert kept.packages() == ()


def test_a_run_that_a_former_version_stored_is_read_and_goes_on():
    """What it did not know is unknown, and comes with the next facts."""
    kept = Resuming((), {}, {"run": {"raysubmit_1": FORMER}}, started_at=0.0)
    run = kept.runs.runs["raysubmit_1"]
    assert (run.step, run.attempts, run.failures, run.ranks[0].log_file) == (9, (), None, "")

    again = replace(JOB, submission_id="raysubmit_1", status="FAILED", ended_at=30.0)
    kept.learn((), [again], 31.0)
    (tried,) = kept.runs.runs["raysubmit_1"].attempts
    assert (tried.started_at, tried.ended_at, tried.status) == (1.0, 30.0, "failed")
    (shown,) = kept.shown()["runs"]
    assert json.loads(json.dumps(shown))["next_restart"]["owner"] == "nobody"


def test_a_log_names_the_checkpoint_that_is_looked_at():
    """Of a declared run that path itself; what came of an older one's look says nothing of the newest."""
    rule = RunRule("loop", "llm-*", "plain")
    kept = Resuming((), {}, {}, started_at=0.0, runs=(rule,))
    kept.learn((), [JOB], 3.0)
    number = kept.runs.runs["llm-sub"].id
    evidence = Evidence("/l/job-driver-llm-sub.log", 1, "", 5.0, "job")
    told = {"framework": "plain", "checkpoint": "/c/step_9.pt", "submission_id": "llm-sub"}
    kept.learn([Fact("run_checkpoint", 5.0, evidence, told)], (), 5.0)

    assert kept.to_look_at() == [(number, "/c/step_9.pt", "")]
    older = Checkpoint("/c/step_4.pt", None, whole=True, checked="", at=2.0)
    kept.learn((), [Look(number, older)], 6.0)
    newest = kept.runs.runs[number].checkpoint
    assert newest
    assert not newest.whole
    kept.learn((), [Look(number, replace(older, path="/c/step_9.pt", checked=f"{SAID}; ok"))], 7.0)
    assert kept.runs.runs[number].checkpoint == Checkpoint(
        "/c/step_9.pt", 9, whole=True, checked=f"{SAID}; ok", at=5.0
    )
    assert kept.to_look_at() == [(number, "/c/step_9.pt", "")]


def test_an_attempts_incident_gets_better_until_it_is_settled():
    kept = Resuming((), CLASSES, {}, started_at=0.0)
    kept.learn((), [JOB, replace(JOB, status="FAILED", ended_at=30.0)], 30.0)
    mine = replace(incident(("job", "02000000"), at=29.0), id="i1")
    kept.decide([mine], 31.0)
    kept.decide([replace(mine, class_id="node_lost")], 60.0)
    kept.decide([replace(mine, class_id="spot_preemption")], 2000.0)

    (tried,) = kept.runs.runs["llm-sub"].attempts
    assert (tried.incident, tried.class_id) == ("i1", "node_lost")
