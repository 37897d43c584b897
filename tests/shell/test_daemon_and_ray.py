"""The daemon beside a dashboard: whose code it keeps, and that an API that is off is no failure."""

import json
import stat
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from raywatch.collect.endpoints import TRAIN
from tests.daemons import DaemonProcess, make_session, until
from tests.resume.test_packages import unpack
from tests.shell.test_dashboard import OFF

CONFIG = """
[ray]
dashboard = "http://127.0.0.1:{port}"
[[resume]]
run = "{run}"
mode = "auto"
hook = {{kind = "job"}}
"""
JOB = {
    "type": "SUBMISSION",
    "submission_id": "llm-1",
    "job_id": "02000000",
    "status": "RUNNING",
    "entrypoint": "python train.py",
    "runtime_env": {"working_dir": "gcs://_ray_pkg_0a1b2c3d.zip"},
}
CONTROLLER = {"actor_id": "c1", "class_name": "TrainController", "state": "ALIVE"}


class Dashboard(BaseHTTPRequestHandler):
    """One running job that trains, where Ray Train's state API is off and there are many actors."""

    def do_GET(self):
        """Jobs; lists of the State API."""
        rows = [CONTROLLER] if "actors" in self.path else []
        state = {"data": {"result": {"result": rows, "total": 23000 if rows else 0}}}
        known = {"/api/jobs/": [JOB], "/api/version": {"session_name": "s"}}
        off = self.path == TRAIN.path
        body = OFF.encode() if off else json.dumps(known.get(self.path, state)).encode()
        self.send_response(500 if off else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args):
        """Say nothing."""


@pytest.fixture
def dashboard():
    """Its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Dashboard)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("run", ["llm-*", "bert-*"])
def test_the_code_of_a_job_that_a_rule_speaks_of_is_kept(tmp_path, monkeypatch, dashboard, run):
    """Beside the store, readable by its owner only; of no other job."""
    unpack(make_session(tmp_path).parent)
    config = tmp_path / "raywatch.toml"
    config.write_text(CONFIG.format(port=dashboard, run=run))
    monkeypatch.setenv("RAYWATCH_CONFIG", str(config))
    daemon = DaemonProcess(tmp_path, tmp_path / "state")
    kept = tmp_path / "state" / "packages"

    def runs():
        return json.loads(daemon.get("/api/v1/snapshot")[1])["runs"]

    try:
        until(lambda: kept.exists() if run == "llm-*" else runs(), 15, "the job was seen")
        until(lambda: not kept.exists() or list(kept.glob("*.zip")), 15, "it is whole")
        found = [(p.name, stat.S_IMODE(p.stat().st_mode)) for p in kept.glob("*")]
    finally:
        assert daemon.stop() == 0

    assert found == ([("_ray_pkg_0a1b2c3d.zip", 0o600)] if run == "llm-*" else [])
    if run == "llm-*":
        assert stat.S_IMODE(kept.stat().st_mode) == 0o700


def test_a_train_api_that_is_off_is_shown_and_is_no_source_that_is_down(
    tmp_path, monkeypatch, dashboard
):
    """/healthz and source_up speak of what should answer; a truncated list answers, and says what it lacks."""
    make_session(tmp_path)
    config = tmp_path / "raywatch.toml"
    config.write_text(CONFIG.format(port=dashboard, run="x"))
    monkeypatch.setenv("RAYWATCH_CONFIG", str(config))
    daemon = DaemonProcess(tmp_path, tmp_path / "state")

    def sources():
        rows = json.loads(daemon.get("/api/v1/snapshot")[1])["sources"]
        return {r["source"]: r for r in rows if r["source"] in ("train", "actors")}

    try:
        until(lambda: "train" in sources(), 20, "Ray Train was asked")
        train, actors = sources()["train"], sources()["actors"]
        metrics = daemon.get("/metrics")[1].decode()
        healthy, _ = daemon.get("/healthz")
    finally:
        assert daemon.stop() == 0

    assert (train["state"], "RAY_TRAIN_ENABLE_STATE_TRACKING" in train["detail"]) == ("off", True)
    assert (actors["state"], actors["detail"]) == ("up", "truncated: 1 of 23000")
    assert 'raywatch_source_up{source="actors"} 1.0' in metrics
    assert 'raywatch_source_up{source="train"' not in metrics
    assert healthy == 200
