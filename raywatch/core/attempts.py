"""The tries of a run: when each began and ended, with how many workers, and what ended it.

What Ray Train writes about its worker groups is better than what its state API lists, and that is better than its job.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from raywatch.core.lineage import MAX_ATTEMPTS, Runs
from raywatch.core.standing import SLACK_S, runs_hurt
from raywatch.model import OVER, Attempt, AttemptStatus, FailureClass, Incident, Run
from raywatch.observations import JobSeen, TrainRunSeen

MAX_WHY = 200  # characters
SAME_S = 1.0  # between two clocks' words for one start
_OVER = ("FAILED", "STOPPED", "SUCCEEDED")
_OF_TRAIN: Mapping[str, AttemptStatus] = {
    "PENDING": "running",
    "RUNNING": "running",
    "FINISHED": "finished",
    "ERRORED": "failed",
    "ABORTED": "stopped",
}


def begun(run: Run, at: float, size: int | None, job: str) -> Run:
    """Return the run after a worker group of it started. What ended the one before may be written later."""
    kept = [a for a in run.attempts if a.job != job or a.by == "log"]
    if kept and kept[-1].ended_at is None:
        kept[-1] = replace(kept[-1], ended_at=at, status="ended")
    return _with(run, (*kept, Attempt(at, job, "log", size)))


def ended(run: Run, at: float, status: AttemptStatus, why: str = "") -> Run:
    """Return the run after its newest attempt ended; one that ended already stays as it is."""
    if not run.attempts or run.attempts[-1].ended_at is not None:
        return run
    last = replace(run.attempts[-1], ended_at=at, status=status, why=why[:MAX_WHY])
    return replace(run, attempts=(*run.attempts[:-1], last))


def with_job(run: Run, seen: JobSeen) -> Run:
    """Return the run with its job as an attempt, and with none open once the job is over."""
    job = seen.job_id or seen.submission_id
    if not seen.started_at or not job:
        return run
    # One that is PENDING has no job id yet.
    named = {seen.submission_id: job} if seen.job_id and seen.submission_id else {}
    told = tuple(replace(a, job=named[a.job]) if a.job in named else a for a in run.attempts)
    run = run if told == run.attempts else replace(run, attempts=told)
    # Ids of jobs begin again with each session.
    if not any(a.job == job and a.started_at >= seen.started_at - SAME_S for a in told):
        run = _begun_by_job(run, job, seen.started_at)
    if seen.status not in _OVER:
        return run
    # A plain driver's job SUCCEEDED after a raise too: what the run is says more.
    status: AttemptStatus = "ended"
    if run.status in OVER:
        status = run.status
    return ended(run, seen.ended_at or seen.at, status, seen.message)


def _begun_by_job(run: Run, job: str, at: float) -> Run:
    """Return the run with a job that began to train it."""
    kept = run.attempts
    if kept and kept[-1].ended_at is None:
        kept = ended(run, at, "ended").attempts
    return _with(run, (*kept, Attempt(at, job, "job")))


def listed(run: Run, seen: TrainRunSeen) -> Run:
    """Return the run with the attempts that the Train state API lists, where its log has told of none."""
    if any(a.by == "log" and a.job == seen.job_id for a in run.attempts) or not seen.attempts:
        return run
    known = {a.started_at: a for a in run.attempts if a.job == seen.job_id}
    kept = [a for a in run.attempts if a.job != seen.job_id]
    rows = sorted(seen.attempts, key=lambda a: a.started_at or 0.0)
    for number, row in enumerate(rows):
        at = row.started_at or 0.0
        status = _OF_TRAIN.get(row.status, "running")
        if status == "finished" and number + 1 < len(rows):
            status = "ended"  # a drain and a resize end an attempt so too
        old = known.get(at, Attempt(at))
        kept.append(
            replace(
                old,
                job=seen.job_id,
                by="api",
                size=len(row.workers) or None,
                status=status,
                ended_at=row.ended_at,
                why=_first_line(row.detail),
            )
        )
    return _with(run, kept)


def newly_ended(before: Runs, after: Runs) -> tuple[str, ...]:
    """Return the runs of which an attempt ended between two states."""
    return tuple(
        number
        for number, run in after.runs.items()
        if (old := before.runs.get(number)) is not run
        and _ends(run) != (_ends(old) if old is not None else ())
    )


def _ends(run: Run) -> tuple[float, ...]:
    return tuple(a.ended_at for a in run.attempts if a.ended_at is not None)


def explained(
    run: Run, incidents: Iterable[Incident], runs: Runs, classes: Mapping[str, FailureClass]
) -> Run:
    """Return the run with the incident that ended its last attempt which failed, as far as one is known."""
    number = next(
        (i for i in reversed(range(len(run.attempts))) if run.attempts[i].ended_at is not None),
        None,
    )
    if number is None or run.attempts[number].status in ("finished", "stopped"):
        return run
    attempt = run.attempts[number]
    end = attempt.ended_at or 0.0
    near = [
        i
        for i in incidents
        if i.first_at <= end + SLACK_S
        and i.last_at >= max(end - SLACK_S, attempt.started_at)
        and classes[i.class_id].role in ("root", "symptom")
        and run.id in (*i.runs, *runs_hurt(runs, i))
    ]
    best = max(
        near,
        key=lambda i: (classes[i.class_id].role == "root", i.trust, i.confidence, -i.first_at),
        default=None,
    )
    if best is None or (attempt.class_id, attempt.incident) == (best.class_id, best.id):
        return run
    told = replace(attempt, class_id=best.class_id, incident=best.id)
    return replace(run, attempts=(*run.attempts[:number], told, *run.attempts[number + 1 :]))


def _with(run: Run, attempts: Iterable[Attempt]) -> Run:
    return replace(run, attempts=tuple(attempts)[-MAX_ATTEMPTS:])


def _first_line(text: str) -> str:
    return next((x.strip() for x in text.splitlines() if x.strip()), "")[:MAX_WHY]
