"""A real cluster: a person resumes a job that no signature explains, and it is submitted once."""

import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest

from tests.daemons import DaemonProcess, until
from tests.ray.cluster import start_head
from tests.shell.test_asking import raywatch

pytestmark = pytest.mark.ray


def test_a_job_that_failed_is_submitted_again_once(tmp_path):
    """Nobody resumes it by itself; eight requests at once and one more give one job."""
    config = tmp_path / "raywatch.toml"
    gate = tmp_path / "gate"
    with start_head(Path(tempfile.mkdtemp(prefix="rw", dir="/tmp"))) as cluster:
        config.write_text(
            f'[ray]\ndashboard = "{cluster.dashboard}"\n'
            '[[resume]]\nrun = "old"\nmode = "observe"\nhook = {kind = "job"}\n'
        )
        entrypoint = f"python -c \"import os,sys; sys.exit(not os.path.exists('{gate}'))\""
        daemon = DaemonProcess(cluster.temp_dir, tmp_path / "state", "--config", str(config))
        try:
            cluster.ask("/api/jobs/", {"submission_id": "old", "entrypoint": entrypoint})
            until(lambda: '"status": "failed"' in daemon.get("/api/v1/runs")[1].decode(), 60, "end")
            dry = raywatch(daemon, tmp_path, "resume", "--dry-run", "old")
            assert (dry[0], "would be started again" in dry[1]) == (0, True), dry
            gate.write_text("")
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(daemon.post, ["/api/v1/runs/old/resume"] * 8))
            until(lambda: daemon.actions()[0]["state"] == "succeeded", 60, "it was submitted")
            (action,) = daemon.actions()
            until(lambda: cluster.job(str(action["key"]))["status"] == "SUCCEEDED", 60, "it worked")
            until(lambda: '"finished"' in daemon.get("/api/v1/runs/old")[1].decode(), 60, "seen")
            again = raywatch(daemon, tmp_path, "resume", "old")
            run = json.loads(raywatch(daemon, tmp_path, "runs", "old", "--json")[1])
            jobs = cast("list[dict[str, object]]", cluster.ask("/api/jobs/"))
        finally:
            daemon.kill()

    assert sorted(status for status, _ in answers) == [200, *[409] * 7]
    assert (again[0], "the old submission is SUCCEEDED" in again[2]) == (2, True)
    assert {j["submission_id"] for j in jobs} - {None} == {"old", action["key"]}
    assert (run["id"], run["submissions"], run["resumes"]) == ("old", ["old", action["key"]], 1)
