"""The command hook on real Ray: a driver that was started by hand goes on from its newest whole checkpoint."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import raywatch
from tests.daemons import DaemonProcess, until
from tests.ray.cluster import start_head

pytestmark = pytest.mark.ray
TRAIN = Path(raywatch.__file__).with_name("demo_train.py")
# What an operator would write: note what raywatch said, start the driver again, leave.
AGAIN = """\
import json, os, subprocess, sys
told = {k: v for k, v in os.environ.items() if k.startswith("RAYWATCH_")}
with open(sys.argv[1], "a") as out:
    print(json.dumps({"env": told, "document": json.load(sys.stdin)}), file=out)
with open(sys.argv[2], "wb") as log:
    subprocess.Popen(sys.argv[3:], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
"""
CONFIG = """\
[ray]
dashboard = {dashboard}
[[resume]]
run = "hand"
mode = "auto"
settle_s = 5
backoff_s = 1
hook = {{kind = "command", argv = {argv}}}
"""


@pytest.fixture(scope="module")
def cluster():
    with start_head(Path(tempfile.mkdtemp(prefix="rw", dir="/tmp")), num_cpus=3) as running:
        yield running


def start(cluster, log, argv):
    """Run a driver as a person does in a shell."""
    environ = {**cluster.environ, "RAY_ADDRESS": cluster.address, "GLOO_SOCKET_IFNAME": "lo"}
    with log.open("wb") as out:
        return subprocess.Popen(argv, env=environ, stdout=out, stderr=out)


def run_of(daemon):
    """The run as the daemon shows it."""
    runs = json.loads(daemon.get("/api/v1/snapshot")[1])["runs"]
    return next((r for r in runs if r["name"] == "hand"), {})


def saved(daemon, step):
    """Whether the ranks are known, and a whole checkpoint of that step or a later one."""
    run = run_of(daemon)
    checkpoint = run.get("checkpoint") or {}
    whole = checkpoint.get("whole") and checkpoint["step"] >= step
    return whole and len(run["ranks"]) == 2 and all(r["pid"] for r in run["ranks"])


def test_a_driver_started_by_hand_goes_on(cluster, tmp_path):
    """Once, told where its checkpoint is, and seen to come past it. Ray itself calls the dead driver SUCCEEDED."""
    train = [sys.executable, str(TRAIN), "--name", "hand", "--storage", str(tmp_path / "storage")]
    notes, second = tmp_path / "notes", tmp_path / "second.log"
    again = tmp_path / "again.py"
    again.write_text(AGAIN)
    environ = [f"RAY_ADDRESS={cluster.address}", "GLOO_SOCKET_IFNAME=lo"]
    argv = [sys.executable, str(again), str(notes), str(second), "env", *environ, *train]
    config = tmp_path / "raywatch.toml"
    config.write_text(CONFIG.format(dashboard=json.dumps(cluster.dashboard), argv=json.dumps(argv)))
    daemon = DaemonProcess(cluster.temp_dir, tmp_path / "state", "--config", str(config))
    driver = start(cluster, tmp_path / "first.log", train)
    try:
        until(lambda: saved(daemon, 20), 120, "a whole checkpoint of step 20")
        os.kill(next(r["pid"] for r in run_of(daemon)["ranks"] if r["rank"] == 1), signal.SIGKILL)
        assert driver.wait(60) == 1
        until(notes.exists, 90, "the hook was fired")
        until(lambda: came_past(daemon), 120, "the second driver is past the checkpoint")
        action = came_past(daemon)
    finally:
        daemon.kill()
        driver.kill()

    (line,) = notes.read_text().splitlines()
    told = json.loads(line)
    step = action["checkpoint"]["step"]
    assert told["env"]["RAYWATCH_RUN"] == "hand"
    assert told["env"]["RAYWATCH_CLASS"] == told["document"]["class"] == "worker_crash"
    assert (told["env"]["RAYWATCH_STEP"], told["env"]["RAYWATCH_ATTEMPT"]) == (str(step), "1")
    assert Path(told["env"]["RAYWATCH_CHECKPOINT"]).is_dir()
    assert told["document"]["incident"]["root"]["text"]
    # Ray shows one of the two lines, which differ by a number, whichever came first.
    assert re.search(rf"rank \d of 2 starts at step {step + 1} on", second.read_text())
    assert action["first_step"] > step


def came_past(daemon):
    """The action, once the new run is past the checkpoint."""
    actions = json.loads(daemon.get("/api/v1/snapshot")[1])["actions"]
    return next((a for a in actions if a["first_step"]), None)
