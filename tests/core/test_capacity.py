"""Since when who waits, for how long a failure explains it, and what a new session forgets: timetables."""

import json
from dataclasses import replace

import pytest

from raywatch.bundles import bundles_in, spoken
from raywatch.core.capacity import (
    FAILURE_S,
    FLICKER_S,
    INFEASIBLE_S,
    SAME_S,
    Capacity,
    heard,
    learned,
)
from raywatch.core.capacity_view import capacity_json, why
from raywatch.model import Evidence, Finding, Subject, Trust
from raywatch.observations import (
    ActorSeen,
    AutoscalerSeen,
    Demanded,
    GroupSeen,
    GroupsSeen,
    NodeSeen,
    SessionSeen,
)

GPU = (("CPU", 1.0), ("GPU", 8.0))
NODE = "node_" + "a" * 56


def work(count=1, bundle=GPU):
    return Demanded("work", ((bundle, 1),), count)


def report(at, *demands, **more):
    return AutoscalerSeen(
        at, **{"reports": True, "active": (("head", 1),), **more}, demands=demands
    )


def finding(class_id, text, at, component="monitor"):
    evidence = Evidence("/l/monitor.log", 1, text, at, component)
    return Finding(class_id, Subject("cluster", ""), at, True, evidence, "s", Trust.RAY)


def refused(at, node_type="gpu", words="no stock", **more):
    text = f"Failed to launch 1 node(s) of type {node_type}. (NoStock): {words}."
    return finding("capacity_unavailable", text, at, **more)


def never(at, request="{'CPU': 1.0, 'GPU': 8.0}"):
    return finding("resources_infeasible", f"No available node types can fulfill {request}.", at)


def group(name: str, since: float, *, count: int = 2) -> GroupSeen:
    return GroupSeen(
        name * 2, name, "01", "PENDING", "INFEASIBLE", (((("GPU", 1.0),), count),), since
    )


def ages(capacity):
    return [w.since for w in capacity.waiting.values()]


def test_a_demand_waits_since_it_was_seen_first():
    """Whatever its count does, and also if a report between leaves it out."""
    capacity = Capacity()
    for at, demands in ((10.0, [work()]), (20.0, [work(3)]), (30.0, []), (40.0, [work(2)])):
        capacity = learned(capacity, [report(at, *demands)], at)
    assert ages(capacity) == [10.0]
    assert next(iter(capacity.waiting.values())).demand.count == 2


def test_a_demand_that_is_not_reported_any_more_ceases_by_itself():
    """No news comes then: the fold is called with none, and ends it when it is time."""
    capacity = learned(Capacity(), [report(10.0, work())], 10.0)
    capacity = learned(capacity, [report(20.0)], 20.0)
    assert learned(capacity, [], 20.0 + FLICKER_S - 0.1) is capacity
    gone = learned(capacity, [], 20.0 + FLICKER_S)
    assert ages(gone) == []
    assert ages(learned(gone, [report(60.0, work())], 60.0)) == [60.0]


def test_a_demand_that_stands_in_an_old_report_still_waits():
    """An unchanged report is no news, for hours."""
    capacity = learned(Capacity(), [report(10.0, work())], 10.0)
    assert ages(learned(capacity, [report(9000.0, work(2))], 9000.0)) == [10.0]


def test_placement_groups_tell_their_age_themselves():
    """Alike ones are one row; the report's own line about them would count them twice."""
    told = Demanded("group", (((("GPU", 1.0),), 2),), 1)
    both = [
        GroupsSeen(5.0, (group("b", 3.0), group("a", 2.0), group("c", 4.0, count=3))),
        report(5.0, told),
    ]
    capacity = learned(Capacity(), both, 5.0)

    assert sorted(ages(capacity)) == [2.0, 4.0]
    (two,) = [w for w in capacity.waiting.values() if w.since == 2.0]
    assert (two.demand.count, two.who) == (2, ("b", "a"))
    assert ages(learned(capacity, [GroupsSeen(6.0, ())], 6.0)) == []


def test_infeasible_holds_as_long_as_it_is_said():
    """The autoscaler repeats it; once it stops, a node type was added."""
    capacity = learned(Capacity(), [report(10.0, work(), work(1, (("CPU", 2.0),)))], 10.0)
    capacity = heard(capacity, [never(11.0)], 11.0)
    assert [w.infeasible for w in capacity.waiting.values()] == [True, False]
    capacity = learned(capacity, [], 11.0 + INFEASIBLE_S)
    assert [w.infeasible for w in capacity.waiting.values()] == [False, False]


