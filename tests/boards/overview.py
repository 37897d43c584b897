"""Overview: is training safe, what failed, does raywatch see."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.models import units

from tests.boards.boards import board
from tests.boards.parts import (
    BAD,
    GREEN,
    GREY,
    RED,
    YELLOW,
    YES_NO,
    Ask,
    lines,
    number,
    ranking,
    timeline,
)
from tests.boards.promql import every, grown, growth, now, or_zero, total, where
from tests.boards.runs import run_table, runs_that_are
from tests.boards.words import LEVEL_TEXTS, STATUS_CODES, status_code

NO_SESSION = "no session"


def _safe() -> list[Any]:
    failed = (
        f"{runs_that_are('failed')} and on (run) "
        f"max by (run) ({now('run_restart_owner', where('owner', 'nobody'))}) == 1"
    )
    level = (
        f"min(({now('run_fault_tolerance_level')}) and on (job, instance, run) "
        f"({every('run_status', where('status', 'running|restarting'))} == 1))"
    )
    return [
        number(
            "Open Incidents",
            "Failures that are not over, whatever their class. Details: dashboard Incidents.",
            f"sum({now('incidents_open')})",
            steps=BAD,
            empty=NO_SESSION,
        ),
        number(
            "Runs That Train",
            "Runs whose status is running.",
            or_zero(f"count({runs_that_are('running')})"),
            base=GREY,
            steps=((1, GREEN),),
        ),
        number(
            "Failed for Good",
            "Runs that failed and that nobody starts again: neither Ray Train, KubeRay, a launcher nor raywatch.",
            or_zero(f"count({failed})"),
            steps=BAD,
        ),
        number(
            "Weakest Fault Tolerance",
            "The lowest level among the runs that train: 1 ends with a lost worker, 2 restarts from a checkpoint, "
            "3 goes on with fewer workers, 4 takes new ones in.",
            level,
            texts=LEVEL_TEXTS,
            empty="nothing trains",
            base=GREY,
        ),
        number(
            "Oldest Checkpoint",
            "The greatest age of the newest whole checkpoint, of all runs that are not over: what a failure costs now.",
            f"max({now('checkpoint_age_seconds')})",
            unit=units.Seconds,
            steps=((3600, YELLOW), (6 * 3600, RED)),
            empty="no checkpoint",
        ),
        number(
            "Blind Sources",
            "Sources of facts (logs, APIs of Ray and Kubernetes, clouds) that do not answer: what they would tell is missed.",
            or_zero(f"count({every('source_up')} == 0)"),
            steps=BAD,
        ),
    ]


def _watch() -> list[Any]:
    return [
        timeline(
            "Sources",
            "Whether each source of facts answers. Red: what fails there stays unseen.",
            total(every("source_up"), "source", how="min"),
            "{{source}}",
            YES_NO,
            empty="raywatch is not scraped",
        ),
        lines(
            "Nodes",
            "Ray nodes by state; dead ones are shown for an hour.",
            Ask(total(now("nodes"), "state", how="max"), "{{state}}"),
            stacked=True,
            step=True,
            empty="the dashboard has told of no node",
        ),
        lines(
            "Waiting for Machines",
            "Requests that have no node yet; infeasible: no node type can ever satisfy them.",
            Ask(total(now("capacity_pending_requests"), "kind", how="max"), "{{kind}}"),
            step=True,
            empty="Ray has told of no request",
        ),
        lines(
            "Bytes Not Read Yet",
            "Logs that are written and not read: near 0, but for moments, where raywatch keeps up.",
            Ask(total(every("tail_lag_bytes"), "instance", how="max"), "{{instance}}"),
            unit=units.BytesIEC,
            empty="raywatch is not scraped",
        ),
    ]


def overview() -> dict[str, Any]:
    """Return the dashboard."""
    happened = [
        lines(
            "Open Incidents by Class",
            "A class that is a symptom names an incident only until its cause is known. A click leads to the runbook.",
            Ask(f"{total(now('incidents_open'), 'class')} > 0", "{{class}}"),
            stacked=True,
            step=True,
            runbook="class",
            empty="none open",
        ),
        ranking(
            "Incidents in the Range",
            "How many incidents were given each class. A click leads to the runbook.",
            f"topk(12, {total(grown('incidents_total'), 'class')} > 0.5)",
            "{{class}}",
            runbook="class",
            span=12,
            decimals=0,
            empty="none",
        ),
        lines(
            "Resumes and Other Actions",
            "What raywatch decided about runs and nodes, by what came of it. suggested: it waits for a person.",
            Ask(f"{total(growth('actions_total'), 'outcome')} > 0", "{{outcome}}"),
            bars=True,
            stacked=True,
            empty="no action",
        ),
        lines(
            "Preemption Notices",
            "Nodes that were told that they will be taken, by who told them.",
            Ask(total(growth("preemption_notices_total"), "provider"), "{{provider}}"),
            bars=True,
            stacked=True,
            empty=NO_SESSION,
        ),
    ]
    runs = [
        run_table(),
        timeline(
            "Status of Runs",
            "What each run does. restarting: between two tries.",
            status_code(),
            "{{run}}",
            STATUS_CODES,
            empty="no run",
        ),
        lines(
            "Age of the Newest Whole Checkpoint",
            "What a failure costs at the moment; it falls to 0 whenever a checkpoint is whole.",
            Ask(total(now("checkpoint_age_seconds"), "run", how="max"), "{{run}}"),
            unit=units.Seconds,
            empty="no checkpoint",
        ),
    ]
    return board(
        "raywatch-overview",
        "Is training safe? Open incidents, how each run would survive a failure, and whether raywatch sees.",
        [
            ("Is Training Safe?", _safe()),
            ("Runs", runs),
            ("What Happened", happened),
            ("What raywatch Sees", _watch()),
        ],
    )
