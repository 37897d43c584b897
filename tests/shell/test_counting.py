"""Counters and what they count are written together: whatever a crash takes back, nothing counts twice or is lost."""

from __future__ import annotations

import json
import random
from contextlib import contextmanager
from dataclasses import replace
from datetime import timezone
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from raywatch.collect.hints import Hints
from raywatch.config import Config
from raywatch.core.ledger import KEEP_S
from raywatch.core.tally import SETTLE_S
from raywatch.daemon import Daemon
from raywatch.metrics import RaywatchCollector
from raywatch.model import Action, Drain, Evidence, Hook, Outcome, ResumeRule
from raywatch.pipeline import load_engine
from raywatch.reloading import Reloading
from raywatch.resuming import PRUNE_S
from raywatch.store import Store
from tests.daemons import make_session
from tests.shell.test_metrics import HOSTILE, promtool, samples

NOW = 1_800_000_000.0
ENGINE = load_engine(())
WORKER = f"ray-train-app-worker-{'ab' * 28}.log"
CONTROLLER = f"ray-train-app-controller-{'cd' * 28}.log"


@contextmanager
def daemon_on(tmp_path: Path):
    """A daemon in this process on a store of its own; it ends as a crash ends it: what is pending is lost."""
    with Store(tmp_path / "state" / "r.db") as store:
        rules = (ResumeRule("*", "suggest", Hook("job")),)
        config = Config(temp_dir=tmp_path, store=tmp_path / "state" / "r.db", resume=rules)
        daemon = Daemon(config, [tmp_path], timezone.utc, Reloading((), ENGINE), store)
        try:
            yield daemon
        finally:
            daemon._logs.close()


def exposition(daemon: Daemon, now: float = NOW) -> str:
    registry = CollectorRegistry()
    registry.register(RaywatchCollector(daemon.shown.metrics_view, lambda: now))
    return generate_latest(registry).decode()


def train(
    logs: Path, at: float, message: str, *, name: str = "exp", file: str = CONTROLLER
) -> None:
    """Write a line as Ray Train does."""
    row = {
        "asctime": "",
        "levelname": "INFO",
        "message": message,
        "job_id": "02000000",
        "run_name": name,
        "component": "controller" if file == CONTROLLER else "worker",
        "worker_id": ("cd" if file == CONTROLLER else "ab") * 28,
        "timestamp_ns": int(at * 1e9),
    }
    (logs / "train").mkdir(exist_ok=True)
    with (logs / "train" / file).open("a") as out:
        out.write(json.dumps(row) + "\n")


def group(logs: Path, at: float, **more) -> None:
    text = "Started training worker group of size 2: \n- (ip=127.0.0.1, pid=900) world_rank=0"
    train(logs, at, text, **more)


def retry(logs: Path, at: float) -> None:
    text = "[FailurePolicy] RETRY\n  Source: worker group\n  Error count: 1 (max allowed: 99)"
    train(logs, at, text)


@pytest.mark.parametrize("seed", range(6))
def test_restarts_are_counted_once_whenever_the_daemon_dies(tmp_path, seed):
    """Between any two ticks; the store was behind, or not."""
    logs, rng = make_session(tmp_path), random.Random(seed)
    now, written = NOW, 0
    group(logs, now - 1)
    while written < 12:
        with daemon_on(tmp_path) as daemon:
            for _ in range(rng.randrange(1, 9)):
                if rng.random() < 0.5:
                    written += 1
                    retry(logs, now)
                daemon.tick(now, Hints())
                now += rng.choice([0.01, 0.3, 2.5, SETTLE_S / 2])
    with daemon_on(tmp_path) as daemon:
        for after in (1, 3, SETTLE_S + 4, SETTLE_S + 8):
            daemon.tick(now + after, Hints())
        text = exposition(daemon)

    assert samples(text, "raywatch_run_restarts_total") == {
        ("unknown_failure", "ray_train", "exp"): float(written)
    }
    assert samples(text, "raywatch_run_world_size") == {("exp",): 2.0}


def test_a_series_stands_at_0_before_its_first_event(tmp_path):
    """So that rate() sees the first one."""
    logs = make_session(tmp_path)
    group(logs, NOW)
    retry(logs, NOW + 1)
    with daemon_on(tmp_path) as daemon:
        for after, count in ((2, 0.0), (SETTLE_S, 0.0), (SETTLE_S + 3, 1.0), (900, 1.0)):
            daemon.tick(NOW + after, Hints())
            shown = samples(exposition(daemon), "raywatch_run_restarts_total")
            assert shown == {("unknown_failure", "ray_train", "exp"): count}


