"""The nodes of the cluster as a table and as a story for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from raywatch.core.nodeview import HostedJson, NodeJson
from raywatch.core.view import IncidentJson
from raywatch.layout import SHORT, age, fields, part, table, when
from raywatch.terminal import safe

_GIB = 1 << 30
_ORDER = {"draining": 0, "dead": 1, "alive": 2}  # what needs a look stands first
_OWN = ("CPU", "GPU", "memory", "object_store_memory")


def nodes_table(rows: Sequence[NodeJson], now: float) -> str:
    """List nodes: those that go, those that went, the head, the others by age."""
    if not rows:
        return "no nodes"
    heads = ("NODE", "IP", "AGE", "CPU", "GPU", "MEMORY", "TYPE", "RUNS", "OPEN", "LOGS", "STATE")
    ordered = sorted(
        rows, key=lambda r: (_ORDER.get(r["state"], 9), not r["is_head"], r["started_at"] or "")
    )
    return table(heads, [_cells(r, now) for r in ordered], {"STATE": 100, "RUNS": 48})


def _cells(row: NodeJson, now: float) -> tuple[str, ...]:
    sizes, role = row["resources"], " (head)" if row["is_head"] else ""
    kind = "/".join(filter(None, (row["accelerator"], row["instance_type"], row["market"])))
    return (
        row["id"][:SHORT],
        row["ip"] + role,
        age(row["started_at"], now),
        _count(sizes.get("CPU")),
        _count(sizes.get("GPU")),
        _gib(sizes.get("memory")),
        kind,
        ", ".join(_hosted(h) for h in row["runs"]),
        ", ".join(row["incidents"]),
        "read" if row["reads_logs"] else "",
        standing(row, now),
    )


def _count(size: float | None) -> str:
    return "" if size is None else f"{size:g}"


def _gib(size: float | None) -> str:
    return "" if size is None else f"{size / _GIB:.1f} GiB"


def _hosted(hosted: HostedJson) -> str:
    numbers = _ranges(hosted["ranks"])
    parts = (f"ranks {numbers}" if numbers else "", "driver" if hosted["driver"] else "")
    return f"{hosted['name'] or hosted['id']} ({', '.join(p for p in parts if p)})"


def _ranges(numbers: Sequence[int]) -> str:
    """Write 0,1,2,5 as 0-2,5."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def standing(row: NodeJson, now: float) -> str:
    """Say how a node stands, with what is left of a deadline and the incident that an end belongs to."""
    words = row["words"]
    if row["state"] == "draining" and row["deadline_at"]:
        left = _seconds(row["deadline_at"]) - now
        words += f", {left:.0f} s left" if left >= 0 else f", {-left:.0f} s past its deadline"
    if row["state"] == "dead":
        ended = f" {age(row['ended_at'], now)} ago" if row["ended_at"] else ""
        named = f" [{row['incident']}]" if row["incident"] else ""
        words = f"dead{ended}{named}{words.removeprefix('dead')}"
    return words


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at.replace("Z", "+00:00")).timestamp()


def node_story(row: NodeJson, incidents: Sequence[IncidentJson], now: float) -> str:
    """Tell all that is known of a node."""
    sizes = row["resources"]
    more = ", ".join(f"{k}={v:g}" for k, v in sizes.items() if k not in _OWN)
    facts = [
        ("id", row["id"]),
        ("ip", row["ip"]),
        ("name", row["name"]),
        ("role", "head" if row["is_head"] else "worker"),
        ("started", when(row["started_at"], now)),
        ("ended", when(row["ended_at"], now) if row["ended_at"] else ""),
        ("deadline", row["deadline_at"] or ""),
        ("CPU", _count(sizes.get("CPU"))),
        ("GPU", _count(sizes.get("GPU"))),
        ("memory", _gib(sizes.get("memory"))),
        ("store", _gib(sizes.get("object_store_memory"))),
        ("more", more),
        ("chip", row["accelerator"]),
        ("instance", ", ".join(filter(None, (row["instance_type"], row["market"])))),
        ("group", row["group"]),
        ("labels", ", ".join(f"{k}={v}" for k, v in row["labels"].items())),
        ("session", row["session"]),
        ("logs", "read by this daemon" if row["reads_logs"] else "not read by this daemon"),
    ]
    lines = [
        safe(f"{row['id'][:SHORT]}  {standing(row, now)}"),
        *fields(facts),
        *part("runs", row["runs"], lambda h: [_hosted(h)]),
        *part("incidents", incidents, lambda i: [_brief(i, row["incident"], now)]),
    ]
    return "\n".join(lines)


def _brief(incident: IncidentJson, end: str, now: float) -> str:
    why = "  its end" if incident["id"] == end else ""
    ago = age(incident["first_at"], now)
    return f"{incident['id']}  {ago}  {incident['class']}  {incident['state']}{why}"
