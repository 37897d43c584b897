"""Incidents that can be asked which of them a finding may belong to, without a look at each.

A storm keeps hundreds of incidents open. What makes a finding one's kin (core/kinship.py) is mostly something that both
name, so the few that name it are looked up and asked; all are asked only about findings that time alone can join.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from itertools import chain

from raywatch.core.kinship import BINDING, Asked, Links
from raywatch.model import Entity, FailureClass, Finding, Incident

_NODE, _WIDE = "node", "cluster"  # kinds of subjects


class Board:
    """Incidents in the order in which they were opened; ids are unique. Whoever makes one keeps it to himself."""

    def __init__(self, incidents: Iterable[Incident] = ()) -> None:
        self._all: dict[str, Incident] = {}
        self._numbers: dict[str, int] = {}
        self._open: dict[int, Incident] = {}  # by number
        # What may name it -> numbers. An incident that names something no more stays: it is asked in vain.
        self._naming: dict[Hashable, set[int]] = {}
        self._ending: dict[
            str, set[int]
        ] = {}  # nodes that it is about or names, where it is about a node
        for incident in incidents:
            self.put(incident)

    def all(self) -> tuple[Incident, ...]:
        """Return them."""
        return tuple(self._all.values())

    def __contains__(self, number: str) -> bool:
        """Say whether there is an incident with this id."""
        return number in self._all

    def put(self, incident: Incident) -> None:
        """Take in an incident, or what has become of it."""
        before = self._all.get(incident.id)
        self._all[incident.id] = incident
        number = self._numbers.setdefault(incident.id, len(self._numbers))
        if incident.state != "open":
            self._open.pop(number, None)
            return
        self._open[number] = incident
        if before is None or before.state != "open" or before.subject != incident.subject:
            known: frozenset[Entity] = frozenset()
        elif before.class_id == incident.class_id and before.entities == incident.entities:
            return
        else:
            known = before.entities
        nodes = _nodes_of(incident, known)
        for name in chain(_names_of(incident, known), (Entity(_NODE, n) for n in nodes)):
            self._naming.setdefault(name, set()).add(number)
        for node in nodes if incident.subject.kind == _NODE else ():
            self._ending.setdefault(node, set()).add(number)

    def drop(self, ids: Iterable[str]) -> None:
        """Let go of incidents that are part of another."""
        for name in ids:
            del self._all[name]
            self._open.pop(self._numbers[name], None)

    def related(
        self, links: Links, finding: Finding, classes: Mapping[str, FailureClass]
    ) -> list[Incident]:
        """Return the open incidents that a finding may belong to. `links` join who was named together."""
        asked = Asked(finding, classes[finding.class_id].role, links)
        return [i for i in self._candidates(asked) if asked.is_kin_of(i, classes)]

    def _candidates(self, asked: Asked) -> Iterable[Incident]:
        if asked.asks_all:
            return (i for i in self._all.values() if i.state == "open")
        naming = map(self._naming.get, _names_asked(asked))
        ending = () if asked.is_node else map(self._ending.get, asked.nodes)
        found: set[int] = set().union(*filter(None, chain(naming, ending)))
        known = self._open
        return [known[n] for n in sorted(found) if n in known]


def _names_of(incident: Incident, known: frozenset[Entity]) -> Iterator[Hashable]:
    """What a finding may ask for to find an incident, less entities under which it is found already; nodes apart."""
    yield incident.class_id, incident.subject.id
    yield incident.class_id
    if incident.subject.kind in (_WIDE, _NODE):
        yield incident.subject.kind
    yield from (e for e in incident.entities - known if e.kind in BINDING)


def _nodes_of(incident: Incident, known: frozenset[Entity]) -> list[str]:
    named = [e.id for e in incident.entities - known if e.kind == _NODE]
    return [*named, incident.subject.node] if incident.subject.node else named


def _names_asked(asked: Asked) -> Iterator[Hashable]:
    """Each way in which Asked.is_kin_of may say yes, as a name: by all of them together nobody is missed."""
    finding = asked.finding
    yield _WIDE
    yield from asked.binding
    if finding.subject.id:
        yield finding.class_id, finding.subject.id
        yield finding.class_id, ""
    else:
        yield finding.class_id
    if finding.fields.get("source") == "preemption":
        yield "spot_preemption"
    if asked.is_node:
        yield from asked.nodes.values()
        yield from asked.hosted
    elif asked.names_run:  # nodes are linked with runs alone
        yield _NODE
