"""Export files say what other logs say: with ids as those have them, once, in whatever order."""

import base64
import json
from dataclasses import replace
from datetime import timezone
from itertools import permutations

import pytest

from raywatch.core.ends import judge
from raywatch.core.exported import exported
from raywatch.core.incidents import State, correlate_all
from raywatch.model import Chunk, FileId, Finding, Source
from raywatch.observations import EventSeen
from raywatch.pipeline import Examined, examine, load_engine

ENGINE = load_engine()
CLASSES = ENGINE.ruleset.classes
NODE, WORKER, ACTOR, JOB, TASK = "ab" * 28, "cd" * 28, "ef" * 12 + "02000000", "02000000", "12" * 24
AT = 1_795_417_743
GCS = Source("/s/logs/gcs_server.out", "gcs", "cpp")
EVENT = Source("/s/logs/events/event_RAYLET.log", "event", "event")
DRIVER = Source("/s/logs/job-driver-job1.log", "job", submission_id="job1")
HEARTBEATS = "health check failed due to missing too many heartbeats"
SIGKILL = "Worker unexpectedly exits with a connection error code 2. End of file."


def b64(number: str) -> str:
    """An id as protobuf's JSON has it."""
    return base64.b64encode(bytes.fromhex(number)).decode()


def row(kind: str, at: int = AT, **data: object) -> dict[str, object]:
    """A line's object, as the C++ writers order it."""
    return {"event_data": data, "event_id": "ab", "source_type": kind, "timestamp": at}


def node_dead(reason="UNEXPECTED_TERMINATION", message=HEARTBEATS):
    """A row of the table of nodes."""
    death = {"reason": reason, "reason_message": message}
    return row("EXPORT_NODE", death_info=death, end_time_ms=f"{AT}500", node_id=b64(NODE), state="DEAD")  # fmt: skip


def actor_dead(reason="WORKER_DIED", at=AT, message=f"Worker exit type: SYSTEM_ERROR {SIGKILL}"):
    """A row of the table of actors."""
    cause = {"actor_died_error_context": {"error_message": message, "pid": 7, "reason": reason}}
    return row("EXPORT_ACTOR", at, actor_id=b64(ACTOR), class_name="Book", death_cause=cause, job_id=b64(JOB), node_id=b64(NODE), pid=7, state="DEAD")  # fmt: skip


def task_failed(reason, message="", **named):
    """A task's attempt that failed half a second after AT."""
    steps = {"error_info": {"error_message": message, "error_type": reason}, **named}
    steps["state_ts_ns"] = {"5": f"{AT}100000000", "12": f"{AT}500000000"}
    return row("EXPORT_TASK", AT + 1, job_id=b64(JOB), state_updates=steps, task_id=b64(TASK))


def job_failed(message="Job entrypoint command failed with exit code 1, last logs:\n", **more):
    """A submission that failed."""
    return row("EXPORT_SUBMISSION_JOB", submission_job_id="job1", status="FAILED", message=message, error_type="JOB_ENTRYPOINT_COMMAND_ERROR", end_time=f"{AT}600", **more)  # fmt: skip


def said(*lines, source=None):
    """What lines of one file say: objects are those of an export file."""
    source = source or Source("/s/logs/export_events/event_EXPORT_X.log", "export", "event")
    texts = [x if isinstance(x, str) else json.dumps(x, separators=(",", ":")) for x in lines]
    data = "".join(f"{x}\n" for x in texts).encode()
    chunk = Chunk(source, FileId(1, 1), 0, 1, data, 0.0, final=True)
    return examine(ENGINE, chunk, timezone.utc)


def of_push(event):
    """What an event means that Ray pushed."""
    meant = judge(event)
    assert isinstance(meant, Finding)
    return Examined((meant,), (), 0)


def incidents(*arrivals):
    """The incidents after what was said, in the order of its arrival."""
    state = State()
    for seen in arrivals:
        state, _ = correlate_all(state, seen.facts, seen.findings, CLASSES)
    return state.incidents


