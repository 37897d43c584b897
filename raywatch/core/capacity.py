"""Who waits for machines, what was asked of the cloud, what came, and why the rest did not.

A fold over what Ray's APIs say (the autoscaler's report, placement groups, actors) and over findings of the autoscaler's
own log. The report says that a launch failed and seldom why; the cloud's words stand in the log.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from raywatch.bundles import Bundle, bundles_in
from raywatch.model import Finding
from raywatch.observations import (
    ActorSeen,
    AutoscalerSeen,
    Demanded,
    GroupSeen,
    GroupsSeen,
    NodeSeen,
    Observation,
    SessionSeen,
)

FLICKER_S = 30.0  # a demand that is not reported for less did not cease: its task was offered to a node meanwhile
FAILURE_S = 600.0  # a launch that failed longer ago does not explain why nothing comes now
INFEASIBLE_S = 120.0  # v1 says it every 30 s, v2 every round, as long as it holds
SAME_S = 5.0  # one failure is written into several lines
MAX_ACTORS, MAX_WORDS = 1000, 500
CAPACITY, LAUNCH = "capacity_unavailable", "node_launch_failed"
Shape: TypeAlias = tuple[str, tuple[tuple[Bundle, int], ...], str]  # kind, bundles, strategy
AUTOSCALERS_OWN = frozenset(["monitor", "event"])
_WAITS = frozenset(["DEPENDENCIES_UNREADY", "PENDING_CREATION"])
BY_HAND = re.compile(r"node_[0-9a-f]{56}")  # the type of a node that no autoscaler started
_OF_TYPE = re.compile(
    r"of type (?P<type>[\w-]{1,100}(?:\.[\w-]{1,100}){0,4})(?P<words>.*)", re.DOTALL
)
_CODED = re.compile(r"\((?P<code>[A-Za-z][\w.]{2,80})\):? *(?P<words>.*)", re.DOTALL)
_REQUEST_ID = re.compile(r" with request id [0-9a-f-]{1,60}:")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A demand that waits at least since `since` (unix seconds). `who`: names or ids, where they are known.

    `lost_at`: since when it is not reported any more; then it soon ceases.
    """

    demand: Demanded
    since: float
    lost_at: float | None = None
    infeasible: bool = False
    who: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """Launches of a node type that failed, in the cloud's words. `class_id` is empty where only the report says so."""

    node_type: str
    class_id: str
    code: str
    words: str
    first_at: float
    last_at: float


@dataclass(frozen=True, slots=True)
class Pending:
    """An actor that has no process yet."""

    class_name: str
    job_id: str
    since: float


@dataclass(frozen=True, slots=True)
class Capacity:
    """All of it, as far as it is known. Every news makes a new one; what changes nothing returns it as it is."""

    report: AutoscalerSeen | None = None
    groups: tuple[GroupSeen, ...] | None = None  # None: that list was not read
    waiting: Mapping[Shape, Waiting] = field(default_factory=dict)
    failures: Mapping[str, Failure] = field(default_factory=dict)  # by node type, "": not named
    actors: Mapping[str, Pending] = field(default_factory=dict)
    infeasible: Mapping[Bundle, float] = field(default_factory=dict)  # when that was said last
    nodes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # totals of living ones
    trouble: tuple[str, float] | None = None  # what its log says of its own failures, and when
    due_at: float = float("inf")  # when something of this is over by itself
    session: str = ""

    @property
    def autoscaler(self) -> str:
        """Return how the autoscaler stands: unknown, none (nothing starts nodes here), failed, silent or runs."""
        report = self.report
        if report is None or not report.reports:
            return "unknown"
        if report.error:
            return "failed"
        if report.silent:
            return "silent"
        types = {name for name, _ in (*report.active, *report.idle)}
        by_hand = bool(types) and all(map(BY_HAND.fullmatch, types))
        return "none" if by_hand and not report.pending and not report.failed else "runs"


# --- what APIs say -------------------------------------------------------------------------------


