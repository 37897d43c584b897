"""What an event that Ray pushed means: of ends what the GCS' own line about them does, so that either is the other's copy.

The signatures of the same: rules/signatures/node.yaml (node-marked-dead, raylet-agent-failed, node-preempted,
node-stopped, drain-at-gcs), worker.yaml (worker-exit-system-error, worker-exit-code), memory.yaml (memory-monitor-kill).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from raywatch.core.classify import entities_of
from raywatch.core.drains import PLANNED
from raywatch.model import Entity, Evidence, Fact, Finding, Subject, Trust
from raywatch.observations import EventSeen

_DRIVER = re.compile(r"[0-9a-f]{8}f{40,48}\Z")  # it has a worker id too; its end is its own affair
_EXIT_CODE = re.compile(r"Worker exits with an exit code ([1-9]\d*)")
# Told to go: Ray does so itself where a job or an owner has ended, and calls it an error if the signal comes first.
_TOLD_TO_GO = "The process receives a SIGTERM"
_AGENT = re.compile(r"(\w+) failed and raylet fate-shares with it")
SHOWN = 1000  # characters of a message in the evidence


class _Meaning(NamedTuple):
    class_id: str
    trust: Trust
    fields: Mapping[str, str] = {}


def judge(event: EventSeen) -> Finding | Fact | None:
    """Return what an event means; None where it is no failure. Same input, same output."""
    if event.what == "node_draining":
        # The event names neither reason nor deadline: the logs do, core.drains joins them.
        return Fact("drain", event.at, _evidence(event, ""), *_named(event, {}))
    meaning = _of_node(event) if event.what == "node_dead" else _of_worker(event)
    return _finding(event, meaning) if meaning is not None else None


def _of_node(event: EventSeen) -> _Meaning | None:
    why = {"reason_message": event.message} if event.message else {}
    planned = event.reason in ("EXPECTED_TERMINATION", "AUTOSCALER_DRAIN_IDLE")
    if planned or (event.reason == "AUTOSCALER_DRAIN_PREEMPTED" and PLANNED in event.message):
        return _Meaning("node_terminated_expected", Trust.RAY, why)
    if event.reason == "AUTOSCALER_DRAIN_PREEMPTED":
        return _Meaning("spot_preemption", Trust.NOTICE, why)
    if event.reason != "UNEXPECTED_TERMINATION":
        return None
    agent = _AGENT.match(event.message)
    if agent:
        return _Meaning("raylet_crash", Trust.RAY, {"agent": agent[1]})
    # Ray says so of every unexpected end: it names the node, not the cause, and a raylet that crashed outranks it.
    return _Meaning("node_lost", Trust.PROCESS, why)


def _of_worker(event: EventSeen) -> _Meaning | None:
    if event.reason == "NODE_OUT_OF_MEMORY":
        return _Meaning("ray_oom_kill", Trust.RAY)
    if event.reason != "SYSTEM_ERROR" or _DRIVER.match(event.worker_id):
        return None
    code = _EXIT_CODE.search(event.message)
    if code:
        return _Meaning("worker_exit_nonzero", Trust.RAY, {"exit_code": code[1]})
    return None if _TOLD_TO_GO in event.message else _Meaning("worker_crash", Trust.RAY)


def _named(event: EventSeen, more: Mapping[str, str]) -> tuple[dict[str, str], frozenset[Entity]]:
    ids = {
        "node_id": event.node_id,
        "worker_id": event.worker_id,
        "job_id": event.job_id,
        "pid": str(event.pid or ""),
    }
    fields = {k: v for k, v in {**ids, **more}.items() if v}
    return fields, entities_of(fields)


def _evidence(event: EventSeen, class_id: str) -> Evidence:
    words = [event.what.replace("_", " "), event.reason, event.message[:SHOWN]]
    return Evidence(
        file=f"ray_events/{event.id[:16]}",
        line=0,
        text=": ".join(filter(None, words)),
        at=event.at,
        component="event",
        class_id=class_id,
        node=event.node_id,
    )


def _finding(event: EventSeen, meaning: _Meaning) -> Finding:
    fields, entities = _named(event, meaning.fields)
    of_worker = meaning.class_id in ("worker_crash", "worker_exit_nonzero")
    subject = Subject("worker", event.worker_id, event.node_id)
    return Finding(
        class_id=meaning.class_id,
        subject=subject if of_worker else Subject("node", event.node_id, event.node_id),
        at=event.at,
        dated=True,
        evidence=_evidence(event, meaning.class_id),
        signature="",
        trust=meaning.trust,
        fields=fields,
        entities=entities,
    )
