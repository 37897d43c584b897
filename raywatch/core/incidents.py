"""Findings -> incidents: group what has one root cause, name it, explain its symptoms.

(State, finding) -> (State, changes). Root before symptom: what may name an incident is ordered by role, then trust,
then breadth of scope; between equals the earlier wins.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from raywatch.core.board import Board
from raywatch.core.bounds import Memory, bounded_memory
from raywatch.core.classify import standing
from raywatch.core.drains import drains_with, proof_of, taken
from raywatch.core.kinship import (
    BINDING,
    EARLY_S,
    WINDOW_S,
    belongs,
    closest,
    heard_of,
    is_explained,
    is_near,
    is_old,
)
from raywatch.core.merging import counts_with, joined, kept, named
from raywatch.core.templates import Template, apart, grouped
from raywatch.model import (
    Change,
    Drain,
    Entity,
    Fact,
    FailureClass,
    Finding,
    Incident,
    Subject,
    Trust,
)

MAX_WAITING = 64
MAX_SIZES = 32
_BREADTH = {"cluster": 3, "node": 2}  # what is wider explains more
_EARLY = frozenset(["node_unhealthy", "preemption_notice"])  # signs of an end, not reasons of one


@dataclass(frozen=True, slots=True)
class State:
    """All that correlation remembers."""

    incidents: tuple[Incident, ...] = ()
    drains: Mapping[str, Drain] = field(default_factory=dict)
    ends: Mapping[str, Finding] = field(default_factory=dict)  # planned ends of nodes, by node id
    links: Mapping[Entity, frozenset[Entity]] = field(default_factory=dict)
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # run -> world sizes
    waiting: tuple[Finding, ...] = ()  # warnings that no incident explains yet
    unknown: tuple[Template, ...] = ()  # what looks like an error and no signature explains


def note(state: State, fact: Fact) -> State:
    """Remember what a fact says about drains, world sizes and who belongs to whom."""
    state = _linked(state, fact.entities)
    if fact.kind == "drain":
        drains = drains_with(state.drains, fact)
        return state if drains is state.drains else replace(state, drains=drains)
    if fact.kind == "group_started" and fact.fields.get("size", "").isdigit():
        return _sized(state, fact.fields.get("run_name", ""), int(fact.fields["size"]))
    return state


def _sized(state: State, run: str, size: int) -> State:
    sizes = state.sizes.get(run, ())
    if sizes[-1:] == (size,):
        return state
    state = replace(state, sizes={**state.sizes, run: (*sizes, size)[-MAX_SIZES:]})
    if not any(Entity("run", run) in i.entities for i in state.incidents):
        return state
    hurt = tuple(
        replace(i, world_sizes=state.sizes[run][-8:]) if Entity("run", run) in i.entities else i
        for i in state.incidents
    )
    return replace(state, incidents=hurt)


def _linked(state: State, *named: frozenset[Entity]) -> State:
    """Join who is named together: a worker with its job, run, actor and pid; a node with the runs it hosts."""
    changed: dict[Entity, frozenset[Entity]] = {}
    for entities in named:
        anchors = [e for e in entities if e.kind in ("worker", "actor", "submission")]
        others = frozenset(e for e in entities if e.kind in BINDING) if anchors else entities
        runs = frozenset(e for e in entities if e.kind == "run")
        nodes = [e for e in entities if e.kind == "node"] if runs else []
        for anchor, more in (*((a, others - {a}) for a in anchors), *((n, runs) for n in nodes)):
            known = changed.get(anchor, state.links.get(anchor))
            if known is None or not more <= known:
                changed[anchor] = more | (known or frozenset())
    return replace(state, links={**state.links, **changed}) if changed else state


def _expanded(state: State, entities: frozenset[Entity]) -> frozenset[Entity]:
    return entities.union(*(state.links.get(e, frozenset()) for e in entities if e.kind != "node"))


def correlate(
    state: State, finding: Finding, classes: Mapping[str, FailureClass], *, may_open: bool = True
) -> tuple[State, tuple[Change, ...]]:
    """Put a finding where it belongs. `may_open` False: it can only be evidence (it has no time).

    Same input, same output.
    """
    return _put(state, Board(state.incidents), finding, classes, may_open=may_open)


def _put(
    state: State,
    board: Board,
    finding: Finding,
    classes: Mapping[str, FailureClass],
    *,
    may_open: bool = True,
) -> tuple[State, tuple[Change, ...]]:
    """Do so; `board` holds the state's incidents, before as after."""
    if is_old(state.incidents, finding):
        return state, ()
    state = _linked(state, finding.entities)
    entities = _expanded(state, finding.entities)
    if entities != finding.entities:
        finding = replace(finding, entities=entities)
    finding = taken(state.drains, finding)
    role = classes[finding.class_id].role
    if role == "benign":
        return state, ()
    kin = board.related(state.links, finding, classes)
    incident = closest(kin, finding)
    if incident is not None:
        state, changes = _attach(state, board, incident, finding, classes)
        is_root = role == "root" and not finding.aside
        others = [i for i in kin if i is not incident and is_root]
        return _absorb(state, board, changes, others, classes)
    if finding.class_id == "node_terminated_expected":
        return replace(state, ends={**state.ends, finding.subject.node: finding}), ()
    if (role == "warning" or finding.aside) and finding.dated:
        return _waits(state, finding), ()
    if role == "warning" or finding.aside or not may_open:
        return state, ()
    return _open(state, board, finding, classes)


