"""What lies on the disk of a run: its newest checkpoint, and the one before it."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from raywatch.core.lineage import Runs, bounded, put
from raywatch.model import Checkpoint, CheckpointProblem


def checkpoint_seen(
    runs: Runs,
    run_id: str,
    result: Checkpoint | CheckpointProblem,
    now: float,
    older: Checkpoint | Literal["unknown"] | None = "unknown",
) -> Runs:
    """Remember the newest checkpoint of a run, or why none can be named, and the one before it.

    Where it is not told which one is before it, that is the one that was the newest until now.
    """
    run = runs.get(run_id)
    if run is None:
        return runs
    life = runs.life(run.id)
    if isinstance(result, CheckpointProblem):
        runs = _with_older(runs, run.id, older or "unknown")
        problem = f"{result.reason}: {result.detail}" if result.detail else result.reason
        return put(runs, replace(run, checkpoint_problem=problem), life)
    if older == "unknown" and run.checkpoint is not None and run.checkpoint.path != result.path:
        older = run.checkpoint
    found = replace(run, checkpoint=result, checkpoint_problem="", seen_at=max(run.seen_at, now))
    return put(_with_older(runs, run.id, older), found, life)


def _with_older(runs: Runs, run_id: str, older: Checkpoint | Literal["unknown"] | None) -> Runs:
    if older == "unknown" or older == runs.older.get(run_id):
        return runs
    if older is None:
        return replace(runs, older={k: v for k, v in runs.older.items() if k != run_id})
    return replace(runs, older=bounded(runs.older, run_id, older))
