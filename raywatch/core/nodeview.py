"""The nodes of the cluster: which there are, how each stands, what it hosts and what is open about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias, TypedDict, get_args

from raywatch.core.lineage import Runs
from raywatch.core.newest import newest_node
from raywatch.core.standing import current_job
from raywatch.core.view import rfc3339
from raywatch.model import OVER, Drain, Incident, Run
from raywatch.observations import NodeSeen

KEPT_S = 3600.0  # that a node is shown after its end
MAX_DEAD, MAX_NODES = 1000, 10_000
NEAR_S = 300.0  # a node's end and an incident that names it are one story; a cloud gives notice two minutes ahead
NodeState: TypeAlias = Literal["alive", "draining", "dead"]
_ACCELERATOR = "accelerator_type:"  # Ray's own resource
# Who names what: Ray itself, Karpenter, EKS and GKE; Kubernetes for the instance.
_MARKET = (
    "ray.io/market-type",
    "karpenter.sh/capacity-type",
    "eks.amazonaws.com/capacityType",
    "cloud.google.com/gke-spot",
)
_INSTANCE = ("node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type")
_GROUP = ("ray.io/node-group", "ray.io/group")


@dataclass(frozen=True, slots=True)
class Known:
    """A node, the session that it is of, and when it ended."""

    seen: NodeSeen
    session: str
    ended_at: float | None = None


class HostedJson(TypedDict):
    """What a run has on a node: its driver, ranks."""

    id: str
    name: str
    ranks: list[int]
    driver: bool


class NodeJson(TypedDict):
    """A node as the API shows it. state: alive | draining | dead; `words` says it to a person.

    `incident` is the one that its end belongs to, `incidents` those that are open. `reads_logs`: by this daemon.
    """

    id: str
    ip: str
    name: str
    is_head: bool
    session: str
    state: str
    words: str
    reason: str
    deadline_at: str | None
    started_at: str | None
    ended_at: str | None
    resources: dict[str, float]
    accelerator: str
    instance_type: str
    market: str
    group: str
    labels: dict[str, str]
    runs: list[HostedJson]
    incident: str
    incidents: list[str]
    reads_logs: bool


class Hosted(NamedTuple):
    """What a run has on one node."""

    run: str
    name: str
    ranks: tuple[int, ...]
    driver: bool


class Around(NamedTuple):
    """All of a node's row that is not its own: equal ones show the same."""

    hosted: tuple[Hosted, ...] = ()
    open: tuple[str, ...] = ()
    end: str = ""  # the incident that its end belongs to
    read: bool = False


# --- which nodes there are ------------------------------------------------------------------------


def learned(
    nodes: Mapping[str, Known], seen: Iterable[NodeSeen], session: str, now: float
) -> dict[str, Known]:
    """Return the nodes after rows of the API and of pushed events, which say less; the newer one of two holds."""
    found = dict(nodes)
    for row in seen:
        if row.node_id:
            known = found.get(row.node_id)
            newest = newest_node(known.seen, row, now) if known is not None else row
            found[row.node_id] = Known(newest, session, _end_of(newest))
    return found


def _end_of(seen: NodeSeen) -> float | None:
    return (seen.ended_at or seen.at) if seen.state == "DEAD" else None


def session_over(nodes: Mapping[str, Known], session: str, at: float) -> dict[str, Known]:
    """Return the nodes once Ray is in this session: those of an earlier one are gone, and nobody lists them.

    Those that were told before any session had a name are of this one.
    """
    named = {k: n if n.session else replace(n, session=session) for k, n in nodes.items()}
    return {k: n if n.session == session else _gone(n, at) for k, n in named.items()}


def _gone(node: Known, at: float) -> Known:
    if node.ended_at is not None:
        return node
    seen = replace(node.seen, state="DEAD", message=f"its session {node.session} is over")
    return replace(node, seen=seen, ended_at=at)


def forgotten(nodes: Mapping[str, Known], now: float) -> Mapping[str, Known]:
    """Return the nodes without those that ended long ago, and of too many the newest; `nodes` itself if that is all."""
    ended = sorted(
        ((n.ended_at, k) for k, n in nodes.items() if n.ended_at is not None), reverse=True
    )
    over = {k for i, (at, k) in enumerate(ended) if i >= MAX_DEAD or now - at > KEPT_S}
    left = [k for k in nodes if k not in over]
    over.update(left[: max(0, len(left) - MAX_NODES)])
    return {k: n for k, n in nodes.items() if k not in over} if over else nodes


# --- what is around them ---------------------------------------------------------------------------


def surroundings(
    nodes: Mapping[str, Known], incidents: Iterable[Incident], runs: Runs, read: frozenset[str]
) -> dict[str, Around]:
    """Return what each node hosts and what happened on it. `read`: the nodes whose logs this daemon reads."""
    told, hosted = _incidents_by_node(incidents), _hosted_by_node(nodes, runs)
    return {
        k: Around(
            tuple(hosted.get(k, ())),
            tuple(i.id for i in told.get(k, ()) if _is_open(i)),
            _end_incident(node, told.get(k, ())),
            k in read,
        )
        for k, node in nodes.items()
    }


