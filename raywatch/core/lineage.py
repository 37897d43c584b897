"""Which job belongs to which run: lineages, their indexes, and how two of them become one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from raywatch.model import OVER, Attempt, Checkpoint, Entity, Run, RunRule
from raywatch.observations import ActorSeen, JobSeen, NodeSeen, WorkerSeen

MAX_RUNS = 500  # a busy cluster submits for years; the oldest ended runs are forgotten
MAX_ATTEMPTS = 32  # of a run
MAX_ROWS = 5000  # of each index
_SCHEME = re.compile(r"^[a-z][a-z0-9+]*://")
_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class Life:
    """What the current submission of a run has told; a resubmission begins a new one."""

    jobs: tuple[str, ...] = ()
    submission: str = ""
    # RAISE | ERRORED | FINISHED | ABORTED | INTERRUPTED, as Ray Train said it; LOST: a declared run's driver was killed
    ending: str = ""
    controller: str = ""
    # Every line stands in two files (app and sys), which are read one after the other:
    # what is older than the newest known fact changes nothing.
    state_at: float = 0.0
    group_at: float = 0.0  # when the newest worker group started
    sizes: tuple[int, ...] = ()  # of this controller's worker groups
    train_started_at: float = 0.0
    rank_at: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Runs:
    """All runs by lineage id, and who belongs to them. Ids of jobs and actors hold for one session."""

    runs: Mapping[str, Run] = field(default_factory=dict)
    lives: Mapping[str, Life] = field(default_factory=dict)
    owners: Mapping[Entity, tuple[str, ...]] = field(default_factory=dict)
    jobs: Mapping[str, JobSeen] = field(default_factory=dict)  # by submission id, else job id
    nodes: Mapping[str, NodeSeen] = field(default_factory=dict)
    actors: Mapping[str, ActorSeen] = field(default_factory=dict)  # ranks only
    dead_workers: Mapping[str, float] = field(default_factory=dict)
    drivers: Mapping[str, WorkerSeen] = field(default_factory=dict)  # that ended, by job id
    older: Mapping[str, Checkpoint] = field(default_factory=dict)  # the one before the newest
    merged: Mapping[str, str] = field(default_factory=dict)  # a lineage id that is another's now
    session: str = ""
    rules: tuple[RunRule, ...] = ()  # [[run]]: what trains without Ray Train
    kuberay: frozenset[str] = frozenset()  # submissions that KubeRay runs again when they fail

    def get(self, run_id: str) -> Run | None:
        """Return a run by its lineage id, also by one that was merged away."""
        return self.runs.get(canonical(self, run_id))

    def life(self, run_id: str) -> Life:
        """Return what the run's current submission has told."""
        return self.lives.get(canonical(self, run_id), Life())


def restored(runs: Iterable[Run], session: str = "") -> Runs:
    """Rebuild the indexes around runs that were stored. `session`: the one that Ray is in, else the newest known.

    Ids of jobs begin again with each session, so those of another one name nobody any more.
    """
    runs = tuple(runs)
    session = session or max((r.session for r in runs), default="")
    retried = (r.submissions[-1] for r in runs if r.owner == "kuberay" and r.submissions)
    state = Runs(session=session, kuberay=frozenset(retried))
    for run in runs:
        jobs = run.jobs[-1:] if run.session == session else ()
        life = Life(
            jobs=jobs,
            submission=run.submissions[-1] if run.submissions and run.kind != "driver" else "",
            ending=_ending_of(run),
            controller=run.controllers[-1] if run.controllers else "",
            state_at=run.last_policy_at or 0.0,
            group_at=(run.last_policy_at or 0.0) if run.status == "running" else 0.0,
        )
        state = put(state, run, life)
        state = owned(state, run.id, [Entity("submission", s) for s in run.submissions])
        state = owned(state, run.id, [Entity("job", j) for j in jobs])
        for rank in run.ranks:
            state = owned(
                state, run.id, [Entity("actor", rank.actor_id), Entity("worker", rank.worker_id)]
            )
    return state


def _ending_of(run: Run) -> str:
    """Return what the training itself said, as far as its status still tells."""
    if run.status == "finished":  # of a driver that ended this says nothing
        return "FINISHED" if run.kind != "driver" else ""
    return {"failed": "RAISE", "stopped": "INTERRUPTED"}.get(run.status, "")


def bounded(mapping: Mapping[_K, _V], key: _K, value: _V) -> dict[_K, _V]:
    """Return the mapping with one more entry; the first ones go when it is full."""
    grown = {**mapping, key: value}
    while len(grown) > MAX_ROWS:
        del grown[next(iter(grown))]
    return grown


def canonical(runs: Runs, run_id: str) -> str:
    """Return the id that a lineage has now."""
    seen = set()
    while run_id in runs.merged and run_id not in seen:
        seen.add(run_id)
        run_id = runs.merged[run_id]
    return run_id


