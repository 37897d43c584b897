"""Every metric of the daemon: its name, kind, help and labels. /metrics and docs/metrics.md are made of this table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

PREFIX = "raywatch_"
TICK_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)  # seconds
Kind: TypeAlias = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. `name` is without PREFIX and, of a counter, without `_total`; `query` an example for the page."""

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()
    query: str = ""

    @property
    def series(self) -> str:
        """Its name in a query; of a histogram without _bucket, _sum and _count."""
        return f"{PREFIX}{self.name}{'_total' if self.kind == 'counter' else ''}"


_FAILURES = (
    Family(
        "findings",
        "counter",
        "Records and observations with a class.",
        ("class", "component"),
        "sum by (class) (rate(raywatch_findings_total[5m]))",
    ),
    Family(
        "unknown_records",
        "counter",
        "Records that look like errors and that no signature explains.",
        ("component",),
        "sum(increase(raywatch_unknown_records_total[1h]))",
    ),
    Family(
        "incidents",
        "counter",
        "Incidents that were given this class, when they were opened or later.",
        ("class", "group"),
        "sum by (class) (increase(raywatch_incidents_total[1h])) > 0",
    ),
    Family("incidents_open", "gauge", "Incidents that are open.", ("class",)),
    Family(
        "preemption_notices",
        "counter",
        "Nodes that were told that they will be taken.",
        ("provider",),
        "sum(increase(raywatch_preemption_notices_total[10m]))",
    ),
)
_ACTIONS = (
    Family(
        "actions",
        "counter",
        "Decisions about runs, by what became of them; an action counts once under each outcome.",
        ("hook", "class", "outcome"),
        'sum by (outcome) (increase(raywatch_actions_total{hook="job"}[1d]))',
    ),
    Family("hooks_running", "gauge", "Hooks that run now.", ("hook",)),
    Family(
        "recovery_seconds",
        "histogram",
        "Parts of resumes that succeeded: until decided on, hook started, hook ended, first new step.",
        ("phase",),
        "histogram_quantile(0.9, sum by (phase, le) (rate(raywatch_recovery_seconds_bucket[1d])))",
    ),
)
_RUNS = (
    Family(
        "run_status",
        "gauge",
        "1 for the status that a run has, 0 for the others.",
        ("run", "status"),
    ),
    Family("run_world_size", "gauge", "Ranks that train; 0 once the run is over.", ("run",)),
    Family(
        "run_world_size_expected",
        "gauge",
        "The most ranks that the current job of a run that is not over has had.",
        ("run",),
        "raywatch_run_world_size < raywatch_run_world_size_expected",
    ),
    Family(
        "run_fault_tolerance_level",
        "gauge",
        "1 ends with a lost worker, 2 restarts, 3 goes on with fewer, 4 takes new ones in.",
        ("run",),
    ),
    Family("run_step", "gauge", "Newest training step that was reported.", ("run",)),
    Family(
        "run_last_progress_timestamp_seconds",
        "gauge",
        "When the newest training step was reported.",
        ("run",),
        "time() - raywatch_run_last_progress_timestamp_seconds",
    ),
    Family(
        "checkpoint_age_seconds",
        "gauge",
        "Time since the newest whole checkpoint of a run that is not over was registered.",
        ("run",),
    ),
    Family(
        "checkpoint_interval_seconds",
        "gauge",
        "Median time between the last whole checkpoints of a run, eight at most, once two are known.",
        ("run",),
        "raywatch_checkpoint_age_seconds > 3 * raywatch_checkpoint_interval_seconds",
    ),
    Family(
        "run_attempts",
        "gauge",
        "Tries of a run that are remembered, 32 at most: worker groups of Ray Train, elsewhere jobs.",
        ("run",),
    ),
    Family(
        "run_restart_owner",
        "gauge",
        "1 for who starts a run again if a node of it dies now, 0 for the others.",
        ("run", "owner"),
        'raywatch_run_restart_owner{owner="nobody"} == 1',
    ),
    Family(
        "run_restarts_allowed",
        "gauge",
        "How often a budget lets a run be started again, where that is known; +Inf: any number.",
        ("run", "budget"),
    ),
    Family(
        "run_restarts_left",
        "gauge",
        "What is left of that budget.",
        ("run", "budget"),
        "raywatch_run_restarts_left == 0",
    ),
    Family(
        "run_restarts",
        "counter",
        "Restarts of a run by Ray Train or raywatch, by the class of what ended it, 90 s later.",
        ("run", "owner", "class"),
        "sum by (run) (increase(raywatch_run_restarts_total[1h]))",
    ),
    Family(
        "ring_breaks",
        "counter",
        "Incidents that broke a run's collective ring, by their class 90 s later; run is empty where none is known.",
        ("run", "cause"),
    ),
    Family(
        "lost_work_seconds",
        "counter",
        "Time between a run's newest checkpoint (or the start of its workers) and a failure, at each restart.",
        ("run", "class"),
        "sum by (class) (increase(raywatch_lost_work_seconds_total[1d]))",
    ),
)
_CLUSTER = (
    Family(
        "ray_session_info",
        "gauge",
        "1 for the Ray session that is followed; nothing while there is none.",
        ("SessionName", "ray_version"),
        'raywatch_incidents_open and on (job, instance) raywatch_ray_session_info{SessionName=~"$SessionName"}',
    ),
    Family(
        "nodes",
        "gauge",
        "Ray nodes by state, dead ones for an hour; nothing before the dashboard has told of any.",
        ("state",),
    ),
    Family(
        "capacity_pending_requests",
        "gauge",
        "What waits for machines now; nothing before Ray has told what waits.",
        ("kind",),
    ),
    Family(
        "capacity_pending_seconds",
        "gauge",
        "How long the one that waits longest has waited; 0 where none does.",
        ("kind",),
        "raywatch_capacity_pending_seconds > 600",
    ),
    Family(
        "capacity_launch_failures",
        "counter",
        "Launches of nodes that failed, as the autoscaler's log tells.",
        ("reason",),
        "sum by (reason) (increase(raywatch_capacity_launch_failures_total[1h])) > 0",
    ),
)
_SOURCES = (
    Family(
        "source_up",
        "gauge",
        "Whether a source of facts answers.",
        ("source",),
        "raywatch_source_up == 0",
    ),
    Family(
        "source_last_observation_timestamp_seconds",
        "gauge",
        "When a source last answered; logs: when they could last be looked into, also while nothing is written.",
        ("source",),
        "time() - raywatch_source_last_observation_timestamp_seconds",
    ),
    Family(
        "observations",
        "counter",
        "Facts that were taken in from APIs, pushed events and clouds.",
        ("source",),
    ),
    Family(
        "http_requests",
        "counter",
        "Questions to APIs and clouds, by what came of them; ray_events: batches that Ray pushed.",
        ("source", "outcome"),
        'sum by (source, outcome) (rate(raywatch_http_requests_total{outcome!="ok"}[5m])) > 0',
    ),
    Family("tail_read_bytes", "counter", "Bytes of logs read.", ("component",)),
    Family("tail_lag_bytes", "gauge", "Bytes of logs not read yet."),
    Family("tail_files", "gauge", "Log files that are followed."),
    Family(
        "tail_polling",
        "gauge",
        "Whether files are polled because events do not tell all writes; /healthz says why.",
    ),
)
_ITSELF = (
    Family("tick_seconds", "histogram", "How long a turn of the loop took."),
    Family(
        "last_tick_timestamp_seconds",
        "gauge",
        "When the loop last told how things stand, every 2 s at least; it stands still where the loop hangs.",
        query="time() - raywatch_last_tick_timestamp_seconds > 60",
    ),
    Family("store_writable", "gauge", "Whether the last commit succeeded."),
    Family(
        "store_rebuilt",
        "gauge",
        "Whether this start found the store corrupt, set it aside and began a new one.",
    ),
    Family("store_bytes", "gauge", "Size of the database with its log."),
    Family("store_free_bytes", "gauge", "What is free for it in its file system."),
    Family(
        "rules_reload_failures",
        "counter",
        "Changed rules that were broken, so that those before stayed in force.",
    ),
    Family(
        "rules_last_reload_successful",
        "gauge",
        "Whether the rules in force are those that were tried last.",
    ),
    Family(
        "rules_last_reload_success_timestamp_seconds",
        "gauge",
        "When the rules in force were loaded.",
    ),
    Family("build_info", "gauge", "Version of raywatch.", ("version",)),
)
SECTIONS: Mapping[str, tuple[Family, ...]] = {
    "What failed": _FAILURES,
    "What was done about it": _ACTIONS,
    "Runs": _RUNS,
    "The cluster": _CLUSTER,
    "Where facts come from": _SOURCES,
    "raywatch itself": _ITSELF,
}
FAMILIES: Mapping[str, Family] = {f.name: f for part in SECTIONS.values() for f in part}
