"""Answers of Ray's REST APIs -> observations. Tolerant of Ray 2.9 to 2.60; a row that is odd is left out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import TypeVar

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

TEXT_LIMIT = 4096
DETAIL_LIMIT = 16_384  # a failed attempt quotes the tracebacks of all its ranks
MAX_ATTEMPTS = 64  # of a run: the newest ones
MAX_RANKS = 10_000
ENV_LIMIT = 65_536
_UNSET_MS = 1 << 62  # 18446744073709551615: Ray's "not set"
Row = dict[str, object]
_Seen = TypeVar("_Seen")


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
    """Say what an answer of /api/v0 leaves out; empty where it is whole, or of another API."""
    told = _within(found, "data", "result")
    if not isinstance(told, dict):
        return ""
    rows, total = told.get("result"), told.get("total")
    shown = len(rows) if isinstance(rows, list) else 0
    warning = _text(told, "partial_failure_warning", 300)
    cut = isinstance(total, int) and shown < total
    return "; ".join(filter(None, (f"truncated: {shown} of {total}" if cut else "", warning)))


def parse_jobs(found: object, at: float) -> list[JobSeen]:
    """Read /api/jobs/: a bare list."""
    return _each(found, lambda row: _job(row, at))


def parse_nodes(found: object, at: float) -> list[NodeSeen]:
    """Read /api/v0/nodes."""
    return _each(_state_rows(found), lambda row: _node(row, at))


def parse_actors(found: object, at: float) -> list[ActorSeen]:
    """Read /api/v0/actors."""
    return _each(_state_rows(found), lambda row: _actor(row, at))


def parse_workers(found: object, at: float) -> list[WorkerSeen]:
    """Read /api/v0/workers: the dead ones."""
    dead = [r for r in _rows(_state_rows(found)) if r.get("is_alive") is False]
    return _each(dead, lambda row: _worker(row, at))


def parse_train(found: object, at: float) -> list[TrainRunSeen]:
    """Read /api/train/v2/runs/v1 (Ray Train v2, 2.43 and later): newest first, told oldest first."""
    return _each(_within(found, "train_runs"), lambda row: _train_run(row, at))[::-1]


def parse_version(found: object, at: float) -> list[SessionSeen]:
    """Read /api/version."""
    return _each(
        [found],
        lambda row: SessionSeen(at, _text(row, "ray_version"), _text(row, "session_name")),
    )


def _state_rows(found: object) -> object:
    return _within(found, "data", "result", "result")


def _within(found: object, *keys: str) -> object:
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _rows(found: object) -> Iterator[Row]:
    yield from (r for r in found if isinstance(r, dict)) if isinstance(found, list) else ()


def _each(found: object, parse: Callable[[Row], _Seen]) -> list[_Seen]:
    seen = []
    for row in _rows(found):
        try:
            seen.append(parse(row))
        except (ValueError, TypeError, OverflowError):  # noqa: PERF203 - one odd row must not hide the others
            continue
    return seen


def _text(row: Row, key: str, limit: int = TEXT_LIMIT) -> str:
    value = row.get(key)
    return value[:limit] if isinstance(value, str) else "" if value is None else str(value)[:limit]


def _number(row: Row, key: str) -> int:
    return int(str(row.get(key) or 0))


def _time(row: Row, key: str) -> float | None:
    ms = _number(row, key)
    return ms / 1000 if 0 < ms < _UNSET_MS else None


def _job(row: Row, at: float) -> JobSeen:
    metadata, code = row.get("metadata"), row.get("driver_exit_code")
    return JobSeen(
        at=at,
        kind=_text(row, "type"),
        job_id=_text(row, "job_id"),
        submission_id=_text(row, "submission_id"),
        status=_text(row, "status"),
        entrypoint=_text(row, "entrypoint"),
        message=_text(row, "message"),
        error_type=_text(row, "error_type"),
        started_at=_time(row, "start_time"),
        ended_at=_time(row, "end_time"),
        metadata={str(k): str(v)[:TEXT_LIMIT] for k, v in metadata.items()}
        if isinstance(metadata, dict)
        else {},
        runtime_env=json.dumps(row.get("runtime_env") or {})[:ENV_LIMIT],
        driver_node_id=_text(row, "driver_node_id"),
        driver_exit_code=None if code is None else int(str(code)),
    )


def _node(row: Row, at: float) -> NodeSeen:
    return NodeSeen(
        at=at,
        node_id=_text(row, "node_id"),
        ip=_text(row, "node_ip"),
        name=_text(row, "node_name"),
        state=_text(row, "state"),
        message=_text(row, "state_message"),
        is_head=row.get("is_head_node") is True,
        ended_at=_time(row, "end_time_ms"),
        started_at=_time(row, "start_time_ms"),
    )


def _actor(row: Row, at: float) -> ActorSeen:
    reason, message = _death(row.get("death_cause"))
    return ActorSeen(
        at=at,
        actor_id=_text(row, "actor_id"),
        class_name=_text(row, "class_name"),
        state=_text(row, "state"),
        job_id=_text(row, "job_id"),
        node_id=_text(row, "node_id"),
        pid=_number(row, "pid"),
        death_reason=reason,
        death_message=message,
        name=_text(row, "name"),
    )


def _death(cause: object) -> tuple[str, str]:
    for name, context in cause.items() if isinstance(cause, dict) else ():
        if isinstance(context, dict):
            return _text(context, "reason") or str(name), _text(context, "error_message")
    return "", ""


def _worker(row: Row, at: float) -> WorkerSeen:
    return WorkerSeen(
        at=at,
        worker_id=_text(row, "worker_id"),
        node_id=_text(row, "node_id"),
        pid=_number(row, "pid"),
        worker_type=_text(row, "worker_type"),
        exit_type=_text(row, "exit_type"),
        exit_detail=_text(row, "exit_detail"),
        ended_at=_time(row, "end_time_ms"),
    )


# --- the Train state API ---------------------------------------------------------------------------


def _train_run(row: Row, at: float) -> TrainRunSeen:
    job, config = _table(row, "job_details"), _table(_table(row, "run_settings"), "run_config")
    return TrainRunSeen(
        at=at,
        run_id=_named(row, "id"),
        name=_named(row, "name"),
        status=_text(row, "status"),
        detail=_text(row, "status_detail", DETAIL_LIMIT),
        job_id=_text(row, "job_id"),
        submission_id=_text(job, "submission_id"),
        controller_actor_id=_text(row, "controller_actor_id"),
        storage_path=_text(config, "storage_path"),
        storage_filesystem=_text(config, "storage_filesystem"),
        max_failures=_count(_table(config, "failure_config"), "max_failures"),
        started_at=_time_ns(row, "start_time_ns"),
        ended_at=_time_ns(row, "end_time_ns"),
        attempts=tuple(_each(row.get("attempts"), _attempt)[-MAX_ATTEMPTS:]),
    )


def _attempt(row: Row) -> TrainAttemptSeen:
    return TrainAttemptSeen(
        attempt_id=_text(row, "attempt_id"),
        status=_text(row, "status"),
        detail=_text(row, "status_detail", DETAIL_LIMIT),
        started_at=_time_ns(row, "start_time_ns"),
        ended_at=_time_ns(row, "end_time_ns"),
        workers=tuple(_each(row.get("workers"), _train_worker)[:MAX_RANKS]),
    )


def _train_worker(row: Row) -> TrainWorkerSeen:
    rank = _count(row, "world_rank")
    if rank is None:
        raise ValueError("a rank without a number")
    return TrainWorkerSeen(
        world_rank=rank,
        node_id=_text(row, "node_id"),
        actor_id=_text(row, "actor_id"),
        pid=_number(row, "pid"),
        status=_text(row, "status"),
        log_file=_text(row, "log_file_path"),
    )


def _table(row: Row, key: str) -> Row:
    found = row.get(key)
    return found if isinstance(found, dict) else {}


def _named(row: Row, key: str) -> str:
    found = _text(row, key)
    if not found:
        raise ValueError(f"a row without {key}")
    return found


def _count(row: Row, key: str) -> int | None:
    found = str(row.get(key))
    return int(found) if re.fullmatch(r"-?\d{1,18}", found, re.ASCII) else None


def _time_ns(row: Row, key: str) -> float | None:
    ns = _number(row, key)
    return ns / 1e9 if 0 < ns < _UNSET_MS else None
