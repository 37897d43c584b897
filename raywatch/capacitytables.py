"""Why machines do not come, for a terminal: who waits, what was asked for and came, what the cloud said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raywatch.core.capacity_view import CapacityJson, DemandJson, FailureJson, NodesJson
from raywatch.layout import age, table
from raywatch.terminal import safe


def capacity_story(found: CapacityJson, now: float) -> str:
    """Say why machines do not come; then who waits, what was asked for and came, and what the cloud said."""
    heads = ("WAITS", "COUNT", "WHAT", "ASKS FOR", "FITS", "WHO")
    parts = [
        [safe(found["why"], 1000)],
        _rows(
            heads, [_demand_cells(d, now) for d in found["demands"]], {"ASKS FOR": 80, "WHO": 60}
        ),
        _rows(
            ("WAITS", "COUNT", "ACTORS", "JOB"),
            [
                (age(a["since"], now), str(a["count"]), a["class_name"], a["job"])
                for a in found["actors"]
            ],
            {},
        ),
        _rows(
            ("NODE TYPE", "ACTIVE", "IDLE", "ASKED FOR", "LOST"),
            [_nodes_cells(n) for n in found["nodes"]],
            {"ASKED FOR": 60},
        ),
        _rows(
            ("FAILED", "FOR", "NODE TYPE", "CLASS", "CODE", "THE CLOUD SAID"),
            [_failure_cells(f, now) for f in found["failures"]],
            {"THE CLOUD SAID": 200},
        ),
    ]
    return "\n\n".join("\n".join(p) for p in parts if p)


def _rows(
    heads: Sequence[str], rows: Sequence[Sequence[str]], limits: Mapping[str, int]
) -> list[str]:
    return [table(heads, rows, limits)] if rows else []


def _demand_cells(row: DemandJson, now: float) -> tuple[str, ...]:
    fits = "never" if row["infeasible"] else ""
    who = ", ".join(row["who"])
    return age(row["since"], now), str(row["count"]), row["kind"], row["words"], fits, who


def _nodes_cells(row: NodesJson) -> tuple[str, ...]:
    asked = ", ".join(f"{count} {how}" for how, count in row["pending"].items())
    counts = (str(row["active"]), str(row["idle"]), asked, str(row["ended"] or ""))
    return (row["type"] or "started by hand", *counts)


def _failure_cells(row: FailureJson, now: float) -> tuple[str, ...]:
    ages = (age(row["last_at"], now), age(row["first_at"], now))
    return (*ages, row["type"], row["class"], row["code"], row["words"])
