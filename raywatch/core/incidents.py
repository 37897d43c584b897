"""Findings -> incidents: group what has one root cause, name it, explain its symptoms.

(State, finding) -> (State, changes). Root before symptom: what may name an incident is ordered by role, then trust,
then breadth of scope; between equals the earlier wins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from raywatch.core.bounds import Memory, bounded_memory
from raywatch.model import (
    Change,
    Drain,
    Entity,
    Evidence,
    Fact,
    FailureClass,
    Finding,
    Incident,
    Subject,
    Trust,
)

WINDOW_S = 90.0  # a vanished node is declared dead after 64 s; its symptoms come with it
COPY_S = 2.0
LOOSE_S = 45.0  # for symptoms that name nobody
EARLY_S = 5.0  # a symptom may be written before the end that caused it
NODE_TO_WORKER_S = 20.0  # a node that dies under a worker is known dead after 14 s
MAX_EVIDENCE = 24
MAX_WAITING = 64
MAX_SIZES = 32
_ROLE_RANK = {"root": 2, "symptom": 1, "warning": 0, "benign": -1}
_BREADTH = {"cluster": 3, "node": 2}
_NODE_ENDS = frozenset(
    ["node_terminated_expected", "node_lost", "raylet_crash", "node_partitioned"]
)
_PLANNED = "Node received SIGTERM; draining before shutdown."  # `ray start --block`, Ray 2.60
# Whoever shares one of these is hurt by the same thing; a node is shared by strangers.
_BINDING = frozenset(["worker", "actor", "submission", "run", "job", "pid"])


@dataclass(frozen=True, slots=True)
class State:
    """All that correlation remembers."""

    incidents: tuple[Incident, ...] = ()
    drains: Mapping[str, Drain] = field(default_factory=dict)
    ends: Mapping[str, Finding] = field(default_factory=dict)  # planned ends of nodes, by node id
    links: Mapping[Entity, frozenset[Entity]] = field(default_factory=dict)
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # run -> world sizes
    waiting: tuple[Finding, ...] = ()  # warnings that no incident explains yet


def note(state: State, fact: Fact) -> State:
    """Remember what a fact says about drains, world sizes and who belongs to whom."""
    state = _linked(state, fact.entities)
    if fact.kind == "drain" and fact.fields.get("node_id"):
        drain = _drain(fact)
        known = state.drains.get(drain.node_id)
        if known is None or drain.at > known.at:
            state = replace(state, drains={**state.drains, drain.node_id: drain})
    if fact.kind == "group_started" and fact.fields.get("size", "").isdigit():
        return _sized(state, fact.fields.get("run_name", ""), int(fact.fields["size"]))
    return state


def _drain(fact: Fact) -> Drain:
    deadline = fact.fields.get("deadline_ms", "")
    return Drain(
        node_id=fact.fields["node_id"],
        reason=fact.fields.get("reason", ""),
        message=fact.fields.get("message", ""),
        deadline_at=int(deadline) / 1000 if deadline.isdigit() and deadline != "0" else None,
        at=fact.at,
        evidence=fact.evidence,
    )


def _sized(state: State, run: str, size: int) -> State:
    sizes = state.sizes.get(run, ())
    if sizes[-1:] == (size,):
        return state
    state = replace(state, sizes={**state.sizes, run: (*sizes, size)[-MAX_SIZES:]})
    hurt = tuple(
        replace(i, world_sizes=state.sizes[run][-8:]) if Entity("run", run) in i.entities else i
        for i in state.incidents
    )
    return replace(state, incidents=hurt)


def _linked(state: State, entities: frozenset[Entity]) -> State:
    """Join who is named together: a worker with its job, run, actor and pid."""
    anchors = [e for e in entities if e.kind in ("worker", "actor", "submission")]
    others = frozenset(e for e in entities if e.kind in _BINDING)
    fresh = {a: state.links.get(a, frozenset()) | (others - {a}) for a in anchors}
    changed = {a: known for a, known in fresh.items() if known != state.links.get(a)}
    return replace(state, links={**state.links, **changed}) if changed else state


def _expanded(state: State, entities: frozenset[Entity]) -> frozenset[Entity]:
    return entities.union(*(state.links.get(e, frozenset()) for e in entities))


def correlate(
    state: State, finding: Finding, classes: Mapping[str, FailureClass], *, may_open: bool = True
) -> tuple[State, tuple[Change, ...]]:
    """Put a finding where it belongs. `may_open` False: it can only be evidence (it has no time).

    Same input, same output.
    """
    state = _linked(state, finding.entities)
    finding = replace(finding, entities=_expanded(state, finding.entities))
    finding = _with_drain(state, finding)
    role = classes[finding.class_id].role
    if role == "benign":
        return state, ()
    incident = _best(_related(state, finding, role), finding)
    if incident is not None:
        return _attach(state, incident, finding, classes)
    if finding.class_id == "node_terminated_expected":
        return replace(state, ends={**state.ends, finding.subject.node: finding}), ()
    if role == "warning" and finding.dated:
        return replace(state, waiting=(*state.waiting[-MAX_WAITING + 1 :], finding)), ()
    if role == "warning" or not may_open:
        return state, ()
    return _open(state, finding, classes)


def _with_drain(state: State, finding: Finding) -> Finding:
    """A node that ends after it was told to go was taken, whatever Ray calls its end."""
    drain = state.drains.get(finding.subject.node)
    if finding.class_id not in _NODE_ENDS or drain is None or "PREEMPTION" not in drain.reason:
        return finding
    if _PLANNED in drain.message or finding.at + 2 < drain.at:
        return finding
    return replace(
        finding,
        class_id="spot_preemption",
        trust=Trust.NOTICE,
        fields={**finding.fields, "reason_message": drain.message},
    )


def _related(state: State, finding: Finding, role: str) -> list[Incident]:
    return [
        i
        for i in state.incidents
        if i.state == "open" and _is_near(i, finding) and _belongs(i, finding, role)
    ]


def _is_near(incident: Incident, finding: Finding) -> bool:
    if not finding.dated:
        return True
    return incident.first_at - WINDOW_S <= finding.at <= incident.last_at + WINDOW_S


def _belongs(incident: Incident, finding: Finding, role: str) -> bool:
    mine, theirs = finding.subject, incident.subject
    if mine.kind == theirs.kind == "node" and mine.node and theirs.node:
        return mine.node == theirs.node
    if "cluster" in (mine.kind, theirs.kind) or _is_copy(incident, finding):
        return True
    if mine.kind == "node" and theirs.kind in ("worker", "actor") and mine.node and theirs.node:
        # Strangers of one job do not die of each other's nodes, nor long before their own.
        return mine.node == theirs.node and finding.at - incident.first_at <= NODE_TO_WORKER_S
    if any(e.kind in _BINDING for e in finding.entities & incident.entities):
        return True
    if incident.class_id == "spot_preemption" and finding.fields.get("source") == "preemption":
        return True  # Ray Train names the cause of its decision, not the node
    if "node" in (mine.kind, theirs.kind) and _shares_node(incident, finding):
        return True
    return _is_loose(finding, role) and abs(finding.at - incident.last_at) <= LOOSE_S * (
        1 if finding.dated else 1e9
    )


def _is_copy(incident: Incident, finding: Finding) -> bool:
    """One failure is written up to eight times, often without saying about whom."""
    mine, theirs = finding.subject.id, incident.subject.id
    same = finding.class_id == incident.class_id and (mine == theirs or not (mine and theirs))
    if not finding.dated and incident.first_at == 0:
        return same and finding.evidence.file == incident.root.file
    return same and abs(finding.at - incident.last_at) <= COPY_S


def _shares_node(incident: Incident, finding: Finding) -> bool:
    mine = {e.id for e in finding.entities if e.kind == "node"} | {finding.subject.node}
    theirs = {e.id for e in incident.entities if e.kind == "node"} | {incident.subject.node}
    return bool((mine & theirs) - {""})


def _is_loose(finding: Finding, role: str) -> bool:
    """Say whether a finding names nobody, so that only time can join it: a driver's own output."""
    named = any(e.kind in _BINDING - {"pid"} for e in finding.entities)
    return finding.evidence.component in ("driver", "unknown") or (role != "root" and not named)


