"""What trains: runs as lineages, their ranks, levels, restarts and progress, from APIs and from logs.

Ray Train's state API is off by default, so a run must be built from the lines of logs/train/ alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from raywatch.core.attempts import listed, with_job
from raywatch.core.declared import KINDS, declare, lost, progressed
from raywatch.core.levels import fault_tolerance
from raywatch.core.lineage import (
    Life,
    Runs,
    attached,
    bounded,
    canonical,
    enter_session,
    is_placeholder,
    merge,
    named,
    owned,
    owners_of,
    put,
    restored,
    retried_by_kuberay,
    same_storage,
    settled,
    storage_key,
)
from raywatch.core.newest import newest_actor, newest_job, newest_node
from raywatch.core.ranks import identified
from raywatch.core.standing import (
    ACTIVE,
    FAILED_ENDINGS,
    current_job,
    ranks_left,
    rivals,
    runs_hurt,
    runs_of_job,
    submission_status,
    successors,
    touches_life,
)
from raywatch.core.trainfacts import apply_fact, is_of_worker, ranks_of
from raywatch.model import Entity, Fact, Run, RunStatus
from raywatch.observations import (
    ActorSeen,
    JobSeen,
    KubeRayListed,
    KubeRaySeen,
    NodeSeen,
    Observation,
    SessionSeen,
    TrainRunSeen,
    WorkerSeen,
)

__all__ = [
    "Life",
    "Runs",
    "canonical",
    "note",
    "observe",
    "ranks_left",
    "restored",
    "rivals",
    "runs_hurt",
    "submission_status",
    "successors",
    "touches_life",
]

_STATUS: Mapping[str, RunStatus] = {
    "PENDING": "pending",
    "RUNNING": "running",
    "FAILED": "failed",
    "STOPPED": "stopped",
    "SUCCEEDED": "finished",
}
_TRAIN_STATUS: Mapping[str, RunStatus] = {
    "INITIALIZING": "pending",
    "SCHEDULING": "pending",
    "RUNNING": "running",
    "RESTARTING": "restarting",
    "RESIZING": "restarting",
    "ERRORED": "failed",
    "FINISHED": "finished",
    "ABORTED": "failed",
}
_RANK_PREFIX = "RayTrainWorker"  # `(RayTrainWorker pid=..., ip=...) ` in a driver's output
_RANK_CLASS = re.compile(r"TrainWorker|HorovodWorker")
_TRAIN_KINDS = frozenset(
    [
        "group_started",
        "training_result",
        "checkpoint_created",
        "failure_policy",
        "state_transition",
        "run_storage",
        "process_group",
        "elastic_resize",
    ]
)


def observe(runs: Runs, seen: Observation, now: float) -> Runs:
    """Take in what an API says. Same input, same output; what changes nothing returns `runs` itself."""
    match seen:
        case JobSeen():
            runs = _job_seen(runs, seen, now)
        case TrainRunSeen():
            runs = _train_run_seen(runs, seen, now)
        case ActorSeen():
            runs = _actor_seen(runs, seen, now)
        case WorkerSeen() if seen.worker_id not in runs.dead_workers:
            runs = _worker_ended(runs, seen)
        case NodeSeen():
            runs = _node_seen(runs, seen, now)
        case SessionSeen():
            runs = enter_session(runs, seen.session)
        case KubeRaySeen():
            job = frozenset([seen.submission_id]) - {""}
            others = runs.kuberay - job
            runs = retried_by_kuberay(runs, others | job if seen.retried else others)
        case KubeRayListed():
            runs = retried_by_kuberay(runs, seen.retried)
    return runs


def _node_seen(runs: Runs, seen: NodeSeen, now: float) -> Runs:
    known = runs.nodes.get(seen.node_id)
    if known is not None:
        seen = newest_node(known, seen, now)
        if (known.state, known.ip, known.is_head) == (seen.state, seen.ip, seen.is_head):
            return runs
    return replace(runs, nodes=bounded(runs.nodes, seen.node_id, seen))


def _worker_ended(runs: Runs, seen: WorkerSeen) -> Runs:
    ended = seen.ended_at or seen.at
    runs = replace(runs, dead_workers=bounded(runs.dead_workers, seen.worker_id, ended))
    job = seen.worker_id.removesuffix("f" * 48)  # a driver's id is its job's, filled up
    if seen.worker_type != "DRIVER" or job == seen.worker_id:
        return runs
    return lost(replace(runs, drivers=bounded(runs.drivers, job, seen)), job)


# --- jobs ----------------------------------------------------------------------------------------


def _job_seen(runs: Runs, seen: JobSeen, now: float) -> Runs:
    key = seen.submission_id or seen.job_id
    known = runs.jobs.get(key)
    if known is not None:
        seen = newest_job(known, seen, now)
        if replace(known, at=seen.at) == seen and seen.status not in ACTIVE:
            return runs
    runs = replace(runs, jobs=bounded(runs.jobs, key, seen))
    if seen.submission_id:
        runs = _submission_seen(runs, seen, now)
    runs = declare(runs, seen, now) if runs.rules else runs
    for run_id in runs_of_job(runs, seen):
        runs, current = attached(
            runs, run_id, job=seen.job_id, submission=seen.submission_id, at=seen.started_at
        )
        if current:
            run, life = replace(runs.runs[run_id], seen_at=now), runs.lives[run_id]
            runs = put(runs, _with_job(run, life, seen), life)
    return lost(runs, seen.job_id) if seen.job_id in runs.drivers else runs


def _submission_seen(runs: Runs, seen: JobSeen, now: float) -> Runs:
    """Give a submission its lineage, by our own metadata, what is known of it, or a new one."""
    ours = canonical(runs, seen.metadata.get("raywatch_run", ""))
    by_id = canonical(runs, seen.submission_id)
    known = owners_of(runs, Entity("submission", seen.submission_id))
    by_job = owners_of(runs, Entity("job", seen.job_id))
    fresh = not known
    if known:
        home = known[0]
    elif ours:
        home = ours
    else:
        home = by_job[0] if by_job else by_id
    if home not in runs.runs:
        runs = put(runs, Run(id=home, name=seen.submission_id, seen_at=now), Life())
    runs, _ = attached(
        runs, home, job=seen.job_id, submission=seen.submission_id, at=seen.started_at
    )
    if fresh and "raywatch_action" in seen.metadata:
        run = runs.runs[home]
        runs = put(runs, replace(run, resumes=run.resumes + 1), runs.lives[home])
    for other in by_job:
        if other != home and _is_one(runs.runs[home], runs.runs[other]):
            runs = merge(runs, home, other, same_life=True)
    return runs


def _is_one(home: Run, other: Run) -> bool:
    """Say whether two runs of one job are one: a job may hold several Ray Train runs."""
    if is_placeholder(home) or is_placeholder(other):
        return True
    return home.name == other.name and same_storage(home.storage_path, other.storage_path)


def _with_job(run: Run, life: Life, seen: JobSeen) -> Run:
    told = replace(
        run,
        name=run.name or seen.submission_id,
        kind="submission" if seen.submission_id else "driver",
        status=_status_with_job(run, life, seen),
        owner=run.owner if seen.status in ACTIVE else "nobody",
        entrypoint=seen.entrypoint or run.entrypoint,
        runtime_env=seen.runtime_env or run.runtime_env,
        metadata=seen.metadata or run.metadata,
        started_at=seen.started_at or run.started_at,
        ended_at=seen.ended_at,
    )
    return with_job(told, seen)


def _status_with_job(run: Run, life: Life, seen: JobSeen) -> RunStatus:
    said = _STATUS.get(seen.status, "unknown")
    if seen.status in ACTIVE:  # Ray Train knows better how a running job does
        heard = life.state_at or life.train_started_at
        return run.status if heard and run.status != "unknown" else said
    if said == "failed" and life.ending in ("FINISHED", "INTERRUPTED"):
        # What failed came after the training; a driver that was interrupted has an exit code too.
        return "finished" if life.ending == "FINISHED" else "stopped"
    if said != "finished":
        return said
    if life.ending == "INTERRUPTED":
        return "stopped"
    # A plain driver's job SUCCEEDED after fit() raised, and after SIGKILL: it proves nothing then.
    return "failed" if life.ending in FAILED_ENDINGS else "finished"


# --- the Train state API ---------------------------------------------------------------------------


def _train_run_seen(runs: Runs, seen: TrainRunSeen, now: float) -> Runs:
    runs, run_id = _train_run(runs, seen.name, seen.job_id, seen.storage_path, seen.started_at)
    runs, current = attached(
        runs, run_id, job=seen.job_id, submission=seen.submission_id, at=seen.started_at
    )
    run, life = runs.runs[run_id], runs.lives[run_id]
    if not current or (seen.started_at or 0.0) < life.train_started_at:
        return runs
    run, life = _with_train(run, life, seen)
    runs = put(runs, _concluded(runs, replace(run, seen_at=now), life), life)
    members = [
        Entity("actor", i) for i in (seen.controller_actor_id, *(r.actor_id for r in run.ranks))
    ]
    return settled(owned(runs, run_id, members), run_id)


def _with_train(run: Run, life: Life, seen: TrainRunSeen) -> tuple[Run, Life]:
    again = (seen.started_at or 0.0) > life.train_started_at > 0
    ending = "" if again else life.ending
    life = replace(
        life,
        train_started_at=seen.started_at or 0.0,
        ending=_ending(seen) or ending,
        group_at=max([life.group_at, *(a.started_at or 0.0 for a in seen.attempts if a.workers)]),
    )
    run = replace(
        run,
        status=_status_with_train(run, seen, ending),
        storage_path=seen.storage_path or run.storage_path,
        controllers=_appended(run.controllers, seen.controller_actor_id),
        max_failures=run.max_failures if seen.max_failures is None else seen.max_failures,
        max_preemptions=run.max_preemptions
        if seen.max_preemptions is None
        else seen.max_preemptions,
        ranks=ranks_of(seen, run) or run.ranks,
    )
    return replace(listed(run, seen), owner=_owner(run, life)), life


def _train_run(runs: Runs, name: str, job: str, storage: str, at: float | None) -> tuple[Runs, str]:
    """Find the lineage of a Ray Train run, or begin one."""
    of_job = [runs.runs[i] for i in owners_of(runs, Entity("job", job))]
    for run in of_job:
        if run.name == name and same_storage(run.storage_path, storage):
            return runs, run.id
    for run in of_job:
        if is_placeholder(run):
            return put(runs, replace(run, name=name), runs.lives[run.id]), run.id
    known = named(runs, name, storage)
    if known is not None:
        return runs, known.id
    run_id = f"{name}@{storage_key(storage)}" if storage else f"{name}#{job}-{int(at or 0)}"
    if run_id in runs.runs:
        return runs, run_id
    begun = Run(id=run_id, name=name, storage_path=storage, started_at=at, seen_at=at or 0.0)
    runs = put(runs, begun, Life())
    for other in of_job[:1]:  # a second Ray Train run of one submission
        submission = runs.lives[other.id].submission
        runs, _ = attached(runs, run_id, job=job, submission=submission, at=other.started_at)
    return runs, run_id


def _status_with_train(run: Run, seen: TrainRunSeen, ending: str) -> RunStatus:
    if "user interrupt" in seen.detail:
        return "stopped"
    said = _TRAIN_STATUS.get(seen.status, run.status)
    if ending and said in ("pending", "running", "restarting"):
        return run.status  # the log is ahead of the API
    return "restarting" if said == "pending" and len(seen.attempts) > 1 else said


def _ending(seen: TrainRunSeen) -> str:
    if "user interrupt" in seen.detail:
        return "INTERRUPTED"
    return seen.status if seen.status in ("ERRORED", "FINISHED", "ABORTED") else ""


def _owner(run: Run, life: Life) -> str:
    """Return who starts it next: Ray Train from its decision until its workers run again."""
    if run.status == "restarting":
        return "ray_train"
    again = run.status != "running" or life.group_at > (run.last_policy_at or 0.0)
    return "nobody" if again else run.owner


def _concluded(runs: Runs, run: Run, life: Life) -> Run:
    """Let the run's job have the last word: lines and rows of before its end may come after it."""
    seen = current_job(runs, run)
    run = _with_level(run, life)
    return run if seen is None else _with_job(run, life, seen)


