"""What the daemon last published -> the samples of each metric. Same input, same output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias, TypeVar, cast, get_args

from prometheus_client.core import (
    CounterMetricFamily,
    Exemplar,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from raywatch.families import FAMILIES, TICK_BUCKETS, Family
from raywatch.model import UNEXPLAINED, Component

Labels: TypeAlias = tuple[str, ...]
_Row = TypeVar("_Row", bound=Labels)


@dataclass(frozen=True, slots=True)
class RunRow:
    """What is shown of a run under its label. None, and what a mapping does not name: not known, so no series."""

    label: str
    world_size: int | None = None
    level: int | None = None
    step: int | None = None
    checkpoint_at: float | None = None
    expected_size: int | None = None
    progress_at: float | None = None
    interval_s: float | None = None
    attempts: int | None = None
    status: Mapping[str, bool] = field(default_factory=dict)  # every status: whether it is this
    owner: Mapping[str, bool] = field(default_factory=dict)  # likewise of the next restart
    allowed: Mapping[str, float] = field(default_factory=dict)  # restarts by budget
    left: Mapping[str, float] = field(default_factory=dict)


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
    hooks_running: Mapping[str, int] = field(default_factory=dict)  # by kind


@dataclass(frozen=True, slots=True)
class ClusterView:
    """The cluster as far as it is known. `pending`: by kind, how many wait and since when the first of them does."""

    session: tuple[str, str] | None = None  # its name, Ray's version
    nodes: Mapping[str, int] = field(default_factory=dict)  # by state
    pending: Mapping[str, tuple[int, float | None]] = field(default_factory=dict)
    launch_failures: Mapping[str, int] = field(default_factory=dict)  # by reason


@dataclass(frozen=True, slots=True)
class StoreView:
    """The store. Bytes are None where its file system does not say."""

    writable: bool = True
    rebuilt: bool = False
    size_bytes: int | None = None
    free_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class RulesView:
    """What became of changed rules. `at`: when those in force were loaded."""

    failures: int = 0
    successful: bool = True
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class TrafficView:
    """What the second thread has asked and heard since the start."""

    told: Mapping[str, int] = field(default_factory=dict)  # facts by source
    asked: Mapping[tuple[str, str], int] = field(default_factory=dict)  # (source, outcome)


@dataclass(frozen=True, slots=True)
class MetricsView:
    """What the metrics show. `classes` maps each class to its group; ticks are counts by bucket of TICK_BUCKETS."""

    version: str
    classes: Mapping[str, str]
    findings: Mapping[tuple[str, str], int] = field(default_factory=dict)  # (class, component)
    pairs: frozenset[tuple[str, str]] = frozenset()  # every (class, component) that can be found
    incidents: Mapping[str, int] = field(default_factory=dict)  # by class, ever
    newest: Mapping[str, tuple[str, float]] = field(default_factory=dict)  # id of the last, when
    open_incidents: Mapping[str, int] = field(default_factory=dict)
    notices: Mapping[str, int] = field(default_factory=dict)  # by provider
    read_bytes: Mapping[str, int] = field(default_factory=dict)  # by component
    lag_bytes: int = 0
    files: int = 0
    polling: bool = False
    sources: Mapping[str, tuple[bool, float]] = field(default_factory=dict)  # up, last observation
    ticks: tuple[int, ...] = (0,) * (len(TICK_BUCKETS) + 1)
    tick_seconds: float = 0.0
    at: float = 0.0  # when this was published
    store: StoreView = StoreView()
    rules: RulesView = RulesView()
    work: WorkView = WorkView()
    cluster: ClusterView = ClusterView()


class Sample(NamedTuple):
    """A value under its labels; `exemplar` is an incident's id and its time."""

    labels: Labels
    value: float
    exemplar: tuple[str, float] | None = None


class Buckets(NamedTuple):
    """A histogram under its labels: counts by bucket, the last one above all bounds, and the sum of what was counted."""

    labels: Labels
    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


