"""Ray's event export, as its agents POST it: a JSON array of RayEvent -> observations. Read with 2.60.

Keys are camelCase, or as in the protobuf files with `..._PRESERVE_PROTO_FIELD_NAME=1`; bytes are base64. What is odd is left
out. The events that Ray writes to files are other ones, and read otherwise:

- `logs/events/*.log` are tailed and matched by signatures as every log is (component `event`).
- `logs/export_events/*.log` are too (component `export`); core/exported.py says what a row of them means. Mostly they
  repeat what the logs beside them say, and then they are its copy. They are off unless `RAY_enable_export_api_write=1`
  is set, and with `RAY_enable_ray_event=1` those of nodes, actors, drivers and tasks stay empty. None of them tells that
  a node drains: its row has no place for it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple, TypeVar

from raywatch.collect.rayjson import ENV_LIMIT, load
from raywatch.observations import (
    ActorSeen,
    EventSeen,
    JobSeen,
    NodeSeen,
    Observation,
    Pushed,
    WorkerSeen,
)
from raywatch.protojson import (
    ACTOR,
    ID_LIMIT,
    JOB,
    NODE,
    TEXT_LIMIT,
    WORKER,
    death_of,
    id_of,
    number_of,
    table_of,
    text_of,
    value_of,
)

PATH = "/api/v1/events"
MAX_DEFINED = 5000  # of each kind: what was defined is told once, and its end without it
MAX_TRANSITIONS = 64  # of one event: the newest ones
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z", re.ASCII)
SESSION = re.compile(r"session_\d{4}(?:-\d\d){2}_\d\d(?:-\d\d){2}_\d{6}_\d+", re.ASCII)
_TYPES = (  # not those of tasks: they are many, and nobody reads them here
    *("DRIVER_JOB_DEFINITION_EVENT", "DRIVER_JOB_LIFECYCLE_EVENT"),
    *("SUBMISSION_JOB_DEFINITION_EVENT", "SUBMISSION_JOB_LIFECYCLE_EVENT"),
    *("ACTOR_DEFINITION_EVENT", "ACTOR_LIFECYCLE_EVENT"),
    *("NODE_DEFINITION_EVENT", "NODE_LIFECYCLE_EVENT"),
    *("WORKER_DEFINITION_EVENT", "WORKER_LIFECYCLE_EVENT"),
)
# The words of Ray's State API for the same: ray.dashboard.utils.compose_state_message.
_DEATHS = {
    "EXPECTED_TERMINATION": "Expected termination",
    "UNEXPECTED_TERMINATION": "Unexpected termination",
    "AUTOSCALER_DRAIN_PREEMPTED": "Terminated due to preemption",
    "AUTOSCALER_DRAIN_IDLE": "Terminated due to idle (no Ray activity)",
}
Row = dict[str, object]
_Kept = TypeVar("_Kept")


def events_key(token: str) -> str:
    """Return the secret that a URL for Ray's events ends with.

    Ray's agents can send no Authorization header, and write the URL into their own log. So it is derived from the daemon's
    token and good for nothing but telling events.
    """
    return hmac.new(token.encode(), b"ray events", hashlib.sha256).hexdigest()[:32]


def export_environment(url: str, key: str) -> dict[str, str]:
    """Return the environment with which `ray start --head` must run, so that Ray pushes its events.

    `url` is where the daemon listens, as seen from the head; `key` is its `events_key`, or what stands for it in a shell.
    """
    agent = "RAY_DASHBOARD_AGGREGATOR_AGENT"
    return {
        "RAY_enable_ray_event": "1",
        f"{agent}_EVENTS_EXPORT_ADDR": f"{url.rstrip('/')}{PATH}/{key}",
        f"{agent}_EXPOSABLE_EVENT_TYPES": ",".join(_TYPES),
    }


class _Event(NamedTuple):
    """What stands around a payload. `now` bounds times: a clock that is ahead must not outdate what comes later."""

    id: str
    at: float
    now: float


class _Worker(NamedTuple):
    node_id: str
    pid: int
    kind: str


class _Actor(NamedTuple):
    class_name: str
    name: str
    job_id: str


class EventReader:
    """Events -> observations. Remembers definitions, bounded: what a thing is is told apart from what becomes of it."""

    def __init__(self) -> None:
        self._session = ""
        self._nodes: dict[str, NodeSeen] = {}
        self._workers: dict[str, _Worker] = {}
        self._actors: dict[str, _Actor] = {}
        self._jobs: dict[str, JobSeen] = {}
        self._payloads: Mapping[str, Callable[[Row, _Event], list[Observation]]] = {
            "node_definition_event": self._node_defined,
            "node_lifecycle_event": self._node,
            "worker_definition_event": self._worker_defined,
            "worker_lifecycle_event": self._worker,
            "actor_definition_event": self._actor_defined,
            "actor_lifecycle_event": self._actor,
            "driver_job_definition_event": self._driver_defined,
            "driver_job_lifecycle_event": self._driver,
            "submission_job_definition_event": self._submission_defined,
            "submission_job_lifecycle_event": self._submission,
        }

    def read(self, events: Sequence[object], now: float) -> list[Pushed]:
        """Return what the events of one POST tell, in their order; neighbours of one session together. Never raises."""
        told: list[tuple[str, Observation]] = []
        for row in events:
            if isinstance(row, dict):
                try:
                    seen = self._told(row, now)
                except (ValueError, TypeError, OverflowError, RecursionError):
                    continue  # one odd event must not hide the others
                told += [(self._session, one) for one in seen]
        return [Pushed(s, tuple(o for _, o in of)) for s, of in groupby(told, itemgetter(0))]

    def _told(self, row: Row, now: float) -> list[Observation]:
        session = text_of(row, "session_name")
        if SESSION.fullmatch(session):
            if session < self._session:  # ids of jobs and drivers begin again with each session
                return []
            self._session = session
        for name, parse in self._payloads.items():
            payload = value_of(row, name)
            if isinstance(payload, dict):
                at = _time(value_of(row, "timestamp"), now, default=now)
                return parse(payload, _Event(_event_id(row), at, now))
        return []

    # --- nodes ---

    def _node_defined(self, row: Row, event: _Event) -> list[Observation]:
        node = _id(row, "node_id", NODE)
        ip, name = text_of(row, "node_ip_address"), text_of(row, "node_name")
        _keep(self._nodes, node, NodeSeen(event.at, node, ip, name, "ALIVE", "", is_head=False))
        return []

    def _node(self, row: Row, event: _Event) -> list[Observation]:
        node = _id(row, "node_id", NODE)
        seen: list[Observation] = []
        known = self._nodes.get(node) or NodeSeen(event.at, node, "", "", "", "", is_head=False)
        for number, step, at in _transitions(row, event):
            death = table_of(step, "death_info")
            state, reason = text_of(step, "state"), text_of(death, "reason")
            message = text_of(death, "reason_message")
            known = replace(
                known,
                at=at,
                state=state,
                message=": ".join(filter(None, (_DEATHS.get(reason, ""), message))),
                is_head=known.is_head or "node:__internal_head__" in table_of(step, "resources"),
                ended_at=_ms(at) if state == "DEAD" else None,
            )
            told = EventSeen(f"{event.id}/{number}", at, "node_draining", node)
            seen.append(known)
            if state == "DEAD":
                seen.append(replace(told, what="node_dead", reason=reason, message=message))
            elif text_of(step, "alive_sub_state") == "DRAINING":
                seen.append(told)
        _keep(self._nodes, node, known)
        return seen

    # --- workers ---

    def _worker_defined(self, row: Row, _event: _Event) -> list[Observation]:
        kind = text_of(row, "worker_type")
        worker = _Worker(_id(row, "node_id", NODE), number_of(row, "pid"), kind)
        _keep(self._workers, _id(row, "worker_id", WORKER), worker)
        return []

    def _worker(self, row: Row, event: _Event) -> list[Observation]:
        worker, job = _id(row, "worker_id", WORKER), id_of(row, "job_id", JOB)
        known = self._workers.get(worker, _Worker("", 0, ""))
        seen: list[Observation] = []
        for number, step, at in _transitions(row, event):
            if text_of(step, "state") != "DEAD":
                continue
            death, ended = table_of(step, "death_info"), number_of(step, "end_time_ms") / 1000
            reason, detail = text_of(death, "exit_type"), text_of(death, "exit_detail")
            row_of = (worker, known.node_id, known.pid, known.kind, reason, detail)
            seen.append(WorkerSeen(at, *row_of, ended_at=ended if 0 < ended <= event.now else at))
            seen.append(
                EventSeen(
                    f"{event.id}/{number}",
                    at,
                    "worker_dead",
                    node_id=known.node_id,
                    worker_id=worker,
                    job_id=job,
                    pid=known.pid,
                    reason=reason,
                    message=detail,
                )
            )
        return seen

    # --- actors ---

    def _actor_defined(self, row: Row, _event: _Event) -> list[Observation]:
        job = id_of(row, "job_id", JOB)
        actor = _Actor(text_of(row, "class_name"), text_of(row, "name"), job)
        _keep(self._actors, _id(row, "actor_id", ACTOR), actor)
        return []

    def _actor(self, row: Row, event: _Event) -> list[Observation]:
        actor = _id(row, "actor_id", ACTOR)
        known = self._actors.get(
            actor, _Actor("", "", actor[-2 * JOB :])
        )  # an id ends with its job's
        seen: list[Observation] = []
        for _, step, at in _transitions(row, event):
            state = text_of(step, "state")
            death = death_of(step)
            seen.append(
                ActorSeen(
                    at=at,
                    actor_id=actor,
                    class_name=known.class_name,
                    state=state,
                    job_id=known.job_id,
                    node_id=id_of(step, "node_id", NODE),
                    pid=number_of(step, "pid"),
                    death_reason=text_of(step, "restart_reason")
                    if state == "RESTARTING"
                    else death.reason or death.context,
                    death_message=death.message,
                    name=known.name,
                )
            )
        return seen

    # --- jobs: only with what defines them, since a row of a job says what is to be submitted again ---

    def _driver_defined(self, row: Row, event: _Event) -> list[Observation]:
        job, known = _id(row, "job_id", JOB), _defined(row, event)
        if "job_submission_id" not in known.metadata:  # the row of its submission tells more
            node = id_of(row, "driver_node_id", NODE)
            known = replace(known, kind="DRIVER", job_id=job, driver_node_id=node)
            _keep(self._jobs, job, known)
        return []

    def _driver(self, row: Row, event: _Event) -> list[Observation]:
        job = _id(row, "job_id", JOB)
        seen: list[Observation] = []
        known = self._jobs.get(job)
        for _, step, at in _transitions(row, event) if known else ():
            # As the dashboard has it: of a driver that ended Ray knows no more than that.
            status = {"CREATED": "RUNNING", "FINISHED": "SUCCEEDED"}.get(text_of(step, "state"))
            if known and status:
                ended = _ms(at) if status == "SUCCEEDED" else None
                begun = known.started_at or (None if ended else _ms(at))
                known = replace(known, at=at, status=status, started_at=begun, ended_at=ended)
                seen.append(known)
        if known:
            _keep(self._jobs, job, known)
        return seen

    def _submission_defined(self, row: Row, event: _Event) -> list[Observation]:
        known = replace(_defined(row, event), submission_id=_named(row, "submission_id"))
        _keep(self._jobs, known.submission_id, known)
        return []

    def _submission(self, row: Row, event: _Event) -> list[Observation]:
        number = _named(row, "submission_id")
        seen: list[Observation] = []
        known = self._jobs.get(number)
        for _, step, at in _transitions(row, event) if known else ():
            status = text_of(step, "state")
            ended = status in ("STOPPED", "SUCCEEDED", "FAILED")
            if known and (ended or status in ("PENDING", "RUNNING")):
                known = replace(
                    known,
                    at=at,
                    status=status,
                    message=text_of(step, "message"),
                    error_type=text_of(step, "error_type"),
                    started_at=known.started_at or _ms(at),
                    ended_at=_ms(at) if ended else None,
                    driver_node_id=id_of(step, "driver_node_id", NODE) or known.driver_node_id,
                    driver_exit_code=number_of(step, "driver_exit_code") if ended else None,
                )
                seen.append(known)
        if known:
            _keep(self._jobs, number, known)
        return seen


def _defined(row: Row, event: _Event) -> JobSeen:
    """Return a job as its definition tells of it."""
    config = table_of(row, "config")
    env = load((text_of(config, "serialized_runtime_env", ENV_LIMIT + 1) or "{}").encode())
    if not isinstance(env, dict):
        raise ValueError("a runtime_env that is none, or too long to be kept whole")  # noqa: TRY004
    metadata = table_of(config, "metadata")
    return JobSeen(
        at=event.at,
        kind="SUBMISSION",
        job_id="",
        submission_id="",
        status="",
        entrypoint=text_of(row, "entrypoint"),
        message="",
        error_type="",
        started_at=None,
        ended_at=None,
        metadata={k[:TEXT_LIMIT]: str(v)[:TEXT_LIMIT] for k, v in metadata.items()},
        runtime_env=json.dumps(env),
        driver_node_id="",
        driver_exit_code=None,
    )


def _transitions(row: Row, event: _Event) -> Iterator[tuple[int, Row, float]]:
    """Yield what became of something: Ray joins what happens within a second in one event."""
    found = value_of(row, "state_transitions")
    steps = found if isinstance(found, list) else []
    first = max(0, len(steps) - MAX_TRANSITIONS)
    for number, step in enumerate(steps[first:], first):
        if isinstance(step, dict):
            yield number, step, _time(value_of(step, "timestamp"), event.now, default=event.at)


def _named(row: Row, key: str) -> str:
    found = text_of(row, key)
    if not found:
        raise ValueError(f"an event without {key}")
    return found


def _id(row: Row, key: str, size: int) -> str:
    found = id_of(row, key, size)
    if not found:
        raise ValueError(f"an event without {key}")
    return found


def _event_id(row: Row) -> str:
    """Return an event's id in hex; of one without it a digest of what it says, which a retry says again."""
    try:
        raw = base64.b64decode(text_of(row, "event_id"), validate=True)
    except ValueError:
        raw = b""
    if 0 < len(raw) <= ID_LIMIT:
        return raw.hex()
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()


def _time(value: object, now: float, *, default: float) -> float:
    """Read an RFC 3339 time with up to nine digits, at most `now`."""
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return min(default, now)
    whole = datetime.fromisoformat(match[1]).replace(tzinfo=timezone.utc).timestamp()
    at = whole + float(f"0.{match[2] or 0}")
    return min(at if at > 0 else default, now)


def _ms(at: float) -> float:
    """Return it as the dashboard has it: in whole milliseconds."""
    return int(at * 1000) / 1000


def _keep(known: dict[str, _Kept], key: str, value: _Kept) -> None:
    """Remember it; the oldest go."""
    known.pop(key, None)
    known[key] = value
    while len(known) > MAX_DEFINED:
        del known[next(iter(known))]
