"""The laws of "When it may act" (DESIGN.md), one small check each, in the order in which they are asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from raywatch.core.relevance import attempts_used, is_for_life
from raywatch.core.runs import (
    Runs,
    ranks_left,
    rivals,
    submission_status,
    successors,
)
from raywatch.model import (
    Action,
    ActionState,
    Checkpoint,
    FailureClass,
    Incident,
    ResumeAdvice,
    ResumeRule,
    Run,
)

MAX_STUCK = 3  # resumes that end as before, without a step beyond the checkpoint they began at
DEFERRED = "deferred: "


@dataclass(frozen=True, slots=True)
class Case:
    """One run, the incident that ended it, the rule that speaks of it, and what was done before."""

    run: Run
    incident: Incident
    failure: FailureClass
    rule: ResumeRule
    runs: Runs
    past: tuple[Action, ...]  # of the lineage, fired, oldest first
    existing: Action | None  # decided for this very end of the run, not fired
    now: float
    started_at: float

    @property
    def advice(self) -> ResumeAdvice:
        """What the class advises; a rule that names a class of `changed` says that it was changed."""
        named = self.failure.id in self.rule.classes
        return (
            "counted"
            if named and self.failure.resume in ("changed", "none")
            else self.failure.resume
        )

    @property
    def avoid_nodes(self) -> tuple[str, ...]:
        """The node that a resume must not use; empty where none needs avoiding."""
        node = self.node
        return (node,) if self.advice == "elsewhere" and node and not self.is_node_dead else ()

    @property
    def node(self) -> str:
        """The node it happened on, as far as known."""
        subject = self.incident.subject
        culprit = self.incident.culprit
        by_id = subject.id if subject.kind == "node" else ""
        return subject.node or by_id or (culprit.node if culprit else "")

    @property
    def is_node_dead(self) -> bool:
        """Whether Ray has the node as dead, so that work can only go elsewhere."""
        seen = self.runs.nodes.get(self.node)
        return seen is not None and seen.state == "DEAD"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check says: `started` (go), `waiting` until `due_at`, `suggested` only, or `abandoned`."""

    state: ActionState
    detail: str
    due_at: float | None = None


Check = Callable[[Case], Verdict | None]


@dataclass(frozen=True, slots=True)
class Objection:
    """A check that forbids to resume a run by hand, and why."""

    check: str
    detail: str


def objections_by_hand(case: Case) -> tuple[Objection, ...]:
    """Ask the laws that hold for a person too; say all that object, one for each reason."""
    found: dict[str, Objection] = {}
    for name, check in _BY_HAND.items():
        verdict = check(case)
        if verdict is not None:
            found.setdefault(verdict.detail, Objection(name, verdict.detail))
    return tuple(found.values())


def judge(case: Case) -> Verdict:
    """Ask every law in turn; the first that objects decides."""
    for check in _CHECKS:
        verdict = check(case)
        if verdict is not None:
            return verdict
    return Verdict("started", "")


# --- objections that end it --------------------------------------------------------------------------


def _ended_otherwise(case: Case) -> Verdict | None:
    status = submission_status(case.runs, case.run)
    if status in ("SUCCEEDED", "STOPPED"):
        return Verdict("abandoned", f"the old submission is {status}")
    ending = case.runs.life(case.run.id).ending
    if ending in ("FINISHED", "INTERRUPTED"):
        how = "finished" if ending == "FINISHED" else "was interrupted by its user"
        return Verdict("abandoned", f"the training itself {how}")
    if status == "ENDED" and not case.incident.gave_up:
        return Verdict("abandoned", "the driver ended and nothing says that it failed")
    return None


def _was_done_since(case: Case) -> Verdict | None:
    """Where no name of Ray Train joins a resubmission by hand to its run, the same work tells."""
    done = successors(case.runs, case.run)
    return Verdict("abandoned", f"{done[0]} did the same work since") if done else None


def _others_restart_it(case: Case) -> Verdict | None:
    if case.run.owner in ("ray_train", "kuberay"):
        return Verdict("abandoned", f"{case.run.owner} restarts it itself")
    failed = submission_status(case.runs, case.run) == "FAILED"
    if failed or case.run.status == "failed":
        return None
    if case.incident.restarted or not case.incident.gave_up:
        return Verdict("abandoned", "the run goes on: its own restarts are not used up")
    return None


