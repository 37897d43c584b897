"""What the first thread knows of the cluster: its sources from the start, its nodes across sessions of Ray."""

import json

from raywatch.cluster import DASHBOARD, Cluster, source_row
from raywatch.collect.kubernetes import Access
from raywatch.core.blindness import Standing, blind
from raywatch.core.runs import Runs
from raywatch.model import Drain
from raywatch.observations import EndpointHealth, KubeRayListed, NodeSeen, SessionSeen
from raywatch.shown import NodeTexts
from tests.core import runkit

NONE: frozenset[str] = frozenset()


def node(number, at=1.0, state="ALIVE"):
    return NodeSeen(at, f"n{number}", "10.0.0.1", "n", state, "", is_head=False)


def answered(standings):
    return {s.name: (s.works, s.answered_at) for s in standings}


def logs(now):
    return Standing("logs", "up", "", now, 0.0, now)


def test_each_source_is_there_from_the_start():
    """As not asked yet; what is off hides nothing; its row says when it last answered."""
    cluster = Cluster({}, ("aws",), 100.0)
    names = ("logs", "version", "jobs", "nodes", "actors", "workers", "autoscaler", "groups", "aws")
    begun = cluster.standings(logs(101.0), 101.0)
    assert answered(begun) == {n: (n == "logs", 101.0 if n == "logs" else None) for n in names}
    assert blind(begun, DASHBOARD, 101.0) == ()

    cluster.learn([EndpointHealth(102.0, n, "up") for n in names[1:]], 102.0)
    cluster.learn([EndpointHealth(102.0, "train", "off", "x")], 102.0)
    cluster.learn([EndpointHealth(110.0, "jobs", "refused", "y")], 110.0)
    found = cluster.standings(logs(112.0), 112.0)

    assert answered(found) == {
        **dict.fromkeys(names, (True, 102.0)),
        "logs": (True, 112.0),
        "jobs": (False, 102.0),
        "train": (False, None),
    }
    assert [b["sources"] for b in blind(found, DASHBOARD, 112.0)] == [["jobs"]]
    assert source_row(found[2]) == {
        "source": "jobs",
        "up": 0,
        "state": "refused",
        "detail": "y",
        "last_at": "1970-01-01T00:01:50.000Z",
        "answered_at": "1970-01-01T00:01:42.000Z",
        "since": "1970-01-01T00:01:50.000Z",
    }
    stale = cluster.standings(logs(900.0), 900.0)
    assert {s.name for s in stale if s.state == "stale"} == {*names} - {"logs"}


def test_nodes_end_with_their_session_and_those_of_the_new_one_live():
    """Also one that was told before the session's name, and again with it."""
    cluster = Cluster({}, (), 0.0)
    cluster.learn([node(1), SessionSeen(2.0, "2.60.0", "s1"), node(2)], 2.0)
    assert {k: n.ended_at for k, n in cluster.nodes.items()} == {"n1": None, "n2": None}
    cluster.learn([SessionSeen(8.0, "2.60.0", ""), node(3)], 9.0)  # an answer that names none
    cluster.learn([SessionSeen(10.0, "2.60.0", "s2"), node(3, 10.0)], 10.0)

    ended = {k: (n.session, n.ended_at) for k, n in cluster.nodes.items()}
    assert ended == {"n1": ("s1", 10.0), "n2": ("s1", 10.0), "n3": ("s2", None)}


def test_nodes_that_ended_long_ago_are_forgotten_also_when_nothing_is_told():
    """An hour after their end."""
    cluster = Cluster({}, (), 0.0)
    cluster.learn([node(1), node(2, 50.0, "DEAD")], 50.0)
    cluster.learn([], 3600.0)
    assert set(cluster.nodes) == {"n1", "n2"}
    cluster.learn([], 3700.0)
    assert set(cluster.nodes) == {"n1"}


def test_rows_of_nodes_are_written_anew_only_where_something_about_them_changed():
    """The same objects are the same text; one incident changes one row."""
    none: dict[str, Drain] = {}
    cluster, texts, runs = Cluster({}, (), 0.0), NodeTexts(), Runs()
    assert texts.of({}, none, (), runs, NONE) == "[]"
    cluster.learn([node(1), node(2)], 1.0)
    first = texts.of(cluster.nodes, none, (), runs, NONE)
    assert texts.of(cluster.nodes, none, (), runs, NONE) is first
    told = (runkit.incident(("node", "n2"), node_id="n2"),)
    second = texts.of(cluster.nodes, none, told, runs, NONE)
    one, two = json.loads(second)

    assert (one, two["incidents"]) == (json.loads(first)[0], ["i1"])
    assert json.loads(texts.of(cluster.nodes, none, told, runs, frozenset(["n1"])))[0]["reads_logs"]
    cluster.learn([node(2, state="DEAD")], 2.0)
    assert json.loads(texts.of(cluster.nodes, none, (), runs, NONE))[1]["state"] == "dead"


def test_until_kubernetes_has_answered_it_is_not_known_who_restarts_a_job():
    """KubeRay may run it again; a service account that nobody configured and that may read nothing says that it does not."""

    def told(*seen, must):
        cluster = Cluster({}, (), 0.0, Access("u", "ns", is_asked_for=must))
        cluster.learn(seen, 1.0)
        return bool(cluster.unknown_owner())

    listed = KubeRayListed(1.0, frozenset())
    refused = EndpointHealth(1.0, "kubernetes", "forbidden")
    assert [told(must=m) for m in (True, False)] == [True, True]
    assert [told(refused, must=m) for m in (True, False)] == [True, False]
    assert [told(listed, must=m) for m in (True, False)] == [False, False]
    assert Cluster({}, (), 0.0).unknown_owner() == ""


def test_kubernetes_ages_as_every_source_that_is_asked():
    """Its poller may end without a word."""
    cluster = Cluster({}, (), 0.0, Access("u", "ns"))
    cluster.learn([EndpointHealth(1.0, "kubernetes", "up", answered_at=1.0)], 1.0)
    found = {s.name: s.works for s in cluster.standings(Standing("logs", "up", "", 0, 0, 0), 1e4)}

    assert not found["kubernetes"]
