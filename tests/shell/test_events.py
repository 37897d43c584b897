"""What Ray 2.60 really pushed, in both key styles, is read alike; what nobody would push never raises."""

import base64
import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raywatch.collect.events import MAX_DEFINED, EventReader, events_key, export_environment
from raywatch.collect.rayjson import load
from raywatch.observations import ActorSeen, EventSeen, JobSeen, NodeSeen, WorkerSeen

API = Path(__file__).parent.parent / "api" / "2.60.0"
LATER = 2e9
BATCHES = {
    style: json.loads((API / f"{name}.json").read_text())["batches"]
    for style, name in (("camel", "events"), ("snake", "events_snake_case"))
}
# Written by Ray 2.60's own protobuf classes: its schema has them, its own code does not send them yet.
SUBMISSION = json.loads((API / "events_submission.json").read_text())
HEAD, LOST, SPOT = (
    "8b8cf54b8f7f81d4600cc7c07012353e0ed6b1f48c5e542982c4b840",
    "8cef66733f7f0e1e7b8d3a2dd6894512107d6d205f2052504796e9d4",
    "79f0b6f2cabbd65b224a3715d544f8a71933cac97ed4aa9714f5d78b",
)
DRAINED = "c47e280a70d0b9a59ef36c1cc944fbfc376cde4283d31750efa3d43e"
TASK_WORKER = "df134c4e8a093589f2050d784963a0adb7274825d04035206ef88373"
BOOK = "2c710f682ff34ce208523ed701000000"


def told(kind: type, *, style: str = "camel", reader: EventReader | None = None) -> list[Any]:
    """What one reader makes of all batches of a style."""
    reader = reader or EventReader()
    pushed = [p for b in BATCHES[style] for p in reader.read(b["events"], b["posted_at"])]
    return [o for p in pushed for o in p.seen if type(o) is kind]


def read(events: Any, now: float = LATER) -> list[Any]:
    """What a new reader makes of one batch."""
    return [o for p in EventReader().read(events, now) for o in p.seen]


def snake(key: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in key)


def in_snake_case(value: Any, *, within: str = "") -> Any:
    """The same event with the keys of the protobuf files; those of maps are data."""
    if isinstance(value, dict):
        is_map = within in ("resources", "labels", "metadata", "requiredResources", "labelSelector")
        return {k if is_map else snake(k): in_snake_case(v, within=k) for k, v in value.items()}
    return [in_snake_case(v) for v in value] if isinstance(value, list) else value


def test_nodes_come_stay_and_go():
    """With address, name and head; the end in the State API's own words, at the time of the event."""
    nodes = told(NodeSeen)

    assert {(n.node_id, n.name, n.is_head, n.ip) for n in nodes} == {
        (HEAD, "node0", True, "192.0.2.2"),
        (LOST, "node1", False, "192.0.2.2"),
        (SPOT, "node2", False, "192.0.2.2"),
    }
    assert [(n.node_id, n.message, n.ended_at) for n in nodes if n.state == "DEAD"] == [
        (
            SPOT,
            "Terminated due to preemption: spot is taken",
            1795613989.214,
        ),
        (
            LOST,
            "Unexpected termination: health check failed due to missing too many heartbeats",
            1795614007.395,
        ),
    ]


def test_a_node_that_drains_lives_and_is_told_so():
    """DRAINING is a part of ALIVE."""
    events = [e for e in told(EventSeen, style="snake") if e.what == "node_draining"]
    alive = [n for n in told(NodeSeen, style="snake") if n.node_id == DRAINED]

    assert [(e.node_id, e.reason) for e in events] == [(DRAINED, "")]
    assert [n.state for n in alive] == ["ALIVE", "ALIVE", "DEAD"]


def test_a_dead_worker_has_the_node_and_the_pid_of_its_definition():
    """Its end names only itself and its job."""
    first = told(WorkerSeen)[0]

    assert (first.worker_id, first.node_id, first.pid) == (TASK_WORKER, HEAD, 5038)
    assert (first.worker_type, first.exit_type, first.ended_at) == (
        "WORKER",
        "SYSTEM_ERROR",
        1795613978.366,
    )
    event = next(e for e in told(EventSeen) if e.what == "worker_dead")
    assert (event.worker_id, event.job_id, event.pid) == (TASK_WORKER, "01000000", 5038)
    assert event.message.startswith("Worker unexpectedly exits with a connection error code 2.")