@pytest.mark.parametrize(
    ("line", "text", "at", "named"),
    [
        (node_dead(), f"node DEAD: UNEXPECTED_TERMINATION: {HEARTBEATS}", AT + 0.5, {"node_id": NODE}),
        (
            actor_dead("OWNER_DIED", message="gone"),
            "actor DEAD: OWNER_DIED: gone",
            AT,
            {"actor_id": ACTOR, "job_id": JOB, "node_id": NODE, "pid": "7", "actor_state": "DEAD"},
        ),
        (
            task_failed("WORKER_DIED", "\x1b[36mred\x1b[0m", node_id=b64(NODE), worker_id=b64(WORKER)),
            "task FAILED: WORKER_DIED: red",
            AT + 0.5,
            {"task_id": TASK, "job_id": JOB, "node_id": NODE, "worker_id": WORKER},
        ),
        (
            job_failed("No", driver_exit_code=1),
            "submission job FAILED: JOB_ENTRYPOINT_COMMAND_ERROR: No",
            AT + 0.6,
            {"submission_id": "job1", "exit_code": "1"},
        ),
        (
            row("EXPORT_DRIVER_JOB", config={"metadata": {"job_submission_id": "job1"}}, driver_pid="9", end_time=f"{AT}700", is_dead=True, job_id=b64(JOB)),
            "driver DEAD",
            AT + 0.7,
            {"job_id": JOB, "pid": "9", "submission_id": "job1"},
        ),
        (
            row("EXPORT_TRAIN_RUN", name="r", id="1", job_id=b64(JOB), controller_actor_id=b64(ACTOR), status="ERRORED", status_detail="why", end_time_ns=f"{AT}800000000"),
            "train run ERRORED: why",
            AT + 0.8,
            {"run_name": "r", "run_id": "1", "job_id": JOB, "actor_id": ACTOR},
        ),
        (
            row("EXPORT_TRAIN_RUN_ATTEMPT", run_id="1", attempt_id="2", status="RUNNING"),
            "train attempt RUNNING",
            AT,
            {"run_id": "1", "attempt_id": "2"},
        ),
    ],
    ids=lambda x: x.split(":")[0] if isinstance(x, str) else None,
)  # fmt: skip
def test_a_row_says_what_its_state_is_when_and_about_whom(line, text, at, named):
    """In either style of keys; ids in hex."""
    for told in (line, json.loads(camel(json.dumps(line)))):
        found = exported(told)
        assert found is not None
        assert (found.text, found.at) == (text, at)
        assert named.items() <= found.fields.items()


def camel(text: str) -> str:
    """The same JSON with the keys of `event_data` in camelCase."""
    whole = json.loads(text)

    def turned(value):
        if not isinstance(value, dict):
            return value
        parts = {k: k.split("_") for k in value}
        return {
            p[0] + "".join(map(str.capitalize, p[1:])) if k.islower() else k: turned(value[k])
            for k, p in parts.items()
        }

    data = {k: turned(v) for k, v in turned(whole["event_data"]).items()}
    if "config" in data:  # what a user gives keeps its keys
        data["config"] = whole["event_data"]["config"]
    return json.dumps({**whole, "event_data": data})


@pytest.mark.parametrize(
    "odd",
    [
        row("EXPORT_NODE", node_id="AAAA", state=7, death_info="x", end_time_ms="soon"),
        row("EXPORT_TASK", state_updates={"state_ts_ns": {"12": None}, "error_info": 3}),
        row("EXPORT_ACTOR", death_cause={"x": {}}, pid={}, actor_id="no base64!"),
        {**row("EXPORT_NODE", state="DEAD"), "timestamp": "x" * 99},
    ],
)
def test_an_odd_row_names_nobody(odd):
    """Ids of another length, texts for numbers: nothing is raised, nothing is made up."""
    found = exported(odd)

    assert found is not None
    assert not {"node_id", "actor_id", "worker_id", "pid"} & found.fields.keys()