class Shown(NamedTuple):
    """A metric and what it says now; equal ones have the same text. Values by labels are written in the order of these."""

    family: Family
    rows: Mapping[Labels, float] | tuple[Sample | Buckets, ...]


class RaywatchCollector(Collector):
    """Turns a view into metric families. Every class series is there from the start, so rate() sees the first."""

    def __init__(
        self,
        view: Callable[[], MetricsView],
        clock: Callable[[], float],
        traffic: Callable[[], TrafficView] = TrafficView,
    ) -> None:
        """`clock` says the time of a scrape: ages are those at the scrape, not at the last tick."""
        self._view, self._clock, self._traffic = view, clock, traffic

    def collect(self) -> Iterator[Metric]:
        """Yield all families of the current view."""
        return map(metric, self.shown())

    def shown(self) -> Iterator[Shown]:
        """Yield all metrics of the current view."""
        view, now = self._view(), self._clock()
        yield from _of_failures(view)
        yield from _of_actions(view.work)
        yield from _of_runs(view.work, now)
        yield from _of_cluster(view.cluster, now)
        yield from _of_sources(view, self._traffic())
        yield from _of_itself(view)


def metric(shown: Shown) -> Metric:
    """Return it as prometheus_client writes it."""
    family, told = shown
    rows = told if isinstance(told, tuple) else [Sample(k, v) for k, v in sorted(told.items())]
    name, text = f"raywatch_{family.name}", family.text
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(name, text, labels=family.labels)
        for row in rows:
            if isinstance(row, Buckets):
                histogram.add_metric(row.labels, _cumulative(row), row.total)
        return histogram
    counts = family.kind == "counter"
    kind = CounterMetricFamily if counts else GaugeMetricFamily
    found = kind(name, text, labels=family.labels)
    full = family.series
    for row in rows:
        if isinstance(row, Sample):
            known = row.exemplar
            exemplar = known and Exemplar({"incident_id": known[0]}, 1, known[1])
            labels = dict(zip(family.labels, row.labels, strict=True))
            found.add_sample(full, labels, row.value, exemplar=exemplar)
    return found


def _cumulative(row: Buckets) -> list[tuple[str, float]]:
    """Return cumulative buckets, as the exposition has them."""
    names = [*(str(b) for b in row.bounds), "+Inf"]
    sums = [sum(row.counts[: i + 1]) for i in range(len(row.counts))]
    return list(zip(names, sums, strict=True))


def _one(name: str, value: float | None) -> Shown:
    """Return a metric without labels; without a series where its value is not known."""
    return Shown(FAMILIES[name], () if value is None else (Sample((), value),))


def _by(name: str, rows: Mapping[_Row, float]) -> Shown:
    """Return a metric with its values by labels. They are not sorted here: mostly they are only compared."""
    return Shown(FAMILIES[name], cast("Mapping[Labels, float]", rows))


def _by_one(name: str, rows: Mapping[str, float]) -> Shown:
    """Return a metric with one label."""
    return _by(name, {(k,): v for k, v in rows.items()})


def _of_failures(view: MetricsView) -> Iterator[Shown]:
    findings = {**dict.fromkeys(view.pairs, 0), **view.findings}
    yield _by("findings", findings)
    yield _by_one("unknown_records", {c: n for (k, c), n in findings.items() if k == UNEXPLAINED})
    yield Shown(
        FAMILIES["incidents"],
        tuple(
            Sample((name, group), view.incidents.get(name, 0), view.newest.get(name))
            for name, group in sorted(view.classes.items())
        ),
    )
    yield _by_one("incidents_open", {c: view.open_incidents.get(c, 0) for c in view.classes})
    yield _by_one("preemption_notices", view.notices)


def _of_actions(work: WorkView) -> Iterator[Shown]:
    yield _by("actions", work.actions)
    yield _by_one("hooks_running", work.hooks_running)
    phases = (Buckets((p,), work.bounds_s, *row) for p, row in work.phases.items())
    yield Shown(FAMILIES["recovery_seconds"], tuple(phases))


