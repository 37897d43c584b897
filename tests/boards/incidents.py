"""Incidents: which classes, causes against symptoms, how long recovery takes, what the evidence was."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.models import units

from tests.boards.boards import board
from tests.boards.parts import (
    BAD,
    ODD,
    RED,
    YELLOW,
    Ask,
    Column,
    lines,
    number,
    ranking,
    rows,
)
from tests.boards.promql import grown, growth, now, or_zero, total, where
from tests.boards.words import classes

_PAGE = {
    "title": "What to do about it",
    "url": "${runbooks:raw}/${__value.raw}.md",
    "targetBlank": True,
}
_CALM = "none"
_NO_SESSION = "no session"


def _now() -> list[Any]:
    cause, symptom = classes("root"), classes("symptom")
    return [
        number(
            "Open, Cause Known",
            "Open incidents whose class is a cause.",
            f"sum({now('incidents_open', cause)})",
            steps=BAD,
            empty=_NO_SESSION,
        ),
        number(
            "Open, Cause Unknown",
            "Open incidents that show a symptom only: what is behind it is not known, or not known yet.",
            f"sum({now('incidents_open', symptom)})",
            steps=ODD,
            empty=_NO_SESSION,
        ),
        number(
            "Incidents in the Range",
            "Incidents that were given a class; one whose cause became known later counts under both.",
            f"sum({grown('incidents_total')})",
            decimals=0,
            steps=((1, YELLOW), (20, RED)),
            empty=_NO_SESSION,
        ),
        number(
            "Unknown Failures",
            "Incidents of the range that no signature explains.",
            f"sum({grown('incidents_total', where('class', 'unknown_failure'))})",
            decimals=0,
            steps=ODD,
            empty=_NO_SESSION,
        ),
        number(
            "Preemption Notices",
            "Nodes that were told in the range that they will be taken.",
            f"sum({grown('preemption_notices_total')})",
            decimals=0,
            steps=((1, YELLOW),),
            empty=_NO_SESSION,
        ),
        number(
            "Resumes That Failed",
            "Actions of the range that failed, timed out or were interrupted.",
            or_zero(
                f"sum({grown('actions_total', where('outcome', 'failed|timed_out|interrupted'))})"
            ),
            decimals=0,
            steps=BAD,
        ),
    ]


def _classes() -> list[Any]:
    table = rows(
        "Classes",
        "Every class that was seen in the range. A click on one leads to its runbook.",
        [
            Ask(f"{total(grown('incidents_total'), 'class, group')} > 0.5", "Incidents"),
            Ask(f"{total(now('incidents_open'), 'class')} > 0", "Open"),
            Ask(f"{total(grown('findings_total'), 'class')} > 0.5", "Findings"),
        ],
        [
            Column("Class", links=[_PAGE]),
            Column("Open", steps=BAD),
            Column("Incidents", unit="none"),
        ],
        {"class": "Class", "group": "Group"},
        sort="Incidents",
        span=12,
        decimals=0,
        empty=_CALM,
    )
    return [
        table,
        lines(
            "Open by Class",
            "A click leads to the runbook.",
            Ask(f"{total(now('incidents_open'), 'class')} > 0", "{{class}}"),
            stacked=True,
            step=True,
            runbook="class",
            empty=_CALM,
        ),
        lines(
            "New by Class",
            "When incidents were given their class.",
            Ask(f"{total(growth('incidents_total'), 'class')} > 0", "{{class}}"),
            bars=True,
            stacked=True,
            runbook="class",
            empty=_CALM,
        ),
        lines(
            "Causes Against Symptoms",
            "New incidents by the role of their class. Many symptoms and few causes: evidence is missing, look at Sources.",
            *(
                Ask(total(growth("incidents_total", classes(role))), name)
                for role, name in (
                    ("root", "causes"),
                    ("symptom", "symptoms"),
                    ("warning", "warnings"),
                )
            ),
            bars=True,
            stacked=True,
            empty=_NO_SESSION,
        ),
        ranking(
            "By Group",
            "Incidents of the range by what part of the cluster failed.",
            f"{total(grown('incidents_total'), 'group')} > 0.5",
            "{{group}}",
            decimals=0,
            span=12,
            empty=_CALM,
        ),
        ranking(
            "Broken Rings by Cause",
            "Incidents that broke a collective ring (NCCL, Gloo, Horovod), by what was behind them.",
            f"{total(grown('ring_breaks_total'), 'cause')} > 0.5",
            "{{cause}}",
            runbook="cause",
            decimals=0,
            span=12,
            empty=_CALM,
        ),
    ]


def _recovery() -> list[Any]:
    phase = total(grown("recovery_seconds_bucket"), "phase, le")
    return [
        ranking(
            "Phases of Recovery, Median",
            "Of resumes that succeeded in the range. detect: until the failure was known; decide: until raywatch decided; "
            "launch: until the hook ended; first_step: until the run made a new step.",
            f"histogram_quantile(0.5, {phase})",
            "{{phase}}",
            unit=units.Seconds,
            empty="no resume",
        ),
        ranking(
            "Phases of Recovery, 9 of 10",
            "Nine of ten resumes took at most so long.",
            f"histogram_quantile(0.9, {phase})",
            "{{phase}}",
            unit=units.Seconds,
            empty="no resume",
        ),
        ranking(
            "Actions by Outcome",
            "What came of decisions in the range. suggested: it waits for a person.",
            f"{total(grown('actions_total'), 'outcome')} > 0.5",
            "{{outcome}}",
            decimals=0,
            empty="no action",
        ),
        lines(
            "Actions",
            "What raywatch did, by hook and outcome.",
            Ask(f"{total(growth('actions_total'), 'hook, outcome')} > 0", "{{hook}} {{outcome}}"),
            bars=True,
            stacked=True,
            empty="no action",
        ),
        lines(
            "Hooks That Run",
            "Hooks of actions and notices that have begun and not ended.",
            Ask(total(now("hooks_running"), "hook"), "{{hook}}"),
            step=True,
            empty="no hook is configured",
        ),
    ]


def _evidence() -> list[Any]:
    return [
        lines(
            "Notices by Provider",
            "Nodes that were told that they will be taken, by who told them.",
            Ask(total(growth("preemption_notices_total"), "provider"), "{{provider}}"),
            bars=True,
            stacked=True,
            empty=_NO_SESSION,
        ),
        lines(
            "Launches That Failed",
            "Nodes that the autoscaler could not start, by why.",
            Ask(total(growth("capacity_launch_failures_total"), "reason"), "{{reason}}"),
            bars=True,
            stacked=True,
            empty=_NO_SESSION,
        ),
        lines(
            "Findings by Class",
            "Log records and facts that have a class: the evidence of incidents, copies not counted.",
            Ask(f"{total(growth('findings_total'), 'class')} > 0", "{{class}}"),
            bars=True,
            stacked=True,
            runbook="class",
            empty=_CALM,
        ),
        lines(
            "Findings by Component",
            "The same by the part of Ray that wrote them.",
            Ask(f"{total(growth('findings_total'), 'component')} > 0", "{{component}}"),
            bars=True,
            stacked=True,
            empty=_CALM,
        ),
        lines(
            "Records That Nothing Explains",
            "Records that look like errors and that no signature knows, by who wrote them. Many: a signature is missing.",
            Ask(total(growth("unknown_records_total"), "component"), "{{component}}"),
            bars=True,
            stacked=True,
            span=24,
            empty=_NO_SESSION,
        ),
    ]


def incidents() -> dict[str, Any]:
    """Return the dashboard."""
    return board(
        "raywatch-incidents",
        "What failed, what was behind it, and how long it took until training went on.",
        [
            ("Now", _now()),
            ("By Class", _classes()),
            ("Recovery", _recovery()),
            ("Notices and Findings", _evidence()),
        ],
    )
