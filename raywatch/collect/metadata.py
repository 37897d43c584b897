"""Answers of metadata services -> notices. Pure; the text is hostile: what is not as documented is left out.

Formats: AWS "Spot Instance interruption notices", "EC2 instance rebalance recommendations", "Scheduled events for your
instances"; Google Cloud "Query metadata server for maintenance event notices" and "Spot VMs"; Azure "Scheduled Events
for Linux VMs", version 2020-07-01.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

from raywatch.notice import Machine, Notice, NoticeKind

MAX_EVENTS = 32  # of one list
GRACE_S = 30.0  # that Google Cloud and Azure give at least, where they name no time
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}\Z")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}\Z")
TOKEN = re.compile(r"[!-~]{1,255}\Z")
_IP = re.compile(r"[0-9a-fA-F.:]{2,45}\Z")
_LIVE = ("active", "")  # states of AWS' scheduled events; the others are completed and canceled
_AZURE_ENDS = {
    "Preempt": True,
    "Terminate": True,
    "Reboot": True,
    "Redeploy": True,
    "Freeze": False,
}


def plain(body: bytes, pattern: re.Pattern[str] = _ID) -> str:
    """Return a value that is one bare word, '' for anything else."""
    text = body[:256].decode(errors="replace").strip()
    return text if pattern.match(text) else ""


def address(body: bytes) -> str:
    """Return an IP address, '' for anything else."""
    return plain(body, _IP)


def unix_time(text: object) -> float | None:
    """Read a time as AWS and Azure write it (RFC 3339, or RFC 1123 with or without the weekday); None for none."""
    if not isinstance(text, str) or len(text) > 40:  # noqa: PLR2004 - none of the formats is longer
        return None
    try:
        iso = text.strip().replace("Z", "+00:00")
        found = parsedate_to_datetime(text) if "GMT" in text else datetime.fromisoformat(iso)
    except (ValueError, IndexError, TypeError):  # parsedate raises any of them
        return None
    return found.timestamp() if found.tzinfo else None


def _rows(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _word(row: Mapping[str, object], key: str) -> str:
    value = row.get(key)
    return value if isinstance(value, str) and _WORD.match(value) else ""


def _event_id(row: Mapping[str, object]) -> str:
    value = row.get("EventId")
    return value if isinstance(value, str) and _ID.match(value) else ""


def spot_action(body: bytes, machine: Machine) -> tuple[Notice, ...] | None:
    """Read AWS' spot/instance-action; None where it is none."""
    row = _rows(body)
    if not isinstance(row, dict):
        return None
    what, at = _word(row, "action"), unix_time(row.get("time"))
    if not what or at is None:
        return None
    key = f"aws {machine.instance} spot {what} {at:.0f}"
    return (Notice(key, "aws", "preemption", what, at),)


def rebalance(body: bytes, machine: Machine) -> tuple[Notice, ...] | None:
    """Read AWS' events/recommendations/rebalance; None where it is none."""
    row = _rows(body)
    at = unix_time(row.get("noticeTime")) if isinstance(row, dict) else None
    if at is None:
        return None
    key = f"aws {machine.instance} rebalance {at:.0f}"
    return (Notice(key, "aws", "rebalance", "rebalance-recommendation", None, ends=False),)


def scheduled(body: bytes, machine: Machine) -> tuple[Notice, ...] | None:
    """Read AWS' events/maintenance/scheduled; None where it is none."""
    rows = _rows(body)
    if not isinstance(rows, list):
        return None
    found = []
    for row in rows[:MAX_EVENTS]:
        if not isinstance(row, dict) or row.get("State", "") not in _LIVE:
            continue
        what, event, at = _word(row, "Code"), _event_id(row), unix_time(row.get("NotBefore"))
        if what and event and at is not None:
            key = f"aws {machine.instance} {event}"
            ends = what != "system-maintenance"  # it may cost the network for a moment
            found.append(Notice(key, "aws", "maintenance", what, at, ends))
    return tuple(found)


def gcp_preempted(
    body: bytes, machine: Machine, boot: str, now: float
) -> tuple[Notice, ...] | None:
    """Read Google Cloud's instance/preempted; None where it is none. It has no id: `boot` tells lives of a VM apart."""
    text = plain(body)
    if text not in ("TRUE", "FALSE"):
        return None
    key = f"gcp {machine.instance} preempted {boot}"
    told = Notice(key, "gcp", "preemption", "preempted", now + GRACE_S)
    return (told,) if text == "TRUE" else ()


def gcp_maintenance(
    body: bytes, machine: Machine, boot: str, now: float
) -> tuple[Notice, ...] | None:
    """Read instance/maintenance-event; None where it is none. A live migration ends nothing and is no notice."""
    text = plain(body)
    if text in ("NONE", "MIGRATE_ON_HOST_MAINTENANCE"):
        return ()
    if text != "TERMINATE_ON_HOST_MAINTENANCE":
        return None
    key = f"gcp {machine.instance} maintenance {boot}"
    return (Notice(key, "gcp", "maintenance", "terminate-on-host-maintenance", now + 60.0),)


def azure_events(body: bytes, machine: Machine, now: float) -> tuple[Notice, ...] | None:
    """Read Azure's scheduled events, which tell of all machines of a group; None where it is no such document."""
    document = _rows(body)
    if not isinstance(document, dict) or not isinstance(document.get("DocumentIncarnation"), int):
        return None
    rows = document.get("Events")
    if not isinstance(rows, list):
        return None
    found: list[Notice] = []
    for row in rows:
        if len(found) == MAX_EVENTS:
            break
        names = row.get("Resources") if isinstance(row, dict) else None
        if isinstance(names, list) and machine.name and machine.name in names:
            what, event = _word(row, "EventType"), _event_id(row)
            if what in _AZURE_ENDS and event:
                preempted = what == "Preempt"
                at = unix_time(row.get("NotBefore")) or (now + GRACE_S if preempted else None)
                kind: NoticeKind = "preemption" if preempted else "maintenance"
                key = f"azure {machine.instance} {event}"
                found.append(Notice(key, "azure", kind, what, at, _AZURE_ENDS[what]))
    return tuple(found)


def azure_machine(body: bytes) -> Machine | None:
    """Read Azure's instance document; None where it is none."""
    row = _rows(body)
    compute = row.get("compute") if isinstance(row, dict) else None
    if not isinstance(row, dict) or not isinstance(compute, dict):
        return None
    name, instance = compute.get("name"), compute.get("vmId")
    if not (isinstance(name, str) and isinstance(instance, str) and _ID.match(instance)):
        return None
    try:
        ip = row["network"]["interface"][0]["ipv4"]["ipAddress"][0]["privateIpAddress"]
    except (KeyError, IndexError, TypeError):
        ip = ""
    return Machine(instance, address(ip.encode()) if isinstance(ip, str) else "", name)
