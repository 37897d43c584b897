"""Capacity -> plain JSON values, and one sentence that answers "why do I not get my nodes?"."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

from raywatch.bundles import spoken
from raywatch.core.capacity import BY_HAND, CAPACITY, LAUNCH, Capacity, Failure, Waiting
from raywatch.core.view import rfc3339
from raywatch.observations import Demanded

MAX_SHOWN, MAX_NAMES = 200, 5
_NOTHING = "Nothing waits for machines"
_KINDS = {
    "work": "task or actor",
    "group": "placement group",
    "request": "request_resources() bundle",
}


class BundleJson(TypedDict):
    """Resources, and how many such bundles."""

    resources: dict[str, float]
    count: int


class DemandJson(TypedDict):
    """Work that waits. `words` say what it asks for, `who` names or ids of placement groups."""

    kind: str
    count: int
    bundles: list[BundleJson]
    words: str
    since: str | None
    infeasible: bool
    who: list[str]


class NodesJson(TypedDict):
    """A node type ("": started by hand): what came (active, idle), what was asked for (pending, by how far it is), what was lost."""

    type: str
    active: int
    idle: int
    pending: dict[str, int]
    ended: int


FailureJson = TypedDict(
    "FailureJson",
    {
        "type": str,
        "class": str,
        "code": str,
        "words": str,
        "first_at": str | None,
        "last_at": str | None,
    },
)


class ActorsJson(TypedDict):
    """Actors of a class and job that have no process yet."""

    class_name: str
    job: str
    count: int
    since: str | None


class CapacityJson(TypedDict):
    """All that is known about machines that work waits for. autoscaler: unknown | none | runs | silent | failed."""

    why: str
    autoscaler: str
    demands: list[DemandJson]
    nodes: list[NodesJson]
    failures: list[FailureJson]
    actors: list[ActorsJson]
    error: str


def capacity_json(capacity: Capacity) -> CapacityJson:
    """Show it as the API does."""
    report = capacity.report
    ordered = sorted(capacity.waiting.values(), key=lambda w: w.since)
    return {
        "why": why(capacity),
        "autoscaler": capacity.autoscaler,
        "demands": [_demand(w) for w in ordered[:MAX_SHOWN]],
        "nodes": list(_nodes(capacity)),
        "failures": [_failure(f) for f in failures_of(capacity)][:MAX_SHOWN],
        "actors": _actors(capacity),
        "error": report.error if report else "",
    }


def _demand(waiting: Waiting) -> DemandJson:
    demand = waiting.demand
    return {
        "kind": demand.kind,
        "count": demand.count,
        "bundles": [{"resources": dict(b), "count": n} for b, n in demand.bundles],
        "words": asked(demand),
        "since": rfc3339(waiting.since),
        "infeasible": waiting.infeasible,
        "who": list(waiting.who[:MAX_NAMES]),
    }


def _nodes(capacity: Capacity) -> Iterator[NodesJson]:
    report = capacity.report
    if report is None:
        return
    active, idle, ended = (_by_type(t) for t in (report.active, report.idle, report.ended))
    types = dict.fromkeys((*active, *idle, *(p[0] for p in report.pending), *ended))
    for name in list(types)[:MAX_SHOWN]:
        yield {
            "type": name,
            "active": active.get(name, 0),
            "idle": idle.get(name, 0),
            "pending": {how: count for kind, how, count in report.pending if kind == name},
            "ended": ended.get(name, 0),
        }


def _by_type(nodes: tuple[tuple[str, int], ...]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, count in nodes:
        name = "" if BY_HAND.fullmatch(name) else name  # noqa: PLW2901 - each is a type of its own there
        counts[name] = counts.get(name, 0) + count
    return counts


def failures_of(capacity: Capacity) -> list[Failure]:
    """Return the launches that failed lately, the newest first; those last of which only the report speaks."""
    known = sorted(capacity.failures.values(), key=lambda f: f.last_at, reverse=True)
    told = capacity.report.failed if capacity.report else ()
    more = [Failure(t, "", c, "", 0.0, 0.0) for t, c in told if t not in capacity.failures]
    return known + more


def _failure(failure: Failure) -> FailureJson:
    return {
        "type": failure.node_type,
        "class": failure.class_id,
        "code": failure.code,
        "words": failure.words,
        "first_at": rfc3339(failure.first_at) if failure.first_at else None,
        "last_at": rfc3339(failure.last_at) if failure.last_at else None,
    }


def _actors(capacity: Capacity) -> list[ActorsJson]:
    rows: dict[tuple[str, str], tuple[int, float]] = {}
    for actor in capacity.actors.values():
        count, since = rows.get((actor.class_name, actor.job_id), (0, actor.since))
        rows[actor.class_name, actor.job_id] = count + 1, min(since, actor.since)
    ordered = sorted(rows.items(), key=lambda row: row[1][1])[:MAX_SHOWN]
    return [
        {"class_name": name, "job": job, "count": count, "since": rfc3339(since)}
        for (name, job), (count, since) in ordered
    ]


# --- in words ------------------------------------------------------------------------------------


def asked(demand: Demanded) -> str:
    """Say what a demand asks for: 2 x (8 CPU) + 1 GPU."""
    return " + ".join(f"{n} x ({spoken(b)})" if n > 1 else spoken(b) for b, n in demand.bundles)


def why(capacity: Capacity) -> str:
    """Answer "why do I not get my nodes?" in one sentence. It holds no age, so that it stays as it is while nothing changes."""
    waiting = sorted(capacity.waiting.values(), key=lambda w: (not w.infeasible, w.since))
    if not waiting:
        coming = _coming(capacity)
        return f"{_NOTHING}{'; ' + coming if coming else ''}."
    others = len(waiting) - 1
    more = f", and {others} other demand{'s wait' if others > 1 else ' waits'}" if others else ""
    reasons = "; ".join(filter(None, _reasons(capacity, waiting)))
    return f"{_counted(waiting[0].demand)}{more}: {reasons}."


def _counted(demand: Demanded) -> str:
    kind = _KINDS.get(demand.kind, demand.kind)
    plural = "" if demand.count == 1 else "s"
    verb = "waits" if demand.count == 1 else "wait"
    kinds = f"{kind}{plural}".replace("task or actors", "tasks or actors")
    return f"{demand.count} {kinds} {verb} for {asked(demand) or 'resources'}"


def _reasons(capacity: Capacity, waiting: list[Waiting]) -> Iterator[str]:
    never = [asked(w.demand) for w in waiting if w.infeasible]
    yield _standing(capacity)
    if capacity.autoscaler == "none" and never:
        yield f"no node that is here is large enough for {never[0]}"
    if capacity.autoscaler not in ("runs", "silent"):
        return
    if never:
        yield f"no node type that the autoscaler may start can ever satisfy {never[0]}"
    if len(never) < len(waiting):
        yield from _on_the_way(capacity)


def _standing(capacity: Capacity) -> str:
    """Say how the autoscaler stands, nothing where it works."""
    match capacity.autoscaler:
        case "unknown":
            return "Ray has not told yet whether an autoscaler runs"
        case "none":
            return "no autoscaler runs, so that no node will be started for it"
        case "failed":
            error = capacity.report.error if capacity.report else ""
            return f"the autoscaler ended, so that nothing is started ({_last_line(error)})"
        case "silent":
            return "the autoscaler has not reported for more than a minute: its process may be gone"
        case _ if capacity.trouble:
            return f"the autoscaler itself is in trouble ({_last_line(capacity.trouble[0])})"
        case _:
            return ""


def _on_the_way(capacity: Capacity) -> Iterator[str]:
    """Say what was asked of the cloud for those who wait, and what it answered."""
    refused, coming = [_refused(f) for f in failures_of(capacity)], _coming(capacity)
    yield from refused[:3]
    if coming and not refused:
        yield coming
    if not coming and not refused and capacity.autoscaler == "runs":
        yield (
            "the autoscaler asks for no more nodes: what runs must end first, or its limits"
            " (max_workers) are reached"
        )


def _refused(failure: Failure) -> str:
    name = failure.node_type or "nodes"
    told = ": ".join(filter(None, (failure.code, failure.words)))
    if failure.class_id == CAPACITY:
        return f"the cloud has no capacity or quota for {name} ({told or 'it does not say more'})"
    if failure.class_id == LAUNCH or told:
        return f"{name} could not be launched ({told or 'no reason is logged'})"
    return f"{name} could not be launched"


def _coming(capacity: Capacity) -> str:
    pending = capacity.report.pending if capacity.report else ()
    named = ", ".join(f"{count} {name} ({how})" for name, how, count in pending[:3])
    return f"asked of the cloud and not here yet: {named}" if pending else ""


def _last_line(text: str) -> str:
    rows = [r.strip() for r in text.splitlines() if r.strip()]
    return rows[-1][:300] if rows else "it does not say why"
