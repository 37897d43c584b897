"""A line of Ray's export event files (`logs/export_events/*.log`) -> what it says, in words and with ids as in Ray's logs.

The words begin with what is told of, its state and Ray's reason, so that a signature's `unless` can tell a structure from
a user's text that looks like one. Schemas: src/ray/protobuf/export_*.proto of Ray 2.60; keys in either style.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from raywatch.core.prefixes import ANSI
from raywatch.protojson import (
    ACTOR,
    JOB,
    NODE,
    TASK,
    WORKER,
    Row,
    death_of,
    id_of,
    number_of,
    table_of,
    text_of,
    value_of,
)

_ANSI = re.compile(ANSI.pattern.decode())
WORDS = 32_768  # characters of a message: the end of a job's log has up to 20,000
_SUPERVISOR, _OF_JOB = "JobSupervisor", "_ray_internal_job_actor_"
_CREATES = "ff" * 8  # how the id of a task begins that runs an actor's constructor
_NS, _MS = 1e9, 1e3


class Exported(NamedTuple):
    """What a line says. `at`: unix seconds, None where it does not say."""

    text: str
    at: float | None
    fields: dict[str, str]


class _Said(NamedTuple):
    words: tuple[str, ...]  # what is told of and its state, Ray's reason, Ray's message
    at: float  # 0 where only the line's own time is known
    named: dict[str, str]


def exported(row: Row) -> Exported | None:
    """Return what a line says; None for one of another kind. Never raises."""
    data, source = value_of(row, "event_data"), text_of(row, "source_type")
    if not isinstance(data, dict) or source not in _READERS:
        return None
    said = _READERS[source](data)
    text = _ANSI.sub("", ": ".join(filter(None, said.words)))
    at = said.at or number_of(row, "timestamp")
    return Exported(text, float(at) if at > 0 else None, {k: v for k, v in said.named.items() if v})


def _node(data: Row) -> _Said:
    death = table_of(data, "death_info")
    message = text_of(death, "reason_message", WORDS)
    return _Said(
        (f"node {text_of(data, 'state')}", text_of(death, "reason"), message),
        number_of(data, "end_time_ms") / _MS,
        {
            "node_id": _id(data, "node_id", NODE),
            "node_ip": text_of(data, "node_manager_address"),
            "reason_message": message,
        },
    )


def _actor(data: Row) -> _Said:
    death, name = death_of(data, WORDS), text_of(data, "name")
    message = death.message or death.raised
    supervises = text_of(data, "class_name") == _SUPERVISOR and name.startswith(_OF_JOB)
    return _Said(
        (f"actor {text_of(data, 'state')}", death.reason or death.context, message),
        0.0,
        {
            "actor_id": _id(data, "actor_id", ACTOR),
            # A supervisor is an actor of the dashboard's own driver, which all jobs share.
            "job_id": "" if supervises else _id(data, "job_id", JOB),
            "submission_id": name.removeprefix(_OF_JOB) if supervises else "",
            "node_id": _id(data, "node_id", NODE),
            "pid": str(number_of(data, "pid") or ""),
            "class_name": text_of(data, "class_name"),
            "actor_state": text_of(data, "state"),
        },
    )


def _task(data: Row) -> _Said:
    steps, info = table_of(data, "state_updates"), table_of(data, "task_info")
    error = table_of(steps, "error_info")
    reason, number = text_of(error, "error_type"), _id(data, "task_id", TASK)
    what = "actor creation task" if number.startswith(_CREATES) else "task"
    times = table_of(steps, "state_ts_ns")
    return _Said(
        (
            f"{what} FAILED" if reason else what,
            reason,
            text_of(error, "error_message", WORDS),
        ),
        max((number_of(times, k) for k in times), default=0) / _NS,
        {
            "task_id": number,
            "job_id": _id(data, "job_id", JOB),
            "node_id": _id(steps, "node_id", NODE),
            "worker_id": _id(steps, "worker_id", WORKER),
            "actor_id": _id(info, "actor_id", ACTOR),
            "pid": str(number_of(steps, "worker_pid") or ""),
            "task_name": text_of(info, "func_or_class_name"),
        },
    )


def _driver(data: Row) -> _Said:
    metadata = table_of(table_of(data, "config"), "metadata")
    ended = value_of(data, "is_dead") is True
    return _Said(
        ("driver DEAD" if ended else "driver ALIVE",),
        number_of(data, "end_time" if ended else "start_time") / _MS,
        {
            "job_id": _id(data, "job_id", JOB),
            "pid": str(number_of(data, "driver_pid") or ""),
            "submission_id": text_of(metadata, "job_submission_id"),
        },
    )


def _submission(data: Row) -> _Said:
    code = value_of(data, "driver_exit_code")
    return _Said(
        (
            f"submission job {text_of(data, 'status')}",
            text_of(data, "error_type"),
            text_of(data, "message", WORDS),
        ),
        number_of(data, "end_time") / _MS,
        {
            "submission_id": text_of(data, "submission_job_id"),
            "exit_code": str(code) if isinstance(code, int) and code else "",
        },
    )


def _run(data: Row) -> _Said:
    return _Said(
        (f"train run {text_of(data, 'status')}", text_of(data, "status_detail", WORDS)),
        number_of(data, "end_time_ns") / _NS,
        {
            "run_name": text_of(data, "name"),
            "run_id": text_of(data, "id"),
            "job_id": _id(data, "job_id", JOB),
            "actor_id": _id(data, "controller_actor_id", ACTOR),
        },
    )


def _attempt(data: Row) -> _Said:
    return _Said(
        (f"train attempt {text_of(data, 'status')}", text_of(data, "status_detail", WORDS)),
        number_of(data, "end_time_ns") / _NS,
        {"run_id": text_of(data, "run_id"), "attempt_id": text_of(data, "attempt_id")},
    )


_READERS: Mapping[str, Callable[[Row], _Said]] = {
    "EXPORT_NODE": _node,
    "EXPORT_ACTOR": _actor,
    "EXPORT_TASK": _task,
    "EXPORT_DRIVER_JOB": _driver,
    "EXPORT_SUBMISSION_JOB": _submission,
    "EXPORT_TRAIN_RUN": _run,
    "EXPORT_TRAIN_RUN_ATTEMPT": _attempt,
}


def _id(row: Row, key: str, size: int) -> str:
    """Return an id in hex, '' for none, nobody's or an odd one."""
    try:
        return id_of(row, key, size)
    except ValueError:
        return ""
