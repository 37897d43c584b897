"""The whole exposition, as Prometheus reads it."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from raywatch.core.labels import assigned
from raywatch.core.runs import restored
from raywatch.counting import Counting
from raywatch.metrics import (
    ClusterView,
    MetricsView,
    RaywatchCollector,
    RulesView,
    RunRow,
    StoreView,
    TrafficView,
    WorkView,
)
from raywatch.model import Checkpoint, FailureClass, Hook, ResumeRule, Run

CLASSES = {
    c.id: c
    for c in (
        FailureClass("node_lost", "node", "root", "node", "elsewhere", ""),
        FailureClass("ring_break", "collective", "symptom", "run", "counted", ""),
        FailureClass("user_exception", "user_code", "root", "job", "never", ""),
        FailureClass("dashboard_failure", "control_plane", "root", "cluster", "none", ""),
    )
}
HOSTILE = 'a"b\\c\n# HELP fake\nfake 1\u202e\ud800' + "x" * 10_000
VIEW = MetricsView(
    version="1.2.3",
    classes={"node_lost": "node", "ring_break": "collective"},
    findings={("node_lost", "gcs"): 2, ("unknown_failure", "worker"): 4},
    pairs=frozenset({("node_lost", "gcs"), ("ring_break", "train")}),
    incidents={"node_lost": 1},
    newest={"node_lost": ("i-7f3a", 912.5)},
    open_incidents={"node_lost": 1},
    notices={"ray": 3},
    read_bytes={"gcs": 512},
    lag_bytes=7,
    files=4,
    polling=True,
    sources={"logs": (True, 100.0)},
    ticks=(1, 2, *[0] * 8, 1),
    tick_seconds=2.75,
    at=999.0,
    store=StoreView(rebuilt=True, size_bytes=4096, free_bytes=1 << 30),
    rules=RulesView(2, successful=False, at=90.0),
    work=WorkView(
        runs=(
            RunRow(
                "exp",
                world_size=2,
                level=2,
                step=41,
                checkpoint_at=970.0,
                expected_size=4,
                progress_at=990.0,
                interval_s=20.0,
                attempts=3,
                status={"running": True, "failed": False},
                owner={"ray_train": True, "nobody": False},
                allowed={"failures": 3.0, "preemptions": math.inf, "raywatch": 20},
                left={"failures": 1.0, "preemptions": math.inf, "raywatch": 20},
            ),
            RunRow("other", 0),
        ),
        actions={("job", "node_lost", "succeeded"): 1, ("job", "node_lost", "failed"): 0},
        ring_breaks={("exp", "node_lost"): 1, ("", "ring_break"): 1},
        restarts={("exp", "ray_train", "node_lost"): 2, ("exp", "raywatch", "node_lost"): 1},
        lost_s={("exp", "node_lost"): 30.5},
        phases={"detect": ((1, 0, 1), 61.5), "first_step": ((0, 0, 0), 0.0)},
        bounds_s=(1.0, 60.0),
        hooks_running={"command": 0, "drain": 0, "job": 1},
    ),
    cluster=ClusterView(
        session=("session_2026-11-24_00-00-00_000001_1", "2.60.0"),
        nodes={"alive": 3, "draining": 1, "dead": 2},
        pending={"work": (12, 940.0), "group": (0, None), "infeasible": (1, 400.0)},
        launch_failures={"quota": 2, "other": 0},
    ),
)
TRAFFIC = TrafficView(
    told={"nodes": 4, "ray_events": 0},
    asked={("nodes", "ok"): 90, ("nodes", "timeout"): 2, ("ray_events", "throttled"): 0},
)
# The name is Ray's, so that its metrics and ours can be joined.
RAYS_LABEL = (
    "raywatch_ray_session_info label names should be written in 'snake_case' not 'camelCase'"
)
TEXT = Path(__file__).with_name("exposition.txt").read_text()


def exposition(view: MetricsView, now: float = 1000.0) -> str:
    registry = CollectorRegistry()
    registry.register(RaywatchCollector(lambda: view, lambda: now, lambda: TRAFFIC))
    return generate_latest(registry).decode()


def promtool(text: str) -> tuple[int, str]:
    """What `promtool check metrics` says beside RAYS_LABEL; a promtool that is missing fails."""
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=text.encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    remarks = [x for x in done.stdout.decode().splitlines() if x != RAYS_LABEL]
    return (done.returncode, "\n".join(remarks)) if remarks else (0, "")


def test_the_exposition():
    """Every family with what it says, ages at the time of the scrape."""
    assert exposition(VIEW) == TEXT


def test_promtool_has_nothing_to_say():
    """With runs and without."""
    for view in (VIEW, MetricsView("1", {})):
        assert promtool(exposition(view)) == (0, "")


def counting(*rules: ResumeRule) -> Counting:
    return Counting(rules, CLASSES, {})


def samples(text: str, name: str) -> dict[tuple[str, ...], float]:
    """Label values -> value of a family, read as Prometheus does."""
    return {
        tuple(s.labels.values()): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
        if s.name == name
    }


def test_hostile_names_of_runs_make_no_other_series():
    """Newlines, quotes, ten thousand letters, half a surrogate pair, an empty one, twice the same."""
    names = [HOSTILE, HOSTILE, "", 'exp"} 1\n', "\ud800", "exp", "exp"]
    runs = restored([Run(f"r{i}", name=n, step=i) for i, n in enumerate(names)])
    kept = counting()
    kept.did((), (), runs, (), 0.0)
    text = exposition(MetricsView("1", {}, work=kept.work(runs, ())))

    assert sorted(samples(text, "raywatch_run_step").values()) == list(range(7))
    assert not any(line.startswith("fake") for line in text.splitlines())
    assert max(map(len, text.splitlines())) < 220
    assert promtool(text) == (0, "")


def test_no_more_than_a_hundred_runs_have_series():
    """The rest is left out, not added up."""
    runs = restored(Run(f"r{i}", name=f"n{i}", step=i, started_at=1.0 + i) for i in range(130))
    kept = counting()
    kept.did((), (), runs, (), 0.0)
    shown = samples(exposition(MetricsView("1", {}, work=kept.work(runs, ()))), "raywatch_run_step")

    assert shown == {(f"n{i}",): float(i) for i in range(30, 130)}
    assert assigned({}, []) == {}


def test_a_run_that_is_over_has_no_world_and_waits_for_no_checkpoint():
    """What it had stays known: its step, its level."""
    saved = Checkpoint("/c", 9, whole=True, checked="", at=10.0)
    runs = restored(
        [
            Run("a", name="a", status="running", world_sizes=(4, 3), checkpoint=saved, level=3),
            Run("b", name="b", status="failed", world_sizes=(4, 3), checkpoint=saved, level=3),
            Run("c", name="c"),
        ]
    )
    kept = counting()
    kept.did((), (), runs, (), 0.0)
    text = exposition(MetricsView("1", {}, work=kept.work(runs, ())), now=25.0)

    assert samples(text, "raywatch_run_world_size") == {("a",): 3.0, ("b",): 0.0}
    assert samples(text, "raywatch_run_fault_tolerance_level") == {("a",): 3.0, ("b",): 3.0}
    assert samples(text, "raywatch_checkpoint_age_seconds") == {("a",): 15.0}


def test_actions_are_there_before_the_first_of_them():
    """What ends at once from the start, the rest once the class was seen; nothing that no rule admits."""
    kept = counting(
        ResumeRule("*", "auto", Hook("job")), ResumeRule("*", "observe", Hook("command"))
    )
    before = kept.work(restored([]), ()).actions
    kept.incidents["ring_break"] += 1
    after = kept.work(restored([]), ()).actions

    at_once = {("job", o) for o in ("suggested", "succeeded", "failed")} | {("command", "observed")}
    assert set(before) == {(h, c, o) for h, o in at_once for c in ("node_lost", "ring_break")}
    assert {o for h, c, o in after.keys() - before.keys() if (h, c) == ("job", "ring_break")} == {
        "observed",
        "timed_out",
        "interrupted",
        "refused",
        "abandoned",
    }
    assert set(after.values()) == {0}
    assert counting().work(restored([]), ()).actions == {}
