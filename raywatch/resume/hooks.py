"""Run an action: submit the same job again, or start a program. Every way it can end is an Outcome.

Before anything starts, the state of the old job is read afresh; what cannot be read counts as "not gone".
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

from raywatch.model import Action, Outcome, Run
from raywatch.resume.jobs import Job, JobsClient, Submission, Unreadable
from raywatch.resume.packages import PutBack
from raywatch.resume.preflight import preflight
from raywatch.resume.program import prefixed, run_program

State = Literal["succeeded", "failed", "timed_out", "interrupted", "refused", "deferred"]


class HookRunner:
    """Runs actions, one outcome each. `jobs` is None where no dashboard is known."""

    def __init__(
        self,
        jobs: JobsClient | None,
        clock: Callable[[], float],
        environ: Mapping[str, str],
        put_back: Callable[[str], Awaitable[PutBack]] | None = None,
    ) -> None:
        """`put_back` gives Ray the packages of a runtime_env again that it dropped."""
        self._jobs, self._clock, self._environ = jobs, clock, environ
        self._put_back = put_back

    async def run(self, action: Action, run: Run, incident_json: str) -> Outcome:
        """Run the action's hook. Raises nothing but cancellation, after the hook's processes were killed."""
        try:
            blocked = await self._may_start(action, run)
            if blocked is not None:
                return blocked
            if action.hook.kind == "job":
                return await self._submit(action, run)
            return await self._command(action, run, incident_json)
        except Exception as error:  # noqa: BLE001 - one of the two places: a hook must never end the daemon
            return self._outcome(action, "failed", f"{type(error).__name__}: {error}")

    def _outcome(
        self, action: Action, state: State, detail: str, output: str = "", job: str = ""
    ) -> Outcome:
        return Outcome(action.key, state, self._clock(), detail, output, job)

    async def _may_start(self, action: Action, run: Run) -> Outcome | None:
        blocked = await preflight(self._jobs, action, run)
        return self._outcome(action, *blocked) if blocked is not None else None

    # --- job ---

    async def _submit(self, action: Action, run: Run) -> Outcome:
        if self._jobs is None:
            return self._outcome(action, "deferred", "no dashboard")
        old = await self._jobs.job(action.old_submission)
        if isinstance(old, Unreadable):
            return self._outcome(action, "deferred", f"old job unreadable: {old.kind}")
        blocked = await self._packages(action, run, old)
        if blocked is not None:
            return blocked
        answer = await self._jobs.submit(
            Submission(
                submission_id=action.key,
                entrypoint=old.entrypoint,
                runtime_env=old.runtime_env,
                metadata={**old.metadata, **_marks(action, run)},
                resources=action.hook.entrypoint_resources,
            )
        )
        if answer == "created":
            return self._outcome(action, "succeeded", "submitted", job=action.key)
        if answer == "exists":
            return await self._read_back(action, "it exists")
        return await self._read_back(action, f"submit: {answer}", refused=answer.refused)

    async def _packages(self, action: Action, run: Run, old: Job) -> Outcome | None:
        """See that Ray has the job's code; putting it back takes its time, so the rest is asked again."""
        if self._put_back is None:
            return None
        back = await self._put_back(old.runtime_env)
        if back.state == "missing":
            known = await self._jobs.job(action.key) if self._jobs is not None else None
            if isinstance(known, Job):  # submitted before the daemon was killed
                return await self._read_back(action, "it exists")
            return self._outcome(action, "refused", f"not resumable: {back.detail}"[:500])
        if back.state == "unknown":
            return self._outcome(action, "deferred", f"packages: {back.detail}"[:500])
        return await self._may_start(action, run) if back.state == "restored" else None

    async def _read_back(self, action: Action, why: str, *, refused: bool = True) -> Outcome:
        """A submission that was cut, or that exists: only the job itself says whether it is ours.

        Not `refused`: Ray may take it yet; only the same key, tried again, makes one job of it.
        """
        if self._jobs is None:
            return self._outcome(action, "deferred", why)
        found = await self._jobs.job(action.key)
        if isinstance(found, Unreadable):
            state: State = "failed" if found.kind == "missing" and refused else "deferred"
            return self._outcome(action, state, f"{why}; reading it back: {found.kind}"[:500])
        if found.metadata.get("raywatch_action") == action.key:
            return self._outcome(
                action, "succeeded", f"submitted once ({why})"[:500], job=action.key
            )
        return self._outcome(action, "refused", f"a job named {action.key} is not ours")

    # --- command ---

    async def _command(self, action: Action, run: Run, incident_json: str) -> Outcome:
        document = json.dumps(
            {
                "action": action.key,
                "hook": action.hook.name,
                "run": run.name or run.id,
                "class": action.class_id,
                "attempt": action.attempt,
                "checkpoint": action.checkpoint.path if action.checkpoint else None,
                "step": action.checkpoint.step if action.checkpoint else None,
                "avoid_nodes": list(action.avoid_nodes),
                "incident": json.loads(incident_json),
            }
        ).encode()
        environ = {**self._environ, **_variables(action, run)}
        hook = action.hook
        ended = await run_program(hook.argv, environ, document, hook.timeout_s)
        return self._outcome(action, ended.state, ended.detail, ended.output)


def _marks(action: Action, run: Run) -> dict[str, str]:
    marks = {
        "raywatch_run": run.id,
        "raywatch_action": action.key,
        "raywatch_attempt": str(action.attempt),
    }
    if action.checkpoint is not None:
        marks["raywatch_checkpoint"] = action.checkpoint.path
    return marks


def _variables(action: Action, run: Run) -> dict[str, str]:
    checkpoint = action.checkpoint
    step = checkpoint.step if checkpoint else None
    values = {
        "RUN": run.name or run.id,
        "INCIDENT": action.incident,
        "CLASS": action.class_id,
        "CHECKPOINT": checkpoint.path if checkpoint else "",
        "STEP": "" if step is None else str(step),
        "ATTEMPT": str(action.attempt),
        "ACTION_KEY": action.key,
        "AVOID_NODES": ",".join(action.avoid_nodes),
    }
    return prefixed(values)
