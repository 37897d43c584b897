"""Bodies recorded from Ray 2.9 to 2.60 are read alike: every row, and its times, pids and reasons."""

import json
from pathlib import Path
from typing import Any

import pytest

from raywatch.collect import rayjson

API = Path(__file__).parent.parent / "api"
VERSIONS = ("2.9.3", "2.24.0", "2.40.0", "2.49.2", "2.60.0")
UNSET_MS = 18446744073709551615


def answer(version, name) -> Any:
    """A recorded answer."""
    return rayjson.load((API / version / f"{name}.json").read_bytes())


def recorded(version, name):
    """A recorded answer and its rows."""
    found = answer(version, name)
    return found, found if name == "jobs" else found["data"]["result"]["result"]


def seconds(ms):
    """Ray's milliseconds, where 0, null and the largest number mean "not set"."""
    return int(ms) / 1000 if ms and int(ms) < UNSET_MS else None


@pytest.mark.parametrize("version", VERSIONS)
def test_jobs_of_every_version_are_read(version):
    found, rows = recorded(version, "jobs")
    seen = rayjson.parse_jobs(found, 1.0)

    assert rows
    assert [(j.kind, j.job_id, j.status, j.started_at, j.ended_at) for j in seen] == [
        (r["type"], r["job_id"], r["status"], seconds(r["start_time"]), seconds(r["end_time"]))
        for r in rows
    ]
    assert all(j.submission_id == "" and j.message == "" for j in seen)


@pytest.mark.parametrize("version", VERSIONS)
def test_nodes_of_every_version_are_read(version):
    found, rows = recorded(version, "nodes")
    seen = rayjson.parse_nodes(found, 1.0)

    assert rows
    assert [(n.node_id, n.ip, n.state, n.is_head) for n in seen] == [
        (r["node_id"], r["node_ip"], r["state"], r["is_head_node"]) for r in rows
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_only_dead_workers_are_told_with_why_they_ended(version):
    found, rows = recorded(version, "workers")
    dead = [r for r in rows if not r["is_alive"]]
    seen = rayjson.parse_workers(found, 1.0)

    assert dead
    assert [(w.worker_id, w.pid, w.exit_type, w.exit_detail, w.ended_at) for w in seen] == [
        (r["worker_id"], r["pid"], r["exit_type"], r["exit_detail"], seconds(r["end_time_ms"]))
        for r in dead
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_an_actors_death_has_its_context_and_words(version):
    found, rows = recorded(version, "actors")
    seen = rayjson.parse_actors(found, 1.0)

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
    (seen,) = rayjson.parse_jobs(rayjson.load(json.dumps(rows).encode()), 1.0)

    assert (seen.submission_id, seen.metadata) == ("a?b", {"k?": "v"})


@pytest.mark.parametrize("version", ["2.49.2", "2.60.0"])
def test_train_runs_are_read_with_attempts_and_ranks(version):
    """Oldest first; 2.49 tells no settings, so neither a path nor a budget."""
    found = answer(version, "train")
    rows = found["train_runs"][::-1]
    seen = rayjson.parse_train(found, 1.0)

    assert [(r.run_id, r.name, r.status, r.job_id, r.controller_actor_id) for r in seen] == [
        (r["id"], r["name"], r["status"], r["job_id"], r["controller_actor_id"]) for r in rows
    ]
    assert [(r.started_at, r.ended_at) for r in seen] == [
        (r["start_time_ns"] / 1e9, r["end_time_ns"] / 1e9) for r in rows
    ]
    for run, row in zip(seen, rows, strict=True):
        assert run.submission_id == (row["job_details"]["submission_id"] or "")
        config = row.get("run_settings", {}).get("run_config", {})
        assert run.storage_path == config.get("storage_path", "")
        assert run.max_failures == config.get("failure_config", {}).get("max_failures")
        assert run.storage_filesystem == ""
        assert [(a.attempt_id, a.status, a.detail) for a in run.attempts] == [
            (a["attempt_id"], a["status"], a["status_detail"] or "") for a in row["attempts"]
        ]
        assert [
            [(w.world_rank, w.node_id, w.actor_id, w.pid, w.status) for w in a.workers]
            for a in run.attempts
        ] == [
            [
                (w["world_rank"], w["node_id"], w["actor_id"], w["pid"], w["status"])
                for w in a["workers"]
            ]
            for a in row["attempts"]
        ]


def test_an_odd_train_row_hides_no_other():
    """Neither a run without a name, nor a rank without a number, nor settings of another shape."""
    odd = {"id": "b", "name": "odd", "start_time_ns": 5, "run_settings": {"run_config": "x"}}
    odd |= {"attempts": [3, {"workers": [{"world_rank": "?"}, {"world_rank": 1, "pid": None}]}]}
    inf = {
        "id": "c",
        "name": "inf",
        "run_settings": {"run_config": {"failure_config": {"max_failures": "inf"}}},
    }
    rows = [{"id": "a"}, None, odd, {"id": "d", "name": "bad", "start_time_ns": "soon"}, inf]
    seen = rayjson.parse_train({"train_runs": rows}, 1.0)

    assert [(r.name, r.max_failures, len(r.attempts)) for r in seen] == [
        ("inf", None, 0),
        ("odd", None, 1),
    ]
    assert [(w.world_rank, w.pid) for w in seen[1].attempts[0].workers] == [(1, 0)]


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"total": 2, "num_after_truncation": 2}, ""),
        ({"total": 23000, "num_after_truncation": 2}, "truncated: 2 of 23000"),
        (
            {"total": 2, "partial_failure_warning": "one node did not answer"},
            "one node did not answer",
        ),
        ({}, ""),
    ],
)
def test_a_list_that_is_cut_says_so(told, words):
    """Whoever reads it must know that what is not in it is not gone."""
    assert rayjson.shortfall({"data": {"result": {"result": [{}, {}], **told}}}) == words


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_question_filters_out_is_not_missing(version):
    """Of two placement groups one was removed: the answer is whole. One that is cut by the limit says so."""
    found = answer(version, "placement_groups")
    assert (found["data"]["result"]["total"], rayjson.shortfall(found)) == (2, "")

    found["data"]["result"] |= {"total": 7}
    assert rayjson.shortfall(found) == "truncated: 1 of 6"
