"""A real autoscaler whose cloud refuses, v1 and v2: the daemon says in words why nothing comes, and for whom never."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.daemons import DaemonProcess, until
from tests.ray.autoscaled import WORKER, start_autoscaled

pytestmark = pytest.mark.ray
CODE, WORDS = "InsufficientInstanceCapacity", "We have no p4d.24xlarge in the zone"
DEMANDS = """
import time, ray
from ray.util.placement_group import placement_group
ray.init(address="auto", log_to_driver=False)

@ray.remote(num_cpus=2)
def two():
    pass

@ray.remote(num_gpus=8)
class Never:
    pass

kept = [two.remote(), Never.remote(), placement_group([{"CPU": 2}] * 2, name="gang")]
time.sleep(600)
"""


@pytest.mark.parametrize("autoscaler", ["v1", "v2"])
def test_a_refused_launch_and_a_demand_that_nothing_fits_are_said_in_words(autoscaler, tmp_path):
    """Within the minute: the cloud's own words, who waits, since when, and what can never come."""
    with (
        tempfile.TemporaryDirectory(prefix="rw", dir="/tmp") as folder,
        start_autoscaled(Path(folder) / "r", autoscaler, refuses=(CODE, WORDS)) as cluster,
    ):
        told = {"RAY_API_SERVER_ADDRESS": cluster.dashboard}
        daemon = DaemonProcess(cluster.temp_dir, tmp_path / "state", environ=told)
        environ = {**cluster.environ, "RAY_ADDRESS": cluster.address}
        driver = subprocess.Popen([sys.executable, "-c", DEMANDS], env=environ)

        def found():
            return json.loads(daemon.get("/api/v1/snapshot")[1])["autoscaling"]

        def said():
            shown = found()
            kinds = {(d["kind"], d["infeasible"]) for d in shown["demands"]}
            complete = {("work", True), ("work", False), ("group", False)} <= kinds
            return shown if complete and WORDS in shown["why"] else None

        try:
            shown = until(said, 90, "it is said why nothing comes", pause_s=0.5)
        except AssertionError:
            raise AssertionError(json.dumps(found(), indent=1)) from None
        finally:
            verb = [sys.executable, "-m", "raywatch", "capacity", "--url", daemon.url]
            printed = subprocess.run(verb, capture_output=True, text=True, check=False)
            for process in (driver, daemon.process):
                process.kill()
                process.wait()

    assert isinstance(shown, dict)
    assert (
        f"can ever satisfy 8 GPU, 1 CPU; the cloud has no capacity or quota for {WORKER} ({CODE}: {WORDS})"
        in (shown["why"])
    )
    assert shown["autoscaler"] == "runs"
    assert [(f["type"], f["class"], f["code"]) for f in shown["failures"]] == [
        (WORKER, "capacity_unavailable", CODE)
    ]
    assert [d["who"] for d in shown["demands"] if d["kind"] == "group"] == [["gang"]]
    assert [(a["class_name"], a["count"]) for a in shown["actors"]] == [("Never", 1)]
    assert printed.returncode == 1
    assert printed.stdout.splitlines()[0].startswith(
        "1 task or actor waits for 8 GPU, 1 CPU, and 2 other"
    )