def put(runs: Runs, run: Run, life: Life) -> Runs:
    """Store a run and its life. Nothing changes where nothing is new."""
    owner = _owner(runs, run, life)
    run = run if owner == run.owner else replace(run, owner=owner)
    if runs.runs.get(run.id) == run and runs.lives.get(run.id) == life:
        return runs
    stored = {**runs.runs, run.id: run}
    lives = {**runs.lives, run.id: life}
    if len(stored) > MAX_RUNS:
        ended = [r for r in stored.values() if r.status in OVER and r.id != run.id]
        for gone in sorted(ended, key=lambda r: r.seen_at)[: len(stored) - MAX_RUNS]:
            del stored[gone.id], lives[gone.id]
    return replace(runs, runs=stored, lives=lives)


def _owner(runs: Runs, run: Run, life: Life) -> str:
    """Return who starts a run again: where Ray Train does not, KubeRay may."""
    if run.owner not in ("nobody", "kuberay"):
        return run.owner
    retried = life.submission in runs.kuberay and run.status not in ("finished", "stopped")
    return "kuberay" if retried else "nobody"


def retried_by_kuberay(runs: Runs, submissions: frozenset[str]) -> Runs:
    """Remember which submissions KubeRay itself runs again when they fail: these and no others."""
    changed = submissions ^ runs.kuberay
    runs = replace(runs, kuberay=submissions) if changed else runs
    for submission in sorted(changed):
        for run_id in owners_of(runs, Entity("submission", submission)):
            runs = put(runs, runs.runs[run_id], runs.lives[run_id])
    return runs


def owned(runs: Runs, run_id: str, entities: Iterable[Entity]) -> Runs:
    """Remember that these belong to the run."""
    owners = runs.owners
    for entity in entities:
        known = owners.get(entity, ())
        if entity.id and run_id not in known:
            owners = {**owners, entity: (*known, run_id)}
            while (
                len(owners) > MAX_ROWS
            ):  # processes come by the thousand; whose a job is must stay known
                oldest = (e for e in owners if e.kind in ("worker", "actor"))
                del owners[next(oldest, next(iter(owners)))]
    return runs if owners is runs.owners else replace(runs, owners=owners)


def owners_of(runs: Runs, entity: Entity) -> tuple[str, ...]:
    """Return the lineages that something belongs to."""
    ids = dict.fromkeys(canonical(runs, r) for r in runs.owners.get(entity, ()))
    return tuple(i for i in ids if i in runs.runs)


def is_placeholder(run: Run) -> bool:
    """Say whether only a submission id names the run: no Ray Train name is known."""
    return not run.name or run.name in run.submissions


def storage_key(path: str) -> str:
    """Return what compares two spellings of a storage path: logs leave the scheme away."""
    return _SCHEME.sub("", path.split("?", 1)[0]).rstrip("/")


def same_storage(mine: str, theirs: str) -> bool:
    """Say whether two storage paths may be the same; an unknown one may be any."""
    return not mine or not theirs or storage_key(mine) == storage_key(theirs)


def named(runs: Runs, name: str, storage: str) -> Run | None:
    """Return the run of that Train name in that storage path; both must be known."""
    if not name or not storage:
        return None
    return next(
        (
            r
            for r in runs.runs.values()
            if r.name == name and r.storage_path and same_storage(r.storage_path, storage)
        ),
        None,
    )


def attached(
    runs: Runs, run_id: str, *, job: str = "", submission: str = "", at: float | None = None
) -> tuple[Runs, bool]:
    """Give a run a job or submission; say whether it is of the current life.

    One that started later begins a new life, one that started earlier is history.
    """
    run, life = runs.runs[run_id], runs.lives.get(run_id, Life())
    current, known = _is_of(life, job, submission), _is_known(runs, run, job, submission)
    first = not run.jobs and not run.submissions
    newer = at is None or at >= (run.started_at or 0.0)
    begins = not current and not known and (first or newer)
    if begins and not first:
        run, life = _reborn(run, at), Life()
    current = current or begins
    if current:
        life = replace(life, jobs=_with(life.jobs, job), submission=submission or life.submission)
    run = replace(
        run,
        jobs=_with(run.jobs, job, last=current),
        submissions=_with(run.submissions, submission, last=current),
        started_at=(at if begins else run.started_at) or run.started_at,
        session=runs.session if current and job else run.session,
    )
    entities = [Entity("job", job), Entity("submission", submission)]
    return owned(put(runs, run, life), run_id, entities), current


def _is_of(life: Life, job: str, submission: str) -> bool:
    if submission and life.submission:
        return submission == life.submission
    return bool(job) and job in life.jobs


def _is_known(runs: Runs, run: Run, job: str, submission: str) -> bool:
    if submission:
        return submission in run.submissions
    # Not `in run.jobs`: the next session counts its job ids from 1 again.
    return run.id in runs.owners.get(Entity("job", job), ())


