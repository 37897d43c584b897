"""Findings on a timetable -> incidents: root before symptom, copies never counted twice."""

from dataclasses import replace
from functools import reduce

from raywatch.core.classify import entities_of
from raywatch.core.incidents import State, correlate, correlate_all, note
from raywatch.model import Entity, Evidence, Fact, Finding, Subject, Trust
from raywatch.pipeline import load_ruleset

CLASSES = load_ruleset().classes
N1, N2 = "1" * 56, "2" * 56


def at(when, class_id, *, node="", trust=Trust.RAY, who="", job="", component="gcs", **fields):
    """A finding at a time, about a node, worker `who` or job."""
    entities = {Entity(k, v) for k, v in (("node", node), ("worker", who), ("job", job)) if v}
    failure = CLASSES[class_id]
    return Finding(
        class_id,
        Subject(failure.scope, who or (node if failure.scope == "node" else job), node),
        float(when),
        when > 0,
        Evidence(f"{component}.out", int(when) + 1, class_id, float(when), component, class_id),
        "sig",
        trust,
        fields=fields,
        entities=frozenset(entities),
    )


def drain(when, node, message="reclaimed"):
    """A drain for preemption."""
    evidence = Evidence("raylet.out", 1, "drain", float(when), "raylet")
    fields = {"node_id": node, "reason": "PREEMPTION", "message": message, "deadline_ms": "0"}
    return Fact("drain", float(when), evidence, fields)


def run(*items):
    """Play a timetable; return (class, explained classes) of each incident."""

    def play(state, item):
        return note(state, item) if isinstance(item, Fact) else correlate(state, item, CLASSES)[0]

    state = reduce(play, items, State())
    return [(i.class_id, dict(i.explains)) for i in state.incidents]


def test_a_root_takes_over_from_its_symptom_and_keeps_the_id():
    """The broken ring is seen first; the dead node explains it under the same id."""
    state, (opened,) = correlate(
        State(), at(10, "ring_break", job="j", node=N1, trust=Trust.COLLECTIVE), CLASSES
    )
    state, (changed,) = correlate(state, at(20, "node_lost", node=N1), CLASSES)

    assert (changed.kind, changed.incident.class_id) == ("reclassified", "node_lost")
    assert changed.incident.id == opened.incident.id
    assert changed.incident.explains == (("ring_break", 1),)


def test_a_symptom_after_its_root_opens_nothing():
    """What a dead node drags along is explained by it."""
    assert run(at(10, "node_lost", node=N1), at(12, "actor_died", node=N1, trust=Trust.NOISE)) == [
        ("node_lost", {"actor_died": 1})
    ]


def test_two_nodes_are_two_incidents():
    """Deaths of different nodes are never one."""
    assert (
        len(run(at(10, "node_lost", node=N1, job="j"), at(11, "node_lost", node=N2, job="j"))) == 2
    )


def test_a_drained_node_that_ends_was_taken():
    """Whatever Ray calls the end: expected termination before the deadline is a preemption too."""
    for end in ("node_terminated_expected", "node_lost", "raylet_crash"):
        assert run(drain(5, N1), at(30, end, node=N1), at(30, "actor_died", node=N1)) == [
            ("spot_preemption", {"actor_died": 1})
        ]


def test_a_drain_of_ray_start_block_is_no_preemption():
    """A planned SIGTERM drains with PREEMPTION and this message (reference/ray.md, trap 2)."""
    planned = drain(5, N1, "Node received SIGTERM; draining before shutdown.")

    assert run(planned, at(30, "node_terminated_expected", node=N1)) == []


def test_a_machine_that_its_cloud_takes_is_not_stopped_by_its_own_shutdown():
    """The cloud ends the machine, which ends `ray start --block` as a person would; the notice stays the proof."""
    evidence = Evidence("metadata of aws", 0, "aws announces", 5.0, "event")
    fields = {"node_id": N1, "reason": "PREEMPTION", "message": "aws: terminate"}
    notice = Fact("drain", 5.0, evidence, {**fields, "deadline_ms": "125000"})
    shutdown = "Node received SIGTERM; draining before shutdown."
    end = {"node": N1}

    state = reduce(note, (notice, drain(110, N1, shutdown)), State())
    assert (state.drains[N1].message, state.drains[N1].evidence.text) == (
        "aws: terminate",
        "aws announces",
    )
    assert run(notice, drain(110, N1, shutdown), at(115, "node_terminated_expected", **end)) == [
        ("spot_preemption", {})
    ]
    # The machine outlived it: who stops it an hour later means to.
    late = drain(3600, N1, shutdown)
    assert run(notice, late, at(3605, "node_terminated_expected", **end)) == []


def test_a_drain_after_the_death_explains_nothing():
    """The notice must come before the end."""
    assert run(drain(40, N1), at(30, "node_lost", node=N1)) == [("node_lost", {})]


