"""Questions about a run: how its job stands, who of it is left, what hurts it."""

from __future__ import annotations

from raywatch.core.levels import is_on_one_host
from raywatch.core.lineage import Runs, is_placeholder, owners_of, same_storage
from raywatch.model import Entity, Incident, Rank, Run
from raywatch.observations import JobSeen, WorkerSeen

ACTIVE = ("PENDING", "RUNNING")
FAILED_ENDINGS = ("RAISE", "ERRORED", "ABORTED", "LOST")
SLACK_S = 90.0  # a vanished node is declared dead 64 s later, when its job may be over
_BINDING = ("submission", "job", "worker", "actor")


def runs_of_job(runs: Runs, seen: JobSeen) -> tuple[str, ...]:
    """Return the lineages that a job belongs to."""
    ids = owners_of(runs, Entity("submission", seen.submission_id))
    return tuple(dict.fromkeys((*ids, *owners_of(runs, Entity("job", seen.job_id)))))


def current_job(runs: Runs, run: Run) -> JobSeen | None:
    """Return what the Jobs API says of the run's current submission or driver."""
    life = runs.life(run.id)
    keys = [life.submission] if life.submission else list(life.jobs[::-1])
    return next((runs.jobs[k] for k in keys if k in runs.jobs), None)


def driver_end(runs: Runs, run: Run) -> WorkerSeen | None:
    """Return how the current driver's process ended, as Ray's list of workers tells; None: it lives, or nobody says."""
    jobs = runs.life(run.id).jobs
    return runs.drivers.get(jobs[-1]) if jobs else None


def ranks_left(runs: Runs, run: Run) -> tuple[str, ...]:
    """Name the ranks that are not known to be gone. What is not known counts as not gone.

    Of a declared run its output names ranks by their numbers: those of a launcher that ended by itself ended before it.
    """
    life = runs.life(run.id)
    launched = run.framework and _ended_its_ranks(current_job(runs, run))
    left = [
        f"rank {r.world_rank}"
        for r in run.ranks
        if not _is_gone(runs, r.actor_id, r.node_id, r.worker_id)
        if not (launched and r == Rank(r.world_rank, log_file=r.log_file))
    ]
    mine = {r.actor_id for r in run.ranks}
    left += [
        f"actor {a.actor_id}"
        for a in runs.actors.values()
        if a.job_id in life.jobs
        and a.actor_id not in mine
        and not _is_gone(runs, a.actor_id, a.node_id, "")
    ]
    return tuple(left)


def _ended_its_ranks(seen: JobSeen | None) -> bool:
    """Say whether a job was a launcher of ranks on its own host that gave up: it ends them first.

    One that was killed (an exit code below 0 or from 128 on) may leave them behind, and so may a script around it.
    """
    code = seen.driver_exit_code if seen is not None and seen.status == "FAILED" else None
    gave_up = code is not None and 0 < code < 128  # noqa: PLR2004 - a shell adds 128 to a signal
    return seen is not None and gave_up and is_on_one_host(seen.entrypoint)


def _is_gone(runs: Runs, actor_id: str, node_id: str, worker_id: str) -> bool:
    actor, node = runs.actors.get(actor_id), runs.nodes.get(node_id)
    return (
        (actor is not None and actor.state == "DEAD")
        or (node is not None and node.state == "DEAD")
        or worker_id in runs.dead_workers
    )


def submission_status(runs: Runs, run: Run) -> str:
    """Return how the run's current job stands: PENDING RUNNING STOPPED SUCCEEDED FAILED.

    ENDED: a driver's job is over and nobody said how. Empty: not known.
    """
    life, seen = runs.life(run.id), current_job(runs, run)
    if seen is None:
        return ""
    if life.submission or seen.status in (*ACTIVE, "FAILED", "STOPPED"):
        return seen.status
    if life.ending in FAILED_ENDINGS:
        return "FAILED"
    return {"FINISHED": "SUCCEEDED", "INTERRUPTED": "STOPPED"}.get(life.ending, "ENDED")


def rivals(runs: Runs, run: Run) -> tuple[str, ...]:
    """Name the other active jobs that may train the same: same name and storage, or same command."""
    life = runs.life(run.id)
    mine = {life.submission, *life.jobs} - {""}
    return tuple(
        key
        for key, job in runs.jobs.items()
        if job.status in ACTIVE and not mine & {key, job.job_id} and _is_rival(runs, run, job)
    )


