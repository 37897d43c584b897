"""Who starts a run again if a node of it dies now, and why: Ray Train, KubeRay, the launcher, raywatch or nobody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from raywatch.core.levels import launched
from raywatch.core.lineage import Runs, is_placeholder
from raywatch.core.relevance import speaks_of
from raywatch.model import ResumeRule, Run

Owner: TypeAlias = Literal["ray_train", "kuberay", "launcher", "raywatch", "nobody"]


class Next(NamedTuple):
    """Who owns the next restart, and the reason in words."""

    owner: Owner
    reason: str


def next_restart(run: Run, runs: Runs, rules: Sequence[ResumeRule]) -> Next:
    """Say who starts the run again if a node of it dies now. What is not known is said so, never guessed."""
    if run.status in ("finished", "stopped"):
        return Next("nobody", f"the run is {run.status}")
    if run.owner == "ray_train":
        return Next("ray_train", "Ray Train has decided to start its workers again")
    if run.owner == "kuberay":
        return Next("kuberay", "KubeRay submits its job again")
    if run.status == "failed":
        return _ours(run, runs, rules, "the run failed")
    inner = _inner(run)
    if isinstance(inner, Next):
        return inner
    return _ours(run, runs, rules, inner)


def _inner(run: Run) -> Next | str:
    """Return who restarts it from the inside, or why nobody does."""
    if run.controllers or (run.world_sizes and not run.framework):
        return _ray_train(run)
    found = launched(run.entrypoint)
    if found is not None and found.restarts:
        return Next("launcher", found.reason)
    if found is not None:
        return found.reason
    if run.framework or not is_placeholder(run):
        return f"nothing is known of restarts within {run.framework or 'the run'}"
    return "no training framework is known"


def _ray_train(run: Run) -> Next | str:
    if run.max_failures is None:
        return "max_failures of Ray Train is not known"
    if run.max_failures < 0:
        return Next("ray_train", "max_failures=-1: any number of restarts")
    used = run.failures or 0
    if used < run.max_failures:
        return Next("ray_train", f"{used} of {run.max_failures} restarts are used")
    if run.max_failures == 0:
        return "max_failures=0"
    return f"all {run.max_failures} restarts of Ray Train are used"


def _ours(run: Run, runs: Runs, rules: Sequence[ResumeRule], why: str) -> Next:
    rule = next((r for r in rules if speaks_of(r, run)), None)
    if rule is None:
        return Next("nobody", f"{why}, and no [[resume]] names it")
    named = f"[[resume]] {rule.run!r}"
    if rule.mode in ("observe", "suggest"):
        return Next("nobody", f"{why}, and {named} is in mode {rule.mode}")
    if rule.hook.kind == "job" and not runs.life(run.id).submission:
        return Next("nobody", f"{why}, and the job hook of {named} cannot start a hand-run driver")
    if run.checkpoint_problem.startswith(("corrupt", "dir_missing")):
        return Next("nobody", f"{why}, and its checkpoint is not whole")
    asked = " once a person approves" if rule.mode == "approve" else ""
    return Next("raywatch", f"{why}; {rule.hook.kind} hook of {named}{asked}")