def test_an_actor_lives_restarts_and_dies():
    """With its class, and why it is started again or dead."""
    rows = [a for a in told(ActorSeen) if a.actor_id == BOOK]

    assert {(a.class_name, a.name, a.job_id) for a in rows} == {("Book", "book", "01000000")}
    assert [(a.state, a.node_id, a.pid, a.death_reason) for a in rows[2:6]] == [
        ("ALIVE", LOST, 5106, ""),
        ("RESTARTING", "", 0, "ACTOR_FAILURE"),
        ("ALIVE", SPOT, 5143, ""),
        ("DEAD", "", 0, "WORKER_DIED"),
    ]
    moved = [a for a in told(ActorSeen, style="snake") if a.state == "RESTARTING"]
    assert [a.death_reason for a in moved] == ["ACTOR_FAILURE", "NODE_PREEMPTION"]


def test_a_driver_is_a_job_only_where_it_is_no_submission():
    """A submission has a row of its own, which says how it ended."""
    assert [(j.job_id, j.status, j.entrypoint) for j in told(JobSeen)] == [
        ("01000000", "RUNNING", "python train.py"),
        ("01000000", "SUCCEEDED", "python train.py"),
    ]
    assert {j.job_id for j in told(JobSeen, style="snake")} == {"01000000"}  # not 03000000, of j1


@pytest.mark.parametrize("style", ["camelCase", "snake_case"])
def test_a_submission_is_a_whole_row_of_a_job(style):
    """Entrypoint, metadata and runtime_env of its definition, status and message of what became of it."""
    jobs = read(SUBMISSION[style])

    assert [(j.status, j.driver_exit_code, j.ended_at) for j in jobs] == [
        ("PENDING", None, None),
        ("RUNNING", None, None),
        ("FAILED", 3, 1795614304.0),
    ]
    last = jobs[-1]
    assert (last.kind, last.submission_id, last.started_at) == (
        "SUBMISSION",
        "raysubmit_one",
        1795614302.0,
    )
    assert (last.entrypoint, last.metadata) == ("python train.py", {"raywatch_run": "llm"})
    assert json.loads(last.runtime_env) == {"env_vars": {"A": "1"}}
    assert (last.error_type, last.driver_node_id) == ("JOB_ENTRYPOINT_COMMAND_ERROR", "07" * 28)


def test_a_job_without_its_definition_is_no_row():
    """A row of a job says what would be submitted again: half of one would be worse than none."""
    assert read(SUBMISSION["camelCase"][1:]) == []


def test_both_key_styles_say_the_same():
    """RAY_..._PRESERVE_PROTO_FIELD_NAME=1 changes the keys alone."""
    one, other = EventReader(), EventReader()
    for batch in BATCHES["camel"]:
        renamed = in_snake_case(batch["events"])
        assert one.read(batch["events"], LATER) == other.read(renamed, LATER)


def test_an_event_has_the_same_id_when_it_is_sent_again():
    """Also where the envelope has none."""
    batch = BATCHES["camel"][5]["events"]
    bare = [{k: v for k, v in e.items() if k != "eventId"} for e in batch]

    for events in (batch, bare):
        first, again = (read(events) for _ in range(2))
        assert first == again
        assert len({o.id for o in first if isinstance(o, EventSeen)}) == 1


@pytest.mark.parametrize(
    "node_id",
    ["", "!!", "i4z1", base64.b64encode(b"\xff" * 28).decode(), HEAD, None, 7, ["x"]],
)
def test_an_id_of_another_length_is_nobodys(node_id):
    """Not base64, too short, nil, hex, no text: the event is left out, the next one is read."""
    events = copy.deepcopy(BATCHES["camel"][-1]["events"])
    broken = copy.deepcopy(events)
    broken[0]["nodeLifecycleEvent"]["nodeId"] = node_id

    assert read(broken) == []
    assert len(read([*broken, *events])) == 2


def test_nothing_is_from_the_future():
    """A clock that is ahead must not outdate what the dashboard says later."""
    events = BATCHES["camel"][-1]["events"]

    assert [o.at for o in read(events, 1000.0)] == [1000.0, 1000.0]


