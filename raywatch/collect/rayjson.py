"""Answers of Ray's REST APIs -> observations. Tolerant of Ray 2.9 to 2.60; a row that is odd is left out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice

from raywatch.collect.rayrows import (
    TEXT_LIMIT,
    UNSET,
    Row,
    each,
    number,
    rows_of,
    table,
    text_of,
    time_ms,
    within,
)
from raywatch.observations import (
    ActorSeen,
    JobSeen,
    NodeSeen,
    SessionSeen,
    TrainAttemptSeen,
    TrainRunSeen,
    TrainWorkerSeen,
    WorkerSeen,
)

DETAIL_LIMIT = 16_384  # a failed attempt quotes the tracebacks of all its ranks
MAX_ATTEMPTS = 64  # of a run: the newest ones
MAX_RANKS = 10_000
MAX_NAMES, NAME_LIMIT = 32, 128  # resources or labels of a node; characters of one
_HUGE = 1e18  # keeps nan and infinity out, which are no JSON
ENV_LIMIT = 65_536


def load(body: bytes) -> object | None:
    """Return the JSON of an answer, None where it is none. Never raises."""
    try:
        found: object = json.loads(body)
        if b"\\ud" in body.lower():  # half a surrogate pair is no text: nothing could store it
            found = json.loads(json.dumps(found, ensure_ascii=False).encode(errors="replace"))
    except (ValueError, RecursionError):  # RecursionError: a hostile depth of brackets
        return None
    return found


def shortfall(found: object) -> str:
    """Say what an answer of /api/v0 leaves out; empty where it is whole, or of another API.

    What the question itself filtered out is not missing: `total` and `num_after_truncation` count it, `num_filtered` is
    without it (ray/dashboard/state_aggregator.py).
    """
    told = within(found, "data", "result")
    if not isinstance(told, dict):
        return ""
    rows, total = told.get("result"), told.get("total")
    shown = len(rows) if isinstance(rows, list) else 0
    warning = text_of(told, "partial_failure_warning", 300)
    looked_at, kept = told.get("num_after_truncation"), told.get("num_filtered")
    if isinstance(total, int) and isinstance(looked_at, int) and isinstance(kept, int):
        total -= looked_at - kept
    cut = isinstance(total, int) and shown < total
    return "; ".join(filter(None, (f"truncated: {shown} of {total}" if cut else "", warning)))


def parse_jobs(found: object, at: float) -> list[JobSeen]:
    """Read /api/jobs/: a bare list."""
    return each(found, lambda row: _job(row, at))


def parse_nodes(found: object, at: float) -> list[NodeSeen]:
    """Read /api/v0/nodes."""
    return each(_state_rows(found), lambda row: _node(row, at))


def parse_actors(found: object, at: float) -> list[ActorSeen]:
    """Read /api/v0/actors."""
    return each(_state_rows(found), lambda row: _actor(row, at))


def parse_workers(found: object, at: float) -> list[WorkerSeen]:
    """Read /api/v0/workers: the dead ones."""
    dead = [r for r in rows_of(_state_rows(found)) if r.get("is_alive") is False]
    return each(dead, lambda row: _worker(row, at))


def parse_train(found: object, at: float) -> list[TrainRunSeen]:
    """Read /api/train/v2/runs/v1 (Ray Train v2, 2.43 and later): newest first, told oldest first."""
    return each(within(found, "train_runs"), lambda row: _train_run(row, at))[::-1]


def parse_version(found: object, at: float) -> list[SessionSeen]:
    """Read /api/version."""
    return each(
        [found],
        lambda row: SessionSeen(at, text_of(row, "ray_version"), text_of(row, "session_name")),
    )


def _state_rows(found: object) -> object:
    return within(found, "data", "result", "result")


def _job(row: Row, at: float) -> JobSeen:
    metadata, code = row.get("metadata"), row.get("driver_exit_code")
    return JobSeen(
        at=at,
        kind=text_of(row, "type"),
        job_id=text_of(row, "job_id"),
        submission_id=text_of(row, "submission_id"),
        status=text_of(row, "status"),
        entrypoint=text_of(row, "entrypoint"),
        message=text_of(row, "message"),
        error_type=text_of(row, "error_type"),
        started_at=time_ms(row, "start_time"),
        ended_at=time_ms(row, "end_time"),
        metadata={str(k): str(v)[:TEXT_LIMIT] for k, v in metadata.items()}
        if isinstance(metadata, dict)
        else {},
        runtime_env=json.dumps(row.get("runtime_env") or {})[:ENV_LIMIT],
        driver_node_id=text_of(row, "driver_node_id"),
        driver_exit_code=None if code is None else int(str(code)),
        driver_pid=number(table(row, "driver_info"), "pid"),
    )


def _node(row: Row, at: float) -> NodeSeen:
    return NodeSeen(
        at=at,
        node_id=text_of(row, "node_id"),
        ip=text_of(row, "node_ip"),
        name=text_of(row, "node_name"),
        state=text_of(row, "state"),
        message=text_of(row, "state_message"),
        is_head=row.get("is_head_node") is True,
        ended_at=time_ms(row, "end_time_ms"),
        started_at=time_ms(row, "start_time_ms"),
        resources=dict(islice(_resources(table(row, "resources_total")), MAX_NAMES)),
        labels=dict(islice(_labels(table(row, "labels")), MAX_NAMES)),
    )


def _resources(table: Row) -> Iterator[tuple[str, float]]:
    for name, size in table.items():
        if not name.startswith("node:") and isinstance(size, int | float) and 0 <= size < _HUGE:
            yield name[:NAME_LIMIT], float(size)


def _labels(table: Row) -> Iterator[tuple[str, str]]:
    """Yield all but the node's id, which is a label too: with an underscore in Ray 2.9 to 2.40."""
    for name, text in table.items():
        if isinstance(text, str) and name not in ("ray.io/node-id", "ray.io/node_id"):
            yield name[:NAME_LIMIT], text[:NAME_LIMIT]