def _best(related: list[Incident], finding: Finding) -> Incident | None:
    def closeness(incident: Incident) -> tuple[bool, bool, int, float]:
        shared = finding.entities & incident.entities
        return (
            incident.class_id == finding.class_id and incident.subject.id == finding.subject.id,
            any(e.kind in _BINDING for e in shared),
            int(incident.trust),
            -abs(finding.at - incident.last_at),
        )

    return max(related, key=closeness, default=None)


def _rank(class_id: str, trust: Trust, classes: Mapping[str, FailureClass]) -> tuple[int, int, int]:
    failure = classes[class_id]
    return _ROLE_RANK[failure.role], int(trust), _BREADTH.get(failure.scope, 1)


def _attach(
    state: State, incident: Incident, finding: Finding, classes: Mapping[str, FailureClass]
) -> tuple[State, tuple[Change, ...]]:
    better = _rank(finding.class_id, finding.trust, classes) > _rank(
        incident.class_id, incident.trust, classes
    )
    explained = incident.class_id if better else finding.class_id
    grown = replace(
        incident,
        first_at=min(incident.first_at, finding.at) if finding.dated else incident.first_at,
        last_at=max(incident.last_at, finding.at) if finding.dated else incident.last_at,
        evidence=_kept(incident.evidence, finding.evidence),
        entities=incident.entities | finding.entities,
        findings=incident.findings + 1,
        acts=incident.acts or finding.acts,
        fields={**finding.fields, **incident.fields},
    )
    same = finding.class_id == incident.class_id
    if not same:
        grown = replace(grown, explains=_counted(grown.explains, explained))
    if better:
        grown = _renamed(grown, finding)
    grown = _with_sizes(state, _with_culprit(state, _with_restart(grown, finding), finding))
    grown = _settled(grown, finding)
    others = tuple(grown if i.id == incident.id else i for i in state.incidents)
    changed = grown.class_id != incident.class_id
    change = Change("reclassified" if changed else "extended", grown, finding)
    return replace(state, incidents=others), (change,)


