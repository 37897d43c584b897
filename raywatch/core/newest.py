"""Two rows about the same thing, of the dashboard or of an event: the newer one holds, the other fills what it leaves out.

An event carries the time of what it tells; a row of the dashboard that of the question. An event names only what it is
about: no class, no address, and of an actor that is not placed no node. A row that is known from later than `now` is of
before the clock was set back: it holds no longer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from raywatch.observations import ActorSeen, JobSeen, NodeSeen

_Row = TypeVar("_Row", NodeSeen, ActorSeen, JobSeen)


def newest_node(known: NodeSeen, seen: NodeSeen, now: float) -> NodeSeen:
    """Return what is known of a node after one more row."""
    asked = ("ip", "name", "is_head", "started_at", "resources", "labels")
    return _filled(*_in_order(known, seen, now), *asked)


def newest_actor(known: ActorSeen, seen: ActorSeen, now: float) -> ActorSeen:
    """Return what is known of an actor after one more row. Where one that starts again will run is not known."""
    new, old = _in_order(known, seen, now)
    where = ("node_id", "pid") if new.state == "DEAD" else ()
    return _filled(new, old, "class_name", "job_id", "name", *where)


def newest_job(known: JobSeen, seen: JobSeen, now: float) -> JobSeen:
    """Return what is known of a job after one more row."""
    new, old = _in_order(known, seen, now)
    named = ("job_id", "entrypoint", "metadata", "runtime_env", "started_at", "driver_node_id")
    return _filled(new, old, *named)


def _in_order(known: _Row, seen: _Row, now: float) -> tuple[_Row, _Row]:
    return (known, seen) if seen.at < known.at <= now else (seen, known)


def _filled(new: _Row, old: _Row, *names: str) -> _Row:
    missing = {n: getattr(old, n) for n in names if not getattr(new, n) and getattr(old, n)}
    return replace(new, **missing) if missing else new
