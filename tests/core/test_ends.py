"""What an event says of an end is what the GCS' own line says: whoever comes first, they are one finding."""

import json
from dataclasses import replace
from datetime import timezone
from itertools import permutations
from pathlib import Path

import pytest

from raywatch.collect.events import EventReader
from raywatch.core.ends import judge
from raywatch.core.incidents import State, correlate_all
from raywatch.model import Chunk, Fact, FileId, Finding, Source, Trust
from raywatch.observations import EventSeen
from raywatch.pipeline import examine, load_engine

ENGINE = load_engine()
CLASSES = ENGINE.ruleset.classes
API = Path(__file__).parent.parent / "api" / "2.60.0"
NODE, WORKER = "ab" * 28, "cd" * 28
DEAD = EventSeen("e/0", 1_795_417_743.5, "node_dead", NODE)
EXIT = EventSeen("w/0", 1_795_417_743.5, "worker_dead", NODE, WORKER, "01000000", 7)
HEARTBEATS = "health check failed due to missing too many heartbeats"
EXITS = "Worker unexpectedly exits with a connection error code 2. End of file."


GCS = Source("/s/logs/gcs_server.out", "gcs", "cpp")
RAYLET = Source("/s/logs/events/event_RAYLET.log", "event", "event")


def logged(*lines: str, source: Source = GCS) -> tuple[list[Finding], list[Fact]]:
    """What a log says with these lines."""
    data = "".join(f"{x}\n" for x in lines).encode()
    chunk = Chunk(source, FileId(1, 1), 0, 1, data, 0.0, final=True)
    seen = examine(ENGINE, chunk, timezone.utc, None)
    return list(seen.findings), list(seen.facts)


def recorded(name: str) -> tuple[list[Finding | Fact], tuple[list[Finding], list[Fact]]]:
    """What events and lines of one cluster say."""
    told = json.loads((API / f"{name}.json").read_text())
    reader = EventReader()
    pushed = [p for b in told["batches"] for p in reader.read(b["events"], b["posted_at"])]
    meant = [judge(o) for p in pushed for o in p.seen if isinstance(o, EventSeen)]
    findings, facts = logged(*told["gcs_server.out"])
    more, _ = logged(*told["event_RAYLET.log"], source=RAYLET)  # says whose job a worker was
    return [m for m in meant if m is not None], (findings + more, facts)


def line_of(event: EventSeen) -> str:
    """The GCS' line about the same."""
    if event.what == "node_dead":
        return (
            "[2026-11-23 07:09:03,500 I 10 10] (gcs_server) gcs_node_manager.cc:734: , death reason = "
            f"{event.reason}, death message = {event.message} node_id={NODE} node_name=10.77.0.3"
        )
    return (
        "[2026-11-23 07:09:03,500 W 10 10] (gcs_server) gcs_worker_manager.cc:70: Reporting worker exit, "
        f"worker id = {event.worker_id}, node id = {NODE}, address = 10.77.0.3, exit_type = {event.reason}, "
        f"exit_detail = {event.message}"
    )


@pytest.mark.parametrize(
    "event",
    [
        replace(DEAD, reason="UNEXPECTED_TERMINATION", message=HEARTBEATS),
        replace(
            DEAD,
            reason="UNEXPECTED_TERMINATION",
            message="dashboard_agent failed and raylet fate-shares with it.",
        ),
        replace(DEAD, reason="EXPECTED_TERMINATION", message="received SIGTERM"),
        replace(DEAD, reason="AUTOSCALER_DRAIN_IDLE", message="Termination of node that's idle"),
        replace(DEAD, reason="AUTOSCALER_DRAIN_PREEMPTED", message="spot is taken"),
        replace(
            DEAD,
            reason="AUTOSCALER_DRAIN_PREEMPTED",
            message="Node received SIGTERM; draining before shutdown.",
        ),
        replace(EXIT, reason="SYSTEM_ERROR", message=EXITS),
        replace(EXIT, reason="SYSTEM_ERROR", message="Worker exits with an exit code 27.."),
    ],
    ids=lambda e: f"{e.reason} {e.message[:20]}",
)
def test_an_event_means_what_the_log_s_line_means(event):
    """Class, subject, trust, and what of it is told."""
    ((finding,), _) = logged(line_of(event))
    meant = judge(event)

    assert isinstance(meant, Finding)
    assert (meant.class_id, meant.subject, meant.trust) == (
        finding.class_id,
        finding.subject,
        finding.trust,
    )
    assert (meant.at, meant.acts, meant.dated) == (finding.at, finding.acts, finding.dated)
    for key in ("node_id", "worker_id", "reason_message", "exit_code"):
        if key in finding.fields:
            assert meant.fields[key] == finding.fields[key]
    assert (meant.evidence.component, meant.evidence.line) == ("event", 0)


