"""Ranks and the actors, processes and nodes that they are: what one source says of them joined with another's.

A daemon on the head reads the controller's line about a group (address and pid of each rank) and Ray's list of actors;
the ranks' own logs lie on other machines.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from raywatch.core.lineage import Runs
from raywatch.model import Rank, Run
from raywatch.observations import ActorSeen


def identified(runs: Runs, run: Run) -> Run:
    """Return the run with what actors and nodes tell of ranks that are known by address and pid only.

    A pid may be that of several processes on several machines: what is not sure stays open.
    """
    jobs = runs.life(run.id).jobs
    actors = [a for a in runs.actors.values() if a.job_id in jobs]
    taken = {r.actor_id for r in run.ranks}
    free = [a for a in actors if a.actor_id not in taken]
    ranks = tuple(_identified(runs, rank, actors, free) for rank in run.ranks)
    return run if ranks == run.ranks else replace(run, ranks=ranks)


def _identified(
    runs: Runs, rank: Rank, actors: Iterable[ActorSeen], free: Iterable[ActorSeen]
) -> Rank:
    if rank.actor_id:
        found = [a for a in actors if a.actor_id == rank.actor_id]
    else:
        found = [a for a in free if rank.pid and a.pid == rank.pid and _may_be_at(runs, a, rank.ip)]
    if len(found) == 1:
        return replace(rank, actor_id=found[0].actor_id, node_id=found[0].node_id or rank.node_id)
    # An address may be that of several raylets, also one after the other: then it names none.
    here = [n.node_id for n in runs.nodes.values() if n.ip == rank.ip]
    return replace(rank, node_id=here[0]) if not rank.node_id and len(here) == 1 else rank


def _may_be_at(runs: Runs, actor: ActorSeen, ip: str) -> bool:
    node = runs.nodes.get(actor.node_id)
    return not ip or node is None or node.ip == ip
