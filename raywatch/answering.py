"""What is done about the notices of clouds: each hook once a notice, in all lives of the daemon.

A [[notice]] asks for it. A drain is safe to ask for again (Ray takes the second request of a node as the first), a
command is not: one that was running when the daemon ended is `interrupted`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from raywatch.core.view import rfc3339
from raywatch.memory import Document, Remembered
from raywatch.model import Outcome
from raywatch.notice import Machine, Notice, NoticeAction, NoticeActionState, NoticeHook

log = logging.getLogger("raywatch.notices")
KIND: Literal["notice_action"] = "notice_action"
KEEP = 256
PAUSE_S = 900.0  # a second notice for the same node so soon is the first one in other words
FRESH_S = 10.0  # after the first start of a store: what stands then may have been answered before
LEFT_S = 30.0  # that a machine has where nobody says when it goes: the shortest that a cloud gives
_ACTION = TypeAdapter(NoticeAction)
_NODE = re.compile(r"[0-9a-f]{56}")
_RAN = frozenset(["started", "succeeded", "failed", "timed_out", "interrupted"])


@dataclass(frozen=True, slots=True)
class Asked:
    """A notice that is told now, of the Ray node `node` ('' where none is known)."""

    notice: Notice
    machine: Machine
    at: float  # when it was heard
    node: str
    is_head: bool = False


class Answering:
    """Hooks of notices and what came of them. Owned by the first thread."""

    def __init__(
        self,
        hooks: Sequence[NoticeHook],
        docs: Mapping[str, Mapping[str, str]],
        *,
        started_at: float,
    ) -> None:
        """`started_at`: the first start of this store. Raises ValueError for documents of another version."""
        self._hooks, self._started_at = hooks, started_at
        try:
            rows = [_ACTION.validate_json(t) for t in docs.get(KIND, {}).values()]
        except ValidationError as error:
            raise ValueError(f"the store holds what this version cannot read: {error}") from error
        known = {a.key: a for a in sorted(rows, key=lambda a: a.created_at)}
        self._kept = Remembered(KIND, known, KEEP, lambda a: _ACTION.dump_json(a).decode())
        self._due: list[str] = []
        self._ends: list[NoticeAction] = []

    @property
    def actions(self) -> Mapping[str, NoticeAction]:
        """All that is remembered, the oldest first."""
        return self._kept.rows()

    def settle(self, now: float) -> None:
        """Go on with what an earlier life started: a drain is asked for again while there is time."""
        for action in [a for a in self.actions.values() if a.state == "started"]:
            if action.hook.kind == "drain" and now < action.deadline_at:
                self._due.append(action.key)
            else:
                self._end(
                    action, "interrupted", "the daemon ended while it ran; not run again", now
                )

    def decide(self, asked: Asked, closed: str, now: float) -> None:
        """Decide what is done about a notice. `closed`: why nothing may be done now."""
        for hook in self._hooks:
            key = f"{asked.notice.key} {hook.name}"
            if asked.notice.kind not in hook.kinds or key in self._kept:
                continue
            until = asked.notice.deadline_at or asked.at + LEFT_S
            facts = (asked.notice, asked.machine, asked.node)
            action = NoticeAction(key, hook, *facts, "started", now, until)
            state, why = self._objection(action, asked, closed)
            if state == "started":
                self._kept.put(key, action)
                self._due.append(key)
            else:
                self._end(action, state, why, now)

    def _objection(
        self, action: NoticeAction, asked: Asked, closed: str
    ) -> tuple[NoticeActionState, str]:
        is_drain = action.hook.kind == "drain"
        if is_drain and not asked.notice.ends:
            return "refused", "the machine does not end: nothing to drain"
        if is_drain and not _NODE.fullmatch(action.node):
            return "refused", f"no living Ray node is known at {action.machine.ip or 'its address'}"
        if is_drain and asked.is_head:
            return "refused", "this is the head: nothing can take its place, save what runs"
        if closed:
            return "refused", closed
        if not is_drain and 0 <= asked.at - self._started_at < FRESH_S:
            return "history", "it stood when this daemon's store was new: it may have run already"
        return self._repeated(action)

    def _repeated(self, action: NoticeAction) -> tuple[NoticeActionState, str]:
        for old in self.actions.values():
            is_same = old.hook.name == action.hook.name and old.machine == action.machine
            ago = action.created_at - old.created_at
            # That the machine may go is not that it goes.
            is_less = action.notice.ends and not old.notice.ends
            if is_same and not is_less and old.state in _RAN and abs(ago) < PAUSE_S:
                return "refused", f"the same hook ran for this machine {max(ago, 0):.0f} s ago"
        return "started", ""

    def due(self) -> bool:
        """Say whether anything is to be started once it is on the disk."""
        return bool(self._due)

    def take(self, now: float) -> list[NoticeAction]:
        """Return what is to be started: it is on the disk. What came too late to be written is refused."""
        ready = [a for k in self._due if (a := self._kept.get(k)) is not None]
        self._due = []
        for late in [a for a in ready if now >= a.deadline_at]:
            self._end(late, "refused", "its time was over before it could be started", now)
        return [a for a in ready if now < a.deadline_at]

    def outcome(self, outcome: Outcome, now: float) -> bool:
        """Note what came of an action; say whether it is one of these."""
        action = self._kept.get(outcome.key)
        if action is None:
            return False
        state: NoticeActionState = "refused" if outcome.state == "deferred" else outcome.state
        self._end(replace(action, output=outcome.output), state, outcome.detail, now)
        return True

    def _end(self, action: NoticeAction, state: NoticeActionState, why: str, now: float) -> None:
        ended = replace(action, state=state, detail=why, ended_at=now)
        log.warning("hook %s for %s: %s %s", action.hook.name, action.notice.key, state, why)
        self._ends.append(ended)
        self._kept.put(ended.key, ended)

    def documents(self) -> Iterator[Document]:
        """Yield what changed since the last call."""
        return self._kept.documents()

    def ends(self) -> list[NoticeAction]:
        """Return what ended since the last call, for the counters."""
        ends, self._ends = self._ends, []
        return ends


def answers_json(actions: Iterable[NoticeAction]) -> list[dict[str, object]]:
    """Show what was done about one notice as the API does."""
    return [
        {
            "key": a.key,
            "hook": a.hook.kind,
            "name": a.hook.name,
            "state": a.state,
            "detail": a.detail,
            "output": a.output,
            "created_at": rfc3339(a.created_at),
            "ended_at": rfc3339(a.ended_at),
        }
        for a in actions
    ]
