"""The dashboard and events tell of the same things: the newer one holds, whoever comes last."""

from dataclasses import replace
from itertools import permutations

import pytest

from raywatch.core.runs import Runs, observe
from raywatch.observations import ActorSeen, NodeSeen
from tests.core.runkit import S1, job

NODE, ACTOR = "ab" * 28, "cd" * 12 + "01000000"
BY_API = NodeSeen(10.0, NODE, "10.0.0.2", "w", "ALIVE", "", is_head=False)
BY_EVENT = NodeSeen(
    12.0, NODE, "", "", "DEAD", "Expected termination", is_head=False, ended_at=12.0
)
RANK = ActorSeen(10.0, ACTOR, "RayTrainWorker", "ALIVE", "01000000", NODE, 7)
AGAIN = ActorSeen(12.0, ACTOR, "", "RESTARTING", "01000000", "", 0, "ACTOR_FAILURE")
GONE = ActorSeen(14.0, ACTOR, "", "DEAD", "01000000", "", 0, "WORKER_DIED")


def told(*seen, now=100.0) -> Runs:
    runs = Runs()
    for row in seen:
        runs = observe(runs, row, now)
    return runs


@pytest.mark.parametrize("order", list(permutations([BY_API, BY_EVENT])))
def test_a_node_that_died_stays_dead(order):
    """A row that was asked for before its end changes nothing; what an event leaves out is filled."""
    node = told(*order).nodes[NODE]

    assert (node.state, node.ip, node.name, node.ended_at) == ("DEAD", "10.0.0.2", "w", 12.0)


def test_a_late_event_does_not_raise_the_dead():
    """Ray holds events back while nobody takes them: what they tell may be over."""
    born = replace(BY_API, at=1.0, ip="")
    runs = told(BY_EVENT, born)

    assert runs.nodes[NODE].state == "DEAD"
    assert observe(runs, born, 100.0) is runs


@pytest.mark.parametrize("order", list(permutations([RANK, AGAIN, GONE])))
def test_an_actor_is_where_its_newest_row_says(order):
    """A rank is known by the class that only some rows name."""
    actor = told(RANK, *order).actors[ACTOR]

    assert (actor.state, actor.class_name) == ("DEAD", "RayTrainWorker")
    assert (actor.death_reason, actor.at) == ("WORKER_DIED", 14.0)


def test_an_actor_that_starts_again_is_on_no_node():
    """Else a rank that is to come back would count as gone with the node that it was on."""
    actor = told(RANK, AGAIN).actors[ACTOR]

    assert (actor.state, actor.node_id, actor.pid) == ("RESTARTING", "", 0)
    assert told(RANK, replace(AGAIN, state="DEAD")).actors[ACTOR].node_id == NODE


def test_an_actor_of_an_unknown_class_is_not_kept():
    """There are thousands that train nothing."""
    assert told(AGAIN).actors == {}


def test_a_job_that_failed_does_not_run_again():
    """The dashboard was asked before its end; what only it knows stays."""
    runs_ = job(at=10.0)
    failed = replace(runs_, at=12.0, status="FAILED", job_id="", metadata={}, ended_at=12.0)
    late = replace(runs_, at=11.0)
    runs = told(runs_, failed, late)

    assert (runs.jobs[S1].status, runs.jobs[S1].job_id) == ("FAILED", "02000000")
    assert [r.status for r in runs.runs.values()] == ["failed"]


def test_a_clock_that_is_set_back_stops_nothing():
    """Then what is known is from the future, and what is asked now holds."""
    runs = told(replace(BY_API, at=5000.0), replace(BY_EVENT, at=101.0), now=102.0)

    assert runs.nodes[NODE].state == "DEAD"