def test_a_planned_stop_is_an_incident_only_if_something_died_with_it():
    """A node that was stopped while idle is not a failure."""
    stop = at(30, "node_terminated_expected", node=N1)

    assert run(stop) == []
    assert run(stop, at(31, "actor_died", node=N1)) == [
        ("node_terminated_expected", {"actor_died": 1})
    ]


def test_copies_are_evidence_and_not_more_incidents():
    """One failure is written many times, by components that do not say about whom."""
    first = at(10, "runtime_env_failed", component="runtime_env")

    assert run(first, at(10.5, "runtime_env_failed", job="j", component="raylet")) == [
        ("runtime_env_failed", {})
    ]
    assert len(run(first, at(300, "runtime_env_failed", job="j", component="raylet"))) == 2


def test_warnings_and_benign_classes_open_nothing():
    """Spilling and failing health checks are no incidents."""
    assert run(at(1, "object_spilling", node=N1), at(2, "node_unhealthy", node=N1)) == []


def test_an_earlier_warning_joins_the_incident_that_explains_it():
    """The health checks that failed first are part of the story."""
    assert run(at(2, "node_unhealthy", node=N1), at(14, "raylet_crash", node=N1)) == [
        ("raylet_crash", {"node_unhealthy": 1})
    ]


def test_a_restart_by_ray_train_is_remembered_until_it_gives_up():
    """RETRY means hands off, a later RAISE takes it back; a copy without a time changes nothing."""
    crash, retry = at(10, "worker_crash", who="w", job="j"), at(11, "train_restarted", job="j")
    state, _ = correlate_all(State(), (), [crash, retry, at(0, "train_failed", job="j")], CLASSES)
    assert [(i.restarted, i.gave_up) for i in state.incidents] == [(True, False)]

    state, _ = correlate_all(State(), (), [crash, retry, at(20, "train_failed", job="j")], CLASSES)
    assert [(i.restarted, i.gave_up) for i in state.incidents] == [(False, True)]


def test_the_silent_rank_is_the_culprit():
    """In a timed-out collective the rank that did not complain is the one that hangs."""
    started = Fact(
        "group_started", 1.0, Evidence("t", 1, "", 1.0, "train"), {"size": "3", "run_name": "r"}
    )
    stuck = at(
        20, "collective_timeout", job="j", component="train", run_name="r", snippet_ranks="0,2"
    )
    state, _ = correlate(note(State(), started), stuck, CLASSES)

    assert state.incidents[0].culprit is not None
    assert state.incidents[0].culprit.rank == 1


def test_what_has_no_time_opens_nothing_under_since():
    """Undated lines are evidence only."""
    state, _ = correlate_all(
        State(), (), [at(0, "user_exception", job="j")], CLASSES, undated_may_open=False
    )

    assert state.incidents == ()


REFUSED = {"status": "14"}


def test_a_drained_node_where_nobody_listens_was_taken():
    """Ray declares a node dead 14 seconds later; a run must not be named after its broken ring until then."""
    failing = at(12, "node_unhealthy", node=N1, **REFUSED)
    ring = at(10, "ring_break", node=N2, job="j", trust=Trust.COLLECTIVE)

    assert run(hosts(1, "llm", N1), drain(5, N1), named(ring, "llm"), failing) == [
        ("spot_preemption", {"ring_break": 1})
    ]
    assert run(drain(5, N1), at(12, "node_unhealthy", node=N1, status="4")) == []
    assert run(at(12, "node_unhealthy", node=N1, **REFUSED)) == []


def test_the_notice_proves_a_preemption():
    """The line that names the incident is the cloud's notice; how the node ended stands beside it."""
    state = note(State(), drain(5, N1))
    state, (opened,) = correlate(state, at(30, "raylet_crash", node=N1), CLASSES)

    assert opened.incident.root.text == "drain"
    assert [e.text for e in opened.incident.evidence] == ["drain", "raylet_crash"]


def test_a_run_and_the_node_of_its_rank_fail_together():
    """Survivors name their own nodes only; where the lost rank ran was said when its group started."""
    ring = named(at(10, "ring_break", node=N2, trust=Trust.COLLECTIVE), "llm")

    assert run(hosts(1, "llm", N1), ring, at(20, "node_lost", node=N1)) == [
        ("node_lost", {"ring_break": 1})
    ]
    assert run(hosts(1, "llm", N1), at(20, "node_lost", node=N1), named(ring, "llm")) == [
        ("node_lost", {"ring_break": 1})
    ]
    assert len(run(hosts(1, "other", N1), ring, at(20, "node_lost", node=N1))) == 2


def test_a_bug_is_not_excused_by_a_node_that_goes_later():
    """A scale-down a minute after a ValueError is no reason to start the run again."""
    bug = named(at(10, "user_exception", node=N1, trust=Trust.PROCESS), "llm")
    gone = at(50, "node_terminated_expected", node=N1)
    killed = at(52, "actor_died", node=N1)

    assert run(hosts(1, "llm", N1), bug, gone, killed)[0][0] == "user_exception"
    assert run(hosts(1, "llm", N1), bug, at(50, "node_lost", node=N1))[0][0] == "user_exception"


