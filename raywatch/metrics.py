"""One Prometheus collector over what the daemon last published."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

_Row = TypeVar("_Row", bound=tuple[str, ...])

TICK_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


@dataclass(frozen=True, slots=True)
class RunRow:
    """What is shown of a run under its label. None: not known, so no series."""

    label: str
    world_size: int | None = None
    level: int | None = None
    step: int | None = None
    checkpoint_at: float | None = None


@dataclass(frozen=True, slots=True)
class WorkView:
    """Runs and what was done about them. Phases are counts by bucket of `bounds_s` and their sum."""

    runs: tuple[RunRow, ...] = ()
    actions: Mapping[tuple[str, str, str], int] = field(default_factory=dict)  # hook class outcome
    ring_breaks: Mapping[tuple[str, str], float] = field(default_factory=dict)  # (run, cause)
    restarts: Mapping[tuple[str, str, str], float] = field(default_factory=dict)  # run owner class
    lost_s: Mapping[tuple[str, str], float] = field(default_factory=dict)  # (run, class)
    phases: Mapping[str, tuple[tuple[int, ...], float]] = field(default_factory=dict)
    bounds_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class RulesView:
    """What became of changed rules. `at`: when those in force were loaded."""

    failures: int = 0
    successful: bool = True
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class MetricsView:
    """What the metrics show. `classes` maps each class to its group; ticks are counts by bucket of TICK_BUCKETS."""

    version: str
    classes: Mapping[str, str]
    findings: Mapping[tuple[str, str], int] = field(default_factory=dict)  # (class, component)
    pairs: frozenset[tuple[str, str]] = frozenset()  # every (class, component) that can be found
    incidents: Mapping[str, int] = field(default_factory=dict)  # by class, ever
    open_incidents: Mapping[str, int] = field(default_factory=dict)
    notices: Mapping[str, int] = field(default_factory=dict)  # by provider
    read_bytes: Mapping[str, int] = field(default_factory=dict)  # by component
    lag_bytes: int = 0
    files: int = 0
    polling: bool = False
    sources: Mapping[str, tuple[bool, float]] = field(default_factory=dict)  # up, last observation
    ticks: tuple[int, ...] = (0,) * (len(TICK_BUCKETS) + 1)
    tick_seconds: float = 0.0
    store_writable: bool = True
    store_rebuilt: bool = False
    rules: RulesView = RulesView()
    work: WorkView = WorkView()


class RaywatchCollector(Collector):
    """Turns a view into metric families. Every class series is there from the start, so rate() sees the first."""

    def __init__(self, view: Callable[[], MetricsView], clock: Callable[[], float]) -> None:
        """`clock` says the time of a scrape: ages are those at the scrape, not at the last tick."""
        self._view, self._clock = view, clock

    def collect(self) -> Iterator[Metric]:
        """Yield all families of the current view."""
        view = self._view()
        yield from _of_failures(view)
        yield from _of_actions(view.work)
        yield from _of_runs(view.work, self._clock())
        yield from _of_files(view)
        yield from _of_itself(view)


def _of_failures(view: MetricsView) -> Iterator[Metric]:
    findings = CounterMetricFamily(
        "raywatch_findings", "Records and observations with a class.", labels=["class", "component"]
    )
    for (name, component), count in sorted(
        {**dict.fromkeys(view.pairs, 0), **view.findings}.items()
    ):
        findings.add_metric([name, component], count)
    yield findings
    incidents = CounterMetricFamily(
        "raywatch_incidents",
        "Incidents that were given this class, when they were opened or later.",
        labels=["class", "group"],
    )
    opened = GaugeMetricFamily(
        "raywatch_incidents_open", "Incidents that are open.", labels=["class"]
    )
    for name, group in sorted(view.classes.items()):
        incidents.add_metric([name, group], view.incidents.get(name, 0))
        opened.add_metric([name], view.open_incidents.get(name, 0))
    yield incidents
    yield opened
    notices = CounterMetricFamily(
        "raywatch_preemption_notices",
        "Nodes that were told that they will be taken.",
        labels=["provider"],
    )
    for provider, count in sorted({"ray": 0, **view.notices}.items()):
        notices.add_metric([provider], count)
    yield notices


def _of_actions(work: WorkView) -> Iterator[Metric]:
    yield _counter(
        "raywatch_actions",
        "Decisions about runs, by what became of them; an action counts once under each outcome.",
        ("hook", "class", "outcome"),
        work.actions,
    )
    recovery = HistogramMetricFamily(
        "raywatch_recovery_seconds",
        "Parts of resumes that succeeded: until decided on, hook started, hook ended, first new step.",
        labels=["phase"],
    )
    for phase, (counts, seconds) in work.phases.items():
        recovery.add_metric([phase], _buckets(work.bounds_s, counts), seconds)
    yield recovery


def _of_runs(work: WorkView, now: float) -> Iterator[Metric]:
    yield _counter(
        "raywatch_ring_breaks",
        "Incidents that broke a run's collective ring, by their class 90 s later; run is empty where none is known.",
        ("run", "cause"),
        work.ring_breaks,
    )
    yield _counter(
        "raywatch_run_restarts",
        "Restarts of a run by Ray Train or raywatch, by the class of what ended it, 90 s later.",
        ("run", "owner", "class"),
        work.restarts,
    )
    yield _counter(
        "raywatch_lost_work_seconds",
        "Time between a run's newest checkpoint (or the start of its workers) and a failure, at each restart.",
        ("run", "class"),
        work.lost_s,
    )
    for name, text, value in _RUN_GAUGES:
        gauge = GaugeMetricFamily(f"raywatch_{name}", text, labels=["run"])
        for row in work.runs:
            known = value(row, now)
            if known is not None:
                gauge.add_metric([row.label], known)
        yield gauge


def _age(row: RunRow, now: float) -> float | None:
    return None if row.checkpoint_at is None else max(0.0, now - row.checkpoint_at)


_RUN_GAUGES: tuple[tuple[str, str, Callable[[RunRow, float], float | None]], ...] = (
    ("run_world_size", "Ranks that train; 0 once the run is over.", lambda r, _: r.world_size),
    (
        "run_fault_tolerance_level",
        "1 ends with a lost worker, 2 restarts, 3 goes on with fewer, 4 takes new ones in.",
        lambda r, _: r.level,
    ),
    ("run_step", "Newest training step that was reported.", lambda r, _: r.step),
    (
        "checkpoint_age_seconds",
        "Time since the newest whole checkpoint of a run that is not over was registered.",
        _age,
    ),
)


def _counter(
    name: str, text: str, labels: tuple[str, ...], rows: Mapping[_Row, float]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=labels)
    for row, count in sorted(rows.items()):
        family.add_metric(row, count)
    return family


def _buckets(bounds: tuple[float, ...], counts: tuple[int, ...]) -> list[tuple[str, float]]:
    """Return cumulative buckets, as the exposition has them."""
    names = [*(str(b) for b in bounds), "+Inf"]
    sums = [sum(counts[: i + 1]) for i in range(len(counts))]
    return list(zip(names, sums, strict=True))


def _of_files(view: MetricsView) -> Iterator[Metric]:
    read = CounterMetricFamily(
        "raywatch_tail_read_bytes", "Bytes of logs read.", labels=["component"]
    )
    for component, count in sorted(view.read_bytes.items()):
        read.add_metric([component], count)
    yield read
    yield GaugeMetricFamily(
        "raywatch_tail_lag_bytes", "Bytes of logs not read yet.", value=view.lag_bytes
    )
    yield GaugeMetricFamily("raywatch_tail_files", "Log files that are followed.", value=view.files)
    yield GaugeMetricFamily(
        "raywatch_tail_polling",
        "Whether files are polled because events do not tell all writes; /healthz says why.",
        value=int(view.polling),
    )
    up = GaugeMetricFamily(
        "raywatch_source_up", "Whether a source of facts answers.", labels=["source"]
    )
    last = GaugeMetricFamily(
        "raywatch_source_last_observation_timestamp_seconds",
        "When a source last answered; logs: when they could last be looked into, also while nothing is written.",
        labels=["source"],
    )
    for source, (works, at) in sorted(view.sources.items()):
        up.add_metric([source], int(works))
        last.add_metric([source], at)
    yield up
    yield last


def _of_itself(view: MetricsView) -> Iterator[Metric]:
    yield HistogramMetricFamily(
        "raywatch_tick_seconds",
        "How long a turn of the loop took.",
        buckets=_buckets(TICK_BUCKETS, view.ticks),
        sum_value=view.tick_seconds,
    )
    yield GaugeMetricFamily(
        "raywatch_store_writable",
        "Whether the last commit succeeded.",
        value=int(view.store_writable),
    )
    yield GaugeMetricFamily(
        "raywatch_store_rebuilt",
        "Whether this start found the store corrupt, set it aside and began a new one.",
        value=int(view.store_rebuilt),
    )
    yield CounterMetricFamily(
        "raywatch_rules_reload_failures",
        "Changed rules that were broken, so that those before stayed in force.",
        value=view.rules.failures,
    )
    yield GaugeMetricFamily(
        "raywatch_rules_last_reload_successful",
        "Whether the rules in force are those that were tried last.",
        value=int(view.rules.successful),
    )
    yield GaugeMetricFamily(
        "raywatch_rules_last_reload_success_timestamp_seconds",
        "When the rules in force were loaded.",
        value=view.rules.at,
    )
    build = GaugeMetricFamily("raywatch_build_info", "Version of raywatch.", labels=["version"])
    build.add_metric([view.version], 1)
    yield build