def _waits(state: State, finding: Finding) -> State:
    """Keep a warning for an incident that explains it. Of asides, which may be many, the newest about each subject."""
    others = state.waiting
    if finding.aside:
        about = (finding.class_id, finding.subject)
        others = tuple(w for w in others if not w.aside or (w.class_id, w.subject) != about)
    return replace(state, waiting=(*others[-MAX_WAITING + 1 :], finding))


def _rank(class_id: str, trust: Trust, classes: Mapping[str, FailureClass]) -> tuple[int, int, int]:
    failure = classes[class_id]
    return standing(failure.role, trust), int(trust), _BREADTH.get(failure.scope, 1)


def _attach(
    state: State,
    board: Board,
    incident: Incident,
    finding: Finding,
    classes: Mapping[str, FailureClass],
) -> tuple[State, tuple[Change, ...]]:
    better = not finding.aside and _rank(finding.class_id, finding.trust, classes) > _rank(
        incident.class_id, incident.trust, classes
    )
    findings, explains = counts_with(incident, finding, better=better)
    grown = replace(
        incident,
        first_at=min(incident.first_at, finding.at) if finding.dated else incident.first_at,
        last_at=max(incident.last_at, finding.at) if finding.dated else incident.last_at,
        evidence=kept(incident.evidence, finding.evidence),
        entities=named(incident.entities, finding.entities),
        heard=incident.heard if finding.aside else heard_of(incident.heard, finding),
        acts=incident.acts or finding.acts,
        fields={**finding.fields, **incident.fields},
        findings=findings,
        explains=explains,
    )
    if better:
        grown = _renamed(state, grown, finding)
    grown = _with_sizes(state, _with_culprit(state, _with_restart(grown, finding), finding))
    grown = _settled(grown, finding)
    board.put(grown)
    changed = grown.class_id != incident.class_id
    change = Change("reclassified" if changed else "extended", grown, finding)
    return replace(state, incidents=board.all()), (change,)


def _absorb(
    state: State,
    board: Board,
    changes: tuple[Change, ...],
    others: Iterable[Incident],
    classes: Mapping[str, FailureClass],
) -> tuple[State, tuple[Change, ...]]:
    """The end of a node or of the cluster explains every incident of which only a symptom was known."""
    keeper, finding = changes[-1].incident, changes[-1].finding
    symptoms = [
        i
        for i in others
        if finding is not None
        and classes[i.class_id].role == "symptom"
        and is_explained(state.links, i, finding)
    ]
    if not symptoms:
        return state, changes
    for other in symptoms:
        keeper = joined(keeper, other)
    board.put(keeper)
    board.drop(i.id for i in symptoms)
    merged = Change("merged", keeper, finding)
    return replace(state, incidents=board.all()), (*changes, merged)


def _settled(incident: Incident, finding: Finding) -> Incident:
    """A death reason that Ray recorded for the subject needs no waiting for a better one."""
    if incident.settled_at is not None or finding.trust < Trust.RAY:
        return incident
    if finding.aside or finding.class_id in _EARLY:
        return incident
    return replace(incident, settled_at=finding.at)


def _renamed(state: State, incident: Incident, finding: Finding) -> Incident:
    return replace(
        incident,
        class_id=finding.class_id,
        subject=finding.subject,
        trust=finding.trust,
        confidence=finding.confidence,
        root=proof_of(state.drains, finding),
        evidence=kept(incident.evidence, proof_of(state.drains, finding)),
        fields={**incident.fields, **finding.fields},
        explains=tuple(e for e in incident.explains if e[0] != finding.class_id),
    )