def learned(capacity: Capacity, seen: Iterable[Observation], now: float) -> Capacity:
    """Take in what APIs say, in its order."""
    actors: dict[str, Pending] | None = None
    seen = list(seen)
    capacity = _with_nodes(capacity, seen)
    for item in seen:
        match item:
            case ActorSeen():
                known = capacity.actors if actors is None else actors
                if (item.state in _WAITS) != (item.actor_id in known):
                    actors = dict(known) if actors is None else actors
                    _note_actor(actors, item)
            case AutoscalerSeen():
                capacity = _demanded(replace(capacity, report=item), now)
            case GroupsSeen():
                capacity = _demanded(replace(capacity, groups=item.waiting), now)
            case SessionSeen() if item.session != capacity.session:
                if capacity.session:
                    capacity, actors = _begun_anew(capacity, now), {}
                capacity = replace(capacity, session=item.session)
            case _:
                pass
    if actors is not None:
        capacity = replace(capacity, actors=actors)
    return _demanded(capacity, now) if now >= capacity.due_at else capacity


def _with_nodes(capacity: Capacity, seen: Iterable[Observation]) -> Capacity:
    rows = [s for s in seen if isinstance(s, NodeSeen)]
    if not rows:
        return capacity
    nodes = dict(capacity.nodes)
    for row in rows:
        if row.state != "ALIVE":
            nodes.pop(row.node_id, None)
        elif row.resources:  # a pushed event names none
            nodes[row.node_id] = row.resources
    return replace(capacity, nodes=nodes)


def _is_there(requests: Iterable[Demanded], nodes: Mapping[str, Mapping[str, float]]) -> bool:
    """Say whether all that request_resources() asks for fits into what the nodes have: then nobody waits for it.

    It asks for a size of the cluster, whoever uses it; Ray reports it as long as it is asked for. First fit: what could
    be packed better counts as not there.
    """
    free = [dict(n) for n in nodes.values()]
    for demand in requests:
        for bundle, times in demand.bundles:
            left = times * demand.count
            for node in free:
                fits = [int(node.get(name, 0.0) / amount) for name, amount in bundle if amount > 0]
                taken = min([left, *fits])
                for name, amount in bundle:
                    node[name] = node.get(name, 0.0) - taken * amount
                left -= taken
                if not left:
                    break
            if left:
                return False
    return True


def _begun_anew(capacity: Capacity, now: float) -> Capacity:
    """Forget what was of another session. The last answers stay: one that is the same in the new one is not told again."""
    return _demanded(Capacity(report=capacity.report, groups=capacity.groups), now)


def _note_actor(actors: dict[str, Pending], seen: ActorSeen) -> None:
    if seen.state not in _WAITS:
        actors.pop(seen.actor_id, None)
    elif len(actors) < MAX_ACTORS:
        actors[seen.actor_id] = Pending(seen.class_name, seen.job_id, seen.at)


def _demanded(capacity: Capacity, now: float) -> Capacity:
    """Bring up to date who waits: since when it did, and what was not told any more for a while does not."""
    told: dict[Shape, Waiting] = {}
    reported = capacity.report.demands if capacity.report else ()
    requests = [d for d in reported if d.kind == "request"]
    is_met = bool(requests and capacity.nodes) and _is_there(requests, capacity.nodes)
    for demand in reported:
        if is_met and demand.kind == "request":
            continue
        if demand.kind != "group" or capacity.groups is None:
            _add(told, demand, now)
    for group in capacity.groups or ():
        _add(told, Demanded("group", group.bundles, 1), now, group)
    lost = {
        k: replace(w, lost_at=now if w.lost_at is None else w.lost_at)
        for k, w in capacity.waiting.items()
        if k not in told and k[0] != "group" and not (is_met and k[0] == "request")
    }
    flickering = {k: w for k, w in lost.items() if now - (w.lost_at or now) < FLICKER_S}
    fresh = {k: at for k, at in capacity.infeasible.items() if now - at < INFEASIBLE_S}
    failures = {k: f for k, f in capacity.failures.items() if now - f.last_at < FAILURE_S}
    trouble = (
        capacity.trouble if capacity.trouble and now - capacity.trouble[1] < FAILURE_S else None
    )
    ends = [(w.lost_at or now) + FLICKER_S for w in flickering.values()]
    ends += [at + INFEASIBLE_S for at in fresh.values()]
    ends += [f.last_at + FAILURE_S for f in failures.values()]
    ends += [trouble[1] + FAILURE_S] if trouble else []
    waiting = {
        k: _known(w, capacity.waiting.get(k), fresh) for k, w in {**flickering, **told}.items()
    }
    return replace(
        capacity,
        waiting=waiting,
        infeasible=fresh,
        failures=failures,
        trouble=trouble,
        due_at=min(ends, default=float("inf")),
    )


