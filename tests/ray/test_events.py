"""A real Ray cluster pushes its events to a daemon that sees nothing else of it: no log, no dashboard."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from raywatch.collect.events import events_key, export_environment
from tests.daemons import DaemonProcess, until
from tests.ray.cluster import start_head

pytestmark = pytest.mark.ray
DRIVER = """
import os, sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False)

@ray.remote(num_cpus=0, max_restarts=1)
class Book:
    def pid(self):
        return os.getpid()

kept = Book.options(resources={"spot": 1}).remote()  # a node with an actor drains for as long as it lives
book = Book.remote()
ray.get(kept.pid.remote())
with open(sys.argv[2] + ".part", "w") as out:
    out.write(str(ray.get(book.pid.remote())))
os.rename(sys.argv[2] + ".part", sys.argv[2])
time.sleep(300)
"""
CONFIG = '[ray]\ndashboard = "http://127.0.0.1:9"\n[cloud]\nprovider = "none"\n'


@pytest.fixture
def daemon(tmp_path):
    """A daemon on an empty folder, with a dashboard that is not there."""
    (tmp_path / "nothing").mkdir()
    config = tmp_path / "raywatch.toml"
    config.write_text(CONFIG)
    environ = {"RAYWATCH_CONFIG": str(config)}
    running = DaemonProcess(tmp_path / "nothing", tmp_path / "state", environ=environ)
    try:
        yield running
    finally:
        running.kill()


def told(daemon: DaemonProcess, kind: str) -> list[dict[str, Any]]:
    """Rows of the newest snapshot."""
    return list(json.loads(daemon.get("/api/v1/snapshot")[1])[kind])


@pytest.mark.parametrize("preserve", ["0", "1"])
def test_ends_and_drains_arrive_by_push(daemon, tmp_path, record_property, preserve):
    """A killed actor, a node that drains, a node that is gone; in both key styles of Ray."""
    folder = Path(tempfile.mkdtemp(prefix="rw", dir="/tmp"))
    key = events_key((tmp_path / "state" / "token").read_text())
    environ = export_environment(daemon.url, key)
    environ["RAY_DASHBOARD_AGGREGATOR_AGENT_PRESERVE_PROTO_FIELD_NAME"] = preserve
    took: dict[str, float] = {}

    def classes() -> list[str]:
        return [i["class"] for i in told(daemon, "incidents")]

    def until_told(kind: str, class_id: str, seconds: float) -> None:
        """Wait for a row; note how long after Ray's own time of it it was shown."""

        def rows() -> list[dict[str, Any]]:
            return [r for r in told(daemon, kind) if class_id in ("", r.get("class"))]

        until(rows, seconds, class_id or kind)
        row = rows()[0]
        stamp = row["root"]["at"] if class_id else row["at"]
        at = datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()
        took[class_id or kind] = round(time.time() - at, 2)

    with start_head(folder, environ=environ) as cluster:
        spot = cluster.add_node(resources={"spot": 1})
        argv = [sys.executable, "-c", DRIVER, cluster.address, str(tmp_path / "pid")]
        driver = subprocess.Popen(argv, env=dict(cluster.environ))
        try:
            until((tmp_path / "pid").exists, 120, "the actors live")
            assert classes() == []
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
            until_told("incidents", "worker_crash", 20)
            drain = [
                *(cluster.ray, "drain-node", f"--address={cluster.address}"),
                *(f"--node-id={spot.node_id}", "--reason=DRAIN_NODE_REASON_PREEMPTION"),
                *("--reason-message=taken", "--deadline-remaining-seconds=300"),
            ]
            asked = subprocess.Popen(drain, env=dict(cluster.environ), stdout=subprocess.DEVNULL)
            until_told("drains", "", 30)
            assert asked.wait(30) == 0
            cluster.kill_node(spot)
            until_told("incidents", "node_lost", 60)
            incidents, drains = told(daemon, "incidents"), told(daemon, "drains")
            (source,) = (s for s in told(daemon, "sources") if s["source"] == "ray_events")
        finally:
            driver.kill()
            driver.wait()

    record_property("figures", f"pushed, seconds from Ray's own time to the snapshot: {took}")
    lost = next(i for i in incidents if i["class"] == "node_lost")
    assert lost["subject"]["id"] == spot.node_id
    assert [d["node_id"] for d in drains] == [spot.node_id]
    assert source["state"] == "up"
    assert all(e["file"].startswith("ray_events/") for i in incidents for e in i["evidence"])
