"""What is shown of nodes: which there are, how each stands, what it hosts, what is open about it."""

from dataclasses import replace

from raywatch.core import nodeview
from raywatch.core.nodeview import (
    Known,
    by_state,
    forgotten,
    learned,
    node_json,
    session_over,
    surroundings,
)
from raywatch.core.runs import Runs, observe
from raywatch.model import Drain, Evidence, Incident, Rank
from raywatch.observations import NodeSeen
from tests.core import runkit

LINE = Evidence("f", 1, "", 1.0, "raylet")


def seen(node_id, state="ALIVE", ip="10.0.0.1", at=100.0, **more):
    return NodeSeen(at, node_id, ip, f"host-{node_id}", state, "", is_head=False, **more)


def row(node, drain=None, *, incidents=(), runs=None, read=frozenset()):
    """The row of one node, as the API shows it."""
    around = surroundings({node.seen.node_id: node}, incidents, runs or Runs(), read)
    return node_json(node, drain, around[node.seen.node_id])


def about(number, node_id, at, **more) -> Incident:
    found: Incident = runkit.incident(("node", node_id), at=at, **more)
    return replace(found, id=number)


def test_a_node_is_shown_whole():
    """What people look for has a name of its own, whoever labelled it."""
    labels = {
        "ray.io/node-group": "gpus",
        "cloud.google.com/gke-spot": "true",
        "node.kubernetes.io/instance-type": "a3",
    }
    sizes = {"CPU": 8.0, "GPU": 2.0, "accelerator_type:H100": 1.0}
    node = Known(seen("n1", started_at=50.0, resources=sizes, labels=labels), "s1")

    assert row(node, read=frozenset(["n1"])) == {
        "id": "n1",
        "ip": "10.0.0.1",
        "name": "host-n1",
        "is_head": False,
        "session": "s1",
        "state": "alive",
        "words": "alive",
        "reason": "",
        "deadline_at": None,
        "started_at": "1970-01-01T00:00:50.000Z",
        "ended_at": None,
        "resources": {"CPU": 8.0, "GPU": 2.0},
        "accelerator": "H100",
        "instance_type": "a3",
        "market": "spot",
        "group": "gpus",
        "labels": labels,
        "runs": [],
        "incident": "",
        "incidents": [],
        "reads_logs": True,
    }


def test_a_node_drains_until_it_is_dead():
    """With the reason and the deadline that it was told; its end says both."""
    drain = Drain("n1", "PREEMPTION", "aws: terminate", 220.0, 90.0, LINE)
    going = row(Known(seen("n1"), "s"), drain)
    gone = seen("n1", "DEAD", ended_at=150.0)
    went = row(Known(replace(gone, message="Unexpected termination: x"), "s", 150.0), drain)
    silent = row(Known(gone, "s", 150.0))

    assert (going["state"], going["words"]) == ("draining", "draining, PREEMPTION: aws: terminate")
    assert (going["deadline_at"], going["ended_at"]) == ("1970-01-01T00:03:40.000Z", None)
    assert went["words"] == (
        "dead, Unexpected termination: x; it had been told to go, PREEMPTION: aws: terminate"
    )
    assert (silent["state"], silent["words"]) == ("dead", "dead, no reason recorded")


def test_the_end_of_a_node_belongs_to_the_incident_about_it():
    """The newest of that time about the node itself, else any; of the others none. A living node has no end."""
    node = Known(seen("n1", "DEAD"), "s", 1000.0)
    own = about("own", "n1", 1001.0, kind="node", subject="n1")
    notice = about("notice", "n1", 880.0, kind="node", subject="n1")
    ancient = about("ancient", "n1", 20.0, kind="node", subject="n1")
    near, later = about("near", "n1", 900.0), about("later", "n1", 1010.0)
    over = replace(about("over", "n1", 5000.0), state="resolved")
    other = about("other", "n2", 1000.0)

    everything = row(node, incidents=[ancient, notice, own, near, later, over, other])
    assert everything["incident"] == "own"
    assert everything["incidents"] == ["ancient", "notice", "own", "near", "later"]
    assert row(node, incidents=[near, over])["incident"] == "near"
    assert row(node, incidents=[ancient, over, other])["incident"] == ""
    assert row(Known(seen("n1"), "s"), incidents=[own])["incident"] == ""