def test_a_refusal_explains_for_a_while():
    """And one of before that start explains nothing."""
    capacity = learned(Capacity(), [report(1000.0, work())], 1000.0)
    assert heard(capacity, [refused(1000.0 - FAILURE_S)], 1000.0) is capacity
    capacity = heard(capacity, [refused(1001.0)], 1001.0)
    assert "no capacity or quota for gpu (NoStock: no stock)" in why(capacity)
    assert "NoStock" not in why(learned(capacity, [], 1001.0 + FAILURE_S))


def test_a_refusal_is_its_types_newest_in_its_best_words():
    """Copies within some seconds may say less; a later one of another kind is another."""
    capacity = heard(Capacity(), [refused(1.0), refused(2.0, "cpu")], 2.0)
    bare = finding("node_launch_failed", "Failed to launch 1 node(s) of type gpu.", 1.0 + SAME_S)
    capacity = heard(capacity, [bare], 7.0)
    gpu = capacity.failures["gpu"]
    assert (gpu.code, gpu.words, gpu.first_at, gpu.last_at) == ("NoStock", "no stock", 1.0, 6.0)
    assert gpu.class_id == "capacity_unavailable"
    later = finding(
        "node_launch_failed", "Failed to launch 1 node(s) of type gpu. (Denied): no", 60.0
    )
    gpu = heard(capacity, [later], 60.0).failures["gpu"]
    assert (gpu.class_id, gpu.code, gpu.first_at) == ("node_launch_failed", "Denied", 1.0)
    assert list(capacity.failures) == ["gpu", "cpu"]


def test_one_line_of_two_classes_is_the_one_that_says_more():
    """Whichever comes first: the shipped signatures find both in it."""
    both = [refused(1.0), replace(refused(1.0), class_id="node_launch_failed")]
    for found in (both, both[::-1]):
        assert heard(Capacity(), found, 1.0).failures["gpu"].class_id == "capacity_unavailable"


def test_a_request_id_is_no_reason():
    """v2 ends a line of its own with it."""
    text = "launch failed with Failed to launch 1 nodes of type gpu with request id 9747a353-1585: "
    (failure,) = heard(
        Capacity(), [finding("node_launch_failed", text, 1.0)], 1.0
    ).failures.values()
    assert (failure.node_type, failure.code, failure.words) == ("gpu", "", "")


def test_an_event_files_line_is_quoted_by_its_message():
    """The rest of its JSON is no word of the cloud."""
    said = {
        "message": "Failed to launch 3 node(s) of type gpu. (NoStock): none left.",
        "timestamp": "1",
    }
    found = finding("capacity_unavailable", json.dumps(said), 1.0, "event")
    (failure,) = heard(Capacity(), [found], 1.0).failures.values()
    assert (failure.code, failure.words) == ("NoStock", "none left")
    odd = [
        finding("resources_infeasible", t, 1.0, "event")
        for t in ("{", "{[}", "[" * 9, '{"message": 3}')
    ]
    assert heard(Capacity(), odd, 1.0).infeasible == {}


def test_a_node_by_hand_beside_others_is_no_sign_that_nobody_starts_nodes():
    """A head whose type nobody told is shown like one."""
    capacity = learned(Capacity(), [report(1.0, active=((NODE, 1), ("gpu", 2)))], 1.0)
    assert capacity.autoscaler == "runs"
    assert [n["type"] for n in capacity_json(capacity)["nodes"]] == ["", "gpu"]


def test_what_a_program_prints_is_no_word_of_the_autoscaler():
    """A worker may print the same line."""
    assert heard(Capacity(), [refused(1.0, component="worker")], 1.0) == Capacity()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"pending": (("gpu", "launching", 3),)}, "asked of the cloud and not here yet: 3 gpu (launching)."),
        ({}, "the autoscaler asks for no more nodes: what runs must end first, or its limits (max_workers) are reached."),
        ({"silent": True}, "the autoscaler has not reported for more than a minute: its process may be gone."),
        ({"failed": (("gpu", "LaunchFailed"),)}, "gpu could not be launched (LaunchFailed)."),
        ({"active": ((NODE, 1),)}, "no autoscaler runs, so that no node will be started for it."),
        ({"reports": False}, "Ray has not told yet whether an autoscaler runs."),
        ({"error": "Traceback:\nKeyError: 'x'\n"}, "the autoscaler ended, so that nothing is started (KeyError: 'x')."),
    ],
)  # fmt: skip
def test_every_reason_has_its_words(more, words):
    """One sentence, whom it is about first."""
    capacity = learned(Capacity(), [report(1.0, work(), **more)], 1.0)
    assert why(capacity) == f"1 task or actor waits for 8 GPU, 1 CPU: {words}"