def _with_level(run: Run, life: Life) -> Run:
    level, reason = fault_tolerance(run.max_failures, life.sizes)
    return replace(run, level=level, level_reason=reason)


def _appended(ids: tuple[str, ...], new: str) -> tuple[str, ...]:
    return ids if not new or new in ids else (*ids, new)


# --- ranks -----------------------------------------------------------------------------------------


def _actor_seen(runs: Runs, seen: ActorSeen, now: float) -> Runs:
    known = runs.actors.get(seen.actor_id)
    if known is not None:
        seen = newest_actor(known, seen, now)
    owners = owners_of(runs, Entity("actor", seen.actor_id))
    if not owners and not _RANK_CLASS.search(seen.class_name):
        return runs
    if known is None or (known.state, known.node_id) != (seen.state, seen.node_id):
        runs = replace(runs, actors=bounded(runs.actors, seen.actor_id, seen))
    for run_id in owners_of(runs, Entity("job", seen.job_id)):
        runs = _with_ranks(runs, run_id)
    return runs


def _with_ranks(runs: Runs, run_id: str) -> Runs:
    run = identified(runs, runs.runs[run_id])
    runs = put(runs, run, runs.lives[run_id])
    return owned(runs, run_id, [Entity("actor", r.actor_id) for r in run.ranks])


