"""Answer a notice: drain its Ray node through Ray's own command line, or start a program. Every end is an Outcome."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path

from raywatch.model import Outcome
from raywatch.notice import NoticeAction
from raywatch.resume.program import Ended, prefixed, run_program

TRIES, PAUSE_S = 3, 2.0  # a GCS that is busy or restarts takes the request a moment later
_NO_OPTION = "No such option"  # of Ray before 2.10, which knows no deadline


class NoticeRunner:
    """Runs the hooks of notices, one outcome each."""

    def __init__(self, clock: Callable[[], float], environ: Mapping[str, str]) -> None:
        self._clock, self._environ = clock, environ

    async def run(self, action: NoticeAction, gcs: str) -> Outcome:
        """Run the action's hook; `gcs` is HOST:PORT, '' where it is not known. Raises nothing but cancellation."""
        try:
            run = self._drain(action, gcs) if action.hook.kind == "drain" else self._command(action)
            ended = await run
        except Exception as error:  # noqa: BLE001 - a hook must never end the daemon
            ended = Ended("failed", f"{type(error).__name__}: {error}")
        return Outcome(action.key, ended.state, self._clock(), ended.detail, ended.output)

    async def _drain(self, action: NoticeAction, gcs: str) -> Ended:
        """Ask as often as there is time; Ray takes the second request of a node as the first."""
        if not gcs:
            why = "the address of the GCS is not known: no ray_current_cluster beside the session"
            return Ended("failed", f"{why}, and RAY_ADDRESS is not HOST:PORT")
        ray = _found(action.hook.argv[0], self._environ)
        for number in range(TRIES):
            if number:
                await asyncio.sleep(PAUSE_S)
            left = action.deadline_at - self._clock()
            if left < 1:
                return Ended("failed", "its time is over")
            argv = drain_argv(ray, action, gcs, int(left))
            ended = await run_program(argv, self._environ, b"", min(action.hook.timeout_s, left))
            if ended.state == "succeeded" or _NO_OPTION in ended.output:
                break
        return ended

    async def _command(self, action: NoticeAction) -> Ended:
        facts = {
            "notice": action.notice.key,
            "provider": action.notice.provider,
            "kind": action.notice.kind,
            "what": action.notice.what,
            "instance": action.machine.instance,
            "ip": action.machine.ip,
            "node": action.node,
            "deadline": datetime.fromtimestamp(action.deadline_at, timezone.utc).isoformat(),
            "action_key": action.key,
        }
        variables = prefixed({k.upper(): v for k, v in facts.items()})
        hook, document = action.hook, json.dumps({"hook": action.hook.name, **facts}).encode()
        environ = {**self._environ, **variables}
        return await run_program(hook.argv, environ, document, hook.timeout_s)


def drain_argv(ray: str, action: NoticeAction, gcs: str, left_s: int) -> list[str]:
    """Return the command that drains a node: hidden in `ray --help`, in Ray since 2.10 (ray/scripts/scripts.py)."""
    message = (
        f"raywatch: {action.notice.provider} announces {action.notice.kind}: {action.notice.what}"
    )
    return [
        *(ray, "drain-node", f"--address={gcs}", f"--node-id={action.node}"),
        *("--reason=DRAIN_NODE_REASON_PREEMPTION", f"--reason-message={message}"),
        f"--deadline-remaining-seconds={left_s}",
    ]


def _found(program: str, environ: Mapping[str, str]) -> str:
    """Return where a program is: on PATH, else beside the Python that runs the daemon (a venv that is not active)."""
    found = shutil.which(program, path=environ.get("PATH"))
    beside = Path(sys.executable).parent / program
    return found or (str(beside) if beside.is_file() else program)
