"""What a cloud announced about this machine -> findings and drains of its Ray node, each once in all lives of the daemon.

A notice never acts and never outranks what a dying process says: it is a warning. One of preemption is remembered as a
drain, so that the end of its node has a cause.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from raywatch.answering import LEFT_S, Answering, Asked, answers_json
from raywatch.core.drains import OVER_S
from raywatch.core.view import rfc3339
from raywatch.memory import Document, Remembered
from raywatch.model import Entity, Evidence, Fact, Finding, Subject, Trust
from raywatch.notice import CLASSES, Machine, Notice, NoticeHook, Notices
from raywatch.observations import NodeSeen

log = logging.getLogger("raywatch.notices")
KIND: Literal["notice"] = "notice"
Row: TypeAlias = dict[str, str | None]
KEEP = 256
PATIENCE_S = 60.0  # that the dashboard gets to say which node has the address: a quarter of what is left at most


@dataclass(frozen=True, slots=True)
class Told:
    """A notice that is told now. `drain` is None where the machine is not taken or no node is known."""

    asked: Asked
    finding: Finding
    drain: Fact | None


@dataclass(frozen=True, slots=True)
class _Heard:
    notice: Notice
    machine: Machine
    at: float
    topic: str


class Noticing:
    """Which notices stand and which were told. Owned by the first thread."""

    def __init__(
        self,
        docs: Mapping[str, Mapping[str, str]],
        hooks: Sequence[NoticeHook] = (),
        *,
        started_at: float = 0.0,
    ) -> None:
        """Go on from stored documents. `started_at`: the first start of the store. Raises ValueError as Answering does."""
        rows: dict[str, Row] = {key: json.loads(text) for key, text in docs.get(KIND, {}).items()}
        order = sorted(rows, key=lambda key: str(rows[key]["at"]))
        self._known = Remembered(KIND, {k: rows[k] for k in order}, KEEP, json.dumps)
        self.answering = Answering(hooks, docs, started_at=started_at)
        self._waiting: dict[str, _Heard] = {}

    def hear(self, lists: Iterable[Notices]) -> None:
        """Take in lists; what was withdrawn before it could be told is forgotten."""
        for told in lists:
            known = {k: h for k, h in self._waiting.items() if h.topic == told.topic}
            for key in known.keys() - {n.key for n in told.told}:
                del self._waiting[key]
            for notice in told.told:
                if notice.key not in self._known and notice.key not in known:
                    self._waiting[notice.key] = _Heard(notice, told.machine, told.at, told.topic)
                    log.warning("%s announces %s: %s", notice.provider, notice.kind, notice.what)

    def tell(self, nodes: Mapping[str, NodeSeen], now: float) -> list[Told]:
        """Return what can be told now: whose node is known, or after PATIENCE_S without one."""
        ready = []
        for key, heard in list(self._waiting.items()):
            node = node_of(heard.machine, nodes)
            deadline = heard.notice.deadline_at
            left = (deadline or heard.at + LEFT_S) - heard.at
            if not node and 0 <= now - heard.at < min(PATIENCE_S, left / 4):
                continue
            del self._waiting[key]
            self._remember(heard, node, now)
            if deadline is None or now < deadline + OVER_S:
                is_head = node in nodes and nodes[node].is_head
                ready.append(_told(heard, node, is_head=is_head))
        return ready

    def _remember(self, heard: _Heard, node: str, now: float) -> None:
        notice, machine = heard.notice, heard.machine
        row: Row = {"at": rfc3339(now), "provider": notice.provider, "kind": notice.kind}
        row |= {"what": notice.what, "instance": machine.instance, "ip": machine.ip, "node": node}
        row["deadline_at"] = rfc3339(notice.deadline_at)
        self._known.put(notice.key, row)

    def made_of(self) -> tuple[object, ...]:
        """Return the values, never changed in place, of which `shown` is made."""
        return self._known.rows(), self.answering.actions

    def shown(self) -> dict[str, object]:
        """Show what was announced and what was done about it as the API does, the oldest first."""
        actions = self.answering.actions.values()
        rows = [
            {"key": key, **row, "actions": answers_json(a for a in actions if a.notice.key == key)}
            for key, row in self._known.rows().items()
        ]
        return {"notices": rows}

    def documents(self) -> Iterator[Document]:
        """Yield what changed since the last call."""
        yield from self._known.documents()
        yield from self.answering.documents()


def node_of(machine: Machine, nodes: Mapping[str, NodeSeen]) -> str:
    """Return the one living Ray node with this machine's address, '' where there is none or more than one."""
    found = [n.node_id for n in nodes.values() if n.state == "ALIVE" and n.ip == machine.ip]
    return found[0] if machine.ip and len(found) == 1 else ""


def _told(heard: _Heard, node: str, *, is_head: bool) -> Told:
    notice = heard.notice
    asked = Asked(notice, heard.machine, heard.at, node, is_head)
    by = f" not before {rfc3339(notice.deadline_at)}" if notice.deadline_at else ""
    text = (
        f"{notice.provider} announces {notice.kind} of {heard.machine.instance}: {notice.what}{by}"
    )
    class_id = CLASSES[notice.kind]
    evidence = Evidence(
        file=f"metadata of {notice.provider}",
        line=0,
        text=text,
        at=heard.at,
        component="event",
        class_id=class_id,
        signature="",
        node=node,
    )
    fields = {"provider": notice.provider, "kind": notice.kind, "instance": heard.machine.instance}
    finding = Finding(
        class_id=class_id,
        subject=Subject("node", node, node),
        at=heard.at,
        dated=True,
        evidence=evidence,
        signature="",
        trust=Trust.SILENCE,
        fields=fields,
        entities=frozenset([Entity("node", node)] if node else []),
        acts=False,
    )
    if not node or notice.kind != "preemption" or not notice.ends:
        return Told(asked, finding, None)
    deadline = int((notice.deadline_at or 0) * 1000)
    said = {
        "node_id": node,
        "reason": "PREEMPTION",
        "message": f"{notice.provider}: {notice.what}",
        "deadline_ms": str(deadline),
        "by": notice.provider,
    }
    return Told(asked, finding, Fact("drain", heard.at, evidence, said, finding.entities))
