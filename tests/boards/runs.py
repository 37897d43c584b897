"""Training runs: who trains, how far, what a failure costs, who starts them again."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.models import units

from tests.boards.boards import board
from tests.boards.parts import (
    GREEN,
    ORANGE,
    RED,
    YELLOW,
    Ask,
    Column,
    lines,
    number,
    ranking,
    rows,
    timeline,
    to_board,
)
from tests.boards.promql import (
    RATE,
    RUN,
    added,
    every,
    grown,
    growth,
    last,
    now,
    of_session,
    or_zero,
    total,
    where,
)
from tests.boards.words import LEVEL_TEXTS, OWNER_TEXTS, STATUS_CODES, STATUS_TEXTS, status_code

_NONE = "no run"


def runs_that_are(status: str, *matchers: str) -> str:
    """Return one series a run that has a status now; several daemons may see it."""
    return f"max by (run) ({now('run_status', where('status', status), *matchers)}) == 1"


def run_table(*matchers: str) -> Any:
    """Return the table of all runs of the range."""
    over = last("run_status", *matchers, where("status", "finished|stopped"))
    owner = f"max by (run, owner) ({last('run_restart_owner', *matchers)}) == 1"
    asks = [
        Ask(f"max by (run, status) ({last('run_status', *matchers)}) == 1"),
        Ask(f"{owner} unless on (run) max by (run) ({over}) == 1"),
        *(
            Ask(total(last(name, *matchers), "run", how="max"), heading)
            for name, heading in (
                ("run_fault_tolerance_level", "Fault Tolerance"),
                ("run_world_size", "Ranks"),
                ("run_world_size_expected", "Expected"),
                ("run_step", "Step"),
                ("checkpoint_age_seconds", "Checkpoint Age"),
                ("run_attempts", "Attempts"),
            )
        ),
        Ask(
            f"{total(added('lost_work_seconds_total', *matchers), 'run')} > 0",
            "Lost Work",
        ),
    ]
    columns = [
        Column("Run", links=[to_board("raywatch-runs", "What this run did")]),
        Column("Status", texts=STATUS_TEXTS),
        Column("Restarted by", texts=OWNER_TEXTS),
        Column("Fault Tolerance", texts=LEVEL_TEXTS),
        Column("Checkpoint Age", unit=units.Seconds, steps=((3600, YELLOW), (21600, RED))),
        Column("Lost Work", unit=units.Seconds),
    ]
    return rows(
        "Runs of the Range",
        "As each run was last seen in the time range, those that are over too. Restarted by: who would start it again "
        "after a lost node. Attempts: the last 32 at most. Lost Work: since the checkpoint, summed over failures of the range.",
        asks,
        columns,
        {"run": "Run", "status": "Status", "owner": "Restarted by"},
        empty=_NONE,
    )


def _progress() -> list[Any]:
    age = "time() - " + total(now("run_last_progress_timestamp_seconds", RUN), "run", how="max")
    return [
        lines(
            "Ranks Against Expected",
            "Ranks that train. Dashed: the most that the run's job has had; below it an elastic run has shrunk.",
            Ask(total(now("run_world_size", RUN), "run", how="max"), "{{run}}"),
            Ask(total(now("run_world_size_expected", RUN), "run", how="max"), "{{run}} expected"),
            step=True,
            dashed="/ expected$/",
            empty=_NONE,
        ),
        lines(
            "Newest Step",
            "It falls where a run goes on from an older checkpoint.",
            Ask(total(now("run_step", RUN), "run", how="max"), "{{run}}"),
            empty="no run has reported a step",
        ),
        lines(
            "Steps per Second",
            "How fast the newest step grows; what a restart sets back is not counted.",
            Ask(f"clamp_min({_speed()}, 0)", "{{run}}"),
            empty="no run has reported a step",
        ),
        lines(
            "Time Since the Newest Step",
            "Much more than a step takes: the run waits, hangs or is over.",
            Ask(f"({age}) and on (run) ({runs_that_are('running', RUN)})", "{{run}}"),
            unit=units.Seconds,
            empty="no run has reported a step",
        ),
    ]


def _speed() -> str:
    series = f"deriv({every('run_step', RUN)}[{RATE}]) {of_session()}"
    return total(series, "run", how="max")


def _checkpoints() -> list[Any]:
    age, between = now("checkpoint_age_seconds", RUN), now("checkpoint_interval_seconds", RUN)
    ratio = f"max by (run) ({age}) / max by (run) ({between})"
    return [
        lines(
            "Age of the Newest Whole Checkpoint",
            "What a failure costs at the moment. Dashed: how far apart the last checkpoints of the run were.",
            Ask(f"max by (run) ({age})", "{{run}}"),
            Ask(f"max by (run) ({between})", "{{run}} interval"),
            dashed="/ interval$/",
            unit=units.Seconds,
            empty="no whole checkpoint",
        ),
        lines(
            "Checkpoints Overdue",
            "That age in units of the usual interval: above 3, whole checkpoints have stopped.",
            Ask(ratio, "{{run}}"),
            steps=((2, ORANGE), (3, RED)),
            empty="fewer than two whole checkpoints",
        ),
    ]


def _restarts() -> list[Any]:
    return [
        lines(
            "Restarts by Cause",
            "When runs were started again, and the class of the incident that ended them. A click leads to the runbook.",
            Ask(f"{total(growth('run_restarts_total', RUN), 'class')} > 0", "{{class}}"),
            bars=True,
            stacked=True,
            runbook="class",
            empty="none",
        ),
        lines(
            "Restarts by Owner",
            "Who started them again.",
            Ask(f"{total(growth('run_restarts_total', RUN), 'owner')} > 0", "{{owner}}"),
            bars=True,
            stacked=True,
            empty="none",
        ),
        ranking(
            "Lost Work by Cause",
            "Work since the checkpoint that failures of the range threw away. A click leads to the runbook.",
            f"{total(added('lost_work_seconds_total', RUN), 'class')} > 0",
            "{{class}}",
            unit=units.Seconds,
            runbook="class",
            empty="none lost",
        ),
        ranking(
            "Lost Work by Run",
            "The same by the run that lost it.",
            f"{total(added('lost_work_seconds_total', RUN), 'run')} > 0",
            "{{run}}",
            unit=units.Seconds,
            empty="none lost",
        ),
        ranking(
            "Broken Rings by Cause",
            "Failures that broke a run's collective ring (NCCL, Gloo, Horovod), by what was behind them.",
            f"{total(grown('ring_breaks_total', RUN), 'cause')} > 0",
            "{{cause}}",
            runbook="cause",
            decimals=0,
            empty="none",
        ),
    ]


def _budgets() -> list[Any]:
    finite = "< +Inf"
    return [
        rows(
            "Restarts Left",
            "How often each budget still lets a run be started again. failures, preemptions: Ray Train's; raywatch: its own "
            "rule's. ∞: any number.",
            [
                Ask(total(last("run_restarts_allowed", RUN), "run, budget", how="max"), "Allowed"),
                Ask(total(last("run_restarts_left", RUN), "run, budget", how="min"), "Left"),
            ],
            [Column("Left", base=RED, steps=((1, ORANGE), (2, GREEN)))],
            {"run": "Run", "budget": "Budget"},
            span=12,
            empty="no budget is known",
        ),
        lines(
            "Restarts Left Over Time",
            "Budgets that are limited. At 0 the next failure ends the run.",
            Ask(
                f"min by (run, budget) ({now('run_restarts_left', RUN)}) {finite}",
                "{{run}} {{budget}}",
            ),
            step=True,
            empty="no budget is limited",
        ),
    ]


def runs() -> dict[str, Any]:
    """Return the dashboard."""
    status = [
        number(
            "Running",
            "Chosen runs whose status is running.",
            or_zero(f"count({runs_that_are('running', RUN)})"),
            span=8,
        ),
        number(
            "Restarts in the Range",
            "By Ray Train or raywatch, of the chosen runs.",
            or_zero(f"sum({grown('run_restarts_total', RUN)})"),
            decimals=0,
            steps=((1, YELLOW), (5, RED)),
            span=8,
        ),
        number(
            "Work Lost in the Range",
            "Time since the checkpoint, summed over the failures of the chosen runs.",
            or_zero(f"sum({added('lost_work_seconds_total', RUN)})"),
            unit=units.Seconds,
            steps=((600, YELLOW), (3600, RED)),
            span=8,
        ),
        run_table(RUN),
        timeline(
            "Status",
            "What each run does. restarting: between two tries.",
            status_code(RUN),
            "{{run}}",
            STATUS_CODES,
            span=24,
            empty=_NONE,
        ),
    ]
    return board(
        "raywatch-runs",
        "How far each run is, what a failure would cost, what failures cost, and who starts it again.",
        [
            ("Runs", status),
            ("Progress", _progress()),
            ("Checkpoints", _checkpoints()),
            ("Restarts and Lost Work", _restarts()),
            ("Budgets", _budgets()),
        ],
        runs=True,
    )