def test_a_node_hosts_the_ranks_and_drivers_of_what_is_not_over():
    """By node id, else by an address that one living node has."""
    runs = observe(Runs(), replace(runkit.job("raysubmit_1"), driver_node_id="n1"), 1.0)
    (run,) = runs.runs.values()
    ranks = (Rank(0, node_id="n1"), Rank(1, ip="10.0.0.2"), Rank(2, ip="10.0.0.9"), Rank(3))
    running = replace(runs, runs={run.id: replace(run, status="running", ranks=ranks)})
    over = replace(runs, runs={run.id: replace(run, status="failed", ranks=ranks)})
    rows = [
        seen("n1"),
        seen("n2", ip="10.0.0.2"),
        seen("n3", ip="10.0.0.9"),
        seen("n4", ip="10.0.0.9"),
    ]
    nodes = learned({}, rows, "s", 1000.0)

    def hosted(runs):
        around = surroundings(nodes, (), runs, frozenset())
        return {k: [(h.run, h.ranks, h.driver) for h in a.hosted] for k, a in around.items()}

    both = {"n1": [(run.id, (0,), True)], "n2": [(run.id, (1,), False)], "n3": [], "n4": []}
    assert hosted(running) == both
    assert hosted(over) == {"n1": [], "n2": [], "n3": [], "n4": []}


def test_a_dead_node_is_forgotten_after_an_hour_and_of_too_many_the_oldest(monkeypatch):
    """What lives stays, unless nodes are without end."""
    dead = [seen(f"d{i}", "DEAD", ended_at=float(i)) for i in range(1, 5)]
    nodes = learned({}, [seen("a"), *dead], "s", 1000.0)
    monkeypatch.setattr(nodeview, "MAX_DEAD", 3)

    assert list(forgotten(nodes, 10.0)) == ["a", "d2", "d3", "d4"]
    assert list(forgotten(nodes, 3.5 + nodeview.KEPT_S)) == ["a", "d4"]
    few = learned({}, [seen("a"), *dead[1:]], "s", 1000.0)
    assert forgotten(few, 10.0) is few
    monkeypatch.setattr(nodeview, "MAX_NODES", 2)
    assert list(forgotten(nodes, 10.0)) == ["d3", "d4"]


def test_the_nodes_of_a_session_end_with_it():
    """Nobody lists them any more; those of the new one live, and one that had ended keeps its end."""
    before = learned({}, [seen("old"), seen("dead", "DEAD", ended_at=7.0)], "s1", 1000.0)
    after = learned(session_over(before, "s2", 200.0), [seen("new")], "s2", 1000.0)

    assert {k: n.ended_at for k, n in after.items()} == {"old": 200.0, "dead": 7.0, "new": None}
    assert row(after["old"])["words"] == "dead, its session s1 is over"
    assert session_over(after, "s2", 300.0)["new"].ended_at is None


def test_an_event_that_says_less_takes_nothing_away():
    """Ray's pushed events name neither resources nor labels; one of before says nothing new."""
    listed = seen("a", at=50.0, resources={"CPU": 4.0}, labels={"x": "y"}, started_at=1.0)
    pushed = NodeSeen(60.0, "a", "", "", "DEAD", "gone", is_head=False, ended_at=60.0)
    old = NodeSeen(40.0, "a", "", "", "ALIVE", "", is_head=False)
    nodes = learned({}, [listed, pushed, old], "s", 1000.0)

    assert (nodes["a"].seen.state, nodes["a"].ended_at) == ("DEAD", 60.0)
    assert (nodes["a"].seen.resources, nodes["a"].seen.labels) == ({"CPU": 4.0}, {"x": "y"})


def test_nodes_are_counted_by_the_words_that_their_rows_have():
    """A dead one that was drained is dead; nothing is said where none is known."""
    nodes = learned({}, [seen("n1"), seen("n2"), seen("n3", "DEAD"), seen("n4")], "s", 100.0)
    drains = {n: Drain(n, "PREEMPTION", "", None, 1.0, LINE) for n in ("n2", "n3", "gone")}

    assert by_state(nodes, drains) == {"alive": 2, "draining": 1, "dead": 1}
    assert by_state({}, drains) == {}