def _too_old(case: Case) -> Verdict | None:
    ended = max(case.incident.last_at, case.run.ended_at or 0.0)
    if ended < case.started_at:
        return Verdict("abandoned", "history: it ended before the first start")
    rule, existing = case.rule, case.existing
    if case.now <= ended + rule.max_age_s:
        return None
    if existing is not None and existing.state == "suggested":
        return Verdict("suggested", existing.detail)
    if existing is not None and case.now <= kept_until(existing, rule):
        return None
    return Verdict("abandoned", f"older than max_age_s ({rule.max_age_s:g})")


def kept_until(action: Action, rule: ResumeRule) -> float:
    """Return when a decision that could not be carried out is given up."""
    if action.state in ("suggested", "awaiting_approval"):  # a person takes the time that it takes
        return float("inf")
    since = action.due_at if action.mode == "approve" else action.created_at
    return since + rule.max_age_s + rule.backoff_max_s


# --- objections that leave it to a person --------------------------------------------------------------


def _needs_a_change(case: Case) -> Verdict | None:
    if case.advice != "changed":
        return None
    return Verdict("suggested", f"something must be changed first: {case.failure.title}")


def _snapshot_is_corrupt(case: Case) -> Verdict | None:
    problem = case.run.checkpoint_problem
    chooses = case.advice == "older" and case.rule.hook.kind == "command"
    if chooses and case.run.id in case.runs.older:
        return None
    if problem.startswith("corrupt"):
        return Verdict(
            "suggested", f"the checkpoint snapshot is corrupt; it is never rewritten: {problem}"
        )
    if problem.startswith("dir_missing"):
        return Verdict("suggested", f"the newest checkpoint is not there: {problem}")
    return None


def _hook_cannot_choose(case: Case) -> Verdict | None:
    is_job = case.rule.hook.kind == "job"
    if case.advice == "elsewhere" and not case.is_node_dead and is_job:
        where = case.node[:12] or "of the failure"
        return Verdict(
            "suggested",
            f"node {where} lives and a job hook cannot avoid it; use a command hook",
        )
    if case.advice != "older":
        return None
    if is_job:
        return Verdict(
            "suggested", "a job hook cannot choose an older checkpoint; use a command hook"
        )
    if case.run.id not in case.runs.older:
        return Verdict("suggested", "no checkpoint before the newest is known")
    return None


def _driver_by_hand(case: Case) -> Verdict | None:
    if case.rule.hook.kind != "job" or case.runs.life(case.run.id).submission:
        return None
    return Verdict(
        "suggested", "hand-run driver: entrypoint environment unknown; use a command hook"
    )


def _makes_no_progress(case: Case) -> Verdict | None:
    stuck = 0
    for action in reversed(case.past):
        if not _ended_alike(action, case):
            break
        stuck += 1
    if stuck < MAX_STUCK:
        return None
    step = case.run.checkpoint.step if case.run.checkpoint else None
    where = "its start" if step is None else f"step {step}"
    return Verdict(
        "suggested", f"{stuck} resumes ended in {case.failure.id} without progress beyond {where}"
    )


def _ended_alike(action: Action, case: Case) -> bool:
    if action.state != "succeeded" or action.first_step_at is not None:
        return False
    if not (case.run.checkpoint or case.run.world_sizes):  # no progress could be seen
        return False
    mine = case.run.checkpoint.step if case.run.checkpoint else None
    theirs = action.checkpoint.step if action.checkpoint else None
    return action.class_id == case.failure.id and mine == theirs and case.advice != "now"


def _budget_is_used_up(case: Case) -> Verdict | None:
    used = attempts_used(case.run, case.past)
    if case.advice == "now" or used < case.rule.max_attempts:
        return None
    return Verdict("suggested", f"the budget of {case.rule.max_attempts} attempts is used up")


# --- objections that pass --------------------------------------------------------------------------------


