"""What a daemon's metrics say of its session, the cluster and itself, from the first scrape on."""

from __future__ import annotations

import random
from datetime import datetime, timezone
from pathlib import Path

import pytest

from raywatch.collect.hints import Hints
from raywatch.core.taxonomy import parse_taxonomy
from raywatch.daemon import Daemon
from raywatch.observations import AutoscalerSeen, Demanded, NodeSeen, SessionSeen
from raywatch.resources import resource_dir
from tests.daemons import make_session
from tests.shell.test_counting import NOW, daemon_on, done, exposition, group, train
from tests.shell.test_metrics import promtool, samples

CLASSES = parse_taxonomy((resource_dir("rules") / "taxonomy.yaml").read_text())
FIRST, SECOND = "session_2027-01-15_07-00-00_000001_1", "session_2027-01-15_09-00-00_000001_2"
INFO, INCIDENTS = "raywatch_ray_session_info", "raywatch_incidents_total"


def stamp(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%d %H:%M:%S,%f")[:-3]


def test_classes_are_there_without_a_session_and_with_each(tmp_path):
    """Their series are the same before Ray runs, while it does, and in its next session; the session is the followed one."""
    seen, names = [], []
    with daemon_on(tmp_path) as daemon:
        for turn, session in enumerate((None, FIRST, SECOND)):
            if session is not None:
                make_session(tmp_path, session)
                daemon.inbox.put(SessionSeen(NOW + 10 * turn, "2.60.0", session))
            daemon.tick(NOW + 10 * turn, Hints())
            daemon.tick(NOW + 10 * turn + 3, Hints())
            text = exposition(daemon)
            names.append(list(samples(text, INFO)))
            seen.append({k for k, v in samples(text, INCIDENTS).items() if v == 0})
            assert promtool(text) == (0, "")

    assert names == [[], [(FIRST, "2.60.0")], [(SECOND, "2.60.0")]]
    assert seen == [{(c.id, c.group) for c in CLASSES.values()}] * 3


def test_the_version_is_not_that_of_another_session(tmp_path):
    """A dashboard of another cluster does not say which Ray writes these logs."""
    make_session(tmp_path, FIRST)
    with daemon_on(tmp_path) as daemon:
        daemon.inbox.put(SessionSeen(NOW, "2.9.3", SECOND))
        daemon.tick(NOW, Hints())
        assert list(samples(exposition(daemon), INFO)) == [(FIRST, "")]


def failed_launch(logs: Path, at: float) -> None:
    """Two lines of one failure, as the autoscaler writes them."""
    with (logs / "monitor.log").open("a") as out:
        out.write(
            f"{stamp(at)}\tINFO node_launcher.py:177 -- NodeLauncher0: Failed to launch {{}} node(s) of type gpu."
            " (InstanceLimitExceeded): You have requested more instances (9) than your current"
            " instance limit of 8 allows for the specified instance type.\n"
            f"{stamp(at + 0.1)}\tERROR node_launcher.py:99 -- Launch failed of type gpu."
            " (InstanceLimitExceeded): You have requested more instances (9) than your current"
            " instance limit of 8 allows for the specified instance type.\n"
        )


@pytest.mark.parametrize("seed", range(3))
def test_failed_launches_are_counted_once_whenever_the_daemon_dies(tmp_path, seed):
    """Between any two ticks; each failure is written in two lines."""
    logs, rng = make_session(tmp_path), random.Random(seed)
    now, written = NOW, 0
    while written < 8:
        with daemon_on(tmp_path) as daemon:
            for _ in range(rng.randrange(1, 6)):
                if rng.random() < 0.5:
                    written += 1
                    failed_launch(logs, now)
                daemon.tick(now + 1, Hints())
                now += rng.choice([10.0, 60.0])
    with daemon_on(tmp_path) as daemon:
        daemon.tick(now, Hints())
        daemon.tick(now + 5, Hints())
        found = samples(exposition(daemon), "raywatch_capacity_launch_failures_total")

    assert {k: v for k, v in found.items() if v} == {("quota",): float(written)}
    assert len(found) == 6


def cluster(daemon: Daemon, name: str) -> dict[str, float]:
    """A family with one label, at 30 s."""
    return {k[0]: v for k, v in samples(exposition(daemon, NOW + 30), name).items()}


def test_nodes_and_what_waits_are_those_of_the_api(tmp_path):
    """Nothing is said before it told; then each kind and state is there."""
    with daemon_on(tmp_path) as daemon:
        daemon.tick(NOW, Hints())
        assert cluster(daemon, "raywatch_nodes") == {}
        assert cluster(daemon, "raywatch_capacity_pending_requests") == {}
        asked = Demanded("work", (((("GPU", 8.0),), 1),), 3)
        daemon.inbox.put(AutoscalerSeen(NOW + 5, reports=True, demands=(asked,)))
        for name, state in (("a", "ALIVE"), ("b", "ALIVE"), ("c", "DEAD")):
            daemon.inbox.put(NodeSeen(NOW + 5, name, name, name, state, "", is_head=False))
        daemon.tick(NOW + 5, Hints())

        assert cluster(daemon, "raywatch_nodes") == {"alive": 2.0, "draining": 0.0, "dead": 1.0}
        waits = {"work": 3.0, "group": 0.0, "request": 0.0, "infeasible": 0.0}
        assert cluster(daemon, "raywatch_capacity_pending_requests") == waits
        assert cluster(daemon, "raywatch_capacity_pending_seconds") == {**waits, "work": 25.0}


def test_a_hook_that_runs_and_the_incident_behind_a_count_are_shown(tmp_path):
    """Of each kind of hook how many run; the incident is the newest of its class."""
    logs = make_session(tmp_path)
    with daemon_on(tmp_path) as daemon:
        daemon.tick(NOW, Hints())
        daemon._resuming.put(done("k1", NOW))
        (logs / "gcs_server.out").write_text(
            f"[{stamp(NOW + 2)} W 10 10] (gcs_server) gcs_worker_manager.cc:70: Reporting worker exit,"
            f" worker id = {7:056x}, node id = {8:056x}, address = 127.0.0.1,"
            " exit_type = SYSTEM_ERROR, exit_detail = Worker unexpectedly exits.\n"
        )
        for after in (3, 6, 9):
            daemon.tick(NOW + after, Hints())
        view, (incident,) = daemon.shown.metrics_view(), daemon.state.incidents

        assert cluster(daemon, "raywatch_hooks_running") == {"command": 0, "drain": 0, "job": 1}
        ((class_id, (number, at)),) = view.newest.items()
        assert (class_id, number) == (incident.class_id, incident.id)
        assert NOW < at <= NOW + 9


def test_a_run_says_how_it_stands_from_its_log_alone(tmp_path):
    """Its status, who starts it again, what is left of its budget, and when it stepped last."""
    logs = make_session(tmp_path)
    group(logs, NOW - 20)
    text = "[FailurePolicy] RETRY\n  Source: worker group\n  Error count: 1 (max allowed: 3)"
    train(logs, NOW - 10, text)
    with daemon_on(tmp_path) as daemon:
        daemon.tick(NOW, Hints())
        daemon.tick(NOW + 3, Hints())
        shown = exposition(daemon)

    def these(name: str) -> set[tuple[str, ...]]:
        return {k for k, v in samples(shown, name).items() if v == 1}

    assert these("raywatch_run_status") == {("exp", "restarting")}
    assert these("raywatch_run_restart_owner") == {("ray_train", "exp")}
    assert samples(shown, "raywatch_run_restarts_allowed") == {("failures", "exp"): 3.0}
    assert samples(shown, "raywatch_run_restarts_left") == {("failures", "exp"): 2.0}
    assert samples(shown, "raywatch_run_world_size_expected") == {("exp",): 2.0}


def test_the_last_turn_and_the_store_are_told(tmp_path):
    """A loop that stands still stays at its last turn; a database has a size, and room."""
    make_session(tmp_path)
    with daemon_on(tmp_path) as daemon:
        daemon.tick(NOW, Hints())
        first = daemon.shown.metrics_view()
        daemon.tick(NOW + 3, Hints())
        second = daemon.shown.metrics_view()

    assert second.at > first.at > 0
    assert (second.store.size_bytes or 0) > 0
    assert (second.store.free_bytes or 0) > 0