def _settled(incident: Incident, finding: Finding) -> Incident:
    """A death reason that Ray recorded for the subject needs no waiting for a better one."""
    if incident.settled_at is not None or finding.trust < Trust.RAY:
        return incident
    return replace(incident, settled_at=finding.at)


def _renamed(incident: Incident, finding: Finding) -> Incident:
    return replace(
        incident,
        class_id=finding.class_id,
        subject=finding.subject,
        trust=finding.trust,
        confidence=finding.confidence,
        root=finding.evidence,
        fields={**incident.fields, **finding.fields},
        explains=tuple(e for e in incident.explains if e[0] != finding.class_id),
    )


def _kept(evidence: tuple[Evidence, ...], new: Evidence) -> tuple[Evidence, ...]:
    known = {(e.file, e.line, e.class_id) for e in evidence}
    if (new.file, new.line, new.class_id) in known or len(evidence) >= MAX_EVIDENCE:
        return evidence
    return (*evidence, new)


def _counted(explains: tuple[tuple[str, int], ...], class_id: str) -> tuple[tuple[str, int], ...]:
    counts = dict(explains)
    counts[class_id] = counts.get(class_id, 0) + 1
    return tuple(counts.items())


def _with_restart(incident: Incident, finding: Finding) -> Incident:
    if not finding.dated:  # a copy without a time cannot say what came last
        return incident
    if finding.class_id == "train_restarted":
        return replace(incident, restarted=True, gave_up=False)
    if finding.class_id in ("train_failed", "job_driver_failed"):
        return replace(incident, restarted=False, gave_up=True)
    return incident


def _with_culprit(state: State, incident: Incident, finding: Finding) -> Incident:
    """The culprit of a timed-out collective is the rank that did not complain (reference/train.md 2)."""
    if incident.class_id not in ("collective_timeout", "hang") or incident.culprit is not None:
        return incident
    silent = finding.fields.get("missing_rank", "")
    listed = finding.fields.get("snippet_ranks", "")
    sizes = state.sizes.get(finding.fields.get("run_name", ""), ())
    if not silent and listed and sizes:
        missing = set(range(sizes[-1])) - {int(r) for r in listed.split(",") if r.isdigit()}
        silent = str(missing.pop()) if len(missing) == 1 else ""
    if not silent.isdigit():
        return incident
    return replace(incident, culprit=Subject("worker", f"rank {silent}", rank=int(silent)))