def _with(ids: tuple[str, ...], new: str, *, last: bool = True) -> tuple[str, ...]:
    if not new or (new in ids and not last) or ids[-1:] == (new,):
        return ids
    rest = tuple(i for i in ids if i != new)
    return (*rest, new) if last else (new, *rest)


def _reborn(run: Run, at: float | None) -> Run:
    """The same lineage before its next submission has told anything."""
    return replace(
        run,
        status="pending",
        kind="unknown",
        ranks=(),
        owner="nobody",
        step=None,
        step_at=None,
        started_at=at,
        ended_at=None,
        last_policy="",
        last_policy_at=None,
        failures=None,
        preemptions=None,
    )


def merge(runs: Runs, one: str, other: str, *, same_life: bool = False) -> Runs:
    """Make two lineages one. The older keeps its id; the newer says how things stand."""
    if one == other:
        return runs
    a, b = sorted((runs.runs[one], runs.runs[other]), key=lambda r: r.started_at or r.seen_at)
    now = (a if is_placeholder(b) else b) if same_life else b
    life = runs.lives.get(now.id, Life())
    if same_life:
        theirs = runs.lives.get((b if now is a else a).id, Life())
        life = replace(life, submission=life.submission or theirs.submission)
    before = b if now is a else a
    whole = _joined(before, now, keep=a.id)
    rest = {k: v for k, v in runs.runs.items() if k != b.id}
    lives = {k: v for k, v in runs.lives.items() if k != b.id}
    older = runs.older.get(b.id) or runs.older.get(a.id)
    return replace(
        runs,
        runs={**rest, a.id: whole},
        lives={**lives, a.id: life},
        merged=bounded(runs.merged, b.id, a.id),
        older={**runs.older, a.id: older} if older else runs.older,
    )


def _joined(before: Run, now: Run, *, keep: str) -> Run:
    sizes = (*before.world_sizes, *now.world_sizes)
    return replace(
        now,
        id=keep,
        name=before.name if is_placeholder(now) else now.name,
        storage_path=now.storage_path or before.storage_path,
        submissions=tuple(dict.fromkeys((*before.submissions, *now.submissions))),
        jobs=tuple(dict.fromkeys((*before.jobs, *now.jobs))),
        controllers=tuple(dict.fromkeys((*before.controllers, *now.controllers))),
        entrypoint=now.entrypoint or before.entrypoint,
        runtime_env=now.runtime_env or before.runtime_env,
        metadata=now.metadata or before.metadata,
        world_sizes=tuple(s for i, s in enumerate(sizes) if not i or sizes[i - 1] != s),
        max_failures=now.max_failures if now.max_failures is not None else before.max_failures,
        level=now.level or before.level,
        level_reason=now.level_reason if now.level else before.level_reason,
        checkpoint=now.checkpoint or before.checkpoint,
        train_restarts=before.train_restarts + now.train_restarts,
        resumes=before.resumes + now.resumes,
        max_preemptions=now.max_preemptions
        if now.max_preemptions is not None
        else before.max_preemptions,
        framework=now.framework or before.framework,
        attempts=_joined_attempts(before.attempts, now.attempts),
    )


def _joined_attempts(before: tuple[Attempt, ...], now: tuple[Attempt, ...]) -> tuple[Attempt, ...]:
    """One job may have told of itself under both names: its worker groups count then."""
    told = {a.job for a in now if a.by != "job"} | {a.job for a in before if a.by != "job"}
    found = {(a.job, a.by, a.started_at): a for a in (*before, *now)}
    rest = (a for a in found.values() if a.by != "job" or a.job not in told)
    return tuple(sorted(rest, key=lambda a: a.started_at))[-MAX_ATTEMPTS:]


def settled(runs: Runs, run_id: str) -> Runs:
    """Merge a run into the lineage that has its name and storage path already."""
    run = runs.runs[run_id]
    rest = replace(runs, runs={k: v for k, v in runs.runs.items() if k != run_id})
    other = None if is_placeholder(run) else named(rest, run.name, run.storage_path)
    return merge(runs, other.id, run_id) if other is not None else runs


def enter_session(runs: Runs, session: str) -> Runs:
    """Forget what only an earlier session's ids told; runs that went on then are unknown now."""
    if not session or session == runs.session:
        return runs
    if not runs.session:
        told = {k: r if r.session else replace(r, session=session) for k, r in runs.runs.items()}
        return replace(runs, session=session, runs=told)
    kept = {e: o for e, o in runs.owners.items() if e.kind == "submission"}
    lives = {k: replace(v, jobs=(), controller="") for k, v in runs.lives.items()}
    states = {
        k: r if r.status in OVER else replace(r, status="unknown", owner="nobody", ranks=())
        for k, r in runs.runs.items()
    }
    return Runs(
        runs=states,
        lives=lives,
        owners=kept,
        older=runs.older,
        merged=runs.merged,
        session=session,
        rules=runs.rules,
        kuberay=runs.kuberay,
    )
