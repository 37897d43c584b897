"""What to do about a run that ended: (incidents, runs, ledger, rules, now) -> new or changed actions."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from raywatch.core.preconditions import (
    DEFERRED,
    Case,
    Objection,
    Verdict,
    judge,
    kept_until,
    objections_by_hand,
)
from raywatch.core.relevance import FIRED, admits, history_of, is_about_now, is_for_life, speaks_of
from raywatch.core.runs import Runs, canonical, runs_hurt
from raywatch.core.standing import SLACK_S, forgotten_attempts
from raywatch.model import (
    UNEXPLAINED,
    Action,
    ActionState,
    Checkpoint,
    Evidence,
    FailureClass,
    Incident,
    Outcome,
    ResumeRule,
    Run,
    Subject,
    Trust,
)

_PENDING = ("waiting", "awaiting_approval", "suggested")
_NOT_SLUG = re.compile(r"[^a-z0-9]+")
_OURS = re.compile(r"-\d+-[0-9a-f]{8}\Z")  # what `_key` puts behind a name
_SLUG = 40
BUG_LEAD_S = 20.0  # a lost node is known dead 14 s after what it tears down


def decide(
    incidents: Sequence[Incident],
    runs: Runs,
    ledger: Mapping[str, Action],
    rules: Sequence[ResumeRule],
    classes: Mapping[str, FailureClass],
    *,
    now: float,
    started_at: float,
) -> tuple[Action, ...]:
    """Return the actions that are new or changed. Merged into the ledger, a second call returns none.

    `started_at` is the daemon's first start: what ended before it is history and never acts.
    An action in state `started` is to be recorded first and then run.
    """
    if not rules and not ledger:
        return ()
    decided: list[Action] = []
    settled: set[str] = set()
    for run, incident in _ends(incidents, runs, ledger, classes):
        failure = classes[incident.class_id]
        rule = next((r for r in rules if admits(r, run, failure)), None)
        if rule is None:
            continue
        past, existing = history_of(run, runs, ledger), _existing(run, runs, ledger)
        case = Case(run, incident, failure, rule, runs, past, existing, now, started_at)
        action = _next(case)
        settled |= {a.key for a in (action, case.existing) if a is not None}
        if action is not None and action != case.existing:
            decided.append(action)
    decided += _left_over(incidents, runs, ledger, rules, settled=settled, now=now)
    return tuple(decided)


# --- which incident ended which run ----------------------------------------------------------------------


def _ends(
    incidents: Sequence[Incident],
    runs: Runs,
    ledger: Mapping[str, Action],
    classes: Mapping[str, FailureClass],
) -> list[tuple[Run, Incident]]:
    """Return each run that was hurt with the best incident about it, one run a submission."""
    ends: dict[str, list[tuple[Run, Incident]]] = {}
    for run, incident in _pairs(incidents, runs, ledger, classes):
        ends.setdefault(runs.life(run.id).submission or run.id, []).append((run, incident))
    return [_best(pairs, classes) for pairs in ends.values()]


def _pairs(
    incidents: Sequence[Incident],
    runs: Runs,
    ledger: Mapping[str, Action],
    classes: Mapping[str, FailureClass],
) -> Iterator[tuple[Run, Incident]]:
    """Yield each run with each incident that can have ended its current life."""
    used: dict[str, list[Action]] = {}
    for action in ledger.values():
        if action.state in FIRED:
            used.setdefault(action.incident, []).append(action)
    for incident in incidents:
        if not incident.acts or classes[incident.class_id].role not in ("root", "symptom"):
            continue
        for run_id in dict.fromkeys((*incident.runs, *runs_hurt(runs, incident))):
            run = runs.get(run_id)
            mine = [a for i in (incident.id, *incident.merged) for a in used.get(i, ())]
            if run is not None and is_about_now(run, runs, incident, mine):
                yield run, incident


def _best(
    pairs: Sequence[tuple[Run, Incident]], classes: Mapping[str, FailureClass]
) -> tuple[Run, Incident]:
    """Return what ended a run: the weightiest incident, but none that came after a bug had ended it, or long before."""
    bugs = [i.first_at for _, i in pairs if classes[i.class_id].resume == "never"]
    bug = min(bugs, default=0.0)
    fitting = [
        (r, i)
        for r, i in pairs
        if not bugs or (i.first_at <= bug + BUG_LEAD_S and i.last_at >= bug - SLACK_S)
    ]
    return max(fitting, key=lambda pair: _weight(pair[0], pair[1], classes))


def _weight(
    run: Run, incident: Incident, classes: Mapping[str, FailureClass]
) -> tuple[bool, bool, int, float, float, float, str]:
    """Of the runs of one submission the one that failed; root over symptom, then trust, then the first."""
    return (
        run.status == "failed",
        classes[incident.class_id].role == "root",
        int(incident.trust),
        incident.confidence,
        -incident.first_at,
        run.seen_at,
        run.id,
    )


def _existing(run: Run, runs: Runs, ledger: Mapping[str, Action]) -> Action | None:
    """Return what was decided for this end of the run and has not been carried out."""
    mine = [a for a in ledger.values() if a.state not in FIRED and is_for_life(a, run, runs)]
    return max(mine, key=lambda a: (a.state != "abandoned", a.attempt, a.created_at), default=None)


# --- one decision ------------------------------------------------------------------------------------------


def _next(case: Case) -> Action | None:
    if any(a.state == "started" for a in case.past):
        return None  # one at a time
    done = [a for a in case.past if is_for_life(a, case.run, case.runs)]
    if done and not _may_try_again(done[-1]):
        return None
    verdict = judge(case)
    if verdict.state == "abandoned":
        return _abandoned(case.existing, verdict.detail)
    return _action(case, verdict)


def _may_try_again(last: Action) -> bool:
    """A hook that failed may be run again; one of unknown outcome may have started something."""
    if last.state == "failed":
        return True
    if last.state == "timed_out" and last.hook.kind == "job":
        return True
    return last.state in ("interrupted", "timed_out") and last.hook.retry_interrupted


def _abandoned(existing: Action | None, detail: str) -> Action | None:
    if existing is None or existing.state in ("abandoned", "observed"):
        return existing
    return replace(existing, state="abandoned", detail=detail)


def _action(case: Case, verdict: Verdict) -> Action:
    existing, run, incident = case.existing, case.run, case.incident
    tried = len(case.past) + forgotten_attempts(run, len(case.past))
    attempt = existing.attempt if existing is not None else tried + 1
    life = case.runs.life(run.id)
    state = _in_mode(case, verdict.state)
    due_at = existing.due_at if existing is not None else case.now
    if verdict.due_at is not None:
        due_at = verdict.due_at
    elif verdict.state == "started":  # what it waited for may have come early
        due_at = min(due_at, case.now)
    return Action(
        key=existing.key
        if existing is not None
        else _key(run, life.submission, incident.id, attempt),
        run=existing.run if existing is not None else run.id,
        run_name=run.name,
        incident=incident.id,
        class_id=incident.class_id,
        attempt=attempt,
        mode=case.rule.mode,
        hook=case.rule.hook,
        state=state,
        created_at=existing.created_at if existing is not None else case.now,
        due_at=due_at,
        old_submission=life.submission,
        old_job=life.jobs[-1] if life.jobs else "",
        checkpoint=_checkpoint(case),
        avoid_nodes=case.avoid_nodes,
        started_at=case.now if state == "started" else None,
        detail=verdict.detail,
        detected_at=existing.detected_at if existing is not None else incident.first_at,
        counted=case.advice != "now",
    )


def _in_mode(case: Case, state: ActionState) -> ActionState:
    """Bound what may be done by the rule's mode."""
    mode, existing = case.rule.mode, case.existing
    if mode == "observe":
        return "observed"
    if mode == "suggest":
        return "suggested"
    approved = existing is not None and (existing.mode, existing.state) == ("approve", "waiting")
    if mode == "approve" and state != "suggested" and not approved:
        return "awaiting_approval"
    return state