def _actor(row: Row, at: float) -> ActorSeen:
    reason, message = _death(row.get("death_cause"))
    return ActorSeen(
        at=at,
        actor_id=text_of(row, "actor_id"),
        class_name=text_of(row, "class_name"),
        state=text_of(row, "state"),
        job_id=text_of(row, "job_id"),
        node_id=text_of(row, "node_id"),
        pid=number(row, "pid"),
        death_reason=reason,
        death_message=message,
        name=text_of(row, "name"),
    )


def _death(cause: object) -> tuple[str, str]:
    for name, context in cause.items() if isinstance(cause, dict) else ():
        if isinstance(context, dict):
            return text_of(context, "reason") or str(name), text_of(context, "error_message")
    return "", ""


def _worker(row: Row, at: float) -> WorkerSeen:
    return WorkerSeen(
        at=at,
        worker_id=text_of(row, "worker_id"),
        node_id=text_of(row, "node_id"),
        pid=number(row, "pid"),
        worker_type=text_of(row, "worker_type"),
        exit_type=text_of(row, "exit_type"),
        exit_detail=text_of(row, "exit_detail"),
        ended_at=time_ms(row, "end_time_ms"),
    )


# --- the Train state API ---------------------------------------------------------------------------


def _train_run(row: Row, at: float) -> TrainRunSeen:
    job, config = table(row, "job_details"), table(table(row, "run_settings"), "run_config")
    return TrainRunSeen(
        at=at,
        run_id=_named(row, "id"),
        name=_named(row, "name"),
        status=text_of(row, "status"),
        detail=text_of(row, "status_detail", DETAIL_LIMIT),
        job_id=text_of(row, "job_id"),
        submission_id=text_of(job, "submission_id"),
        controller_actor_id=text_of(row, "controller_actor_id"),
        storage_path=text_of(config, "storage_path"),
        storage_filesystem=text_of(config, "storage_filesystem"),
        max_failures=_count(table(config, "failure_config"), "max_failures"),
        started_at=_time_ns(row, "start_time_ns"),
        ended_at=_time_ns(row, "end_time_ns"),
        attempts=tuple(each(row.get("attempts"), _attempt)[-MAX_ATTEMPTS:]),
        max_preemptions=_count(table(config, "failure_config"), "max_preemption_failures"),
    )


def _attempt(row: Row) -> TrainAttemptSeen:
    return TrainAttemptSeen(
        attempt_id=text_of(row, "attempt_id"),
        status=text_of(row, "status"),
        detail=text_of(row, "status_detail", DETAIL_LIMIT),
        started_at=_time_ns(row, "start_time_ns"),
        ended_at=_time_ns(row, "end_time_ns"),
        workers=tuple(each(row.get("workers"), _train_worker)[:MAX_RANKS]),
    )


def _train_worker(row: Row) -> TrainWorkerSeen:
    rank = _count(row, "world_rank")
    if rank is None:
        raise ValueError("a rank without a number")
    return TrainWorkerSeen(
        world_rank=rank,
        node_id=text_of(row, "node_id"),
        actor_id=text_of(row, "actor_id"),
        pid=number(row, "pid"),
        status=text_of(row, "status"),
        log_file=text_of(row, "log_file_path"),
    )


def _named(row: Row, key: str) -> str:
    found = text_of(row, key)
    if not found:
        raise ValueError(f"a row without {key}")
    return found


def _count(row: Row, key: str) -> int | None:
    found = str(row.get(key))
    return int(found) if re.fullmatch(r"-?\d{1,18}", found, re.ASCII) else None


def _time_ns(row: Row, key: str) -> float | None:
    ns = number(row, key)
    return ns / 1e9 if 0 < ns < UNSET else None
