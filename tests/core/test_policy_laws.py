"""Whatever happens in whatever order: one start a failure, only after FAILED, never beyond the budget."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant
from hypothesis.stateful import rule as event

from raywatch.core.policy import apply_outcome, approve, decide, decide_by_hand, progress
from raywatch.core.relevance import FIRED
from raywatch.core.runs import Runs, note, observe
from raywatch.core.saved import checkpoint_seen
from raywatch.core.taxonomy import parse_taxonomy
from raywatch.model import (
    Action,
    Checkpoint,
    CheckpointProblem,
    Hook,
    Incident,
    Outcome,
    ResumeRule,
    Subject,
)
from raywatch.resources import resource_dir
from tests.core.runkit import actor, group, incident, job, node, policy, rank_set_up, step

CLASSES = parse_taxonomy((resource_dir("rules") / "taxonomy.yaml").read_text())
NAMES = ("one", "two")
SOME = (
    "spot_preemption",
    "node_lost",
    "worker_segfault",
    "worker_crash",
    "ring_break",
    "train_failed",
    "user_exception",
    "cuda_oom",
    "nan_loss",
    "node_unhealthy",
)
BUDGET = 3
RULES = st.lists(
    st.builds(
        ResumeRule,
        run=st.sampled_from(["*", "*", "one"]),
        mode=st.sampled_from(["auto", "auto", "auto", "approve", "suggest", "observe"]),
        hook=st.sampled_from([Hook("job"), Hook("command", "c", ("./x",))]),
        classes=st.sampled_from([(), (), ("node_lost", "worker_segfault"), SOME]),
        max_attempts=st.just(BUDGET),
    ),
    min_size=1,
    max_size=2,
)


class Cluster(RuleBasedStateMachine):
    """Two training runs, their submissions, and a policy that watches and resumes them."""

    @initialize(rules=RULES)
    def begin(self, rules):
        self.asked: list[ResumeRule] = rules
        self.now = 1000.0
        self.runs = Runs()
        self.ledger: dict[str, Action] = {}
        self.incidents: list[Incident] = []
        self.status: dict[str, str] = {}  # what is true of each submission
        self.current: dict[str, str] = {}
        self.starts: dict[str, int] = {}
        self.number = 0
        for name in NAMES:
            self.submit(name, f"hand-{name}", {})

    def submit(self, name, submission, metadata):
        self.number += 1
        self.now += 1
        self.current[name] = submission
        self.told = getattr(self, "told", {})
        self.told[submission] = (f"{self.number:08}", self.now, metadata)
        self.set_status(name, "RUNNING")
        job_id = self.told[submission][0]
        self.tell(rank_set_up(self.now, 0, f"w{job_id}", name=name, job_id=job_id, node_id="n"))
        self.tell(group(self.now + 0.1, 1, name=name, job_id=job_id))

    def set_status(self, name, status):
        submission = self.current[name]
        job_id, at, metadata = self.told[submission]
        self.status[submission] = status
        ended = None if status == "RUNNING" else self.now
        seen = job(submission, status, job_id=job_id, at=at, ended=ended, metadata=metadata)
        self.runs = observe(self.runs, replace(seen, entrypoint=f"python {name}.py"), self.now)

    def tell(self, fact):
        self.runs = note(self.runs, fact, self.now)

    def job_of(self, name):
        return self.told[self.current[name]][0]

    # --- what may happen ----------------------------------------------------------------------

    @event(seconds=st.sampled_from([1, 10, 80, 700]))
    def time_passes(self, seconds):
        self.now += seconds

    @event(
        name=st.sampled_from(NAMES),
        status=st.sampled_from(["FAILED", "FAILED", "STOPPED", "SUCCEEDED"]),
    )
    def submission_ends(self, name, status):
        if self.status[self.current[name]] == "RUNNING":
            self.set_status(name, status)

    @event(name=st.sampled_from(NAMES), decision=st.sampled_from(["RAISE", "RETRY"]))
    def train_decides(self, name, decision):
        self.now += 1
        self.tell(policy(self.now, decision, "3", name=name, job_id=self.job_of(name)))

    @event(name=st.sampled_from(NAMES))
    def ranks_die(self, name):
        seen = actor(f"a-w{self.job_of(name)}", "DEAD", node="n")
        self.runs = observe(self.runs, replace(seen, job_id=self.job_of(name)), self.now)

    @event(dead=st.booleans())
    def node_changes(self, dead):
        self.runs = observe(self.runs, node("n", "DEAD" if dead else "ALIVE"), self.now)

    @event(
        name=st.sampled_from(NAMES),
        class_id=st.sampled_from(SOME),
        how=st.tuples(st.sampled_from([True, True, False]), st.booleans(), st.booleans()),
        settled=st.booleans(),
    )
    def something_breaks(self, name, class_id, how, *, settled):
        acts, gave_up, named = how
        entities = [("job", self.job_of(name))] if named else []
        scope = CLASSES[class_id].scope
        found = replace(
            incident(*entities, at=self.now),
            id=f"i{len(self.incidents)}",
            class_id=class_id,
            subject=Subject(scope, "n" if scope == "node" else name, "n"),
            acts=acts,
            gave_up=gave_up,
            settled_at=self.now if settled else None,
        )
        self.incidents.append(found)

    @event(name=st.sampled_from(NAMES), class_id=st.sampled_from(SOME), settled=st.booleans())
    def run_fails(self, name, class_id, *, settled):
        """The usual course: a cause, Ray Train gives up, the ranks are gone, the job FAILED."""
        if self.status[self.current[name]] != "RUNNING":
            return
        self.now += 5
        self.something_breaks(name, class_id, (True, True, True), settled=settled)
        self.train_decides(name, "RAISE")
        self.ranks_die(name)
        self.set_status(name, "FAILED")

    @event(index=st.integers(0, 30), class_id=st.sampled_from(SOME))
    def incident_changes(self, index, class_id):
        if self.incidents:
            i = index % len(self.incidents)
            self.incidents[i] = replace(self.incidents[i], class_id=class_id, last_at=self.now)

    @event(name=st.sampled_from(NAMES), step_number=st.integers(0, 30))
    def run_makes_a_step(self, name, step_number):
        self.tell(step(self.now, step_number, name=name, job_id=self.job_of(name)))

    @event(
        name=st.sampled_from(NAMES),
        found=st.one_of(
            st.builds(
                Checkpoint,
                st.sampled_from("ab"),
                st.integers(0, 9),
                st.just(True),
                st.just(""),
                st.none(),
            ),
            st.builds(
                CheckpointProblem,
                st.sampled_from(["torn", "missing", "missing", "corrupt"]),
                st.just(""),
            ),
        ),
    )
    def checkpoint_is_read(self, name, found):
        for run_id in list(self.runs.runs):
            if self.runs.runs[run_id].name == name:
                self.runs = checkpoint_seen(self.runs, run_id, found, self.now)

    @event(
        outcome=st.sampled_from(
            ["succeeded", "succeeded", "failed", "timed_out", "interrupted", "refused", "deferred"]
        )
    )
    def hook_answers(self, outcome):
        for action in [a for a in self.ledger.values() if a.state == "started"]:
            told = Outcome(action.key, outcome, self.now, "", submission_id=action.key)
            self.ledger[action.key] = apply_outcome(
                action, told, self.now, ResumeRule("*", "auto", action.hook)
            )
            if outcome == "succeeded":
                ours = {"raywatch_run": action.run, "raywatch_action": action.key}
                self.submit(action.run_name, action.key, ours)

    @event(
        name=st.sampled_from(NAMES),
        class_id=st.sampled_from(SOME[:3]),
        later=st.sampled_from([9, 90]),
    )
    def resume_fails_again(self, name, class_id, later):
        self.hook_answers("succeeded")
        self.now += later
        self.run_fails(name, class_id, settled=True)

    @event(name=st.sampled_from(NAMES))
    def somebody_submits_it_again(self, name):
        if self.status[self.current[name]] != "RUNNING":
            self.submit(name, f"hand-{name}-{self.number}", {"raywatch_run": f"hand-{name}"})

    @event()
    def somebody_approves(self):
        self.ledger = {k: approve(a, self.now) for k, a in self.ledger.items()}

    @event(name=st.sampled_from(NAMES))
    def somebody_resumes(self, name):
        """By hand, at any time: only what is over, and never what was carried out."""
        run = next(r for r in self.runs.runs.values() if r.name == name)
        found = decide_by_hand(
            run,
            self.incidents,
            self.runs,
            self.ledger,
            rules=self.asked,
            classes=CLASSES,
            now=self.now,
        )
        if found.action is None or found.objections:
            assert found.objections
            return
        known = self.ledger.get(found.action.key)
        assert known is None or known.state not in FIRED
        assert self.status[found.action.old_submission] == "FAILED"
        assert self.current[name] == found.action.old_submission
        self.ledger[found.action.key] = found.action

    # --- the laws ---------------------------------------------------------------------------------

    def check(self, before, action):
        assert before is None or before.state not in FIRED, "what was fired is decided no more"
        if action.state != "started":
            assert action.started_at is None
            return
        why = next(i for i in self.incidents if i.id == action.incident)
        failure = CLASSES[why.class_id]
        speaks = [r for r in self.asked if not r.classes or why.class_id in r.classes]
        assert self.status[action.old_submission] == "FAILED"
        assert self.current[action.run_name] == action.old_submission, "it was started again since"
        assert why.acts
        assert failure.role in ("root", "symptom")
        assert failure.resume not in ("never", "none")
        assert failure.resume != "changed" or any(why.class_id in r.classes for r in speaks)
        assert {"auto", "approve"} & {r.mode for r in speaks}
        assert action.mode == "auto" or (before is not None and before.state == "waiting")
        assert action.due_at <= self.now

    @invariant()
    def policy_decides(self):
        def ask():
            return decide(
                self.incidents,
                self.runs,
                self.ledger,
                self.asked,
                CLASSES,
                now=self.now,
                started_at=900.0,
            )

        new = ask()
        for action in new:
            self.check(self.ledger.get(action.key), action)
        self.ledger |= {a.key: a for a in new}
        assert ask() == (), "a decision was made twice"
        self.ledger = {k: progress(a, self.runs, self.now) for k, a in self.ledger.items()}

    @invariant()
    def at_most_one_runs_and_one_worked_for_each_failure(self):
        for name in NAMES:
            mine = [a for a in self.ledger.values() if a.run_name == name]
            assert sum(a.state == "started" for a in mine) <= 1
            worked = [a.old_submission for a in mine if a.state == "succeeded"]
            assert len(worked) == len(set(worked))

    @invariant()
    def no_more_than_the_budget_is_spent(self):
        for name in NAMES:
            mine = [a for a in self.ledger.values() if a.run_name == name]
            spent = [a for a in mine if a.state in FIRED and a.state != "refused" and a.counted]
            spent = [a for a in spent if not a.by_hand]  # a person may
            assert len(spent) <= BUDGET

    @invariant()
    def two_runs_stay_two_lineages(self):
        assert sorted(r.name for r in self.runs.runs.values()) == sorted(NAMES)


TestLaws = Cluster.TestCase
TestLaws.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    derandomize=True,
)