def _checkpoint(case: Case) -> Checkpoint | None:
    if case.advice == "older":
        return case.runs.older.get(case.run.id)
    return case.run.checkpoint


def _key(run: Run, submission: str, incident: str, attempt: int) -> str:
    """Name an action. For a submission by it and the attempt alone: whoever else watches it gives the same name.

    Daemons on several nodes, each with a store of its own, then make one job of it: Ray refuses the second.
    """
    name = _OURS.sub("", submission.removeprefix("raywatch-")) or run.name
    slug = _NOT_SLUG.sub("-", name.lower()).strip("-")[:_SLUG].strip("-") or "run"
    end = submission or f"{run.id}\n{incident}"
    digest = hashlib.sha256(end.encode()).hexdigest()[:8]
    return f"raywatch-{slug}-{attempt}-{digest}"


# --- decisions whose reason is gone ------------------------------------------------------------------------


def _left_over(
    incidents: Iterable[Incident],
    runs: Runs,
    ledger: Mapping[str, Action],
    rules: Sequence[ResumeRule],
    *,
    settled: set[str],
    now: float,
) -> list[Action]:
    """Abandon what waits for a run that was started again, for no rule, or for too long."""
    present = {n for i in incidents for n in (i.id, *i.merged)}
    found = []
    for action in ledger.values():
        if action.state not in _PENDING or action.key in settled:
            continue
        if _was_taken(action, runs):
            found.append(_taken(action, now))
            continue
        reason = _gone(action, runs, rules, is_present=action.incident in present, now=now)
        if reason:
            found.append(replace(action, state="abandoned", detail=reason))
    return found