def _with_sizes(state: State, incident: Incident) -> Incident:
    runs = [e.id for e in incident.entities if e.kind == "run"]
    sizes = state.sizes.get(runs[0], ()) if len(runs) == 1 else ()
    return replace(incident, world_sizes=sizes[-8:]) if len(sizes) > 1 else incident


def _open(
    state: State, finding: Finding, classes: Mapping[str, FailureClass]
) -> tuple[State, tuple[Change, ...]]:
    end = _planned_end(state, finding)
    first = end or finding
    incident = Incident(
        id=_incident_id(first),
        class_id=first.class_id,
        subject=first.subject,
        trust=first.trust,
        confidence=first.confidence,
        state="open",
        first_at=first.at,
        last_at=first.at,
        root=first.evidence,
        fields=first.fields,
        evidence=(first.evidence,),
        entities=first.entities,
        acts=first.acts,
    )
    incident = _settled(_with_culprit(state, _with_restart(incident, first), first), first)
    state = replace(state, incidents=(*state.incidents, incident))
    changes = [Change("opened", incident, first)]
    earlier = [
        w for w in state.waiting if _is_near(incident, w) and _belongs(incident, w, "warning")
    ]
    state = replace(state, waiting=tuple(w for w in state.waiting if w not in earlier))
    for more in (*earlier, *((finding,) if end else ())):
        state, new = _attach(state, state.incidents[-1], more, classes)
        changes += new
    return state, tuple(changes)


def _planned_end(state: State, finding: Finding) -> Finding | None:
    """A planned end of a node becomes an incident only once something live died with it."""
    nodes = {e.id for e in finding.entities if e.kind == "node"} | {finding.subject.node}
    ends = [state.ends[n] for n in nodes if n in state.ends]
    return next((e for e in ends if -EARLY_S <= finding.at - e.at <= WINDOW_S), None)


def _incident_id(finding: Finding) -> str:
    text = f"{finding.evidence.file}|{finding.evidence.offset}|{finding.subject.id}|{finding.at}"
    return "i" + hashlib.sha256(text.encode()).hexdigest()[:11]


def expire(
    state: State, now: float, quiet_s: float, keep: int = 1000
) -> tuple[State, tuple[Change, ...]]:
    """Close incidents that were quiet for `quiet_s`; forget the oldest closed ones above `keep`."""
    state = _forgotten(state, now)
    due = {i.id for i in state.incidents if i.state == "open" and now - i.last_at > quiet_s}
    over = max(0, len(state.incidents) - keep)
    if not due and not over:
        return state, ()
    closed = tuple(
        replace(i, state="resolved", resolved_at=now) if i.id in due else i for i in state.incidents
    )
    old = sorted((i for i in closed if i.state == "resolved"), key=lambda i: i.last_at)[:over]
    gone = {i.id for i in old}
    changes = tuple(Change("resolved", i) for i in closed if i.id in due)
    return replace(state, incidents=tuple(i for i in closed if i.id not in gone)), changes


def _forgotten(state: State, now: float) -> State:
    """Bound what is remembered of nodes, workers and runs that are long gone."""
    used = (e for i in state.incidents if i.state == "open" for e in i.entities)
    was = Memory(state.drains, state.ends, state.links, state.sizes)
    kept = bounded_memory(was, used, now)
    same = all(a is b for a, b in zip(was, kept, strict=True))
    return state if same else replace(state, **kept._asdict())


def correlate_all(
    state: State,
    facts: Iterable[Fact],
    findings: Iterable[Finding],
    classes: Mapping[str, FailureClass],
    *,
    undated_may_open: bool = True,
) -> tuple[State, tuple[Change, ...]]:
    """Put facts and findings in, in the order of their times; what has no time comes last."""
    findings = tuple(findings)
    facts = tuple(facts)
    known: tuple[Fact | Finding, ...] = (*facts, *findings)
    for item in known:  # the whole story is here: know first who belongs to whom
        state = _linked(state, item.entities)
    dated: list[Fact | Finding] = [*facts, *(f for f in findings if f.dated)]
    changes: list[Change] = []
    for item in sorted(dated, key=lambda i: i.at):
        if isinstance(item, Fact):
            state = note(state, item)
        else:
            state, new = correlate(state, item, classes)
            changes += new
    for finding in (f for f in findings if not f.dated):
        state, new = correlate(state, finding, classes, may_open=undated_may_open)
        changes += new
    return state, tuple(changes)
