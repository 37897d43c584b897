"""A run that failed, what ended it, and a desk where the policy decides about it."""

from __future__ import annotations

from dataclasses import replace

from raywatch.core.policy import apply_outcome, decide
from raywatch.core.saved import checkpoint_seen
from raywatch.core.taxonomy import parse_taxonomy
from raywatch.model import (
    Action,
    Checkpoint,
    Hook,
    Outcome,
    ResumeRule,
    Subject,
)
from raywatch.resources import resource_dir
from tests.core.runkit import (
    S1,
    actor,
    group,
    history,
    incident,
    job,
    node,
    only,
    policy,
    rank_set_up,
    saved,
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
