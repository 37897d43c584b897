"""Which findings have one root cause: by whom they name, where it happened, and when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TypeAlias

from raywatch.model import Entity, FailureClass, Finding, Incident

Links: TypeAlias = Mapping[Entity, frozenset[Entity]]
WINDOW_S = 90.0  # a vanished node is declared dead after 64 s; its symptoms come with it
COPY_S = 2.0
LOOSE_S = 45.0  # for symptoms that name nobody
EARLY_S = 5.0  # a symptom may be written before the end that caused it
NODE_TO_WORKER_S = 20.0  # a node that dies under a worker is known dead after 14 s
MAX_HEARD = 64
_EXPORT = "export"  # the component of Ray's export event files
# Whoever shares one of these is hurt by the same thing; a node is shared by strangers.
BINDING = frozenset(["worker", "actor", "submission", "run", "job", "pid"])


def _came_too_late(
    incident: Incident, finding: Finding, classes: Mapping[str, FailureClass]
) -> bool:
    """Say whether a node ended too long after a failure that has a root of its own to be its cause."""
    if finding.subject.kind != "node" or incident.subject.kind in ("node", "cluster"):
        return False
    if classes[incident.class_id].role != "root" or not finding.dated:
        return False
    planned = finding.class_id == "node_terminated_expected"
    return finding.at - incident.first_at > (EARLY_S if planned else NODE_TO_WORKER_S)


def is_explained(links: Links, symptom: Incident, end: Finding) -> bool:
    """Say whether the end of a node, or of the cluster, explains an incident of which only a symptom is known."""
    if end.subject.kind == "cluster":
        return True
    if end.subject.kind != "node" or symptom.subject.kind == "node":
        return False
    if _hosted(links, end) & symptom.entities:
        return True
    soon = end.at - symptom.first_at <= NODE_TO_WORKER_S
    return bool(end.subject.node) and symptom.subject.node == end.subject.node and soon


def is_near(incident: Incident, finding: Finding) -> bool:
    """Say whether a finding came while an incident's effects may still come; what has no time may be any."""
    if not finding.dated:
        return True
    return incident.first_at - WINDOW_S <= finding.at <= incident.last_at + WINDOW_S


def belongs(incident: Incident, finding: Finding, role: str) -> bool:
    """Say whether a finding of this role is about the same as an incident; `is_near` is asked first."""
    return Asked(finding, role, {}).belongs_to(incident)


class Asked:
    """A finding that is held against many incidents: what of it is asked each time is worked out once."""

    def __init__(self, finding: Finding, role: str, links: Links) -> None:
        self.finding, self._role, self._links = finding, role, links
        self.binding, nodes, self.names_run = _by_kind(finding.entities)
        own = finding.subject.node
        self.nodes = {**nodes, own: Entity("node", own)} if own and own not in nodes else nodes
        self.is_node = finding.subject.kind == "node"
        self.hosted = _hosted(links, finding) if self.is_node else frozenset()
        self._reach_s = LOOSE_S * (1 if finding.dated else 1e9) if _is_loose(finding, role) else -1

    @property
    def asks_all(self) -> bool:
        """Whether an incident may be kin that shares nothing with the finding but the time."""
        return self._reach_s >= 0 or self.finding.subject.kind == "cluster"

    def is_kin_of(self, incident: Incident, classes: Mapping[str, FailureClass]) -> bool:
        """Say whether it may belong to an open incident."""
        finding = self.finding
        if not is_near(incident, finding):
            return False
        if self.is_node and _came_too_late(incident, finding, classes):
            return False
        if self.belongs_to(incident):
            return True
        # A node and a run that has ranks on it fail together. Survivors name only their own nodes.
        if self.is_node:
            other = incident.subject.kind != "node"
            return other and not self.hosted.isdisjoint(incident.entities)
        if incident.subject.kind == "node" and self._role != "root":
            known = self._links.get(Entity("node", incident.subject.node), frozenset())
            return not known.isdisjoint(finding.entities)
        return False

    def belongs_to(self, incident: Incident) -> bool:
        """Say whether it is about the same."""
        finding = self.finding
        mine, theirs = finding.subject, incident.subject
        if self.is_node and theirs.kind == "node" and mine.node and theirs.node:
            return mine.node == theirs.node
        if mine.kind == "cluster" or theirs.kind == "cluster":
            return True
        if finding.class_id == incident.class_id and _is_copy(incident, finding):
            return True
        if self.is_node and theirs.kind in ("worker", "actor") and mine.node and theirs.node:
            # Strangers of one job do not die of each other's nodes, nor long before their own.
            return mine.node == theirs.node and finding.at - incident.first_at <= NODE_TO_WORKER_S
        if not self.binding.isdisjoint(incident.entities):
            return True
        if incident.class_id == "spot_preemption" and finding.fields.get("source") == "preemption":
            return True  # Ray Train names the cause of its decision, not the node
        if (self.is_node or theirs.kind == "node") and self._shares_node(incident):
            return True
        return abs(finding.at - incident.last_at) <= self._reach_s

    def _shares_node(self, incident: Incident) -> bool:
        return incident.subject.node in self.nodes or not incident.entities.isdisjoint(
            self.nodes.values()
        )