def _symptom_settles(case: Case) -> Verdict | None:
    if case.failure.role != "symptom" or case.incident.settled_at is not None:
        return None
    due = case.incident.first_at + case.rule.settle_s
    if case.now >= due:
        return None
    return Verdict("waiting", f"{case.failure.id} is a symptom: waits for its cause", due)


def _old_one_is_over(case: Case) -> Verdict | None:
    status = submission_status(case.runs, case.run)
    if status in ("FAILED", "ENDED"):
        return None
    return Verdict("waiting", f"the old submission is {status or 'not known to be over'}")


def _ranks_are_gone(case: Case) -> Verdict | None:
    left = ranks_left(case.runs, case.run)
    shown = ", ".join(left[:4])
    return Verdict("waiting", f"not known to be gone: {shown}") if left else None


def _nobody_else_runs_it(case: Case) -> Verdict | None:
    others = rivals(case.runs, case.run)
    return Verdict("waiting", f"another active job trains it: {others[0]}") if others else None


def _snapshot_is_torn(case: Case) -> Verdict | None:
    problem = case.run.checkpoint_problem
    return Verdict("waiting", f"reads again: {problem}") if problem.startswith("torn") else None


def _backs_off(case: Case) -> Verdict | None:
    due = backed_off(case.past, case.rule, case.run.checkpoint)
    existing = case.existing
    if existing is not None and existing.detail.startswith(DEFERRED) and existing.due_at > case.now:
        return Verdict("waiting", existing.detail, existing.due_at)
    if case.now >= due:
        return None
    return Verdict("waiting", f"backs off after {len(case.past)} attempts", due)


def backed_off(past: tuple[Action, ...], rule: ResumeRule, saved: Checkpoint | None) -> float:
    """Return when the next attempt is due: doubled with each one that brought no step and no checkpoint."""
    reached = saved.step if saved is not None else None
    if not past:
        return 0.0
    streak = 0
    for action in reversed(past):
        begun = action.checkpoint.step if action.checkpoint is not None else None
        moved = begun is not None and reached is not None and begun < reached
        if action.first_step_at is not None or moved:
            break
        streak += 1
    delay = min(rule.backoff_max_s, rule.backoff_s * 2.0 ** min(max(streak, 1) - 1, 30))
    last = past[-1]
    return max(last.started_at or last.created_at, last.ended_at or 0.0) + delay


_CHECKS: tuple[Check, ...] = (
    _ended_otherwise,
    _was_done_since,
    _others_restart_it,
    _too_old,
    _symptom_settles,
    _driver_by_hand,
    _old_one_is_over,
    _needs_a_change,
    _snapshot_is_corrupt,
    _hook_cannot_choose,
    _makes_no_progress,
    _budget_is_used_up,
    _ranks_are_gone,
    _nobody_else_runs_it,
    _snapshot_is_torn,
    _backs_off,
)


# --- what binds a person too: nothing runs twice, nothing starts from what is not whole -------------------


def _nothing_is_on_its_way(case: Case) -> Verdict | None:
    going = next((a.key for a in case.past if a.state == "started"), "")
    return Verdict("waiting", f"{going} is on its way already") if going else None


def _nothing_worked_yet(case: Case) -> Verdict | None:
    """What worked is a life of its own soon; until Ray shows it, this end would be resumed twice."""
    mine = [a for a in case.past if is_for_life(a, case.run, case.runs)]
    done = next((a.key for a in mine if a.state == "succeeded"), "")
    return Verdict("abandoned", f"{done} has started it again already") if done else None


# Not asked of a person: mode, class, age, settling, budget, back-off.
_BY_HAND: Mapping[str, Check] = {
    "nothing_is_on_its_way": _nothing_is_on_its_way,
    "nothing_worked_yet": _nothing_worked_yet,
    "ended_otherwise": _ended_otherwise,
    "old_one_is_over": _old_one_is_over,
    "others_restart_it": _others_restart_it,
    "driver_by_hand": _driver_by_hand,
    "snapshot_is_corrupt": _snapshot_is_corrupt,
    "snapshot_is_torn": _snapshot_is_torn,
    "ranks_are_gone": _ranks_are_gone,
    "nobody_else_runs_it": _nobody_else_runs_it,
}
