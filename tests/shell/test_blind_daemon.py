"""A daemon whose dashboard is there, goes and comes back: every view says so, and it is not dead for that."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from raywatch.collect.endpoints import ENDPOINTS
from tests.daemons import DaemonProcess, make_session, until
from tests.fakeray import NODE, FakeRay

RAYWATCH = Path(sys.executable).with_name("raywatch")
SOURCES = tuple(e.name for e in ENDPOINTS)
VIEWS = ("incidents", "runs", "nodes", "actions")


def view(daemon: DaemonProcess, *argv: str) -> tuple[str, str]:
    """What a verb prints on standard output and on standard error."""
    done = subprocess.run(
        [RAYWATCH, *argv, "--url", daemon.url], capture_output=True, check=False, timeout=60
    )
    return done.stdout.decode(), done.stderr.decode()


def healthz(daemon: DaemonProcess) -> tuple[int, dict[str, Any]]:
    """Status and body."""
    status, body = daemon.get("/healthz")
    return status, json.loads(body)


def metric(daemon: DaemonProcess, name: str) -> dict[str, float]:
    """The series of a metric by source."""
    rows = daemon.get("/metrics")[1].decode().splitlines()
    mine = [r.split() for r in rows if r.startswith(f'raywatch_{name}{{source="')]
    return {name.split('"')[1]: float(value) for name, value in mine}


def pointed_at(path: Path, url: str) -> dict[str, str]:
    """Write a configuration; return the environment that names it."""
    config = path / "raywatch.toml"
    config.write_text(f'[ray]\ndashboard = "{url}"\n[cloud]\nprovider = "none"\n')
    return {"RAYWATCH_CONFIG": str(config)}


def test_a_dashboard_that_goes_is_said_in_every_view(tmp_path: Path) -> None:
    """Within seconds, with the reason; ages are of the last good answer; /healthz stays 200: the logs are read."""
    logs = make_session(tmp_path)
    (logs / "raylet.out").write_text(f"Setting node ID node_id={NODE}\n")
    with FakeRay() as ray:
        daemon = DaemonProcess(tmp_path, tmp_path / "state", environ=pointed_at(tmp_path, ray.url))
        try:
            until(lambda: set(metric(daemon, "source_up").values()) == {1.0}, 20, "all answer")
            names = set(metric(daemon, "source_up"))
            quiet = {v: view(daemon, v)[1] for v in VIEWS}
            listed = view(daemon, "nodes")[0]
            before = healthz(daemon)
        except BaseException:
            daemon.kill()
            raise
    gone_at = time.time()  # the dashboard ended
    try:
        until(lambda: len(healthz(daemon)[1]["blind"]) == 1, 30, "it is said")
        until(lambda: view(daemon, "nodes")[1], 10, "it is said to people")
        told = {v: view(daemon, v)[1] for v in VIEWS}
        seen = {v: json.loads(view(daemon, v, "--json")[0])["blind"] for v in VIEWS}
        status, after = healthz(daemon)
        ages, up = (
            metric(daemon, "source_last_observation_timestamp_seconds"),
            metric(daemon, "source_up"),
        )
    finally:
        assert daemon.stop() == 0

    assert names == {"logs", *SOURCES}
    assert (before[0], before[1]["blind"], set(quiet.values())) == (200, [], {""})
    assert NODE[:12] in listed
    assert " read " in listed
    for words in told.values():
        assert words.startswith("raywatch: dashboard not answering for ")
        assert words.endswith(" s: connection refused; what you see is from logs alone\n")
    assert [b["sources"] for rows in seen.values() for b in rows] == [list(SOURCES)] * len(VIEWS)
    (row,) = after["blind"]
    assert (status, row["state"], "refused" in row["words"]) == (200, "refused", True)
    assert up == {"logs": 1.0, **dict.fromkeys(SOURCES, 0.0)}
    assert all(0 < ages[s] <= gone_at for s in SOURCES)
    assert ages["logs"] > gone_at  # quiet logs are seen


def test_a_dashboard_of_another_session_is_said(tmp_path: Path) -> None:
    """What is shown is of both."""
    make_session(tmp_path)
    with FakeRay() as ray:
        ray.session = "session_2026-11-25_00-00-00_000001_1"
        daemon = DaemonProcess(tmp_path, tmp_path / "state", environ=pointed_at(tmp_path, ray.url))
        try:
            until(lambda: healthz(daemon)[1]["blind"], 20, "it is said")
            told = view(daemon, "nodes")[1]
        finally:
            daemon.kill()

    assert told.startswith("raywatch: the logs and the dashboard are of two sessions: session_")


def test_what_never_answered_is_a_source_from_the_start(tmp_path: Path) -> None:
    """At 0, so that an alert sees it; without logs it is not healthy."""
    environ = pointed_at(tmp_path, "http://127.0.0.1:9")
    daemon = DaemonProcess(tmp_path / "none", tmp_path / "state", environ=environ)
    try:
        up = metric(daemon, "source_up")
        ages = metric(daemon, "source_last_observation_timestamp_seconds")
        until(lambda: len(healthz(daemon)[1]["blind"]) == 2, 30, "both are said")
        status, body = healthz(daemon)
        words = [b["words"] for b in body["blind"]]
    finally:
        assert daemon.stop() == 0

    assert up == {"logs": 0.0, **dict.fromkeys(SOURCES, 0.0)}
    assert set(ages.values()) == {0.0}
    assert status == 503
    assert words[0].endswith("connection refused; nothing is seen")
    assert words[1].startswith("logs not read for ")
    assert words[1].endswith(f": no Ray session in {tmp_path}/none; nothing is seen")
