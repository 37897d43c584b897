"""What real autoscalers of Ray 2.9 to 2.60 answered and logged -> one sentence that says why machines do not come."""

import json
from datetime import timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raywatch.bundles import bundles_in, spoken
from raywatch.capacitytables import capacity_story
from raywatch.collect.raylogs import describe
from raywatch.collect.raystatus import (
    parse_groups,
    parse_report,
    parse_serve,
    parse_status,
    parse_train_v1,
)
from raywatch.core.capacity import Capacity, heard, learned
from raywatch.core.capacity_view import capacity_json
from raywatch.core.runs import Runs, observe
from raywatch.model import Chunk, FileId
from raywatch.observations import Observation
from raywatch.pipeline import examine, load_engine

API = Path(__file__).parent / "api"
REAL = API / "2.60.0" / "autoscaler"
VERSIONS = ("2.9.3", "2.24.0", "2.40.0", "2.49.2", "2.60.0")
AWS = "We currently do not have sufficient p4d.24xlarge capacity in the Availability Zone you requested"
ENGINE = load_engine()


def answer(path, name):
    """A recorded answer."""
    return json.loads((path / f"{name}.json").read_text())


def findings_in(text, name="monitor.log"):
    """What the shipped signatures find in lines of a log."""
    source = describe(f"/tmp/ray/session_x/logs/{name}")
    assert source
    chunk = Chunk(source, FileId(1, 2), 0, 1, text.encode(), 0.0, final=True)
    return examine(ENGINE, chunk, timezone.utc, None).findings


def real(name, log="monitor.log") -> dict[str, Any]:
    """A real autoscaler's report and log, as the daemon takes them in; its clock is the log's."""
    found = findings_in((REAL / f"{name}.log").read_text(), log)
    assert found
    now = max(f.at for f in found) + 1
    capacity = learned(Capacity(), parse_status(answer(REAL, name), now), now)
    return dict(capacity_json(heard(capacity, found, now)))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_cluster_without_an_autoscaler_says_so_in_every_version(version):
    """Three headings of demands and two of requests in five versions; nothing will be started for anybody."""
    folder, now = API / version, 2e9
    (report,) = parse_status(answer(folder, "cluster_status"), now)
    (groups,) = parse_groups(answer(folder, "placement_groups"), now)
    shown = capacity_json(learned(Capacity(), [report, groups], now))

    assert {(d["kind"], d["count"], d["words"]) for d in shown["demands"]} == {
        ("work", 1, "64 CPU"),
        ("work", 2, "4 GPU, 1 CPU"),
        ("group", 1, "2 x (8 CPU)"),
    }
    assert (shown["autoscaler"], len(shown["nodes"]), shown["nodes"][0]["type"]) == ("none", 1, "")
    assert shown["why"] == (
        "1 placement group waits for 2 x (8 CPU), and 2 other demands wait:"
        " no autoscaler runs, so that no node will be started for it."
    )
    (gang,) = [d for d in shown["demands"] if d["kind"] == "group"]
    assert gang["who"] == ["gang"]
    assert shown["demands"][0] is gang  # the others wait since they were seen


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_refused_launch_has_the_clouds_own_words(version):
    """They stand in the log only; the report says who and that."""
    shown = real(f"{version}-refused")
    (failure,) = shown["failures"]

    assert shown["why"] == (
        "3 tasks or actors wait for 2 CPU: the cloud has no capacity or quota for cpu-worker"
        f" (InsufficientInstanceCapacity: {AWS})."
    )
    assert (failure["type"], failure["class"]) == ("cpu-worker", "capacity_unavailable")
    assert failure["first_at"] < failure["last_at"]
    (workers,) = [n for n in shown["nodes"] if n["type"] == "cpu-worker"]
    assert (workers["active"], list(workers["pending"])) == (0, ["launching"])


@pytest.mark.parametrize(
    ("version", "log"), [("v1", "monitor.log"), ("v2", "events/event_AUTOSCALER.log")]
)
def test_what_no_node_type_can_satisfy_is_said_to_wait_for_ever(version, log):
    """v2 says so in its event file only."""
    shown = real(f"{version}-never", log)

    assert {(d["kind"], d["words"], d["infeasible"]) for d in shown["demands"]} == {
        ("work", "8 GPU, 1 CPU", True),
        ("group", "2 x (2 GPU)", True),
    }
    assert shown["why"].endswith(
        "no node type that the autoscaler may start can ever satisfy 8 GPU, 1 CPU."
    )
    (workers,) = [n for n in shown["nodes"] if n["type"] == "cpu-worker"]
    assert workers["active"] == 3
    assert workers["pending"] == (
        {} if version == "v1" else {"starting": 1}
    )  # v2 does not say how far


