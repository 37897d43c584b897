"""One Prometheus collector over what the daemon last published."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

TICK_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


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
    sources: Mapping[str, tuple[bool, float]] = field(default_factory=dict)  # up, last observation
    ticks: tuple[int, ...] = (0,) * (len(TICK_BUCKETS) + 1)
    tick_seconds: float = 0.0
    store_writable: bool = True


class RaywatchCollector(Collector):
    """Turns a view into metric families. Every class series is there from the start, so rate() sees the first."""

    def __init__(self, view: Callable[[], MetricsView]) -> None:
        self._view = view

    def collect(self) -> Iterator[Metric]:
        """Yield all families of the current view."""
        view = self._view()
        yield from _of_failures(view)
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
    up = GaugeMetricFamily(
        "raywatch_source_up", "Whether a source of facts answers.", labels=["source"]
    )
    last = GaugeMetricFamily(
        "raywatch_source_last_observation_timestamp_seconds",
        "When a source last said something.",
        labels=["source"],
    )
    for source, (works, at) in sorted(view.sources.items()):
        up.add_metric([source], int(works))
        last.add_metric([source], at)
    yield up
    yield last


def _of_itself(view: MetricsView) -> Iterator[Metric]:
    counts = [sum(view.ticks[: i + 1]) for i in range(len(view.ticks))]
    bounds = [*(str(b) for b in TICK_BUCKETS), "+Inf"]
    yield HistogramMetricFamily(
        "raywatch_tick_seconds",
        "How long a turn of the loop took.",
        buckets=list(zip(bounds, counts, strict=True)),
        sum_value=view.tick_seconds,
    )
    yield GaugeMetricFamily(
        "raywatch_store_writable",
        "Whether the last commit succeeded.",
        value=int(view.store_writable),
    )
    build = GaugeMetricFamily("raywatch_build_info", "Version of raywatch.", labels=["version"])
    build.add_metric([view.version], 1)
    yield build
