"""May a run be started again? Its old job, its driver and its ranks are read afresh; unknown counts as not gone."""

from __future__ import annotations

from typing import Literal, NamedTuple

from raywatch.model import Action, Run
from raywatch.resume.jobs import Actor, Job, JobsClient, Unreadable, Worker

GONE = "GONE"  # no row of it: it is of an earlier session
OVER = frozenset(["FAILED", "STOPPED", "SUCCEEDED", GONE])  # what is not known counts as not gone
DRIVER_ID = "f" * 48  # Ray names a driver's worker by its job: <job id>ffff...


class Blocked(NamedTuple):
    """Why nothing may start: `deferred` may pass, `refused` does not."""

    state: Literal["deferred", "refused"]
    detail: str


def _later(detail: str) -> Blocked:
    return Blocked("deferred", detail[:500])


async def preflight(jobs: JobsClient | None, action: Action, run: Run) -> Blocked | None:
    """Say what forbids to start a run again, None where nothing does. Raises nothing of its own."""
    if action.hook.kind == "job" and not action.old_submission:
        return Blocked("refused", "no submission to repeat")
    if jobs is None:
        return _later("no dashboard to read the old job from")
    listed = await jobs.jobs()
    if isinstance(listed, Unreadable):
        return _later(f"jobs unreadable: {listed.kind}: {listed.detail}")
    if action.old_submission:
        old = await jobs.job(action.old_submission)
        if isinstance(old, Unreadable):
            return _later(f"old job unreadable: {old.kind}: {old.detail}")
        blocked = _by_status(old)
    else:
        old = _driver(listed, action)
        blocked = _later(f"the old driver {old.job_id} is {old.status}") if _lives(old) else None
    if blocked is not None:
        return blocked
    rival = next((j for j in listed if _is_rival(j, action, run, old)), None)
    if rival is not None:
        name = rival.submission_id or rival.job_id
        return _later(f"job {name} does the same work and is {rival.status}")
    return await _ranks(jobs, action, run, old)


def _by_status(old: Job) -> Blocked | None:
    said = f"old job {old.submission_id} is {old.status}"
    if _lives(old):
        return _later(said)
    return None if old.status == "FAILED" else Blocked("refused", said)


def _lives(job: Job) -> bool:
    return job.status not in OVER


def _driver(listed: tuple[Job, ...], action: Action) -> Job:
    """Return the row of a driver that was started by hand; what Ray says of how it ended is no truth.

    Job ids begin again with each session of Ray: one that began after the decision is another.
    """
    gone = Job("", action.old_job, GONE, "")
    same = (j for j in listed if action.old_job and j.job_id == action.old_job)
    return next((j for j in same if (j.started_at or 0.0) <= action.created_at), gone)


def _is_rival(job: Job, action: Action, run: Run, old: Job) -> bool:
    if not _lives(job) or job.submission_id == action.key:
        return False
    if job.metadata.get("raywatch_run") in (run.id, action.run):
        return True
    same = (job.entrypoint, job.runtime_env) == (old.entrypoint, old.runtime_env)
    return same and bool(old.entrypoint)


# --- who of it is left -----------------------------------------------------------------------------


async def _ranks(jobs: JobsClient, action: Action, run: Run, old: Job) -> Blocked | None:
    """A rank trains on for seconds after its raylet died, and a process may outlive its actor's row."""
    actors: list[Actor] = []
    old_jobs = [*dict.fromkeys(filter(None, (old.job_id, action.old_job)))]
    for job_id in old_jobs:
        found = await jobs.actors(job_id)
        if isinstance(found, Unreadable):
            return _later(f"actors unreadable: {found.kind}: {found.detail}")
        actors += found
    alive = sum(a.state != "DEAD" for a in actors)
    if alive:
        return _later(f"{alive} actors of the old job live")
    workers, nodes = await jobs.living_workers(), await jobs.living_nodes()
    if isinstance(workers, Unreadable):
        return _later(f"workers unreadable: {workers.kind}: {workers.detail}")
    if isinstance(nodes, Unreadable):
        return _later(f"nodes unreadable: {nodes.kind}: {nodes.detail}")
    # The workers of a node that died stay "alive" in Ray's table for ever: only those of living nodes count.
    here = [w for w in workers if w.node_id in nodes]
    left = [w for w in here if _was_of(w, run, actors, old_jobs) and not _came_later(w, old)]
    shown = ", ".join(f"{w.kind.lower()} {w.pid} on {w.node_id[:12]}" for w in left[:4])
    return _later(f"processes of the old job live: {shown}") if left else None


def _was_of(worker: Worker, run: Run, actors: list[Actor], old_jobs: list[str]) -> bool:
    """Say whether a worker held a rank or an actor of the run, or is its driver.

    An idle worker is of no job: it must not block for ever.
    """
    if worker.worker_id in {r.worker_id for r in run.ranks if r.worker_id}:
        return True
    if any(worker.worker_id == job_id + DRIVER_ID for job_id in old_jobs):
        return True
    places = {(r.node_id, r.pid) for r in run.ranks if not r.worker_id}
    places |= {(a.node_id, a.pid) for a in actors}
    return bool(worker.pid) and (worker.node_id, worker.pid) in places


def _came_later(worker: Worker, old: Job) -> bool:
    """Say whether it began after the old job's end: another process that was given the same pid."""
    if worker.started_at is None or old.ended_at is None:
        return False
    return worker.started_at > old.ended_at