def test_early_signs_do_not_settle_a_symptom():
    """A failing health check is no death reason: the symptom waits for its cause."""
    ring = at(10, "ring_break", node=N1, job="j", trust=Trust.COLLECTIVE)
    state, _ = correlate(State(), ring, CLASSES)
    state, (change,) = correlate(state, at(12, "node_unhealthy", node=N1), CLASSES)

    assert change.incident.settled_at is None
    state, (change,) = correlate(state, at(14, "actor_died", node=N1, job="j"), CLASSES)
    assert change.incident.settled_at == 14


def test_a_drain_told_in_two_lines_is_one():
    """The GCS tells the message first and the reason in the next record; the first line proves it."""
    first = Fact(
        "drain",
        5.0,
        Evidence("gcs_server.out", 1, "HandleDrainNode", 5.0, "gcs"),
        {"node_id": N1, "message": "reclaimed", "deadline_ms": "9000"},
    )
    second = drain(5.1, N1, "reclaimed")
    for order in ((first, second), (second, first)):
        drains = reduce(note, order, State()).drains
        assert (drains[N1].reason, drains[N1].deadline_at) == ("PREEMPTION", 9.0)
    assert reduce(note, (first, second), State()).drains[N1].evidence.text == "HandleDrainNode"


def hosts(when, name, node):
    """A rank of a run says where it is."""
    evidence = Evidence("train.log", 1, "set up", float(when), "train")
    entities = frozenset([Entity("run", name), Entity("node", node), Entity("worker", "w" + node)])
    return Fact("process_group", float(when), evidence, {}, entities)


def named(finding, name):
    """The same finding about a run."""
    return replace(finding, entities=finding.entities | {Entity("run", name)})


def test_only_nil_ids_mean_nobody():
    """The fifteenth job of a cluster is 0f000000."""
    assert entities_of({"job_id": "0f000000"}) == {Entity("job", "0f000000")}
    assert entities_of({"job_id": "ffffffff", "worker_id": "0" * 56, "actor_id": "f" * 32}) == set()


def test_copies_are_evidence_and_never_counted():
    """One broken ring is told by its rank, the controller, the driver and the event file; a second rank is another."""
    told = [
        at(10, "ring_break", who=w, node=N1, trust=Trust.COLLECTIVE) for w in ("w1", "w1", "w2")
    ]
    copy = at(11, "ring_break", node=N1, component="driver", trust=Trust.NOISE)  # names nobody
    later = at(30, "ring_break", who="w1", node=N1, trust=Trust.COLLECTIVE)

    assert run(at(9, "node_lost", node=N1), *told, copy) == [("node_lost", {"ring_break": 2})]
    assert run(*told, at(12, "node_lost", node=N1), copy, later) == [
        ("node_lost", {"ring_break": 3})
    ]


def test_the_end_of_a_node_explains_all_that_it_took_with_it():
    """Two runs lost a rank each: one incident, known by the ids of those that it explains, nothing told twice."""
    one = named(at(10, "ring_break", node=N2, job="j1", trust=Trust.COLLECTIVE), "one")
    two = named(at(10.5, "ring_break", node=N2, job="j2", trust=Trust.COLLECTIVE), "two")
    stranger = named(at(11, "ring_break", node=N2, job="j3", trust=Trust.COLLECTIVE), "three")
    items = (
        hosts(1, "one", N1),
        hosts(1, "two", N1),
        one,
        two,
        stranger,
        at(15, "node_lost", node=N1),
    )

    def play(state, item):
        return note(state, item) if isinstance(item, Fact) else correlate(state, item, CLASSES)[0]

    before = reduce(play, items[:-1], State())
    after = play(before, items[-1])

    assert [i.class_id for i in after.incidents] == ["node_lost", "ring_break"]
    lost, left = after.incidents
    assert dict(lost.explains) == {"ring_break": 2}
    assert {lost.id, *lost.merged, left.id} == {i.id for i in before.incidents}
    assert {e.id for e in lost.entities if e.kind == "run"} == {"one", "two"}


def test_a_finding_that_stands_for_many_counts_as_many():
    """Of its own class and as a symptom; a copy counts nothing."""
    first = at(10, "node_lost", node=N1)
    many = replace(at(20, "node_lost", node=N1), count=58)
    others = replace(at(30, "ring_break", node=N1, trust=Trust.COLLECTIVE), count=7)
    state, _ = correlate_all(State(), (), [first, many, replace(many, at=21.0), others], CLASSES)

    (incident,) = state.incidents
    assert incident.findings == 1 + 58 + 7
    assert incident.explains == (("ring_break", 7),)
