"""What a person asks of the daemon: a request of the web server, decided by the first thread, answered once it stands.

Nobody is told yes before what was decided is on the disk: after a crash the answer still holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from raywatch.core.policy import approve
from raywatch.model import Action, Incident
from raywatch.resuming import Resuming

OK, NOT_FOUND, CONFLICT, UNAVAILABLE = 200, 404, 409, 503
_WOULD = (
    "key",
    "run",
    "run_name",
    "incident",
    "class",
    "attempt",
    "hook",
    "hook_name",
    "checkpoint",
    "avoid_nodes",
)


class Answer(NamedTuple):
    """An HTTP status and a JSON body."""

    status: int
    body: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Approve:
    """Let the action with this key go on."""

    key: str


@dataclass(frozen=True, slots=True)
class Resume:
    """Start a run again now; with `dry_run` only say what would happen."""

    run: str
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Keep:
    """Say when all that came before is on the disk."""


Want: TypeAlias = Approve | Resume | Keep


@dataclass(frozen=True, slots=True)
class Request:
    """What is wanted, who is to be told, and until when anybody listens. `answer` is called from the first thread."""

    want: Want
    answer: Callable[[Answer], None]
    until: float


class Desk:
    """Takes requests, decides at once, and keeps the answers until they stand."""

    def __init__(self, resuming: Resuming) -> None:
        self._resuming = resuming
        self._open: list[tuple[Request, Answer]] = []

    def __bool__(self) -> bool:
        return bool(self._open)

    def take(
        self, requests: Iterable[Request], incidents: Sequence[Incident], now: float, closed: str
    ) -> list[Action]:
        """Decide one request after the other; return the actions to fire once they are on the disk.

        `closed` says why nothing can be decided now. What nobody waits for any more is not done.
        """
        fired: list[Action] = []
        for request in requests:
            reason = closed or ("it came too late" if now > request.until else "")
            if isinstance(request.want, Keep):  # nothing is decided
                reason = ""
            if reason:
                answer = _refused(UNAVAILABLE, f"{reason}; nothing was done")
            else:
                answer, new = decided(request.want, self._resuming, incidents, now)
                fired += new
            self._open.append((request, answer))
        return fired

    def reply(self, write_error: str) -> None:
        """Tell what was decided, or that it is not on the disk yet."""
        for request, answer in self._open:
            if write_error and answer.status == OK:
                reason = f"the store cannot be written: {write_error}; see `raywatch actions` for what comes of it"
                request.answer(_refused(UNAVAILABLE, reason))
            else:
                request.answer(answer)
        self._open.clear()


def decided(
    want: Want, resuming: Resuming, incidents: Sequence[Incident], now: float
) -> tuple[Answer, list[Action]]:
    """Carry one request out in the ledger; return the answer and the actions to fire."""
    match want:
        case Approve(key):
            return _approved(key, resuming, incidents, now)
        case Resume(run, dry_run):
            return _resumed(run, resuming, incidents, now, dry_run=dry_run)
        case Keep():
            return Answer(OK, {}), []


def _refused(status: int, reason: str, **more: object) -> Answer:
    return Answer(status, {"error": reason, **more})


def _approved(
    key: str, resuming: Resuming, incidents: Sequence[Incident], now: float
) -> tuple[Answer, list[Action]]:
    action = resuming.ledger.get(key)
    if action is None:
        return _refused(NOT_FOUND, f"no action {key}; `raywatch actions` lists them"), []
    if action.state != "awaiting_approval":
        return _refused(CONFLICT, f"{key} is {_state(action)}, not awaiting approval"), []
    resuming.put(approve(action, now))
    fired = resuming.decide(incidents, now)
    after = resuming.ledger[key]
    if after.state not in ("waiting", "started"):
        return _refused(CONFLICT, f"{key} was approved and is now {_state(after)}"), fired
    return Answer(OK, {"action": resuming.shown_action(after)}), fired


def _state(action: Action) -> str:
    return f"{action.state} ({action.detail})" if action.detail else action.state


def _resumed(
    text: str,
    resuming: Resuming,
    incidents: Sequence[Incident],
    now: float,
    *,
    dry_run: bool,
) -> tuple[Answer, list[Action]]:
    runs = resuming.named(text)
    if not runs:
        return _refused(NOT_FOUND, f"no run {text}; `raywatch runs` lists them"), []
    if len(runs) > 1:
        ids = ", ".join(r.id for r in runs)
        return _refused(CONFLICT, f"several runs are named {text}; give one of {ids}"), []
    found = resuming.by_hand(runs[0], incidents, now)
    objections = [{"check": o.check, "detail": o.detail} for o in found.objections]
    if found.action is None or (objections and not dry_run):
        reasons = "; ".join(o.detail for o in found.objections)
        return _refused(CONFLICT, reasons, objections=objections), []
    shown = resuming.shown_action(found.action)
    if dry_run:
        would = {k: shown[k] for k in _WOULD}
        body = {"dry_run": True, "starts": not objections, "would": would, "objections": objections}
        return Answer(OK, body), []
    resuming.put(found.action)
    return Answer(OK, {"action": shown}), [found.action]
