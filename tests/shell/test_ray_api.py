"""Bodies recorded from Ray 2.9 to 2.60 are read alike: every row, and its times, pids and reasons."""

import json
from pathlib import Path

import pytest

from raywatch.collect import rayjson

API = Path(__file__).parent.parent / "api"
VERSIONS = ("2.9.3", "2.40.0", "2.49.2", "2.60.0")
UNSET_MS = 18446744073709551615


def recorded(version, name):
    """A recorded body and its rows."""
    body = (API / version / f"{name}.json").read_bytes()
    found = json.loads(body)
    return body, found if name == "jobs" else found["data"]["result"]["result"]


def seconds(ms):
    """Ray's milliseconds, where 0, null and the largest number mean "not set"."""
    return int(ms) / 1000 if ms and int(ms) < UNSET_MS else None


@pytest.mark.parametrize("version", VERSIONS)
def test_jobs_of_every_version_are_read(version):
    body, rows = recorded(version, "jobs")
    seen = rayjson.parse_jobs(body, 1.0)

    assert rows
    assert [(j.kind, j.job_id, j.status, j.started_at, j.ended_at) for j in seen] == [
        (r["type"], r["job_id"], r["status"], seconds(r["start_time"]), seconds(r["end_time"]))
        for r in rows
    ]
    assert all(j.submission_id == "" and j.message == "" for j in seen)


@pytest.mark.parametrize("version", VERSIONS)
def test_nodes_of_every_version_are_read(version):
    body, rows = recorded(version, "nodes")
    seen = rayjson.parse_nodes(body, 1.0)

    assert rows
    assert [(n.node_id, n.ip, n.state, n.is_head) for n in seen] == [
        (r["node_id"], r["node_ip"], r["state"], r["is_head_node"]) for r in rows
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_only_dead_workers_are_told_with_why_they_ended(version):
    body, rows = recorded(version, "workers")
    dead = [r for r in rows if not r["is_alive"]]
    seen = rayjson.parse_workers(body, 1.0)

    assert dead
    assert [(w.worker_id, w.pid, w.exit_type, w.exit_detail, w.ended_at) for w in seen] == [
        (r["worker_id"], r["pid"], r["exit_type"], r["exit_detail"], seconds(r["end_time_ms"]))
        for r in dead
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_an_actors_death_has_its_context_and_words(version):
    body, rows = recorded(version, "actors")
    seen = rayjson.parse_actors(body, 1.0)

    assert rows
    assert [(a.actor_id, a.state, a.pid) for a in seen] == [
        (r["actor_id"], r["state"], r["pid"] or 0) for r in rows
    ]
    for actor, row in zip(seen, rows, strict=True):
        context = (row["death_cause"] or {}).get("actor_died_error_context", {})
        assert actor.death_message == context.get("error_message", "")
        assert bool(actor.death_reason) == bool(row["death_cause"])


def test_half_a_surrogate_pair_of_an_answer_is_text_that_can_be_stored():
    """JSON may hold it, UTF-8 cannot: a name of it would end the daemon at its next commit."""
    rows = [{"type": "SUBMISSION", "submission_id": "a\ud800b", "metadata": {"k\udc00": "v"}}]
    (seen,) = rayjson.parse_jobs(json.dumps(rows).encode(), 1.0)

    assert (seen.submission_id, seen.metadata) == ("a?b", {"k?": "v"})