# --- facts from logs ---------------------------------------------------------------------------------


def note(runs: Runs, fact: Fact, now: float) -> Runs:
    """Take in what a log of Ray Train says. Copies, repetitions and late old lines change nothing."""
    name, job = fact.fields.get("run_name", ""), fact.fields.get("job_id", "")
    session = fact.fields.get("session", "")
    if fact.kind == "job_marker" and job:
        worker = [Entity("worker", fact.fields.get("worker_id", ""))]
        for run_id in owners_of(runs, Entity("job", job)):
            runs = owned(runs, run_id, worker)
        return runs
    if fact.kind in KINDS:
        return progressed(runs, fact, now)
    if fact.evidence.component == "job":
        return _told_by_driver(runs, fact)
    if fact.kind not in _TRAIN_KINDS or fact.evidence.component != "train" or not (name and job):
        return runs
    if session and runs.session and session < runs.session:  # names of sessions sort by time
        return runs
    runs = enter_session(runs, session)
    runs, run_id = _train_run(runs, name, job, "", fact.at)
    runs, current = attached(runs, run_id, job=job, at=fact.at)
    runs = owned(runs, run_id, _members(fact))
    if not current:
        return runs
    run, life = apply_fact(runs.runs[run_id], runs.lives[run_id], fact)
    run = replace(run, seen_at=max(run.seen_at, now))
    runs = put(runs, _concluded(runs, run, life), life)
    if fact.kind == "group_started":
        runs = _with_ranks(runs, run_id)
    return settled(runs, run_id)


def _told_by_driver(runs: Runs, fact: Fact) -> Runs:
    """Take in a rank's progress from the copy in its driver's output: its own log may be on another machine."""
    if not is_of_worker(fact) or fact.fields.get("stream_name") != _RANK_PREFIX:
        return runs
    submission = fact.fields.get("submission_id", "")
    mine = [
        i
        for i in owners_of(runs, Entity("submission", submission))
        if runs.lives[i].submission == submission and not is_placeholder(runs.runs[i])
    ]
    if len(mine) != 1:  # a driver may train several runs, and the line does not say which
        return runs
    run, life = apply_fact(runs.runs[mine[0]], runs.lives[mine[0]], fact)
    return settled(put(runs, run, life), mine[0])


def _members(fact: Fact) -> list[Entity]:
    return [
        Entity("worker", fact.fields.get("worker_id", "")),
        Entity("actor", fact.fields.get("actor_id", "")),
    ]
