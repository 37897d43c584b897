"""Runs outside Ray Train: which [[run]] a job or a line belongs to, and what their lines say of progress.

A preset's line without a [[run]] counts only where it is clear whose it is: its job has one run, and no Ray Train.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase

from raywatch.core.levels import launched
from raywatch.core.lineage import (
    Life,
    Runs,
    attached,
    bounded,
    canonical,
    is_placeholder,
    merge,
    owned,
    owners_of,
    put,
)
from raywatch.core.standing import ACTIVE, driver_end
from raywatch.model import Checkpoint, CheckpointProblem, Entity, Fact, Rank, Run, RunRule
from raywatch.observations import JobSeen

# Which presets' lines count for a framework that is named in a [[run]].
FRAMEWORKS: Mapping[str, tuple[str, ...]] = {
    "plain": ("plain",),
    "horovod": ("plain",),
    "torchrun": ("plain",),
    "accelerate": ("plain", "transformers"),
    "transformers": ("transformers",),
    "lightning": ("lightning",),
    "deepspeed": ("deepspeed",),
    "openrlhf": ("deepspeed",),
    "megatron": ("megatron",),
    "verl": ("verl",),
    "torchtitan": ("torchtitan",),
    "torchtune": ("torchtune",),
}
ASKED = frozenset(["plain", "torchtitan"])  # in rules/runs: they count only for who asked
KINDS = frozenset(["run_step", "run_checkpoint"])
SAID = "named by its log"
MAX_RANKS = 4096
_STEP_IN_PATH = re.compile(r"(?:step|iter|checkpoint)[-_=]?0{0,12}(\d{1,12})(?!.*\d)")


def declare(runs: Runs, seen: JobSeen, now: float) -> Runs:
    """Give a job to the run that a [[run]] declares for it. What is Ray Train's stays its own."""
    rule = _rule_for(runs, seen.submission_id, seen.entrypoint, "")
    if rule is None:
        return runs
    ids = {"job": seen.job_id, "submission": seen.submission_id}
    return _adopted(runs, rule, now, **ids, at=seen.started_at)[0]


def lost(runs: Runs, job_id: str) -> Runs:
    """Note that the driver of a declared run was killed: Ray shows its job as SUCCEEDED all the same."""
    for run_id in owners_of(runs, Entity("job", job_id)):
        run, life = runs.runs[run_id], runs.lives[run_id]
        end = driver_end(runs, run)
        if run.framework and not life.ending and not life.submission and end is not None:
            if end.exit_type.startswith("INTENDED") or job_id not in life.jobs:
                continue
            over = runs.jobs.get(job_id)
            status = "failed" if over is not None and over.status not in ACTIVE else run.status
            runs = put(runs, replace(run, status=status), replace(life, ending="LOST"))
    return runs


def progressed(runs: Runs, fact: Fact, now: float) -> Runs:
    """Take in what a line of a framework says of its run. Late old lines and lines of nobody's change nothing."""
    job, submission = fact.fields.get("job_id", ""), fact.fields.get("submission_id", "")
    mine = _owners(runs, fact)
    seen = runs.jobs.get(submission or job)
    rule = _rule_for(runs, submission, seen.entrypoint if seen else "", fact.evidence.file)
    if rule is not None:
        if not _counts(rule, fact):
            return runs
        at = seen.started_at if seen else fact.at or None
        runs, run_id, current = _adopted(runs, rule, now, job=job, submission=submission, at=at)
    elif _is_asked_for(fact) or len(mine) != 1:
        return runs
    else:
        run_id, current = mine[0], True
    run = runs.get(run_id)
    if run is None or not current or run.controllers:  # Ray Train tells of its own runs
        return runs
    told = _APPLY[fact.kind](_with_rank(run, fact), fact)
    if told.status == "unknown" and fact.at:
        told = replace(told, status="running")
    if told == run:
        return runs
    if told.checkpoint is not run.checkpoint is not None:
        runs = replace(runs, older=bounded(runs.older, run.id, run.checkpoint))
    return put(runs, replace(told, seen_at=max(run.seen_at, now)), runs.life(run.id))


def is_named_by_log(run: Run) -> bool:
    """Say whether nothing but a line tells of the run's checkpoint."""
    return run.checkpoint is not None and run.checkpoint.checked.startswith(SAID)


def looked_at(
    run: Run, found: Checkpoint | CheckpointProblem
) -> Checkpoint | CheckpointProblem | None:
    """Return what a look at the checkpoint that a line had named says of it; None where a line names another one now."""
    known = run.checkpoint
    if known is None or isinstance(found, CheckpointProblem):
        return found
    if found.path.rstrip("/") != known.path.rstrip("/"):
        return None
    return replace(found, path=known.path, step=known.step, at=known.at or found.at)


def _rule_for(runs: Runs, submission: str, entrypoint: str, path: str) -> RunRule | None:
    named = [n for n in (submission, entrypoint, path) if n]
    return next((r for r in runs.rules if any(fnmatchcase(n, r.match) for n in named)), None)


def _counts(rule: RunRule, fact: Fact) -> bool:
    """Say whether a line is of the wording that a [[run]] asks for: its own, else its framework's."""
    own = fact.fields.get("declared")
    if own is not None or fact.kind in rule.own:
        return own == rule.name
    return fact.fields.get("framework", "") in FRAMEWORKS.get(rule.framework, ())