def _is_open(incident: Incident) -> bool:
    return incident.state == "open" and not incident.restarted


def _incidents_by_node(incidents: Iterable[Incident]) -> dict[str, list[Incident]]:
    found: dict[str, list[Incident]] = {}
    for incident in incidents:
        names = {e.id for e in incident.entities if e.kind == "node"}
        subject = incident.subject
        names |= {subject.node} | ({subject.id} if subject.kind == "node" else set())
        for name in names - {""}:
            found.setdefault(name, []).append(incident)
    return found


def _end_incident(node: Known, told: Sequence[Incident]) -> str:
    """Return the incident of that time that a node's end belongs to: the newest about the node itself, else any."""
    if node.ended_at is None:
        return ""
    end, own = node.ended_at, node.seen.node_id
    near = [i for i in told if i.first_at - NEAR_S <= end <= i.last_at + NEAR_S]
    about = [i for i in near if i.subject.kind == "node" and own in (i.subject.id, i.subject.node)]
    return max(about or near, key=lambda i: i.first_at).id if about or near else ""


def _hosted_by_node(nodes: Mapping[str, Known], runs: Runs) -> dict[str, list[Hosted]]:
    found: dict[str, list[Hosted]] = {}
    ips = _by_ip(nodes)
    for run in runs.runs.values():
        if run.status in OVER:
            continue
        ranks: dict[str, list[int]] = {}
        for rank in run.ranks:
            ranks.setdefault(rank.node_id or ips.get(rank.ip, ""), []).append(rank.world_rank)
        driver = _driver_node(runs, run)
        for node in {*ranks, driver} - {""}:
            numbers = tuple(sorted(ranks.get(node, ())))
            found.setdefault(node, []).append(Hosted(run.id, run.name, numbers, node == driver))
    return found


def _driver_node(runs: Runs, run: Run) -> str:
    job = current_job(runs, run)
    return job.driver_node_id if job is not None else ""


def _by_ip(nodes: Mapping[str, Known]) -> dict[str, str]:
    """Return the living nodes by address, '' where several share one."""
    found: dict[str, str] = {}
    for key, node in nodes.items():
        if node.ended_at is None:
            found[node.seen.ip] = "" if node.seen.ip in found else key
    return found


# --- what is shown -----------------------------------------------------------------------------------


def state_of(node: Known, drain: Drain | None) -> NodeState:
    """Say how a node stands."""
    if node.ended_at is not None:
        return "dead"
    return "draining" if drain else "alive"


def by_state(nodes: Mapping[str, Known], drains: Mapping[str, Drain]) -> dict[str, int]:
    """Return how many nodes are in each state; nothing while none is known."""
    counts = dict.fromkeys(get_args(NodeState), 0) if nodes else {}
    for key, node in nodes.items():
        counts[state_of(node, drains.get(key))] += 1
    return counts


def node_json(node: Known, drain: Drain | None, around: Around) -> NodeJson:
    """Show a node. Nothing in it grows with time: ages and what is left of a deadline are the reader's."""
    seen, labels = node.seen, node.seen.labels
    state = state_of(node, drain)
    accelerator = next(
        (r.removeprefix(_ACCELERATOR) for r in seen.resources if _ACCELERATOR in r), ""
    )
    return {
        "id": seen.node_id,
        "ip": seen.ip,
        "name": seen.name,
        "is_head": seen.is_head,
        "session": node.session,
        "state": state,
        "words": _words(state, seen.message, drain),
        "reason": drain.reason if drain else "",
        "deadline_at": rfc3339(drain.deadline_at) if drain else None,
        "started_at": rfc3339(seen.started_at),
        "ended_at": rfc3339(node.ended_at),
        "resources": {k: v for k, v in seen.resources.items() if _ACCELERATOR not in k},
        "accelerator": accelerator or labels.get("ray.io/accelerator-type", ""),
        "instance_type": _label(labels, _INSTANCE),
        "market": _market(labels),
        "group": _label(labels, _GROUP),
        "labels": dict(labels),
        "runs": [
            {"id": h.run, "name": h.name, "ranks": list(h.ranks), "driver": h.driver}
            for h in around.hosted
        ],
        "incident": around.end,
        "incidents": list(around.open),
        "reads_logs": around.read,
    }


def _words(state: str, message: str, drain: Drain | None) -> str:
    """Say how a node stands."""
    told = f"{drain.reason}: {drain.message}".strip(": ") if drain else ""
    if state == "alive":
        return "alive"
    if state == "draining":
        return f"draining, {told or 'no reason given'}"
    taken = f"; it had been told to go, {told}" if told else ""
    return f"dead, {message.strip() or 'no reason recorded'}{taken}"


def _label(labels: Mapping[str, str], names: Sequence[str]) -> str:
    return next((labels[n] for n in names if labels.get(n)), "")


def _market(labels: Mapping[str, str]) -> str:
    said = _label(labels, _MARKET).lower()
    return "spot" if said == "true" else said.replace("_", "-")  # GKE: gke-spot=true