def test_hostile_run_names_are_shown_and_survive(tmp_path):
    """Half a surrogate pair and a depth of brackets come from a log; the daemon lives, and starts again."""
    logs = make_session(tmp_path)
    for name in (HOSTILE, "\ud800", "x\ud83d"):
        group(logs, NOW, name=name)
    with (logs / "train" / CONTROLLER).open("a") as out:
        out.write(
            '{"message": "Started training worker group of size 2", "a": ' + "[" * 100_000 + "\n"
        )
    for turn in range(2):
        with daemon_on(tmp_path) as daemon:
            daemon.tick(NOW + 3 + 3 * turn, Hints())
            text = exposition(daemon)
            assert len(samples(text, "raywatch_run_world_size")) == 3
            assert promtool(text) == (0, "")
            daemon._commit(NOW + 9, force=True)


def test_notices_survive_a_restart(tmp_path):
    """They are facts: no finding comes with them."""
    logs = make_session(tmp_path)
    drain = "[2027-01-15 08:00:00,000 I 10 10] (gcs_server) gcs_node_manager.cc:1: Draining node, node id = "
    (logs / "gcs_server.out").write_text(drain)
    line = Evidence("gcs_server.out", 1, drain, NOW, "gcs")
    told = [Drain(f"{n:056x}", "PREEMPTION", "", None, NOW, line) for n in range(3)]
    with daemon_on(tmp_path) as daemon:
        daemon._counting.saw((), (), (*told, replace(told[0], by="kubernetes")), NOW)
        idle = replace(told[0], reason="IDLE_TERMINATION")
        own = replace(told[1], message="Node received SIGTERM; draining before shutdown.")
        daemon._counting.saw((), (), (idle, own), NOW)  # nobody takes those
        daemon.tick(NOW, Hints())
    with daemon_on(tmp_path) as daemon:
        counted = samples(exposition(daemon), "raywatch_preemption_notices_total")
        assert counted == {("ray",): 3.0, ("kubernetes",): 1.0}


def done(key: str, at: float) -> Action:
    return Action(
        key,
        "gone",
        "exp",
        "i",
        "node_lost",
        1,
        "auto",
        Hook("job"),
        "started",
        at,
        at,
        started_at=at,
    )


def test_what_is_forgotten_leaves_the_store_and_stays_counted(tmp_path):
    """An action counts once, also when the daemon starts again, and when its row is gone."""
    make_session(tmp_path)
    with daemon_on(tmp_path) as daemon:
        daemon._resuming.put(done("k1", NOW))
        daemon._resuming.put(replace(done("k2", NOW), state="suggested"))
        daemon.inbox.put(Outcome("k1", "succeeded", NOW + 5, ""))
        daemon.tick(NOW + 5, Hints())
    for turn, kept in enumerate(({"k1", "k2"}, {"k2"}, set())):
        with daemon_on(tmp_path) as daemon:
            daemon.tick(NOW + turn * (KEEP_S + PRUNE_S + 10), Hints())
            daemon.tick(NOW + turn * (KEEP_S + PRUNE_S + 10) + 3, Hints())
            assert daemon._resuming.ledger.keys() == kept
        with Store(tmp_path / "state" / "r.db") as store:
            assert set(store.docs().get("action", {})) == kept
    counts = {k: v for k, v in samples(exposition(daemon), "raywatch_actions_total").items() if v}

    assert counts == {
        ("node_lost", "job", "succeeded"): 1.0,
        ("node_lost", "job", "suggested"): 1.0,
        ("node_lost", "job", "abandoned"): 1.0,
    }


def test_a_rebuilt_store_is_said(tmp_path):
    """By /healthz, the snapshot and a metric; a store that was whole says no."""
    make_session(tmp_path)
    for broken in (False, True):
        if broken:
            (tmp_path / "state" / "r.db").write_bytes(b"no database at all" * 100)
        with daemon_on(tmp_path) as daemon:
            daemon.tick(NOW, Hints())
            assert json.loads(daemon.health()[1])["store_rebuilt"] is broken
            snapshot = json.loads(daemon.shown.snapshot(-1) or b"{}")
            assert snapshot["store"] == {"error": None, "rebuilt": broken}
            shown = samples(exposition(daemon), "raywatch_store_rebuilt")
            assert shown == {(): float(broken)}
