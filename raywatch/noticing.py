"""What a cloud announced about this machine -> findings and drains of its Ray node, each once in all lives of the daemon.

A notice never acts and never outranks what a dying process says: it is a warning. One of preemption is remembered as a
drain, so that the end of its node has a cause.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from raywatch.core.view import rfc3339
from raywatch.memory import Document
from raywatch.model import Entity, Evidence, Fact, Finding, Subject, Trust
from raywatch.notice import Machine, Notice, NoticeKind, Notices
from raywatch.observations import NodeSeen

log = logging.getLogger("raywatch.notices")
KIND: Literal["notice"] = "notice"
KEEP = 256
PATIENCE_S = 60.0  # that the dashboard gets to say which node has the address
OVER_S = 60.0  # a machine that still lives so long after its deadline was not taken
_CLASSES: Mapping[NoticeKind, str] = {
    "preemption": "preemption_notice",
    "maintenance": "preemption_notice",  # its own class is for the end; this one is the warning
    "rebalance": "rebalance_recommendation",
}


@dataclass(frozen=True, slots=True)
class Told:
    """A notice that is told now. `drain` is None where the machine is not taken or no node is known."""

    notice: Notice
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

    def __init__(self, docs: Mapping[str, Mapping[str, str]]) -> None:
        """Go on from stored documents."""
        stored = docs.get(KIND, {})
        order = sorted(stored, key=lambda key: str(json.loads(stored[key])["at"]))
        self._known: dict[str, None] = dict.fromkeys(order)  # what was told, oldest first
        self._waiting: dict[str, _Heard] = {}
        self._written: list[Document] = []

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
            if not node and 0 <= now - heard.at < PATIENCE_S:
                continue
            del self._waiting[key]
            self._remember(key, now)
            deadline = heard.notice.deadline_at
            if deadline is None or now < deadline + OVER_S:
                ready.append(_told(heard, node))
        return ready

    def _remember(self, key: str, now: float) -> None:
        self._known[key] = None
        self._written.append(Document(KIND, key, json.dumps({"at": rfc3339(now)})))
        for old in list(self._known)[:-KEEP]:
            del self._known[old]
            self._written.append(Document(KIND, old, None))

    def documents(self) -> Iterator[Document]:
        """Yield what changed since the last call."""
        yield from self._written
        self._written = []


def node_of(machine: Machine, nodes: Mapping[str, NodeSeen]) -> str:
    """Return the one living Ray node with this machine's address, '' where there is none or more than one."""
    found = [n.node_id for n in nodes.values() if n.state == "ALIVE" and n.ip == machine.ip]
    return found[0] if machine.ip and len(found) == 1 else ""


def _told(heard: _Heard, node: str) -> Told:
    notice = heard.notice
    by = f" not before {rfc3339(notice.deadline_at)}" if notice.deadline_at else ""
    text = (
        f"{notice.provider} announces {notice.kind} of {heard.machine.instance}: {notice.what}{by}"
    )
    class_id = _CLASSES[notice.kind]
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
        return Told(notice, finding, None)
    deadline = int((notice.deadline_at or 0) * 1000)
    said = {
        "node_id": node,
        "reason": "PREEMPTION",
        "message": f"{notice.provider}: {notice.what}",
        "deadline_ms": str(deadline),
        "by": notice.provider,
    }
    return Told(notice, finding, Fact("drain", heard.at, evidence, said, finding.entities))