def _was_taken(action: Action, runs: Runs) -> bool:
    """Say whether Ray shows the job that an action waits to submit: a crash came between, and nobody could ask since."""
    run = runs.get(canonical(runs, action.run))
    if run is None or action.hook.kind != "job" or action.key not in run.submissions:
        return False
    return run.metadata.get("raywatch_action") == action.key


def _taken(action: Action, now: float) -> Action:
    return replace(
        action,
        state="succeeded",
        started_at=action.started_at or action.created_at,
        ended_at=now,
        submission_id=action.key,
        detail="Ray has the job: it was submitted, and the answer was lost",
    )


def _gone(
    action: Action, runs: Runs, rules: Sequence[ResumeRule], *, is_present: bool, now: float
) -> str:
    run = runs.get(canonical(runs, action.run))
    if run is not None and not is_for_life(action, run, runs):
        return "the run was started again by somebody else"
    if run is not None and is_present:
        return "the run goes on, or no [[resume]] speaks of it any more"
    rule = next((r for r in rules if r.hook == action.hook), None)
    if rule is None:
        return "no [[resume]] speaks of it any more"
    return "its incident is gone" if now > kept_until(action, rule) else ""


# --- what comes of an action -------------------------------------------------------------------------------


def apply_outcome(action: Action, outcome: Outcome, now: float, rule: ResumeRule) -> Action:
    """Return the action after its hook has answered; an answer to what was not started changes nothing."""
    if action.state != "started" or outcome.key != action.key:
        return action
    if outcome.state == "deferred":
        return replace(
            action,
            # A person asked for now, not for some time later; nothing was started.
            state="abandoned" if action.by_hand else "waiting",
            started_at=None,
            due_at=now + rule.backoff_s,
            detail=f"{DEFERRED}{outcome.detail}",
        )
    return replace(
        action,
        state=outcome.state,
        ended_at=outcome.at,
        detail=outcome.detail,
        output=outcome.output,
        submission_id=outcome.submission_id or action.submission_id,
    )