def test_what_is_no_row_of_these_tables_is_read_as_ever():
    """Another source, no table in it."""
    assert exported(row("EXPORT_DATASET_METADATA")) is None
    assert exported({"source_type": "EXPORT_NODE", "event_data": []}) is None


def gcs_line(reason, message):
    """The GCS' line about the node."""
    return f"[2026-11-23 07:09:03,500 I 10 10] (gcs_server) gcs_node_manager.cc:734: , death reason = {reason}, death message = {message} node_id={NODE} node_name=10.77.0.3"


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("UNEXPECTED_TERMINATION", HEARTBEATS),
        ("UNEXPECTED_TERMINATION", "dashboard_agent failed and raylet fate-shares with it."),
        ("EXPECTED_TERMINATION", "received SIGTERM"),
        ("AUTOSCALER_DRAIN_IDLE", "Termination of node that's idle for 300 seconds"),
        ("AUTOSCALER_DRAIN_PREEMPTED", "spot is taken"),
        ("AUTOSCALER_DRAIN_PREEMPTED", "Node received SIGTERM; draining before shutdown."),
    ],
)
def test_the_end_of_a_node_means_what_the_gcs_line_means(reason, message):
    """Class, subject, trust, time, reason: either is the other's copy."""
    (mine,) = said(node_dead(reason, message)).findings
    (theirs,) = said(gcs_line(reason, message), source=GCS).findings

    assert (mine.class_id, mine.subject, mine.trust, mine.at, mine.acts) == (
        theirs.class_id,
        theirs.subject,
        theirs.trust,
        theirs.at,
        theirs.acts,
    )
    for key in ("node_id", "reason_message", "agent"):
        if key in theirs.fields:
            assert mine.fields[key] == theirs.fields[key]


WORKER_EXIT = f"[2026-11-23 07:09:03,496 W 10 10] (gcs_server) gcs_worker_manager.cc:70: Reporting worker exit, worker id = {WORKER}, node id = {NODE}, address = 10.77.0.3, exit_type = SYSTEM_ERROR, exit_detail = {SIGKILL}"
WORKER_EVENT = f'{{"custom_fields":{{"job_id":"{JOB}","node_id":"{NODE}","worker_id":"{WORKER}"}},"label":"RAY_WORKER_FAILURE","message":"A worker died or was killed while executing a task by an unexpected system error. Worker ID: {WORKER} Node ID: {NODE} Worker PID: 7","timestamp":{AT}}}'
JOB_EVENT = f'{{"event_id": "a", "source_type": "JOBS", "message": "Completed a ray job job1 with a status FAILED.", "timestamp": "{AT}", "custom_fields": {{"submission_id": "job1"}}, "severity": "INFO", "label": ""}}'


def killed_worker():
    """What is said of a worker that was killed under a task: by the GCS, its raylet, and the task's owner."""
    pushed = EventSeen(
        "w/0",
        AT + 0.496,
        "worker_dead",
        NODE,
        WORKER,
        JOB,
        7,
        reason="SYSTEM_ERROR",
        message=SIGKILL,
    )
    whole = task_failed("WORKER_DIED", node_id=b64(NODE), worker_id=b64(WORKER))
    return [
        said(WORKER_EXIT, source=GCS),
        said(WORKER_EVENT, source=EVENT),
        of_push(pushed),
        said(whole),
        said(
            task_failed("WORKER_DIED")
        ),  # Ray writes a task's row in parts: this one names only its job
    ]


def killed_node():
    """What is said of a node that is gone."""
    pushed = EventSeen(
        "e/0",
        AT + 0.5,
        "node_dead",
        NODE,
        reason="UNEXPECTED_TERMINATION",
        message=HEARTBEATS,
    )
    return [
        said(gcs_line("UNEXPECTED_TERMINATION", HEARTBEATS), source=GCS),
        said(node_dead()),
        of_push(pushed),
    ]