def _is_asked_for(fact: Fact) -> bool:
    return "declared" in fact.fields or fact.fields.get("framework") in ASKED


def _owners(runs: Runs, fact: Fact) -> tuple[str, ...]:
    keys = [
        Entity("submission", fact.fields.get("submission_id", "")),
        Entity("job", fact.fields.get("job_id", "")),
        Entity("worker", fact.fields.get("worker_id", "")),
    ]
    return next((o for k in keys if k.id and (o := owners_of(runs, k))), ())


def _adopted(
    runs: Runs, rule: RunRule, now: float, *, job: str, submission: str, at: float | None
) -> tuple[Runs, str, bool]:
    """Return the lineage of that name, which the job belongs to now, and whether the job is its current one."""
    keys = [k for k in (Entity("submission", submission), Entity("job", job)) if k.id]
    others = tuple(dict.fromkeys(o for k in keys for o in owners_of(runs, k)))
    if any(runs.runs[o].controllers for o in others):
        return runs, "", False
    home = canonical(runs, rule.name)
    free = [o for o in others if o != home and is_placeholder(runs.runs[o])]
    if home not in runs.runs and free:
        home = free.pop(0)
        runs = replace(runs, merged=bounded(runs.merged, rule.name, home))
    run = runs.runs.get(home) or Run(id=home, started_at=at, seen_at=now)
    run = replace(
        run,
        name=rule.name,
        framework=rule.framework or "own",
        storage_path=rule.storage or run.storage_path,
    )
    runs = put(runs, run, runs.lives.get(home, Life()))
    for other in free:
        runs = merge(runs, home, other)
        home = canonical(runs, home)
    current = True
    if keys:
        runs, current = attached(runs, home, job=job, submission=submission, at=at)
        runs = owned(runs, home, keys)
    run = runs.runs[home]
    return put(runs, _with_level(runs, run, submission or job), runs.lives[home]), home, current


def _with_level(runs: Runs, run: Run, key: str) -> Run:
    seen = runs.jobs.get(key)
    found = launched(seen.entrypoint if seen is not None else run.entrypoint)
    if found is None:
        unknown = "not known: its command line is not one of torchrun or horovodrun"
        return run if run.level else replace(run, level_reason=unknown)
    return replace(run, level=found.level, level_reason=found.reason)


# --- what lines say ----------------------------------------------------------------------------------


def _step(run: Run, fact: Fact) -> Run:
    step = _number(fact.fields.get("step", ""))
    if step is None or fact.at < (run.step_at or 0.0):
        return run
    return replace(run, step=step, step_at=fact.at or None)


def _checkpoint(run: Run, fact: Fact) -> Run:
    named = fact.fields.get("checkpoint") or fact.fields.get("path", "")
    path = "" if named == fact.evidence.file else named.strip("'\"")  # its source has a path too
    known = run.checkpoint
    if not path or (known is not None and fact.at < (known.at or 0.0)):
        return run
    if run.storage_path and "://" not in path and not path.startswith(("/", "~")):
        path = f"{run.storage_path.rstrip('/')}/{path.removeprefix('./')}"
    found = _STEP_IN_PATH.search(path)
    step = _number(fact.fields.get("step", "") or (found[1] if found else ""))
    if known is not None and (known.path, known.step) == (path, step):
        return run  # several files of one checkpoint, or of several ranks
    saved = Checkpoint(path, step, whole=False, checked=SAID, at=fact.at or None)
    return replace(run, checkpoint=saved, checkpoint_problem="")


_APPLY: Mapping[str, Callable[[Run, Fact], Run]] = {
    "run_step": _step,
    "run_checkpoint": _checkpoint,
}


def _with_rank(run: Run, fact: Fact) -> Run:
    """Note the rank that says so, and the world size where the text names it, or ranks from 0 on have spoken."""
    rank = _number(fact.fields.get("rank") or fact.fields.get("stream_rank", ""))
    rank = _number(fact.fields.get("stream_slot", "")) if rank is None else rank
    size = _number(fact.fields.get("world_size", ""))
    known = next((r for r in run.ranks if r.world_rank == rank), None)
    new = _spoken(rank, fact) if rank is not None and rank < MAX_RANKS else None
    if new and (known is None or new.worker_id not in ("", known.worker_id)):
        ranks = (*(r for r in run.ranks if r is not known), new)
        run = replace(run, ranks=tuple(sorted(ranks, key=lambda r: r.world_rank)))
    spoken = [r.world_rank for r in run.ranks]
    if size is None and len(spoken) > 1 and spoken == list(range(len(spoken))):
        size = len(spoken)
    if not size or run.world_sizes[-1:] == (size,):
        return run
    # Ranks begin to speak one after another: that is no growing group.
    grown = run.world_sizes and run.world_sizes[-1] < size
    return replace(run, world_sizes=(*run.world_sizes[: -1 if grown else None], size)[-32:])


def _spoken(rank: int, fact: Fact) -> Rank:
    """A worker of Ray is a process of its own that may outlive the driver; what a launcher starts ends with it."""
    if fact.evidence.component != "worker":
        return Rank(rank)
    where, worker = fact.fields.get("node", ""), fact.fields.get("worker_id", "")
    return Rank(rank, node_id=where, worker_id=worker, log_file=fact.evidence.file)


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None