def _add(
    told: dict[Shape, Waiting], demand: Demanded, now: float, group: GroupSeen | None = None
) -> None:
    shape = (demand.kind, demand.bundles, demand.strategy)
    since = now if group is None or group.since is None else group.since
    who = () if group is None else (group.name or group.group_id,)
    known = told.get(shape)
    if known is None:
        told[shape] = Waiting(demand, since, who=who)
    else:
        count = known.demand.count + demand.count
        demand = replace(demand, count=count)
        told[shape] = Waiting(demand, min(since, known.since), who=(*known.who, *who))


def _known(new: Waiting, old: Waiting | None, infeasible: Mapping[Bundle, float]) -> Waiting:
    since = new.since if old is None else min(new.since, old.since)
    never = any(bundle in infeasible for bundle, _ in new.demand.bundles)
    return replace(new, since=since, infeasible=never)


# --- what the autoscaler's log says --------------------------------------------------------------


def heard(capacity: Capacity, findings: Iterable[Finding], now: float) -> Capacity:
    """Take in findings: launches that failed, demands that nothing can satisfy, an autoscaler in trouble."""
    before = capacity
    for finding in findings:
        if finding.evidence.component not in AUTOSCALERS_OWN or now - finding.at >= FAILURE_S:
            continue
        match finding.class_id:
            case class_id if class_id in (CAPACITY, LAUNCH):
                capacity = replace(capacity, failures=with_failure(capacity.failures, finding))
            case "resources_infeasible":
                named = [b for b, _ in bundles_in(_text(finding))]
                said = {**capacity.infeasible, **dict.fromkeys(named, finding.at)}
                capacity = replace(capacity, infeasible=said)
            case "autoscaler_crash":
                words = _text(finding).strip()[:MAX_WORDS]
                capacity = replace(capacity, trouble=(words, finding.at))
            case _:
                pass
    return capacity if capacity is before else _demanded(capacity, now)


def _text(finding: Finding) -> str:
    """Return what a line says: of an event file its message."""
    text = finding.evidence.text
    if text.startswith("{"):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return text
        return str(found.get("message", "")) if isinstance(found, dict) else text
    return text


def with_failure(failures: Mapping[str, Failure], finding: Finding) -> Mapping[str, Failure]:
    """Return the failed launches by node type with the one that a finding tells; several lines may tell it."""
    text = _text(finding)
    typed = _OF_TYPE.search(text)
    node_type = typed["type"] if typed else finding.fields.get("node_type", "")
    words = _REQUEST_ID.sub("", typed["words"]) if typed else text
    coded = _CODED.search(words)
    code = coded["code"] if coded else finding.fields.get("code", "")
    words = (coded["words"] if coded else words).strip(" .:\n")
    if not node_type:  # a traceback of its own record, right behind the line that names the type
        near = [f for f in failures.values() if abs(f.last_at - finding.at) <= SAME_S]
        node_type = max(near, key=lambda f: f.last_at).node_type if near else ""
        words = words.splitlines()[-1].strip() if words else ""
    new = Failure(node_type, finding.class_id, code, words[:MAX_WORDS], finding.at, finding.at)
    known = failures.get(node_type)
    return {**failures, node_type: _joined(known, new) if known else new}


def _joined(known: Failure, new: Failure) -> Failure:
    """Return the newest failure of a type with the best that its copies say."""
    first_at, last_at = min(known.first_at, new.first_at), max(known.last_at, new.last_at)
    one = abs(new.last_at - known.last_at) <= SAME_S
    best = known if one and (known.code, known.words) > (new.code, new.words) else new
    better = one and CAPACITY in (known.class_id, new.class_id)
    class_id = CAPACITY if better else best.class_id
    return replace(best, class_id=class_id, first_at=first_at, last_at=last_at)