def approve(action: Action, now: float) -> Action:
    """Let an action that awaits approval go on; any other stays as it is."""
    if action.state != "awaiting_approval":
        return action
    return replace(action, state="waiting", due_at=now, detail="approved")


def progress(action: Action, runs: Runs, now: float) -> Action:
    """Note the first step beyond the checkpoint on what the action started. Changes it at most once."""
    if action.first_step_at is not None or action.state not in ("started", "succeeded"):
        return action
    begun = action.started_at if action.started_at is not None else now
    mark = action.checkpoint.step if action.checkpoint is not None else None
    for run in runs.runs.values():
        if run.step is None or run.step_at is None or run.step_at < begun:
            continue
        if _is_fruit(action, run, runs) and (mark is None or run.step > mark):
            return replace(action, first_step_at=run.step_at, first_step=run.step)
    return action


def _is_fruit(action: Action, run: Run, runs: Runs) -> bool:
    """Say whether the run's current life came of the action."""
    submission = runs.life(run.id).submission
    if action.submission_id or action.hook.kind == "job":
        return submission in (action.submission_id, action.key) and bool(submission)
    return run.id == canonical(runs, action.run) and not is_for_life(action, run, runs)


# --- a person asks to resume a run now -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ByHand:
    """What to start for a person (None: no rule gives a hook), and what forbids it."""

    action: Action | None
    objections: tuple[Objection, ...]


def decide_by_hand(
    run: Run,
    incidents: Sequence[Incident],
    runs: Runs,
    ledger: Mapping[str, Action],
    *,
    rules: Sequence[ResumeRule],
    classes: Mapping[str, FailureClass],
    now: float,
) -> ByHand:
    """Return the action that starts a run again now. It may be started only without an objection.

    What was decided for this end of the run and has not been carried out is started itself: never a second one.
    """
    incident = _why(run, incidents, runs, ledger, classes) or _nobody_said_why(run)
    failure = classes[incident.class_id]
    named = [r for r in rules if speaks_of(r, run)]
    rule = next((r for r in named if admits(r, run, failure)), next(iter(named), None))
    if rule is None:
        detail = "no [[resume]] names this run, and the hook comes from there"
        return ByHand(None, (Objection("rule", detail),))
    past, existing = history_of(run, runs, ledger), _existing(run, runs, ledger)
    case = Case(run, incident, failure, rule, runs, past, existing, now, started_at=0.0)
    action = _by_hand(case)
    objections = objections_by_hand(case)
    known = ledger.get(action.key)
    if known is not None and known.state in FIRED and not objections:
        objections = (Objection("key", f"{action.key} was carried out already"),)
    return ByHand(action, objections)


def _why(
    run: Run,
    incidents: Sequence[Incident],
    runs: Runs,
    ledger: Mapping[str, Action],
    classes: Mapping[str, FailureClass],
) -> Incident | None:
    about = [i for r, i in _pairs(incidents, runs, ledger, classes) if r.id == run.id]
    return max(about, key=lambda i: _weight(run, i, classes), default=None)


def _nobody_said_why(run: Run) -> Incident:
    """A person's word stands for an incident; it says nothing about what Ray Train did."""
    return Incident(
        id="",
        class_id=UNEXPLAINED,
        subject=Subject("run", run.id),
        trust=Trust.SILENCE,
        confidence=0.0,
        state="open",
        first_at=run.ended_at or 0.0,
        last_at=run.ended_at or 0.0,
        root=Evidence("", 0, "", None, "unknown"),
        acts=False,
    )


def _by_hand(case: Case) -> Action:
    action = _action(case, Verdict("started", "by hand"))
    older = _checkpoint(case) if case.rule.hook.kind == "command" else None
    return replace(
        action,
        state="started",
        started_at=case.now,
        detail="by hand",
        checkpoint=older or case.run.checkpoint,  # Ray Train itself goes on from its newest
        detected_at=action.detected_at if case.incident.id else None,
        by_hand=True,
    )
