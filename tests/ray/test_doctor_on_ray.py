"""`raywatch doctor` and `raywatch nodes` beside a real cluster: healthy, behind a token, with a node that goes."""

import json
import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.daemons import DaemonProcess, until
from tests.ray.cluster import start_head

pytestmark = pytest.mark.ray
RAYWATCH = Path(sys.executable).with_name("raywatch")
CONFIG = """
[ray]
dashboard = "{dashboard}"
temp_dir = "{temp_dir}"
[cloud]
provider = "none"
[[resume]]
run = "llm-*"
mode = "suggest"
hook = {{kind = "job"}}
"""


def asked(folder, *argv, **environ):
    """Run a verb with a home of its own; return exit code and the JSON that it prints."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("RAY", "HOME"))}
    done = subprocess.run(
        [RAYWATCH, *argv, "--json"],
        capture_output=True,
        check=False,
        env={**keep, "HOME": str(folder), **environ},
        timeout=60,
    )
    return done.returncode, json.loads(done.stdout)


def head(**environ):
    """A head in a short folder of its own."""
    return start_head(Path(tempfile.mkdtemp(prefix="rw", dir="/tmp")), environ=environ)


def configured(cluster, tmp_path):
    """Write the configuration for it; return the options that name it and a store."""
    path = tmp_path / "raywatch.toml"
    path.write_text(CONFIG.format(dashboard=cluster.dashboard, temp_dir=cluster.temp_dir))
    return "--config", str(path)


def test_beside_a_healthy_ray_nothing_fails_and_a_node_that_dies_is_told(tmp_path):
    """Nothing is submitted by asking; the node that went is dead with its incident, the other lives."""
    with head() as cluster:
        gone = cluster.add_node(resources={"blue": 1})
        config = configured(cluster, tmp_path)
        daemon = DaemonProcess(cluster.temp_dir, tmp_path / "state", *config)
        listen = ("--listen", daemon.url.removeprefix("http://"))

        def nodes():
            rows = asked(tmp_path, "nodes", "--url", daemon.url)[1]["nodes"]
            return {r["id"]: r for r in rows}

        try:
            until(lambda: len(nodes()) == 2, 30, "both are known")
            before = nodes()
            code, found = asked(tmp_path, "doctor", *config, *listen)
            jobs, session = cluster.ask("/api/jobs/"), cluster.session.name
            cluster.kill_node(gone)
            until(lambda: nodes()[gone.node_id]["incident"], 90, "its end has an incident")
            after = nodes()
            incidents = {i["id"]: i for i in daemon.incidents()}
        finally:
            assert daemon.stop() == 0

    told = {c["name"]: (c["verdict"], c["fact"]) for c in found["checks"]}
    assert (code, [n for n, (v, _) in told.items() if v == "fail"]) == (0, [])
    for name in ("dashboard", "token", "Jobs API", "State API", "submission", "logs", "daemon"):
        assert told[name][0] == "ok", told[name]
    assert "Ray 2." in told["dashboard"][1]
    assert jobs == []
    mine, worker = before[cluster.head.node_id], before[gone.node_id]
    assert (mine["state"], mine["is_head"], mine["resources"]["CPU"]) == ("alive", True, 2.0)
    assert (worker["state"], worker["is_head"], worker["resources"]["blue"]) == (
        "alive",
        False,
        1.0,
    )
    assert mine["reads_logs"]
    assert worker["reads_logs"]  # they share a folder on this machine
    assert mine["session"] == session
    assert after[cluster.head.node_id]["state"] == "alive"
    assert (after[gone.node_id]["state"], bool(after[gone.node_id]["ended_at"])) == ("dead", True)
    assert gone.node_id in json.dumps(incidents[after[gone.node_id]["incident"]])


def test_a_token_that_is_wanted_and_not_found_fails_with_what_to_do(tmp_path):
    """With it all is well; it is shown nowhere."""
    token = secrets.token_hex(32)
    with head(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token) as cluster:
        config = configured(cluster, tmp_path)
        listen = ("--listen", "127.0.0.1:9")
        without, found = asked(tmp_path, "doctor", *config, *listen)
        wrong, refused = asked(tmp_path, "doctor", *config, *listen, RAY_AUTH_TOKEN="x" * 64)
        right, accepted = asked(tmp_path, "doctor", *config, *listen, RAY_AUTH_TOKEN=token)

    def said(body):
        return next(c for c in body["checks"] if c["name"] == "token")

    assert (without, wrong, right) == (1, 1, 0)
    assert said(found)["verdict"] == "fail"
    assert said(found)["fact"].startswith("authentication mode token; token none found: HTTP 401")
    assert "ray get-auth-token" in said(found)["do"]
    assert said(refused)["fact"].startswith("authentication mode token; token from RAY_AUTH_TOKEN:")
    assert said(accepted)["verdict"] == "ok"
    assert token not in json.dumps(accepted)