def test_where_no_autoscaler_runs_a_demand_may_still_be_too_large():
    """Its monitor says so also without a configuration."""
    capacity = learned(Capacity(), [report(1.0, work(), active=((NODE, 1),))], 1.0)
    assert "no node that is here is large enough for 8 GPU, 1 CPU" in why(
        heard(capacity, [never(1.0)], 1.0)
    )


def test_trouble_of_the_autoscaler_itself_is_said_before_its_plans():
    """Rounds that fail one after the other leave the last report standing."""
    capacity = learned(Capacity(), [report(1.0, work())], 1.0)
    capacity = heard(
        capacity,
        [finding("autoscaler_crash", "StandardAutoscaler: Too many errors, abort.", 2.0)],
        2.0,
    )
    assert "in trouble (StandardAutoscaler: Too many errors, abort.)" in why(capacity)
    assert "trouble" not in why(learned(capacity, [], 2.0 + FAILURE_S))


def test_actors_without_a_process_are_counted_by_class():
    """They wait since they were seen; in a new session nobody does."""
    actors = [
        ActorSeen(float(n), f"a{n}", "Rank", "PENDING_CREATION", "01", "", 0) for n in range(3)
    ]
    capacity = learned(Capacity(), [SessionSeen(0.0, "2.60.0", "s"), *actors], 3.0)
    capacity = learned(capacity, [replace(actors[0], at=4.0, state="ALIVE")], 4.0)

    (row,) = capacity_json(capacity)["actors"]
    assert (row["class_name"], row["job"], row["count"]) == ("Rank", "01", 2)
    assert row["since"] == "1970-01-01T00:00:01.000Z"
    assert learned(capacity, [replace(actors[0], state="ALIVE")], 5.0) is capacity
    again = [replace(a, state="ALIVE") for a in actors[1:]] + [replace(actors[1], at=7.0)]
    assert [a.since for a in learned(capacity, again, 7.0).actors.values()] == [7.0]
    assert learned(capacity, [SessionSeen(6.0, "2.60.0", "t")], 6.0) == Capacity(session="t")


def test_bundles_are_read_and_said():
    """Scarce things first, bytes as people say them."""
    text = "{'memory': 1610612736.0, 'CPU': 0.5}*3, {} {'TPU': 4, 'x-y:z': 1e-3} * 2"
    found = list(bundles_in(text))
    assert [n for _, n in found] == [3, 2]
    assert [spoken(b) for b, _ in found] == ["0.5 CPU, 1.5 GiB memory", "4 TPU, 0.001 x-y:z"]


def test_another_session_keeps_the_last_answers_and_nothing_else():
    """A report that is the same again is no news; who waits in it has not waited before."""
    capacity = learned(Capacity(), [SessionSeen(0.0, "2.60.0", "s"), report(1.0, work())], 1.0)
    capacity = heard(capacity, [refused(2.0), never(2.0)], 2.0)
    capacity = learned(capacity, [SessionSeen(9.0, "2.60.0", "t")], 9.0)

    assert ages(capacity) == [9.0]
    assert why(capacity).endswith("(max_workers) are reached.")
    assert learned(capacity, [SessionSeen(10.0, "2.60.0", "t")], 10.0) is capacity


def test_what_request_resources_asks_for_waits_only_while_it_is_not_there():
    """Ray Train asks for the size of its group as long as it runs; Ray reports that also when all of it is there."""
    asked = report(10.0, Demanded("request", (((("CPU", 1.0),), 1),), 3))

    def waiting(*cpus):
        nodes = [
            NodeSeen(9.0, f"n{i}", "", "", "ALIVE", "", is_head=False, resources={"CPU": c})
            for i, c in enumerate(cpus)
        ]
        return len(learned(Capacity(), [*nodes, asked], 10.0).waiting)

    assert [waiting(2.0), waiting(2.0, 1.0), waiting(4.0), waiting(0.5, 2.5)] == [1, 0, 0, 1]
    assert waiting() == 1  # no list of nodes was read

    grown = learned(
        Capacity(),
        [NodeSeen(9.0, "a", "", "", "ALIVE", "", is_head=True, resources={"CPU": 2.0}), asked],
        10.0,
    )
    more = NodeSeen(20.0, "b", "", "", "ALIVE", "", is_head=False, resources={"CPU": 1.0})
    assert learned(grown, [more, replace(asked, at=20.0)], 20.0).waiting == {}
