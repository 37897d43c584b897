"""Nodes that were told to go: remembered by node id, and what that makes of their end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from raywatch.model import Drain, Evidence, Fact, Finding, Trust

NODE_ENDS = frozenset(["node_terminated_expected", "node_lost", "raylet_crash", "node_partitioned"])
SAME_S = 5.0  # one drain is told in several lines
OVER_S = 60.0  # after its deadline a machine that still lives was not taken
PLANNED = "Node received SIGTERM; draining before shutdown."  # `ray start --block`, Ray 2.60
_REFUSED = "14"  # gRPC UNAVAILABLE: nobody listens where the raylet was


def drains_with(drains: Mapping[str, Drain], fact: Fact) -> Mapping[str, Drain]:
    """Return the drains after a `drain` fact; one that names no node, is old or tells nothing more changes nothing."""
    node = fact.fields.get("node_id", "")
    known = drains.get(node)
    mute = not any(map(fact.fields.get, ("reason", "message", "deadline_ms")))
    if not node or (known is not None and mute):
        return drains
    new = _drain(fact)
    if known is None or _knows_better(new, known):
        return {**drains, node: new}
    if fact.at < known.at - SAME_S or (_knows_better(known, new) and not _is_over(known, new.at)):
        return drains
    if _stands(known, new):
        new = replace(known, deadline_at=known.deadline_at or new.deadline_at)
    elif abs(new.at - known.at) <= SAME_S:
        new = replace(
            known,
            reason=new.reason or known.reason,
            message=new.message or known.message,
            deadline_at=new.deadline_at or known.deadline_at,
        )
    return drains if new == known else {**drains, node: new}


def _stands(known: Drain, new: Drain) -> bool:
    """Say whether the node still is one that will be taken: what drains it then (a hook, the machine's own shutdown) is the end of that."""
    if not is_taking(known) or known.deadline_at is None:
        return False
    return known.at <= new.at and not _is_over(known, new.at)


def _is_over(drain: Drain, at: float) -> bool:
    """Say whether the machine has outlived its deadline by then."""
    return drain.deadline_at is not None and at >= drain.deadline_at + OVER_S


def is_taking(drain: Drain) -> bool:
    """Say whether a drain means that the node is taken away, not that somebody stops it."""
    return "PREEMPTION" in drain.reason and not _is_own(drain)


def _drain(fact: Fact) -> Drain:
    deadline = fact.fields.get("deadline_ms", "")
    told = {} if fact.evidence.signature else fact.fields  # a log line does not choose the class
    return Drain(
        node_id=fact.fields["node_id"],
        reason=fact.fields.get("reason", ""),
        message=fact.fields.get("message", ""),
        deadline_at=int(deadline) / 1000 if deadline.isdigit() and deadline != "0" else None,
        at=fact.at,
        evidence=fact.evidence,
        by=told.get("by", "ray"),
        class_id=told.get("class_id", "spot_preemption"),
    )


def _knows_better(one: Drain, other: Drain) -> bool:
    """Say whether who told one knows why the other was told: SIGTERM and eviction are how a node is taken."""
    by_cloud = one.by not in ("ray", "kubernetes")
    return (one.by != "ray" and _is_own(other)) or (by_cloud and other.by == "kubernetes")


def _is_own(drain: Drain) -> bool:
    """Say whether the node drains itself because it got SIGTERM: it does not know why."""
    return PLANNED in drain.message


def taken(drains: Mapping[str, Drain], finding: Finding) -> Finding:
    """A node that ends after it was told to go was taken, whatever Ray calls its end.

    So is one where nobody listens any more: Ray needs 14 seconds and more to declare it dead.
    """
    drain = drains.get(finding.subject.node)
    if drain is None or not is_taking(drain):
        return finding
    if not _ends(finding) or finding.at + 2 < drain.at:
        return finding
    return replace(
        finding,
        class_id=drain.class_id,
        trust=Trust.NOTICE,
        confidence=max(finding.confidence, 0.9),
        fields={**finding.fields, "reason_message": drain.message},
    )


def _ends(finding: Finding) -> bool:
    refused = finding.fields.get("status") == _REFUSED and finding.class_id == "node_unhealthy"
    return finding.class_id in NODE_ENDS or refused


def proof_of(drains: Mapping[str, Drain], finding: Finding) -> Evidence:
    """Return the line that proves the finding's class: the notice where the node was `taken`."""
    drain = drains.get(finding.subject.node)
    renamed = finding.evidence.class_id != finding.class_id
    return drain.evidence if drain is not None and renamed else finding.evidence