def test_a_cloud_that_says_no_in_a_traceback_is_quoted_too():
    """The line that names the type has no reason; the record behind it has no type."""
    stamp = "2026-11-25 14:00:10,977\tINFO node_launcher.py:177 -- NodeLauncher0: "
    said = (
        "An error occurred (UnauthorizedOperation) when calling the RunInstances operation: You are"
        " not authorized to perform this operation."
    )
    text = (
        f"{stamp}Failed to launch {{}} node(s) of type cpu-worker.\n"
        f'{stamp}Traceback (most recent call last):\n  File "node_launcher.py", line 120, in _launch_node\n'
        f"botocore.exceptions.ClientError: {said}\n"
    )
    found = findings_in(text)
    now = found[0].at + 1
    report = parse_status(answer(REAL, "v1-refused"), now)
    shown = capacity_json(heard(learned(Capacity(), report, now), found, now))
    (failure,) = shown["failures"]

    assert (failure["type"], failure["class"], failure["code"]) == (
        *("cpu-worker", "node_launch_failed", "UnauthorizedOperation"),
    )
    assert "not authorized to perform this operation" in shown["why"]


def test_a_report_with_everything_in_it():
    """KubeRay and other providers: set-up steps, requests, lost nodes, an error at the end."""
    text = """======== Autoscaler status: 2026-11-25 14:01:48.218486 ========
Node status
---------------------------------------------------------------
Active:
 1 headgroup
 2 gpu-group
Idle:
 1 gpu-group
Pending:
 gpu-group, 3 launching
 10.0.0.7: gpu-group, setting-up
 10.0.0.8: gpu-group, setting-up
Recent failures:
 gpu-group: NodeTerminated (instance_id: gpu-group-worker-x2kfp)
 tpu-group: QuotaExceeded (latest_attempt: 14:01:40)

Resources
---------------------------------------------------------------
Total Usage:
 6.0/7.0 CPU
From request_resources:
 {'CPU': 4}: 2 from request_resources()
Pending Demands:
 {'GPU': 1.0, 'memory': 2147483648.0}: 5+ pending tasks/actors (2+ using placement groups)
The autoscaler failed with the following error:
Traceback (most recent call last):
  File "monitor.py", line 1
ValueError: no such image
"""
    shown = capacity_json(learned(Capacity(), [parse_report(text, 1.0)], 1.0))

    assert shown["nodes"] == [
        {"type": "headgroup", "active": 1, "idle": 0, "pending": {}, "ended": 0},
        {"type": "gpu-group", "active": 2, "idle": 1, "pending": {"launching": 3, "setting-up": 2}, "ended": 1},
    ]  # fmt: skip
    assert [(d["kind"], d["count"], d["words"]) for d in shown["demands"]] == [
        ("work", 5, "1 GPU, 2 GiB memory"),
        ("request", 2, "4 CPU"),
    ]
    assert [(f["type"], f["code"]) for f in shown["failures"]] == [("tpu-group", "QuotaExceeded")]
    assert shown["autoscaler"] == "failed"
    assert shown["why"].endswith(
        "the autoscaler ended, so that nothing is started (ValueError: no such image)."
    )


def test_no_report_is_not_no_autoscaler():
    """Where the monitor writes into another session, or has not begun."""
    text = "No cluster status. It may take a few seconds for the Ray internal services to start up."
    shown = capacity_json(learned(Capacity(), [parse_report(text, 1.0)], 1.0))

    assert (shown["autoscaler"], shown["why"]) == ("unknown", "Nothing waits for machines.")


def test_only_placement_groups_that_wait_are_told():
    """Also one whose node was lost; a Ray that cannot filter lists them all."""
    row = answer(API / "2.60.0", "placement_groups")["data"]["result"]["result"][0]
    states = ("CREATED", "RESCHEDULING", "REMOVED", "PENDING")
    rows = [{**row, "name": s, "state": s} for s in states] + [
        {"bundles": "x"},
        {"stats": {"creation_request_received_ns": "x"}},
    ]
    (seen,) = parse_groups({"data": {"result": {"result": rows}}}, 1.0)

    assert [g.name for g in seen.waiting] == ["RESCHEDULING", "PENDING"]


