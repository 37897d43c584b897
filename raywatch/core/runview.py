"""A run as others see it: plain JSON values with times in RFC 3339. Ages are for who reads them: they change by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from raywatch.core.lineage import Runs
from raywatch.core.restarts import next_restart
from raywatch.core.standing import current_job, driver_end
from raywatch.core.view import rfc3339
from raywatch.model import OVER, Attempt, Checkpoint, ResumeRule, Run


class CheckpointJson(TypedDict):
    """A checkpoint."""

    path: str
    step: int | None
    whole: bool
    checked: str
    at: str | None


class ProcessJson(TypedDict):
    """A driver or controller. `alive` is None where that is not known."""

    node: str
    pid: int
    alive: bool | None


class RankJson(TypedDict):
    """A rank of a run."""

    rank: int
    node: str
    pid: int
    actor: str
    log_file: str


# `class` is a keyword, so the functional form.
AttemptJson = TypedDict(
    "AttemptJson",
    {
        "started_at": str | None,
        "ended_at": str | None,
        "status": str,
        "world_size": int | None,
        "job": str,
        "why": str,
        "class": str,
        "incident": str,
    },
)


class BudgetJson(TypedDict):
    """How often Ray Train may start the workers again. `max` -1: any number; None: not known."""

    max: int | None
    used: int | None


class RunJson(TypedDict):
    """A run as the API shows it."""

    id: str
    name: str
    status: str
    framework: str
    step: int | None
    step_at: str | None
    world_size: int | None
    world_sizes: list[int]
    level: int | None
    level_reason: str
    owner: str
    next_restart: dict[str, str]
    failures: BudgetJson
    preemptions: BudgetJson
    attempts: list[AttemptJson]
    submissions: list[str]
    jobs: list[str]
    driver: ProcessJson | None
    controller: ProcessJson | None
    storage_path: str
    checkpoint: CheckpointJson | None
    checkpoint_problem: str
    restarts: int
    resumes: int
    started_at: str | None
    ended_at: str | None
    ranks: list[RankJson]


def run_json(run: Run, runs: Runs, rules: Sequence[ResumeRule]) -> RunJson:
    """Show a run. Same input, same output: nothing in it changes without a new fact."""
    after = next_restart(run, runs, rules)
    return {
        "id": run.id,
        "name": run.name,
        "status": run.status,
        "framework": run.framework,
        "step": run.step,
        "step_at": rfc3339(run.step_at),
        "world_size": run.world_sizes[-1] if run.world_sizes else None,
        "world_sizes": list(run.world_sizes),
        "level": run.level,
        "level_reason": run.level_reason,
        "owner": run.owner,
        "next_restart": {"owner": after.owner, "reason": after.reason},
        "failures": {"max": run.max_failures, "used": run.failures},
        "preemptions": {"max": run.max_preemptions, "used": run.preemptions},
        "attempts": [_attempt(a, is_over=run.status in OVER) for a in run.attempts],
        "submissions": list(run.submissions),
        "jobs": list(run.jobs),
        "driver": _driver(run, runs),
        "controller": _controller(run, runs),
        "storage_path": run.storage_path,
        "checkpoint": checkpoint_json(run.checkpoint),
        "checkpoint_problem": run.checkpoint_problem,
        "restarts": run.train_restarts,
        "resumes": run.resumes,
        "started_at": rfc3339(run.started_at),
        "ended_at": rfc3339(run.ended_at),
        "ranks": [
            {
                "rank": r.world_rank,
                "node": r.node_id,
                "pid": r.pid,
                "actor": r.actor_id,
                "log_file": r.log_file,
            }
            for r in run.ranks
        ],
    }


def checkpoint_json(checkpoint: Checkpoint | None) -> CheckpointJson | None:
    """Show a checkpoint as the API does."""
    if checkpoint is None:
        return None
    return {
        "path": checkpoint.path,
        "step": checkpoint.step,
        "whole": checkpoint.whole,
        "checked": checkpoint.checked,
        "at": rfc3339(checkpoint.at),
    }


def _attempt(attempt: Attempt, *, is_over: bool) -> AttemptJson:
    # Of one in an earlier session nobody says how it ended.
    is_open = attempt.status == "running"
    return {
        "started_at": rfc3339(attempt.started_at),
        "ended_at": rfc3339(attempt.ended_at),
        "status": "ended" if is_open and is_over else attempt.status,
        "world_size": attempt.size,
        "job": attempt.job,
        "why": attempt.why,
        "class": attempt.class_id,
        "incident": attempt.incident,
    }


def _driver(run: Run, runs: Runs) -> ProcessJson | None:
    job = current_job(runs, run)
    if job is None:
        return None
    is_gone = job.status not in ("PENDING", "RUNNING") or driver_end(runs, run) is not None
    return {"node": job.driver_node_id, "pid": job.driver_pid, "alive": not is_gone}


def _controller(run: Run, runs: Runs) -> ProcessJson | None:
    """Show the newest controller, as far as Ray's list of actors tells."""
    actor = runs.actors.get(run.controllers[-1]) if run.controllers else None
    if actor is None:
        return None if not run.controllers else {"node": "", "pid": 0, "alive": None}
    return {"node": actor.node_id, "pid": actor.pid, "alive": actor.state != "DEAD"}