@pytest.mark.parametrize(
    "event",
    [
        replace(EXIT, reason="INTENDED_USER_EXIT", message="Worker exits by an user request."),
        replace(DEAD, reason="UNSPECIFIED", message="Ray does not say"),
        replace(EXIT, reason="SYSTEM_ERROR", message=EXITS, worker_id="01000000" + "f" * 48),
        replace(
            EXIT,
            reason="SYSTEM_ERROR",
            message="Worker exits unexpectedly by a signal. The process receives a SIGTERM..",
        ),
    ],
    ids=lambda e: e.message[:40],
)
def test_what_is_no_failure_in_the_log_is_none_as_an_event(event):
    """A goodbye, an end without a reason, a driver's, a worker that Ray itself told to go."""
    assert logged(line_of(event))[0] == []
    assert judge(event) is None


def test_a_worker_that_the_memory_monitor_killed():
    """It is about the node, as the raylet's report is."""
    meant = judge(replace(EXIT, reason="NODE_OUT_OF_MEMORY", message="Memory on the node ..."))

    assert isinstance(meant, Finding)
    assert (meant.class_id, meant.subject.kind, meant.subject.id) == ("ray_oom_kill", "node", NODE)
    assert meant.trust == Trust.RAY


@pytest.mark.parametrize("name", ["events", "events_snake_case"])
def test_lines_and_events_of_one_cluster_are_the_same_incidents(name):
    """Lines first, events first, or both at once: the same incidents, each finding once; and lines alone say no less."""
    meant, (findings, facts) = recorded(name)
    pushed = [m for m in meant if isinstance(m, Finding)]
    drained = [m for m in meant if isinstance(m, Fact)]
    parts = ((findings, facts), (pushed, drained))

    def told(*order):
        state = State()
        for some, known in order:
            state, _ = correlate_all(state, known, some, CLASSES)
        return state

    def shape(state):
        rows = ((i.class_id, i.subject, i.findings, i.explains) for i in state.incidents)
        return sorted(rows, key=str)

    alone = told(parts[0])
    assert shape(alone)
    assert len(pushed) >= 5
    for order in permutations(parts):
        assert shape(told(*order)) == shape(alone)
    assert shape(told((findings + pushed, facts + drained))) == shape(alone)
    assert {n: d.reason for n, d in told(parts[1], parts[0]).drains.items()} == {
        n: d.reason for n, d in alone.drains.items()
    }


def test_an_event_alone_opens_the_incident():
    """A daemon that cannot read the head's logs."""
    meant, _ = recorded("events")
    state, _ = correlate_all(State(), [], [m for m in meant if isinstance(m, Finding)], CLASSES)

    classes = [i.class_id for i in state.incidents]
    assert classes.count("worker_crash") >= 1
    assert {"spot_preemption", "node_lost"} <= set(classes)


def test_a_drain_that_names_no_reason_takes_none_away():
    """The event of a drain knows the node alone; the log's line knows why and until when."""
    event = judge(EventSeen("d/0", 100.0, "node_draining", NODE))
    assert isinstance(event, Fact)
    why = {"node_id": NODE, "reason": "PREEMPTION", "message": "spot", "deadline_ms": "200000"}
    line = replace(event, fields=why, at=100.0)
    late = replace(event, at=130.0)

    for order in permutations([event, line]):
        state = State()
        for fact in (*order, late):
            state, _ = correlate_all(state, [fact], [], CLASSES)
        drain = state.drains[NODE]
        assert (drain.reason, drain.deadline_at, drain.at) == ("PREEMPTION", 200.0, 100.0)
