"""The daemon itself: the code of a running job is on its disk within seconds, private, and the loop stays quick."""

import json
import stat
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.daemons import DaemonProcess, make_session, until
from tests.resume.test_packages import unpack

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


class Dashboard(BaseHTTPRequestHandler):
    """One running job, and nothing else."""

    def do_GET(self):
        """Jobs; empty lists of the State API."""
        state = {"data": {"result": {"result": [], "total": 0}}}
        known = {"/api/jobs/": [JOB], "/api/version": {"session_name": "s"}}
        body = json.dumps(known.get(self.path, state)).encode()
        self.send_response(200)
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