def test_what_was_defined_is_forgotten_in_the_end():
    """A cluster that starts workers for years."""
    reader = EventReader()
    defined = next(e for e in BATCHES["camel"][3]["events"] if "workerDefinitionEvent" in e)
    for number in range(MAX_DEFINED + 10):
        event = copy.deepcopy(defined)
        worker = base64.b64encode(number.to_bytes(28, "big")).decode()
        event["workerDefinitionEvent"]["workerId"] = worker
        reader.read([event], LATER)

    assert len(reader._workers) == MAX_DEFINED


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
WORDS = sorted(
    {
        key
        for batches in BATCHES.values()
        for b in batches
        for e in b["events"]
        for k, v in e.items()
        for key in (k, *(v if isinstance(v, dict) else ()))
    }
    | {"stateTransitions", "deathInfo", "timestamp", "state", "config", "serializedRuntimeEnv"}
)


@given(st.lists(JSON | st.dictionaries(st.sampled_from(WORDS), JSON, max_size=6), max_size=6))
def test_any_json_is_read_without_an_error(events):
    """Whatever its types are."""
    for seen in read(events):
        assert seen.at <= LATER


@given(st.data())
def test_a_real_event_with_anything_in_it_is_read_without_an_error(data):
    """One value of a real event is another one; what is told still is of the right types, and the others are told."""
    events = copy.deepcopy([e for b in BATCHES["camel"] for e in b["events"]])
    place: Any = data.draw(st.sampled_from(events))
    while isinstance(place, (dict, list)) and place:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], (dict, list)) or not place[key] or data.draw(st.booleans()):
            place[key] = data.draw(JSON)
            break
        place = place[key]
    seen = read(events)

    assert len(seen) >= 10
    json.dumps([str(o) for o in seen])
    for row in seen:
        assert isinstance(row.at, float)
        for name in ("node_id", "worker_id", "actor_id", "state", "message", "ip"):
            assert isinstance(getattr(row, name, ""), str)


def test_depth_is_no_danger():
    """Brackets by the thousand, in the body and in a text that is JSON itself."""
    deep = "[" * 100_000
    events = copy.deepcopy(SUBMISSION["camelCase"])
    events[0]["submissionJobDefinitionEvent"]["config"]["serializedRuntimeEnv"] = deep

    assert load(deep.encode()) is None
    assert read(events) == []
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    bare = {
        "nodeLifecycleEvent": {"nodeId": "i4z1", "x": nested}
    }  # its id is a digest of all of it
    assert read([bare, *BATCHES["camel"][-1]["events"]]) != []


def test_the_environment_names_where_and_what():
    """A key that is good for events alone; not the token, which Ray would write into its agent's log."""
    key = events_key("secret")
    env = export_environment("http://10.0.0.1:9265/", key)

    assert env["RAY_enable_ray_event"] == "1"
    assert env["RAY_DASHBOARD_AGGREGATOR_AGENT_EVENTS_EXPORT_ADDR"] == (
        f"http://10.0.0.1:9265/api/v1/events/{key}"
    )
    types = env["RAY_DASHBOARD_AGGREGATOR_AGENT_EXPOSABLE_EVENT_TYPES"].split(",")
    assert "NODE_LIFECYCLE_EVENT" in types
    assert not [t for t in types if "TASK" in t]
    assert len(key) == 32
    assert key != events_key("other")
    assert "secret" not in str(env)


@pytest.mark.parametrize("style", ["camel", "snake"])
def test_what_an_older_session_did_is_no_news(style):
    """Ids of jobs and drivers begin again with each session; Ray sends for ever what it could not send."""
    key = "sessionName" if style == "camel" else "session_name"
    batches = [b["events"] for b in BATCHES[style]]

    def of(session, events):
        return [{**e, key: session} for e in events]

    reader, new = EventReader(), "session_2026-11-25_20-00-00_000000_9"
    assert any(reader.read(of(new, b), LATER) for b in batches)
    old = "session_2026-11-25_10-00-00_000000_9"
    assert [reader.read(of(old, b), LATER) for b in batches] == [[] for _ in batches]


def test_each_session_of_a_batch_is_told_apart():
    """The newer one comes first to last, whatever is between; an event without a name is of the session before it."""
    events = BATCHES["camel"][-1]["events"]
    one, two = "session_2026-11-25_10-00-00_000000_9", "session_2026-11-25_20-00-00_000000_9"
    mixed = [{**e, "sessionName": s} for s in (one, two, "", one) for e in events]
    pushed = EventReader().read(mixed, LATER)

    assert [p.session for p in pushed] == [one, two]
    assert len(pushed[1].seen) == 2 * len(pushed[0].seen) > 0