def failed_job():
    """What is said of a job that failed."""
    return [said(JOB_EVENT, source=EVENT), said(job_failed())]


@pytest.mark.parametrize("story", [killed_worker, killed_node, failed_job])
def test_one_failure_is_one_incident_and_counted_once_in_every_order(story):
    """The logs alone give one incident with one finding; the export files add lines to it and nothing else."""
    told = story()
    logs = [s for s in told if all(f.evidence.component != "export" for f in s.findings)]
    (without,) = incidents(*logs)
    for order in permutations(told):
        (one,) = incidents(*order)
        assert (one.class_id, one.subject, one.findings) == (
            without.class_id,
            without.subject,
            without.findings,
        )
        assert one.explains == without.explains
        assert any(e.component == "export" for e in one.evidence)


@pytest.mark.parametrize(("before_s", "counts"), [(10, [1]), (100, [1, 1])])
def test_a_row_of_the_end_repeats_what_a_log_told_well_before(before_s, counts):
    """A job is torn down for seconds after its log has told; what is too old is another incident."""
    log = said(JOB_EVENT.replace(str(AT), str(AT - before_s)), source=EVENT)
    found = incidents(log, said(job_failed()))

    assert [one.findings for one in found] == counts


def test_what_was_known_of_nobody_is_not_counted_again_when_a_root_is_found():
    """A node's end explains its worker once, although two rows told of it."""
    (one,) = incidents(*killed_worker(), *killed_node())

    assert (one.class_id, dict(one.explains)) == ("node_lost", {"worker_crash": 1})


# --- what is no failure ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        row("EXPORT_NODE", end_time_ms="0", node_id=b64(NODE), state="ALIVE"),
        row("EXPORT_NODE", labels={"death_info": "UNEXPECTED_TERMINATION"}, state="ALIVE"),
        row("EXPORT_TRAIN_RUN", name="r", status="RUNNING", run_settings={"death_info": {"reason": "UNEXPECTED_TERMINATION"}}),
        actor_dead("RAY_KILL", message="killed by `ray.kill`"),
        actor_dead("OWNER_DIED"),
        actor_dead(message="Worker exit type: INTENDED_USER_EXIT Worker exit detail: exit_actor() is called."),
        {**actor_dead(), "event_data": {"actor_id": b64(ACTOR), "labels": {"reason": "WORKER_DIED"}, "state": "ALIVE"}},
        task_failed("TASK_CANCELLED"),
        task_failed("ACTOR_UNAVAILABLE"),
        # Of an actor's constructor it is written also where a handle was dropped before it ran.
        {**task_failed("WORKER_DIED"), "event_data": {**task_failed("WORKER_DIED")["event_data"], "task_id": b64("ff" * 8 + "12" * 16)}},
        row("EXPORT_TASK", task_info={"labels": {"error_type": "OUT_OF_MEMORY"}}, task_id=b64(TASK)),
        row("EXPORT_SUBMISSION_JOB", status="RUNNING", metadata={"status": "FAILED"}, entrypoint="echo Job entrypoint command failed with exit code 137"),
        row("EXPORT_SUBMISSION_JOB", status="SUCCEEDED", message="Traceback (most recent call last):\nValueError: none"),
    ],
)  # fmt: skip
def test_what_is_no_failure_is_none(line):
    """Also where a user's own words look like a row's structure."""
    assert said(line).findings == ()


# --- what a program raised ---------------------------------------------------------------------------

RAISED = 'User exception:\nray::f() (pid=7)\n  File "t.py", line 4, in f\n    g()\nValueError: the batch is empty'


def test_an_exception_of_a_task_opens_nothing():
    """The program may catch it, or Ray tries again; be it a thousand times."""
    found = said(task_failed("TASK_EXECUTION_EXCEPTION", RAISED)).findings
    state, changes = correlate_all(State(), (), found * 100, CLASSES)

    assert (found[0].class_id, found[0].fields["exception"]) == ("user_exception", "ValueError")
    assert (state.incidents, changes, len(state.waiting)) == ((), (), 1)