def successors(runs: Runs, run: Run) -> tuple[str, ...]:
    """Name the other jobs that began to train the same after this one had ended, and are over too."""
    mine = {*run.submissions, *runs.life(run.id).jobs} - {""}
    ended = run.ended_at
    return tuple(
        key
        for key, job in runs.jobs.items()
        if ended is not None
        and job.status not in ACTIVE
        and (job.started_at or 0.0) >= ended
        and not mine & {key, job.job_id}
        and _is_rival(runs, run, job)
    )


def _is_rival(runs: Runs, run: Run, job: JobSeen) -> bool:
    others = [runs.runs[i] for i in runs_of_job(runs, job)]
    if any(o.name == run.name and same_storage(o.storage_path, run.storage_path) for o in others):
        return True
    unnamed = all(is_placeholder(o) for o in others)
    same = (job.entrypoint, job.runtime_env) == (run.entrypoint, run.runtime_env)
    return unnamed and same and bool(run.entrypoint)


def runs_hurt(runs: Runs, incident: Incident) -> tuple[str, ...]:
    """Return the lineages that an incident touches, by what it names; a node hurts who has ranks on it."""
    named_ones = [Entity(e.kind, e.id) for e in incident.entities if e.kind in _BINDING]
    if incident.subject.kind in ("run", "job", "actor", "worker"):
        named_ones += [Entity(k, incident.subject.id) for k in _BINDING]
    hurt = [i for e in sorted(named_ones) for i in owners_of(runs, e)]
    if incident.subject.kind == "cluster":
        hurt += [r.id for r in runs.runs.values() if _was_active(r, incident)]
    if incident.subject.kind in ("node", "device"):
        hurt += _runs_on(runs, incident)
    if not hurt:  # a name alone may be that of several runs
        names = {e.id for e in incident.entities if e.kind == "run"}
        names |= {incident.subject.id} if incident.subject.kind == "run" else set()
        hurt = [r.id for r in runs.runs.values() if r.name in names]
    return tuple(dict.fromkeys(hurt))


def _runs_on(runs: Runs, incident: Incident) -> list[str]:
    node = incident.subject.node or incident.subject.id
    ids = {node} | {n.node_id for n in runs.nodes.values() if node in (n.ip, n.name)}
    return [
        run.id
        for run in runs.runs.values()
        if _was_active(run, incident)
        and ids & ({r.node_id for r in run.ranks if r.node_id} | _driver_nodes(runs, run))
    ]


def _was_active(run: Run, incident: Incident) -> bool:
    if run.ended_at is not None:
        return run.ended_at >= incident.first_at - SLACK_S
    return run.status not in ("finished", "stopped")


def _driver_nodes(runs: Runs, run: Run) -> set[str]:
    life = runs.life(run.id)
    seen = (runs.jobs.get(k) for k in (life.submission, *life.jobs) if k)
    return {j.driver_node_id for j in seen if j is not None and j.driver_node_id}


def touches_life(runs: Runs, run: Run, incident: Incident) -> bool | None:
    """Say whether an incident is about the run's current life; None where it names no life at all."""
    life = runs.life(run.id)
    entities = incident.entities | {Entity(k, incident.subject.id) for k in _BINDING}
    jobs = {e.id for e in entities if e.kind == "job" and run.id in owners_of(runs, e)}
    submissions = {e.id for e in entities if e.kind == "submission" and e.id in run.submissions}
    ranks = {e.id for e in entities if e.kind in ("worker", "actor")}
    if submissions & {life.submission} or jobs & set(life.jobs):
        return True
    if ranks & {i for r in run.ranks for i in (r.actor_id, r.worker_id) if i}:
        return True
    return False if submissions or jobs else None


def was_survived(run: Run, runs: Runs, incident: Incident) -> bool:
    """Say whether Ray Train has started the run's workers again since, or the run made progress all the same."""
    group_at = runs.life(run.id).group_at
    saved_at = run.checkpoint.at if run.checkpoint is not None else None
    if max(run.step_at or 0.0, saved_at or 0.0) > incident.last_at + SLACK_S:
        return True
    restarted = incident.restarted and not incident.gave_up
    return incident.last_at < group_at or (restarted and incident.first_at < group_at)


def forgotten_attempts(run: Run, known: int) -> int:
    """Return how many attempts a submission of ours tells of that no ledger knows: its store was another one."""
    told = run.metadata.get("raywatch_attempt", "")
    return max(0, int(told) - known) if told.isascii() and told.isdigit() and len(told) < 6 else 0  # noqa: PLR2004 - hostile
