"""What concerns a run: which rule speaks of it, which incident ended it, which decisions are its history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from raywatch.core.runs import Runs, canonical, touches_life
from raywatch.core.standing import SLACK_S, forgotten_attempts, was_survived
from raywatch.model import Action, FailureClass, Incident, ResumeRule, Run

FIRED = ("started", "succeeded", "failed", "timed_out", "interrupted", "refused")
FAR_S = 3600.0  # a ring may wait half an hour for who is gone, Gloo's longest time-out
_COUNTS_ANYWAY = ("failed", "timed_out", "interrupted")  # the hook itself did not work


def admits(rule: ResumeRule, run: Run, failure: FailureClass) -> bool:
    """Say whether a rule speaks of this run and this class. Without one nothing ever happens.

    Naming a class overrides the taxonomy, but never for what resuming would only repeat.
    """
    return speaks_of_class(rule, failure) and speaks_of(rule, run)


def speaks_of(rule: ResumeRule, run: Run) -> bool:
    """Say whether a rule's `run` names this run: by name, submission, entrypoint or a label of its owner."""
    labels = [v for k, v in run.metadata.items() if not k.startswith("raywatch_")]
    said = (run.name, *run.submissions, run.entrypoint, *labels)
    return any(fnmatchcase(n, rule.run) for n in said if n)


def speaks_of_class(rule: ResumeRule, failure: FailureClass) -> bool:
    """Say whether a rule speaks of this class, whatever the run."""
    if failure.role not in ("root", "symptom") or failure.resume == "never":
        return False
    return failure.id in rule.classes if rule.classes else failure.resume != "none"


def is_about_now(run: Run, runs: Runs, incident: Incident, used_by: Sequence[Action]) -> bool:
    """Say whether an incident can have ended the run's current life, and not an earlier one.

    `used_by` are the actions that this incident has started already.
    """
    named = touches_life(runs, run, incident)
    begun, ended = run.started_at or 0.0, run.ended_at
    if named is False or incident.last_at < begun or was_survived(run, runs, incident):
        return False
    if ended is not None and not incident.first_at - SLACK_S <= ended <= incident.last_at + FAR_S:
        return False
    mine = [a for a in used_by if canonical(runs, a.run) == run.id]
    used = any(not is_for_life(a, run, runs) for a in mine)
    return bool(named) or incident.first_at >= begun or not used


def is_for_life(action: Action, run: Run, runs: Runs) -> bool:
    """Say whether an action was decided for the run's current submission or driver."""
    life = runs.life(run.id)
    if life.submission:
        return action.old_submission == life.submission
    if action.old_submission or action.old_job not in (life.jobs or ("",)):
        return False
    # Job ids begin again with each session of Ray.
    return canonical(runs, action.run) == run.id and action.created_at >= (run.started_at or 0.0)


def history_of(run: Run, runs: Runs, ledger: Mapping[str, Action]) -> tuple[Action, ...]:
    """Return the fired actions of a lineage, oldest first, along its submissions also where its name changed."""
    ids = {run.id, canonical(runs, run.metadata.get("raywatch_run", run.id))}
    found = reached(ids, set(run.submissions), runs, ledger)
    fired = [a for a in found.values() if a.state in FIRED]
    return tuple(sorted(fired, key=lambda a: (a.started_at or a.created_at, a.attempt, a.key)))


def reached(
    ids: set[str], submissions: set[str], runs: Runs, ledger: Mapping[str, Action]
) -> dict[str, Action]:
    """Return the actions of these lineages and submissions, and those that they lead to."""
    ids, submissions = set(ids), set(submissions)
    found: dict[str, Action] = {}
    grown = True
    while grown:
        fresh = [
            a
            for a in ledger.values()
            if a.key not in found
            and (
                canonical(runs, a.run) in ids
                or submissions & ({a.submission_id, a.old_submission, a.key} - {""})
            )
        ]
        found |= {a.key: a for a in fresh}
        ids |= {canonical(runs, a.run) for a in fresh}
        submissions |= {a.old_submission for a in fresh} - {""}
        grown = bool(fresh)
    return found


def attempts_used(run: Run, past: tuple[Action, ...]) -> int:
    """Return how much of the lineage's budget is used up; `past`: its history_of."""
    known = sum(a.state in _COUNTS_ANYWAY or (a.counted and a.state != "refused") for a in past)
    return known + forgotten_attempts(run, len(past))