@pytest.mark.parametrize("version", VERSIONS)
def test_serve_applications_of_every_version_are_read(version):
    """With those that cannot start, and why."""
    (seen,) = parse_serve(answer(API / version, "serve"), 1.0)

    assert [(a.name, a.status, [d.name for d in a.deployments]) for a in seen.apps] == [
        ("echo", "RUNNING", ["Echo"]),
        ("broken", "DEPLOY_FAILED", ["Broken"]),
    ]
    assert seen.apps[0].deployments[0].replicas == (("RUNNING", 1),)
    assert "no model here" in seen.apps[1].message + seen.apps[1].deployments[0].message


@pytest.mark.parametrize("version", ["2.40.0", "2.49.2", "2.60.0"])
def test_runs_of_ray_train_v1_are_read(version):
    """Before 2.40 there is no such API."""
    (row,) = answer(API / version, "train_v1")["train_runs"]
    (run,) = parse_train_v1({"train_runs": [row, {"id": "b"}, 3]}, 1.0)

    assert (run.run_id, run.name, run.status, run.job_id) == (
        *(row["id"], "first", "FINISHED", row["job_id"]),
    )
    assert run.started_at == row["start_time_ms"] / 1000
    assert run.ended_at == row["end_time_ms"] / 1000
    assert [(w.world_rank, w.pid, w.actor_id) for w in run.attempts[0].workers] == [
        (w["world_rank"], w["pid"], w["actor_id"]) for w in row["workers"]
    ]
    (known,) = observe(Runs(), run, 2.0).runs.values()
    assert (known.name, known.status, len(known.ranks)) == ("first", "finished", 1)


# --- text of others ------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        *(
            "Active:",
            "Idle:",
            "Pending:",
            "Recent failures:",
            "Demands:",
            "From request_resources:",
        ),
        *(" 1 a", " a, 3 launching", " 10.0.0.1: a, x", " a: B (latest_attempt: 1:2:3)"),
        *(
            " {'CPU': 1.0}: 1+ pending tasks/actors",
            " {'CPU': 1e99} * 2 (PACK): 1+ pending placement groups",
        ),
        *(
            "The autoscaler failed with the following error:",
            "{'",
            "9" * 400,
            " {'CPU': " + "9" * 400 + "}: 1+",
        ),
        *("\x1b[2J", "\u202e", "\ud7ff", " Failed to launch 1 nodes of type x: (C): w"),
    ]
)
TEXTS = st.lists(PIECES | st.text(max_size=20), max_size=30).map("\n".join)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(
        st.sampled_from(
            [
                *("data", "clusterStatus", "result", "bundles", "unit_resources", "stats", "state"),
                *("creation_request_received_ns", "applications", "deployments", "replicas"),
                *("train_runs", "id", "name", "workers", "world_rank", "start_time_ms"),
            ]
        ),
        x,
    ),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=300, deadline=None, derandomize=True)
@given(TEXTS, ANYTHING)
def test_no_text_and_no_answer_raises_or_reaches_the_terminal(text, anything):
    """What is odd is left out; what is shown holds no control character but its own line ends."""
    report = parse_report(text, 1.0)
    seen: list[Observation] = [report]
    for parse in (parse_status, parse_groups, parse_serve, parse_train_v1):
        for wrapped in (anything, {"data": anything}, {"data": {"result": {"result": [anything]}}}):
            seen += parse(wrapped, 1.0)
    shown = capacity_json(learned(Capacity(), seen, 1.0))
    story = capacity_story(json.loads(json.dumps(shown)), 2.0)

    assert all(c.isprintable() or c == "\n" for c in story)
    assert all(amount > 0 or spoken(b) for b, amount in bundles_in(text))


def test_a_long_line_of_braces_is_read_in_no_time():
    """No expression goes back and forth over it: a minute of thinking would stop the second thread."""
    for unit in ("{", "{'", "{'a': 1", "}: ", " (", "{'a': 1.0} * 2, "):
        parse_report(f"Active:\nPending Demands:\n {unit * 200_000}", 1.0)
        list(bundles_in(unit * 200_000))