@pytest.mark.parametrize("first", [0, 1])
def test_it_is_evidence_of_what_failed_with_it_and_names_or_counts_nothing(first):
    """Beside a worker that died, before or after it."""
    task = said(task_failed("TASK_EXECUTION_EXCEPTION", RAISED))
    died = said(WORKER_EVENT, source=EVENT)
    (one,) = incidents(*((task, died) if first else (died, task)))

    assert (one.class_id, one.findings, one.explains) == ("worker_crash", 1, ())
    assert [e.class_id for e in one.evidence] == ["worker_crash", "user_exception"]
    assert (one.settled_at, one.acts) == (incidents(died)[0].settled_at, True)


def test_a_job_s_last_words_name_its_exception():
    """Without the job's log; with it, they are a copy of what stands there."""
    words = 'Traceback (most recent call last):\n  File "t.py", line 9, in <module>\nValueError: no'
    mine = said(job_failed(f"Job entrypoint command failed with exit code 1:\n{words}\n"))
    (alone,) = incidents(mine)
    log = said(words, source=DRIVER).findings  # it has no time: a scan puts it last
    (both,) = correlate_all(State(), (), (*log, *mine.findings), CLASSES)[0].incidents

    for one in (alone, both):
        assert (one.class_id, one.subject.id) == ("user_exception", "job1")
        assert (one.fields["exception"], dict(one.explains)) == (
            "ValueError",
            {"job_driver_failed": 1},
        )
        assert one.findings == 2


# --- an actor's end ------------------------------------------------------------------------------------


def test_an_actor_that_is_dead_does_not_die_again_when_its_job_ends():
    """Ray exports its row once more, hours later perhaps."""
    first = said(actor_dead())
    for later in (9, 90, 9000):
        (one,) = incidents(first, said(actor_dead(at=AT + later)))
        assert (one.class_id, one.findings) == ("actor_died", 1)


@pytest.mark.parametrize("kind", ["oom_context", "runtime_env_failed_context"])
def test_nor_is_what_ended_it_told_again(kind):
    """Also where the class is about its node or job: memory, a runtime environment."""

    def dead(at):
        line = actor_dead(at=at)
        line["event_data"] |= {"death_cause": {kind: {"error_message": "why"}}}
        return said(line)

    (one,) = incidents(dead(AT), dead(AT + 9000))
    assert one.findings == 1


def test_another_actor_s_end_is_told():
    """Hours later, of the same job."""
    other = said(actor_dead(at=AT + 9000)).findings[0]
    state, _ = correlate_all(State(), (), said(actor_dead()).findings, CLASSES)
    subject = replace(other.subject, id="77" * 16)
    fields = {**other.fields, "actor_id": "77" * 16}
    state, _ = correlate_all(state, (), [replace(other, subject=subject, fields=fields)], CLASSES)

    assert len(state.incidents) == 2


def test_a_supervisor_is_named_with_its_job_and_not_with_the_dashboard_s():
    """All supervisors are actors of one driver: it would join all jobs."""
    line = actor_dead()
    line["event_data"] |= {"class_name": "JobSupervisor", "name": "_ray_internal_job_actor_job1"}
    (finding,) = said(line).findings

    assert finding.fields["submission_id"] == "job1"
    assert "job_id" not in finding.fields


def test_a_driver_s_row_joins_its_job_and_its_submission():
    """What names only the job is about the submission that failed."""
    driver = row("EXPORT_DRIVER_JOB", config={"metadata": {"job_submission_id": "job1"}}, is_dead=True, job_id=b64(JOB))  # fmt: skip
    (one,) = incidents(said(driver), said(actor_dead()), said(job_failed()))
    apart = incidents(said(actor_dead()), said(job_failed()))

    assert {e.kind for e in one.entities} >= {"submission", "job", "actor"}
    assert len(apart) == 2