@lru_cache(maxsize=1024)
def _by_kind(
    entities: frozenset[Entity],
) -> tuple[frozenset[Entity], Mapping[str, Entity], bool]:
    """Return the entities that bind, the nodes by id, and whether there is a run. A storm asks for the same ones again."""
    binding = frozenset(e for e in entities if e.kind in BINDING)
    nodes = {e.id: e for e in entities if e.kind == "node" and e.id}
    return binding, nodes, any(e.kind == "run" for e in binding)


def _hosted(links: Links, end: Finding) -> frozenset[Entity]:
    return links.get(Entity("node", end.subject.node), frozenset())


def _is_copy(incident: Incident, finding: Finding) -> bool:
    """Of the same class. One failure is written up to eight times, often without saying about whom."""
    mine, theirs = finding.subject.id, incident.subject.id
    same = mine == theirs or not (mine and theirs)
    if not finding.dated and incident.first_at == 0:
        return same and finding.evidence.file == incident.root.file
    return same and abs(finding.at - incident.last_at) <= COPY_S


def _is_loose(finding: Finding, role: str) -> bool:
    """Say whether a finding names nobody, so that only time can join it: a driver's own output."""
    named = any(e.kind in BINDING - {"pid"} for e in finding.entities)
    return finding.evidence.component in ("driver", "unknown") or (role != "root" and not named)


def closest(related: list[Incident], finding: Finding) -> Incident | None:
    """Return the incident that a finding fits best; None where there is none."""
    binding = _by_kind(finding.entities)[0]

    def closeness(incident: Incident) -> tuple[bool, bool, int, float]:
        return (
            incident.class_id == finding.class_id and incident.subject.id == finding.subject.id,
            not binding.isdisjoint(incident.entities),
            int(incident.trust),
            -abs(finding.at - incident.last_at),
        )

    return max(related, key=closeness) if len(related) > 1 else next(iter(related), None)


def is_copy(heard: Mapping[str, float], finding: Finding) -> bool:
    """Say whether an incident has heard this already: one failure is written up to eight times.

    A copy has the same class and subject within COPY_S, or names nobody, or has no time. What Ray exports is the end of
    something: the logs told what led to it, some of them well before.
    """
    named = finding.evidence.component == _EXPORT and finding.subject.id
    reach = WINDOW_S if named else COPY_S
    nobody = f"{finding.class_id} "
    if finding.subject.id:
        same = [at for k in (_key(finding), nobody) if (at := heard.get(k)) is not None]
    else:
        same = [at for key, at in heard.items() if key.startswith(nobody)]
    return any(not finding.dated or abs(finding.at - at) <= reach for at in same)


def is_old(incidents: Iterable[Incident], finding: Finding) -> bool:
    """Say whether a finding only says again that an actor is dead: Ray exports that once more when its job ends."""
    key = _end_of_actor(finding)
    ends = (i.heard.get(key) for i in incidents) if key else ()
    return any(at is not None and finding.at - at > COPY_S for at in ends)


def heard_of(heard: Mapping[str, float], finding: Finding) -> dict[str, float]:
    """Return what an incident has heard with one more finding, bounded: the oldest are forgotten."""
    grown = {**heard, _key(finding): finding.at or heard.get(_key(finding), 0.0)}
    if end := _end_of_actor(finding):
        grown[end] = finding.at
    while len(grown) > MAX_HEARD:
        del grown[min(grown, key=grown.__getitem__)]
    return grown


def _end_of_actor(finding: Finding) -> str:
    """Return what an exported row of an actor that is dead is remembered by; '' for any other finding."""
    is_row = finding.evidence.component == _EXPORT and finding.fields.get("actor_state") == "DEAD"
    return f"dead {finding.fields.get('actor_id', '')}" if is_row else ""


def _key(finding: Finding) -> str:
    return f"{finding.class_id} {finding.subject.id}"
