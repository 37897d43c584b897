"""A real Ray cluster that writes export files: they tell what the logs tell, once, and alone they are enough."""

import json
import os
import shutil
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from raywatch.scan import scan_paths
from tests.daemons import DaemonProcess, until
from tests.ray.cluster import start_head

pytestmark = [pytest.mark.ray, pytest.mark.long]
VICTIM = """
import os, sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False)

@ray.remote(max_retries=0, num_cpus=1)
def victim(path):
    with open(path + ".part", "w") as out:
        out.write(str(os.getpid()))
    os.rename(path + ".part", path)
    time.sleep(300)

try:
    ray.get(victim.remote(sys.argv[2]))
except ray.exceptions.WorkerCrashedError:
    time.sleep(300)
"""
TOLD = {
    "worker_crash": "event_EXPORT_TASK_",
    "job_driver_failed": "event_EXPORT_SUBMISSION_JOB.log",
    "raylet_crash": "event_EXPORT_NODE.log",
}


def shown(paths: list[Path]) -> list[tuple[str, str, dict[str, int]]]:
    """What a scan says: class, subject, and what each incident explains."""
    found = scan_paths([str(p) for p in paths]).incidents
    rows = [(i["class"], i["subject"]["id"], {e["class"]: e["count"] for e in i["explains"]}) for i in found]  # fmt: skip
    return sorted(rows, key=lambda r: r[:2])


def test_the_export_files_add_lines_and_no_incident(tmp_path):
    """A killed worker, a killed node and a failed job are one incident each; so they are without any other file."""
    folder = Path(tempfile.mkdtemp(prefix="rw", dir="/tmp"))
    script, pid = tmp_path / "victim.py", tmp_path / "pid"
    script.write_text(VICTIM)

    with start_head(folder, num_cpus=1, environ={"RAY_enable_export_api_write": "1"}) as cluster:
        config = tmp_path / "raywatch.toml"
        config.write_text(f'[ray]\ndashboard = "{cluster.dashboard}"\n[cloud]\nprovider = "none"\n')
        spare = cluster.add_node(num_cpus=0)
        daemon = DaemonProcess(folder, tmp_path / "state", environ={"RAYWATCH_CONFIG": str(config)})

        def incidents() -> dict[str, dict[str, Any]]:
            rows = json.loads(daemon.get("/api/v1/snapshot")[1])["incidents"]
            assert len(rows) == len({r["class"] for r in rows}), [r["class"] for r in rows]
            return {r["class"]: r for r in rows}

        def is_told(class_id: str) -> bool:
            row = incidents().get(class_id)
            return row is not None and any(
                f"/export_events/{TOLD[class_id]}" in e["file"] for e in row["evidence"]
            )

        try:
            job = {
                "entrypoint": f"{sys.executable} {script} {cluster.address} {pid}",
                "submission_id": "victim",
            }
            cluster.ask("/api/jobs/", job)
            cluster.kill_node(spare)
            # Before anything else fails: a node that ends explains what failed up to 20 s before it.
            until(partial(is_told, "raylet_crash"), 60, "the node's end with its export line")
            until(pid.exists, 90, "the task runs")
            os.kill(int(pid.read_text()), signal.SIGKILL)
            cluster.ask("/api/jobs/", {"entrypoint": "exit 7", "submission_id": "failing"})
            for class_id in TOLD:
                until(partial(is_told, class_id), 60, f"{class_id} with its export line")
            live = incidents()
        finally:
            daemon.kill()
        logs = tmp_path / "logs"
        shutil.copytree(cluster.session / "logs", logs)

    assert live.keys() == TOLD.keys()
    shutil.move(logs / "export_events", tmp_path / "export_events")
    without = shown([logs])
    assert shown([logs, tmp_path / "export_events"]) == without
    assert [row[0] for row in without] == sorted(TOLD)
    alone = shown([tmp_path / "export_events"])
    assert [(row[0], row[1]) for row in alone] == [
        ("job_driver_failed", "failing"),
        ("node_lost", spare.node_id),  # only the GCS' health checks tell that the machine lives
        ("worker_crash", ""),  # the row in which a task fails names where it ran only at first
    ]