def _with_restart(incident: Incident, finding: Finding) -> Incident:
    if not finding.dated or not finding.acts:  # a copy without a time cannot say what came last
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
    if not state.sizes:
        return incident
    runs = [e.id for e in incident.entities if e.kind == "run"]
    sizes = state.sizes.get(runs[0], ()) if len(runs) == 1 else ()
    return replace(incident, world_sizes=sizes[-8:]) if len(sizes) > 1 else incident


def _open(
    state: State, board: Board, finding: Finding, classes: Mapping[str, FailureClass]
) -> tuple[State, tuple[Change, ...]]:
    end = _planned_end(state, finding)
    first = end or finding
    incident = Incident(
        id=_incident_id(first, board),
        class_id=first.class_id,
        subject=first.subject,
        trust=first.trust,
        confidence=first.confidence,
        state="open",
        first_at=first.at,
        last_at=first.at,
        root=proof_of(state.drains, first),
        fields=first.fields,
        evidence=tuple(dict.fromkeys((proof_of(state.drains, first), first.evidence))),
        entities=first.entities,
        heard=heard_of({}, first),
        acts=first.acts,
    )
    incident = _settled(_with_culprit(state, _with_restart(incident, first), first), first)
    board.put(incident)
    state = replace(state, incidents=board.all())
    changes = [Change("opened", incident, first)]
    earlier = [w for w in state.waiting if is_near(incident, w) and belongs(incident, w, "warning")]
    state = replace(state, waiting=tuple(w for w in state.waiting if w not in earlier))
    for more in (*earlier, *((finding,) if end else ())):
        state, new = _attach(state, board, changes[-1].incident, more, classes)
        changes += new
    return state, tuple(changes)


def _planned_end(state: State, finding: Finding) -> Finding | None:
    """A planned end of a node becomes an incident only once something live died with it, or was taken as is known by now."""
    nodes = {e.id for e in finding.entities if e.kind == "node"} | {finding.subject.node}
    ends = [state.ends[n] for n in nodes if n in state.ends]
    end = next((e for e in ends if -EARLY_S <= finding.at - e.at <= WINDOW_S), None)
    return taken(state.drains, end) if end is not None else None


def _incident_id(finding: Finding, board: Board) -> str:
    """Return an id that nobody has: a record of several classes may open several incidents about one subject."""
    text = f"{finding.evidence.file}|{finding.evidence.offset}|{finding.subject.id}|{finding.at}"
    while (number := "i" + hashlib.sha256(text.encode()).hexdigest()[:11]) in board:
        text += "|"
    return number


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
    changes: list[Change] = []
    last = state
    for after, new in _steps(state, facts, findings, classes, undated_may_open=undated_may_open):
        last = after
        changes += new
    return last, tuple(changes)


def correlated(
    facts: Iterable[Fact],
    findings: Iterable[Finding],
    classes: Mapping[str, FailureClass],
    *,
    undated_may_open: bool = True,
) -> State:
    """Return the end of the same, from nothing: each change holds an incident as it was, which for archives is a lot."""
    steps = _steps(State(), facts, findings, classes, undated_may_open=undated_may_open)
    return deque(steps, maxlen=1)[0][0]


def _steps(
    state: State,
    facts: Iterable[Fact],
    findings: Iterable[Finding],
    classes: Mapping[str, FailureClass],
    *,
    undated_may_open: bool,
) -> Iterator[tuple[State, tuple[Change, ...]]]:
    findings, unknown = apart(findings)
    if unknown:
        state = replace(state, unknown=grouped(state.unknown, unknown))
    facts = tuple(facts)
    known: tuple[Fact | Finding, ...] = (*facts, *findings)
    # The whole story is here: know first who belongs to whom. Most say it again and again.
    state = _linked(state, *dict.fromkeys(item.entities for item in known))
    board = Board(state.incidents)
    dated: list[Fact | Finding] = [*facts, *(f for f in findings if f.dated)]
    yield state, ()
    for item in sorted(dated, key=lambda i: i.at):
        if isinstance(item, Fact):
            before = state.incidents
            state = note(state, item)
            if state.incidents is not before:
                board = Board(state.incidents)
            yield state, ()
        else:
            state, new = _put(state, board, item, classes)
            yield state, new
    for finding in (f for f in findings if not f.dated):
        state, new = _put(state, board, finding, classes, may_open=undated_may_open)
        yield state, new