def _of_runs(work: WorkView, now: float) -> Iterator[Shown]:
    yield _by("ring_breaks", work.ring_breaks)
    yield _by("run_restarts", work.restarts)
    yield _by("lost_work_seconds", work.lost_s)
    for name, value in _RUN_GAUGES:
        known = ((r.label, value(r, now)) for r in work.runs)
        rows = (Sample((label,), v) for label, v in known if v is not None)
        yield Shown(FAMILIES[name], tuple(rows))
    for name, values in _RUN_SETS:
        found = (Sample((r.label, k), float(v)) for r in work.runs for k, v in values(r).items())
        yield Shown(FAMILIES[name], tuple(found))


def _age(row: RunRow, now: float) -> float | None:
    return None if row.checkpoint_at is None else max(0.0, now - row.checkpoint_at)


_RUN_GAUGES: tuple[tuple[str, Callable[[RunRow, float], float | None]], ...] = (
    ("run_world_size", lambda r, _: r.world_size),
    ("run_world_size_expected", lambda r, _: r.expected_size),
    ("run_fault_tolerance_level", lambda r, _: r.level),
    ("run_step", lambda r, _: r.step),
    ("run_last_progress_timestamp_seconds", lambda r, _: r.progress_at),
    ("checkpoint_age_seconds", _age),
    ("checkpoint_interval_seconds", lambda r, _: r.interval_s),
    ("run_attempts", lambda r, _: r.attempts),
)
_RUN_SETS: tuple[tuple[str, Callable[[RunRow], Mapping[str, float]]], ...] = (
    ("run_status", lambda r: r.status),
    ("run_restart_owner", lambda r: r.owner),
    ("run_restarts_allowed", lambda r: r.allowed),
    ("run_restarts_left", lambda r: r.left),
)


def _of_cluster(cluster: ClusterView, now: float) -> Iterator[Shown]:
    yield _by("ray_session_info", {} if cluster.session is None else {cluster.session: 1})
    yield _by_one("nodes", cluster.nodes)
    pending = cluster.pending
    yield _by_one("capacity_pending_requests", {k: count for k, (count, _) in pending.items()})
    waits = {k: 0.0 if at is None else max(0.0, now - at) for k, (_, at) in pending.items()}
    yield _by_one("capacity_pending_seconds", waits)
    yield _by_one("capacity_launch_failures", cluster.launch_failures)


def _of_sources(view: MetricsView, traffic: TrafficView) -> Iterator[Shown]:
    yield _by_one("source_up", {s: int(works) for s, (works, _) in view.sources.items()})
    answered = {s: at for s, (_, at) in view.sources.items()}
    yield _by_one("source_last_observation_timestamp_seconds", answered)
    yield _by_one("observations", traffic.told)
    yield _by("http_requests", traffic.asked)
    read = {**dict.fromkeys(get_args(Component), 0), **view.read_bytes}
    yield _by_one("tail_read_bytes", read)
    yield _one("tail_lag_bytes", view.lag_bytes)
    yield _one("tail_files", view.files)
    yield _one("tail_polling", int(view.polling))


def _of_itself(view: MetricsView) -> Iterator[Shown]:
    ticks = Buckets((), TICK_BUCKETS, view.ticks, view.tick_seconds)
    yield Shown(FAMILIES["tick_seconds"], (ticks,))
    yield _one("last_tick_timestamp_seconds", view.at)
    yield _one("store_writable", int(view.store.writable))
    yield _one("store_rebuilt", int(view.store.rebuilt))
    yield _one("store_bytes", view.store.size_bytes)
    yield _one("store_free_bytes", view.store.free_bytes)
    yield _one("rules_reload_failures", view.rules.failures)
    yield _one("rules_last_reload_successful", int(view.rules.successful))
    yield _one("rules_last_reload_success_timestamp_seconds", view.rules.at)
    yield _by_one("build_info", {view.version: 1})
